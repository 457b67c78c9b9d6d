"""What is said to change a decision does change it: each sentence is read, done as it says, and decided on again."""

import re
from dataclasses import replace

import pytest
from hypothesis import event, given
from hypothesis import strategies as st

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
    pends,
)
from warren_operator.remedies import Situation, least, remedies, remedies_at_none
from warren_operator.resource import MAX_REPLICAS

NOW = 10_000.0


@st.composite
def fleets(draw: st.DrawFn) -> tuple[Worker, ...]:
    """Pods as they come: most are ready, some have something to do, a few are in trouble."""
    phases = st.sampled_from([Phase.READY] * 6 + [Phase.STARTING, Phase.FAILING, Phase.PENDING])
    ages = st.floats(0, 1000)
    return tuple(
        Worker(
            f"w-{number}",
            draw(phases),
            busy=draw(st.sampled_from([True, False, False, None])),
            idle_for=draw(st.floats(0, 5)),
            silent=draw(st.booleans()),
            age=draw(ages),
        )
        for number in range(draw(st.integers(0, 8)))
    )


@st.composite
def situations(draw: st.DrawFn) -> Situation:
    """Anything that the loop may meet."""
    fleet = draw(fleets())
    low = draw(st.integers(0, 4))
    tasks = st.integers(0, 80) | st.just(0)
    scaling = Scaling(
        max_replicas=draw(st.integers(low, 12)),
        min_replicas=low,
        backlog_per_worker=draw(st.integers(1, 10)),
        max_wait=draw(st.none() | st.floats(1, 60)),
        budget=draw(st.none() | st.integers(low, 12)),
        max_step=draw(st.none() | st.integers(1, 4)),
        stabilization=draw(st.sampled_from([0.0, 0.0, 60.0])),
        fallback=draw(st.none() | st.builds(FallbackRule, st.integers(1, 5), st.integers(0, 12))),
        paused=draw(st.sampled_from([False] * 9 + [True])),
        suspended=draw(st.sampled_from([False] * 9 + [True])),
    )
    seen = Observation(
        backlog=draw(st.builds(Backlog, tasks, tasks) | st.builds(Backlog, tasks, st.just(0)) | st.none()),
        replicas=max(0, len(fleet) + draw(st.sampled_from([0, 0, 0, 1, -1]))),
        workers=fleet,
        rollout=draw(st.sampled_from([False] * 5 + [True])),
        settled=draw(st.sampled_from([True] * 5 + [False])),
        counted=draw(st.sampled_from([True] * 5 + [False])),
        service_time=draw(st.none() | st.floats(0.1, 10)),
        arrival_rate=draw(st.none() | st.floats(0, 5)),
    )
    past = st.lists(st.tuples(st.floats(NOW - 50, NOW), st.integers(0, 12)), max_size=2).map(tuple)
    memory = Memory(
        failures=draw(st.integers(0, 4)),
        zeros=draw(st.integers(0, 3)),
        zero_since=draw(st.floats(NOW - 5, NOW)),
        quiet_since=draw(st.none() | st.floats(NOW - 30, NOW)),
        wanted=draw(past),
        floors=draw(past),
    )
    return Situation(scaling, seen, memory, NOW)


def replicas(at: Situation) -> int:
    return decide(at.scaling, at.seen, at.memory, at.now).replicas


def with_more(at: Situation, tasks: int) -> Situation:
    backlog = at.seen.backlog
    assert backlog is not None
    return at.seeing(backlog=Backlog(backlog.ready + tasks, backlog.unacked))


def after_quiet(at: Situation) -> int:
    """Replicas two minutes after the last task is done, everybody has reported so, and no rollout runs any more."""
    memory = decide(at.scaling, at.seen, at.memory, at.now).memory
    current = replicas(at)
    for step in range(121):
        fleet = tuple(Worker(f"w-{n}", Phase.READY, busy=False, idle_for=60.0) for n in range(current))
        seen = Observation(Backlog(0, 0), current, fleet, arrival_rate=0.0, service_time=at.seen.service_time)
        decision = decide(at.scaling, seen, memory, at.now + 1 + step)
        memory, current = decision.memory, decision.replicas
    return current


OF_THEM = {"from starting": lambda worker: worker.phase is Phase.FAILING, "pending": pends}


def done(part: str, at: Situation) -> Situation:
    """The situation in which somebody has done what the sentence says."""
    if found := re.match(r"Raise maxReplicas to (\d+)", part):
        return at.wanting(max_replicas=int(found[1]))
    if found := re.match(r"Raise the budget, .* gets (\d+)", part):
        return at.wanting(budget=int(found[1]))
    if found := re.match(r"Raise behavior.scaleUp.maxStep to (\d+), or wait", part):
        return at.wanting(max_step=int(found[1]))
    if found := re.match(
        r"Mend what keeps (\d+) pods? (from starting|pending) \(see `kubectl describe pod (.+)`\)", part
    ):
        names = [worker.name for worker in at.seen.workers if OF_THEM[found[2]](worker)]
        assert (len(names), names[0]) == (int(found[1]), found[3])
        mended = (replace(w, phase=Phase.READY) if w.name in names else w for w in at.seen.workers)
        return at.seeing(workers=tuple(mended))
    if part.startswith("Set paused to false"):
        return at.wanting(paused=False)
    if part.startswith("Set suspend to false"):
        return at.wanting(suspended=False)
    raise AssertionError(f"nobody knows how to do this: {part}")


def check(line: str, at: Situation) -> None:
    """Do what the line says, and see what happens."""
    before = replicas(at)
    if found := re.fullmatch(r"(\d+) more tasks? would bring (\d+) more workers?\.", line):
        event("more tasks")
        tasks = int(found[1])
        assert replicas(with_more(at, tasks)) == before + int(found[2])
        assert replicas(with_more(at, tasks - 1)) <= before, "fewer tasks would do"
    elif line.startswith("More tasks bring no more workers"):
        event("no more")
        assert all(replicas(with_more(at, tasks)) <= before for tasks in (1, 7, 100, 10**6))
    elif found := re.fullmatch(r"(?:The workers|All but (\d+) workers?) go once (.+)\.", line):
        event("fewer")
        assert found[2]
        assert after_quiet(at) == int(found[1] or 0) < before
    elif found := re.match(r"Lower minReplicas to have fewer than (\d+) workers? when there is nothing to do", line):
        event("minReplicas")
        assert after_quiet(at.wanting(min_replicas=0)) < int(found[1]) <= after_quiet(at)
    elif found := re.match(r"After (\d+) more failed readings? the fallback takes over: (\d+) workers? then\.", line):
        event("fallback")
        memory, counts = at.memory, list[int]()
        for _ in range(int(found[1]) + 1):
            decision = decide(at.scaling, at.seen, memory, at.now)
            memory, counts = decision.memory, [*counts, decision.replicas]
        assert counts[-1] == int(found[2]) > counts[-2] == before
    elif found := re.fullmatch(r"If tasks still wait after 3s: (\d+) workers? then\.", line):
        event("soon")
        assert replicas(at.remembering(waiting_since=at.now - 3.1)) == int(found[1]) > before
    elif found := re.fullmatch(r"Wait until those that start are up: (\d+) workers? then\.", line):
        event("wait")
        assert before == int(found[1])
    elif line != "The workers follow the backlog again as soon as it can be read.":
        found = re.fullmatch(r"(.+): (\d+) workers? then\.", line)
        assert found, line
        event(found[1].split(" to ")[0])
        parts = re.split(r" and (?=Raise|Mend)", found[1])
        for part in parts:
            at = done(part, at)
        assert replicas(at) == int(found[2])
        if "behavior.scaleUp" in parts[-1]:
            assert at.scaling.max_step is not None
            assert replicas(at.wanting(max_step=at.scaling.max_step - 1)) < int(found[2]), "a smaller step would do"


@given(situations())
def test_what_a_line_says_happens(situation: Situation) -> None:
    """In the end, that is: where no step was asked for, the next ones start as those before are up."""
    in_the_end = situation.wanting(max_step=situation.scaling.max_step or MAX_REPLICAS)
    for line in remedies(situation):
        check(line, in_the_end)


@given(situations())
def test_a_bound_that_holds_workers_back_is_named(situation: Situation) -> None:
    decision = situation.decision()
    lines = " ".join(remedies(situation))
    if decision.limit is Limit.MAX_REPLICAS:
        assert "maxReplicas" in lines
    if decision.limit is Limit.PAUSED:
        assert "Set paused to false" in lines
    if decision.limit is Limit.SUSPENDED:
        assert "Set suspend to false" in lines
    if decision.limit in (Limit.READY_TASKS, Limit.BUSY) and after_quiet(situation) < decision.replicas:
        assert " go once " in lines


@given(situations())
def test_where_there_are_no_workers_the_past_changes_no_line(situation: Situation) -> None:
    at_none = situation.seeing(workers=(), replicas=0, backlog=situation.seen.backlog or Backlog(0, 0))
    assert remedies_at_none(at_none.scaling, at_none.seen) == remedies(at_none)


def fleet(count: int, busy: int = 0) -> tuple[Worker, ...]:
    return tuple(Worker(f"w{n}", Phase.READY, busy=n < busy, idle_for=9.0 * (n >= busy)) for n in range(count))


SURE = Memory(zeros=3, zero_since=0.0, quiet_since=0.0)


@pytest.mark.parametrize(
    ("scaling", "seen", "lines"),
    [
        (Scaling(10), Observation(Backlog(0, 0), 0), ["1 more task would bring 1 more worker."]),
        (
            Scaling(10),
            Observation(Backlog(12, 3), 3, fleet(3, 3)),
            [
                "1 more task would bring 1 more worker.",
                "The workers go once no task is ready (12 are) and they have been idle for 100ms (3 are busy).",
            ],
        ),
        (
            Scaling(10),
            Observation(Backlog(60, 10), 10, fleet(10, 10)),
            [
                "Raise maxReplicas to 14: 14 workers then.",
                "The workers go once no task is ready (60 are) and they have been idle for 100ms (10 are busy).",
            ],
        ),
        (
            Scaling(10),
            Observation(Backlog(0, 1), 3, (Worker("late", Phase.PENDING, busy=True), *fleet(2))),
            ["The workers go once they have been idle for 100ms (1 is busy)."],
        ),
        (
            Scaling(10),
            Observation(Backlog(0, 1), 3, (Worker("new", Phase.STARTING), *fleet(2))),
            ["The workers go once 1 starting worker is up."],
        ),
        (
            Scaling(10, min_replicas=2, min_scheduled="18:00 Europe/Berlin"),
            Observation(Backlog(0, 0), 2, fleet(2)),
            [
                "11 more tasks would bring 1 more worker.",
                "Lower minReplicas to have fewer than 2 workers when there is nothing to do (a schedule sets it until",
            ],
        ),
        (
            Scaling(10, min_replicas=2, max_scheduled="18:00 Europe/Berlin"),
            Observation(Backlog(0, 0), 2, fleet(2)),
            [
                "11 more tasks would bring 1 more worker.",
                "Lower minReplicas to have fewer than 2 workers when there is nothing to do.",
            ],
        ),
        (  # as where a quota keeps pods from being made
            Scaling(10),
            Observation(Backlog(0, 1), 5, fleet(2, busy=1)),
            ["The workers go once 3 more pods are made, or nothing has been in work for 10s and they have been idle"],
        ),
        (Scaling(10, paused=True), Observation(Backlog(40, 0), 0), ["Set paused to false"]),
        (
            Scaling(10, budget=4),
            Observation(Backlog(40, 0), 4, fleet(4, 4)),
            ["Raise the budget, or this queue's priority in it, so that it gets 8: 8 workers then."],
        ),
        (
            Scaling(10, fallback=FallbackRule(3, 4)),
            Observation(None, 0),
            [
                "After 2 more failed readings the fallback takes over: 4 workers then.",
                "The workers follow the backlog again as soon as it can be read.",
            ],
        ),
        (
            Scaling(10),
            Observation(Backlog(0, 0), 2, fleet(2), service_time=2.0, arrival_rate=2.5),
            [
                "11 more tasks would bring 1 more worker.",
                "The workers go once tasks have stopped coming in for 30s (2 workers would stay until then).",
            ],
        ),
    ],
)
def test_the_words(scaling: Scaling, seen: Observation, lines: list[str]) -> None:
    memory = replace(SURE, quiet_since=None) if seen.backlog and seen.backlog.unacked else SURE
    found = remedies(Situation(scaling, seen, memory, NOW))
    for line in lines:
        assert any(text.startswith(line) for text in found), found


@given(st.integers(1, 10**6), st.integers(1, 10**6))
def test_the_least_number_is_found(threshold: int, most: int) -> None:
    assert least(lambda number: number >= threshold, most) == (threshold if threshold <= most else None)
