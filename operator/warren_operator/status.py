"""The status of a WorkQueue, and the same as an event message for the producers. All pure."""

from datetime import datetime
from typing import Any

from warren_contract.events import QueueState
from warren_operator.conditions import conditions
from warren_operator.explanation import Explained, rate, sentence, span
from warren_operator.observation import View
from warren_operator.policy import Decision, Scaling
from warren_operator.resource import BacklogStatus, DecisionStatus, Mode, Status, WorkersStatus, WorkQueue, timestamp


def status(item: WorkQueue, told: Explained, now: datetime) -> Status:
    """The status to write. Times of what has not changed are kept from the status that is there."""
    view, decision = told.view, told.decision
    result = Status(observed_generation=item.generation, conditions=conditions(item, told, now))
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
            "service_time": None if seen.service_time is None else span(seen.service_time),
            "arrival_rate": None if seen.arrival_rate is None else rate(seen.arrival_rate),
            "estimated_wait": None if view.estimated_wait is None else span(view.estimated_wait),
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
        rule=decision.rule.value,
        reason=_recommended(item, sentence(decision, view, scaling)),
    )


def _recommended(item: WorkQueue, text: str) -> str:
    return f"{text} (recommended only)" if item.spec is not None and item.spec.mode is Mode.RECOMMEND else text


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
    low, high = scaling.bounds
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
        service_time=view.seen.service_time,
        arrival_rate=view.seen.arrival_rate,
        estimated_wait=view.estimated_wait,
    )
