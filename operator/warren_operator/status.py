"""The status of a WorkQueue, and the same as an event message for the producers. All pure."""

from collections.abc import Container, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import pydantic

from warren_contract.events import PastDecision, QueueState
from warren_operator.conditions import POLICY_OVERRIDDEN, READY, conditions, verdicts
from warren_operator.explanation import Explained, clipped, rate, span
from warren_operator.policy import Decision
from warren_operator.reasons import OF_THE_QUEUE, Reason
from warren_operator.resource import (
    BacklogStatus,
    ConditionStatus,
    DecisionStatus,
    Status,
    WorkersStatus,
    WorkQueue,
    timestamp,
)
from warren_operator.topology import OVERRIDDEN, Finding

FOUND = OF_THE_QUEUE | {Reason.BINDING_REFUSED, Reason.EXCHANGE_MISMATCH, Reason.TOPOLOGY_UNKNOWN}
"""Problems that only a comparison with the broker tells of, and only the next one takes back."""

LONGEST_TEXT = 600
"""Characters of a sentence in an event message."""

MOST_REMEDIES = 6
"""Sentences on what would change a decision, in an event message."""


def status(item: WorkQueue, told: Explained, now: datetime) -> Status:
    """The status to write. Times of what has not changed are kept from the status that is there."""
    view, decision = told.view, told.decision
    result = Status(
        observed_generation=item.generation, decisions=told.decisions, conditions=conditions(item, told, now)
    )
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
            # None as well as none: else the status of each idle queue would change a while after each start.
            "arrival_rate": rate(seen.arrival_rate) if seen.arrival_rate else None,
            "estimated_wait": None if view.estimated_wait is None else span(view.estimated_wait),
        }
    )
    if decision is None:
        return result
    return result.model_copy(
        update={"desired_replicas": decision.replicas, "decision": _decision(item, told, decision, now)}
    )


def _decision(item: WorkQueue, told: Explained, decision: Decision, now: datetime) -> DecisionStatus:
    """The decision; one that changes nothing keeps the time and the step of the change that led here."""
    at, before = timestamp(now), decision.current
    known = item.status.get("decision") or {}
    latest = told.decisions[0] if told.decisions else None
    if not decision.changes and latest is not None and latest.to == decision.replicas:
        at, before = latest.at, latest.from_
    elif known.get("to") == decision.replicas and (not decision.changes or known.get("from") == decision.current):
        at, before = known.get("at", at), known.get("from", before)
    return DecisionStatus(
        at=at,
        from_=before,
        to=decision.replicas,
        limited_by=decision.limit.value,
        rule="" if decision.asked is None else decision.rule.value,
        reason=told.reason,
        remedy=" ".join(told.remedies),
    )


def still_holds(written: Status, new: Status) -> bool:
    """Whether what an operator before us has written says all that there is to say, but for counts.

    That we have not compared the queue yet, since we have only just begun, is no news: what was found before stands.
    """
    uncompared = {
        condition.type
        for condition in new.conditions
        if condition.type == POLICY_OVERRIDDEN and condition.status is ConditionStatus.UNKNOWN
    }
    return _gist(written, uncompared) == _gist(new, uncompared)


def why_not_ready(written: Status | None) -> str:
    """The reason why a WorkQueue was not ready when its status was written; empty where it was."""
    found = (item for item in (written.conditions if written else ()) if item.type == READY)
    return next((item.reason for item in found if item.status is ConditionStatus.FALSE), "")


def found_before(written: Status | None) -> tuple[Finding, ...]:
    """What was wrong with the queue and its policy when a status was written, as a comparison would tell it."""
    found = []
    for item in written.conditions if written else ():
        if item.type == READY and item.status is ConditionStatus.FALSE and item.reason in FOUND:
            found.append(Finding(item.reason, item.message))
        if item.type == POLICY_OVERRIDDEN and item.status is ConditionStatus.TRUE:
            found.append(Finding(OVERRIDDEN, item.message))
    return tuple(found)


def _gist(written: Status, without: Container[str]) -> tuple[object, ...]:
    """What of a status is no mere count; without the conditions of these types."""
    decision = written.decision
    return (
        written.observed_generation,
        written.desired_replicas,
        None if decision is None else (decision.to, decision.limited_by),
        tuple(
            (condition.type, condition.status, condition.reason)
            for condition in written.conditions
            if condition.type not in without
        ),
    )


def read_status(raw: Mapping[str, Any]) -> Status | None:
    """A status that was written earlier; None where it is none of ours, or another release's."""
    try:
        return Status.model_validate(raw, strict=False) if raw else None
    except pydantic.ValidationError:
        return None


def status_patch(new: Status) -> dict[str, Any]:
    """As a merge patch; what is None is removed."""
    return {"status": new.model_dump(mode="json", by_alias=True)}


@dataclass(frozen=True, slots=True)
class Substance:
    """What a status says but for its counts, which wait for the next regular write.

    Attributes:
        pressing: what is written at once when it changes.
        compared: whether it is known that Warren's policy applies. That can wait: a listing that comes late, of
            thousands of queues, changes it for each of them.
    """

    pressing: tuple[object, ...]
    compared: bool = False


UNKNOWN = Substance(())
"""Of a status that was written before our time."""


def substance(item: WorkQueue, told: Explained) -> Substance:
    """What of a status is no mere count."""
    decision, found = told.decision, verdicts(told)
    return Substance(
        (
            item.generation,
            None if decision is None else (decision.replicas, decision.limit),
            told.decisions[:1],
            tuple(row for row in found if row.type != POLICY_OVERRIDDEN or row.status is ConditionStatus.TRUE),
        ),
        any(row.type == POLICY_OVERRIDDEN and row.status is ConditionStatus.FALSE for row in found),
    )


def queue_state(item: WorkQueue, told: Explained, at: float) -> QueueState | None:
    """The event message for the producers; None where it is not for this WorkQueue to speak of the queue."""
    view, decision, problem = told.view, told.decision, told.problem
    if item.spec is None or (problem is not None and problem.reason is Reason.QUEUE_TAKEN):
        return None
    backlog = None if view is None else view.seen.backlog
    low, high = (item.spec.min_replicas, item.spec.max_replicas) if told.scaling is None else told.scaling.bounds
    return QueueState(
        queue=item.queue,
        resource=str(item.key),
        at=at,
        ready=None if backlog is None else backlog.ready,
        unacked=None if backlog is None else backlog.unacked,
        workers=None if view is None else len(view.seen.workers),
        busy=None if view is None else view.busy,
        desired=None if decision is None else decision.replicas,
        min_replicas=low,
        max_replicas=high,
        reason=clipped(told.reason, LONGEST_TEXT),
        limited_by="" if decision is None else decision.limit.value,
        delayed=None if view is None else view.delayed,
        dead=None if view is None else view.dead,
        service_time=None if view is None else view.seen.service_time,
        arrival_rate=None if view is None else view.seen.arrival_rate,
        estimated_wait=None if view is None else view.estimated_wait,
        problem="" if problem is None else clipped(f"{problem.reason}: {problem.message}", LONGEST_TEXT),
        idle=None if view is None else view.idle,
        asked=None if decision is None else decision.asked,
        rule="" if decision is None or decision.asked is None else decision.rule.value,
        remedies=tuple(clipped(text, LONGEST_TEXT) for text in told.remedies[:MOST_REMEDIES]),
        decisions=tuple(
            PastDecision(datetime.fromisoformat(past.at).timestamp(), past.from_, past.to, past.limited_by, past.reason)
            for past in told.decisions
        ),
    )
