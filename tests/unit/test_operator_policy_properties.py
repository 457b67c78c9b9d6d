"""What holds for every decision, whatever is seen."""

import math
from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from warren_operator.policy import (
    SILENT_QUIET,
    Backlog,
    Decision,
    FallbackRule,
    Limit,
    Memory,
    Observation,
    Phase,
    Scaling,
    Worker,
    decide,
    wanted,
)

counts = st.integers(0, 500)
ages = st.floats(0, 1000, allow_nan=False)

workers = st.builds(
    Worker,
    name=st.uuids().map(str),
    phase=st.sampled_from(Phase),
    busy=st.sampled_from([None, True, False]),
    idle_for=ages,
    silent=st.booleans(),
    age=ages,
)
fleets = st.lists(workers, max_size=12, unique_by=lambda worker: worker.name).map(tuple)


@st.composite
def scalings(draw: st.DrawFn) -> Scaling:
    """Any spec that the CRD lets pass."""
    low = draw(st.integers(0, 20))
    return Scaling(
        max_replicas=draw(st.integers(low, 40)),
        min_replicas=low,
        backlog_per_worker=draw(st.none() | st.integers(1, 20)),
        max_wait=draw(st.none() | st.floats(0.1, 600)),
        concurrency=draw(st.integers(1, 8)),
        budget=draw(st.none() | st.integers(0, 40)),
        max_step=draw(st.none() | st.integers(1, 10)),
        stabilization=draw(st.sampled_from([0.0, 5.0, 300.0])),
        fallback=draw(st.none() | st.builds(FallbackRule, st.integers(1, 5), st.integers(0, 40))),
        paused=draw(st.booleans()),
        suspended=draw(st.booleans()),
    )


@st.composite
def observations(draw: st.DrawFn, *, known: bool | None = None) -> Observation:
    """Anything that may be seen; `known` says whether the backlog is."""
    fleet = draw(fleets)
    backlog = st.builds(Backlog, counts, counts)
    return Observation(
        backlog=draw(backlog if known else st.none() if known is False else st.none() | backlog),
        replicas=draw(st.integers(0, 50)),
        workers=fleet,
        rollout=draw(st.booleans()),
        settled=draw(st.booleans()),
        service_time=draw(st.none() | st.floats(0.001, 600)),
        arrival_rate=draw(st.none() | st.floats(0, 50)),
        ending=draw(st.integers(0, 3)),
        time_so_far=draw(st.none() | st.floats(0.001, 600)),
        statistics_age=draw(st.floats(0, 30)),
    )


memories = st.builds(
    Memory,
    failures=st.integers(0, 10),
    zeros=st.integers(0, 3),
    zero_since=st.floats(0, 100),
    quiet_since=st.none() | st.floats(0, 100),
)
NOW = 100.0


@given(scalings(), observations(), memories)
def test_what_is_added_stays_within_the_bounds(spec: Scaling, seen: Observation, memory: Memory) -> None:
    decision = decide(spec, seen, memory, NOW)
    if decision.replicas > decision.current:
        assert decision.replicas <= spec.ceiling <= spec.max_replicas
        assert not spec.suspended
    if decision.replicas < decision.current:
        assert decision.replicas >= min(spec.bounds[0], spec.ceiling)


@given(scalings(), observations(known=False), memories)
def test_an_error_never_takes_a_worker_away(spec: Scaling, seen: Observation, memory: Memory) -> None:
    decision = decide(spec, seen, memory, NOW)
    assert decision.replicas >= decision.current
    assert not decision.victims
    assert decision.limit in (Limit.UNKNOWN, Limit.FALLBACK, Limit.PAUSED)


@given(scalings(), observations(known=True), memories, counts, counts)
def test_more_backlog_never_means_fewer_workers(
    spec: Scaling, seen: Observation, memory: Memory, ready: int, unacked: int
) -> None:
    assert seen.backlog is not None
    more = replace(seen, backlog=Backlog(seen.backlog.ready + ready, seen.backlog.unacked + unacked))
    assert decide(spec, more, memory, NOW).replicas >= decide(spec, seen, memory, NOW).replicas


@given(scalings(), observations(known=True), memories)
def test_while_tasks_are_ready_only_a_lowered_bound_takes_workers(
    spec: Scaling, seen: Observation, memory: Memory
) -> None:
    assert seen.backlog is not None
    waiting = replace(seen, backlog=Backlog(seen.backlog.ready + 1, seen.backlog.unacked))
    decision = decide(spec, waiting, memory, NOW)
    assert decision.replicas >= min(decision.current, spec.ceiling)


@given(scalings(), observations(), memories)
def test_whoever_goes_is_named(spec: Scaling, seen: Observation, memory: Memory) -> None:
    """Else the ReplicaSet chooses, and may take those at work."""
    decision = decide(spec, seen, memory, NOW)
    gone = max(0, decision.current - decision.replicas)
    missing = max(0, seen.replicas - len(seen.workers))
    assert len(decision.victims) == min(len(seen.workers), max(0, gone - missing))


@given(scalings(), observations(known=True), memories)
def test_only_idle_workers_go_within_the_bounds(spec: Scaling, seen: Observation, memory: Memory) -> None:
    assert seen.backlog is not None
    decision = decide(spec, seen, memory, NOW)
    by_name = {worker.name: worker for worker in seen.workers}
    victims = [by_name[name] for name in decision.victims]
    if decision.current <= spec.ceiling:
        assert not any(victim.busy for victim in victims)
        quiet = memory.quiet_since is not None and NOW - memory.quiet_since >= SILENT_QUIET and not seen.backlog.unacked
        assert quiet or not any(victim.phase is Phase.STARTING for victim in victims)


@given(fleets, st.integers(0, 3), st.integers(0, 3), st.none() | st.floats(0, NOW))
def test_a_worker_at_work_is_no_victim_nor_deleted_instead_of_one(
    fleet: tuple[Worker, ...], unacked: int, low: int, quiet_since: float | None
) -> None:
    """A ReplicaSet deletes what is not up first, whatever the victims are."""
    seen = Observation(Backlog(0, unacked), len(fleet), fleet)
    memory = Memory(zeros=3, zero_since=0.0, quiet_since=quiet_since)
    victims = decide(Scaling(max_replicas=12, min_replicas=low), seen, memory, NOW).victims
    order = list(Phase)
    last = max((order.index(worker.phase) for worker in fleet if worker.name in victims), default=0)
    for worker in fleet:
        if worker.busy:
            assert worker.name not in victims
            assert order.index(worker.phase) >= last


@given(scalings(), observations(known=True), memories)
def test_what_comes_in_steadily_keeps_its_workers(spec: Scaling, seen: Observation, memory: Memory) -> None:
    """λ·S of them, by Little's law, or as many as the tasks that are there need, unless a bound takes them."""
    assert seen.backlog is not None
    steadily = (seen.arrival_rate or 0.0) * (seen.service_time or 0.0)
    busy = min(steadily, max(seen.backlog.ready + seen.backlog.unacked, 1)) / spec.concurrency
    decision = decide(spec, seen, memory, NOW)
    assert decision.replicas >= min(decision.current, spec.ceiling, math.floor(busy))


@given(scalings(), observations(known=True), memories, st.floats(0.1, 600))
def test_a_shorter_wait_never_means_fewer_workers(
    spec: Scaling, seen: Observation, memory: Memory, wait: float
) -> None:
    longer = replace(spec, max_wait=wait * 2)
    shorter = replace(spec, max_wait=wait)
    assert decide(shorter, seen, memory, NOW).replicas >= decide(longer, seen, memory, NOW).replicas


@given(scalings(), observations(known=True))
def test_a_queue_demands_what_it_would_have_without_a_budget(spec: Scaling, seen: Observation) -> None:
    free = replace(spec, budget=None)
    demand = wanted(spec, seen, Memory())
    decision = decide(free, seen, Memory(), NOW)
    if not spec.paused:
        assert demand <= free.ceiling
        assert decision.replicas <= max(demand, seen.replicas)


@given(scalings(), observations(), memories)
def test_paused_changes_nothing(spec: Scaling, seen: Observation, memory: Memory) -> None:
    decision = decide(replace(spec, paused=True), seen, memory, NOW)
    assert not decision.changes
    assert not decision.victims


@given(scalings(), observations(known=True))
def test_constant_input_comes_to_rest(spec: Scaling, seen: Observation) -> None:
    """Carried out again and again on a world that does not move, decisions stop changing anything."""
    memory, now, last = Memory(), 0.0, seen
    decision: Decision | None = None
    for _ in range(80):
        decision = decide(spec, last, memory, now)
        memory, now = decision.memory, now + 20
        kept = tuple(worker for worker in last.workers if worker.name not in decision.victims)
        last = replace(last, replicas=decision.replicas, workers=kept)
    assert decision is not None
    assert not decision.changes


@given(st.integers(1, 20), st.integers(1, 20), st.lists(st.sampled_from([-1, 0, 1]), min_size=20, max_size=60))
def test_noise_of_one_task_does_not_flap(per_worker: int, level: int, noise: list[int]) -> None:
    """Around a plateau with work waiting, the number of workers only ever rises, and at most by one."""
    spec = Scaling(max_replicas=1000, backlog_per_worker=per_worker)
    fleet = tuple(Worker(f"w{number}", Phase.READY, busy=True) for number in range(level))
    replicas, memory, seen_replicas = level, Memory(), []
    plateau = level * per_worker
    for step, wobble in enumerate(noise):
        ready = max(1, plateau - level + wobble)
        seen = Observation(Backlog(ready, level), replicas, fleet)
        decision = decide(spec, seen, memory, step * 0.25)
        replicas, memory = decision.replicas, decision.memory
        seen_replicas.append(replicas)
    assert seen_replicas == sorted(seen_replicas)
    assert seen_replicas[-1] <= level + 1


@given(st.floats(0.5, 20), st.floats(0.2, 5), st.lists(st.floats(-0.1, 0.1), min_size=20, max_size=40))
def test_a_rate_that_wobbles_does_not_flap(rate: float, service: float, noise: list[float]) -> None:
    """A plateau of traffic, its rate measured up to 10 % wrong, some workers idle: their number settles."""
    spec = Scaling(max_replicas=1000, backlog_per_worker=None, max_wait=30.0)
    replicas, memory, told = math.ceil(rate * service * 1.3) + 1, Memory(), []
    for step, wobble in enumerate(noise * 2):
        busy = min(replicas, round(rate * service))
        fleet = tuple(Worker(f"w{number}", Phase.READY, number < busy, 5.0) for number in range(replicas))
        seen = Observation(Backlog(0, busy), replicas, fleet, service_time=service, arrival_rate=rate * (1 + wobble))
        decision = decide(spec, seen, memory, step * 0.5)
        replicas, memory = decision.replicas, decision.memory
        told.append(replicas)
    assert told == sorted(told, reverse=True), "it only ever comes down to the plateau"
    assert told[-1] >= math.ceil(rate * service * 0.9 - 1e-9)
