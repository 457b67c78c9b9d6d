"""Publishing tasks with pipelined confirms: one connection, one channel, any number of concurrent submits.

A submit is published at once and waits for its own confirm; the broker confirms many at a time, so that concurrent
submits share round trips and disk writes. Where the broker cannot take tasks right now, a submit is refused at once
with the reason; where the answer stays out, it ends at its deadline with the outcome unknown.
"""

import asyncio
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import NamedTuple, NoReturn, Protocol

import pika
from pika.exceptions import ChannelClosedByBroker

from warren_contract.aio import ANSWER_LIMIT, BrokerUnavailable, Channel, Connection, keep_connected
from warren_contract.backoff import Backoff
from warren_contract.names import TASKS_EXCHANGE
from warren_contract.task import TaskProperties
from warren_producer.confirms import Confirms, Key, Outcome
from warren_producer.deadlines import Deadlines
from warren_producer.frames import PublishEncoder
from warren_producer.outbox import Outbox

log = logging.getLogger(__name__)

MAX_TASKS = 4000
"""Submits that wait for their confirm at once. A healthy broker confirms tens of thousands a second."""

MAX_BYTES = 64 * 1024 * 1024
"""Bytes of task bodies that wait for their confirm at once: they may all lie in this process's memory."""

QUEUE_SHARE = 0.5
"""Of both limits, for one queue: one that confirms slowly leaves room for submits to all others. It is no help where a
queue has lost its majority: RabbitMQ's channel process waits for it, and reads nothing for others (seen on 4.3.6)."""

BATCH_SHARE = 0.5
"""Of both limits, and of one queue's share of them, for batches: they wait where single submits are refused."""

PROBE_INTERVAL = 1.0
"""Seconds without a submit after which a probe looks whether the broker still takes tasks."""

STALL_LIMIT = 1.0
"""Seconds from the broker's word that it blocks until the submits in flight are answered. What it had read by then it
confirms within milliseconds; what it had not, it reads when the alarm is over, if the connection lives that long."""

PROBE_KEY = "warren.probe"
"""Routing key that no queue is bound to: work queues cannot have a name that starts with `warren.`."""

EXCHANGE_RETRY = Backoff(first=0.5, longest=2.0)
"""Between looks for an exchange that does not exist yet."""

NOT_FOUND = 404
"""AMQP reply code: the exchange or queue does not exist."""


class Cause(Enum):
    """Why a task was not accepted."""

    DISCONNECTED = "disconnected"
    BLOCKED = "blocked"
    NO_EXCHANGE = "no_exchange"
    OVERLOADED = "overloaded"
    QUEUE_UNKNOWN = "queue_unknown"
    QUEUE_FULL = "queue_full"
    OUTCOME_UNKNOWN = "outcome_unknown"


@dataclass(slots=True)
class NotAccepted(Exception):
    """A task was not accepted, or (`OUTCOME_UNKNOWN` only) may or may not have been.

    Attributes:
        cause: which kind.
        message: what happened and what to do.
    """

    cause: Cause
    message: str

    def __str__(self) -> str:
        return self.message


class Ticket(Protocol):
    """Whoever waits for what became of one published task."""

    def settle(self, outcome: Outcome) -> None:
        """Called once, from the event loop; must not raise."""


class Message(NamedTuple):
    """A task to publish."""

    properties: TaskProperties
    body: bytes
    ticket: Ticket


class _Waiter:
    """One task that somebody awaits."""

    def __init__(self) -> None:
        self.answer: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()

    def settle(self, outcome: Outcome) -> None:
        """Pass it on, unless nobody waits any more."""
        if not self.answer.done():
            self.answer.set_result(outcome)


@dataclass(frozen=True, slots=True)
class _Pending:
    """One published task, or a probe, whose queue is the empty name."""

    queue: str
    ticket: Ticket


@dataclass(frozen=True, slots=True)
class _Lane:
    """An open channel in confirm mode that the broker has answered on."""

    channel: Channel
    confirms: Confirms[_Pending]
    encoder: PublishEncoder


class Publisher:
    """The publishing connection; `run` it as long as the program lives.

    Args:
        parameters: of each connection attempt.
        outbox: sends events over the same connection, and is told of each confirmed task.
        limit: seconds that a submit waits for its confirm.
        max_tasks: submits that may wait for their confirm at once; `QUEUE_SHARE` of them for one queue.
        max_bytes: bytes of their bodies together, likewise.
    """

    def __init__(
        self,
        parameters: Callable[[], pika.ConnectionParameters],
        outbox: Outbox,
        *,
        limit: float,
        max_tasks: int = MAX_TASKS,
        max_bytes: int = MAX_BYTES,
    ) -> None:
        self._parameters = parameters
        self._outbox = outbox
        self._deadlines = Deadlines(limit, Outcome.LATE)
        self._max_tasks = max_tasks
        self._max_bytes = max_bytes
        self._lane: _Lane | None = None
        self._blocked = False
        self._obstacle = NotAccepted(Cause.DISCONNECTED, "not connected to the broker yet: try again")
        self._ready_once = False
        self._waiting_for_room: list[tuple[str, asyncio.Future[None]]] = []

    @property
    def ready_once(self) -> bool:
        """Whether tasks could be published at any time since the start."""
        return self._ready_once

    @property
    def in_flight(self) -> int:
        """Tasks that wait for their confirm."""
        return 0 if self._lane is None else len(self._lane.confirms)

    @property
    def obstacle(self) -> NotAccepted | None:
        """Why nothing can be published right now, whatever the task; None if something can."""
        if self._blocked:
            return NotAccepted(
                Cause.BLOCKED,
                "the broker takes no tasks: a memory or disk alarm is in effect there; try again once it is over",
            )
        return self._obstacle if self._lane is None else None

    async def run(self) -> None:
        """Keep a publishing connection until cancelled."""
        await keep_connected(self._attempt, self._use)

    def publish(self, queue: str, properties: TaskProperties, body: bytes) -> asyncio.Future[Outcome]:
        """Publish a task; the future ends with what became of it and never raises.

        Raises:
            NotAccepted: nothing was published.
        """
        obstacle = self.obstacle
        lane = self._lane
        if obstacle is not None or lane is None:
            raise obstacle or self._obstacle
        load = lane.confirms.load(queue)
        full = len(lane.confirms) >= self._max_tasks or lane.confirms.size + len(body) > self._max_bytes
        # A body of its own may be larger than a queue's share.
        if load.count and not full:
            full = load.count >= self._max_tasks * QUEUE_SHARE or load.size + len(body) > self._max_bytes * QUEUE_SHARE
        if full:
            raise NotAccepted(
                Cause.OVERLOADED,
                f"{len(lane.confirms)} tasks of {lane.confirms.size} bytes wait for the broker's confirm already, "
                f"{load.count} of them for queue {queue!r}: try again in a moment",
            )
        waiter = _Waiter()
        self._send(lane, queue, [Message(properties, body, waiter)])
        return waiter.answer

    async def wait_for_room(self, queue: str, limit: float) -> None:
        """Wait until many tasks may be published at once: batches leave `BATCH_SHARE` of the limits to single submits.

        Returns at once where something else stands in the way, which `publish_many` tells of.

        Args:
            queue: they go to.
            limit: seconds to wait.

        Raises:
            NotAccepted: there was no room in time.
        """
        deadline = asyncio.get_running_loop().time() + limit
        while self._lane is not None and not self._blocked and not self._has_room(self._lane.confirms, queue):
            room: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiting_for_room.append((queue, room))
            try:
                async with asyncio.timeout_at(deadline):
                    await room
            except TimeoutError:
                raise NotAccepted(
                    Cause.OVERLOADED,
                    f"the broker confirmed too few of the tasks that wait for it within {limit:g} s: try again",
                ) from None
            finally:
                self._waiting_for_room.remove((queue, room))

    def publish_many(self, queue: str, messages: Sequence[Message]) -> None:
        """Publish tasks in one write, all or none; each ticket is settled once.

        Raises:
            NotAccepted: nothing was published, no ticket will be settled.
        """
        obstacle = self.obstacle
        lane = self._lane
        if obstacle is not None or lane is None:
            raise obstacle or self._obstacle
        self._send(lane, queue, messages)

    def _send(self, lane: _Lane, queue: str, messages: Sequence[Message]) -> None:
        if not lane.channel.is_open:
            raise NotAccepted(Cause.DISCONNECTED, "the channel to the broker is closing: try again")
        data = b"".join([lane.encoder.encode(queue, properties, body) for properties, body, _ in messages])
        # pika's basic_publish writes each of a message's three frames by a system call of its own, which costs more
        # than everything else here; it has no public way to write a message, or several, at once.
        lane.channel.raw.connection._output_marshaled_frames([data])  # type: ignore[attr-defined]  # not in the stubs
        for properties, body, ticket in messages:
            lane.confirms.add(Key(queue, properties.id), len(body), _Pending(queue, ticket))

    async def submit(self, queue: str, properties: TaskProperties, body: bytes) -> None:
        """Publish a task and wait until a queue has it safely.

        Args:
            queue: its name.
            properties: the task's.
            body: its payload.

        Raises:
            NotAccepted: the task is in no queue; or, with cause `OUTCOME_UNKNOWN`, perhaps in one.
        """
        answer = self.publish(queue, properties, body)
        self._deadlines.add(answer)
        outcome = await answer
        match outcome:
            case Outcome.CONFIRMED:
                return
            case Outcome.RETURNED:
                raise NotAccepted(Cause.QUEUE_UNKNOWN, f"queue {queue!r} does not exist: create a WorkQueue for it")
            case Outcome.REFUSED:
                raise NotAccepted(
                    Cause.QUEUE_FULL,
                    f"queue {queue!r} refused the task: it is full (at its maxLength); try again later",
                )
            case Outcome.LATE:
                raise NotAccepted(
                    Cause.OUTCOME_UNKNOWN,
                    f"the broker did not confirm the task within {self._deadlines.limit:g} s: it may or may not be in "
                    f"queue {queue!r}",
                )
            case Outcome.STALLED:
                raise NotAccepted(
                    Cause.OUTCOME_UNKNOWN,
                    "a memory or disk alarm came into effect in the broker before it confirmed the task: it may or may "
                    f"not take it into queue {queue!r} once that is over",
                )
            case Outcome.UNKNOWN:
                raise NotAccepted(
                    Cause.OUTCOME_UNKNOWN,
                    "the connection to the broker was lost before it confirmed the task: it may or may not be in queue "
                    f"{queue!r}",
                )

    def _attempt(self) -> pika.ConnectionParameters:
        self._obstacle = NotAccepted(Cause.DISCONNECTED, "the broker is not reachable: try again")
        return self._parameters()

    async def _use(self, connection: Connection) -> None:
        connection.raw.add_on_connection_blocked_callback(lambda *_: self._on_blocked(True))
        connection.raw.add_on_connection_unblocked_callback(lambda *_: self._on_blocked(False))
        jobs = {
            asyncio.create_task(self._serve(connection)),
            asyncio.create_task(self._outbox.serve(connection)),
        }
        try:
            done, _ = await asyncio.wait(jobs, return_when=asyncio.FIRST_COMPLETED)
            for job in done:
                job.result()
        finally:
            for job in jobs:
                job.cancel()
            await asyncio.gather(*jobs, return_exceptions=True)
            # If pika gave up on a blocked connection, the alarm is still what stands in the way until the next attempt.
            self._obstacle = self.obstacle or self._obstacle
            self._blocked = self._outbox.blocked = False

    async def _serve(self, connection: Connection) -> None:
        """Keep a confirm channel open; returns never, raises what makes the connection useless."""
        delays = EXCHANGE_RETRY.delays()
        while True:
            channel = await connection.channel()
            try:
                await channel.call(channel.raw.exchange_declare, TASKS_EXCHANGE, passive=True)
                await self._confirming(channel)
                delays = EXCHANGE_RETRY.delays()
            except ChannelClosedByBroker as error:
                if error.reply_code != NOT_FOUND:
                    raise
                self._obstacle = NotAccepted(
                    Cause.NO_EXCHANGE,
                    f"the broker has no exchange {TASKS_EXCHANGE!r} yet: it is declared by the operator, which this "
                    "producer waits for; try again",
                )
                log.warning("waiting for the operator to declare exchange %s", TASKS_EXCHANGE)
            await asyncio.sleep(next(delays))

    async def _confirming(self, channel: Channel) -> None:
        """Publish on `channel` until it closes, then raise why."""
        confirms: Confirms[_Pending] = Confirms()

        def on_return(
            _channel: object, method: pika.spec.Basic.Return, properties: pika.BasicProperties, _: bytes
        ) -> None:
            confirms.returned(Key(method.routing_key or "", properties.message_id or ""))

        def on_confirm(frame: pika.frame.Method[pika.spec.Basic.Ack | pika.spec.Basic.Nack]) -> None:
            method = frame.method
            ack = isinstance(method, pika.spec.Basic.Ack)
            for ticket, outcome in confirms.settle(method.delivery_tag, multiple=method.multiple, ack=ack):
                self._settled(ticket, outcome)
            if self._waiting_for_room:
                self._tell_of_room(confirms)

        channel.raw.add_on_return_callback(on_return)
        try:
            await channel.call(channel.raw.confirm_delivery, on_confirm)
            await self._probe(channel, confirms)
            frame_max = int(channel.raw.connection.params.frame_max)
            encoder = PublishEncoder(channel.raw.channel_number, TASKS_EXCHANGE, frame_max)
            self._lane = _Lane(channel, confirms, encoder)
            self._ready_once = True
            log.info("ready to publish")
            await self._probe_when_idle(channel, confirms)
        finally:
            self._lane = None
            for ticket in confirms.lose():
                self._settled(ticket, Outcome.UNKNOWN)
            self._tell_of_room()

    async def _probe_when_idle(self, channel: Channel, confirms: Confirms[_Pending]) -> NoReturn:
        """Publish a probe whenever there was no submit for a while, until the channel closes; then raise why.

        A broker tells of an alarm only when it reads something published, and stops reading right there. Without this,
        the first submit after a pause would meet the alarm, with its outcome unknown until the alarm is over.
        """
        while True:
            published = confirms.published
            await asyncio.wait([channel.closed], timeout=PROBE_INTERVAL)
            if channel.closed.done():
                raise channel.closed.result()
            if confirms.published == published and not len(confirms) and not self._blocked and channel.is_open:
                channel.raw.basic_publish(TASKS_EXCHANGE, PROBE_KEY, b"")
                confirms.add(Key(PROBE_KEY, ""), 0, _Pending("", _Waiter()))

    async def _probe(self, channel: Channel, confirms: Confirms[_Pending]) -> None:
        """Publish a message that goes nowhere and wait for its confirm.

        A broker under an alarm says so only once a connection has published. Without this, the first task on each new
        connection would hang there until its deadline.
        """
        probe = _Waiter()
        channel.raw.basic_publish(TASKS_EXCHANGE, PROBE_KEY, b"")
        confirms.add(Key(PROBE_KEY, ""), 0, _Pending("", probe))
        while not probe.answer.done():
            ends: list[asyncio.Future[object]] = [probe.answer, channel.closed]  # type: ignore[list-item]
            await asyncio.wait(ends, timeout=ANSWER_LIMIT, return_when=asyncio.FIRST_COMPLETED)
            if channel.closed.done():
                raise channel.closed.result()
            if not probe.answer.done() and not self._blocked:
                raise BrokerUnavailable(f"the broker did not confirm anything within {ANSWER_LIMIT:g} s")

    def _settled(self, pending: _Pending, outcome: Outcome) -> None:
        pending.ticket.settle(outcome)
        if outcome is Outcome.CONFIRMED and pending.queue:
            self._outbox.submitted(pending.queue)

    def _has_room(self, confirms: Confirms[_Pending], queue: str) -> bool:
        load = confirms.load(queue)
        tasks, size = self._max_tasks * BATCH_SHARE, self._max_bytes * BATCH_SHARE
        own = load.count < tasks * QUEUE_SHARE and load.size < size * QUEUE_SHARE
        return own and len(confirms) < tasks and confirms.size < size

    def _tell_of_room(self, confirms: Confirms[_Pending] | None = None) -> None:
        """Wake those that have room now; all of them, where something else stands in the way."""
        for queue, room in self._waiting_for_room:
            if not room.done() and (confirms is None or self._has_room(confirms, queue)):
                room.set_result(None)

    def _on_blocked(self, blocked: bool) -> None:
        self._blocked = blocked
        self._outbox.blocked = blocked
        log.warning("the broker %s", "blocks publishing: a memory or disk alarm" if blocked else "takes tasks again")
        if blocked:
            self._tell_of_room()
            asyncio.get_running_loop().call_later(STALL_LIMIT, self._give_up, self._lane)

    def _give_up(self, lane: _Lane | None) -> None:
        """Answer what was in flight when the broker stopped reading, unless it reads again."""
        if lane is None or lane is not self._lane or not self._blocked:
            return
        for ticket in lane.confirms.abandon():
            self._settled(ticket, Outcome.STALLED)
