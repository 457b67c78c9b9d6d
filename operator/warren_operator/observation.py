"""What is seen of one queue, put together from the broker's counts, the workers' reports and Kubernetes.

`observe` is pure. What arrives by and by is kept in two small stores: `WorkerReports` (events of the workers, and what
follows from them) and `Counts`/`Statistics` (values that `broker.py` and `management.py` read).
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from warren_contract.events import RunningTask, WorkerState
from warren_operator.arrivals import Arrivals
from warren_operator.policy import PENDING_LIMIT, Backlog, Observation, Phase, Worker

if TYPE_CHECKING:  # what `warren simulate` shares of this module needs no Kubernetes client
    from warren_operator.workloads import Pod, TargetState

STATISTICS_LAG = 6.0
"""Seconds that a broker's statistics may be old when they are read: quorum queues report each 5 s."""

STATISTICS_AGE = 30.0
"""Seconds after which statistics that could not be read again count for nothing."""

REPORT_AGE = 35.0
"""Seconds after which a report counts for nothing. A worker gives a sign of life each 10 s; three may get lost."""

QUEUE_AGE = 3600.0
"""Seconds for which a queue is remembered that has no reports and is not looked at. Between two bursts it has no
workers, and what its tasks take is still good to know; but there is no end to the names of queues."""

SILENCE = 15.0
"""Seconds that a pod may be ready without a report before it counts as silent, and after which a worker's word that it
is idle no longer counts: one and a half signs of life."""

SLOW_READING = 0.2
"""Seconds. RabbitMQ answers zero for a quorum queue whose leader does not answer within 250 ms; 1 ms is normal."""

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

SEE_STATUS = "see `rabbitmq-queues quorum_status QUEUE`"

YOUNG = 10.0
"""Seconds. What a worker younger than this has done before its first report is news; what an older one has done is
known to whoever listened before us."""


@dataclass(frozen=True, slots=True)
class Counts:
    """One passive declare.

    Attributes:
        ready: tasks that wait.
        consumers: of the queue.
        at: seconds of the loop's clock.
        took: seconds for the answer.
    """

    ready: int
    consumers: int
    at: float
    took: float = 0.0

    @property
    def suspect(self) -> bool:
        """Whether a zero may only mean that the queue's leader did not answer."""
        return self.ready == 0 and self.took >= SLOW_READING


@dataclass(frozen=True, slots=True)
class Reading:
    """What came of an attempt to count.

    Attributes:
        counts: None where it failed.
        unknown: why it failed.
        missing: because the broker has no such queue.
    """

    counts: Counts | None
    unknown: str = ""
    missing: bool = False


@dataclass(frozen=True, slots=True)
class Statistics:
    """A queue in the management API.

    Attributes:
        ready: tasks that wait.
        unacked: tasks delivered and not acknowledged.
        total: of both, and of those that wait for a retry.
        available: whether the queue has a leader.
        dead: tasks in its dead-letter queue; None where that is not there, or has no leader.
        at: seconds of the loop's clock.
    """

    ready: int
    unacked: int
    total: int
    available: bool
    dead: int | None
    at: float

    @property
    def totals(self) -> tuple[int | None, ...]:
        """All but the time."""
        return self.ready, self.unacked, self.total, self.available, self.dead

    @property
    def delayed(self) -> int:
        """Tasks that wait for their retry: they count in the total only."""
        return max(0, self.total - self.ready - self.unacked)


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


@dataclass(frozen=True, slots=True)
class View:
    """All that is known of one queue at one moment: the policy's input, and what only explains.

    Attributes:
        seen: what the policy decides on.
        unknown: why the backlog is not known; empty if it is.
        busy, idle: workers, as they report.
        delayed, dead: tasks; None where unknown.
        failing: why pods cannot start; empty if they can.
        refused: why pods cannot be made; empty if they can.
        unready: pods that run, and have not been ready for so long that they will not be by themselves.
        estimated_wait: seconds until a task submitted now starts; None where unknown.
    """

    seen: Observation
    unknown: str = ""
    busy: int = 0
    idle: int = 0
    delayed: int | None = None
    dead: int | None = None
    failing: str = ""
    estimated_wait: float | None = None
    refused: str = ""
    unready: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Inputs:
    """What `observe` puts together.

    Attributes:
        counts: the latest reading; None where it failed.
        unknown: why it failed.
        statistics: of the queue; None where there are none.
        reports: of its workers, by name.
        active_at: when the queue's tasks last moved, in seconds of the loop's clock.
        service_time: mean seconds of a task; None until known.
        time_so_far: mean seconds that a task takes at least, where the running ones tell of more; else None.
        arrival_rate: tasks a second that come in steadily; None until known.
        concurrency: tasks at once in one worker.
        target: its Deployment.
        now: seconds of the loop's clock.
        wall: Unix time in seconds, for the ages of pods.
        bare_since: see there.
        elsewhere: pods whose workers report for another queue: the Deployment's, or the WorkQueue's, was another.
        listening_since: since when workers' reports have been received, in seconds of the loop's clock; None while they
            are not.
    """

    counts: Counts | None
    unknown: str
    statistics: Statistics | None
    reports: Mapping[str, Report]
    active_at: float
    service_time: float | None
    arrival_rate: float | None
    concurrency: int
    target: "TargetState"
    now: float
    wall: float
    listening_since: float | None
    time_so_far: float | None = None
    bare_since: float | None = None
    elsewhere: frozenset[str] = frozenset()


def observe(inputs: Inputs) -> View:
    """Put one observation together."""
    statistics = inputs.statistics
    if statistics is not None and inputs.now - statistics.at > STATISTICS_AGE:
        statistics = None
    counts, unknown = inputs.counts, inputs.unknown
    if counts is not None and counts.ready == 0:
        unknown = _doubt(inputs, counts, statistics)
        counts = None if unknown else counts
    unheard = inputs.counts is not None and inputs.counts.consumers > _heard(inputs)
    untold = statistics is not None and statistics.unacked > _reported(inputs)
    workers = tuple(_worker(pod, inputs, statistics, unheard=unheard, untold=untold) for pod in inputs.target.pods)
    backlog = None if counts is None else Backlog(counts.ready, _unacked(inputs, counts, statistics))
    running = sum(worker.phase is Phase.READY for worker in workers)
    wait = None
    if backlog is not None and backlog.ready == 0:
        wait = 0.0 if running > sum(worker.busy is True for worker in workers) else None
    elif backlog is not None and inputs.service_time is not None and running:
        wait = backlog.ready * inputs.service_time / (running * inputs.concurrency)
    return View(
        seen=Observation(
            backlog=backlog,
            replicas=inputs.target.deployment.replicas,
            workers=workers,
            rollout=inputs.target.rollout,
            settled=inputs.target.settled,
            counted=statistics is not None,
            statistics_age=0.0 if statistics is None else max(0.0, inputs.now - statistics.at),
            service_time=inputs.service_time,
            time_so_far=inputs.time_so_far,
            arrival_rate=_arrival_rate(inputs),
            ending=len(inputs.target.ending),
            consumers=0 if inputs.counts is None else inputs.counts.consumers,
        ),
        unknown=unknown if backlog is None else "",
        busy=sum(worker.busy is True for worker in workers),
        idle=sum(worker.busy is False and worker.phase is Phase.READY for worker in workers),
        delayed=statistics.delayed if statistics else None,
        dead=statistics.dead if statistics else None,
        failing=next((pod.failing for pod in inputs.target.pods if pod.fails(inputs.wall)), ""),
        estimated_wait=wait,
        refused=inputs.target.deployment.refused,
        unready=tuple(
            pod.name
            for pod in inputs.target.pods
            if pod.unready_since is not None and inputs.wall - pod.unready_since > PENDING_LIMIT
        ),
    )


def bare_since(before: float | None, counts: Counts, target: "TargetState", *, waiting: bool) -> float | None:
    """Since when there have been neither tasks nor consumers although there should be, None while that is not so:
    workers are ready, which consume; or tasks were waiting, and nobody can have taken them.

    Args:
        before: what this was at the reading before.
        counts: the reading.
        target: whose workers these are.
        waiting: tasks were waiting at the reading before.
    """
    if counts.ready or counts.consumers:
        return None
    vanished = (waiting or before is not None) and target.deployment.replicas > 0
    if not vanished and not any(pod.ready for pod in target.pods):
        return None
    return counts.at if before is None else before


def _doubt(inputs: Inputs, counts: Counts, statistics: Statistics | None) -> str:
    """Why a reading of zero is not to be believed; empty if it is.

    A queue that has lost its leader reads as empty within a millisecond and without any consumer, and statistics know
    of it some seconds later: they have to say that the queue is up, from after that moment.
    """
    if counts.suspect:
        return f"the queue's leader did not answer in time: if that stays, {SEE_STATUS}"
    if statistics is not None and not statistics.available:
        return f"the queue has no leader: start the broker's nodes that are down, or {SEE_STATUS}"
    if inputs.bare_since is not None and (statistics is None or statistics.at <= inputs.bare_since):
        return f"tasks or consumers have vanished as if the queue's leader had gone: if that stays, {SEE_STATUS}"
    return ""


def _arrival_rate(inputs: Inputs) -> float | None:
    """As measured, unless somebody takes up tasks who does not tell."""
    counts = inputs.counts
    return None if counts is not None and counts.consumers > len(inputs.reports) else inputs.arrival_rate


def _unacked(inputs: Inputs, counts: Counts, statistics: Statistics | None) -> int:
    """Tasks delivered and not acknowledged: the largest of three views, each of which can only miss some.

    Statistics see every consumer, but late: while tasks move, they would still count those that are long done. So they
    count only where there are consumers that do not report, or where nothing has moved for longer than they lag.
    """
    reported = _reported(inputs)
    waiting_for = _in_hand(inputs, counts) if counts.ready else 0
    late = 0
    if statistics is not None:
        moved_at = inputs.active_at if inputs.listening_since is None else max(inputs.active_at, inputs.listening_since)
        settled = statistics.at - moved_at > STATISTICS_LAG
        if counts.consumers > _accounted_for(inputs) or settled:
            late = statistics.unacked
    return max(reported, waiting_for, late)


def _in_hand(inputs: Inputs, counts: Counts) -> int:
    """Tasks that the consumers have while others wait: as many as each takes at once.

    That is its own word, where it has given it: a WorkQueue may say otherwise while a rollout brings its workers.
    """
    told = sorted((item.state.concurrency for item in inputs.reports.values() if not item.state.draining), reverse=True)
    return sum(told[: counts.consumers]) + max(0, counts.consumers - len(told)) * inputs.concurrency


def _reported(inputs: Inputs) -> int:
    """Tasks in work, as the workers report them."""
    return sum(len(report.state.running) for report in inputs.reports.values())


def _accounted_for(inputs: Inputs) -> int:
    """Consumers that need no explanation: workers that report, and pods too young to have done so.

    One that is ending counts as well: it may have said so before the broker took its consumer off the list.
    """
    reports = inputs.reports
    pods = (*inputs.target.pods, *inputs.target.ending)
    return len(reports) + sum(pod.name not in reports and _is_new(pod, inputs.wall) for pod in pods)


def _is_new(pod: "Pod", wall: float) -> bool:
    """Whether a worker may not have come to report yet."""
    return wall - (pod.created if pod.ready_since is None else pod.ready_since) <= SILENCE


def _heard(inputs: Inputs) -> int:
    """Pods that have said that they take tasks."""
    reports = inputs.reports
    return sum(pod.name in reports and not reports[pod.name].state.draining for pod in inputs.target.pods)


def _holds(report: Report, inputs: Inputs, statistics: Statistics | None, *, untold: bool) -> bool:
    """Whether it would be known if the worker had taken a task since it said that it is idle.

    It is not where its word would not have been heard, nor where tasks are in work that nobody reports: the broker
    blocks the workers' events in an alarm, and goes on giving them tasks. Only statistics that are newer by more than
    they lag say so: those that still have a task that has just ended cast no doubt on the worker's word that it has.
    """
    if untold and statistics is not None and statistics.at - report.received > STATISTICS_LAG:
        return False
    heard = inputs.listening_since is not None and report.received >= inputs.listening_since
    return heard and inputs.now - report.received <= SILENCE


def _worker(pod: "Pod", inputs: Inputs, statistics: Statistics | None, *, unheard: bool, untold: bool) -> Worker:
    """What is known of one worker.

    Args:
        pod: that it runs in.
        inputs: all that is known.
        statistics: as far as they count.
        unheard: there are consumers that have not said that they take tasks.
        untold: statistics have tasks in work that nobody reports.
    """
    report = inputs.reports.get(pod.name)
    busy: bool | None = None
    idle_for = 0.0
    if report is not None and not report.state.draining:
        busy = report.state.busy
        if report.idle_since is not None:
            idle_for = inputs.now - report.idle_since
            if not _holds(report, inputs, statistics, untold=untold):
                busy = None  # it may have taken a task since, and have told nobody who would tell us
        elif (
            statistics is not None
            and statistics.unacked == 0
            and statistics.at - max(report.received, inputs.active_at) > STATISTICS_LAG
        ):
            busy = None  # it says that it works, and the broker says that nothing is in work: its last word got lost
    silent = False
    if busy is None and pod.ready_since is not None and inputs.listening_since is not None:
        heard_for = min(inputs.wall - pod.ready_since, inputs.now - inputs.listening_since)
        silent = heard_for > SILENCE and pod.name not in inputs.elsewhere
    if pod.fails(inputs.wall):
        phase = Phase.FAILING
    elif pod.ready:
        phase = Phase.READY
    else:
        phase = Phase.STARTING if pod.running else Phase.PENDING
    age = max(0.0, inputs.wall - pod.created)
    if phase is Phase.PENDING and (pod.node or unheard) and age < SILENCE:
        # Its container is about to start, or has: Kubernetes tells that later than the broker has its consumer. A
        # signal to end would meet it in between, where it may get lost.
        phase = Phase.STARTING
    return Worker(pod.name, phase, busy, idle_for, silent, age, pod.node)
