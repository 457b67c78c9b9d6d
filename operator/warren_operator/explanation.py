"""Why: the sentence, the status, the Events and the event messages that explain a decision. All pure.

The same sentence serves `kubectl get wq`, the Event, the status and the dashboard.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from warren_contract.durations import format_duration
from warren_contract.events import QueueState
from warren_operator.observation import View
from warren_operator.policy import PENDING_LIMIT, Decision, Limit, Phase, Scaling
from warren_operator.resource import (
    API_VERSION,
    KIND,
    BacklogStatus,
    Condition,
    ConditionStatus,
    DecisionStatus,
    Mode,
    Status,
    WorkersStatus,
    WorkQueue,
    timestamp,
)

READY = "Ready"
ACTIVE = "Active"
SCALING_LIMITED = "ScalingLimited"
POLICY_OVERRIDDEN = "PolicyOverridden"

COMPONENT = "warren-operator"


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
    return f"{tasks} task{'s' * (tasks != 1)} at {scaling.backlog_per_worker} a worker ask for {decision.asked}"


def _hold(decision: Decision, view: View, scaling: Scaling) -> str:
    pods = view.seen.workers
    count = decision.replicas
    busy = sum(worker.busy is True for worker in pods)
    failing = sum(worker.phase is Phase.FAILING for worker in pods)
    texts = {
        Limit.NONE: "",
        Limit.MAX_REPLICAS: f", maxReplicas is {scaling.max_replicas}",
        Limit.MIN_REPLICAS: f", minReplicas is {scaling.min_replicas}",
        Limit.MAX_STEP: f", at most {scaling.max_step} start at once",
        Limit.STABILIZATION: f", {count} stay for {format_duration(scaling.stabilization)}",
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


def status(item: WorkQueue, told: Explained, now: datetime) -> Status:
    """The status to write. Times of what has not changed are kept from the status that is there."""
    view, decision = told.view, told.decision
    result = Status(observed_generation=item.generation, conditions=_conditions(item, told, now))
    if view is None:
        return result
    seen = view.seen
    backlog = seen.backlog
    result = result.model_copy(
        update={
            "backlog": BacklogStatus(
                ready=None if backlog is None else backlog.ready,
                unacked=None if backlog is None else backlog.unacked,
                delayed=view.delayed,
                dead=view.dead,
            ),
            "workers": WorkersStatus(total=len(seen.workers), busy=view.busy, idle=view.idle),
            "service_time": None if view.service_time is None else _duration(view.service_time),
            "estimated_wait": None if view.estimated_wait is None else _duration(view.estimated_wait),
        }
    )
    if decision is None or told.scaling is None:
        return result
    return result.model_copy(
        update={"desired_replicas": decision.replicas, "decision": _decision(item, told, decision, view, now)}
    )


def _decision(item: WorkQueue, told: Explained, decision: Decision, view: View, now: datetime) -> DecisionStatus:
    """The decision; one that changes nothing keeps the time and the step of the one before that led here."""
    scaling = told.scaling or Scaling(0)
    at, before = timestamp(now), decision.current
    known = item.status.get("decision") or {}
    if known.get("to") == decision.replicas and not decision.changes:
        at, before = known.get("at", at), known.get("from", before)
    return DecisionStatus(
        at=at,
        from_=before,
        to=decision.replicas,
        limited_by=decision.limit.value,
        reason=_recommended(item, sentence(decision, view, scaling)),
    )


def _recommended(item: WorkQueue, text: str) -> str:
    return f"{text} (recommended only)" if item.spec is not None and item.spec.mode is Mode.RECOMMEND else text


def _duration(seconds: float) -> str:
    """For people: three digits are plenty."""
    if seconds >= 10:
        return format_duration(round(seconds))
    return format_duration(round(seconds, 1 if seconds >= 1 else 3))


def _conditions(item: WorkQueue, told: Explained, now: datetime) -> tuple[Condition, ...]:
    rows: list[tuple[str, ConditionStatus, str, str]] = []
    if told.problem is None:
        rows.append(
            (READY, ConditionStatus.TRUE, "Working", "The queue is in place and its workers follow the backlog.")
        )
    else:
        rows.append((READY, ConditionStatus.FALSE, told.problem.reason, told.problem.message))
    if told.override is not None:
        rows.append((POLICY_OVERRIDDEN, ConditionStatus.TRUE, "ForeignPolicy", told.override))
    else:
        rows.append((POLICY_OVERRIDDEN, ConditionStatus.FALSE, "InForce", "Warren's policy applies to the queue."))
    view, decision, scaling = told.view, told.decision, told.scaling
    if view is not None:
        rows.append(_active(view))
    if view is not None and decision is not None and scaling is not None:
        limited = decision.limit is not Limit.NONE
        rows.append(
            (
                SCALING_LIMITED,
                ConditionStatus.TRUE if limited else ConditionStatus.FALSE,
                _camel(decision.limit.value) if limited else "Free",
                _advice(decision, view, scaling) if limited else "Nothing holds the workers back.",
            )
        )
    known = {condition["type"]: condition for condition in item.status.get("conditions") or ()}
    return tuple(
        Condition(
            type=kind,
            status=value,
            reason=reason,
            message=message,
            observed_generation=item.generation,
            last_transition_time=known[kind]["lastTransitionTime"]
            if kind in known and known[kind].get("status") == value
            else timestamp(now),
        )
        for kind, value, reason, message in rows
    )


def _active(view: View) -> tuple[str, ConditionStatus, str, str]:
    seen = view.seen
    if seen.backlog is None:
        return ACTIVE, ConditionStatus.UNKNOWN, "BacklogUnknown", f"The backlog is not known: {view.unknown}."
    if seen.backlog.ready or seen.backlog.unacked:
        return ACTIVE, ConditionStatus.TRUE, "Backlog", "There are tasks to do."
    if seen.workers:
        return ACTIVE, ConditionStatus.TRUE, "Workers", "There is nothing to do; workers are still there."
    return ACTIVE, ConditionStatus.FALSE, "Idle", "There is nothing to do, and no worker runs."


def _camel(word: str) -> str:
    return word[:1].upper() + word[1:]


def _advice(decision: Decision, view: View, scaling: Scaling) -> str:
    """The sentence, and what to do where something can be done."""
    advice = {
        Limit.MAX_REPLICAS: "Raise maxReplicas if that is too slow.",
        Limit.MIN_REPLICAS: "Lower minReplicas to have fewer.",
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
    text = _camel(sentence(decision, view, scaling))
    return f"{text}. {advice}"


def status_patch(new: Status) -> dict[str, Any]:
    """As a merge patch; what is None is removed."""
    return {"status": new.model_dump(mode="json", by_alias=True)}


def substance(new: Status) -> tuple[object, ...]:
    """What is written at once when it changes; the rest (counts) waits for the next regular write."""
    decision = new.decision
    return (
        new.observed_generation,
        new.desired_replicas,
        None if decision is None else (decision.to, decision.limited_by),
        tuple((condition.type, condition.status, condition.reason) for condition in new.conditions),
    )


def queue_state(item: WorkQueue, told: Explained, at: float) -> QueueState | None:
    """The event message for the producers; None while nothing is known."""
    view, decision, scaling = told.view, told.decision, told.scaling
    if view is None or decision is None or scaling is None or view.seen.backlog is None:
        return None
    low, high = (0, 0) if scaling.suspended else (scaling.min_replicas, scaling.max_replicas)
    return QueueState(
        queue=item.queue,
        resource=str(item.key),
        at=at,
        ready=view.seen.backlog.ready,
        unacked=view.seen.backlog.unacked,
        workers=len(view.seen.workers),
        busy=view.busy,
        desired=decision.replicas,
        min_replicas=low,
        max_replicas=high,
        reason=_recommended(item, sentence(decision, view, scaling)),
        limited_by=decision.limit.value,
        delayed=view.delayed,
        dead=view.dead,
        service_time=view.service_time,
        estimated_wait=view.estimated_wait,
    )


@dataclass(frozen=True, slots=True)
class Note:
    """A Kubernetes Event to be.

    Attributes:
        reason: one word.
        message: a sentence or two.
        warning: whether something is wrong.
    """

    reason: str
    message: str
    warning: bool = False


def scaled(decision: Decision, text: str) -> Note:
    """The Event for a change of replicas that was carried out."""
    word = "ScaledUp" if decision.replicas > decision.current else "ScaledDown"
    return Note(word, f"{decision.current} → {decision.replicas} workers: {text}")


def transitions(before: Iterable[Mapping[str, Any]], after: Iterable[Condition]) -> list[Note]:
    """An Event for each condition that began, ended, or now has another reason.

    Active and ScalingLimited come and go with the work: the Events of the scaling tell their story.
    """
    known = {condition["type"]: (condition.get("status"), condition.get("reason")) for condition in before}
    notes = []
    for condition in after:
        if condition.type in (ACTIVE, SCALING_LIMITED):
            continue
        bad = condition.status is (ConditionStatus.FALSE if condition.type == READY else ConditionStatus.TRUE)
        if known.get(condition.type) == (condition.status, condition.reason):
            continue
        if not bad and condition.type not in known:
            continue  # a new WorkQueue whose queue is not overridden is no news
        reason = condition.reason if bad else condition.type if condition.type == READY else "PolicyInForce"
        notes.append(Note(reason, condition.message, warning=bad))
    return notes


def event_body(item: WorkQueue, note: Note, instance: str, now: datetime) -> dict[str, Any]:
    """The Event as the API server takes it."""
    at = timestamp(now)
    return {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {"generateName": f"{item.key.name[:200]}.", "namespace": item.key.namespace},
        "involvedObject": {
            "apiVersion": API_VERSION,
            "kind": KIND,
            "namespace": item.key.namespace,
            "name": item.key.name,
            "uid": item.uid,
        },
        "reason": note.reason,
        "message": note.message[:1024],
        "type": "Warning" if note.warning else "Normal",
        "firstTimestamp": at,
        "lastTimestamp": at,
        "count": 1,
        "source": {"component": COMPONENT},
        "reportingComponent": COMPONENT,
        "reportingInstance": instance[:128],
    }
