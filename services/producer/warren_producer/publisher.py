"""Publishing tasks with pipelined confirms: one connection, any number of concurrent submits.

A submit is published at once and waits for its own confirm; the broker confirms many at a time, so that concurrent
submits share round trips and disk writes. Where the broker cannot take tasks right now, a submit is refused at once
with the reason; where the answer stays out, it ends at its deadline with the outcome unknown.
"""

import asyncio
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum

import pika
from pika.exceptions import ChannelClosedByBroker

from warren_contract.aio import ANSWER_LIMIT, BrokerUnavailable, Channel, Connection, keep_connected
from warren_contract.backoff import Backoff
from warren_contract.names import TASKS_EXCHANGE
from warren_contract.task import TaskProperties
from warren_producer.confirms import Outcome
from warren_producer.deadlines import Deadlines
from warren_producer.lanes import NOTHING, Lanes, Load, Message, Ticket
from warren_producer.outbox import Outbox

log = logging.getLogger(__name__)

MAX_TASKS = 20_000
"""Submits that wait for their confirm at once. A healthy broker confirms tens of thousands a second; a queue that has
stopped to confirm keeps up to `lanes.WINDOW` of these until it goes on."""

MAX_BYTES = 64 * 1024 * 1024
"""Bytes of task bodies that wait for their confirm at once: they may all lie in this process's memory."""

QUEUE_TASKS = 0.1
"""Of `MAX_TASKS`, for one queue: one that confirms slowly, or not at all, leaves room for submits to all others."""

QUEUE_BYTES = 0.25
"""Of `MAX_BYTES`, for one queue."""

BATCH_SHARE = 0.5
"""Of both limits, and of one queue's share of them, for batches: they wait where single submits are refused."""

PROBE_INTERVAL = 1.0
"""Seconds without a submit after which a probe looks whether the broker still takes tasks."""

STALL_LIMIT = 1.0
"""Seconds from the broker's word that it blocks until the submits in flight are answered. What it had read by then it
confirms within milliseconds; what it had not, it reads when the alarm is over, if the connection lives that long."""

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


class _Submit:
    """The ticket of a task that is submitted by itself."""

    __slots__ = ("_publisher", "_queue", "_sent", "_told", "wanted")

    def __init__(self, publisher: "Publisher", queue: str, told: "Told") -> None:
        self._publisher = publisher
        self._queue = queue
        self._told = told
        self._sent = False
        self.wanted = True

    def published(self) -> None:
        """From now on the broker may have it."""
        self._sent = True

    def settle(self, outcome: Outcome) -> None:
        """Tell what became of it, once."""
        if not self.wanted:
            return
        self.wanted = False
        if outcome is Outcome.CONFIRMED:
            self._told(None)
        else:
            if outcome is Outcome.LATE:
                self._publisher.withdraw(self._queue)
            self._told(self._publisher.not_accepted(self._queue, outcome, sent=self._sent))


Told = Callable[[NotAccepted | None], None]
"""Is called once, with None where a queue has the task safely; must not raise."""


class Publisher:
    """The publishing connection; `run` it as long as the program lives.

    Args:
        parameters: of each connection attempt.
        outbox: sends events over the same connection, and is told of each confirmed task.
        limit: seconds that a submit waits for its confirm.
        max_tasks: submits that may wait for their confirm at once; `QUEUE_TASKS` of them for one queue.
        max_bytes: bytes of their bodies together; `QUEUE_BYTES` of them for one queue.
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
        self._lanes: Lanes | None = None
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
        return 0 if self._lanes is None else self._lanes.count

    @property
    def obstacle(self) -> NotAccepted | None:
        """Why nothing can be published right now, whatever the task; None if something can."""
        if self._blocked:
            return NotAccepted(
                Cause.BLOCKED,
                "the broker takes no tasks: a memory or disk alarm is in effect there; try again once it is over",
            )
        return self._obstacle if self._lanes is None else None

    async def run(self) -> None:
        """Keep a publishing connection until cancelled."""
        await keep_connected(self._attempt, self._use)

    async def wait_for_room(self, queue: str, limit: float) -> None:
        """Wait until many tasks may be published at once: batches leave `BATCH_SHARE` of the limits to single submits.

        Returns at once where something else stands in the way, which `publish` tells of.

        Args:
            queue: they go to.
            limit: seconds to wait.

        Raises:
            NotAccepted: there was no room in time.
        """
        deadline = asyncio.get_running_loop().time() + limit
        while self._lanes is not None and not self._blocked and not self._has_room(self._lanes, queue):
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

    def publish(self, queue: str, messages: Sequence[Message]) -> None:
        """Publish tasks, all or none; each ticket is settled once, unless it gives up first.

        Raises:
            NotAccepted: nothing will be published, no ticket will be settled.
        """
        obstacle = self.obstacle
        lanes = self._lanes
        if obstacle is not None or lanes is None:
            raise obstacle or self._obstacle
        if not lanes.has_lane(queue):
            raise NotAccepted(
                Cause.OVERLOADED,
                "tasks for too many queues at once wait for the broker's confirm: try again in a moment",
            )
        lanes.send(queue, messages)

    def withdraw(self, queue: str) -> None:
        """Take tasks for `queue` back that were not published and whose tickets are not wanted any more."""
        if self._lanes is not None:
            self._lanes.tidy(queue)
            self._tell_of_room()

    def begin(self, queue: str, properties: TaskProperties, body: bytes, told: Told) -> None:
        """Publish a task; `told` hears whether a queue has it safely, at the deadline at the latest.

        Args:
            queue: its name.
            properties: the task's.
            body: its payload.
            told: hears it.

        Raises:
            NotAccepted: nothing will be published, and `told` not called.
        """
        if self._lanes is not None:
            self._check_room(self._lanes, queue, len(body))
        ticket = _Submit(self, queue, told)
        self.publish(queue, (Message(properties, body, ticket),))
        self._deadlines.add(ticket)

    async def submit(self, queue: str, properties: TaskProperties, body: bytes) -> None:
        """Publish a task and wait until a queue has it safely.

        Args:
            queue: its name.
            properties: the task's.
            body: its payload.

        Raises:
            NotAccepted: the task is in no queue; or, with cause `OUTCOME_UNKNOWN`, perhaps in one.
        """
        answer: asyncio.Future[NotAccepted | None] = asyncio.get_running_loop().create_future()

        def told(error: NotAccepted | None) -> None:
            if not answer.done():
                answer.set_result(error)

        self.begin(queue, properties, body, told)
        error = await answer
        if error is not None:
            raise error

    def not_accepted(self, queue: str, outcome: Outcome, *, sent: bool) -> NotAccepted:
        """What to say of a task that was not confirmed.

        Args:
            queue: where it was to go.
            outcome: what became of it.
            sent: whether it was published.
        """
        limit = f"{self._deadlines.limit:g} s"
        match outcome:
            case Outcome.RETURNED:
                return NotAccepted(Cause.QUEUE_UNKNOWN, f"queue {queue!r} does not exist: create a WorkQueue for it")
            case Outcome.REFUSED:
                return NotAccepted(
                    Cause.QUEUE_FULL,
                    f"queue {queue!r} refused the task: it is full (at its maxLength), or has no broker right now; try "
                    "again later",
                )
            case Outcome.UNSENT:
                return self.obstacle or NotAccepted(
                    Cause.DISCONNECTED,
                    f"the connection to the broker was lost before the task went to queue {queue!r}: try again",
                )
            case Outcome.LATE if not sent:
                return NotAccepted(
                    Cause.OVERLOADED,
                    f"the task was not published within {limit}, since the broker confirmed too few of those for queue "
                    f"{queue!r} that came before it: try again",
                )
            case Outcome.LATE:
                what = f"the broker did not confirm the task within {limit}"
            case Outcome.STALLED:
                what = "a memory or disk alarm came into effect in the broker before it confirmed the task"
            case _:
                what = "the connection to the broker was lost before it confirmed the task"
        message = f"{what}: it may or may not be in queue {queue!r}, now or later"
        return NotAccepted(Cause.OUTCOME_UNKNOWN, message)

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
        """Keep channels for tasks open; returns never, raises what makes the connection useless."""
        delays = EXCHANGE_RETRY.delays()
        while True:
            channel = await connection.channel()
            try:
                await channel.call(channel.raw.exchange_declare, TASKS_EXCHANGE, passive=True)
                await self._publish_over(connection, channel)
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

    async def _publish_over(self, connection: Connection, channel: Channel) -> None:
        """Take tasks until a channel closes, then raise why.

        Args:
            connection: where the tasks' channels are.
            channel: one for probes.
        """
        lanes = Lanes(connection, self._settled, self._tell_of_room)
        try:
            await lanes.start(channel)
            await self._probe(lanes)
            self._lanes = lanes
            self._ready_once = True
            log.info("ready to publish")
            await self._probe_when_idle(lanes)
        finally:
            self._lanes = None
            lanes.end()
            self._tell_of_room()

    async def _probe_when_idle(self, lanes: Lanes) -> None:
        """Publish a probe whenever there was no submit for a while, until a channel closes; then raise why.

        A broker tells of an alarm only when it reads something published, and stops reading right there. Without this,
        the first submit after a pause would meet the alarm, with its outcome unknown until the alarm is over.
        """
        while True:
            published = lanes.published
            await lanes.wait(PROBE_INTERVAL)
            if lanes.published == published and not self._blocked:
                lanes.probe()

    async def _probe(self, lanes: Lanes) -> None:
        """Publish a message that goes nowhere and wait for its confirm.

        A broker under an alarm says so only once a connection has published. Without this, the first task on each new
        connection would hang there until its deadline.
        """
        answer = lanes.probe()
        while answer is not None and not answer.done():
            await lanes.wait(ANSWER_LIMIT, until=answer)
            if not answer.done() and not self._blocked:
                raise BrokerUnavailable(f"the broker did not confirm anything within {ANSWER_LIMIT:g} s")

    def _settled(self, queue: str, ticket: Ticket, outcome: Outcome) -> None:
        ticket.settle(outcome)
        if outcome is Outcome.CONFIRMED:
            self._outbox.submitted(queue)

    def _check_room(self, lanes: Lanes, queue: str, size: int) -> None:
        """Raise where one task more would be too much."""
        full = lanes.count >= self._max_tasks or lanes.size + size > self._max_bytes
        load = NOTHING
        # Most of the time there is so little that no queue can have its share.
        if lanes.count >= self._max_tasks * QUEUE_TASKS or lanes.size + size > self._max_bytes * QUEUE_BYTES:
            load = lanes.load(queue)
            # A body of its own may be larger than a queue's share.
            full = full or (load.count > 0 and not self._fits(load, size))
        if full:
            raise NotAccepted(
                Cause.OVERLOADED,
                f"{lanes.count} tasks of {lanes.size} bytes wait for the broker's confirm already, {load.count} of "
                f"them for queue {queue!r}: try again in a moment",
            )

    def _fits(self, load: Load, size: int) -> bool:
        return load.count < self._max_tasks * QUEUE_TASKS and load.size + size <= self._max_bytes * QUEUE_BYTES

    def _has_room(self, lanes: Lanes, queue: str) -> bool:
        load = lanes.load(queue)
        tasks, size = self._max_tasks * BATCH_SHARE, self._max_bytes * BATCH_SHARE
        own = load.count < tasks * QUEUE_TASKS and load.size < size * QUEUE_BYTES
        return own and lanes.count < tasks and lanes.size < size

    def _tell_of_room(self) -> None:
        """Wake those that have room now; all of them, where something else stands in the way."""
        lanes = None if self._blocked else self._lanes
        for queue, room in self._waiting_for_room:
            if not room.done() and (lanes is None or self._has_room(lanes, queue)):
                room.set_result(None)

    def _on_blocked(self, blocked: bool) -> None:
        self._blocked = blocked
        self._outbox.blocked = blocked
        log.warning("the broker %s", "blocks publishing: a memory or disk alarm" if blocked else "takes tasks again")
        if blocked:
            self._tell_of_room()
            if self._lanes is not None:
                self._lanes.drop_backlog()
            asyncio.get_running_loop().call_later(STALL_LIMIT, self._give_up, self._lanes)

    def _give_up(self, lanes: Lanes | None) -> None:
        """Answer what was in flight when the broker stopped reading, unless it reads again."""
        if lanes is not None and lanes is self._lanes and self._blocked:
            lanes.abandon(Outcome.STALLED)
