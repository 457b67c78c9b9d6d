"""The operator on the model: the very same `decide`, fed by the very same reports, in the very same rhythm.

What is left out does not happen on the model: readings that fail, statistics (every worker reports), rollouts, pods
that crash.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import overload

from warren_contract.events import RunningTask, WorkerState
from warren_operator.observation import SILENCE
from warren_operator.policy import Backlog, Decision, Memory, Observation, Phase, Worker, decide
from warren_operator.resource import Key, Spec, seconds
from warren_operator.rhythm import ACTING_EVERY, next_look
from warren_operator.scaling import Wants
from warren_operator.simulation.model import Pod, World
from warren_operator.worker_reports import Report, WorkerReports

QUEUE = "simulated"
KEY = Key("default", QUEUE)

HINT_GAP = 1.0
"""Seconds between two hints of the producer."""

GAP, BURST, SETTLE = 1.0, 2, 0.05
"""Seconds between two reports of a worker in the long run, how many it may send at once after it was quiet, and seconds
that a change must last to be told; see `warren_worker.reporter`."""

SIGN_OF_LIFE = 10.0
"""Seconds between two reports of a worker at most."""

REST_AFTER, REST_EVERY = 120.0, 60.0
"""Seconds after which nothing that has happened counts any more, and seconds between two looks at a queue that is at
rest from then on: each would be like the one before. Tasks that come are hints, here as there."""

TIME_LIMIT = 25 * 60.0
"""Seconds, the chart's, where the WorkQueue has none of its own."""

GRACE_AFTER_LIMIT = 60.0
"""Seconds that the chart gives a pod to end, beyond the time limit of a task."""


class _Reporter:
    """When a worker reports; see `warren_worker.reporter` and its `Pace`."""

    __slots__ = ("due", "full_until", "pod", "sent_at")

    def __init__(self, pod: Pod) -> None:
        self.pod = pod
        self.full_until = self.sent_at = float("-inf")
        self.due = False


class Warren:
    """The operator, serving one WorkQueue.

    Attributes:
        rest, grace: see `Scaler`.
        concurrency: tasks at once in one worker.
        reports: what the workers have told.
    """

    def __init__(self, spec: Spec, start: float) -> None:
        """Args:
        spec: of the WorkQueue.
        start: Unix time of second 0, for its schedule.
        """
        self.concurrency = spec.concurrency
        self._spec = spec
        self._start = start
        self._wants = Wants({}, lambda _: None)
        self.rest = self._wants.usual(KEY, spec, start).bounds[0]
        limit = TIME_LIMIT if spec.time_limit is None else seconds(spec.time_limit)
        self.grace = limit + GRACE_AFTER_LIMIT
        self.reports = WorkerReports()
        self._reporters: dict[str, _Reporter] = {}
        self._running = 0
        self._gone: list[str] = []
        self._memory = Memory()
        self._acting = False
        self._look_at = 0.0
        self._hinted_at = float("-inf")
        self._hint_due = False
        self._moved_at = 0.0
        self._world: World

    def begin(self, world: World) -> None:
        """The scaler's."""
        self._world = world
        self._schedule(world.now)

    # -- hints: see the producer's outbox ------------------------------------------------------------------------------

    def submitted(self, now: float) -> None:
        """The scaler's: the first task is told at once, then the producer tells once a second."""
        self._moved_at = now
        if self._hint_due:
            return
        if now - self._hinted_at >= HINT_GAP:
            self._hint(None)
        else:
            self._hint_due = True
            self._world.at(self._hinted_at + HINT_GAP, self._hint)

    def _hint(self, _: object) -> None:
        self._hint_due = False
        self._hinted_at = self._world.now
        self._look()

    # -- reports -------------------------------------------------------------------------------------------------------

    def changed(self, pod: Pod, now: float) -> None:
        """The scaler's: the worker reports as soon as it has settled and the pace allows."""
        self._moved_at = now
        reporter = self._reporters.get(pod.name)
        if reporter is None:
            if not pod.consuming:
                return
            reporter = self._reporters[pod.name] = _Reporter(pod)
            self._world.at(now + SIGN_OF_LIFE, self._live, reporter)
        if pod.gone is not None:
            del self._reporters[pod.name]
            self._gone.append(pod.name)
            return
        if reporter.due:
            return
        reporter.due = True
        self._world.at(max(now + SETTLE, reporter.full_until - (BURST - 1) * GAP), self._report_change, reporter)

    def _live(self, reporter: _Reporter) -> None:
        if reporter.pod.gone is not None:
            return
        now = self._world.now
        if now >= reporter.sent_at + SIGN_OF_LIFE:
            self._report(reporter)
        self._world.at(reporter.sent_at + SIGN_OF_LIFE, self._live, reporter)

    def _report_change(self, reporter: _Reporter) -> None:
        reporter.due = False
        if reporter.pod.gone is None:
            self._report(reporter)

    def _report(self, reporter: _Reporter) -> None:
        pod, now = reporter.pod, self._world.now
        reporter.sent_at = now
        reporter.full_until = max(reporter.full_until, now) + GAP
        before = self.reports.of(QUEUE).get(pod.name)
        state = WorkerState(
            queue=QUEUE,
            worker=pod.name,
            at=now,
            started_at=pod.created,
            concurrency=self.concurrency,
            running=tuple([RunningTask("", since) for since in pod.tasks.values()]),
            finished=pod.finished,
            failed=0,
            finished_seconds=pod.finished_seconds,
            running_seconds=sum([now - since for since in pod.tasks.values()]),
            draining=pod.ending,
        )
        self.reports.add(state, now)
        self._running += len(state.running) - (len(before.state.running) if before else 0)

    def _forget(self, now: float) -> None:
        for name in self._gone:
            report = self.reports.of(QUEUE).get(name)
            if report is not None:
                self._running -= len(report.state.running)
        self.reports.forget(QUEUE, self._gone, now)
        self._gone.clear()

    # -- observe, decide, act: see the operator's loop -----------------------------------------------------------------

    def _schedule(self, when: float) -> None:
        self._look_at = when
        self._world.at(when, self._due, when)

    def _due(self, when: float) -> None:
        if self._look_at == when:  # else a hint has come in between
            self._look()

    def _look(self) -> None:
        world = self._world
        if self._acting:
            self._schedule(world.now + ACTING_EVERY)
            return
        if self._gone:
            self._forget(world.now)
        seen = self.observe()
        scaling = self._wants.usual(KEY, self._spec, self._start + world.now)
        self.rest = scaling.bounds[0]
        decision = decide(scaling, seen, self._memory, world.now)
        self._memory = decision.memory
        if decision.changes:
            self._acting = True
            up = decision.replicas > decision.current
            forced = decision.current > scaling.ceiling
            world.at(world.now + world.timing.patch * (1 if up else 2), self._act, (decision, up or forced))
        self._schedule(world.now + (REST_EVERY if self._rests(decision) else next_look(seen, decision)))

    def _rests(self, decision: Decision) -> bool:
        world = self._world
        at_rest = decision.replicas == world.replicas == len(world.pods) == self.rest
        return at_rest and not world.waiting and not self._running and world.now - self._moved_at > REST_AFTER

    def observe(self) -> Observation:
        """What `warren_operator.observation.observe` would make of the world; a test holds the two together."""
        world, now = self._world, self._world.now
        ready, reports = len(world.waiting), self.reports.of(QUEUE)
        reporting = world.consumers <= len(reports)
        rate = self.reports.arrival_rate(QUEUE, ready, now)
        return Observation(
            backlog=Backlog(ready, max(self._running, world.consumers * self.concurrency if ready else 0)),
            replicas=world.replicas,
            workers=_Workers(world.pods, reports, now),
            settled=world.settled,
            service_time=self.reports.service_time(QUEUE, now),
            time_so_far=self.reports.time_so_far(QUEUE, now),
            arrival_rate=rate if reporting else None,
            consumers=world.consumers,
        )

    def _act(self, what: tuple[Decision, bool]) -> None:
        """Carry a decision out, unless a victim has taken a task meanwhile."""
        decision, regardless = what
        self._acting = False
        world, reports = self._world, self.reports.of(QUEUE)
        if world.replicas != decision.current:
            return
        if not {pod.name for pod in world.pods}.issuperset(decision.victims):
            return
        if not regardless and any(name in reports and reports[name].state.busy for name in decision.victims):
            return
        world.scale(decision.replicas, decision.victims)


class _Workers(Sequence[Worker]):
    """The workers as seen; made when somebody looks at them, which most decisions do not."""

    def __init__(self, pods: list[Pod], reports: Mapping[str, Report], now: float) -> None:
        self._pods = pods
        self._reports = reports
        self._now = now
        self._made: tuple[Worker, ...] | None = None

    def __len__(self) -> int:
        return len(self._pods) if self._made is None else len(self._made)

    @overload
    def __getitem__(self, index: int) -> Worker: ...

    @overload
    def __getitem__(self, index: slice) -> Sequence[Worker]: ...

    def __getitem__(self, index: int | slice) -> Worker | Sequence[Worker]:
        return self._all()[index]

    def __iter__(self) -> Iterator[Worker]:
        return iter(self._all())

    def _all(self) -> tuple[Worker, ...]:
        if self._made is None:
            self._made = tuple([self._worker(pod) for pod in self._pods])
        return self._made

    def _worker(self, pod: Pod) -> Worker:
        report = self._reports.get(pod.name)
        busy: bool | None = None
        idle_for = 0.0
        if report is not None and not report.state.draining:
            busy = report.state.busy
            if report.idle_since is not None:
                idle_for = self._now - report.idle_since
        phase, age = pod.phase, self._now - pod.created
        if phase is Phase.PENDING and age < SILENCE:
            phase = Phase.STARTING  # it has its node
        return Worker(pod.name, phase, busy, idle_for, age=age, node=pod.node)
