"""What is seen of one queue, put together from the broker's counts, the workers' reports and Kubernetes.

`observe` is pure. What it puts together are `Counts` and `Statistics` (values that `broker.py` and `management.py`
read), what is kept of the workers' reports (`worker_reports.py`), and the pods as `workloads.py` has them.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from warren_operator.policy import PENDING_LIMIT, Backlog, Observation, Phase, Worker
from warren_operator.worker_reports import Report

if TYPE_CHECKING:  # what `warren simulate` shares of this module needs no Kubernetes client
    from warren_operator.workloads import Pod, TargetState

STATISTICS_LAG = 6.0
"""Seconds that a broker's statistics may be old when they are read: quorum queues report each 5 s."""

STATISTICS_AGE = 30.0
"""Seconds after which statistics that could not be read again count for nothing."""

SILENCE = 15.0
"""Seconds that a pod may be ready without a report before it counts as silent, and after which a worker's word that it
is idle no longer counts: one and a half signs of life."""

SLOW_READING = 0.2
"""Seconds. RabbitMQ answers zero for a quorum queue whose leader does not answer within 250 ms; 1 ms is normal."""

SEE_STATUS = "see `rabbitmq-queues quorum_status QUEUE`"


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
