"""The conditions of a WorkQueue: what they say, and the Events for those that begin or end. All pure."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from types import MappingProxyType
from typing import Any

from warren_operator.explanation import Explained, delayed
from warren_operator.notes import Note
from warren_operator.observation import View
from warren_operator.policy import Limit
from warren_operator.reasons import OF_THE_QUEUE, Reason
from warren_operator.resource import Condition, ConditionStatus, WorkQueue, timestamp

READY = "Ready"
ACTIVE = "Active"
SCALING_LIMITED = "ScalingLimited"
POLICY_OVERRIDDEN = "PolicyOverridden"

UNCOMPARED = OF_THE_QUEUE | {
    Reason.BROKER_UNAVAILABLE,
    Reason.BROKER_TOO_OLD,
    Reason.TOPOLOGY_UNKNOWN,
    Reason.QUEUE_UNAVAILABLE,
}
"""Problems with which nobody knows what policy applies, or the queue is none that Warren's could apply to."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """A condition without its words, which take longer to find than is worth it where nobody reads them."""

    type: str
    status: ConditionStatus
    reason: str


def verdicts(told: Explained) -> tuple[Verdict, ...]:
    """What the conditions are."""
    rows = [
        Verdict(READY, _truth(told.problem is None), "Working" if told.problem is None else told.problem.reason),
        _policy(told),
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


def _policy(told: Explained) -> Verdict:
    """Whether somebody else's policy is in the way. One that was found is until it is found to be gone."""
    if told.override is not None:
        return Verdict(POLICY_OVERRIDDEN, ConditionStatus.TRUE, "ForeignPolicy")
    listed = told.view is not None and told.view.seen.counted  # statistics come with the listing that is compared
    if not listed or (told.problem is not None and told.problem.reason in UNCOMPARED):
        return Verdict(POLICY_OVERRIDDEN, ConditionStatus.UNKNOWN, "NotCompared")
    return Verdict(POLICY_OVERRIDDEN, ConditionStatus.FALSE, "InForce")


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
        "NotCompared": "It is not known whether Warren's policy applies: the queue has not been compared with what it "
        "should be, see the condition Ready.",
        "Backlog": "There are tasks to do.",
        "Workers": "workers are still there.",
        "Idle": "no worker runs.",
        "Free": "Nothing holds the number of workers back.",
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
        case "Active" if verdict.reason in ("Workers", "Idle") and told.view is not None:
            return f"{delayed(told.view) or 'There is nothing to do'}; {_MESSAGES[verdict.reason]}"
        case "ScalingLimited" if verdict.status is ConditionStatus.TRUE:
            return f"{camel(told.reason)}. {' '.join(told.remedies) or 'This passes by itself.'}"
        case _:
            return _MESSAGES[verdict.reason]


def _working(told: Explained) -> str:
    if told.scaling is not None and told.scaling.paused:
        return "The queue is in place; its workers stand still: paused."
    if told.scaling is not None and told.scaling.suspended:
        return "The queue is in place and keeps its tasks; it is to have no workers: suspended."
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
        if condition.type in (ACTIVE, SCALING_LIMITED) or condition.status is ConditionStatus.UNKNOWN:
            continue
        trouble = ConditionStatus.FALSE if condition.type == READY else ConditionStatus.TRUE
        bad, was = condition.status is trouble, known.get(condition.type)
        if was == (condition.status, condition.reason):
            continue
        if not bad and (was is None or was[0] != trouble):
            continue  # that all is well is no news where nothing else has been told
        reason = condition.reason if bad else condition.type if condition.type == READY else "PolicyInForce"
        notes.append(Note(reason, condition.message, warning=bad))
    return notes


def camel(word: str) -> str:
    """The word with a capital first letter, as Kubernetes writes reasons and people write sentences."""
    return word[:1].upper() + word[1:]
