"""What would change a decision, in sentences with numbers. Pure.

No rule of the policy is repeated here. Each sentence is found by asking `decide` for its answer where one thing is
different, and is told only if the answer is different as well: it cannot disagree with the policy.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from warren_contract.durations import format_duration
from warren_operator.policy import (
    IDLE_FOR,
    SILENT_QUIET,
    ZERO_READINGS,
    Backlog,
    Decision,
    Memory,
    Observation,
    Phase,
    Scaling,
    Worker,
    decide,
)
from warren_operator.resource import MAX_REPLICAS

MOST_TASKS = 1_000_000_000
"""More than any queue is allowed to hold."""


@dataclass(frozen=True, slots=True)
class Situation:
    """What a decision was made on.

    Attributes:
        scaling: what is wanted.
        seen: the observation.
        memory: of the decision before.
        now: seconds of the loop's clock.
    """

    scaling: Scaling
    seen: Observation
    memory: Memory
    now: float

    def decision(self) -> Decision:
        """What the policy decides in it."""
        return decide(self.scaling, self.seen, self.memory, self.now)

    def wanting(self, **changes: Any) -> "Situation":
        """The same, had the user asked for something else."""
        return replace(self, scaling=replace(self.scaling, **changes))

    def seeing(self, **changes: Any) -> "Situation":
        """The same, were something else to be seen."""
        return replace(self, seen=replace(self.seen, **changes))

    def remembering(self, **changes: Any) -> "Situation":
        """The same, had something else been before."""
        return replace(self, memory=replace(self.memory, **changes))


def remedies(situation: Situation) -> tuple[str, ...]:
    """What would change the decision, the nearest first; empty where only other tasks or workers would."""
    found = situation.decision()
    if situation.scaling.paused:
        then = situation.wanting(paused=False).decision().replicas
        return (f"Set paused to false to let the workers follow the backlog: {_workers(then)} then.",)
    if situation.scaling.suspended:
        then = situation.wanting(suspended=False).decision().replicas
        return (f"Set suspend to false to have the tasks done: {_workers(then)} then.",)
    backlog = situation.seen.backlog
    if backlog is None:
        return tuple(_blind(situation, found))
    more = tuple(_more(situation, found, backlog))
    return (*more, *_fewer(situation, found, backlog))


def _blind(situation: Situation, found: Decision) -> Iterator[str]:
    fallback = situation.scaling.fallback
    if fallback is not None:
        left = fallback.after_failures - found.memory.failures
        then = situation.remembering(failures=fallback.after_failures).decision().replicas
        if left > 0 and then > found.replicas:
            yield f"After {_count(left, 'more failed reading')} the fallback takes over: {_workers(then)} then."
    yield "The workers follow the backlog again as soon as it can be read."


def _more(situation: Situation, found: Decision, backlog: Backlog) -> Iterator[str]:
    """What would bring more workers."""
    scaling, seen = situation.scaling, situation.seen
    changes = (
        *_larger_bounds(scaling, seen, found),
        *_mended_pods(seen),
    )
    for text, changed in changes:
        then = changed(situation).decision().replicas
        if then > found.replicas:
            yield f"{text}: {_workers(then)} then."
            return

    def brings_more(tasks: int, most: int = scaling.max_replicas) -> bool:
        larger = situation.seeing(backlog=replace(backlog, ready=backlog.ready + tasks))
        return larger.wanting(max_replicas=most).decision().replicas > found.replicas

    tasks = least(brings_more, MOST_TASKS)
    if tasks is not None:
        then = situation.seeing(backlog=replace(backlog, ready=backlog.ready + tasks)).decision().replicas
        yield f"{_count(tasks, 'more task')} would bring {_count(then - found.replicas, 'more worker')}."
    elif brings_more(MOST_TASKS, MAX_REPLICAS):
        yield f"No number of tasks brings more workers: maxReplicas is {scaling.max_replicas}."


Change = tuple[str, Callable[[Situation], Situation]]


def _larger_bounds(scaling: Scaling, seen: Observation, found: Decision) -> Iterator[Change]:
    asked = min(found.asked or 0, MAX_REPLICAS)
    if asked > scaling.max_replicas:
        yield f"Raise maxReplicas to {asked}", lambda at: at.wanting(max_replicas=asked)
    if scaling.max_step is not None:
        ready = sum(worker.phase is Phase.READY for worker in seen.workers)
        step = min(max(asked, scaling.min_replicas), scaling.max_replicas) - ready
        if step > scaling.max_step:
            text = f"Raise behavior.scaleUp.maxStep to {step}, or wait until those that start are ready"
            yield text, lambda at: at.wanting(max_step=step)


def _mended_pods(seen: Observation) -> Iterator[Change]:
    for phase, what in ((Phase.FAILING, "cannot start"), (Phase.PENDING, "find no room")):
        held = sum(worker.phase is phase for worker in seen.workers)
        if held:
            mended = tuple(
                replace(worker, phase=Phase.READY) if worker.phase is phase else worker for worker in seen.workers
            )
            text = f"Mend what `kubectl describe pod` tells of the {_count(held, 'pod')} that {what}"
            yield text, lambda at, mended=mended: at.seeing(workers=mended)  # type: ignore[misc]


def _fewer(situation: Situation, found: Decision, backlog: Backlog) -> Iterator[str]:
    """What would take workers away."""
    calm = _calm(situation)
    left = calm.decision().replicas
    if left < found.replicas:
        obstacles = [
            text for text, changed in _obstacles(situation, calm, backlog) if changed.decision().replicas > left
        ]
        if obstacles:
            who = "The workers go" if left == 0 else f"All but {_workers(left)} go"
            yield f"{who} once {' and '.join(obstacles)}."
    if left > 0:
        then = calm.wanting(min_replicas=0).decision().replicas
        if then < left:
            yield f"Lower minReplicas to have fewer than {_workers(left)} when there is nothing to do."


def _calm(situation: Situation) -> Situation:
    """The same workers, with nothing to do, and sure of it."""
    at_ease = tuple(
        worker
        if worker.phase in (Phase.PENDING, Phase.FAILING)
        else replace(worker, phase=Phase.READY, busy=False, idle_for=math.inf)
        for worker in situation.seen.workers
    )
    long_ago = situation.now - 3600.0
    return replace(
        situation.seeing(backlog=Backlog(0, 0), workers=at_ease, rollout=False, settled=True),
        memory=Memory(zeros=ZERO_READINGS, zero_since=long_ago, quiet_since=long_ago, wanted=((situation.now, 0),)),
    )


def _obstacles(situation: Situation, calm: Situation, backlog: Backlog) -> Iterator[tuple[str, Situation]]:
    """What may keep workers from going, and the calm situation with that alone as it is."""
    seen, memory = situation.seen, situation.memory
    yield "the rollout is over", calm.seeing(rollout=seen.rollout)
    yield "the pods have settled", calm.seeing(settled=seen.settled)
    are = "is" if backlog.ready == 1 else "are"
    yield f"no task is ready ({backlog.ready} {are})", calm.seeing(backlog=Backlog(backlog.ready, 0))
    yield (
        "the queue has been empty for a moment",
        calm.remembering(zeros=memory.zeros, zero_since=memory.zero_since),
    )
    starting = sum(worker.phase is Phase.STARTING for worker in seen.workers)
    yield (
        f"{_count(starting, 'starting worker')} {'is' if starting == 1 else 'are'} up",
        calm.seeing(workers=_with(calm, lambda worker, now: replace(now, phase=worker.phase), seen)),
    )
    yield (
        _at_work(seen.workers),
        calm.seeing(
            workers=_with(
                calm,
                lambda worker, now: (
                    replace(now, busy=worker.busy, idle_for=worker.idle_for, silent=worker.silent)
                    if worker.phase is Phase.READY
                    else now
                ),
                seen,
            )
        ).remembering(quiet_since=situation.now),
    )
    span = situation.scaling.stabilization
    if memory.wanted and span:
        passed = format_duration(round(max(0.0, min(situation.now - at for at, _ in memory.wanted))))
        yield (
            f"fewer have been asked for during {format_duration(span)} ({passed} so far)",
            calm.remembering(wanted=memory.wanted),
        )


def _with(calm: Situation, change: Callable[[Worker, Worker], Worker], seen: Observation) -> tuple[Worker, ...]:
    return tuple(change(worker, now) for worker, now in zip(seen.workers, calm.seen.workers, strict=True))


def _at_work(workers: tuple[Worker, ...]) -> str:
    busy = sum(worker.phase is Phase.READY and worker.busy is True for worker in workers)
    unheard = sum(worker.phase is Phase.READY and worker.busy is None for worker in workers)
    if busy:
        return f"they have been idle for {format_duration(IDLE_FOR)} ({busy} {'is' if busy == 1 else 'are'} busy)"
    if unheard:
        return (
            f"they say that they are idle, or nothing has been in work for {format_duration(SILENT_QUIET)} "
            f"({unheard} {'has' if unheard == 1 else 'have'} not reported)"
        )
    return f"they have been idle for {format_duration(IDLE_FOR)}"


def least(works: Callable[[int], bool], most: int) -> int | None:
    """The least number from 1 to `most` that works, where each larger one works as well; None if none does."""
    if not works(most):
        return None
    high = 1
    while high < most and not works(high):
        high *= 2
    low, high = high // 2, min(high, most)  # low does not work, or is zero
    while high - low > 1:
        middle = (low + high) // 2
        if works(middle):
            high = middle
        else:
            low = middle
    return high


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'s' * (number != 1)}"


def _workers(number: int) -> str:
    return _count(number, "worker")
