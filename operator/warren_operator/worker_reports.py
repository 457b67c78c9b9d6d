"""What the workers report, and what follows from it: who is busy, what tasks take, and how many come in.

Nothing of it is stored: after a restart of the operator each worker's next sign of life tells what it does, and how
much it has done.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from warren_contract.events import RunningTask, WorkerState
from warren_operator.arrivals import Arrivals

REPORT_AGE = 35.0
"""Seconds after which a report counts for nothing. A worker gives a sign of life each 10 s; three may get lost."""

QUEUE_AGE = 3600.0
"""Seconds for which a queue is remembered that has no reports and is not looked at. Between two bursts it has no
workers, and what its tasks take is still good to know; but there is no end to the names of queues."""

HALF_LIFE = 300.0
"""Seconds in which finished tasks lose half their weight in the mean service time."""

LEAST_FINISHED = 5
"""Tasks that must have ended before a mean service time is told."""

HEARD_WITHIN = 2.0
"""Seconds within which a worker has told that a task has ended; one that seems to run for less may be over."""

CHANGE = 2.0
"""Times the mean service time that tasks must have taken of late to have become longer: less is chance as a rule, and
the mean itself soon tells of it."""

STEP = 1.25
"""Factor between two times that are told while tasks are still running."""

YOUNG = 10.0
"""Seconds. What a worker younger than this has done before its first report is news; what an older one has done is
known to whoever listened before us."""


@dataclass(frozen=True, slots=True)
class Report:
    """The latest state of one worker.

    Attributes:
        state: as it sent it.
        received: seconds of the loop's clock.
        idle_since: seconds of the loop's clock at which it was first heard to be idle; None while it is busy.
        before: what had ended in the queue when each of the tasks in hand was first heard of.
    """

    state: WorkerState
    received: float
    idle_since: float | None
    before: Mapping[RunningTask, "Ended"] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Ended:
    """Tasks of a queue that have ended, well or not, as far as their workers have told.

    Attributes:
        at: seconds of the loop's clock.
        tasks: how many had ended by then.
        seconds: that they took together.
    """

    at: float
    tasks: int = 0
    seconds: float = 0.0


@dataclass(slots=True)
class _Queue:
    total: Ended
    reports: dict[str, Report] = field(default_factory=dict)
    used_at: float = float("-inf")  # its latest report or look
    finished: float = 0.0
    worked: float = 0.0  # seconds, on tasks that have ended and on those that run
    ended: float = 0.0  # of these, on tasks that have ended
    weighed_at: float = 0.0
    active_at: float = float("-inf")
    started: int = 0
    arrivals: Arrivals | None = None
    version: int = 0


class WorkerReports:
    """What the workers report, by queue."""

    def __init__(self) -> None:
        self._queues: dict[str, _Queue] = {}
        self._homes: dict[str, str] = {}  # the queue that a worker reported for last, by the worker's name
        self._swept_at = float("-inf")

    def add(self, state: WorkerState, now: float) -> None:
        """Take in a report; one that is older than what is known of the worker is dropped."""
        queue = self._queues.setdefault(state.queue, _Queue(Ended(now), weighed_at=now))
        known = queue.reports.get(state.worker)
        if known is not None and known.state.at > state.at and known.state.started_at == state.started_at:
            return
        self._weigh(queue, known.state if known else None, state, now)
        queue.started += _newly_started(known.state if known else None, state)
        idle_since = None
        if not state.busy:
            idle_since = now if known is None or known.idle_since is None else known.idle_since
            if known is not None and state.finished + state.failed != known.state.finished + known.state.failed:
                idle_since = now  # it was busy in between, too briefly to say so
        if known is None or _doings(known.state) != _doings(state):
            queue.active_at = now
        before = {task: queue.total if known is None else known.before.get(task, queue.total) for task in state.running}
        queue.reports[state.worker] = Report(state, now, idle_since, before)
        self._homes[state.worker] = state.queue
        queue.version += 1
        queue.used_at = now
        self._sweep(now)

    def of(self, queue: str) -> Mapping[str, Report]:
        """The latest report of each worker of a queue, by the worker's name."""
        known = self._queues.get(queue)
        return known.reports if known else {}

    def elsewhere(self, queue: str, workers: Iterable[str]) -> frozenset[str]:
        """Those of these workers that report, but for another queue."""
        homes = ((name, self._homes.get(name, queue)) for name in workers)
        return frozenset(name for name, home in homes if home != queue and name in self.of(home))

    def version(self, queue: str) -> int:
        """Grows with each report of a worker of the queue."""
        known = self._queues.get(queue)
        return known.version if known else 0

    def active_at(self, queue: str) -> float:
        """When a worker of the queue last took up or put down a task, in seconds of the loop's clock."""
        known = self._queues.get(queue)
        return known.active_at if known else float("-inf")

    def forget(self, queue: str, gone: Iterable[str], now: float) -> None:
        """Drop the reports of pods that are gone, and those that are too old."""
        known = self._queues.get(queue)
        if known is None:
            return
        for name in gone:
            known.reports.pop(name, None)
        _drop_old(known, now)

    def service_time(self, queue: str, now: float) -> float | None:
        """Mean seconds of one task: seconds worked / tasks finished; None until five have ended.

        Work counts when it is done, not when its task ends: so long tasks are not forgotten while short ones end, and
        none counts twice. (What has been worked on a task that is handed back is taken off again, with the rest of the
        worker's sums; what dies with a worker is work all the same.)
        """
        known = self._queues.get(queue)
        if known is None or known.finished < LEAST_FINISHED:
            return None
        since = sum(len(report.state.running) * (now - report.received) for report in known.reports.values())
        return (known.worked + since) / known.finished

    def time_so_far(self, queue: str, now: float) -> float | None:
        """Mean seconds that tasks take at least, as far as the running ones tell; None where they tell nothing.

        Until the service time is known: of all tasks, as many as have outlived the finished ones take no less than the
        one that has run for longest. Rounded up in steps, so that what follows from it while a task runs on comes in
        flocks. From then on what `_of_late` says.
        """
        known = self._queues.get(queue)
        if known is None:
            return None
        service_time = self.service_time(queue, now)
        if service_time is not None:
            return _of_late(known, service_time, now)
        running = [
            report.state.at - task.since + now - report.received
            for report in known.reports.values()
            for task in report.state.running
        ]
        mean = known.ended / known.finished if known.finished else 0.0
        longer = [seconds for seconds in running if seconds > mean]
        if longer:
            mean += (max(longer) - mean) * len(longer) / (len(longer) + known.finished)
        return STEP ** math.ceil(math.log(mean, STEP)) if mean > 0 else None

    def arrival_rate(self, queue: str, ready: int | None, now: float) -> float | None:
        """Tasks a second that come in steadily; None until known.

        Args:
            queue: name in the broker.
            ready: tasks that wait now; None where that is not known.
            now: seconds of the loop's clock.
        """
        known = self._queues.setdefault(queue, _Queue(Ended(now), weighed_at=now))
        if known.arrivals is None:
            known.arrivals = Arrivals(now)
        known.used_at = now
        if ready is not None:
            known.arrivals.note(ready + known.started, now)
        self._sweep(now)  # it may be that nobody reports at all
        return known.arrivals.rate(now)

    def _sweep(self, now: float) -> None:
        """Drop what is too old now and then, whoever looks: a standby operator never does, and nobody does at queues of
        others."""
        if now - self._swept_at < REPORT_AGE:
            return
        self._swept_at = now
        for known in self._queues.values():
            _drop_old(known, now)
        for name in [
            name for name, known in self._queues.items() if not known.reports and now - known.used_at > QUEUE_AGE
        ]:
            del self._queues[name]
        self._homes = {name: home for name, home in self._homes.items() if name in self.of(home)}

    @staticmethod
    def _weigh(queue: _Queue, before: WorkerState | None, state: WorkerState, now: float) -> None:
        same_run = before is not None and before.started_at == state.started_at
        if before is None or not same_run:
            # What a worker did before we heard of it is as good a sample as any, unless it is older than our memory.
            count, ended, running = state.finished + state.failed, state.finished_seconds, state.running_seconds
        else:
            count = state.finished + state.failed - before.finished - before.failed
            ended = state.finished_seconds - before.finished_seconds
            running = state.running_seconds - before.running_seconds
        weight = 0.5 ** ((now - queue.weighed_at) / HALF_LIFE)
        # The weight of what has ended is kept above the least count: an old mean is better than none.
        weight = max(weight, min(1.0, LEAST_FINISHED / queue.finished)) if queue.finished else 1.0
        queue.finished = queue.finished * weight + count
        queue.ended = queue.ended * weight + ended
        queue.total = Ended(now, queue.total.tasks + count, queue.total.seconds + ended)
        queue.worked = max(0.0, queue.worked * weight + ended + running)
        queue.weighed_at = now


def _of_late(queue: _Queue, service_time: float, now: float) -> float | None:
    """The mean of what has been worked and has ended since one of the tasks in work was heard of, that one by which it
    is longest; None where that tells of no longer tasks.

    After thousands of short tasks, the mean of all needs many minutes to tell of long ones; and where long ones among
    short ones have come to keep all workers, nothing ends for as long. Everything that has ended since then counts, and
    as many tasks of the service time as that has needed itself: so one long task among many short ones tells of no
    change, and a single one of little. Tasks that have not outlived the service time tell of nothing.
    """
    heard = sorted(
        (report.before[task] for report in queue.reports.values() for task in report.state.running),
        key=lambda before: before.at,
        reverse=True,
    )
    longest = worked_since = 0.0  # the latter on tasks that began later
    for number, before in enumerate(heard):
        age = now - before.at
        if age > max(service_time, HEARD_WITHIN):
            ended = queue.total.tasks - before.tasks
            worked = queue.total.seconds - before.seconds + worked_since + age * (len(heard) - number)
            longest = max(longest, (LEAST_FINISHED * service_time + worked) / (LEAST_FINISHED + ended))
        worked_since += age
    return longest if longest > CHANGE * service_time else None


def _drop_old(queue: _Queue, now: float) -> None:
    for name in [name for name, report in queue.reports.items() if now - report.received > REPORT_AGE]:
        del queue.reports[name]


def _newly_started(before: WorkerState | None, state: WorkerState) -> int:
    """Tasks that a worker has taken up since the report before."""
    total = state.finished + state.failed + len(state.running)
    if before is None:
        return total if state.at - state.started_at < YOUNG else 0
    if before.started_at != state.started_at:
        return total
    # A task that was handed back has left `running` and nothing else: it comes in again, and counts as ready.
    return max(0, total - before.finished - before.failed - len(before.running))


def _doings(state: WorkerState) -> tuple[object, ...]:
    return state.running, state.finished, state.failed, state.draining
