"""The AMQP side of the operator: reading queues, declaring topology, hearing events, telling events.

Two connections. The first reads and declares and never publishes, because a memory or disk alarm blocks a connection
that has published, and even a passive declare on it then waits. The second only tells QueueStates, and drops them while
blocked.
"""

import asyncio
import logging
import math
import re
import uuid
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

import pika
from pika.channel import MAX_CHANNELS
from pika.exceptions import ChannelClosed
from pika.spec import Basic, BasicProperties

from warren_contract.aio import BrokerUnavailable, Channel, Connection, keep_connected
from warren_contract.binding import keep_bound
from warren_contract.connection import connection_parameters
from warren_contract.events import Event, EventError, QueueState, decode, encode
from warren_contract.names import EVENTS_EXCHANGE, OPERATOR_EVENTS_PREFIX
from warren_contract.settings import BrokerSettings, SettingError
from warren_operator.observation import Reading
from warren_operator.reading import REFUSED, RIGHTS_ADVICE, Reader

log = logging.getLogger(__name__)

OLDEST_BROKER = (4, 3, 1)
"""From this release on policies know delayed retries."""

DECLARING = 16
"""Channels to declare on. A broker takes milliseconds for one quorum queue, most of it waiting: a thousand new queues
take three times as long on one channel."""

READING = 8
"""Channels to read on. On each the broker counts one queue after the other, and while it is busy most of that is
waiting: with thousands of queues just made, four channels got two to five times as many answers as one."""

LEAST_READ = 10
"""Queues that make a channel worth its while."""

OTHERS = 3
"""Channels that a broker which allows only a few has to leave for all else: one for slow queues, two for events."""

EVENTS_KEPT = 10_000
"""Events that the broker keeps for the operator; then the oldest are dropped."""

EVENTS_RETRY = 5.0
"""Seconds until the next try where a channel was lost."""

MOVED_EVERY = 10.0
"""Seconds between two looks whether the settings lead elsewhere: Kubernetes brings a changed Secret within a minute."""

HEARD_KEYS = ("worker.#", "submitted.#", "resync")

DIFFERS = 406


class _Whereabouts:
    """The broker and virtual host that the settings lead to, and led to when a connection was made.

    The management API is asked where they lead now. Were the connection kept elsewhere, one broker would be compared
    and another one declared on, for as long as that one lives.
    """

    def __init__(self, load: Callable[[], BrokerSettings]) -> None:
        self._load = load
        self._connected: BrokerSettings | None = None

    def settings(self) -> BrokerSettings:
        """For a connection that is about to be made."""
        self._connected = self._load()
        return self._connected

    def _moved(self) -> bool:
        try:
            now = self._load()
        except SettingError:  # what is half written, or gone, leads nowhere
            return False
        before = self._connected
        return before is not None and (now.host, now.port, now.vhost) != (before.host, before.port, before.vhost)

    async def stay(self, using: Coroutine[Any, Any, None]) -> None:
        """Have a connection used for as long as the settings lead to where it leads.

        Raises:
            BrokerUnavailable: they lead elsewhere now.
        """
        task = asyncio.ensure_future(using)
        try:
            while not task.done():
                await asyncio.wait([task], timeout=MOVED_EVERY)
                if not task.done() and self._moved():
                    raise BrokerUnavailable("the settings lead to another broker or virtual host now: connecting there")
            task.result()
        finally:
            task.cancel()
            await asyncio.wait([task])
            if not task.cancelled():
                task.exception()  # what goes wrong on the way out is nobody's matter


class DeclareRefused(Exception):
    """The broker does not declare this one: it has one of other properties, a limit is reached, or a right is missing.

    The message says which, in the broker's words.
    """


class Broker:
    """The reading connection, kept up for as long as `run` runs.

    Attributes:
        problem: why there is no connection; empty while there is one.
        events_problem: why no events are heard although there is a connection; empty once they are. Queues are read
            without them.
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
        self.events_problem = ""
        self.ever_connected = False
        self.version = ""
        self.listening_since: float | None = None
        self._whereabouts = _Whereabouts(load)
        self._name = name
        self._heard = heard
        self._connected = connected
        self._connection: Connection | None = None
        # A refused request closes its channel: each use has its own, so that none disturbs another.
        self._reading = READING
        self._readers = [Reader(self._channel) for _ in range(READING)]
        self._aside = Reader(self._channel)
        self._declares = asyncio.Semaphore(DECLARING)
        self._declaring: list[Channel] = []

    @property
    def too_old(self) -> bool:
        """Whether the broker lacks what the policies need."""
        return bool(self.version) and release(self.version) < OLDEST_BROKER

    async def run(self) -> None:
        """Stay connected until cancelled."""
        await keep_connected(
            self._parameters, lambda connection: self._whereabouts.stay(self._use(connection)), failed=self._failed
        )

    def _failed(self, why: str) -> None:
        self.problem = why

    async def read(self, queues: Sequence[str], *, aside: bool = False) -> list[Reading]:
        """Count the ready tasks and the consumers of queues.

        Args:
            queues: their names.
            aside: these may be missing or slow: use a channel of their own, so that the others need not wait for them.
        """
        if aside:
            return await self._aside.read(queues)
        share = max(LEAST_READ, math.ceil(len(queues) / self._reading))
        shares = [queues[start : start + share] for start in range(0, len(queues), share)]
        read = await asyncio.gather(*(reader.read(some) for reader, some in zip(self._readers, shares, strict=False)))
        return [reading for some in read for reading in some]

    async def declare(self, method: str, **arguments: Any) -> Any:
        """Declare something with a method of pika's channel such as `queue_declare`; several can be under way.

        Returns:
            The broker's answer.

        Raises:
            DeclareRefused: this very thing is refused.
            BrokerUnavailable: no connection, or no answer.
        """
        async with self._declares:
            channel = await self._declaring_channel()
            try:
                frame = await channel.call(getattr(channel.raw, method), **arguments)
            except ChannelClosed as error:
                raise DeclareRefused(_refusal(error)) from error
            self._declaring.append(channel)  # after an answer that did not come it is of no use any more
            return frame.method

    async def _declaring_channel(self) -> Channel:
        while self._declaring:
            channel = self._declaring.pop()
            if channel.is_open:
                return channel
        return await self._channel()

    def _parameters(self) -> pika.ConnectionParameters:
        return connection_parameters(self._whereabouts.settings(), self._name, blocked_timeout=None)

    async def _channel(self) -> Channel:
        if self._connection is None:
            raise BrokerUnavailable(self.problem or "not connected to the broker")
        return await self._connection.channel()

    async def _use(self, connection: Connection) -> None:
        self._connection = connection
        allowed = int(connection.raw.params.channel_max) or MAX_CHANNELS
        self._reading = max(1, min(READING, (allowed - OTHERS) // 2))
        self._declares = asyncio.Semaphore(max(1, min(DECLARING, allowed - OTHERS - self._reading)))
        self.version = str((connection.raw.server_properties or {}).get("version", ""))
        self.problem, self.ever_connected = "", True
        log.info("connected to the broker", extra={"version": self.version})
        self._connected()
        try:
            while True:
                try:
                    await self._listen(connection)
                except ChannelClosed as error:  # only that channel is closed: queues are read and declared on
                    self._refused_to_hear(error)
                finally:
                    self.listening_since = None
                await asyncio.sleep(EVENTS_RETRY)
        finally:
            self._connection = None
            self._declaring.clear()
            self.problem = "the connection to the broker is lost: connecting again"

    def _refused_to_hear(self, error: ChannelClosed) -> None:
        advice = ""
        if error.reply_code == DIFFERS and f"exchange '{EVENTS_EXCHANGE}'" in error.reply_text:
            advice = f"; delete exchange {EVENTS_EXCHANGE}, and the operator makes it anew"
        problem = f"no events are heard, so queues are read less promptly: {_refusal(error)}{advice}"
        if not self.events_problem:  # once; what comes after it until it is over is the same story
            log.warning("%s", problem)
        self.events_problem = problem

    async def _listen(self, connection: Connection) -> None:
        """Hear events until the channel closes."""
        channel = await connection.channel()
        raw = channel.raw
        arguments = {"x-queue-type": "classic", "x-max-length": EVENTS_KEPT, "x-overflow": "drop-head"}
        # One for each operator: one that stands by hears the workers, too, and knows them when it has to act.
        queue = f"{OPERATOR_EVENTS_PREFIX}{uuid.uuid4().hex[:8]}"
        try:
            await channel.call(raw.queue_declare, queue, exclusive=True, arguments=arguments)
            await self._bind(channel, queue)
            self.listening_since = asyncio.get_running_loop().time()  # what is told from here on is kept for us
            await channel.call(raw.basic_consume, queue, self._on_message, auto_ack=True)
            self.events_problem = ""
            raw.add_on_cancel_callback(lambda _frame: raw.close())  # the queue was deleted: start over
            reason = await keep_bound(connection, channel, lambda aside: self._bind(aside, queue))
        finally:
            if channel.is_open:  # the next try has a queue and a channel of its own
                raw.close()
        if not connection.closed.done():  # else that is lost, which is told for itself
            log.warning("the event queue is lost: %s", reason)

    async def _bind(self, channel: Channel, queue: str) -> None:
        """Have the exchange for events, and its events put into a queue; both may be so already."""
        await channel.call(channel.raw.exchange_declare, EVENTS_EXCHANGE, "topic", durable=True)
        for key in HEARD_KEYS:
            await channel.call(channel.raw.queue_bind, queue, EVENTS_EXCHANGE, key)

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
        self._whereabouts = _Whereabouts(load)
        self._name = name
        self._channel: Channel | None = None
        self.blocked = False

    async def run(self) -> None:
        """Stay connected until cancelled."""
        await keep_connected(self._parameters, lambda connection: self._whereabouts.stay(self._use(connection)))

    def tell(self, state: QueueState) -> None:
        """Publish an event, or drop it where that is not possible right now."""
        if self._channel is not None and self._channel.is_open and not self.blocked:
            self._channel.raw.basic_publish(
                EVENTS_EXCHANGE, state.routing_key, encode(state), BasicProperties(content_type="application/json")
            )

    def _parameters(self) -> pika.ConnectionParameters:
        try:
            return connection_parameters(self._whereabouts.settings(), self._name, blocked_timeout=None)
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


def _refusal(error: ChannelClosed) -> str:
    """In the broker's words, with what to do about a right that is missing."""
    return f"{error.reply_text}{RIGHTS_ADVICE if error.reply_code == REFUSED else ''}"


def release(version: str) -> tuple[int, ...]:
    """`4.3.1` as (4, 3, 1); what follows, such as `-rc.1`, does not count."""
    return tuple(int(number) for number in re.findall(r"\d+", version.partition("-")[0])[:3])
