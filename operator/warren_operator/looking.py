"""One look at one WorkQueue: read its queue, put together what is seen, decide, and have that carried out and told."""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

from warren_operator.acting import Actor
from warren_operator.broker import Broker
from warren_operator.claims import target_of
from warren_operator.entry import Entry
from warren_operator.explanation import Explained, Problem, first_told
from warren_operator.observation import (
    SLOW_READING,
    Counts,
    Inputs,
    Reading,
    View,
    bare_since,
    observe,
)
from warren_operator.policy import Decision, Limit, Memory, Phase, decide
from warren_operator.reasons import OF_THE_QUEUE, Reason
from warren_operator.resource import Key, Mode, Spec
from warren_operator.rhythm import ACTING_EVERY, IDLE_EVERY, next_look
from warren_operator.scaling import Wants
from warren_operator.status import why_not_ready
from warren_operator.telling import Teller
from warren_operator.topology import OVERRIDDEN, Finding, Topology
from warren_operator.worker_reports import WorkerReports
from warren_operator.workloads import TargetState, Workloads

STANDING = frozenset(
    {
        Limit.NONE,
        Limit.MAX_REPLICAS,
        Limit.MIN_REPLICAS,
        Limit.PAUSED,
        Limit.SUSPENDED,
        Limit.READY_TASKS,
        Limit.ROLLOUT,
        Limit.UNSETTLED,
    }
)
"""Limits of decisions that stand while nothing is new. Under the others time alone may change them."""

AHEAD = frozenset({Limit.UNCONFIRMED, Limit.BUSY})
"""Limits of decisions after which workers will go as soon as they have done what they have in hand."""

RANK_EVERY = 10.0
"""Seconds between two times that pods are marked ahead, at least. Who began first is free first, as a rule; whatever is
not so is marked when it goes."""

DECIDED_EVERY = 10.0
"""Seconds for which a decision on an idle queue stands at most: means and rates change with time, if slowly."""

DECIDED_BUSY_EVERY = 1.0
"""The same for a queue that has tasks or workers."""

DECIDED_AT_REST_EVERY = 60.0
"""The same for one that has neither, nor had of late: there is nothing left that time alone would change."""

FIRST_READING = 15.0
"""Seconds to wait for a queue's first reading before it is told that there is none: the broker may be starting, too."""

FIRST_DECLARING = 120.0
"""The same while queues are being declared, thousands perhaps: to tell of each that it waits would take longer."""

TOLD_AFTER = 3
"""Readings in a row that must have failed before it is told: a single slow answer is no news."""

UNREADABLE = frozenset({Reason.BROKER_UNAVAILABLE, Reason.QUEUE_UNAVAILABLE})
"""Where this has been told, the first one that fails is told: else all would be said to be well in between."""

CLUSTER_ADVICE = "no worker is taken away until that is mended"
BROKER_ADVICE = "no worker is taken away: see that the broker runs, and that its address and password are right"


@dataclass(frozen=True, slots=True)
class Sources:
    """Where everything is seen that a decision depends on.

    Attributes:
        broker: counts tasks.
        topology: what is known of the broker besides.
        workloads: what is known of the cluster.
        reports: what is known of the workers.
        wants: what is wanted.
    """

    broker: Broker
    topology: Topology
    workloads: Workloads
    reports: WorkerReports
    wants: Wants


class Looker:
    """Looks at one WorkQueue after the other.

    Attributes:
        failures: readings that failed, for the metrics.
    """

    def __init__(self, sources: Sources, actor: Actor, teller: Teller) -> None:
        """Args:
        sources: to look at.
        actor: changes replicas.
        teller: tells.
        """
        self.failures = 0
        self._broker = sources.broker
        self._topology = sources.topology
        self._workloads = sources.workloads
        self._reports = sources.reports
        self._wants = sources.wants
        self._actor = actor
        self._teller = teller

    async def read(self, entries: Sequence[Entry], *, aside: bool) -> list[Reading | None]:
        """Count the tasks of each WorkQueue's queue; None for those where nothing is to be decided now."""
        due = [entry for entry in entries if entry.refusal is None and not entry.acting]
        asked = [entry for entry in due if not self._broker.problem and not self._topology.absent(entry.item.queue)]
        counted = await self._broker.read([entry.item.queue for entry in asked], aside=aside) if asked else []
        read: dict[Key, Reading | None] = {entry.item.key: None for entry in entries}
        read |= {entry.item.key: Reading(None, self._broker.problem, missing=not self._broker.problem) for entry in due}
        for entry, reading in zip(asked, counted, strict=True):
            entry.aside = reading.counts is None or reading.counts.took >= SLOW_READING
            read[entry.item.key] = reading
        return [self._noted(entry, reading) for entry, reading in zip(entries, read.values(), strict=True)]

    def _noted(self, entry: Entry, reading: Reading | None) -> Reading | None:
        """Have done what a failed reading calls for."""
        if reading is None or reading.counts is not None:
            return reading
        self.failures += 1
        entry.failures += 1
        if not reading.missing:
            return reading
        self._topology.missing(entry.item.queue)
        return Reading(None, f"queue {entry.item.queue} is not there yet: the operator is about to declare it")

    def look(self, entry: Entry, reading: Reading | None) -> float:
        """Observe, decide, act and explain once; returns the seconds until the next look."""
        spec = entry.item.spec
        if entry.refusal is not None or spec is None:
            _let_be(entry)
            self._teller.explain(entry, Explained(entry.refusal))
            return IDLE_EVERY
        if entry.acting or reading is None:
            return ACTING_EVERY
        key = target_of(entry.item.key, spec)
        target = self._workloads.target(key)
        if target is None:
            text = f"Deployment {key.name} does not exist: make it, or name another in spec.scaleTargetRef.name"
            self._wants.forget(entry.item.key)  # there are no workers that would need a budget
            _let_be(entry)
            self._teller.explain(entry, Explained(Problem(Reason.SCALE_TARGET_MISSING, text)))
            return IDLE_EVERY
        pause = self._too_early(entry, target, reading.counts)
        if pause is not None:
            return pause
        if reading.counts is not None:
            entry.bare_since = bare_since(entry.bare_since, reading.counts, target, waiting=entry.waiting)
            entry.waiting = reading.counts.ready > 0
        return self._glance(entry, spec, target, reading)

    def _glance(self, entry: Entry, spec: Spec, target: TargetState, reading: Reading) -> float:
        """Where nothing is new since the latest decision, it stands; most looks of most queues end here."""
        now = asyncio.get_running_loop().time()
        queue = entry.item.queue
        counts, statistics = reading.counts, self._topology.statistics.get(queue)
        glance = (
            entry.item.generation,
            reading.unknown if counts is None else (counts.ready, counts.consumers, counts.suspect),
            None if statistics is None else statistics.totals,
            self._reports.version(queue),
            target,
            # A schedule changes it; and asking for it frees the share of a budget that a changed spec names no more.
            self._wants.usual(entry.item.key, spec, time.time()),
            entry.trouble,
            self._findings(entry),
            bool(self._workloads.problem),
            self._workloads.lasting_problem(),
            self._broker.problem,
            self._broker.events_problem,
            self._topology.problem,
            self._workloads.autoscalers(target_of(entry.item.key, spec)),
        )
        if now < entry.valid_until and glance == entry.glance:
            entry.hinted_at = None
            self._teller.repeat(entry, now)
            return entry.pause
        entry.glance = glance
        view = self._observe(entry, spec, target, reading)
        entry.pause = self._judge(entry, spec, view)
        decision = entry.told.decision if entry.told is not None else None
        holds = (
            decision is not None
            and not decision.changes
            and decision.limit in STANDING
            and view.seen.backlog is not None  # else failures are counted
            and spec.budget is None
        )
        entry.valid_until = now + _longest(entry, view) * entry.early if holds else now
        return entry.pause

    def _too_early(self, entry: Entry, target: TargetState, counts: Counts | None) -> float | None:
        """Seconds until the next look where this one tells nothing yet; None where it tells something.

        It does not while a change of replicas has still to come back, and when everything has only just begun.
        """
        now = asyncio.get_running_loop().time()
        if entry.expected is not None:
            if target.deployment.replicas != entry.expected[0] and now < entry.expected[1]:
                return ACTING_EVERY
            entry.expected = None
        if counts is not None:
            entry.unread_since = None
        elif entry.unread_since is None:
            entry.unread_since = now
        patience = FIRST_DECLARING if self._topology.declaring else FIRST_READING
        if entry.told is None and entry.unread_since is not None and now - entry.unread_since < patience:
            return IDLE_EVERY  # a connection that is made, and a queue that is declared, are hints
        return None

    def _judge(self, entry: Entry, spec: Spec, view: View) -> float:
        """Decide on an observation, have it carried out, and explain it; returns the seconds until the next look."""
        now = asyncio.get_running_loop().time()
        key = target_of(entry.item.key, spec)
        problem, override = self._problem(entry, spec, key, view), self._override(entry)
        if problem is not None and problem.reason in (Reason.AUTOSCALER_CONFLICT, Reason.BUDGET_UNKNOWN):
            seen = view.seen
            self._wants.occupy(entry.item.key, spec, seen.replicas, len(seen.workers) + seen.ending)
            _let_be(entry)
            self._teller.explain(entry, Explained(problem, override, view))
            return IDLE_EVERY
        scaling = self._wants.now(entry.item.key, spec, view.seen, entry.memory, time.time())
        decision = decide(scaling, view.seen, entry.memory, now)
        enforced = spec.mode is Mode.ENFORCE
        if entry.trouble is not None and not (decision.changes and enforced):
            entry.trouble = None  # what was refused is not tried any more, or has been done all the same
            problem = self._problem(entry, spec, key, view)
        told = Explained(problem, override, view, decision, scaling, entry.memory, now)
        entry.memory = decision.memory
        if decision.replicas <= decision.current or not enforced:
            entry.hinted_at = None
        if enforced and now >= entry.act_after:
            if decision.changes:
                self._actor.start(entry, key, told, decision)
            elif decision.limit in AHEAD and now - entry.ranked_at >= RANK_EVERY:
                self._rank(entry, key, view)
        if _passes(entry, told, decision):
            self._teller.repeat(entry, now)
        else:
            self._teller.explain(entry, told)
        return next_look(view.seen, decision, enforced=enforced)

    def _rank(self, entry: Entry, target: Key, view: View) -> None:
        """Nothing waits, so workers will go: mark the pods now, since the kubelet takes its time over a mark."""
        running = {name: report.state.running for name, report in self._reports.of(entry.item.queue).items()}
        free = {
            worker.name: max((task.since for task in running[worker.name]), default=0.0)
            for worker in view.seen.workers
            if worker.phase is Phase.READY and worker.name in running
        }
        if len(free) > 1 and any(free.values()):
            self._actor.rank(entry, target, sorted(free, key=lambda name: free[name]))

    def _observe(self, entry: Entry, spec: Spec, target: TargetState, reading: Reading) -> View:
        now = asyncio.get_running_loop().time()
        counts, unknown = reading.counts, reading.unknown
        queue = entry.item.queue
        pods = frozenset(pod.name for pod in (*target.pods, *target.ending))
        self._reports.forget(queue, entry.pods - pods, now)
        entry.pods = pods
        if counts is not None and any(item.reason in OF_THE_QUEUE for item in self._findings(entry)):
            # A queue of another kind promises other things: nothing is decided on what is counted there.
            counts, unknown = None, f"queue {queue} is not what Warren needs"
        return observe(
            Inputs(
                counts=counts,
                unknown=unknown,
                statistics=self._topology.statistics.get(queue),
                reports=self._reports.of(queue),
                elsewhere=self._reports.elsewhere(queue, pods),
                active_at=self._reports.active_at(queue),
                service_time=self._reports.service_time(queue, now),
                time_so_far=self._reports.time_so_far(queue, now),
                arrival_rate=self._reports.arrival_rate(queue, None if counts is None else counts.ready, now),
                concurrency=spec.concurrency,
                target=replace(target, settled=False) if self._workloads.problem else target,
                now=now,
                wall=time.time(),
                listening_since=self._broker.listening_since,
                bare_since=entry.bare_since,
            )
        )

    def _problem(self, entry: Entry, spec: Spec, target: Key, view: View) -> Problem | None:
        """What is wrong: the cause before its consequences."""
        topology, broker = self._topology, self._broker
        autoscalers = self._workloads.autoscalers(target)
        causes: list[Problem] = []
        if autoscalers:
            causes.append(Problem(Reason.AUTOSCALER_CONFLICT, _another_scales(autoscalers[0], target)))
        if spec.budget is not None and spec.budget.name not in self._wants.budgets:
            causes.append(Problem(Reason.BUDGET_UNKNOWN, _no_budget(spec.budget.name)))
        if unreadable := self._workloads.lasting_problem():
            causes.append(Problem(Reason.CLUSTER_UNREADABLE, f"{unreadable}; {CLUSTER_ADVICE}"))
        if broker.problem:
            causes.append(Problem(Reason.BROKER_UNAVAILABLE, f"{broker.problem}; {BROKER_ADVICE}"))
        causes.append(Problem(Reason.BROKER_TOO_OLD if broker.too_old else Reason.TOPOLOGY_UNKNOWN, topology.problem))
        causes += [
            Problem(Reason(item.reason), item.message) for item in self._findings(entry) if item.reason != OVERRIDDEN
        ]
        told_before = why_not_ready(entry.written) in UNREADABLE
        if view.unknown and (told_before or entry.memory.failures >= TOLD_AFTER):
            causes.append(Problem(Reason.QUEUE_UNAVAILABLE, f"{view.unknown}; no worker is taken away meanwhile"))
        if entry.trouble is not None:
            causes.append(entry.trouble)
        causes.append(Problem(Reason.EVENTS_UNHEARD, broker.events_problem))
        return first_told(cause for cause in causes if cause.message)

    def _override(self, entry: Entry) -> str | None:
        """Whose policy is in the way, and what it changes."""
        return next((item.message for item in self._findings(entry) if item.reason == OVERRIDDEN), None)

    def _findings(self, entry: Entry) -> tuple[Finding, ...]:
        if self._topology.compared:
            entry.found = ()
        return self._topology.findings(entry.item.queue) or entry.found


def _let_be(entry: Entry) -> None:
    """Nothing is decided. Once something is again, nothing from before counts: an old zero is no fresh one, and a
    decision does not stand that has not been told since."""
    entry.memory, entry.glance, entry.hinted_at = Memory(), (), None


def _passes(entry: Entry, told: Explained, decision: Decision) -> bool:
    """Whether a queue could not be read, but too few times in a row to be told: what was told before stands meanwhile.

    A broker that is short of processors is late with some queue all the time. To write of each that it is not known,
    and then that it is again, takes the API server a hundred times what a reading takes the broker.
    """
    return (
        decision.asked is None
        and not decision.changes
        and decision.memory.failures < TOLD_AFTER
        and entry.told is not None
        and entry.told.decision is not None
        and entry.told.problem == told.problem
    )


def _longest(entry: Entry, view: View) -> float:
    """Seconds for which a decision stands at most."""
    if entry.pause < IDLE_EVERY:
        return DECIDED_BUSY_EVERY
    at_rest = not view.seen.workers and not view.seen.ending and not view.seen.arrival_rate
    return DECIDED_AT_REST_EVERY if at_rest else DECIDED_EVERY


def _another_scales(autoscaler: str, target: Key) -> str:
    return (
        f"HorizontalPodAutoscaler {autoscaler} scales Deployment {target.name} as well: delete it, or the WorkQueue; "
        "until then Warren leaves the replicas alone"
    )


def _no_budget(name: str) -> str:
    return (
        f"the operator knows no budget {name}: add it to operator.budgets in the chart's values, "
        "or take spec.budget away; until then Warren leaves the replicas alone"
    )
