"""Each limit, met in a situation of its own: what is told of it, word for word, and what is said to change it."""

from dataclasses import dataclass, replace

import pytest

from warren_operator.explanation import Explained
from warren_operator.observation import View
from warren_operator.policy import (
    Backlog,
    FallbackRule,
    Limit,
    Memory,
    Observation,
    Phase,
    Scaling,
    Worker,
    decide,
)

NOW = 10_000.0
SPEC = Scaling(max_replicas=10, backlog_per_worker=5)
SURE = Memory(zeros=3, zero_since=0.0, quiet_since=0.0)
"""Nothing has been ready nor in work for hours."""
WORKING = Memory(zeros=3, zero_since=0.0)
"""Nothing has been ready for hours, but something is in work."""


def up(count: int, busy: int = 0) -> tuple[Worker, ...]:
    return tuple(Worker(f"w{n}", Phase.READY, busy=n < busy, idle_for=60.0 * (n >= busy)) for n in range(count))


def new(count: int, phase: Phase, age: float = 1.0) -> tuple[Worker, ...]:
    return tuple(Worker(f"p{n}", phase, age=age) for n in range(count))


@dataclass(frozen=True)
class Case:
    """A situation, and what is told of it.

    Attributes:
        limit: that it meets.
        scaling, seen, memory: the situation.
        sentence: that explains.
        remedies: that are told with it.
    """

    limit: Limit
    scaling: Scaling
    seen: Observation
    memory: Memory
    sentence: str
    remedies: tuple[str, ...]


CASES = (
    Case(
        Limit.NONE,
        SPEC,
        Observation(Backlog(5, 3), 2, up(2, busy=2)),
        Memory(),
        "8 tasks at 5 a worker ask for 2",
        (
            "3 more tasks would bring 1 more worker.",
            "The workers go once no task is ready (5 are) and they have been idle for 100ms (2 are busy).",
        ),
    ),
    Case(
        Limit.MAX_REPLICAS,
        replace(SPEC, max_scheduled="Fri 18:00 UTC"),
        Observation(Backlog(100, 10), 10, up(10, busy=10)),
        Memory(),
        "110 tasks at 5 a worker ask for 22, maxReplicas is 10 by schedule until Fri 18:00 UTC",
        (
            "Raise maxReplicas to 22 (a schedule sets it until Fri 18:00 UTC): 22 workers then.",
            "The workers go once no task is ready (100 are) and they have been idle for 100ms (10 are busy).",
        ),
    ),
    Case(
        Limit.MIN_REPLICAS,
        replace(SPEC, min_replicas=2),
        Observation(Backlog(0, 0), 2, up(2)),
        SURE,
        "queue is empty, minReplicas is 2",
        (
            "11 more tasks would bring 1 more worker.",
            "Lower minReplicas to have fewer than 2 workers when there is nothing to do.",
        ),
    ),
    Case(
        Limit.BUDGET,
        replace(SPEC, budget=0),
        Observation(Backlog(40, 0), 0),
        Memory(),
        "40 tasks at 5 a worker ask for 8, the shared budget has 0 for it",
        ("Raise the budget, or this queue's priority in it, so that it gets 8: 8 workers then.",),
    ),
    Case(
        Limit.MAX_STEP,
        SPEC,
        Observation(Backlog(40, 0), 3, new(3, Phase.PENDING)),
        Memory(),
        "40 tasks at 5 a worker ask for 8, the next as these start",
        (
            "Wait until those that start are up: 8 workers then.",
            "1 more task would bring 1 more worker.",
            "The workers go once no task is ready (40 are).",
        ),
    ),
    Case(
        Limit.MAX_STEP,
        replace(SPEC, max_step=2),
        Observation(Backlog(40, 0), 2, new(2, Phase.PENDING)),
        Memory(),
        "40 tasks at 5 a worker ask for 8, at most 2 start at once",
        (
            "Raise behavior.scaleUp.maxStep to 8, or wait until those that start are up: 8 workers then.",
            "The workers go once no task is ready (40 are).",
        ),
    ),
    Case(
        Limit.SOON_BEGUN,
        SPEC,
        Observation(Backlog(18, 2), 2, up(2, busy=2), service_time=0.1),
        Memory(),
        "20 tasks at 5 a worker ask for 4, no more: those that are up begin what waits before others could",
        (
            "If tasks still wait after 3s: 4 workers then.",
            "2 more tasks would bring 3 more workers.",
            "The workers go once no task is ready (18 are) and they have been idle for 100ms (2 are busy).",
        ),
    ),
    Case(
        Limit.STABILIZATION,
        replace(SPEC, stabilization=300.0),
        Observation(Backlog(0, 0), 4, up(4)),
        replace(SURE, wanted=((NOW - 100.0, 4),)),
        "queue is empty, 4 stay: as many were wanted within 5m",
        (
            "21 more tasks would bring 1 more worker.",
            "The workers go once fewer have been asked for during 5m (1m40s so far).",
        ),
    ),
    Case(
        Limit.FLOOR,
        SPEC,
        Observation(Backlog(0, 0), 5, up(5), service_time=2.0, arrival_rate=2.2),
        replace(SURE, floors=((NOW - 10.0, 5),)),
        "queue is empty, 5 stay: steady traffic has needed as many within 30s",
        (
            "26 more tasks would bring 1 more worker.",
            "The workers go once tasks have stopped coming in for 30s (5 workers would stay until then).",
        ),
    ),
    Case(
        Limit.PAUSED,
        replace(SPEC, paused=True),
        Observation(Backlog(39, 1), 1, up(1, busy=1)),
        Memory(),
        "40 tasks at 5 a worker ask for 8, 1 stays: paused",
        ("Set paused to false to let the workers follow the backlog: 8 workers then.",),
    ),
    Case(
        Limit.PAUSED,
        replace(SPEC, paused=True),
        Observation(None, 2, up(2)),
        Memory(),
        "backlog unknown: gone fishing, 2 stay: paused",
        ("Set paused to false to let the workers follow the backlog once it can be read: 2 workers then.",),
    ),
    Case(
        Limit.SUSPENDED,
        replace(SPEC, suspended=True),
        Observation(Backlog(40, 0), 0),
        Memory(),
        "40 tasks at 5 a worker ask for 8, none: suspended",
        ("Set suspend to false to have tasks done: 8 workers then.",),
    ),
    Case(
        Limit.UNKNOWN,
        replace(SPEC, suspended=True),
        Observation(None, 2, up(2)),
        Memory(),
        "backlog unknown: gone fishing, 2 stay",
        ("Set suspend to false to have tasks done once the backlog can be read: 2 workers then.",),
    ),
    Case(
        Limit.UNKNOWN,
        replace(SPEC, fallback=FallbackRule(after_failures=3, replicas=4)),
        Observation(None, 1, up(1)),
        Memory(),
        "backlog unknown: gone fishing, 1 stays",
        (
            "After 2 more failed readings the fallback takes over: 4 workers then.",
            "The workers follow the backlog again as soon as it can be read.",
        ),
    ),
    Case(
        Limit.FALLBACK,
        replace(SPEC, fallback=FallbackRule(after_failures=3, replicas=4)),
        Observation(None, 1, up(1)),
        Memory(failures=5),
        "backlog unknown: gone fishing, 4 as fallback",
        ("The workers follow the backlog again as soon as it can be read.",),
    ),
    Case(
        Limit.FAILING,
        SPEC,
        Observation(Backlog(40, 1), 3, (*new(2, Phase.FAILING), *up(1, busy=1))),
        Memory(),
        "41 tasks at 5 a worker ask for 9, no more: 2 cannot start (ImagePullBackOff)",
        (
            "Mend what keeps 2 pods from starting (see `kubectl describe pod p0`): 9 workers then.",
            "The workers go once no task is ready (40 are) and they have been idle for 100ms (1 is busy).",
        ),
    ),
    Case(
        Limit.PENDING,
        SPEC,
        Observation(Backlog(40, 1), 3, (*new(1, Phase.PENDING, age=400.0), Worker("young", Phase.PENDING), *up(1, 1))),
        Memory(),
        "41 tasks at 5 a worker ask for 9, no more: 1 pending for over 5m",
        (
            "Mend what keeps 1 pod pending (see `kubectl describe pod p0`): 9 workers then.",
            "The workers go once no task is ready (40 are) and they have been idle for 100ms (1 is busy).",
        ),
    ),
    Case(
        Limit.READY_TASKS,
        SPEC,
        Observation(Backlog(1, 3), 6, up(6, busy=3)),
        Memory(),
        "4 tasks at 5 a worker ask for 1, 6 stay while tasks are ready",
        (
            "27 more tasks would bring 1 more worker.",
            "The workers go once no task is ready (1 is) and they have been idle for 100ms (3 are busy).",
        ),
    ),
    Case(
        Limit.UNCONFIRMED,
        SPEC,
        Observation(Backlog(0, 0), 3, up(3)),
        Memory(),
        "queue is empty, 3 stay until it is certain that no task waits",
        (
            "16 more tasks would bring 1 more worker.",
            "The workers go once the queue has been empty for a moment.",
        ),
    ),
    Case(
        Limit.UNCONFIRMED,
        SPEC,
        Observation(Backlog(0, 3), 6, up(6, busy=3)),
        Memory(),
        "3 tasks at 5 a worker ask for 1, 6 stay until it is certain that no task waits",
        (
            "28 more tasks would bring 1 more worker.",
            "The workers go once the queue has been empty for a moment and they have been idle for 100ms (3 are busy).",
        ),
    ),
    Case(
        Limit.UNCOUNTED,
        SPEC,
        Observation(Backlog(0, 0), 3, up(3), counted=False),
        SURE,
        "queue is empty, 3 stay while statistics are missing",
        (
            "16 more tasks would bring 1 more worker.",
            "The workers go once the broker's statistics can be read (see the condition Ready).",
        ),
    ),
    Case(
        Limit.ROLLOUT,
        SPEC,
        Observation(Backlog(0, 0), 3, up(4), rollout=True, settled=False),
        SURE,
        "queue is empty, 3 stay during the rollout",
        (
            "16 more tasks would bring 1 more worker.",
            "The workers go once the rollout is over and the pods have settled.",
        ),
    ),
    Case(
        Limit.UNSETTLED,
        SPEC,
        Observation(Backlog(0, 0), 3, up(3), settled=False),
        SURE,
        "queue is empty, 3 stay while pods change",
        (
            "16 more tasks would bring 1 more worker.",
            "The workers go once the pods have settled.",
        ),
    ),
    Case(
        Limit.STARTING,
        SPEC,
        Observation(Backlog(0, 0), 3, (*new(1, Phase.STARTING), *up(2))),
        replace(SURE, quiet_since=NOW - 2.0),
        "queue is empty, 3 stay until all have started",
        (
            "16 more tasks would bring 1 more worker.",
            "The workers go once 1 starting worker is up.",
        ),
    ),
    Case(
        Limit.BUSY,
        SPEC,
        Observation(Backlog(0, 3), 3, up(3, busy=3)),
        WORKING,
        "3 tasks at 5 a worker ask for 1, 3 stay: 3 busy",
        (
            "13 more tasks would bring 1 more worker.",
            "The workers go once they have been idle for 100ms (3 are busy).",
        ),
    ),
)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.limit.value or "none")
def test_what_is_told_where_a_limit_is_met(case: Case) -> None:
    decision = decide(case.scaling, case.seen, case.memory, NOW)
    view = View(case.seen, unknown="" if case.seen.backlog else "gone fishing", failing="ImagePullBackOff")
    told = Explained(None, None, view, decision, case.scaling, case.memory, NOW)
    assert (decision.limit, told.reason, told.remedies) == (case.limit, case.sentence, case.remedies)


def test_each_limit_has_a_situation_that_meets_it() -> None:
    assert {case.limit for case in CASES} == {*Limit}
