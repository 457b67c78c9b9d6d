"""The producer as its own process, as its own broker user, against a real broker: what it takes and what it refuses."""

import contextlib
import http.client
import itertools
import json
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from brokers import Broker, declare_exchanges, declare_work_queue
from producers import (
    ADMIN_TOKEN,
    READ_TOKEN,
    SUBMIT_TOKEN,
    Producer,
    producer_environment,
    running_producer,
    submit_head,
)
from waiting import eventually

from warren_contract.events import (
    PastDecision,
    QueueState,
    Resync,
    RunningTask,
    TasksSubmitted,
    WorkerState,
    decode,
    encode,
)
from warren_contract.names import EVENTS_EXCHANGE, TASKS_EXCHANGE

MAX_BODY = 10_000


@pytest.fixture(scope="module")
def producer_settings() -> dict[str, str]:
    return {
        "WARREN_MAX_BODY": str(MAX_BODY),
        "WARREN_QUEUE_MAX_BODY": f"limit-small=10,limit-large={2 * MAX_BODY}",
        "WARREN_SUBMIT_TIMEOUT": "2s",
    }


def error(answer: httpx.Response, status: int) -> dict[str, Any]:
    """The error of an answer that must have this status."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/json"
    found = answer.json()["error"]
    assert isinstance(found, dict)
    return found


def test_a_task_arrives_untouched_with_everything_that_was_said(
    broker: Broker, client: httpx.Client, work_queue: str
) -> None:
    body = bytes(range(256))
    before = time.time()
    answer = client.post(
        f"/v1/queues/{work_queue}/tasks",
        content=body,
        headers={
            "Content-Type": "image/x-nothing",
            "Idempotency-Key": "order-17",
            "X-Task-Type": "thumbnail",
            "X-Task-Priority": "31",
            "X-Task-Expiration": "1193h",
            "X-Task-Correlation-Id": "c-1",
            "X-Task-Header-Tenant": "acme",
            "traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        },
    )
    assert answer.status_code == 202
    assert answer.json() == {"id": "order-17", "queue": work_queue}
    [(properties, arrived)] = broker.drain(work_queue)
    assert arrived == body
    assert properties.message_id == "order-17"
    assert properties.delivery_mode == 2
    assert properties.content_type == "image/x-nothing"
    assert (properties.type, properties.priority, properties.correlation_id) == ("thumbnail", 31, "c-1")
    assert properties.expiration == str(1193 * 3_600_000)
    assert before - 1 <= properties.timestamp <= time.time()
    assert before * 1000 - 1000 <= properties.headers.pop("x-warren-submitted-at") <= time.time() * 1000
    assert properties.headers == {
        "tenant": "acme",
        "traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
    }


def test_an_empty_body_and_the_largest_one_are_tasks(broker: Broker, client: httpx.Client, work_queue: str) -> None:
    for size in (0, MAX_BODY):
        assert client.post(f"/v1/queues/{work_queue}/tasks", content=b"x" * size).status_code == 202
    assert [len(body) for _, body in broker.drain(work_queue)] == [0, MAX_BODY]


def test_the_largest_metadata_fits_into_a_frame(broker: Broker, client: httpx.Client, work_queue: str) -> None:
    answer = client.post(f"/v1/queues/{work_queue}/tasks", content=b"x", headers={"X-Task-Header-Long": "v" * 16_000})
    assert answer.status_code == 202, answer.text
    [(properties, _)] = broker.drain(work_queue)
    assert properties.headers["long"] == "v" * 16_000


def test_many_at_once_are_each_confirmed_once(broker: Broker, client: httpx.Client, work_queue: str) -> None:
    def send(number: int) -> tuple[int, str]:
        """Every seventh goes to a queue that is not there, so that returns and confirms come mixed."""
        queue = "there-is-no-such-queue" if number % 7 == 0 else work_queue
        answer = client.post(f"/v1/queues/{queue}/tasks", content=str(number))
        return answer.status_code, answer.json().get("id", "")

    with ThreadPoolExecutor(32) as pool:
        answers = list(pool.map(send, range(300)))
    for number, (status, _) in enumerate(answers):
        assert status == (404 if number % 7 == 0 else 202)
    confirmed = {task_id for status, task_id in answers if status == 202}
    arrived = broker.drain(work_queue)
    assert {properties.message_id for properties, _ in arrived} == confirmed
    assert len(arrived) == len(confirmed)


def test_an_unknown_queue_is_404_and_nothing_is_kept(client: httpx.Client) -> None:
    answer = client.post("/v1/queues/there-is-no-such-queue/tasks", content=b"x")
    found = error(answer, 404)
    assert found["code"] == "queue_unknown"
    assert "there-is-no-such-queue" in found["message"]


@pytest.mark.parametrize("name", ["amq.direct", "warren.operator.events", "task_queue.dead", "a%20b", "a" * 201])
def test_a_name_that_no_work_queue_has_is_422(client: httpx.Client, name: str) -> None:
    assert error(client.post(f"/v1/queues/{name}/tasks", content=b"x"), 422)["field"] == "queue"
    assert error(client.get(f"/v1/queues/{name}"), 422)["field"] == "queue"


@pytest.mark.parametrize(
    ("header", "value"),
    [("X-Task-Priority", "99"), ("X-Task-Expiration", "1194h"), ("Idempotency-Key", "a b"), ("X-Task-Typ", "x")],
)
def test_a_wrong_header_is_422_and_changes_nothing(
    broker: Broker, client: httpx.Client, work_queue: str, header: str, value: str
) -> None:
    found = error(client.post(f"/v1/queues/{work_queue}/tasks", content=b"x", headers={header: value}), 422)
    assert found["field"].lower() == header.lower()
    assert broker.drain(work_queue) == []


def test_without_a_token_nothing_is_shown_or_taken(broker: Broker, producer: Producer, work_queue: str) -> None:
    paths = [("POST", f"/v1/queues/{work_queue}/tasks"), ("GET", "/v1/queues"), ("GET", f"/v1/queues/{work_queue}")]
    for token in (None, "no-such-token-at-all", SUBMIT_TOKEN[:-1], SUBMIT_TOKEN * 2):
        with producer.client(token) as stranger:
            for method, path in paths:
                answer = stranger.request(method, path)
                assert error(answer, 401)["code"] == "unauthorized"
                assert answer.headers["www-authenticate"].startswith("Bearer")
    assert broker.drain(work_queue) == []
    assert "no-such-token" not in producer.log.read_text()


BOUND_TOKEN = "a-token-that-is-for-one-queue"


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("POST", "/v1/queues/{queue}/tasks", {"submit": 202, "read": 403, "admin": 202, "none": 401, "bound": 202}),
        ("POST", "/v1/queues/{queue}/tasks:batch",
         {"submit": 202, "read": 403, "admin": 202, "none": 401, "bound": 202}),
        ("GET", "/v1/queues", {"submit": 200, "read": 200, "admin": 200, "none": 401, "bound": 200}),
        ("GET", "/v1/queues/{queue}", {"submit": 200, "read": 200, "admin": 200, "none": 401, "bound": 200}),
        ("GET", "/healthz", dict.fromkeys(("submit", "read", "admin", "none", "bound"), 200)),
        ("GET", "/readyz", dict.fromkeys(("submit", "read", "admin", "none", "bound"), 200)),
        ("GET", "/metrics", dict.fromkeys(("submit", "read", "admin", "none", "bound"), 200)),
    ],
)  # fmt: skip
def test_each_token_may_do_what_its_scope_says_and_no_more(
    broker: Broker, producer: Producer, work_queue: str, *, method: str, path: str, allowed: dict[str, int]
) -> None:
    tokens = {"submit": SUBMIT_TOKEN, "read": READ_TOKEN, "admin": ADMIN_TOKEN, "none": None, "bound": BOUND_TOKEN}
    with bound_to(producer, work_queue):
        for name, token in tokens.items():
            with producer.client(token) as client:
                answer = client.request(method, path.format(queue=work_queue), content=b'{"body": "x"}')
                assert answer.status_code == allowed[name], (name, answer.text)
                if answer.status_code == 403:
                    assert 'scope="submit"' in answer.headers["www-authenticate"]
                    assert "submit" in error(answer, 403)["message"]
        assert broker.ready(work_queue) == list(allowed.values()).count(202)


@contextlib.contextmanager
def bound_to(producer: Producer, queue: str) -> Iterator[None]:
    """A further token, for this queue only."""
    file = producer.tokens / "submit"
    file.write_text(f"{SUBMIT_TOKEN}\n{BOUND_TOKEN} {queue}\n")
    try:
        with producer.client(BOUND_TOKEN) as client:
            eventually(lambda: client.get(f"/v1/queues/{queue}").status_code == 200, "the token is in force")
        yield
    finally:
        file.write_text(SUBMIT_TOKEN + "\n")


def test_a_token_for_one_queue_does_not_reach_another(broker: Broker, producer: Producer, work_queue: str) -> None:
    other = f"{work_queue}-other"
    state = QueueState(
        queue=other, resource="warren/q", at=time.time(), ready=0, unacked=0, workers=0, busy=0, desired=0,
        min_replicas=0, max_replicas=5, reason="because",
    )  # fmt: skip
    with broker.channel() as channel:
        channel.basic_publish(EVENTS_EXCHANGE, state.routing_key, encode(state))

    def shown(client: httpx.Client) -> set[str]:
        return {queue["queue"] for queue in client.get("/v1/queues").json()["queues"]}

    with bound_to(producer, work_queue), producer.client(BOUND_TOKEN) as bound, producer.client(READ_TOKEN) as all_of:
        eventually(lambda: other in shown(all_of), "the event has arrived")
        assert other not in shown(bound)
        for answer in (
            bound.get(f"/v1/queues/{other}"),
            bound.post(f"/v1/queues/{other}/tasks", content=b"x"),
            bound.post(f"/v1/queues/{other}/tasks:batch", content=b'{"body": "x"}'),
        ):
            assert "other queues only" in error(answer, 403)["message"]


def test_a_queue_has_the_limit_that_is_set_for_it(broker: Broker, client: httpx.Client) -> None:
    with broker.channel() as channel:
        for queue in ("limit-small", "limit-large"):
            declare_work_queue(channel, queue)
    for queue, limit in (("limit-small", 10), ("limit-large", 2 * MAX_BODY)):
        path = f"/v1/queues/{queue}/tasks"
        assert client.post(path, content=b"x" * limit).status_code == 202
        message = error(client.post(path, content=b"x" * (limit + 1)), 413)["message"]
        assert f"may have {limit} bytes in this queue" in message
        for size, status in ((limit, 202), (limit + 1, 413)):
            line = json.dumps({"body": "x" * size})
            assert client.post(f"{path}:batch", content=line).status_code == status
        assert [len(body) for _, body in broker.drain(queue)] == [limit, limit]
    with broker.channel() as channel:
        for queue in ("limit-small", "limit-large"):
            channel.queue_delete(queue)
            channel.queue_delete(f"{queue}.dead")


def test_rotated_tokens_come_into_force_without_a_restart(producer: Producer, work_queue: str) -> None:
    file = producer.tokens / "submit"
    with producer.client("a-rotated-token-of-the-tests") as client:
        assert client.get(f"/v1/queues/{work_queue}").status_code == 401
        try:
            # As Kubernetes does it: another file under the same name.
            (producer.tokens / "new").write_text("a-rotated-token-of-the-tests\n")
            (producer.tokens / "new").replace(file)
            eventually(lambda: client.get(f"/v1/queues/{work_queue}").status_code == 200, "the new token is accepted")
            with producer.client(SUBMIT_TOKEN) as old:
                assert old.get(f"/v1/queues/{work_queue}").status_code == 401
        finally:
            file.write_text(SUBMIT_TOKEN + "\n")
    with producer.client(SUBMIT_TOKEN) as old:
        eventually(lambda: old.get(f"/v1/queues/{work_queue}").status_code == 200, "the old token is back")


def test_a_body_that_is_too_large_is_413_however_it_is_sent(
    broker: Broker, client: httpx.Client, work_queue: str
) -> None:
    def chunks() -> Iterator[bytes]:
        for _ in range(20):
            yield b"x" * 1000

    def endless() -> Iterator[bytes]:
        while True:
            yield b"x" * 65_536

    path = f"/v1/queues/{work_queue}/tasks"
    assert error(client.post(path, content=b"x" * (MAX_BODY + 1)), 413)["code"] == "body_too_large"
    assert error(client.post(path, content=chunks()), 413)["code"] == "body_too_large"
    # It may be cut off while it sends, after more than its share.
    with contextlib.suppress(httpx.WriteError):
        assert client.post(path, content=endless()).status_code == 413
    assert broker.drain(work_queue) == []


def test_a_client_that_asks_first_is_not_made_to_send_a_body_in_vain(producer: Producer, work_queue: str) -> None:
    with producer.connect() as connection:
        connection.sendall(submit_head(work_queue, f"Content-Length: {MAX_BODY + 1}\r\nExpect: 100-continue\r\n"))
        assert connection.recv(65_536).startswith(b"HTTP/1.1 413 ")


def test_a_body_that_dawdles_is_408_within_the_deadline(broker: Broker, producer: Producer, work_queue: str) -> None:
    with producer.connect() as connection:
        connection.sendall(submit_head(work_queue, "Content-Length: 5\r\n") + b"Hel")
        with http.client.HTTPResponse(connection) as response:
            response.begin()
            assert response.status == 408
            assert json.loads(response.read())["error"]["code"] == "body_too_slow"
        assert connection.recv(1) == b"", "the connection is closed"
    assert broker.drain(work_queue) == []


def test_a_client_that_hangs_up_in_its_body_leaves_nothing(broker: Broker, producer: Producer, work_queue: str) -> None:
    with producer.connect() as connection:
        connection.sendall(submit_head(work_queue, "Content-Length: 5\r\n") + b"Hel")
    with producer.client() as client:
        assert client.post(f"/v1/queues/{work_queue}/tasks", content=b"whole").status_code == 202
    assert [body for _, body in broker.drain(work_queue)] == [b"whole"]


def test_headers_without_end_are_cut_off(producer: Producer) -> None:
    with producer.connect() as connection, contextlib.suppress(ConnectionError):
        connection.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\n")
        for number in range(10_000):
            connection.sendall(b"X-Header-%d: %s\r\n" % (number, b"v" * 1000))
        assert connection.recv(65_536).startswith(b"HTTP/1.1 400 ")
        return
    # Cut off while it sent: the producer is well.
    with producer.client() as client:
        assert client.get("/healthz").status_code == 200


def test_a_full_queue_is_503_and_loses_nothing(broker: Broker, client: httpx.Client, queue_name: str) -> None:
    with broker.channel() as channel:
        arguments = {"x-queue-type": "quorum", "x-max-length": 3, "x-overflow": "reject-publish"}
        channel.queue_declare(queue_name, durable=True, arguments=arguments)
        channel.queue_bind(queue_name, TASKS_EXCHANGE, queue_name)
    accepted = set()
    # A quorum queue counts a little late, so that it takes one or two more than its limit.
    for _ in range(20):
        answer = client.post(f"/v1/queues/{queue_name}/tasks", content=b"x")
        if answer.status_code == 202:
            accepted.add(answer.json()["id"])
            continue
        assert error(answer, 503)["code"] == "queue_full"
        assert int(answer.headers["retry-after"]) >= 1
    assert 3 <= len(accepted) < 10
    assert {properties.message_id for properties, _ in broker.drain(queue_name)} == accepted
    assert client.post(f"/v1/queues/{queue_name}/tasks", content=b"x").status_code == 202, "it has room again"
    with broker.channel() as channel:
        channel.queue_delete(queue_name)


def test_a_queue_without_an_operator_is_readable_and_its_count_is_fresh(client: httpx.Client, work_queue: str) -> None:
    for count in range(3):
        state = client.get(f"/v1/queues/{work_queue}").json()
        assert state["ready"] == count
        assert (state["exists"], state["stale"], state["workers"], state["reason"]) == (True, True, None, None)
        client.post(f"/v1/queues/{work_queue}/tasks", content=b"x")
    assert error(client.get("/v1/queues/there-is-no-such-queue"), 404)["code"] == "queue_unknown"


def test_what_operator_and_workers_say_is_merged_with_the_count(
    broker: Broker, client: httpx.Client, work_queue: str
) -> None:
    state = QueueState(
        queue=work_queue, resource="warren/q", at=time.time(), ready=99, unacked=1, workers=2, busy=1, desired=3,
        min_replicas=0, max_replicas=5, reason="because", limited_by="maxReplicas", delayed=4, dead=5,
        service_time=1.5, arrival_rate=0.2, estimated_wait=7.0, idle=1, asked=4, rule="backlogPerWorker",
        remedies=("raise it",), decisions=(PastDecision(5.0, 1, 3, "", "so"),),
    )  # fmt: skip
    worker = WorkerState(
        queue=work_queue, worker="w-1", at=time.time(), started_at=1.0, concurrency=1,
        running=(RunningTask(id="t-1", since=2.0),), finished=3, failed=1, finished_seconds=4.0, running_seconds=0.5,
    )  # fmt: skip
    client.post(f"/v1/queues/{work_queue}/tasks", content=b"x")
    with broker.channel() as channel:
        channel.basic_publish(EVENTS_EXCHANGE, f"queue.{work_queue}", b"no event at all")
        for event in (state, worker):
            channel.basic_publish(EVENTS_EXCHANGE, event.routing_key, encode(event))
    found = eventually(
        lambda: next(
            (q for q in client.get("/v1/queues").json()["queues"] if q["queue"] == work_queue and q["worker_states"]),
            None,
        ),
        "both events have arrived",
    )
    explained = client.get(f"/v1/queues/{work_queue}").json()
    assert found.items() <= (explained | {"state_age": found["state_age"]}).items()
    assert (explained["asked"], explained["rule"], explained["remedies"]) == (4, "backlogPerWorker", ["raise it"])
    assert explained["decisions"] == [
        {"at": 5.0, "from_replicas": 1, "to_replicas": 3, "limited_by": "", "reason": "so"}
    ], "the list of all queues does without: it would grow long"
    assert found["ready"] == 1, "the broker's count, not the event's"
    assert 0 <= found["state_age"] < 30
    assert found["stale"] is False
    for name in (
        "resource",
        "unacked",
        "delayed",
        "dead",
        "workers",
        "busy",
        "desired",
        "min_replicas",
        "max_replicas",
    ):
        assert found[name] == getattr(state, name)
    for name in ("limited_by", "reason", "service_time", "arrival_rate", "estimated_wait"):
        assert found[name] == getattr(state, name)
    assert found["worker_states"][0]["running"] == [{"id": "t-1", "since": 2.0}]


def test_a_missing_queue_that_the_operator_knows_is_shown_as_missing(
    broker: Broker, client: httpx.Client, queue_name: str
) -> None:
    state = QueueState(
        queue=queue_name, resource="warren/q", at=time.time(), ready=0, unacked=0, workers=0, busy=0, desired=0,
        min_replicas=0, max_replicas=5, reason="the queue does not exist yet",
    )  # fmt: skip
    with broker.channel() as channel:
        channel.basic_publish(EVENTS_EXCHANGE, state.routing_key, encode(state))
    found = eventually(
        lambda: next((q for q in client.get("/v1/queues").json()["queues"] if q["queue"] == queue_name), None),
        "the event has arrived",
    )
    assert (found["exists"], found["ready"], found["reason"]) == (False, None, "the queue does not exist yet")


def test_it_tells_of_confirmed_tasks_at_once_and_then_once_a_second(
    broker: Broker, client: httpx.Client, work_queue: str
) -> None:
    with broker.channel() as channel:
        ears = channel.queue_declare("", exclusive=True, arguments={"x-queue-type": "classic"}).method.queue
        channel.queue_bind(ears, EVENTS_EXCHANGE, f"submitted.{work_queue}")
        for _ in range(20):
            client.post(f"/v1/queues/{work_queue}/tasks", content=b"x")
        heard: list[TasksSubmitted] = []

        def listen() -> int:
            while (got := channel.basic_get(ears, auto_ack=True))[0] is not None:
                event = decode(got[2])
                assert isinstance(event, TasksSubmitted)
                heard.append(event)
            return sum(event.count for event in heard)

        eventually(lambda: listen() == 20, "all of them were told of")
    assert heard[0].count == 1, "the first at once, alone"
    for earlier, later in itertools.pairwise(heard):
        assert later.at - earlier.at >= 0.9


def test_a_producer_that_starts_asks_for_all_states(broker: Broker, tmp_path: Path) -> None:
    with broker.channel() as channel:
        declare_exchanges(channel)
        ears = channel.queue_declare("", exclusive=True, arguments={"x-queue-type": "classic"}).method.queue
        channel.queue_bind(ears, EVENTS_EXCHANGE, "resync")
        with running_producer(producer_environment(broker), tmp_path):
            body = eventually(lambda: channel.basic_get(ears, auto_ack=True)[2], "the producer asks")
    assert isinstance(decode(body), Resync)


def test_metrics_count_what_happened(producer: Producer, client: httpx.Client, work_queue: str) -> None:
    for _ in range(3):
        client.post(f"/v1/queues/{work_queue}/tasks", content=b"secret-payload")
    with producer.client(None) as stranger:
        text = stranger.get("/metrics").text
    assert f'warren_producer_tasks_submitted_total{{queue="{work_queue}"}} 3.0' in text
    assert 'warren_producer_broker_connected{connection="publish"} 1.0' in text
    assert 'warren_producer_broker_connected{connection="read"} 1.0' in text
    assert "secret-payload" not in text


def test_a_second_copy_under_one_id_is_kept_as_it_is(broker: Broker, client: httpx.Client, work_queue: str) -> None:
    """The limit of what an Idempotency-Key promises: both copies carry the id, the broker keeps both."""
    with broker.channel() as channel:
        declare_work_queue(channel, work_queue)
    for _ in range(2):
        assert client.post(f"/v1/queues/{work_queue}/tasks", headers={"Idempotency-Key": "same"}).status_code == 202
    assert [properties.message_id for properties, _ in broker.drain(work_queue)] == ["same", "same"]
