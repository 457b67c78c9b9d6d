"""Reading from the broker: fresh counts by passive declare, and the states that operator and workers send.

On a connection that never publishes, so that no alarm of the broker ever blocks it.
"""

import asyncio
import functools
import logging
import secrets
import time
from collections.abc import Callable, Iterable
from typing import NoReturn

import pika
from pika.exceptions import ChannelClosed, ChannelClosedByBroker

from warren_contract.aio import BrokerUnavailable, Channel, Connection, keep_connected
from warren_contract.backoff import Backoff
from warren_contract.binding import keep_bound
from warren_contract.events import EventError, QueueState, WorkerState, decode
from warren_contract.names import EVENTS_EXCHANGE, PRODUCER_QUEUE_PREFIX, QueueNameError, check_queue_name
from warren_producer.queues import Board

log = logging.getLogger(__name__)

BINDINGS = ("queue.#", "worker.#")
"""Routing keys of the states. `#` and not `*`: queue names have dots."""

CHANNELS = 8
"""Questions for counts at once. A channel takes one at a time, and a question for a queue that is missing closes it."""

MAX_EVENTS = 10_000
"""Messages in our event queue; the oldest are dropped."""

RETRY = Backoff(first=0.5, longest=5.0)
NOT_FOUND = 404
"""AMQP reply code: the exchange or queue does not exist."""


class Observer:
    """The reading connection; `run` it as long as the program lives.

    Args:
        parameters: of each connection attempt.
        board: takes in the events.
        on_listening: called each time after the event queue was bound, so that somebody asks for the states missed.
    """

    def __init__(
        self, parameters: Callable[[], pika.ConnectionParameters], board: Board, on_listening: Callable[[], None]
    ) -> None:
        self._parameters = parameters
        self._board = board
        self._on_listening = on_listening
        self._connection: Connection | None = None
        self._channels: list[Channel | None] = [None] * CHANNELS
        self._free: asyncio.LifoQueue[int] = asyncio.LifoQueue()
        for number in range(CHANNELS):
            self._free.put_nowait(number)
        self._looks: dict[str, asyncio.Task[int | None]] = {}

    @property
    def connected(self) -> bool:
        """Whether counts can be read."""
        return self._connection is not None and self._connection.is_open

    async def run(self) -> None:
        """Keep a reading connection until cancelled."""
        await keep_connected(self._parameters, self._use)

    async def ready(self, queue: str) -> int | None:
        """Messages that are ready in `queue` this moment; None if there is no such queue.

        Calls at the same time for the same queue share one question to the broker.

        Raises:
            BrokerUnavailable: the broker does not answer.
        """
        look = self._looks.get(queue)
        if look is None:
            look = self._looks[queue] = asyncio.create_task(self._look(queue))
            look.add_done_callback(lambda done: self._looked(queue, done))
        return await asyncio.shield(look)

    async def ready_of(self, queues: Iterable[str]) -> dict[str, int | None]:
        """`ready` of several queues, `CHANNELS` of them at once.

        Raises:
            BrokerUnavailable: the broker does not answer.
        """
        names = list(queues)
        return dict(zip(names, await asyncio.gather(*map(self.ready, names)), strict=True))

    def _looked(self, queue: str, done: asyncio.Task[int | None]) -> None:
        del self._looks[queue]
        if not done.cancelled():
            done.exception()  # whoever waited has seen it; nobody may be left

    async def _look(self, queue: str) -> int | None:
        number = await self._free.get()
        try:
            channel = self._channels[number]
            if self._connection is None:
                raise BrokerUnavailable("the broker is not reachable")
            if channel is None or not channel.is_open:
                channel = self._channels[number] = await self._connection.channel()
            frame = await channel.call(channel.raw.queue_declare, queue, passive=True)
        except ChannelClosed as error:
            if error.reply_code == NOT_FOUND:
                return None
            raise BrokerUnavailable(f"the broker does not tell about queue {queue!r}: {error}") from error
        finally:
            self._free.put_nowait(number)
        return int(frame.method.message_count)

    async def _use(self, connection: Connection) -> None:
        self._connection = connection
        try:
            await self._listen(connection)
        finally:
            self._connection = None
            self._channels = [None] * CHANNELS

    async def _listen(self, connection: Connection) -> NoReturn:
        """Consume events; where the exchange is missing or the queue is taken away, try again."""
        delays = RETRY.delays()
        while True:
            channel = await connection.channel()
            try:
                queue = await self._consume(channel)
                self._on_listening()
                delays = RETRY.delays()
                bind = functools.partial(self._bind, queue)
                log.warning("no events for a moment: %s", await keep_bound(connection, channel, bind))
            except ChannelClosedByBroker as error:
                if error.reply_code != NOT_FOUND:
                    raise
                log.warning("waiting for the operator to declare exchange %s", EVENTS_EXCHANGE)
            finally:
                if channel.is_open:  # the next try has a queue and a channel of its own
                    channel.raw.close()
            await asyncio.sleep(next(delays))

    async def _bind(self, queue: str, channel: Channel) -> None:
        for key in BINDINGS:
            await channel.call(channel.raw.queue_bind, queue, EVENTS_EXCHANGE, key)

    async def _consume(self, channel: Channel) -> str:
        """Have a queue for events of our own, bound, and its events brought to us; its name."""
        queue = PRODUCER_QUEUE_PREFIX + secrets.token_hex(8)
        # The virtual host's default type is quorum, which knows no exclusive queues.
        arguments = {"x-queue-type": "classic", "x-max-length": MAX_EVENTS, "x-overflow": "drop-head"}
        await channel.call(channel.raw.queue_declare, queue, exclusive=True, arguments=arguments)
        await self._bind(queue, channel)
        # pika stops in silence when the broker cancels a consumer: a closed channel starts it anew.
        channel.raw.add_on_cancel_callback(lambda _: channel.raw.close())
        await channel.call(
            channel.raw.basic_consume, queue, on_message_callback=self._on_event, auto_ack=True, exclusive=True
        )
        return queue

    def _on_event(self, _channel: object, method: pika.spec.Basic.Deliver, _properties: object, body: bytes) -> None:
        try:
            event = decode(body)
            if isinstance(event, QueueState | WorkerState):
                # The broker is asked for each queue that is heard of: by a name that is none, it would refuse all.
                check_queue_name(event.queue)
        except (EventError, QueueNameError) as error:
            log.warning("skipped an event with key %s: %s", method.routing_key, error)
            return
        if event is not None:
            self._board.hear(event, time.monotonic())
