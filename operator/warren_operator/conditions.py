"""The conditions of a WorkQueue: what they say, and the Events for those that begin or end. All pure."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from types import MappingProxyType
from typing import Any

from warren_operator.explanation import Explained
from warren_operator.notes import Note
from warren_operator.observation import View
from warren_operator.policy import Limit
from warren_operator.resource import Condition, ConditionStatus, WorkQueue, timestamp

READY = "Ready"
ACTIVE = "Active"
SCALING_LIMITED = "ScalingLimited"
POLICY_OVERRIDDEN = "PolicyOverridden"


@dataclass(frozen=True, slots=True)
class Verdict:
    """A condition without its words, which take longer to find than is worth it where nobody reads them."""

    type: str
    status: ConditionStatus
    reason: str


def verdicts(told: Explained) -> tuple[Verdict, ...]:
    """What the conditions are."""
    ready, overridden = told.problem is None, told.override is not None
    rows = [
        Verdict(READY, _truth(ready), "Working" if told.problem is None else told.problem.reason),
        Verdict(POLICY_OVERRIDDEN, _truth(overridden), "ForeignPolicy" if overridden else "InForce"),
    ]
    if told.view is not None:
        rows.append(_active(told.view))
    if told.decision is not None:
        limit = told.decision.limit
        limited = limit is not Limit.NONE
        rows.append(Verdict(SCALING_LIMITED, _truth(limited), camel(limit.value) if limited else "Free"))
    return tuple(rows)


def conditions(item: WorkQueue, told: Explained, now: datetime) -> tuple[Condition, ...]:
    """The conditions to write. The time of one whose status is what it was is kept."""
    known = {condition["type"]: condition for condition in item.status.get("conditions") or ()}
    return tuple(
        Condition(
            type=verdict.type,
            status=verdict.status,
            reason=verdict.reason,
            message=_message(verdict, told),
            observed_generation=item.generation,
            last_transition_time=known[verdict.type]["lastTransitionTime"]
            if verdict.type in known and known[verdict.type].get("status") == verdict.status
            else timestamp(now),
        )
        for verdict in verdicts(told)
    )


def _truth(value: bool) -> ConditionStatus:
    return ConditionStatus.TRUE if value else ConditionStatus.FALSE


def _active(view: View) -> Verdict:
    backlog = view.seen.backlog
    if backlog is None:
        return Verdict(ACTIVE, ConditionStatus.UNKNOWN, "BacklogUnknown")
    if backlog.ready or backlog.unacked:
        return Verdict(ACTIVE, ConditionStatus.TRUE, "Backlog")
    if view.seen.workers:
        return Verdict(ACTIVE, ConditionStatus.TRUE, "Workers")
    return Verdict(ACTIVE, ConditionStatus.FALSE, "Idle")


_MESSAGES = MappingProxyType(
    {
        "InForce": "Warren's policy applies to the queue.",
        "Backlog": "There are tasks to do.",
        "Workers": "There is nothing to do; workers are still there.",
        "Idle": "There is nothing to do, and no worker runs.",
        "Free": "Nothing holds the workers back.",
    }
)


def _message(verdict: Verdict, told: Explained) -> str:
    match verdict.type:
        case "Ready":
            return _working(told) if told.problem is None else told.problem.message
        case "PolicyOverridden" if told.override is not None:
            return told.override
        case "Active" if verdict.status is ConditionStatus.UNKNOWN and told.view is not None:
            return f"The backlog is not known: {told.view.unknown}."
        case "ScalingLimited" if verdict.status is ConditionStatus.TRUE:
            return f"{camel(told.reason)}. {' '.join(told.remedies) or 'This passes by itself.'}"
        case _:
            return _MESSAGES[verdict.reason]


def _working(told: Explained) -> str:
    if told.scaling is not None and told.scaling.paused:
        return "The queue is in place; its workers stand still: paused."
    if told.scaling is not None and told.scaling.suspended:
        return "The queue is in place and keeps its tasks; it has no workers: suspended."
    if told.recommended:
        return "The queue is in place; how many workers it should have is only recommended."
    return "The queue is in place and its workers follow the backlog."


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


def camel(word: str) -> str:
    """The word with a capital first letter, as Kubernetes writes reasons and people write sentences."""
    return word[:1].upper() + word[1:]
