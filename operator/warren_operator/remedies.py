"""What would change a decision, in sentences with numbers. Pure.

No rule of the policy is repeated here. Each sentence is found by asking `decide` for its answer where one thing is
different, and is told only if the answer is different as well: it cannot disagree with the policy.
"""

import functools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from warren_contract.durations import format_duration
from warren_operator.policy import (
    FLOOR_SPAN,
    IDLE_FOR,
    SILENT_QUIET,
    SOON_FOR,
    ZERO_READINGS,
    Backlog,
    Decision,
    Limit,
    Memory,
    Observation,
    Phase,
    Scaling,
    Worker,
    decide,
    pends,
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
    asked = situation
    if situation.scaling.max_step is None:
        # What only waits until others have started comes in a second by itself: all else is told as it is then.
        situation = situation.wanting(max_step=MAX_REPLICAS)
    found = situation.decision()
    backlog = situation.seen.backlog
    if situation.scaling.paused:
        then = situation.wanting(paused=False).decision().replicas
        read = "" if backlog is not None else " once it can be read"
        return (f"Set paused to false to let the workers follow the backlog{read}: {_workers(then)} then.",)
    if situation.scaling.suspended:
        then = situation.wanting(suspended=False).decision().replicas
        read = "" if backlog is not None else " once the backlog can be read"
        return (f"Set suspend to false to have tasks done{read}: {_workers(then)} then.",)
    if backlog is None:
        return tuple(_blind(situation, found))
    wait = f"Wait until those that start are up: {_workers(found.replicas)} then."
    first = (wait,) if found.replicas > asked.decision().replicas else ()
    if found.limit is Limit.SOON_BEGUN:
        then = situation.remembering(waiting_since=situation.now - 2 * SOON_FOR).decision().replicas
        if then > found.replicas:
            first = (f"If tasks still wait after {format_duration(SOON_FOR)}: {_workers(then)} then.",)
    return (*first, *_more(situation, found, backlog), *_fewer(situation, found, backlog))


@functools.lru_cache(maxsize=1000)
def remedies_at_none(scaling: Scaling, seen: Observation) -> tuple[str, ...]:
    """The same where there are no workers and none are asked for: what was before then decides nothing.

    Most of thousands of queues are like that, and like one another.
    """
    return remedies(Situation(scaling, seen, Memory(), 0.0))


def _blind(situation: Situation, found: Decision) -> Iterator[str]:
    fallback = situation.scaling.fallback
    if fallback is not None:
        left = fallback.after_failures - found.memory.failures
        then = situation.remembering(failures=fallback.after_failures).decision().replicas
        if left > 0 and then > found.replicas:
            yield f"After {_count(left, 'more failed reading')} the fallback takes over: {_workers(then)} then."
    yield "The workers follow the backlog again as soon as it can be read."


def _more(situation: Situation, found: Decision, backlog: Backlog) -> Iterator[str]:
    """What would bring more workers: the least that does, first by itself, else all that is in the way together."""
    for doings in (*((doing,) for doing in _DOINGS), _DOINGS):
        texts, changed = [], situation
        for doing in doings:
            text, after = doing(changed, found)
            if text:
                texts.append(text)
                changed = after
        then = changed.decision().replicas if texts else 0
        if then > found.replicas:
            yield f"{' and '.join(texts)}: {_workers(then)} then."
            return
    if found.replicas < found.current:
        return  # some are just going

    def with_more(tasks: int) -> Situation:
        return situation.seeing(backlog=replace(backlog, ready=backlog.ready + tasks))

    tasks = least(lambda tasks: with_more(tasks).decision().replicas > found.replicas, MOST_TASKS)
    if tasks is not None:
        then = with_more(tasks).decision().replicas - found.replicas
        yield f"{_count(tasks, 'more task')} would bring {_count(then, 'more worker')}."
    elif with_more(MOST_TASKS).wanting(max_replicas=MAX_REPLICAS).decision().replicas > found.replicas:
        most = f"maxReplicas is {situation.scaling.max_replicas}{_schedule(situation.scaling.max_scheduled)}"
        yield f"More tasks bring no more workers: {most}."
    elif with_more(MOST_TASKS).wanting(budget=None).decision().replicas > found.replicas:
        yield f"More tasks bring no more workers: the shared budget has {situation.scaling.budget} for this queue."


def _more_replicas(at: Situation, found: Decision) -> tuple[str, Situation]:
    asked = min(found.asked or 0, MAX_REPLICAS)
    if asked <= at.scaling.max_replicas:
        return "", at
    return f"Raise maxReplicas to {asked}{_schedule(at.scaling.max_scheduled)}", at.wanting(max_replicas=asked)


def _more_budget(at: Situation, found: Decision) -> tuple[str, Situation]:
    asked = min(max(found.asked or 0, at.scaling.min_replicas), at.scaling.max_replicas)
    if at.scaling.budget is None or asked <= at.scaling.budget:
        return "", at
    text = f"Raise the budget, or this queue's priority in it, so that it gets {asked}"
    return text, at.wanting(budget=asked)


def _larger_step(at: Situation, found: Decision) -> tuple[str, Situation]:
    step = min(max(found.asked or 0, at.scaling.min_replicas), at.scaling.ceiling) - at.seen.up
    if at.scaling.max_step is None or step <= at.scaling.max_step:
        return "", at
    text = f"Raise behavior.scaleUp.maxStep to {step}, or wait until those that start are up"
    return text, at.wanting(max_step=step)


def _mended(which: Callable[[Worker], bool], what: str, at: Situation, _found: Decision) -> tuple[str, Situation]:
    held = [worker.name for worker in at.seen.workers if which(worker)]
    if not held:
        return "", at
    mended = tuple(replace(worker, phase=Phase.READY) if which(worker) else worker for worker in at.seen.workers)
    text = f"Mend what keeps {_count(len(held), 'pod')} {what} (see `kubectl describe pod {held[0]}`)"
    return text, at.seeing(workers=mended)


_DOINGS = (
    _more_replicas,
    _more_budget,
    functools.partial(_mended, lambda worker: worker.phase is Phase.FAILING, "from starting"),
    functools.partial(_mended, pends, "pending"),
    _larger_step,
)
"""What somebody could do to have more workers: the words, and the situation in which it has been done."""


def _schedule(until: str) -> str:
    return f" (a schedule sets it until {until})" if until else ""


def _fewer(situation: Situation, found: Decision, backlog: Backlog) -> Iterator[str]:
    """What would take workers away: each thing that alone would keep some where nothing else does."""
    if not situation.seen.workers:
        return
    calm = _calm(situation)
    left = calm.decision().replicas
    if left < found.replicas:
        obstacles = [text for text, alone in _obstacles(situation, calm, backlog) if alone.decision().replicas > left]
        if obstacles:
            who = "The workers go" if left == 0 else f"All but {_workers(left)} go"
            *first, last = obstacles
            yield f"{who} once {', '.join(first)}{' and ' if first else ''}{last}."
    if calm.wanting(min_replicas=0).decision().replicas < left:
        text = f"Lower minReplicas to have fewer than {_workers(left)} when there is nothing to do"
        yield f"{text}{_schedule(situation.scaling.min_scheduled)}."


def _calm(situation: Situation) -> Situation:
    """The same workers, all made, as far as the bounds allow them, with nothing to do or to come, and sure of it."""
    allowed = min(situation.seen.replicas, situation.scaling.ceiling)
    at_ease = [
        replace(worker, phase=Phase.READY, busy=False, idle_for=math.inf) for worker in situation.seen.workers[:allowed]
    ]
    at_ease += [
        Worker(f"unmade {number}", Phase.READY, busy=False, idle_for=math.inf)
        for number in range(len(at_ease), allowed)
    ]
    long_ago = situation.now - 3600.0
    return replace(
        situation.seeing(
            backlog=Backlog(0, 0),
            replicas=allowed,
            workers=tuple(at_ease),
            rollout=False,
            settled=True,
            counted=True,
            arrival_rate=0.0,
        ),
        memory=Memory(zeros=ZERO_READINGS, zero_since=long_ago, quiet_since=long_ago, wanted=((situation.now, 0),)),
    )


def _obstacles(situation: Situation, calm: Situation, backlog: Backlog) -> Iterator[tuple[str, Situation]]:
    """What may keep workers from going, and the calm situation with that alone as it is."""
    scaling, seen, memory = situation.scaling, situation.seen, situation.memory
    yield "the rollout is over", calm.seeing(rollout=seen.rollout)
    yield "the pods have settled", calm.seeing(settled=seen.settled)
    yield "the broker's statistics can be read (see the condition Ready)", calm.seeing(counted=seen.counted)
    if backlog.ready:
        text = f"no task is ready ({backlog.ready} {_are(backlog.ready)})"
        yield text, calm.seeing(backlog=Backlog(backlog.ready, 0))
    else:
        certain = calm.remembering(zeros=memory.zeros, zero_since=memory.zero_since)
        yield "the queue has been empty for a moment", certain
    unborn = max(0, seen.replicas - len(seen.workers))
    made = f"{_count(unborn, 'more pod')} {_are(unborn)} made"
    yield (
        f"{made}, or nothing has been in work for {format_duration(SILENT_QUIET)}",
        calm.seeing(workers=calm.seen.workers[: len(seen.workers)]).remembering(quiet_since=memory.quiet_since),
    )
    starting = sum(worker.phase is Phase.STARTING for worker in seen.workers)
    yield (
        f"{_count(starting, 'starting worker')} {_are(starting)} up",
        calm.seeing(workers=_with(calm, lambda worker, now: replace(now, phase=worker.phase), seen)).remembering(
            quiet_since=memory.quiet_since
        ),
    )
    yield (
        _at_work(seen.workers),
        calm.seeing(
            workers=_with(
                calm,
                lambda worker, now: (
                    replace(now, phase=worker.phase, busy=worker.busy, idle_for=worker.idle_for, silent=worker.silent)
                    if worker.phase is Phase.READY or worker.busy
                    else now
                ),
                seen,
            )
        ).remembering(quiet_since=situation.now),
    )
    if seen.arrival_rate or memory.floors:
        coming = calm.seeing(arrival_rate=seen.arrival_rate).remembering(floors=memory.floors)
        kept = coming.decision().replicas
        text = (
            f"tasks have stopped coming in for {format_duration(FLOOR_SPAN)} ({_workers(kept)} would stay until then)"
        )
        yield text, coming
    if memory.wanted and scaling.stabilization:
        passed = format_duration(round(max(0.0, min(situation.now - at for at, _ in memory.wanted))))
        yield (
            f"fewer have been asked for during {format_duration(scaling.stabilization)} ({passed} so far)",
            calm.remembering(wanted=memory.wanted),
        )


def _with(calm: Situation, change: Callable[[Worker, Worker], Worker], seen: Observation) -> tuple[Worker, ...]:
    changed = [change(worker, now) for worker, now in zip(seen.workers, calm.seen.workers, strict=False)]
    return (*changed, *calm.seen.workers[len(changed) :])


def _at_work(workers: Sequence[Worker]) -> str:
    busy = sum(worker.busy is True for worker in workers)
    unheard = sum(worker.phase is Phase.READY and worker.busy is None for worker in workers)
    if busy:
        return f"they have been idle for {format_duration(IDLE_FOR)} ({busy} {_are(busy)} busy)"
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


def _are(number: int) -> str:
    return "is" if number == 1 else "are"


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'s' * (number != 1)}"


def _workers(number: int) -> str:
    return _count(number, "worker")
