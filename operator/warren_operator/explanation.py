"""Why: the sentence that explains a decision, and what would change it. All pure.

The same sentence serves `kubectl get wq`, the Event, the status, the CLI and the dashboard.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from warren_contract.durations import format_duration
from warren_operator.observation import View
from warren_operator.policy import (
    FLOOR_SPAN,
    IDLE_FOR,
    PENDING_LIMIT,
    USUAL_BACKLOG_PER_WORKER,
    Decision,
    Limit,
    Memory,
    Phase,
    Rule,
    Scaling,
    pends,
)
from warren_operator.reasons import Reason
from warren_operator.remedies import Situation, remedies, remedies_at_none
from warren_operator.resource import PastDecisionStatus


@dataclass(frozen=True, slots=True)
class Problem:
    """Why a WorkQueue is not ready.

    Attributes:
        reason: one word, for the condition.
        message: what happened, and what to do.
    """

    reason: Reason
    message: str


def first_told(problems: Iterable[Problem]) -> Problem | None:
    """The one that is told of several; None where there is none."""
    return min(problems, key=lambda problem: problem.reason.rank, default=None)


@dataclass(frozen=True)
class Explained:
    """All that is told about one WorkQueue at one moment. What takes a moment to find is found when it is asked for.

    Attributes:
        cause: what keeps the WorkQueue from being served as it should be; None while nothing does.
        override: what somebody else's policy changed; None while nothing that is known.
        view: what is seen; None while nothing is.
        decision: the latest; None where there is none.
        scaling: what the decision was made for.
        memory: that the decision was made with.
        now: when it was made, in seconds of the loop's clock.
        recommended: it is not carried out, whatever it is.
        decisions: the last changes of replicas, newest first.
    """

    cause: Problem | None
    override: str | None = None
    view: View | None = None
    decision: Decision | None = None
    scaling: Scaling | None = None
    memory: Memory = field(default_factory=Memory)
    now: float = 0.0
    recommended: bool = False
    decisions: tuple[PastDecisionStatus, ...] = ()

    @cached_property
    def problem(self) -> Problem | None:
        """Why the WorkQueue is not ready, that no worker comes up included; None while all is well."""
        found = (self.cause,) if self.view is None else (self.cause, _stuck(self.view), _unmade(self.view))
        return first_told(problem for problem in found if problem is not None)

    @cached_property
    def reason(self) -> str:
        """The sentence; empty where nothing was decided."""
        if self.decision is None or self.view is None or self.scaling is None:
            return ""
        text = sentence(self.decision, self.view, self.scaling)
        return f"{text} (recommended only)" if self.recommended else text

    @cached_property
    def remedies(self) -> tuple[str, ...]:
        """What would change the decision; empty where nothing was decided."""
        if self.decision is None or self.view is None or self.scaling is None:
            return ()
        seen = self.view.seen
        if seen.backlog is not None and not seen.replicas and not seen.workers:
            found = remedies_at_none(self.scaling, seen)
        else:
            found = remedies(Situation(self.scaling, seen, self.memory, self.now))
        enforce = "Set mode to Enforce to have it carried out."
        return (enforce, *found) if self.recommended and self.decision.changes else found


def _stuck(view: View) -> Problem | None:
    """That no worker is up, and none will be by itself. It need not hold a decision back: no more may be wanted."""
    workers = view.seen.workers
    if any(worker.up for worker in workers):
        return None
    failing = [worker.name for worker in workers if worker.phase is Phase.FAILING]
    if failing:
        text = f"{_pods(failing)} cannot start ({view.failing}): mend what `kubectl describe pod {failing[0]}` tells"
        return Problem(Reason.WORKERS_FAILING, f"no worker is up, and {text}")
    pending = [worker.name for worker in workers if pends(worker)]
    if pending:
        text = (
            f"{_pods(pending)} {'has' if len(pending) == 1 else 'have'} been pending for over "
            f"{format_duration(PENDING_LIMIT)}: see `kubectl describe pod {pending[0]}`, and make room in the cluster, "
            "or have the workers ask for less"
        )
        return Problem(Reason.WORKERS_PENDING, f"no worker is up, and {text}")
    if view.unready:
        text = (
            f"{_pods(view.unready)} {'has' if len(view.unready) == 1 else 'have'} run for over "
            f"{format_duration(PENDING_LIMIT)} without being ready: `kubectl logs {view.unready[0]}` tells why"
        )
        return Problem(Reason.WORKERS_UNREADY, f"no worker is up, and {text}")
    return None


def _unmade(view: View) -> Problem | None:
    """That some of the workers that are asked for do not even become pods."""
    missing = view.seen.replicas - len(view.seen.workers)
    if not view.refused or missing <= 0:
        return None
    text = f"{missing} of {view.seen.replicas} workers cannot be made: {view.refused}; raise the quota, or see to what"
    return Problem(Reason.PODS_REFUSED, f"{text} refuses pods (`kubectl describe replicaset`)")


def _pods(names: Sequence[str]) -> str:
    return f"{len(names)} pod{'s' * (len(names) != 1)}"


def delayed(view: View) -> str:
    """That tasks wait for their retry; empty where none does, as far as is known."""
    if not view.delayed:
        return ""
    return f"{view.delayed} task{'s wait for their' if view.delayed != 1 else ' waits for its'} retry"


def sentence(decision: Decision, view: View, scaling: Scaling) -> str:
    """One short sentence: what is wanted, and why."""
    return f"{_demand(decision, view, scaling)}{_hold(decision, view, scaling)}"


def _demand(decision: Decision, view: View, scaling: Scaling) -> str:
    backlog = view.seen.backlog
    if backlog is None or decision.asked is None:
        return f"backlog unknown: {view.unknown or 'no reading yet'}"
    if not backlog.ready and not backlog.unacked:
        return delayed(view) or "queue is empty"
    asked, tasks = decision.asked, backlog.ready + backlog.unacked
    count = f"{tasks} task{'s' * (tasks != 1)}"
    per_worker = scaling.backlog_per_worker or USUAL_BACKLOG_PER_WORKER
    by_count = f"{count} at {per_worker} a worker ask{'s' * (tasks == 1)} for {asked}"
    match decision.rule:
        case Rule.BACKLOG_PER_WORKER:
            return by_count
        case Rule.LEARNING:
            return f"{by_count}, service time not known yet"
        case Rule.MAX_WAIT:
            arriving = f", {rate(view.seen.arrival_rate)} arriving" if view.seen.arrival_rate else ""
            each = f"{span(view.seen.reckoned_time)} each"
            if view.seen.reckoned_time != view.seen.service_time:
                each = f"about {each} so far"
            if not backlog.ready and not arriving:
                return f"{count} in work, none waits"
            wait = f"keep{'s' * (asked == 1)} the wait under {format_duration(scaling.max_wait or 0.0)}"
            return f"{count}, {each}{arriving}: {asked} worker{'s' * (asked != 1)} {wait}"


def _hold(decision: Decision, view: View, scaling: Scaling) -> str:
    pods = view.seen.workers
    count = decision.replicas
    stay = "stays" if count == 1 else "stay"
    busy = sum(worker.busy is True for worker in pods)
    doing = f"{busy} busy" if busy else f"not heard to be idle for {format_duration(IDLE_FOR)}"
    failing = sum(worker.phase is Phase.FAILING for worker in pods)
    pending = sum(pends(worker) for worker in pods)
    texts = {
        Limit.NONE: "",
        Limit.MAX_REPLICAS: f", maxReplicas is {scaling.max_replicas}{_by_schedule(scaling.max_scheduled)}",
        Limit.MIN_REPLICAS: f", minReplicas is {scaling.min_replicas}{_by_schedule(scaling.min_scheduled)}",
        Limit.BUDGET: f", the shared budget has {scaling.budget} for it",
        Limit.MAX_STEP: f", at most {scaling.max_step} start at once"
        if scaling.max_step
        else ", the next as these start",
        Limit.STABILIZATION: f", {count} {stay}: as many were wanted within {format_duration(scaling.stabilization)}",
        Limit.SOON_BEGUN: ", no more: those that are up begin what waits before others could",
        Limit.FLOOR: f", {count} {stay}: steady traffic has needed as many within {format_duration(FLOOR_SPAN)}",
        Limit.PAUSED: f", {count} {stay}: paused",
        Limit.SUSPENDED: ", none: suspended",
        Limit.UNKNOWN: f", {count} {stay}",
        Limit.FALLBACK: f", {count} as fallback",
        Limit.FAILING: f", no more: {failing} cannot start ({view.failing})",
        Limit.PENDING: f", no more: {pending} pending for over {format_duration(PENDING_LIMIT)}",
        Limit.READY_TASKS: f", {count} {stay} while tasks are ready",
        Limit.UNCONFIRMED: f", {count} {stay} until it is certain that no task waits",
        Limit.UNCOUNTED: f", {count} {stay} while statistics are missing",
        Limit.ROLLOUT: f", {count} {stay} during the rollout",
        Limit.UNSETTLED: f", {count} {stay} while pods change",
        Limit.STARTING: f", {count} {stay} until all have started",
        Limit.BUSY: f", {count} {stay}: {doing}",
    }
    return texts[decision.limit]


def _by_schedule(until: str) -> str:
    return f" by schedule until {until}" if until else ""


def span(seconds: float) -> str:
    """A duration for people, which Kubernetes reads as well: `850ms`, `3.3s`, `42s`, `1m30s`."""
    if round(seconds, 1) >= 10:
        return format_duration(round(seconds))
    if round(seconds, 3) >= 1:
        return f"{seconds:.1f}".removesuffix(".0") + "s"
    return format_duration(round(seconds, 3))


def rate(per_second: float | None) -> str:
    """Tasks a second for people: `3.5/s`."""
    value = per_second or 0.0
    return f"{value:.0f}/s" if value >= 10 else f"{value:.2g}/s"


def clipped(text: str, longest: int) -> str:
    """The text, cut where it is too long."""
    return text if len(text) <= longest else text[: longest - 1] + "…"
