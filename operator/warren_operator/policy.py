"""How many workers a queue gets: a pure function of what is wanted, what is seen, what is remembered, and the time.

No I/O, no clock, no surprises: the loop calls `decide` with each reading, the tests with readings they made up. Read
from the top: the rules (`_answer`), then what may hold back a change up (`_up`) or down (`_down`). What several queues
share is divided elsewhere (`budgets.py`); here it is one more bound.

Three principles:

* What is not known changes nothing. A failed reading holds the workers; it never takes one away.
* Up is free, down is not. More workers come at once, as fast as they can start; a worker goes only when it has nothing
  to do.
* A reading of zero is weak evidence, because a queue without a leader reads as empty. It counts when it is repeated.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum

ZERO_READINGS = 3
"""Readings of zero in a row that make a queue count as empty."""

ZERO_SPAN = 0.5
"""Seconds that these readings must span at least, however fast they come."""

IDLE_FOR = 0.1
"""Seconds that a worker must have been idle. It tells within a tenth of a second that it has taken a task, after many
short ones within a second; a victim that has taken one by then finishes it. What keeps workers from coming and going
are the readings of zero and the floor for what comes in steadily, not this."""

SILENT_QUIET = 10.0
"""Seconds that a queue must have had nothing ready and nothing unacknowledged when its statistics were read, before
workers may go that report nothing or have not come up. Their tasks are known from statistics alone, which are up to 6 s
old by then."""

PENDING_LIMIT = 300.0
"""Seconds that a pod may be pending before more pods are held back. A cluster autoscaler needs them, and minutes."""

STEP = 3
"""Workers that may be starting at once on each node that has any, or half as many as are up where that is more. Pods
that start share the processors of their node, half a second of work each and more: of a dozen at once all are as late
as the last, while three by three the first are at work before the last are made, and the last are hardly later. (A
HorizontalPodAutoscaler makes four, or doubles, each 15 s; here the next one is made when one is up.)"""

STARTING_FOR = 3.0
"""Seconds after which a worker that is not up holds back no other one: it waits for something else than a processor,
for its image, a volume or a node. The API server tells a pod's age in whole seconds, so it may be two."""

SOON = 1.0
"""Seconds that a pod needs to start, or more. What the workers that are up will have begun by then brings no more of
them: they would come when there is nothing left to do."""

SOON_FOR = 3.0
"""Seconds for which tasks have been ready after which that is not believed any more: they have become longer, or the
workers take none."""

FLOOR_SPAN = 30.0
"""Seconds in which the largest floor counts: the rate of arrival is measured, and a measurement wobbles."""

HEADROOM = 1.1
"""Workers in the floor for each one that steady traffic keeps busy: without any to spare, waits grow without bound, and
the next task that waits would bring back the worker that has just gone."""

USUAL_BACKLOG_PER_WORKER = 5
"""Tasks for each worker where only a longest wait is asked for, and the service time is not known yet."""


@dataclass(frozen=True, slots=True)
class FallbackRule:
    """Workers to have while the backlog cannot be read.

    Attributes:
        after_failures: readings that must fail in a row.
        replicas: to have at least.
    """

    after_failures: int
    replicas: int


@dataclass(frozen=True, slots=True)
class Scaling:
    """What the user wants.

    Attributes:
        max_replicas, min_replicas: bounds.
        backlog_per_worker: tasks, ready or unacknowledged, for each worker; None where only `max_wait` rules.
        max_wait: seconds that a task should wait at most; None where only `backlog_per_worker` rules.
        concurrency: tasks at once in one worker.
        budget: workers that the queue may have of a budget that it shares; None where it shares none.
        max_step: workers that may be starting at once; None for `STEP` on a node, or half as many as
            are up.
        stabilization: seconds; workers stay that were wanted at some moment within it.
        fallback: None for none.
        paused: change nothing.
        suspended: no workers.
        min_scheduled, max_scheduled: until when a schedule sets that bound, for people; they decide nothing.
    """

    max_replicas: int
    min_replicas: int = 0
    backlog_per_worker: int | None = USUAL_BACKLOG_PER_WORKER
    max_wait: float | None = None
    concurrency: int = 1
    budget: int | None = None
    max_step: int | None = None
    stabilization: float = 0.0
    fallback: FallbackRule | None = None
    paused: bool = False
    suspended: bool = False
    min_scheduled: str = ""
    max_scheduled: str = ""

    @property
    def bounds(self) -> tuple[int, int]:
        """Fewest and most workers, before what a budget allows."""
        return (0, 0) if self.suspended else (self.min_replicas, self.max_replicas)

    @property
    def ceiling(self) -> int:
        """Most workers."""
        high = self.bounds[1]
        return high if self.budget is None else min(high, self.budget)


class Phase(StrEnum):
    """How far a worker's pod has come, in the order in which a ReplicaSet prefers to delete."""

    PENDING = "pending"
    FAILING = "failing"
    STARTING = "starting"
    READY = "ready"


@dataclass(frozen=True, slots=True)
class Worker:
    """One pod of the scale target that is not being deleted.

    Attributes:
        name: of the pod.
        phase: how far it has come.
        busy: whether it has a task in hand, as it reports; None where it has not reported.
        idle_for: seconds since it reported that it has none.
        silent: it has been ready for so long that it should have reported, and has not: not a Warren worker, or its
            reports got lost.
        age: seconds since the pod was made.
        node: that it is on; empty until it has one.
    """

    name: str
    phase: Phase
    busy: bool | None = None
    idle_for: float = 0.0
    silent: bool = False
    age: float = 0.0
    node: str = ""

    @property
    def up(self) -> bool:
        """Whether it has started, as far as is known of it alone: it may report before its probe has told so."""
        return self.phase is Phase.READY or (self.phase is not Phase.FAILING and self.busy is not None)


@dataclass(frozen=True, slots=True)
class Backlog:
    """Tasks in the queue.

    Attributes:
        ready: waiting.
        unacked: delivered and not acknowledged.
    """

    ready: int
    unacked: int


@dataclass(frozen=True, slots=True)
class Observation:
    """What is seen at one moment.

    Attributes:
        backlog: None where it is unknown or cannot be trusted.
        replicas: that the scale target asks for.
        workers: its pods.
        rollout: more than one ReplicaSet of it has pods.
        settled: its controllers have caught up with what was asked for.
        service_time: mean seconds of one task; None until known.
        time_so_far: mean seconds that a task takes at least, as far as the running ones tell: as long as no more is
            known, and where it is more than the service time; else None.
        arrival_rate: tasks a second that come in steadily, redeliveries included; None where unknown.
        ending: pods that are being deleted and still run.
        counted: the broker's statistics are at hand. They alone know of tasks that no worker reports.
        statistics_age: seconds since they were read.
        consumers: of the queue, as last counted; those of pods that are being deleted among them.
    """

    backlog: Backlog | None
    replicas: int
    workers: Sequence[Worker] = ()
    rollout: bool = False
    settled: bool = True
    service_time: float | None = None
    arrival_rate: float | None = None
    ending: int = 0
    counted: bool = True
    statistics_age: float = 0.0
    time_so_far: float | None = None
    consumers: int = 0

    @property
    def reckoned_time(self) -> float:
        """Seconds that each task which waits is reckoned to take: the mean, or more where the running ones tell so."""
        return max(self.service_time or 0.0, self.time_so_far or 0.0)

    @property
    def up(self) -> int:
        """Workers that have started. The broker counts them as consumers well before the first of them reports."""
        consuming = min(self.consumers - self.ending, len(self.workers))
        return max(consuming, sum(worker.up for worker in self.workers))


class Rule(StrEnum):
    """Which rule gave the answer."""

    BACKLOG_PER_WORKER = "backlogPerWorker"
    MAX_WAIT = "maxWait"
    LEARNING = "learning"
    """backlogPerWorker, until the service time is known."""


class Limit(StrEnum):
    """What held a decision back."""

    NONE = ""
    MAX_REPLICAS = "maxReplicas"
    MIN_REPLICAS = "minReplicas"
    BUDGET = "budget"
    MAX_STEP = "maxStep"
    SOON_BEGUN = "soonBegun"
    STABILIZATION = "stabilization"
    FLOOR = "arrivals"
    PAUSED = "paused"
    SUSPENDED = "suspend"
    UNKNOWN = "backlogUnknown"
    FALLBACK = "fallback"
    FAILING = "workersFailing"
    PENDING = "workersPending"
    READY_TASKS = "tasksReady"
    UNCONFIRMED = "emptyUnconfirmed"
    UNCOUNTED = "statisticsMissing"
    ROLLOUT = "rollout"
    UNSETTLED = "podsChanging"
    STARTING = "workersStarting"
    BUSY = "workersBusy"


@dataclass(frozen=True, slots=True)
class Memory:
    """What the next decision needs to know of the earlier ones. Empty after a restart, which only makes it cautious.

    Attributes:
        failures: readings that failed in a row.
        zeros: readings in a row with nothing ready.
        zero_since: time of the first of them.
        quiet_since: since when nothing has been ready nor unacknowledged; None while something is.
        waiting_since: since when something has been ready; None while nothing is.
        wanted: (time, answer) of the past stabilization window; only answers larger than all later ones matter.
        floors: the same for the floor, within `FLOOR_SPAN`.
    """

    failures: int = 0
    zeros: int = 0
    zero_since: float = 0.0
    quiet_since: float | None = None
    waiting_since: float | None = None
    wanted: tuple[tuple[float, int], ...] = ()
    floors: tuple[tuple[float, int], ...] = ()


@dataclass(frozen=True, slots=True)
class Decision:
    """What to do, and why.

    Attributes:
        current: replicas asked for so far.
        asked: answer of the rule before any bound; None where the backlog is unknown.
        rule: that gave it.
        replicas: to ask for now.
        victims: workers that are to go with a scale-in; each other one stays.
        limit: what held it back, or pushed it.
        memory: for the next decision.
    """

    current: int
    asked: int | None
    replicas: int
    limit: Limit
    memory: Memory = field(repr=False)
    rule: Rule = Rule.BACKLOG_PER_WORKER
    victims: tuple[str, ...] = ()

    @property
    def changes(self) -> bool:
        """Whether replicas are to change."""
        return self.replicas != self.current


def decide(spec: Scaling, seen: Observation, memory: Memory, now: float) -> Decision:
    """Decide on one reading.

    Args:
        spec: what the user wants.
        seen: the reading.
        memory: of the previous decision on the same queue; `Memory()` for the first.
        now: seconds on a clock that never goes back.
    """
    memory = _remember(memory, seen, now)
    current, backlog = seen.replicas, seen.backlog
    asked, rule = (None, Rule.BACKLOG_PER_WORKER) if backlog is None else _answer(spec, seen, backlog)

    def hold(limit: Limit, replicas: int = current) -> Decision:
        return Decision(current, asked, replicas, limit, memory, rule)

    if backlog is None or asked is None:
        return hold(Limit.PAUSED) if spec.paused else _blind(spec, seen, memory)
    bounded, bound = _bounded(spec, asked)
    floor = min(_floor(spec, seen, backlog), spec.ceiling)
    past = memory.wanted or ((now, current),)  # after a restart: what is there was wanted until now
    memory = replace(
        memory,
        wanted=_window(past, spec.stabilization, bounded, now),
        floors=_window(memory.floors, 0.0 if seen.arrival_rate == 0 else FLOOR_SPAN, floor, now),
    )
    if spec.paused:  # what is wanted meanwhile counts for the stabilization afterwards
        return hold(Limit.PAUSED)
    if bounded > current:
        replicas, limit = _up(spec, seen, memory, bounded, now)
        return hold(limit or bound, replicas)
    stable = max(answer for _, answer in memory.wanted)
    floor = max(answer for _, answer in memory.floors)
    kept = min(max(stable, floor), spec.ceiling, current)
    held = bound if kept == bounded else Limit.STABILIZATION if stable >= kept else Limit.FLOOR
    if kept == current:
        return hold(held)
    down = _down(seen, memory, kept, spec.ceiling, now)
    return Decision(current, asked, current - down.count, down.limit or held, memory, rule, down.victims)


def wanted(spec: Scaling, seen: Observation, memory: Memory) -> int:
    """Workers that a queue would have if no budget were in the way: what it demands of one."""
    free = replace(spec, budget=None)
    if spec.paused:
        return seen.replicas
    if seen.backlog is None:
        return _blind(free, seen, replace(memory, failures=memory.failures + 1)).replicas
    return _clamp(free, _answer(free, seen, seen.backlog)[0])


def fails(seen: Observation) -> bool:
    """Whether so many pods cannot start that no more are made."""
    ready = sum(worker.phase is Phase.READY for worker in seen.workers)
    failing = sum(worker.phase is Phase.FAILING for worker in seen.workers)
    return failing > 0 and failing >= ready


def pends(worker: Worker) -> bool:
    """Whether a pod has been pending for so long that more of them would only wait beside it."""
    return worker.phase is Phase.PENDING and worker.age > PENDING_LIMIT


def _answer(spec: Scaling, seen: Observation, backlog: Backlog) -> tuple[int, Rule]:
    """How many workers the rules ask for; of two rules the larger answer counts.

    backlogPerWorker: as many as give each at most so many tasks.

    maxWait: by Little's law, λ·S tasks are in work at once when as many are done as come in (λ tasks a second, of S
    seconds each); ready·S seconds of waiting work spread over maxWait come on top. Where nothing comes in steadily, all
    tasks are spread over maxWait, those in work too: else a burst would be worth fewer workers with each one that has
    taken a task of it. Never more than there are tasks, and no fewer where S is longer than maxWait: who has a
    task in work then is no help to those that wait.

    Until S is known, backlogPerWorker rules, unless the time that tasks have taken so far asks for more already: long
    ones are known to be long well before they end. Later on that time stands for S wherever tasks have become longer,
    but in λ·S: what comes in steadily is in the mean soon enough, and chance would have workers come and go.
    """
    tasks = backlog.ready + backlog.unacked
    per_worker = _ceil(tasks / (spec.backlog_per_worker or USUAL_BACKLOG_PER_WORKER))
    if spec.max_wait is None:
        return per_worker, Rule.BACKLOG_PER_WORKER
    learning, service_time = seen.service_time is None, seen.reckoned_time
    steadily = (seen.arrival_rate or 0.0) * (seen.service_time or service_time)
    share = service_time / spec.max_wait  # of a worker, for each task that is to be done within maxWait
    at_once = max(steadily, backlog.unacked * share) + backlog.ready * share
    in_time = _ceil((tasks if service_time > spec.max_wait else min(at_once, tasks)) / spec.concurrency)
    if learning and per_worker >= in_time:
        return per_worker, Rule.LEARNING
    if spec.backlog_per_worker is not None and per_worker > in_time:
        return per_worker, Rule.BACKLOG_PER_WORKER
    return in_time, Rule.MAX_WAIT


def _floor(spec: Scaling, seen: Observation, backlog: Backlog) -> int:
    """Workers for what comes in steadily (λ·S, and some headroom): they stay, though each is idle now and then.

    No more than there are tasks, which counts at the busiest moment of `FLOOR_SPAN`: S is the mean of many minutes, and
    where tasks have become shorter it would keep workers that have had nothing to do for as long. (One task may always
    be there that is over before a worker has told of it.)
    """
    at_once = (seen.arrival_rate or 0.0) * (seen.service_time or 0.0)
    return _ceil(HEADROOM * min(at_once, max(backlog.ready + backlog.unacked, 1)) / spec.concurrency)


def _ceil(value: float) -> int:
    """The next whole number; what floating point adds to a whole one is not a worker more."""
    return math.ceil(value - 1e-9)


def _clamp(spec: Scaling, answer: int) -> int:
    return min(max(answer, spec.bounds[0]), spec.ceiling)


def _bounded(spec: Scaling, asked: int) -> tuple[int, Limit]:
    """The answer within the bounds, and the bound that it met."""
    bounded = _clamp(spec, asked)
    if bounded < spec.bounds[0]:
        return bounded, Limit.BUDGET
    if bounded > asked:
        return bounded, Limit.MIN_REPLICAS
    if bounded == asked:
        return bounded, Limit.NONE
    if spec.suspended:
        return bounded, Limit.SUSPENDED
    return bounded, Limit.MAX_REPLICAS if bounded == spec.max_replicas else Limit.BUDGET


def _remember(memory: Memory, seen: Observation, now: float) -> Memory:
    if seen.backlog is None:
        return replace(memory, failures=memory.failures + 1, zeros=0, quiet_since=None, waiting_since=None)
    empty = seen.backlog.ready == 0
    quiet = empty and seen.backlog.unacked == 0
    return replace(
        memory,
        failures=0,
        zeros=min(memory.zeros + 1, ZERO_READINGS) if empty else 0,
        zero_since=memory.zero_since if empty and memory.zeros else now,
        quiet_since=(now if memory.quiet_since is None else memory.quiet_since) if quiet else None,
        waiting_since=None if empty else now if memory.waiting_since is None else memory.waiting_since,
    )


def _window(past: tuple[tuple[float, int], ...], span: float, answer: int, now: float) -> tuple[tuple[float, int], ...]:
    """The answers of the window that are larger than all later ones, the present one last."""
    kept = tuple((at, value) for at, value in past if now - at <= span and value > answer) if span else ()
    return (*kept, (now, answer))


def _blind(spec: Scaling, seen: Observation, memory: Memory) -> Decision:
    """Nothing is known: hold, or raise to the fallback."""
    replicas, limit = seen.replicas, Limit.UNKNOWN
    fallback = spec.fallback
    if fallback is not None and not spec.suspended and memory.failures >= fallback.after_failures:
        least = min(fallback.replicas, spec.ceiling)
        if least > replicas:
            replicas, limit = least, Limit.FALLBACK
        elif least == replicas:
            limit = Limit.FALLBACK
    return Decision(seen.replicas, None, replicas, limit, memory)


def _up(spec: Scaling, seen: Observation, memory: Memory, answer: int, now: float) -> tuple[int, Limit]:
    """To the answer, as fast as pods start, unless more would only meet the same fate as those that are there."""
    if fails(seen):
        return seen.replicas, Limit.FAILING
    if any(pends(worker) for worker in seen.workers):
        return seen.replicas, Limit.PENDING
    if _soon_begun(spec, seen, memory, now):
        answer = min(answer, spec.bounds[0])
        if answer <= seen.replicas:
            return seen.replicas, Limit.SOON_BEGUN
    most = _most_started(spec, seen)
    if answer > most:
        return max(seen.replicas, most), Limit.MAX_STEP
    return answer, Limit.NONE


def _soon_begun(spec: Scaling, seen: Observation, memory: Memory, now: float) -> bool:
    """Whether the workers that are up will have begun all that waits before another one could be."""
    if seen.backlog is None or seen.service_time is None or not seen.up:
        return False
    if memory.waiting_since is not None and now - memory.waiting_since > SOON_FOR:
        return False
    soon = SOON if spec.max_wait is None else min(SOON, spec.max_wait)
    return seen.backlog.ready * seen.reckoned_time < soon * seen.up * spec.concurrency


def _most_started(spec: Scaling, seen: Observation) -> int:
    """Replicas of which no more start at once than may."""
    if spec.max_step is not None:
        return seen.up + spec.max_step
    started = max(seen.up, sum(worker.up or worker.age > STARTING_FOR for worker in seen.workers))
    nodes = len({worker.node for worker in seen.workers if worker.node}) or 1
    return started + max(STEP * nodes, started // 2)


@dataclass(frozen=True, slots=True)
class _Down:
    """A scale-in: how many fewer replicas, which pods, and why not more."""

    count: int
    limit: Limit
    victims: tuple[str, ...] = ()


def _down(seen: Observation, memory: Memory, kept: int, ceiling: int, now: float) -> _Down:
    """Take away what does nothing: pods that are not up, then idle workers; busy ones only under a lowered ceiling."""
    if seen.rollout and ceiling > 0:  # a ceiling of zero leaves nothing to choose between
        return _Down(0, Limit.ROLLOUT)
    if not seen.settled and not seen.rollout:  # a rollout is never settled; it has more pods than replicas
        return _Down(0, Limit.UNSETTLED)
    surplus = seen.replicas - kept
    forced = max(0, seen.replicas - ceiling)
    unborn = max(0, seen.replicas - len(seen.workers))  # asked for, and not even made yet
    if forced:
        chosen = _cheapest_first(seen, memory, now)[: max(0, forced - unborn)]
        return _Down(forced, Limit.NONE, tuple(worker.name for worker in chosen))
    if doubt := _in_doubt(seen, memory, now):
        return _Down(0, doubt)
    if unborn and not _quiet(seen, memory, now):
        # They may be made, and take a task, before fewer are asked for; then the ReplicaSet deletes them as they start.
        return _Down(0, Limit.STARTING)
    idle = [worker for worker in _cheapest_first(seen, memory, now) if not _occupied(worker, seen, memory, now)]
    chosen = idle[: max(0, surplus - unborn)]
    # The ReplicaSet deletes what is not ready first, whatever we say: nobody goes before one of those that has to stay.
    # That is over when it is ready, has done its task, or has not been heard of for long.
    stays = min((worker for worker in seen.workers if worker not in chosen), key=_rank, default=None)
    if stays is not None:
        chosen = [worker for worker in chosen if _rank(worker) <= _rank(stays)]
    count = min(surplus, unborn + len(chosen))
    if count == surplus:
        limit = Limit.NONE
    else:
        limit = Limit.STARTING if stays is not None and stays.phase is Phase.STARTING else Limit.BUSY
    return _Down(count, limit, tuple(worker.name for worker in chosen))


def _in_doubt(seen: Observation, memory: Memory, now: float) -> Limit:
    """Why it is not certain that nothing waits, nor is in work but for what the workers report; NONE if it is."""
    if seen.backlog is None or seen.backlog.ready:
        return Limit.READY_TASKS
    if memory.zeros < ZERO_READINGS or now - memory.zero_since < ZERO_SPAN:
        return Limit.UNCONFIRMED
    return Limit.NONE if seen.counted else Limit.UNCOUNTED


_DELETION_ORDER = tuple(Phase)


def _rank(worker: Worker) -> int:
    """How late a ReplicaSet deletes it: the victims first only among those of one rank."""
    return _DELETION_ORDER.index(worker.phase)


def _cheapest_first(seen: Observation, memory: Memory, now: float) -> list[Worker]:
    """All workers, those first whose going costs least; among equals the youngest first."""
    return sorted(
        seen.workers,
        key=lambda worker: (
            _rank(worker),
            _occupied(worker, seen, memory, now),
            worker.busy is not False,
            worker.busy is True,
            worker.age,
            worker.name,
        ),
    )


def _occupied(worker: Worker, seen: Observation, memory: Memory, now: float) -> bool:
    """Whether a worker has, or may have, something to do."""
    if worker.busy:  # whatever Kubernetes says of its pod: that is late, or of another container
        return True
    if worker.phase in (Phase.PENDING, Phase.FAILING):
        return False
    if worker.phase is Phase.STARTING:
        return not _quiet(seen, memory, now)
    if worker.busy is None:
        return not (worker.silent and _quiet(seen, memory, now))
    return worker.idle_for < IDLE_FOR


def _quiet(seen: Observation, memory: Memory, now: float) -> bool:
    """Whether nothing has waited or been in work for so long that statistics, too, would have told of it."""
    return memory.quiet_since is not None and now - seen.statistics_age - memory.quiet_since >= SILENT_QUIET
