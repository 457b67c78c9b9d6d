"""How often a queue is looked at. Hints come on top of this: they have it looked at once."""

from warren_operator.policy import IDLE_FOR, Decision, Limit, Observation

BUSY_EVERY = 0.25
"""Seconds between two readings of a queue that has tasks or workers."""

SETTLING_EVERY = 0.1
"""Seconds between two readings while workers that do nothing stay only because the last ones are just being made or
taken away: that takes tens of milliseconds."""

GROWING_EVERY = 0.1
"""Seconds between two readings while more workers are wanted: a burst takes a moment to arrive, and those that start
make room for others."""

IDLE_EVERY = 0.75
"""Seconds between two readings of a queue that has neither, or that cannot be read. A producer's word that tasks have
come makes a look at once; for tasks of other clients this is what the reaction depends on."""

JUST_AFTER = 0.005
"""Seconds by which a look that waits for something comes after it."""

ACTING_EVERY = 0.05
"""Seconds until a queue is looked at again whose replicas are just being changed."""


def next_look(seen: Observation, decision: Decision, *, enforced: bool = True) -> float:
    """Seconds from a decision, that is carried out or not, until the queue is due again."""
    if enforced and (decision.replicas > seen.replicas or decision.limit is Limit.MAX_STEP):
        return GROWING_EVERY
    if not _is_active(seen, decision):
        return IDLE_EVERY
    # A worker that has just become idle is looked at again when it counts as idle.
    young = (IDLE_FOR - worker.idle_for for worker in seen.workers if worker.busy is False)
    usual = SETTLING_EVERY if decision.limit is Limit.UNSETTLED else BUSY_EVERY
    return min((left + JUST_AFTER for left in young if 0 < left < usual), default=usual)


def _is_active(seen: Observation, decision: Decision) -> bool:
    if seen.backlog is None:
        return False
    return bool(
        seen.backlog.ready or seen.backlog.unacked or decision.changes or len(seen.workers) != decision.replicas
    ) or (bool(seen.workers) and decision.asked is not None and decision.asked < seen.replicas)
