"""What a producer says and does while its broker is away, silent, blocked or not set up yet."""

import itertools
import socket
import struct
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from brokers import Broker, declare_exchanges, declare_work_queue, running_broker
from producers import Producer, producer_environment, running_producer, submit_head
from proxies import Proxy, proxy_to
from waiting import eventually

from warren_contract.names import EVENTS_EXCHANGE, TASKS_EXCHANGE
from warren_producer.lanes import RESERVED, SPARE

QUEUE = "task_queue"


@pytest.fixture(scope="module")
def broker() -> Iterator[Broker]:
    """A broker of these tests' own: they stop it, block it and take its exchanges away."""
    with running_broker() as running:
        yield running


@pytest.fixture(autouse=True)
def topology(broker: Broker) -> None:
    with broker.channel() as channel:
        declare_work_queue(channel, QUEUE)
        channel.queue_purge(QUEUE)


@contextmanager
def producer_on(broker: Broker, folder: Path, **settings: str) -> Iterator[tuple[Producer, httpx.Client]]:
    with (
        running_producer({**producer_environment(broker), **settings}, folder) as producer,
        producer.client() as client,
    ):
        yield producer, client


@pytest.fixture
def proxy(broker: Broker) -> Iterator[Proxy]:
    with proxy_to(broker.host, broker.amqp_port) as opened:
        yield opened


def submit(client: httpx.Client, **headers: str) -> httpx.Response:
    return client.post(f"/v1/queues/{QUEUE}/tasks", content=b"x", headers=headers)


def refusal(answer: httpx.Response) -> dict[str, Any]:
    """The error of a 503, which must say when to come back."""
    assert answer.status_code == 503, answer.text
    assert int(answer.headers["retry-after"]) >= 1
    found = answer.json()["error"]
    assert isinstance(found, dict)
    return found


def ids(broker: Broker, queue: str = QUEUE) -> list[str | None]:
    """Ids of all tasks in the queue, taken out."""
    return [properties.message_id for properties, _ in broker.drain(queue)]


@contextmanager
def unresponsive(broker: Broker, queue: str) -> Iterator[None]:
    """The queue's process answers nobody, as one that has lost its majority."""
    broker.ctl("eval", f"sys:suspend('%2F_{queue}').")
    try:
        yield
    finally:
        broker.ctl("eval", f"sys:resume('%2F_{queue}').")


def test_before_the_operator_it_waits_and_says_for_what(broker: Broker, tmp_path: Path) -> None:
    with broker.channel() as channel:
        channel.exchange_delete(TASKS_EXCHANGE)
        channel.exchange_delete(EVENTS_EXCHANGE)
    with producer_on(broker, tmp_path) as (producer, client):
        eventually(lambda: refusal(submit(client))["code"] == "broker_not_ready", "it found no exchange")
        assert "operator" in refusal(submit(client))["message"]
        assert client.get("/readyz").status_code == 503
        assert client.get("/healthz").status_code == 200
        with broker.channel() as channel:
            declare_exchanges(channel)
            channel.queue_bind(QUEUE, TASKS_EXCHANGE, QUEUE)
        producer.wait_until_ready()
        assert submit(client).status_code == 202


def test_an_exchange_that_goes_away_is_missed_and_found_again(broker: Broker, tmp_path: Path) -> None:
    with producer_on(broker, tmp_path) as (producer, client):
        producer.wait_until_ready()
        with broker.channel() as channel:
            channel.exchange_delete(TASKS_EXCHANGE)
        # The first one finds out, by the loss of its channel.
        assert refusal(submit(client))["code"] == "outcome_unknown"
        eventually(lambda: refusal(submit(client))["code"] == "broker_not_ready", "it says what it waits for")
        assert client.get("/readyz").status_code == 200, "readiness is latched"
        with broker.channel() as channel:
            declare_work_queue(channel, QUEUE)
        eventually(lambda: submit(client).status_code == 202, "it recovers by itself")


def test_events_that_cannot_be_sent_fail_no_submit(broker: Broker, tmp_path: Path) -> None:
    with producer_on(broker, tmp_path) as (producer, client):
        producer.wait_until_ready()
        with broker.channel() as channel:
            channel.exchange_delete(EVENTS_EXCHANGE)
        with ThreadPoolExecutor(8) as pool:
            statuses = list(pool.map(lambda _: submit(client).status_code, range(50)))
        assert statuses == [202] * 50
    assert len(ids(broker)) == 50


def test_a_broker_that_stops_is_503_at_once_and_comes_back(broker: Broker, tmp_path: Path) -> None:
    with producer_on(broker, tmp_path) as (producer, client):
        producer.wait_until_ready()
        broker.ctl("stop_app")
        try:
            eventually(lambda: refusal(submit(client))["code"] == "broker_unavailable", "it noticed")
            assert client.get(f"/v1/queues/{QUEUE}").status_code == 503
            assert client.get("/readyz").status_code == 200, "readiness is latched: its 503 says more than no answer"
            assert client.get("/healthz").status_code == 200
            metrics = client.get("/metrics").text
            assert 'warren_producer_broker_connected{connection="publish"} 0.0' in metrics
        finally:
            broker.ctl("start_app")
        eventually(lambda: submit(client).status_code == 202, "it recovers by itself")
        eventually(lambda: client.get(f"/v1/queues/{QUEUE}").status_code == 200, "so does reading")


def test_without_a_broker_it_starts_and_says_so(broker: Broker, tmp_path: Path) -> None:
    with producer_on(broker, tmp_path, WARREN_BROKER_PASSWORD="wrong-" * 3) as (producer, client):
        assert refusal(submit(client))["code"] == "broker_unavailable"
        assert client.get("/readyz").status_code == 503
        eventually(lambda: "ACCESS_REFUSED" in producer.log.read_text(), "the log says why")
        assert "wrong-wrong" not in producer.log.read_text()


@contextmanager
def alarm(broker: Broker) -> Iterator[None]:
    """A memory alarm in the broker."""
    broker.ctl("set_vm_memory_high_watermark", "0.00001")
    try:
        yield
    finally:
        broker.ctl("set_vm_memory_high_watermark", "0.6")


def test_an_alarm_is_503_at_once_and_reading_goes_on(broker: Broker, tmp_path: Path) -> None:
    with producer_on(broker, tmp_path) as (producer, client):
        producer.wait_until_ready()
        with alarm(broker):
            # The broker tells only a connection that publishes. The producer asks, so that no task has to find out.
            eventually(lambda: "alarm" in client.get("/readyz").text, "it noticed by itself")
            answer = submit(client, **{"Idempotency-Key": "refused"})
            assert refusal(answer)["code"] == "broker_blocked"
            assert int(answer.headers["retry-after"]) >= 1
            batch = client.post(f"/v1/queues/{QUEUE}/tasks:batch", content=b'{"body": "x"}\n')
            assert refusal(batch)["code"] == "broker_blocked"
            assert client.get(f"/v1/queues/{QUEUE}").json()["ready"] == 0
        eventually(lambda: submit(client, **{"Idempotency-Key": "taken"}).status_code == 202, "it recovers by itself")
    assert ids(broker) == ["taken"], "what was refused is not there"


def test_a_producer_that_starts_in_an_alarm_takes_no_task_until_it_is_over(broker: Broker, tmp_path: Path) -> None:
    """It finds out before it takes any task, and needs nobody to restart it."""
    with ExitStack() as meanwhile:
        meanwhile.enter_context(alarm(broker))
        with producer_on(broker, tmp_path) as (producer, client):
            eventually(lambda: refusal(submit(client))["code"] == "broker_blocked", "it knows without a task")
            assert "alarm" in refusal(submit(client, **{"Idempotency-Key": "refused"}))["message"]
            assert "alarm" in client.get("/readyz").text
            meanwhile.close()
            producer.wait_until_ready()
            assert submit(client, **{"Idempotency-Key": "taken"}).status_code == 202
    assert ids(broker) == ["taken"], "what was refused is not there"


def test_an_alarm_under_load_is_answered_long_before_the_deadline(broker: Broker, tmp_path: Path) -> None:
    """Of what was in flight when the broker stopped reading nobody can tell, and the answer says just that."""
    with producer_on(broker, tmp_path, WARREN_SUBMIT_TIMEOUT="5m") as (producer, client):
        producer.wait_until_ready()
        told: dict[str, list[str]] = {"accepted": [], "outcome_unknown": [], "broker_blocked": []}
        stop = threading.Event()

        def keep_submitting(number: int) -> None:
            for count in itertools.count():
                task_id = f"{number}-{count}"
                answer = submit(client, **{"Idempotency-Key": task_id})
                told["accepted" if answer.status_code == 202 else refusal(answer)["code"]].append(task_id)
                if stop.is_set():
                    return

        def lines() -> Iterator[bytes]:
            for count in range(1_000_000):
                if stop.is_set() and count % 100 == 0:
                    return
                yield b'{"body": "x", "id": "line-%d"}\n' % count

        with ThreadPoolExecutor(5) as pool:
            waiting = [pool.submit(keep_submitting, number) for number in range(4)]
            batch = pool.submit(client.post, f"/v1/queues/{QUEUE}/tasks:batch", content=lines(), timeout=120)
            eventually(lambda: len(told["accepted"]) > 100, "they submit")
            with alarm(broker):
                # With a deadline of minutes, only the alarm can have answered these.
                eventually(lambda: told["broker_blocked"], "it noticed")
                stop.set()
                for future in waiting:
                    future.result(timeout=60)
                results = batch.result(timeout=60).json()["results"]
        assert any(result.get("error", {}).get("code") == "broker_blocked" for result in results)
        for result in results:
            told[result["error"]["code"] if "error" in result else "accepted"].append(result["id"])
            if result.get("error", {}).get("code") == "outcome_unknown":
                assert "alarm" in result["error"]["message"], "told by the alarm, not by the loss of the connection"
        eventually(lambda: submit(client, **{"Idempotency-Key": "after"}).status_code == 202, "it recovers by itself")
        there = set(ids(broker)) - {"after"}
    assert set(told["accepted"]) <= there <= {*told["accepted"], *told["outcome_unknown"]}


def test_a_confirm_that_stays_out_ends_with_the_outcome_unknown_and_the_id(
    broker: Broker, proxy: Proxy, tmp_path: Path
) -> None:
    via = {"WARREN_BROKER_HOST": "127.0.0.1", "WARREN_BROKER_PORT": str(proxy.port), "WARREN_SUBMIT_TIMEOUT": "1s"}
    with producer_on(broker, tmp_path, **via) as (producer, client):
        producer.wait_until_ready()
        proxy.hold()
        found = refusal(submit(client, **{"Idempotency-Key": "may-be"}))
        assert found["code"] == "outcome_unknown"
        assert found["id"] == "may-be"
        assert "Idempotency-Key: may-be" in found["message"]
        proxy.release()
        eventually(lambda: submit(client).status_code == 202, "later answers are told apart from earlier ones")
    assert ids(broker)[0] == "may-be", "this time it was there"


@pytest.mark.parametrize("end", ["in good order", "by a reset"])
def test_a_client_that_hangs_up_before_the_confirm_has_its_task_accepted_and_leaves_nothing(
    broker: Broker, proxy: Proxy, tmp_path: Path, end: str
) -> None:
    via = {"WARREN_BROKER_HOST": "127.0.0.1", "WARREN_BROKER_PORT": str(proxy.port), "WARREN_SUBMIT_TIMEOUT": "60s"}
    with producer_on(broker, tmp_path, **via) as (producer, client):
        producer.wait_until_ready()
        proxy.hold()
        with producer.connect() as hasty:
            if end == "by a reset":  # what close() sends where it shall not linger (socket(7))
                hasty.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            hasty.sendall(submit_head(QUEUE, "Idempotency-Key: hasty\r\nContent-Length: 1\r\n") + b"x")
            eventually(lambda: broker.ready(QUEUE) == 1, "the broker has it, and the producer does not know yet")
        assert client.get("/healthz").status_code == 200, "the producer has read on, and so of the end before it"
        proxy.release()

        def settled() -> bool:
            lines = client.get("/metrics").text.splitlines()
            return (
                "warren_producer_tasks_in_flight 0.0" in lines
                and f'warren_producer_tasks_submitted_total{{queue="{QUEUE}"}} 1.0' in lines
            )

        eventually(settled, "the confirm is taken in, and counted as any other")
        assert submit(client, **{"Idempotency-Key": "next"}).status_code == 202
        assert "Traceback" not in producer.log.read_text(), "nobody to answer is no error"
    assert ids(broker) == ["hasty", "next"]


def test_a_queue_that_confirms_nothing_holds_up_no_other(broker: Broker, tmp_path: Path) -> None:
    """RabbitMQ's channel waits for it, and, with more tasks unread than it has credit for, the whole connection."""
    with broker.channel() as channel:
        declare_work_queue(channel, "stuck")
        channel.queue_purge("stuck")
    lines = b"".join(b'{"body": "x", "id": "line-%d"}\n' % number for number in range(1000))
    with producer_on(broker, tmp_path, WARREN_SUBMIT_TIMEOUT="3s") as (producer, client):
        producer.wait_until_ready()

        def submit_stuck(task_id: str) -> httpx.Response:
            return client.post("/v1/queues/stuck/tasks", content=b"x", headers={"Idempotency-Key": task_id})

        assert submit_stuck("before").status_code == 202
        with unresponsive(broker, "stuck"), ThreadPoolExecutor(51) as pool:
            batch = pool.submit(client.post, "/v1/queues/stuck/tasks:batch", content=lines, timeout=60)
            eventually(lambda: "tasks_in_flight 1000.0" in client.get("/metrics").text, "the batch waits")
            singles = [pool.submit(submit_stuck, f"single-{number}") for number in range(50)]
            eventually(lambda: "tasks_in_flight 1050.0" in client.get("/metrics").text, "all wait")
            for _ in range(50):
                assert submit(client).status_code == 202
            assert not batch.done(), "it was stuck all the while"
            told: dict[str, set[str]] = {"outcome_unknown": set(), "overloaded": set()}
            answer = batch.result()
            for result in answer.json()["results"]:
                told[result["error"]["code"]].add(result["id"])
            for number, single in enumerate(singles):
                told[refusal(single.result())["code"]].add(f"single-{number}")
            assert submit(client).status_code == 202
            # Whatever waited here has gone with its answer; the rest is in the broker's hands.
            in_hand = f"tasks_in_flight {len(told['outcome_unknown'])}.0"
            eventually(lambda: in_hand in client.get("/metrics").text, "what was not published is forgotten")
        eventually(lambda: submit_stuck("after").status_code == 202, "it recovers by itself")
        eventually(lambda: "tasks_in_flight 0.0" in client.get("/metrics").text, "and confirms what it had")
    assert told["outcome_unknown"], "some were on their way"
    assert told["overloaded"] >= {f"single-{number}" for number in range(50)}, "those that came last were not"
    there = set(ids(broker, "stuck"))
    assert there >= {"before", "after"}
    assert there - {"before", "after"} == told["outcome_unknown"], "and what was called not published never came"


class Told(dict[str, list[str]]):
    """Ids of one queue's tasks by what was said of them: `accepted`, or a code."""

    def __missing__(self, code: str) -> list[str]:
        return self.setdefault(code, [])

    def grows(self, code: str, by: int) -> None:
        """Wait until there are so many more."""
        enough = len(self[code]) + by
        eventually(lambda: len(self[code]) >= enough, f"there are {by} more {code}")


def one_by_one(client: httpx.Client, queue: str, told: Told, stop: threading.Event) -> None:
    """Submit until it is enough."""
    name = threading.get_ident()
    for count in itertools.count():
        task_id = f"{name}-{count}"
        headers = {"Idempotency-Key": task_id}
        answer = client.post(f"/v1/queues/{queue}/tasks", content=b"x", headers=headers, timeout=60)
        told["accepted" if answer.status_code == 202 else refusal(answer)["code"]].append(task_id)
        if stop.is_set():
            return


def in_batches(client: httpx.Client, queue: str, told: Told, stop: threading.Event) -> None:
    """Submit 400 at a time until it is enough."""
    for count in itertools.count():
        lines = b"".join(b'{"body": "x", "id": "b-%d-%d"}\n' % (count, number) for number in range(400))
        answer = client.post(f"/v1/queues/{queue}/tasks:batch", content=lines, timeout=60)
        if "results" not in answer.json():
            assert refusal(answer)["code"] == "broker_unavailable", "nothing was published"
        for result in answer.json().get("results", ()):
            told[result.get("error", {"code": "accepted"})["code"]].append(result["id"])
        if stop.is_set():
            return


def test_through_stops_and_breaks_each_answer_is_true(broker: Broker, proxy: Proxy, tmp_path: Path) -> None:
    """Accepted is in the queue; what is in the queue is accepted or unknown. Many queues share one connection."""
    queues = [f"faulty-{number}" for number in range(5)]
    with broker.channel() as channel:
        for queue in queues:
            declare_work_queue(channel, queue)
            channel.queue_purge(queue)
    told = {queue: Told() for queue in queues}
    stop = threading.Event()
    via = {"WARREN_BROKER_HOST": "127.0.0.1", "WARREN_BROKER_PORT": str(proxy.port), "WARREN_SUBMIT_TIMEOUT": "1s"}
    with producer_on(broker, tmp_path, **via) as (producer, client), ThreadPoolExecutor(3 * len(queues)) as pool:
        producer.wait_until_ready()
        running = [
            pool.submit(work, client, queue, told[queue], stop)
            for queue in queues
            for work in (one_by_one, one_by_one, in_batches)
        ]
        try:
            for stuck, other in (("faulty-0", "faulty-1"), ("faulty-2", "faulty-0"), ("faulty-4", "faulty-3")):
                with unresponsive(broker, stuck):
                    told[stuck].grows("outcome_unknown", 1)
                    told[other].grows("accepted", 100)
                    proxy.cut()
                told[stuck].grows("accepted", 100)
        finally:
            stop.set()
        for future in running:
            future.result(timeout=120)
        eventually(lambda: "tasks_in_flight 0.0" in client.get("/metrics").text, "nothing is left")
    for queue in queues:
        there = ids(broker, queue)
        assert len(there) == len(set(there)), "nothing is there twice"
        assert set(told[queue]["accepted"]) <= set(there) <= {*told[queue]["accepted"], *told[queue]["outcome_unknown"]}


def test_a_queue_that_stops_in_full_swing_holds_up_no_other(broker: Broker, tmp_path: Path) -> None:
    """Its channel has used up all the credit it may have, time and again, when its queue answers no more."""
    with broker.channel() as channel:
        for queue in ("busy", "other"):
            declare_work_queue(channel, queue)
    told, stop = Told(), threading.Event()
    with producer_on(broker, tmp_path, WARREN_SUBMIT_TIMEOUT="2s") as (producer, client), ThreadPoolExecutor(6) as pool:
        producer.wait_until_ready()
        running = [pool.submit(in_batches, client, "busy", told, stop) for _ in range(6)]
        try:
            for _ in range(6):
                told.grows("accepted", 800)
                with unresponsive(broker, "busy"):
                    told.grows("outcome_unknown", 1)
                    answers = [client.post("/v1/queues/other/tasks", content=b"x").status_code for _ in range(20)]
                    assert answers.count(202) >= 15, "the machine may be slow, but not for most of them"
        finally:
            stop.set()
        for future in running:
            future.result(timeout=120)


def test_queues_that_come_and_go_share_few_channels(broker: Broker, tmp_path: Path) -> None:
    names = [f"one-of-many-{number}" for number in range(60)]
    with broker.channel() as channel:
        for name in names:
            declare_work_queue(channel, name)

    def channels() -> int:
        return broker.ctl("list_channels", "user").count("warren-producer")

    with producer_on(broker, tmp_path) as (producer, client):
        producer.wait_until_ready()
        with ThreadPoolExecutor(60) as pool:
            answers = list(
                pool.map(lambda name: client.post(f"/v1/queues/{name}/tasks", content=b"x").status_code, names * 5)
            )
        assert answers == [202] * 300
        eventually(lambda: channels() <= SPARE + RESERVED, "those above the spare ones are closed")
        few = channels()
        for number in range(50):
            assert client.post(f"/v1/queues/missing-{number}/tasks", content=b"x").status_code == 404
        assert channels() <= few, "names that are no queue's leave nothing behind"
    with broker.channel() as channel:
        for name in names:
            channel.queue_delete(name)


def test_a_connection_that_breaks_leaves_those_in_flight_unknown(broker: Broker, proxy: Proxy, tmp_path: Path) -> None:
    via = {"WARREN_BROKER_HOST": "127.0.0.1", "WARREN_BROKER_PORT": str(proxy.port), "WARREN_SUBMIT_TIMEOUT": "30s"}
    with producer_on(broker, tmp_path, **via) as (producer, client):
        producer.wait_until_ready()
        proxy.hold()
        with ThreadPoolExecutor(10) as pool:
            waiting = [pool.submit(submit, client, **{"Idempotency-Key": f"k-{n}"}) for n in range(10)]
            eventually(lambda: "tasks_in_flight 10.0" in client.get("/metrics").text, "all ten are in flight")
            proxy.cut()
            answers = [future.result() for future in waiting]
        assert {refusal(answer)["id"] for answer in answers} == {f"k-{n}" for n in range(10)}
        for answer in answers:
            assert "lost" in refusal(answer)["message"], "told by the loss, not by the deadline"
        proxy.release()
        eventually(lambda: submit(client).status_code == 202, "it recovers by itself")


def test_sigterm_answers_what_was_accepted_and_ends_with_zero(broker: Broker, proxy: Proxy, tmp_path: Path) -> None:
    via = {"WARREN_BROKER_HOST": "127.0.0.1", "WARREN_BROKER_PORT": str(proxy.port), "WARREN_SUBMIT_TIMEOUT": "20s"}
    with producer_on(broker, tmp_path, **via) as (producer, client):
        producer.wait_until_ready()
        proxy.hold()
        with ThreadPoolExecutor(5) as pool:
            waiting = [pool.submit(submit, client) for _ in range(5)]
            eventually(lambda: "tasks_in_flight 5.0" in client.get("/metrics").text, "all five are in flight")
            producer.process.terminate()
            eventually(lambda: "shutting down" in producer.log.read_text(), "it heard")
            with pytest.raises(httpx.ConnectError), producer.client() as late:
                eventually(lambda: late.get("/healthz") is None, "it takes no more connections", limit=10)
            proxy.release()
            assert [future.result().status_code for future in waiting] == [202] * 5
        assert producer.process.wait(30) == 0
    assert len(ids(broker)) == 5


def test_under_load_sigterm_leaves_no_task_without_its_answer(broker: Broker, tmp_path: Path) -> None:
    """What is in the queue was answered with 202, and what was answered with 202 is in the queue."""
    with producer_on(broker, tmp_path) as (producer, client):
        producer.wait_until_ready()
        accepted: list[str] = []
        said: list[str] = []

        def keep_submitting() -> None:
            with producer.client() as own:
                while True:
                    try:
                        answer = submit(own)
                    except httpx.TransportError:
                        return  # refused, or closed before the request was read: not accepted, as the end shows
                    if answer.status_code == 202:
                        accepted.append(answer.json()["id"])
                        said.append(answer.headers.get("connection", ""))

        with ThreadPoolExecutor(8) as pool:
            waiting = [pool.submit(keep_submitting) for _ in range(8)]
            eventually(lambda: len(accepted) > 200, "they submit")
            producer.process.terminate()
            eventually(lambda: client.get("/readyz").text == "shutting down\n", "readiness goes first", every=0.01)
            for future in waiting:
                future.result(timeout=60)
        assert producer.process.wait(30) == 0
    assert said.count("close") >= 8, "each client is told to go elsewhere"
    assert sorted(map(str, ids(broker))) == sorted(accepted)


def test_sigterm_does_not_wait_for_ever(broker: Broker, proxy: Proxy, tmp_path: Path) -> None:
    via = {"WARREN_BROKER_HOST": "127.0.0.1", "WARREN_BROKER_PORT": str(proxy.port), "WARREN_SUBMIT_TIMEOUT": "1s"}
    with producer_on(broker, tmp_path, **via) as (producer, _):
        producer.wait_until_ready()
        proxy.hold()
        started = time.monotonic()
        assert producer.stop() == 0
        assert time.monotonic() - started < 25, "two closing handshakes that nobody answers, and no more"


def test_changed_credentials_are_taken_up_at_the_next_connection(broker: Broker, tmp_path: Path) -> None:
    settings = broker.settings("warren-producer", broker.passwords["producer"])
    folder = tmp_path / "broker"
    folder.mkdir()
    for name, value in (("host", settings.host), ("port", str(settings.port)), ("vhost", "/"), ("username", "rotated")):
        (folder / name).write_text(value)
    (folder / "password").write_text("first-password")
    broker.ctl("add_user", "rotated", "first-password")
    broker.ctl("set_permissions", "rotated", r"^warren\.producer\.", r"^warren\.", r"^warren\.")
    with (
        running_producer({"WARREN_BROKER_DIR": str(folder)}, tmp_path) as producer,
        producer.client() as client,
    ):
        producer.wait_until_ready()
        broker.ctl("change_password", "rotated", "second-password")
        (folder / "password").write_text("second-password")
        broker.ctl("close_all_user_connections", "rotated", "rotation")
        eventually(lambda: submit(client).status_code == 202, "it came back with the new password")
    broker.ctl("delete_user", "rotated")
