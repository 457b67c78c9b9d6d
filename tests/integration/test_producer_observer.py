"""What the producer hears of operator and workers, on a real broker in which somebody deletes and makes exchanges."""

import asyncio
import contextlib
import logging
import time
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field, replace

import pika
import pytest
import waiting
from brokers import ADMIN, PASSWORD, Broker, administer
from pika.adapters.blocking_connection import BlockingChannel

from warren_contract.aio import BrokerUnavailable, Channel, Connection
from warren_contract.binding import keep_bound
from warren_contract.connection import connection_parameters
from warren_contract.events import QueueState, encode
from warren_contract.names import EVENTS_EXCHANGE
from warren_contract.settings import BrokerSettings
from warren_producer.observer import Observer
from warren_producer.queues import Board

LIMIT = 30.0
"""Seconds for anything to happen; far beyond what it takes."""


@dataclass
class Site:
    """A virtual host of its own, and a producer's observer in it."""

    settings: BrokerSettings
    board: Board = field(default_factory=Board)
    listening: int = 0

    @contextlib.contextmanager
    def channel(self) -> Iterator[BlockingChannel]:
        """A channel of somebody else."""
        connection = pika.BlockingConnection(connection_parameters(self.settings, "somebody", blocked_timeout=None))
        try:
            yield connection.channel()
        finally:
            connection.close()

    @contextlib.asynccontextmanager
    async def observing(self) -> AsyncIterator[None]:
        """The observer is at work."""
        observer = Observer(
            lambda: connection_parameters(self.settings, "test", blocked_timeout=None), self.board, self._on_listening
        )
        running = asyncio.ensure_future(observer.run())
        try:
            yield
        finally:
            running.cancel()
            await asyncio.wait([running], timeout=LIMIT)

    def _on_listening(self) -> None:
        self.listening += 1

    def tell(self, queue: str) -> None:
        """The operator's word about a queue."""
        state = QueueState(queue, f"media/{queue}", time.time(), 0, 0, 0, 0, 0, 0, 10, "because")
        with self.channel() as channel:
            channel.basic_publish(EVENTS_EXCHANGE, state.routing_key, encode(state))

    async def hears(self, queue: str) -> None:
        """Wait until the operator's word about a queue arrives, which is said again and again."""

        def heard() -> bool:
            self.tell(queue)
            return queue in self.board.queues()

        await eventually(heard, f"the word about {queue} is heard")


async def eventually(check: Callable[[], bool], what: str) -> None:
    """Wait until a condition holds, while the observer goes on."""
    await asyncio.to_thread(waiting.eventually, check, what, limit=LIMIT)


@pytest.fixture
def site(broker: Broker) -> Iterator[Site]:
    """Fresh, with the exchange that the operator makes."""
    vhost = f"observer-{uuid.uuid4().hex[:8]}"
    administer(broker, "PUT", f"vhosts/{vhost}", {"default_queue_type": "quorum"})
    administer(broker, "PUT", f"permissions/{vhost}/{ADMIN}", {"configure": ".*", "write": ".*", "read": ".*"})
    made = Site(replace(broker.settings(ADMIN, PASSWORD), vhost=vhost))
    with made.channel() as channel:
        channel.exchange_declare(EVENTS_EXCHANGE, "topic", durable=True)
    yield made
    administer(broker, "DELETE", f"vhosts/{vhost}")


async def test_an_exchange_that_is_deleted_and_made_again_is_heard_again(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The exchange takes the binding along, and nothing tells that: neither connection nor consumer notices."""
    monkeypatch.setattr("warren_contract.binding.BIND_EVERY", 0.2)
    async with site.observing():
        await eventually(lambda: site.listening == 1, "it listens")
        await site.hears("one")
        with site.channel() as channel:
            channel.exchange_delete(EVENTS_EXCHANGE)
            channel.exchange_declare(EVENTS_EXCHANGE, "topic", durable=True)
        await site.hears("two")


async def test_an_exchange_that_is_missing_is_waited_for(
    site: Site, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("warren_contract.binding.BIND_EVERY", 0.2)
    caplog.set_level(logging.WARNING, "warren_producer.observer")
    async with site.observing():
        await eventually(lambda: site.listening == 1, "it listens")
        with site.channel() as channel:
            channel.exchange_delete(EVENTS_EXCHANGE)
        await eventually(lambda: "waiting for the operator to declare exchange" in caplog.text, "it says so")
        with site.channel() as channel:
            channel.exchange_declare(EVENTS_EXCHANGE, "topic", durable=True)
        await site.hears("two")


async def test_a_binding_that_waits_in_vain_disturbs_nobody_and_is_tried_again(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As without a majority of brokers: what is told goes on being heard, over the channel that stands."""
    monkeypatch.setattr("warren_contract.binding.BIND_EVERY", 0.05)
    connection = await Connection.open(connection_parameters(site.settings, "test", blocked_timeout=None))
    listening = await connection.channel()
    tried: list[Channel] = []

    async def bind(aside: Channel) -> None:
        tried.append(aside)
        raise BrokerUnavailable("the broker did not answer")

    keeping = asyncio.ensure_future(keep_bound(connection, listening, bind))
    await eventually(lambda: len(tried) > 3, "it is tried again and again")
    assert connection.is_open
    assert listening.is_open
    assert listening not in tried
    assert not any(aside.is_open for aside in tried[:-1]), "none is left behind"
    listening.raw.close()
    async with asyncio.timeout(LIMIT):
        await keeping
        await connection.close()
