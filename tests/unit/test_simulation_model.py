"""The model of a cluster: what can be worked out by hand, and what holds whatever comes."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from warren_operator.observation import Counts, Inputs, observe
from warren_operator.policy import Observation, Phase
from warren_operator.resource import parse_spec
from warren_operator.simulation.model import Pod, Record, Timing, World
from warren_operator.simulation.rivals import HpaRule, Rival, RivalRule
from warren_operator.simulation.trace import Trace, made_up, trace_of
from warren_operator.simulation.warren import QUEUE, Warren
from warren_operator.workloads import Deployment, TargetState
from warren_operator.workloads import Pod as SeenPod

EXACT = Timing(start=2.0, stop=1.0, start_work=0.0, stop_work=0.0, patch=0.0, controller=0.0, overhead=0.0)


class Fixed:
    """A scaler that does nothing."""

    def __init__(self, replicas: int) -> None:
        self.rest = replicas
        self.grace = 30.0

    def begin(self, world: World) -> None:
        """Nothing."""

    def submitted(self, now: float) -> None:
        """Nothing."""

    def changed(self, pod: Pod, now: float) -> None:
        """Nothing."""


class Ordered(Fixed):
    """A scaler that asks for replicas at given times."""

    def __init__(self, rest: int, grace: float, orders: list[tuple[float, int]]) -> None:
        super().__init__(rest)
        self.grace = grace
        self._orders = orders

    def begin(self, world: World) -> None:
        for at, replicas in self._orders:
            world.at(at, world.scale, replicas)


def spec_of(**fields: object) -> Warren:
    return Warren(parse_spec({"scaleTargetRef": {"name": "worker"}, **fields}, QUEUE), start=0.0)


def pod_seconds(record: Record) -> float:
    return sum(gone - created for created, _, gone in record.pods if gone is not None)


def run(trace: Trace, scaler: Warren | Rival | Fixed, timing: Timing = EXACT, concurrency: int = 1) -> Record:
    return World(trace, scaler, timing, concurrency, seed=1).run()


def test_two_workers_do_five_tasks_in_three_rounds() -> None:
    record = run(trace_of([(0.0, 2.0)] * 5), Fixed(2))
    assert list(record.waits) == [0.0, 0.0, 2.0, 2.0, 4.0]
    assert list(record.ended) == [2.0, 2.0, 4.0, 4.0, 6.0]


def test_a_worker_with_two_places_does_two_at_once() -> None:
    record = run(trace_of([(0.0, 2.0)] * 4), Fixed(1), concurrency=2)
    assert list(record.waits) == [0.0, 0.0, 2.0, 2.0]


def test_a_worker_that_has_got_two_at_once_has_no_room_for_a_third() -> None:
    """It takes both that wait when it begins to consume; the third comes a second later."""
    orders = Ordered(0, 30.0, [(0.0, 1), (50.0, 0)])
    record = run(trace_of([(0.0, 6.0), (0.0, 6.0), (3.0, 5.0)]), orders, concurrency=2)
    assert list(record.waits) == [2.0, 2.0, 5.0]


def test_what_a_worker_needs_besides_the_work_delays_the_next_task() -> None:
    record = run(trace_of([(0.0, 2.0)] * 2), Fixed(1), replace(EXACT, overhead=0.5))
    assert list(record.waits) == [0.0, 2.5]


def test_a_burst_from_zero_waits_for_one_pod_start_and_no_more() -> None:
    record = run(trace_of([(0.0, 2.0)] * 60), spec_of(maxReplicas=12, behavior={"scaleUp": {"maxStep": 12}}))
    assert [number for _, number in record.replicas[:2]] == [0, 1], "the first task is told at once"
    assert max(number for _, number in record.replicas) == 12
    assert record.waits[0] == pytest.approx(2.0)
    assert record.ended[-1] == pytest.approx(12.0, abs=0.2), "5 rounds of 2 s after a start of 2 s"


def test_pods_that_start_a_few_at_a_time_are_at_work_sooner_and_done_no_later() -> None:
    """Where the processors are what a start takes, as on one small node."""
    burst = trace_of([(0.0, 2.0)] * 60)
    timing = replace(EXACT, start=0.9, start_work=0.7, processors=2)
    at_once, paced = (
        run(burst, spec_of(maxReplicas=12, **step), timing) for step in ({"behavior": {"scaleUp": {"maxStep": 12}}}, {})
    )
    assert min(paced.waits) < min(at_once.waits) / 2
    assert paced.ended[-1] < at_once.ended[-1] + 0.5
    assert pod_seconds(paced) < 0.9 * pod_seconds(at_once)


def test_each_node_that_has_pods_starts_three_more_at_once() -> None:
    one, four = (
        run(trace_of([(0.0, 2.0)] * 60), spec_of(maxReplicas=12), replace(EXACT, nodes=nodes)) for nodes in (1, 4)
    )
    assert [number for _, number in one.replicas[:3]] == [0, 1, 3]
    assert next(at for at, number in one.replicas if number > 3) >= 2.0, "the first are up then"
    assert [number for _, number in four.replicas[:4]] == [0, 1, 3, 9], "on the three nodes that have pods"
    assert four.replicas[3][0] < 0.5


def test_short_tasks_bring_no_workers_that_come_when_all_is_done() -> None:
    """Twenty at a time, which one worker does in little more than a second."""
    load = trace_of([(number * 3.0, 0.05) for number in range(60) for _ in range(20)])
    record = run(load, spec_of(maxReplicas=30), Timing())
    assert max(record.waits) < 2
    assert len(record.pods) < 30


def test_tasks_that_have_become_longer_are_begun_in_time() -> None:
    """Five minutes of short tasks, and then a burst of long ones, with a longest wait asked for and nothing else."""
    load = trace_of([*((number / 10, 0.1) for number in range(3000)), *((360.0, 60.0) for _ in range(30))])
    record = run(load, spec_of(maxReplicas=30, target={"maxWait": "30s"}), Timing())
    assert max(record.waits) < 30
    assert pod_seconds(record) < 1.3 * load.work


def test_workers_that_longer_tasks_needed_do_not_stay_for_the_short_ones() -> None:
    """Eight at a time for ten minutes, then one for ten minutes more."""
    load = trace_of(
        [*((number * 2.5, 20.0) for number in range(240)), *((600 + number / 2, 0.5) for number in range(1200))]
    )
    record = run(load, spec_of(maxReplicas=30), Timing())
    assert pod_seconds(record) < 1.3 * load.work


def test_pods_that_start_together_share_the_processors() -> None:
    """Two pods, half a second of work each, and a third at 1.25 s: two processors are enough for two."""
    timing = replace(EXACT, start_work=0.5, processors=2)
    record = run(trace_of([(0.0, 2.0)] * 3), Ordered(0, 30.0, [(1.0, 2), (1.25, 3), (50.0, 0)]), timing)
    # From 1.25 s on each gets two thirds: the first two need 0.375 s more; then the third has 0.25 s left for itself.
    assert [began for _, began, _ in record.pods] == [pytest.approx(at) for at in (3.125, 3.125, 3.375)]


def test_a_pod_finishes_its_task_within_its_grace() -> None:
    record = run(trace_of([(0.0, 20.0)]), Ordered(0, 30.0, [(0.0, 1), (5.0, 0)]))
    assert record.interrupted == 0
    assert list(record.ended) == [22.0]
    assert record.pods == ((0.0, 2.0, 23.0),)


def test_a_pod_that_outlives_its_grace_loses_its_task_to_the_next_one() -> None:
    record = run(trace_of([(0.0, 60.0)]), Ordered(0, 30.0, [(0.0, 1), (5.0, 0), (40.0, 1), (200.0, 0)]))
    assert record.interrupted == 1
    assert list(record.ended) == [102.0], "taken up again by the second pod, from its beginning"
    assert list(record.waits) == [2.0], "it waited for its first start only"


def test_a_scaler_that_leaves_no_worker_ends_the_run_and_is_told() -> None:
    record = run(trace_of([(0.0, 2.0)]), Fixed(0))
    assert record.unfinished == 1


def test_a_marked_pod_goes_and_no_other() -> None:
    class Marks(Fixed):
        def begin(self, world: World) -> None:
            world.at(10.0, lambda _: world.scale(2, (world.pods[1].name,)))

    record = run(trace_of([(0.0, 1.0), (60.0, 1.0)]), Marks(3))
    assert [gone is not None for _, _, gone in record.pods] == [False, True, False]


def test_the_same_seed_tells_the_same_story() -> None:
    load = made_up("poisson:3/s,~2s,3m", seed=7)
    assert run(load, spec_of(maxReplicas=12)) == run(load, spec_of(maxReplicas=12))
    assert run(load, rival()) == run(load, rival())


def rival(*, grace: float = 30.0, keda: bool = True) -> Rival:
    hpa = HpaRule(target=5, min_replicas=1, max_replicas=8, stabilization=0.0)
    return Rival(RivalRule(hpa, keda=keda, min_replicas=0 if keda else 1, polling=5.0, cooldown=10.0, grace=grace))


LOADS = st.lists(st.tuples(st.floats(0, 120), st.floats(0, 30)), min_size=1, max_size=60).map(trace_of)


@settings(max_examples=60, deadline=None)
@given(LOADS, st.integers(1, 12), st.integers(1, 3), st.sampled_from(["warren", "keda", "hpa"]))
def test_each_task_ends_once_and_the_pods_stay_within_the_bounds(
    load: Trace, most: int, concurrency: int, who: str
) -> None:
    if who == "warren":
        scaler: Warren | Rival = spec_of(maxReplicas=most, concurrency=concurrency)
    else:
        scaler, most = rival(grace=3600.0, keda=who == "keda"), 8
    record = run(load, scaler, Timing(), concurrency)
    assert record.unfinished == 0
    assert len(record.ended) == len(load)
    assert record.interrupted == 0
    assert all(wait >= 0 for wait in record.waits)
    assert list(record.ended) == sorted(record.ended)
    assert all(0 <= number <= most for _, number in record.replicas)
    lives = [(created, began, record.over if gone is None else gone) for created, began, gone in record.pods]
    assert all(created <= (began or created) <= gone for created, began, gone in lives)
    served = sum(gone - began for _, began, gone in lives if began is not None) * concurrency
    assert served >= load.work - 1e-6, "work takes the time of workers"


@pytest.mark.parametrize("who", ["warren", "hpa"])
def test_workers_that_are_always_there_are_there_from_the_beginning(who: str) -> None:
    scaler = spec_of(minReplicas=2, maxReplicas=4) if who == "warren" else rival(keda=False)
    record = run(trace_of([(0.0, 2.0)]), scaler, Timing())
    assert record.waits[0] < 0.1
    assert record.replicas[0] == (0.0, scaler.rest)


def test_a_queue_at_rest_is_looked_at_once_a_minute() -> None:
    """Two tasks ten days apart; the second one is seen as soon as the first was."""

    class Counting(Warren):
        looks = 0

        def observe(self) -> Observation:
            self.looks += 1
            return super().observe()

    days = 10
    scaler = Counting(parse_spec({"scaleTargetRef": {"name": "worker"}}, QUEUE), start=0.0)
    record = run(trace_of([(0.0, 2.0), (days * 86_400.0, 2.0)]), scaler, Timing())
    assert record.waits[1] == pytest.approx(record.waits[0], abs=0.1)
    assert scaler.looks < days * 1440 + 2000


class Checked(Warren):
    """The operator on the model, that compares what it sees with what the real operator would."""

    looks = 0
    world: World

    def begin(self, world: World) -> None:
        self.world = world
        super().begin(world)

    def observe(self) -> Observation:
        seen, world = super().observe(), self.world
        now = world.now
        view = observe(
            Inputs(
                counts=Counts(ready=len(world.waiting), consumers=world.consumers, at=now),
                unknown="",
                statistics=None,
                reports=self.reports.of(QUEUE),
                active_at=self.reports.active_at(QUEUE),
                service_time=self.reports.service_time(QUEUE, now),
                time_so_far=self.reports.time_so_far(QUEUE, now),
                arrival_rate=self.reports.arrival_rate(QUEUE, len(world.waiting), now),
                concurrency=self.concurrency,
                target=TargetState(
                    Deployment("uid", world.replicas, settled=True),
                    tuple(as_seen(pod) for pod in world.pods),
                    (),
                    rollout=False,
                    settled=world.settled,
                ),
                now=now,
                wall=now,
                listening_since=0.0,
            )
        )
        assert replace(seen, workers=tuple(seen.workers)) == replace(view.seen, counted=True)
        self.looks += 1
        return seen


def as_seen(pod: Pod) -> SeenPod:
    return SeenPod(
        name=pod.name,
        owner="set",
        created=pod.created,
        running=pod.phase is not Phase.PENDING,
        ready=pod.phase is Phase.READY,
        ready_since=pod.ready_since,
        ending=False,
        over=False,
        failing="",
        cost=None,
        node=pod.node,
    )


@settings(max_examples=40, deadline=None)
@given(LOADS, st.integers(1, 3), st.sampled_from([{"backlogPerWorker": 2}, {"maxWait": "5s"}]))
def test_the_model_shows_the_policy_what_the_operator_would_show_it(
    load: Trace, concurrency: int, target: dict[str, object]
) -> None:
    fields = {"scaleTargetRef": {"name": "worker"}, "concurrency": concurrency, "target": target}
    checked = Checked(parse_spec(fields, QUEUE), start=0.0)
    run(load, checked, Timing(), concurrency)
    assert checked.looks > 0
