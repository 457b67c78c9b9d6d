"""The worker itself: from a delivery to its handler, from the outcome to the broker, and an orderly end."""

import logging
import time
from collections.abc import Collection
from dataclasses import dataclass
from enum import Enum
from functools import partial

from warren_contract.dead import Reason
from warren_contract.events import RunningTask, WorkerState
from warren_contract.names import dead_queue
from warren_contract.task import submitted_at
from warren_worker.broker_link import BrokerLink
from warren_worker.connection import raw_properties
from warren_worker.consumer import Consumer, Delivery, Session
from warren_worker.dead_letters import DeadLetters
from warren_worker.executor import Executor, Job
from warren_worker.health import Answer
from warren_worker.intake import take_in, undecodable
from warren_worker.loop import Loop, Timer
from warren_worker.metrics import Counters, Gauges, render
from warren_worker.reporter import Reporter
from warren_worker.settings import WorkerSettings
from warren_worker.verdict import INTERRUPTED, Done, Failed, Interrupted, Outcome, Verdict, verdict

log = logging.getLogger(__name__)

CANCEL_LIMIT = 10.0
"""Seconds to wait for the broker's answer to our cancel; it needs milliseconds, and the grace period is running."""

KILL_LIMIT = 5.0
"""Seconds for a killed handler process to be gone; what then hangs in the kernel is left behind."""

CLOSE_LIMIT = 5.0
"""Seconds for the closing handshakes at the end."""

PUBLISH_AFTER = 0.5
"""Seconds from the first consume until the connection for events is made, unless the first task ends sooner. In a burst
a dozen workers start at once, and what comes first is that all of them take tasks."""

PUBLISH_LATEST = 5.0
"""Seconds from the start until that connection is made in any case: a worker may wait for its queue."""

PROGRESS_GAP = 1.0
"""Seconds between two progress lines of one task."""

EXIT_OK, EXIT_FAILED, EXIT_USAGE = 0, 1, 2


class Phase(Enum):
    """How far the worker's life has come."""

    WORKING = "working"
    DRAINING = "draining"
    CLOSING = "closing"


@dataclass(slots=True)
class InHand:
    """A task between its delivery and its verdict.

    Attributes:
        delivery: as it came.
        id: the task's.
        attempt: from 1.
        started: monotonic time of its start.
        killed: its end has been ordered.
        progress_at: monotonic time of its last progress line.
    """

    delivery: Delivery
    id: str
    attempt: int
    started: float
    killed: bool = False
    progress_at: float = float("-inf")


class Worker:
    """Ties consumer, executor and reporter together. All of it belongs to the loop's thread.

    Args:
        loop: runs everything.
        settings: the worker's.
        link: the consuming connection.
        executor: runs the handlers.
        publish_link: the connection for events and dead letters.
    """

    def __init__(
        self,
        loop: Loop,
        settings: WorkerSettings,
        link: BrokerLink,
        executor: Executor,
        publish_link: BrokerLink,
    ) -> None:
        self._loop = loop
        self._settings = settings
        self._link = link
        self._executor = executor
        self._consumer = Consumer(loop, link, settings.queue, settings.consumer_timeout, self._places)
        self._publish_link = publish_link
        self._reporter = Reporter(loop, self.state)
        self._dead_letters = DeadLetters(loop, settings.queue)
        self._counters = Counters()
        self._started_at = time.time()
        self._started = time.monotonic()
        self._phase = Phase.WORKING
        self._in_hand: dict[int, InHand] = {}
        self._ticket = 0
        self._can_run = False
        self._has_consumed = False
        self._publishes = False
        self._cancelled = False
        self._given_up = False
        self._limit: Timer | None = None
        self._open_ends = 2
        self._link_closed = False
        self.exit_code = EXIT_OK
        self.sentence = ""
        """What to tell the user at the end, where the worker could not even start."""

    def start(self) -> None:
        """Load the handler and connect, side by side."""
        self._consumer.start(self)
        self._loop.call_later(PUBLISH_LATEST, self._begin_to_publish)
        self._reporter.start()
        self._executor.start(self)

    # What the world asks.

    def state(self) -> WorkerState:
        """The worker's state, as it is sent to `warren.events`."""
        now = time.monotonic()
        running = tuple(RunningTask(hand.id, self._told(hand.started)) for hand in self._in_hand.values())
        return WorkerState(
            queue=self._settings.queue,
            worker=self._settings.name,
            at=self._told(now),
            started_at=self._started_at,
            concurrency=self._settings.concurrency,
            running=running,
            finished=self._counters.finished,
            failed=self._counters.failed,
            finished_seconds=self._counters.seconds,
            running_seconds=sum(now - hand.started for hand in self._in_hand.values()),
            draining=self._phase is not Phase.WORKING,
            dead=self._counters.tasks["dead"],
            letters_refused=self._counters.letters_refused,
        )

    def healthz(self) -> Answer:
        """Alive, since the loop that answers is the loop that works."""
        return Answer(200, "ok\n")

    def readyz(self) -> Answer:
        """Ready once it has consumed, and for ever after.

        A busy worker that reconnects must not look unready: a ReplicaSet that shrinks removes unready pods first.
        """
        if self._has_consumed:
            return Answer(200, "ok\n")
        return Answer(503, f"waiting for queue {self._settings.queue}\n")

    def metrics(self) -> Answer:
        """Prometheus' text."""
        gauges = Gauges(
            queue=self._settings.queue,
            running=len(self._in_hand),
            concurrency=self._settings.concurrency,
            connected=self._link.is_open,
            draining=self._phase is not Phase.WORKING,
            reconnects=self._link.losses,
            started_at=self._started_at,
        )
        return Answer(200, render(self._counters, gauges))

    # What the broker says.

    def on_consuming(self) -> None:
        """The consumer's: deliveries may come."""
        if not self._has_consumed:
            log.info(" [*] Waiting for tasks in queue %s. To exit press CTRL+C", self._settings.queue)
            self._loop.call_later(PUBLISH_AFTER, self._begin_to_publish)
        else:
            log.info("consuming queue %s again", self._settings.queue)
        self._has_consumed = True

    def on_delivery(self, delivery: Delivery) -> None:
        """The consumer's: a task. One that crosses our cancel is done: nobody could begin sooner."""
        if not self._can_run or self._given_up or self._phase is Phase.CLOSING:
            self._consumer.settle(delivery, Verdict.RETURN)
            return
        now = time.time()
        started = time.monotonic()
        taken = take_in(
            delivery.properties,
            len(delivery.body),
            now,
            redelivered=delivery.redelivered,
            max_body=self._settings.max_body,
        )
        properties = taken.properties
        hand = InHand(delivery, properties.id, taken.deliveries.attempt, started)
        if taken.unfit is not None:
            self._bury_unrun(hand, taken.unfit)
            return
        self._ticket += 1
        ticket = self._ticket
        if log.isEnabledFor(logging.DEBUG):
            log.debug("received, attempt %d", hand.attempt, extra={"task": hand.id})
        job = Job(
            ticket=ticket,
            body=delivery.body,
            id=properties.id,
            attempt=hand.attempt,
            deadline=now + self._settings.time_limit,
            type=properties.type,
            content_type=properties.content_type,
            correlation_id=properties.correlation_id,
            submitted_at=properties.submitted_at,
            headers=properties.headers,
        )
        self._in_hand[ticket] = hand
        if self._limit is None:
            self._limit = self._loop.call_later(self._settings.time_limit, self._enforce_limits)
        try:
            self._executor.submit(job)
        except RecursionError as error:  # headers nested so deeply that pika could just about read them
            del self._in_hand[ticket]
            self._bury_unrun(hand, undecodable(str(error)))
            return
        except BaseException:  # the worker ends; until it has, nobody shall wait for a task that does not run
            self._in_hand.pop(ticket, None)
            raise
        self._reporter.changed()

    def on_sessions_lost(self, lost: Collection[Session], sentence: str, *, cancelled: bool) -> None:
        """The consumer's: what is in hand can no longer be settled."""
        if cancelled:
            self._counters.cancels += 1
        hit = [hand for hand in self._in_hand.values() if hand.delivery.session in lost]
        for hand in hit:
            log.warning(
                "%s while this task was running: the broker gives it to another worker; it goes on here, and its "
                "result will be dropped",
                sentence,
                extra={"task": hand.id},
            )
        if cancelled and not hit:
            log.warning("%s: was queue %s deleted?", sentence, self._settings.queue)
        self._reporter.changed()
        if self._phase is Phase.DRAINING:
            if hit:
                self.exit_code = EXIT_FAILED
            self._kill_lost()

    # What the handlers' side says.

    def on_ready(self) -> None:
        """The executor's: the handler is loaded."""
        self._can_run = True
        log.info(
            "handler %s is loaded: %d at once, executor %s",
            self._settings.handler,
            self._settings.concurrency,
            self._settings.executor,
        )
        self._consumer.places_changed()

    def on_broken(self, sentence: str, *, at_start: bool) -> None:
        """The executor's: it cannot go on, so neither can the worker."""
        if self._phase is Phase.CLOSING:
            return
        self._can_run = False
        if at_start:
            self.exit_code = EXIT_USAGE
            self.sentence = sentence
        else:
            self.exit_code = EXIT_FAILED
            log.error("the worker ends: %s", sentence)
        self._begin_drain()
        for ticket in list(self._in_hand):
            self.on_end(ticket, INTERRUPTED)

    def on_progress(self, ticket: int, done: float, note: str) -> None:
        """The executor's: a handler tells how far it has come."""
        hand = self._in_hand.get(ticket)
        now = time.monotonic()
        if hand is not None and now - hand.progress_at >= PROGRESS_GAP:
            hand.progress_at = now
            log.info("%.0f %% done%s", 100 * done, f": {note}" if note else "", extra={"task": hand.id})

    def on_end(self, ticket: int, outcome: Outcome) -> None:
        """The executor's: an attempt has ended."""
        hand = self._in_hand.pop(ticket, None)
        if hand is None:  # given up before: a thread that could not be killed, a process that took too long to die
            return
        seconds = time.monotonic() - hand.started
        decided = verdict(outcome, hand.attempt, self._settings.max_attempts)
        self._counters.count(outcome, seconds)
        if decided is Verdict.DEAD and isinstance(outcome, Failed) and hand.delivery.session.alive:
            self._log_end(hand, outcome, decided, seconds, settled=True)
            self._bury(hand, outcome)
            return
        settled = decided is not Verdict.DEAD and self._consumer.settle(hand.delivery, decided)
        self._counters.settle(decided, settled=settled)
        self._log_end(hand, outcome, decided, seconds, settled=settled)
        self._after_settling(settled=settled)

    def _begin_to_publish(self) -> None:
        if not self._publishes and self._phase is not Phase.CLOSING:
            self._publishes = True
            self._publish_link.start(self._reporter, self._dead_letters)

    def _after_settling(self, *, settled: bool) -> None:
        self._begin_to_publish()
        self._reporter.changed()
        if self._phase is Phase.DRAINING:
            self._close_if_done()
        elif not settled:
            self._consumer.places_changed()

    # Dead letters.

    def _bury_unrun(self, hand: InHand, reason: Failed) -> None:
        log.warning(
            "not run, to %s: %s: %s",
            dead_queue(self._settings.queue),
            reason.exception,
            reason.message,
            extra={"task": hand.id},
        )
        self._bury(hand, reason)

    def _bury(self, hand: InHand, outcome: Failed) -> None:
        """Publish a dead letter; till that has worked or failed the delivery is not settled, and keeps its place."""
        self._begin_to_publish()
        properties = hand.delivery.properties
        reason = Reason(
            exception=outcome.exception,
            message=outcome.message,
            traceback=outcome.traceback,
            attempts=hand.attempt,
            worker=self._settings.name,
            queue=self._settings.queue,
            failed_at=int(time.time() * 1000),
            submitted_at=submitted_at(properties),
        )
        self._dead_letters.publish(
            raw_properties(properties), hand.delivery.body, hand.id, reason, partial(self._on_buried, hand)
        )

    def _on_buried(self, hand: InHand, refused: str) -> None:
        """The dead letter is with the broker, or `refused` says why not."""
        extra = {"task": hand.id}
        decided = Verdict.RETRY if refused else Verdict.ACK
        settled = self._consumer.settle(hand.delivery, decided)
        self._counters.settle(decided if refused else Verdict.DEAD, settled=settled)
        if refused:
            self._counters.letters_refused += 1
            log.error("no dead letter: %s; the task will be tried again", refused, extra=extra)
        elif not settled:
            log.warning("a dead letter, but the broker has taken the task back before: it runs again", extra=extra)
        self._after_settling(settled=settled)

    # The end.

    def drain(self, why: str) -> None:
        """Take no more tasks, finish what is in hand, then end. Asked a second time: end now."""
        if self._phase is Phase.WORKING:
            letters = self._dead_letters.pending
            log.info(
                "%s: finishing %d tasks%s, for up to %.0f s",
                why,
                len(self._in_hand),
                f" and {letters} dead letters" if letters else "",
                self._settings.grace,
            )
            self._begin_drain()
        elif self._phase is Phase.DRAINING:
            self._give_up(f"{why} again")

    def _begin_drain(self) -> None:
        if self._phase is not Phase.WORKING:
            return
        self._phase = Phase.DRAINING
        if self._in_hand:  # what becomes of it is to be told
            self._begin_to_publish()
        self._loop.call_later(self._settings.grace, lambda: self._give_up("the grace period is over"))
        self._loop.call_later(CANCEL_LIMIT, self._on_cancelled)
        self._reporter.changed()
        self._consumer.cancel(self._on_cancelled)
        self._kill_lost()

    def _on_cancelled(self) -> None:
        self._cancelled = True
        self._close_if_done()

    def _give_up(self, why: str) -> None:
        if self._phase is not Phase.DRAINING:
            return
        log.warning("%s: handing %d tasks back to the broker", why, len(self._in_hand) + self._dead_letters.pending)
        self._given_up = True
        self._kill(list(self._in_hand))
        self._dead_letters.give_up()
        self._on_cancelled()

    def _kill_lost(self) -> None:
        """End what runs for nothing: its result would be dropped, and the worker is asked to go."""
        self._kill([ticket for ticket, hand in self._in_hand.items() if not hand.delivery.session.alive])

    def _kill(self, tickets: list[int]) -> None:
        for ticket in tickets:
            hand = self._in_hand.get(ticket)
            if hand is None:  # it turned out with the one before that the executor is gone, and all its tasks with it
                continue
            hand.killed = True
            if not self._executor.kill(ticket, INTERRUPTED):
                self.on_end(ticket, INTERRUPTED)
        if tickets:
            self._loop.call_later(KILL_LIMIT, lambda: self._leave_behind(tickets, INTERRUPTED))

    def _leave_behind(self, tickets: list[int], outcome: Outcome) -> None:
        """Wait no longer for the ends that were ordered: what hangs in the kernel would keep its place for ever."""
        for ticket in tickets:
            hand = self._in_hand.get(ticket)
            if hand is not None:
                text = "the handler's process was killed %.0f s ago and is still there: it is left behind"
                log.error(text, KILL_LIMIT, extra={"task": hand.id})
                self.on_end(ticket, outcome)

    def _close_if_done(self) -> None:
        if self._phase is not Phase.DRAINING or not self._cancelled or self._in_hand or self._dead_letters.pending:
            return
        self._phase = Phase.CLOSING
        self._executor.close()
        self._consumer.hand_back()
        self._loop.call_later(CLOSE_LIMIT, self._stop_waiting)
        was_open = self._link.is_open
        self._reporter.close()
        self._publish_link.close(lambda _confirmed: self._end_closed(confirmed=True))
        self._link.close(lambda confirmed: self._on_link_closed(confirmed=confirmed or not was_open))

    def _on_link_closed(self, *, confirmed: bool) -> None:
        self._link_closed = True
        self._end_closed(confirmed=confirmed)

    def _end_closed(self, *, confirmed: bool) -> None:
        if not confirmed:
            log.error("the broker did not confirm the end: it may run the last tasks again")
            self.exit_code = self.exit_code or EXIT_FAILED
        self._open_ends -= 1
        if self._open_ends == 0:
            self._loop.stop()

    def _stop_waiting(self) -> None:
        if not self._link_closed:
            log.error("the broker did not confirm the end within %.0f s", CLOSE_LIMIT)
            self.exit_code = self.exit_code or EXIT_FAILED
        self._loop.stop()

    # Odds and ends.

    def _told(self, monotonic: float) -> float:
        """A time as others are told it, in Unix seconds: by the clock at the start, and from there on never set.

        The operator takes a report for an old one if its time is before that of another: were the clock put back, it
        would take a busy worker for the idle one that it was before.
        """
        return self._started_at + (monotonic - self._started)

    def _places(self) -> int:
        if not self._can_run or self._phase is not Phase.WORKING:
            return 0
        lost = sum(not hand.delivery.session.alive for hand in self._in_hand.values())
        return self._settings.concurrency - lost

    def _enforce_limits(self) -> None:
        """One timer for all tasks: they have the same limit, so the one that started first is due first."""
        self._limit = None
        now = time.monotonic()
        for ticket, hand in list(self._in_hand.items()):
            if hand.killed:
                continue
            left = hand.started + self._settings.time_limit - now
            if left > 0:
                self._limit = self._loop.call_later(left, self._enforce_limits)
                return
            self._time_out(ticket, hand)

    def _time_out(self, ticket: int, hand: InHand) -> None:
        hand.killed = True
        outcome = Failed("TimeLimit", f"the handler took longer than the time limit of {self._settings.time_limit:g} s")
        if self._executor.kill(ticket, outcome):
            self._loop.call_later(KILL_LIMIT, lambda: self._leave_behind([ticket], outcome))
            return
        self._can_run = False  # the thread is lost: a delivery that crosses the cancel would wait for it, and be blamed
        log.error(
            "a handler's thread is past the time limit and cannot be killed: the worker ends after its other tasks, so "
            "that it is restarted; use WARREN_EXECUTOR=process to have handlers killed alone",
            extra={"task": hand.id},
        )
        self.on_end(ticket, outcome)
        self.exit_code = EXIT_FAILED
        self._begin_drain()

    def _log_end(self, hand: InHand, outcome: Outcome, decided: Verdict, seconds: float, *, settled: bool) -> None:
        extra = {"task": hand.id}
        if not settled:
            log.warning("result dropped after %.3f s: the broker has taken the task back before", seconds, extra=extra)
            return
        match outcome:
            case Done():
                if log.isEnabledFor(logging.DEBUG):
                    log.debug("done in %.3f s", seconds, extra=extra)
            case Interrupted():
                log.warning("handed back to the broker after %.3f s", seconds, extra=extra)
            case Failed(exception, message, trace):
                text = "no further attempt: to %s.dead" if decided is Verdict.DEAD else "to be tried again from %s"
                log.warning(
                    f"attempt %d of %d failed after %.3f s, {text}: %s: %s%s",  # noqa: G004  one of two constants
                    hand.attempt,
                    self._settings.max_attempts,
                    seconds,
                    self._settings.queue,
                    exception,
                    message,
                    f"\n{trace.rstrip()}" if trace else "",
                    extra=extra,
                )
