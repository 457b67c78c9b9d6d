"""Why: the sentence that explains a decision, and what to do about it. All pure.

The same sentence serves `kubectl get wq`, the Event, the status, the CLI and the dashboard.
"""

from dataclasses import dataclass

from warren_contract.durations import format_duration
from warren_operator.observation import View
from warren_operator.policy import PENDING_LIMIT, USUAL_BACKLOG_PER_WORKER, Decision, Limit, Phase, Rule, Scaling


@dataclass(frozen=True, slots=True)
class Problem:
    """Why a WorkQueue is not ready.

    Attributes:
        reason: one word, for the condition.
        message: what happened, and what to do.
    """

    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class Explained:
    """All that is told about one WorkQueue at one moment.

    Attributes:
        problem: None while all is well.
        override: what somebody else's policy changed; None while nothing.
        view: what is seen; None while nothing is.
        decision: the latest; None where there is none.
        scaling: what the decision was made for.
    """

    problem: Problem | None
    override: str | None = None
    view: View | None = None
    decision: Decision | None = None
    scaling: Scaling | None = None


def sentence(decision: Decision, view: View, scaling: Scaling) -> str:
    """One short sentence: what is wanted, and why."""
    return f"{_demand(decision, view, scaling)}{_hold(decision, view, scaling)}"


def _demand(decision: Decision, view: View, scaling: Scaling) -> str:
    backlog = view.seen.backlog
    if backlog is None or decision.asked is None:
        return f"backlog unknown: {view.unknown or 'no reading yet'}"
    if not backlog.ready and not backlog.unacked:
        return "queue is empty"
    tasks = backlog.ready + backlog.unacked
    count = f"{tasks} task{'s' * (tasks != 1)}"
    if decision.rule is Rule.MAX_WAIT:
        arriving = f", {rate(view.seen.arrival_rate)} arriving" if view.seen.arrival_rate else ""
        wait = format_duration(scaling.max_wait or 0.0)
        each = span(view.seen.service_time or 0.0)
        return f"{count} of {each} each{arriving}: {decision.asked} keep the wait under {wait}"
    per_worker = scaling.backlog_per_worker or USUAL_BACKLOG_PER_WORKER
    unknown = ", service time not known yet" if decision.rule is Rule.LEARNING else ""
    return f"{count} at {per_worker} a worker ask for {decision.asked}{unknown}"


def _hold(decision: Decision, view: View, scaling: Scaling) -> str:
    pods = view.seen.workers
    count = decision.replicas
    busy = sum(worker.busy is True for worker in pods)
    failing = sum(worker.phase is Phase.FAILING for worker in pods)
    scheduled = f" by schedule until {scaling.scheduled}" if scaling.scheduled else ""
    texts = {
        Limit.NONE: "",
        Limit.MAX_REPLICAS: f", maxReplicas is {scaling.max_replicas}{scheduled}",
        Limit.MIN_REPLICAS: f", minReplicas is {scaling.min_replicas}{scheduled}",
        Limit.BUDGET: f", the shared budget has {scaling.budget} for it",
        Limit.MAX_STEP: f", at most {scaling.max_step} start at once",
        Limit.STABILIZATION: f", {count} stay for {format_duration(scaling.stabilization)}",
        Limit.FLOOR: f", {count} stay: as many are busy with {rate(view.seen.arrival_rate)} arriving",
        Limit.PAUSED: f", {count} stay: paused",
        Limit.SUSPENDED: ", none: suspended",
        Limit.UNKNOWN: f", {count} stay",
        Limit.FALLBACK: f", {count} as fallback",
        Limit.FAILING: f", no more: {failing} cannot start ({view.failing})",
        Limit.PENDING: f", no more: pods are pending for over {format_duration(PENDING_LIMIT)}",
        Limit.READY_TASKS: f", {count} stay while tasks are ready",
        Limit.UNCONFIRMED: f", {count} stay until that is certain",
        Limit.ROLLOUT: f", {count} stay during the rollout",
        Limit.UNSETTLED: f", {count} stay while pods change",
        Limit.STARTING: f", {count} stay until all have started",
        Limit.BUSY: f", {count} stay: {busy} busy" if busy else f", {count} stay: not heard to be idle for a second",
    }
    return texts[decision.limit]


def span(seconds: float) -> str:
    """A duration for people: three digits are plenty."""
    if seconds >= 10:
        return format_duration(round(seconds))
    return format_duration(round(seconds, 1 if seconds >= 1 else 3))


def rate(per_second: float | None) -> str:
    """Tasks a second for people: `3.5/s`."""
    value = per_second or 0.0
    return f"{value:.0f}/s" if value >= 10 else f"{value:.2g}/s"


def camel(word: str) -> str:
    return word[:1].upper() + word[1:]


def advice(decision: Decision, view: View, scaling: Scaling) -> str:
    """The sentence, and what to do where something can be done."""
    advice = {
        Limit.MAX_REPLICAS: "Raise maxReplicas if that is too slow.",
        Limit.MIN_REPLICAS: "Lower minReplicas to have fewer.",
        Limit.BUDGET: "Raise the budget in the operator's settings, or the queue's budget.priority.",
        Limit.FLOOR: "They go half a minute after the tasks have stopped coming.",
        Limit.MAX_STEP: "Raise behavior.scaleUp.maxStep to start more at once.",
        Limit.STABILIZATION: "Shorten behavior.scaleDown.stabilization to let them go sooner.",
        Limit.PAUSED: "Set paused to false to let the number of workers follow the backlog.",
        Limit.SUSPENDED: "Set suspend to false to have the tasks done.",
        Limit.UNKNOWN: "Nothing is changed until the broker can be read again; see the condition Ready.",
        Limit.FALLBACK: "The number is fallback.replicas until the broker can be read again; see the condition Ready.",
        Limit.FAILING: "Look at the pods with `kubectl describe pod` and mend the image or the command.",
        Limit.PENDING: "Look at the pods with `kubectl describe pod`: the cluster has no room for them.",
        Limit.ROLLOUT: "If the rollout is stuck, look at it with `kubectl rollout status`.",
    }.get(decision.limit, "This passes by itself.")
    text = camel(sentence(decision, view, scaling))
    return f"{text}. {advice}"
