"""Batches through a real producer into a real broker: what each line is told, and that the queue agrees."""

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from brokers import Broker, declare_work_queue, running_broker
from producers import (
    READ_TOKEN,
    SUBMIT_TOKEN,
    Producer,
    producer_environment,
    ready_producer,
    running_producer,
    submit_head,
)
from proxies import proxy_to
from waiting import eventually

from warren_contract.names import TASKS_EXCHANGE
from warren_producer.batch import MAX_LINES
from warren_producer.lanes import WINDOW

MAX_BODY = 10_000


@pytest.fixture(scope="module")
def producer_settings() -> dict[str, str]:
    return {"WARREN_MAX_BODY": str(MAX_BODY), "WARREN_SUBMIT_TIMEOUT": "3s"}


def lines(*said: Any) -> bytes:
    return b"".join(json.dumps(one).encode() + b"\n" for one in said)


def send(client: httpx.Client, queue: str, content: Any) -> httpx.Response:
    headers = {"Content-Type": "application/x-ndjson"}
    return client.post(f"/v1/queues/{queue}/tasks:batch", content=content, headers=headers)


def outcomes(answer: httpx.Response) -> dict[str, list[Any]]:
    """Ids by what was said of them: accepted, unknown, refused; the counts must agree."""
    data = answer.json()
    found: dict[str, list[Any]] = {"accepted": [], "refused": [], "unknown": []}
    for result in data["results"]:
        error = result.get("error")
        kind = "accepted" if error is None else "unknown" if error["code"] == "outcome_unknown" else "refused"
        found[kind].append(result.get("id"))
    assert {kind: len(ids) for kind, ids in found.items()} == {kind: data[kind] for kind in found}
    assert (answer.status_code == 202) == (not found["refused"] and not found["unknown"] and "error" not in data)
    return found


def test_all_are_accepted_in_order_with_what_was_said(broker: Broker, client: httpx.Client, work_queue: str) -> None:
    said: list[dict[str, Any]] = [{"body": str(number)} for number in range(3000)]
    said[7] |= {"id": "mine", "type": "t", "priority": 4, "headers": {"Tenant": "acme"}, "expiration": "1h"}
    said[8] = {"body_base64": "AAEC/w==", "content_type": "image/x"}
    said[9] = {"body": "x" * MAX_BODY}
    answer = send(client, work_queue, b"\r\n" + lines(*said).rstrip())
    assert answer.status_code == 202, answer.text[:500]
    accepted = outcomes(answer)["accepted"]
    arrived = broker.drain(work_queue)
    assert [properties.message_id for properties, _ in arrived] == accepted
    assert len(set(accepted)) == 3000
    assert [body for _, body in arrived[:7]] == [str(number).encode() for number in range(7)]
    special = arrived[7][0]
    assert (special.message_id, special.type, special.priority, special.expiration) == ("mine", "t", 4, "3600000")
    assert special.headers["tenant"] == "acme"
    assert special.headers["x-warren-submitted-at"] > 0
    assert (arrived[8][0].content_type, arrived[8][1]) == ("image/x", b"\x00\x01\x02\xff")
    assert arrived[9][1] == b"x" * MAX_BODY
    assert {properties.delivery_mode for properties, _ in arrived} == {2}


def test_a_bad_line_is_refused_alone_and_named(broker: Broker, client: httpx.Client, work_queue: str) -> None:
    content = lines({"body": "a"}) + b"\n{nonsense\n" + lines({"body": "b", "priority": 99}, {"body": "c"})
    content += b'{"body": "' + b"x" * 200_000 + b'"}\n' + lines({"body": "y" * (MAX_BODY + 1)}, {"body": "d"})
    answer = send(client, work_queue, content)
    data = answer.json()
    assert answer.status_code == 422
    assert data["error"]["code"] == "invalid"
    assert data["error"]["message"].startswith("line 3: is not JSON")
    errors = [(entry["line"], entry["error"]["code"], entry["error"].get("field")) for entry in data["results"][1:6]
              if "error" in entry]  # fmt: skip
    assert errors == [
        (3, "invalid", None), (4, "invalid", "priority"), (6, "body_too_large", None), (7, "body_too_large", "body"),
    ]  # fmt: skip
    assert [body for _, body in broker.drain(work_queue)] == [b"a", b"c", b"d"]
    assert len(outcomes(answer)["accepted"]) == 3


def test_an_unknown_queue_is_404_with_every_line_refused(client: httpx.Client) -> None:
    answer = send(client, "there-is-no-such-queue", lines(*[{"body": "x"}] * 5000))
    assert answer.status_code == 404
    assert answer.json()["error"]["code"] == "queue_unknown"
    assert len(outcomes(answer)["refused"]) == 5000


def test_a_queue_that_becomes_full_has_what_was_accepted_and_no_more(
    broker: Broker, client: httpx.Client, queue_name: str
) -> None:
    with broker.channel() as channel:
        arguments = {"x-queue-type": "quorum", "x-max-length": 500, "x-overflow": "reject-publish"}
        channel.queue_declare(queue_name, durable=True, arguments=arguments)
        channel.queue_bind(queue_name, TASKS_EXCHANGE, queue_name)
    answer = send(client, queue_name, lines(*[{"body": "x"}] * 20_000))
    assert answer.status_code == 503
    assert answer.json()["error"]["code"] == "queue_full"
    assert int(answer.headers["retry-after"]) >= 1
    found = outcomes(answer)
    assert found["unknown"] == []
    assert len(found["accepted"]) >= 500
    assert found["refused"]
    assert sorted(properties.message_id for properties, _ in broker.drain(queue_name)) == sorted(found["accepted"])
    with broker.channel() as channel:
        channel.queue_delete(queue_name)


def test_tokens_and_requests_that_are_none(broker: Broker, producer: Producer, work_queue: str) -> None:
    content = lines({"body": "x"})
    for token, status in ((None, 401), ("not-a-token-at-all", 401), (READ_TOKEN, 403)):
        with producer.client(token) as client:
            assert send(client, work_queue, content).status_code == status
    with producer.client(SUBMIT_TOKEN) as client:
        for nothing in (b"", b"\n \r\n"):
            assert send(client, work_queue, nothing).status_code == 422
        assert send(client, "amq.direct", content).json()["error"]["field"] == "queue"
        headers = {"Content-Encoding": "gzip"}
        gzipped = client.post(f"/v1/queues/{work_queue}/tasks:batch", content=content, headers=headers)
        assert gzipped.json()["error"]["field"] == "Content-Encoding"
    assert broker.drain(work_queue) == []


def test_lines_beyond_the_limit_are_not_published(broker: Broker, client: httpx.Client, work_queue: str) -> None:
    answer = send(client, work_queue, b'{"body":"x"}\n' * (MAX_LINES + 10))
    assert answer.status_code == 413
    assert answer.json()["error"]["code"] == "too_many_lines"
    assert len(outcomes(answer)["accepted"]) == MAX_LINES
    with broker.channel() as channel:
        assert channel.queue_declare(work_queue, passive=True).method.message_count == MAX_LINES


def head(queue: str) -> bytes:
    return submit_head(queue, "Content-Length: 100000\r\n", batch=True)


def test_a_client_that_hangs_up_leaves_whole_lines_only(broker: Broker, producer: Producer, work_queue: str) -> None:
    with producer.connect() as connection:
        connection.sendall(head(work_queue) + lines({"body": "whole"}) + b'{"body": "half"}')
        eventually(lambda: broker.ready(work_queue) == 1, "the first line is published before the request ends")
    eventually(lambda: "broke off after 1 tasks" in producer.log.read_text(), "it noticed")
    assert [body for _, body in broker.drain(work_queue)] == [b"whole"]


def test_a_client_that_dawdles_is_told_what_was_accepted(broker: Broker, producer: Producer, work_queue: str) -> None:
    with producer.connect() as connection, connection.makefile("rb") as answer:
        connection.sendall(head(work_queue) + lines({"body": "a", "id": "one"}) + b'{"body": ')
        assert answer.readline().startswith(b"HTTP/1.1 408 ")
        data = json.loads(answer.read().partition(b"\r\n\r\n")[2])
    assert data["error"]["code"] == "body_too_slow"
    assert data["results"] == [{"id": "one"}]
    assert len(broker.drain(work_queue)) == 1


def test_a_connection_cut_in_the_middle_leaves_no_line_in_doubt_that_is_called_accepted(tmp_path: Path) -> None:
    """Accepted is in the queue; what is in the queue is accepted or unknown."""
    queue = "task_queue"
    with running_broker() as broker, proxy_to(broker.host, broker.amqp_port) as proxy:
        with broker.channel() as channel:
            declare_work_queue(channel, queue)
        environ = producer_environment(broker)
        environ |= {"WARREN_BROKER_HOST": "127.0.0.1", "WARREN_BROKER_PORT": str(proxy.port)}
        with running_producer(environ, tmp_path) as producer, producer.client() as client:
            producer.wait_until_ready()
            later = lines({"body": "x", "id": "later"})

            def cutting() -> Iterator[bytes]:
                for number in range(100):
                    if number == 50:
                        eventually(lambda: broker.ready(queue) >= 1000, "some have arrived")
                        proxy.cut()
                    yield lines(*[{"body": "x"}] * 100)

            answer = send(client, queue, cutting())
            assert answer.status_code == 503
            found = outcomes(answer)
            assert found["refused"]
            assert found["accepted"]
            eventually(lambda: send(client, queue, later).status_code == 202, "it is back")
            kept = {properties.message_id for properties, _ in broker.drain(queue)} - {"later"}
            assert set(found["accepted"]) <= kept <= {*found["accepted"], *found["unknown"]}

            proxy.hold()
            with ThreadPoolExecutor(1) as pool:
                waiting = pool.submit(send, client, queue, lines(*[{"body": "x"}] * 500))
                eventually(lambda: "tasks_in_flight 500.0" in client.get("/metrics").text, "all wait")
                proxy.cut()
                answer = waiting.result()
            proxy.release()
            codes = [result["error"]["code"] for result in answer.json()["results"]]
            assert codes == ["outcome_unknown"] * WINDOW + ["broker_unavailable"] * (500 - WINDOW)
            unknown = outcomes(answer)["unknown"]
            eventually(lambda: send(client, queue, later).status_code == 202, "it is back")
            assert {properties.message_id for properties, _ in broker.drain(queue)} - {"later"} <= set(unknown)


def test_sigterm_in_the_middle_tells_what_was_accepted(broker: Broker, work_queue: str, tmp_path: Path) -> None:
    with ready_producer(broker, tmp_path) as producer, producer.client() as client:

        def stopping() -> Iterator[bytes]:
            for number in range(50):
                if number == 25:
                    eventually(lambda: broker.ready(work_queue) == 2500, "the first half has arrived")
                    producer.process.terminate()
                    eventually(lambda: "shutting down" in producer.log.read_text(), "it heard")
                yield lines(*[{"body": "x"}] * 100)

        answer = send(client, work_queue, stopping())
        assert answer.status_code == 503
        assert answer.json()["error"]["code"] == "shutting_down"
        found = outcomes(answer)
        assert (len(found["accepted"]), len(found["refused"])) == (2500, 2500)
        assert producer.process.wait(30) == 0
    assert [properties.message_id for properties, _ in broker.drain(work_queue)] == found["accepted"]
