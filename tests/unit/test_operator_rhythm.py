"""When a queue is looked at again."""

import pytest

from warren_operator.policy import IDLE_FOR, Backlog, Decision, Limit, Memory, Observation, Phase, Worker
from warren_operator.rhythm import BUSY_EVERY, GROWING_EVERY, IDLE_EVERY, JUST_AFTER, next_look


def worker(name: str, idle_for: float | None) -> Worker:
    """One that has been idle for so long, or is busy."""
    return Worker(name, Phase.READY, busy=idle_for is None, idle_for=idle_for or 0.0)


def pause(*idle_for: float | None, ready: int = 0, wanted: int = 2) -> float:
    """Seconds until the next look at workers that have been idle for so long, None for busy."""
    workers = tuple(worker(f"w{number}", seconds) for number, seconds in enumerate(idle_for))
    seen = Observation(Backlog(ready, sum(seconds is None for seconds in idle_for)), len(workers), workers)
    decision = Decision(len(workers), wanted, wanted, Limit.BUSY, Memory())
    return next_look(seen, decision)


def test_a_queue_is_looked_at_more_often_the_more_there_is_to_see() -> None:
    assert pause(None, None, ready=9, wanted=5) == GROWING_EVERY
    assert pause(None, None) == BUSY_EVERY
    assert pause(wanted=0) == IDLE_EVERY


def test_a_worker_that_has_just_become_idle_is_looked_at_again_when_it_counts_as_idle() -> None:
    assert pause(None, IDLE_FOR - 0.05) == pytest.approx(0.05 + JUST_AFTER)
    assert pause(None, IDLE_FOR - 0.05, IDLE_FOR - 0.02) == pytest.approx(0.02 + JUST_AFTER)
    assert pause(None, IDLE_FOR + 1.0) == BUSY_EVERY
    assert pause(None, 0.0) == pytest.approx(IDLE_FOR + JUST_AFTER)
