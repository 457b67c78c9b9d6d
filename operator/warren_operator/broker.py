"""The AMQP side of the operator: reading queues, declaring topology, hearing events, telling events.

Two connections. The first reads and declares and never publishes, because a memory or disk alarm blocks a connection
that has published, and even a passive declare on it then waits. The second only tells QueueStates, and drops them while
blocked.
"""

import asyncio
import logging
import re
from collections.abc import Callable
from enum import Enum, auto
from typing import Any

import pika
from pika.exceptions import ChannelClosed
from pika.spec import Basic, BasicProperties

from warren_contract.aio import BrokerUnavailable, Channel, Connection, keep_connected
from warren_contract.connection import connection_parameters
from warren_contract.events import Event, EventError, QueueState, decode, encode
from warren_contract.names import EVENTS_EXCHANGE, OPERATOR_EVENTS_QUEUE
from warren_contract.settings import BrokerSettings, SettingError
from warren_operator.observation import Counts

log = logging.getLogger(__name__)

READ_LIMIT = 2.0
"""Seconds for one reading. A healthy queue answers within a millisecond; one without a leader within 250."""

OLDEST_BROKER = (4, 3, 1)
"""From this release on policies know delayed retries."""

STALLED_FOR = 1.0
"""Seconds without questions after an answer that did not come: one wait a second, not one for each queue."""

EVENTS_KEPT = 10_000
"""Events that the broker keeps for the operator; then the oldest are dropped."""

EVENTS_RETRY = 5.0
"""Seconds until the next try where another operator holds the event queue."""

HEARD_KEYS = ("worker.#", "submitted.#", "resync")

NOT_FOUND = 404
RESOURCE_LOCKED = 405
PRECONDITION_FAILED = 406


class QueueMissing(Exception):
    """The broker has no queue of this name."""


class QueueMismatch(Exception):
    """The broker has a queue or exchange of this name with other properties; the message says which differ."""


class _Use(Enum):
    """A refused request closes its channel: each use has its own, so that none disturbs another."""

    READ = auto()
    ASIDE = auto()
    DECLARE = auto()


class Broker:
    """The reading connection, kept up for as long as `run` runs.

    Attributes:
        problem: why there is no connection; empty while there is one.
        ever_connected: whether there has been one since the start.
        version: of the broker, such as `4.3.6`; empty until the first connection.
        listening_since: since when events are being received, in seconds of the loop's clock; None while they are not.
    """

    def __init__(
        self,
        load: Callable[[], BrokerSettings],
        name: str,
        heard: Callable[[Event], None],
        connected: Callable[[], None],
    ) -> None:
        """Args:
        load: reads the broker's settings, anew for each connection.
        name: of the connection, shown in the broker's list.
        heard: called with each event.
        connected: called after each successful connect.
        """
        self.problem = "not connected to the broker yet"
        self.ever_connected = False
        self.version = ""
        self.listening_since: float | None = None
        self._load = load
        self._name = name
        self._heard = heard
        self._connected = connected
        self._connection: Connection | None = None
        self._channels: dict[_Use, Channel] = {}
        self._aside = asyncio.Lock()
        self._stalled_until = float("-inf")

    @property
    def too_old(self) -> bool:
        """Whether the broker lacks what the policies need."""
        return bool(self.version) and release(self.version) < OLDEST_BROKER

    async def run(self) -> None:
        """Stay connected until cancelled."""
        await keep_connected(lambda: self._parameters(self._name), self._use)

    async def read(self, queue: str, *, aside: bool = False) -> Counts:
        """Count the ready tasks and the consumers of a queue, by passive declare.

        Args:
            queue: its name.
            aside: use the channel for queues that may be missing or slow, so that the others need not wait for it.

        Raises:
            QueueMissing: there is none.
            BrokerUnavailable: no connection, or no answer in time.
        """
        if aside:
            async with self._aside:  # a missing queue closes the channel, under whatever else is asked on it
                return await self._count(queue, _Use.ASIDE)
        if asyncio.get_running_loop().time() < self._stalled_until:
            raise BrokerUnavailable("the broker does not answer")
        return await self._count(queue, _Use.READ)

    async def _count(self, queue: str, use: "_Use") -> Counts:
        loop = asyncio.get_running_loop()
        started = loop.time()
        channel = await self._channel(use)
        try:
            frame = await channel.call(channel.raw.queue_declare, queue, passive=True, limit=READ_LIMIT)
        except ChannelClosed as error:
            if error.reply_code == NOT_FOUND:
                raise QueueMissing(queue) from error
            raise BrokerUnavailable(f"queue {queue} cannot be read: {error.reply_text}") from error
        except BrokerUnavailable:
            # An answer that comes after all would be taken for that of the next call: use another channel from now on.
            self._channels.pop(use, None)
            self._stalled_until = loop.time() + STALLED_FOR
            raise
        now = loop.time()
        return Counts(frame.method.message_count, frame.method.consumer_count, now, now - started)

    async def declare(self, method: str, **arguments: Any) -> None:
        """Declare something with a method of pika's channel such as `queue_declare`.

        Raises:
            QueueMismatch: it exists with other properties.
            BrokerUnavailable: no connection, no answer, or no right to do so.
        """
        channel = await self._channel(_Use.DECLARE)
        try:
            await channel.call(getattr(channel.raw, method), **arguments)
        except ChannelClosed as error:
            if error.reply_code == PRECONDITION_FAILED:
                raise QueueMismatch(error.reply_text) from error
            raise BrokerUnavailable(f"the broker refused {method}: {error.reply_text}") from error
        except BrokerUnavailable:
            self._channels.pop(_Use.DECLARE, None)
            raise

    def _parameters(self, name: str) -> pika.ConnectionParameters:
        try:
            return connection_parameters(self._load(), name, blocked_timeout=None)
        except SettingError as error:
            self.problem = str(error)
            raise BrokerUnavailable(str(error)) from error

    async def _channel(self, use: "_Use") -> Channel:
        channel = self._channels.get(use)
        if channel is None or not channel.is_open:
            if self._connection is None:
                raise BrokerUnavailable(self.problem or "not connected to the broker")
            channel = self._channels[use] = await self._connection.channel()
        return channel

    async def _use(self, connection: Connection) -> None:
        self._connection, self._channels = connection, {}
        self.version = str((connection.raw.server_properties or {}).get("version", ""))
        self.problem, self.ever_connected = "", True
        log.info("connected to the broker", extra={"version": self.version})
        self._connected()
        try:
            while True:
                try:
                    await self._listen(connection)
                except ChannelClosed as error:
                    if error.reply_code != RESOURCE_LOCKED:
                        raise
                    log.warning("another operator holds %s: going on without hints", OPERATOR_EVENTS_QUEUE)
                finally:
                    self.listening_since = None
                await asyncio.sleep(EVENTS_RETRY)
        finally:
            self._connection, self._channels = None, {}
            self.problem = "the connection to the broker is lost: connecting again"

    async def _listen(self, connection: Connection) -> None:
        """Hear events until the channel closes."""
        channel = await connection.channel()
        raw = channel.raw
        await channel.call(raw.exchange_declare, EVENTS_EXCHANGE, "topic", durable=True)
        arguments = {"x-queue-type": "classic", "x-max-length": EVENTS_KEPT, "x-overflow": "drop-head"}
        await channel.call(raw.queue_declare, OPERATOR_EVENTS_QUEUE, exclusive=True, arguments=arguments)
        for key in HEARD_KEYS:
            await channel.call(raw.queue_bind, OPERATOR_EVENTS_QUEUE, EVENTS_EXCHANGE, key)
        await channel.call(raw.basic_consume, OPERATOR_EVENTS_QUEUE, self._on_message, auto_ack=True)
        self.listening_since = asyncio.get_running_loop().time()
        raw.add_on_cancel_callback(lambda _frame: raw.close())  # the queue was deleted: start over
        reason = await asyncio.shield(channel.closed)
        log.warning("the event queue is lost: %s", reason)

    def _on_message(self, _channel: object, method: Basic.Deliver, _properties: BasicProperties, body: bytes) -> None:
        try:
            event = decode(body)
        except EventError as error:
            log.warning("an event with key %s is unreadable: %s", method.routing_key, error)
            return
        if event is not None:
            self._heard(event)


class EventPublisher:
    """The telling connection. What it cannot tell is dropped: events are hints, and the next state comes soon.

    Attributes:
        blocked: the broker takes nothing, because it is short of memory or disk space.
    """

    def __init__(self, load: Callable[[], BrokerSettings], name: str) -> None:
        self._load = load
        self._name = name
        self._channel: Channel | None = None
        self.blocked = False

    async def run(self) -> None:
        """Stay connected until cancelled."""
        await keep_connected(self._parameters, self._use)

    def tell(self, state: QueueState) -> None:
        """Publish an event, or drop it where that is not possible right now."""
        if self._channel is not None and self._channel.is_open and not self.blocked:
            self._channel.raw.basic_publish(
                EVENTS_EXCHANGE, state.routing_key, encode(state), BasicProperties(content_type="application/json")
            )

    def _parameters(self) -> pika.ConnectionParameters:
        try:
            return connection_parameters(self._load(), self._name, blocked_timeout=None)
        except SettingError as error:
            raise BrokerUnavailable(str(error)) from error

    async def _use(self, connection: Connection) -> None:
        self.blocked = False
        connection.raw.add_on_connection_blocked_callback(lambda *_: self._set_blocked(blocked=True))
        connection.raw.add_on_connection_unblocked_callback(lambda *_: self._set_blocked(blocked=False))
        try:
            while True:
                self._channel = await connection.channel()
                reason = await asyncio.shield(self._channel.closed)
                log.info("the channel for events closed: %s", reason)
                await asyncio.sleep(EVENTS_RETRY)  # most likely the exchange is gone, and will be made again
        finally:
            self._channel = None

    def _set_blocked(self, *, blocked: bool) -> None:
        self.blocked = blocked


def release(version: str) -> tuple[int, ...]:
    """`4.3.1` as (4, 3, 1); what follows, such as `-rc.1`, does not count."""
    return tuple(int(number) for number in re.findall(r"\d+", version.partition("-")[0])[:3])
