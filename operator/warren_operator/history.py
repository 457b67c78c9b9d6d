"""The last changes of replicas, as the status keeps them: a restart of the operator forgets none. Pure."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from warren_operator.explanation import clipped
from warren_operator.policy import Decision
from warren_operator.resource import DECISIONS_KEPT, PastDecisionStatus, timestamp

LONGEST_REASON = 300
"""Characters of a sentence that are kept: the status of each WorkQueue is copied to everybody who watches."""

History = tuple[PastDecisionStatus, ...]


def recalled(status: Mapping[str, Any]) -> History:
    """What a status that was written earlier remembers; what cannot be read is left out."""
    rows = status.get("decisions")
    found = []
    for row in rows if isinstance(rows, list) else ():
        try:
            past = PastDecisionStatus.model_validate(row)
            datetime.fromisoformat(past.at)
            found.append(past)
        except ValueError:
            continue
    return tuple(found[:DECISIONS_KEPT])


def extended(history: History, decision: Decision, reason: str, now: datetime) -> History:
    """The history with a decision that was carried out just now."""
    latest = PastDecisionStatus(
        at=timestamp(now),
        from_=decision.current,
        to=decision.replicas,
        limited_by=decision.limit.value,
        reason=clipped(reason, LONGEST_REASON),
    )
    return (latest, *history)[:DECISIONS_KEPT]
