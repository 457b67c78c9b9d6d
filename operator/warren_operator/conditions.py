"""The conditions of a WorkQueue: what they say, and the Events for those that begin or end. All pure."""

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any

from warren_operator.explanation import Explained, advice, camel
from warren_operator.notes import Note
from warren_operator.observation import View
from warren_operator.policy import Limit
from warren_operator.resource import Condition, ConditionStatus, WorkQueue, timestamp

READY = "Ready"
ACTIVE = "Active"
SCALING_LIMITED = "ScalingLimited"
POLICY_OVERRIDDEN = "PolicyOverridden"


def conditions(item: WorkQueue, told: Explained, now: datetime) -> tuple[Condition, ...]:
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
                camel(decision.limit.value) if limited else "Free",
                advice(decision, view, scaling) if limited else "Nothing holds the workers back.",
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
