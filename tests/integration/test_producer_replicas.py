"""Several producers on one broker: each takes tasks, and each knows all queues."""

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import httpx
import pytest
from brokers import Broker, declare_exchanges
from producers import ready_producer
from waiting import eventually

from warren_contract.events import QueueState, TasksSubmitted, decode, encode
from warren_contract.names import EVENTS_EXCHANGE


@pytest.fixture(scope="module")
def clients(broker: Broker, tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[httpx.Client]]:
    """Of two producers, each with its own."""
    with broker.channel() as channel:
        declare_exchanges(channel)
    with ExitStack() as stack:
        producers = [stack.enter_context(ready_producer(broker, tmp_path_factory.mktemp("producer"))) for _ in range(2)]
        yield [stack.enter_context(producer.client()) for producer in producers]


def state(queue: str) -> QueueState:
    return QueueState(
        queue=queue, resource="warren/q", at=time.time(), ready=0, unacked=0, workers=0, busy=0, desired=0,
        min_replicas=0, max_replicas=5, reason="because",
    )  # fmt: skip


def test_tasks_through_either_are_seen_and_told_of_by_both(
    broker: Broker, clients: list[httpx.Client], work_queue: str
) -> None:
    with broker.channel() as channel:
        ears = channel.queue_declare("", exclusive=True, arguments={"x-queue-type": "classic"}).method.queue
        channel.queue_bind(ears, EVENTS_EXCHANGE, f"submitted.{work_queue}")
        channel.basic_publish(EVENTS_EXCHANGE, f"queue.{work_queue}", encode(state(work_queue)))

        def send(number: int) -> str:
            answer = clients[number % 2].post(f"/v1/queues/{work_queue}/tasks", content=str(number))
            assert answer.status_code == 202, answer.text
            return str(answer.json()["id"])

        with ThreadPoolExecutor(8) as pool:
            accepted = set(pool.map(send, range(100)))
        for client in clients:
            assert client.get(f"/v1/queues/{work_queue}").json()["ready"] == 100

            def known(client: httpx.Client = client) -> bool:
                queues = client.get("/v1/queues").json()["queues"]
                return (100, "because") in [(q["ready"], q["reason"]) for q in queues if q["queue"] == work_queue]

            eventually(known, "the operator's word has come to each")
        heard = 0

        def told() -> bool:
            nonlocal heard
            while (got := channel.basic_get(ears, auto_ack=True))[0] is not None:
                event = decode(got[2])
                assert isinstance(event, TasksSubmitted)
                heard += event.count
            return heard == 100

        eventually(told, "each tells of its own tasks, and both together of all")
    assert {properties.message_id for properties, _ in broker.drain(work_queue)} == accepted


def test_one_id_through_both_is_two_tasks(broker: Broker, clients: list[httpx.Client], work_queue: str) -> None:
    """The limit of what an Idempotency-Key promises: nobody remembers it, in one producer or in several."""
    for client in clients:
        answer = client.post(f"/v1/queues/{work_queue}/tasks", headers={"Idempotency-Key": "same"})
        assert (answer.status_code, answer.json()["id"]) == (202, "same")
    assert [properties.message_id for properties, _ in broker.drain(work_queue)] == ["same", "same"]


def test_many_queues_are_counted_each_and_missing_ones_among_them(
    broker: Broker, clients: list[httpx.Client], queue_name: str
) -> None:
    names = [f"{queue_name}-{number:03}" for number in range(60)]
    with broker.channel() as channel:
        try:
            for number, name in enumerate(names):
                if number % 3:
                    channel.queue_declare(name, durable=True)
                    for _ in range(number % 5):
                        channel.basic_publish("", name, b"x")
                channel.basic_publish(EVENTS_EXCHANGE, f"queue.{name}", encode(state(name)))

            def counts() -> dict[str, int | None]:
                queues = clients[0].get("/v1/queues").json()["queues"]
                return {queue["queue"]: queue["ready"] for queue in queues if queue["queue"] in names}

            expected = {name: number % 5 if number % 3 else None for number, name in enumerate(names)}
            eventually(lambda: counts() == expected, "all of them, right")
            with ThreadPoolExecutor(8) as pool:
                for found in pool.map(lambda _: counts(), range(24)):
                    assert found == expected
        finally:
            for name in names:
                channel.queue_delete(name)
