"""One channel for each queue that has tasks without a confirm, all on one connection.

RabbitMQ's channel process hands a task to its queue before it reads the next one, and waits there for a queue that has
lost its majority or is choosing a leader (seen on 4.3.6). On a shared channel the tasks of all other queues would wait
behind it. So a queue has a channel to itself from its first unconfirmed task to its last, and no channel has more
tasks under way than its process can leave unread without stopping the connection (`WINDOW`). The rest waits here, and
is published as confirms come in. A channel without unconfirmed tasks serves the next queue that needs one.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

import pika
from pika.channel import MAX_CHANNELS
from pika.exceptions import AMQPError

from warren_contract.aio import BrokerUnavailable, Channel, Connection
from warren_contract.names import TASKS_EXCHANGE
from warren_contract.task import TaskProperties
from warren_producer.confirms import Confirms, Key, Outcome
from warren_producer.frames import PublishEncoder

log = logging.getLogger(__name__)

WINDOW = 200
"""Tasks sent on a channel from one moment of calm to the next, with those that were under way in the first. RabbitMQ
lets a connection send 400 messages ahead of a channel's process, which gives this credit back 200 at a time (its
`credit_flow_default_credit`), though not while the queue is behind (`CALM`). In a moment of calm all that was due has
been given back, and 199 at most are not due yet: with 200 more the connection has credit left, whatever becomes of the
queue. Without any it reads nothing, for no channel."""

CALM = 32
"""Tasks without a confirm from which on the queue counts as behind: RabbitMQ's `quorum_commands_soft_limit`."""

WINDOW_BYTES = 4 * 1024 * 1024
"""Bytes of their bodies, unless one alone has more."""

MAX_LANES = 1000
"""Queues with unconfirmed tasks at once: each takes a channel, of which a broker allows 2,047 by default."""

SPARE = 32
"""Channels kept open that no queue needs right now: for queues that come and go, each with a task now and then."""

RESERVED = 8
"""Channels of the connection that are not for lanes: the events', and some that nobody has a use for yet."""

PROBE_KEY = "warren.probe"
"""Routing key that no queue is bound to: work queues cannot have a name that starts with `warren.`."""


class Ticket(Protocol):
    """Whoever waits for what became of one task."""

    @property
    def wanted(self) -> bool:
        """Whether anybody waits still: a task that nobody waits for any more is not published."""

    def published(self) -> None:
        """Called when the task goes out; must not raise."""

    def settle(self, outcome: Outcome) -> None:
        """Called at most once, and exactly once while it is wanted, from the event loop; must not raise."""


class Message(NamedTuple):
    """A task to publish."""

    properties: TaskProperties
    body: bytes
    ticket: Ticket


@dataclass(frozen=True, slots=True)
class Load:
    """Tasks of one queue that have no answer yet, and the bytes of their bodies together."""

    count: int = 0
    size: int = 0


NOTHING = Load()


class _Packet(NamedTuple):
    """A task that waits for its turn, encoded as far as it can be without a channel."""

    id: str
    properties: bytes
    body: bytes
    ticket: Ticket


@dataclass(eq=False, slots=True)
class _Link:
    """An open channel in confirm mode."""

    channel: Channel
    confirms: Confirms[Ticket] = field(default_factory=Confirms)
    ahead: int = 0
    """Sent since the last moment of calm, with those that were without a confirm then."""
    lane: "_Lane | None" = None
    retired: bool = False
    """We closed it ourselves."""


@dataclass(eq=False, slots=True)
class _Lane:
    """A queue's tasks without an answer: those that wait here, and, once it has a channel, those published there."""

    queue: str
    backlog: deque[_Packet] = field(default_factory=deque)
    backlog_size: int = 0
    link: _Link | None = None


class Lanes:
    """The channels of one connection. Whatever ends one of them ends all, so that a caller starts anew.

    Args:
        connection: an open one.
        settled: told of each task's outcome: queue, ticket and outcome.
        moved: called when there is more room than before.

    Attributes:
        count: tasks without an answer.
        size: bytes of their bodies together.
        published: messages sent so far.
    """

    def __init__(
        self, connection: Connection, settled: Callable[[str, Ticket, Outcome], None], moved: Callable[[], None]
    ) -> None:
        self._connection = connection
        self._settled = settled
        self._moved = moved
        params = connection.raw.params
        self._encoder = PublishEncoder(TASKS_EXCHANGE, int(params.frame_max))
        self._max_links = (int(params.channel_max) or MAX_CHANNELS) - RESERVED
        self._lanes: dict[str, _Lane] = {}
        self._links: set[_Link] = set()
        self._free: list[_Link] = []
        self._waiting: deque[_Lane] = deque()
        self._openings: set[asyncio.Task[None]] = set()
        self._probe: _Link | None = None
        self._failed: asyncio.Future[BaseException] = asyncio.get_running_loop().create_future()
        self._ended = False
        self.count = 0
        self.size = 0
        self.published = 0

    def load(self, queue: str) -> Load:
        """What of it all is for `queue`."""
        lane = self._lanes.get(queue)
        if lane is None:
            return NOTHING
        if lane.link is None:
            return Load(len(lane.backlog), lane.backlog_size)
        confirms = lane.link.confirms
        return Load(len(lane.backlog) + len(confirms), lane.backlog_size + confirms.size)

    def has_lane(self, queue: str) -> bool:
        """Whether `queue` has a channel, or can get one."""
        if queue in self._lanes:
            return True
        if len(self._lanes) >= MAX_LANES:
            return False
        # Those that are closing have their numbers until the broker has answered: one more than there are numbers for
        # would end the connection.
        return bool(self._free) or len(self._links) + len(self._openings) < self._max_links

    async def start(self, channel: Channel) -> None:
        """Take `channel` for probes, and open one for the first queue, whose tasks shall not wait for it.

        Raises:
            ChannelClosedByBroker: the broker refused.
            BrokerUnavailable: the connection went away, or no answer came in time.
        """
        self._probe = await self._link(channel)
        self._free.append(await self._link(await self._connection.channel()))

    def probe(self) -> asyncio.Future[Outcome] | None:
        """Publish a message that goes nowhere; its confirm says that the broker takes tasks.

        Returns:
            What became of it; None if the one before is without an answer, or the channel is closing.
        """
        link = self._probe
        if link is None or len(link.confirms) or not link.channel.is_open:
            return None
        waiter = _Probe(asyncio.get_running_loop().create_future())
        link.channel.raw.basic_publish(TASKS_EXCHANGE, PROBE_KEY, b"")
        link.confirms.add(Key(PROBE_KEY, ""), 0, waiter)
        self.published += 1
        return waiter.answer

    def send(self, queue: str, messages: Sequence[Message]) -> None:
        """Publish tasks in their order, each as soon as there is room for it on the queue's channel."""
        packets = [
            _Packet(properties.id, self._encoder.properties(properties), body, ticket)
            for properties, body, ticket in messages
        ]
        lane = self._lanes.get(queue)
        if lane is None:
            lane = self._lanes[queue] = _Lane(queue)
            if self._free:
                lane.link = self._free.pop()
                lane.link.lane = lane
            else:
                self._waiting.append(lane)
                opening = asyncio.create_task(self._open())
                self._openings.add(opening)
                opening.add_done_callback(self._openings.discard)
        lane.backlog.extend(packets)
        size = sum([len(packet.body) for packet in packets])
        lane.backlog_size += size
        self.size += size
        self.count += len(packets)
        self._pump(lane)

    def tidy(self, queue: str) -> None:
        """Forget those tasks at the head of the queue's backlog that nobody waits for any more."""
        lane = self._lanes.get(queue)
        if lane is not None:
            self._tidy(lane)
            self._pump(lane)

    def drop_backlog(self) -> None:
        """Settle what was not published as unsent."""
        for lane in list(self._lanes.values()):
            backlog, lane.backlog = lane.backlog, deque()
            self.count -= len(backlog)
            self.size -= lane.backlog_size
            lane.backlog_size = 0
            self._pump(lane)
            self._settle_unsent(lane.queue, backlog)

    def abandon(self, outcome: Outcome) -> None:
        """Settle what was published with `outcome`, though answers may still come."""
        for lane in self._lanes.values():
            if lane.link is not None:
                for ticket in lane.link.confirms.abandon():
                    self._settled(lane.queue, ticket, outcome)

    async def wait(self, limit: float, *, until: asyncio.Future[Outcome] | None = None) -> None:
        """Wait for a time, or until a future is done.

        Args:
            limit: seconds.
            until: the future.

        Raises:
            Exception: a channel was closed, for this reason; nothing can be published any more.
        """
        ends: list[asyncio.Future[object]] = [self._failed]  # type: ignore[list-item]  # futures are invariant
        if until is not None:
            ends.append(until)  # type: ignore[arg-type]
        await asyncio.wait(ends, timeout=limit, return_when=asyncio.FIRST_COMPLETED)
        if self._failed.done():
            raise self._failed.result()

    def end(self) -> None:
        """Close all channels: what was published is unknown from now on, and the rest unsent."""
        self._ended = True
        for link in self._links:
            _retire(link)
        lanes = list(self._lanes.values())
        self._lanes.clear()
        self._waiting.clear()
        for lane in lanes:
            for ticket in [] if lane.link is None else lane.link.confirms.lose():
                self._settled(lane.queue, ticket, Outcome.UNKNOWN)
            self._settle_unsent(lane.queue, lane.backlog)
        self.count = self.size = 0

    async def _open(self) -> None:
        """One channel more."""
        try:
            link = await self._link(await self._connection.channel())
        except (BrokerUnavailable, AMQPError) as error:
            self._fail(error)
            return
        if self._ended:
            _retire(link)
        else:
            self._provide(link)

    async def _link(self, channel: Channel) -> _Link:
        link = _Link(channel)
        raw = channel.raw

        def on_return(
            _channel: object, method: pika.spec.Basic.Return, properties: pika.BasicProperties, _: bytes
        ) -> None:
            link.confirms.returned(Key(method.routing_key or "", properties.message_id or ""))

        raw.add_on_return_callback(on_return)
        channel.closed.add_done_callback(lambda reason: self._closed(link, reason.result()))
        await channel.call(raw.confirm_delivery, lambda frame: self._on_confirm(link, frame.method))
        self._links.add(link)
        return link

    def _on_confirm(self, link: _Link, method: pika.spec.Basic.Ack | pika.spec.Basic.Nack) -> None:
        confirms = link.confirms
        count, size = len(confirms), confirms.size
        ack = isinstance(method, pika.spec.Basic.Ack)
        settled = confirms.settle(method.delivery_tag, multiple=method.multiple, ack=ack)
        lane = link.lane
        if lane is None:  # the probe's
            for ticket, outcome in settled:
                ticket.settle(outcome)
            return
        self.count -= count - len(confirms)
        self.size -= size - confirms.size
        for ticket, outcome in settled:
            self._settled(lane.queue, ticket, outcome)
        self._pump(lane)
        self._moved()

    def _pump(self, lane: _Lane) -> None:
        """Publish what there is room for; a lane without anything gives its channel back."""
        link = lane.link
        if link is None or not link.channel.is_open:
            return
        confirms, backlog = link.confirms, lane.backlog
        number = link.channel.raw.channel_number
        count, size = len(confirms), confirms.size
        packets: list[_Packet] = []
        if count < CALM:
            link.ahead = count
        while backlog and link.ahead < WINDOW and (not count or size + len(backlog[0].body) <= WINDOW_BYTES):
            packet = self._take(lane)
            if packet.ticket.wanted:
                packets.append(packet)
                link.ahead += 1
                count += 1
                size += len(packet.body)
            else:
                self._forget(packet)
        if packets:
            queue = lane.queue
            frames = [self._encoder.frames(number, queue, packet.properties, packet.body) for packet in packets]
            # pika's basic_publish writes each of a message's three frames by a system call of its own, which costs
            # more than everything else here; it has no public way to write a message, or several, at once.
            link.channel.raw.connection._output_marshaled_frames([b"".join(frames)])  # type: ignore[attr-defined]
            for packet in packets:
                confirms.add(Key(queue, packet.id), len(packet.body), packet.ticket)
                packet.ticket.published()
            self.published += len(packets)
        elif not count and not backlog:
            del self._lanes[lane.queue]
            lane.link = link.lane = None
            self._provide(link)

    def _provide(self, link: _Link) -> None:
        """Give a channel that nobody uses to the queue that has waited longest, or keep it for the next one."""
        while self._waiting:
            lane = self._waiting.popleft()
            self._tidy(lane)
            if lane.backlog:
                lane.link, link.lane = link, lane
                self._pump(lane)
                return
            del self._lanes[lane.queue]
        if len(self._free) < SPARE:
            self._free.append(link)
        else:
            _retire(link)

    def _settle_unsent(self, queue: str, packets: Iterable[_Packet]) -> None:
        for packet in packets:
            if packet.ticket.wanted:
                self._settled(queue, packet.ticket, Outcome.UNSENT)

    def _tidy(self, lane: _Lane) -> None:
        while lane.backlog and not lane.backlog[0].ticket.wanted:
            self._forget(self._take(lane))

    def _forget(self, packet: _Packet) -> None:
        self.count -= 1
        self.size -= len(packet.body)

    def _take(self, lane: _Lane) -> _Packet:
        packet = lane.backlog.popleft()
        lane.backlog_size -= len(packet.body)
        return packet

    def _closed(self, link: _Link, reason: BaseException) -> None:
        self._links.discard(link)
        if not link.retired:
            self._fail(reason)

    def _fail(self, reason: BaseException) -> None:
        if not self._failed.done():
            self._failed.set_result(reason)


def _retire(link: _Link) -> None:
    """Close a channel that is not needed any more."""
    link.retired = True
    if link.channel.raw.is_open:
        link.channel.raw.close()


class _Probe:
    """Whoever waits for a probe's confirm."""

    wanted = True

    def __init__(self, answer: asyncio.Future[Outcome]) -> None:
        self.answer = answer

    def published(self) -> None:
        """Nobody asks."""

    def settle(self, outcome: Outcome) -> None:
        """Pass it on, unless nobody waits any more."""
        if not self.answer.done():
            self.answer.set_result(outcome)
