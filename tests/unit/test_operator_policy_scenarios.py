"""Stories of one queue, told with a clock that is moved by hand."""

import itertools
import math
from dataclasses import dataclass, field, replace

import pytest

from warren_operator.policy import (
    FLOOR_SPAN,
    IDLE_FOR,
    SILENT_QUIET,
    STARTING_FOR,
    ZERO_READINGS,
    Backlog,
    Decision,
    FallbackRule,
    Limit,
    Memory,
    Observation,
    Phase,
    Rule,
    Scaling,
    Worker,
    decide,
    wanted,
)

# How many start at once is a story of its own, further down.
BURST = Scaling(max_replicas=12, backlog_per_worker=5, max_step=12)


def ready(name: str, *, busy: bool | None = False, idle_for: float = 60.0, silent: bool = False) -> Worker:
    """A worker that is up; idle for long unless told otherwise."""
    return Worker(name, Phase.READY, busy=busy, idle_for=0.0 if busy else idle_for, silent=silent)


def fleet(idle: int, busy: int = 0) -> tuple[Worker, ...]:
    """So many idle and busy workers."""
    return (
        *(ready(f"idle-{number}") for number in range(idle)),
        *(ready(f"busy-{number}", busy=True) for number in range(busy)),
    )


@dataclass
class Story:
    """A queue over time; each reading comes a second after the one before."""

    spec: Scaling
    replicas: int = 0
    memory: Memory = field(default_factory=Memory)
    now: float = 1000.0

    def read(
        self,
        backlog: tuple[int, int] | None,
        workers: tuple[Worker, ...] = (),
        *,
        rollout: bool = False,
        settled: bool = True,
        after: float = 1.0,
        service: float | None = None,
        rate: float | None = None,
        counted: bool = True,
        age: float = 0.0,
        so_far: float | None = None,
        consumers: int = 0,
        ending: int = 0,
    ) -> Decision:
        """One reading (ready, unacked), decided on and carried out."""
        self.now += after
        known = None if backlog is None else Backlog(*backlog)
        seen = Observation(
            known, self.replicas, workers, rollout, settled, service, rate, ending, counted, age, so_far, consumers
        )
        decision = decide(self.spec, seen, self.memory, self.now)
        self.replicas, self.memory = decision.replicas, decision.memory
        return decision

    def settle(self, backlog: tuple[int, int], workers: tuple[Worker, ...]) -> Decision:
        """Read the same so often that an empty queue is believed to be empty."""
        for _ in range(ZERO_READINGS - 1):
            self.read(backlog, workers)
        return self.read(backlog, workers)


def test_a_burst_goes_from_zero_to_the_maximum_in_one_step() -> None:
    story = Story(BURST)
    decision = story.read((60, 0))
    assert (decision.current, decision.replicas, decision.limit) == (0, 12, Limit.NONE)


def test_a_larger_burst_stops_at_the_maximum_and_says_so() -> None:
    decision = Story(BURST).read((61, 0))
    assert (decision.asked, decision.replicas, decision.limit) == (13, 12, Limit.MAX_REPLICAS)


def test_unacknowledged_tasks_count() -> None:
    assert Story(BURST, replicas=1).read((0, 11), fleet(0, 1)).replicas == 3


def test_one_zero_reading_changes_nothing() -> None:
    story = Story(BURST, replicas=12)
    workers = fleet(12)
    story.read((50, 0), workers)
    glitch = story.read((0, 0), workers)
    assert (glitch.replicas, glitch.limit) == (12, Limit.UNCONFIRMED)
    assert story.read((50, 0), workers).replicas == 12


def test_zero_is_believed_at_the_third_reading() -> None:
    story = Story(BURST, replicas=12)
    decisions = [story.read((0, 0), fleet(12)) for _ in range(ZERO_READINGS)]
    assert [decision.replicas for decision in decisions] == [12, 12, 0]
    assert len(decisions[-1].victims) == 12


def test_three_zeros_in_a_blink_are_one() -> None:
    story = Story(BURST, replicas=12)
    decisions = [story.read((0, 0), fleet(12), after=0.01) for _ in range(10)]
    assert {decision.replicas for decision in decisions} == {12}


def test_statistics_that_jump_to_zero_once_take_nobody() -> None:
    """The busy ones stay in any case; the idle ones as well while the zero is not repeated."""
    story = Story(BURST, replicas=6)
    workers = fleet(2, 4)
    for backlog in ((9, 4), (0, 0), (8, 4), (0, 0), (7, 4)):
        assert story.read(backlog, workers).replicas == 6


def test_the_broker_is_down_and_comes_back() -> None:
    story = Story(BURST, replicas=7)
    workers = fleet(7)
    for _ in range(100):
        decision = story.read(None, workers)
        assert (decision.replicas, decision.limit) == (7, Limit.UNKNOWN)
    assert story.read((0, 0), workers).replicas == 7, "what came before the outage proves nothing"
    assert story.settle((0, 0), workers).replicas == 0


def test_what_was_empty_before_an_outage_has_to_be_empty_anew_after_it() -> None:
    story = Story(BURST, replicas=7)
    for _ in range(ZERO_READINGS):
        story.read((0, 7), fleet(0, 7))
    story.read(None, fleet(0, 7))
    glitch = story.read((0, 0), fleet(7))
    assert (glitch.replicas, glitch.limit) == (7, Limit.UNCONFIRMED)
    silent = tuple(ready(f"w{number}", busy=None, silent=True) for number in range(7))
    story.settle((0, 0), silent)
    story.read(None, silent, after=SILENT_QUIET)
    assert story.settle((0, 0), silent).replicas == 7, "who knows what they were given meanwhile"


def test_the_fallback_raises_after_enough_failures_and_never_lowers() -> None:
    story = Story(replace(BURST, fallback=FallbackRule(after_failures=3, replicas=4)), replicas=1)
    assert [story.read(None).replicas for _ in range(3)] == [1, 1, 4]
    held = story.read(None)
    assert (held.replicas, held.limit) == (4, Limit.FALLBACK), "they are there for it"
    story.replicas = 9
    more = story.read(None)
    assert (more.replicas, more.limit) == (9, Limit.UNKNOWN), "it has no part in these"


def test_failures_count_in_a_row() -> None:
    story = Story(replace(BURST, fallback=FallbackRule(after_failures=3, replicas=4)), replicas=1)
    for backlog in (None, None, (1, 0), None, None):
        assert story.read(backlog).replicas == 1


def test_no_fallback_where_scaling_stands_still_or_no_workers_are_wanted() -> None:
    spec = replace(BURST, fallback=FallbackRule(1, 4))
    for change, limit in ((replace(spec, paused=True), Limit.PAUSED), (replace(spec, suspended=True), Limit.UNKNOWN)):
        decision = Story(change).read(None)
        assert (decision.replicas, decision.limit) == (0, limit)


def test_the_fallback_stays_within_the_maximum() -> None:
    story = Story(Scaling(max_replicas=2, fallback=FallbackRule(1, 50)))
    assert story.read(None).replicas == 2


def test_a_restart_of_the_operator_changes_nothing_by_itself() -> None:
    story = Story(BURST, replicas=6)
    workers = fleet(4, 2)
    story.settle((3, 2), workers)
    story.memory = Memory()
    assert story.read((0, 2), workers).replicas == 6
    assert story.read((0, 2), workers).replicas == 6


def test_a_restart_forgets_no_stabilization() -> None:
    story = Story(replace(BURST, stabilization=300), replicas=6)
    assert story.settle((0, 0), fleet(6)).limit is Limit.STABILIZATION
    assert story.replicas == 6


def test_exactly_the_idle_workers_go() -> None:
    story = Story(BURST, replicas=12)
    decision = story.settle((0, 5), fleet(7, 5))
    assert decision.replicas == 5
    assert set(decision.victims) == {f"idle-{number}" for number in range(7)}
    assert decision.limit is Limit.BUSY


def test_no_more_idle_workers_go_than_are_too_many() -> None:
    story = Story(Scaling(max_replicas=12, min_replicas=4), replicas=12)
    decision = story.settle((0, 0), fleet(12))
    assert (decision.replicas, len(decision.victims)) == (4, 8)


def test_pods_that_are_not_up_go_first() -> None:
    story = Story(Scaling(max_replicas=12, min_replicas=2), replicas=6)
    pending = tuple(Worker(f"pending-{number}", Phase.PENDING) for number in range(3))
    decision = story.settle((0, 0), (*fleet(3), *pending))
    assert decision.replicas == 2
    assert set(decision.victims) > {worker.name for worker in pending}
    assert len(decision.victims) == 4


def test_replicas_without_a_pod_go_before_any_worker_once_nothing_can_meet_them() -> None:
    """Their pods may be made before fewer are asked for, and take a task; then the ReplicaSet deletes these first."""
    story = Story(Scaling(max_replicas=12, min_replicas=2), replicas=6)
    decision = story.settle((0, 0), fleet(2))
    assert (decision.replicas, decision.limit) == (6, Limit.STARTING)
    for _ in range(math.ceil(SILENT_QUIET)):
        decision = story.read((0, 0), fleet(2))
    assert (decision.replicas, decision.victims) == (2, ())


def test_a_starting_worker_holds_a_scale_in_up() -> None:
    """The ReplicaSet would delete it first, and it may have taken a task already."""
    story = Story(BURST, replicas=3)
    workers = (*fleet(2), Worker("starting", Phase.STARTING))
    decision = story.settle((0, 0), workers)
    assert (decision.replicas, decision.limit) == (3, Limit.STARTING)


def test_a_worker_at_work_stays_though_kubernetes_has_not_seen_it_start() -> None:
    """Its image took long; its task came, and it reported, before the kubelet said that its container runs."""
    late = Worker("late", Phase.PENDING, busy=True, age=25.0, node="one")
    story = Story(BURST, replicas=3)
    decision = story.settle((0, 1), (late, *fleet(2)))
    assert (decision.replicas, decision.victims, decision.limit) == (3, (), Limit.BUSY), "it would be deleted first"
    decision = story.read((0, 1), (replace(late, phase=Phase.READY), *fleet(2)))
    assert (decision.replicas, set(decision.victims)) == (1, {"idle-0", "idle-1"})


def test_a_worker_at_work_beside_a_sidecar_that_crashes_keeps_the_idle_ones_until_it_is_done() -> None:
    """Kubernetes would delete it before any that is ready. It goes first, and the others with it, once it is idle, or
    once nothing is heard of it any more."""
    working = Worker("working", Phase.FAILING, busy=True, age=60.0)
    for then in (replace(working, busy=False, idle_for=1.0), replace(working, busy=None)):
        story = Story(BURST, replicas=3)
        story.settle((0, 1), (working, *fleet(2)))
        for _ in range(60):
            decision = story.read((0, 1), (working, *fleet(2)))
            assert (decision.replicas, decision.victims, decision.limit) == (3, (), Limit.BUSY)
        decision = story.read((0, 0), (then, *fleet(2)))
        assert (decision.replicas, decision.victims[0], len(decision.victims)) == (0, "working", 3)


def test_what_kubernetes_deletes_before_a_worker_at_work_may_go() -> None:
    working = Worker("working", Phase.FAILING, busy=True)
    others = (Worker("pending", Phase.PENDING), Worker("crashing", Phase.FAILING), *fleet(2))
    decision = Story(BURST, replicas=5).settle((0, 1), (working, *others))
    assert (decision.replicas, decision.victims, decision.limit) == (3, ("pending", "crashing"), Limit.BUSY)


def test_crash_looping_workers_go_when_nothing_waits() -> None:
    crashing = tuple(Worker(f"crashing-{number}", Phase.FAILING) for number in range(3))
    decision = Story(BURST, replicas=5).settle((0, 0), (*crashing, *fleet(2)))
    assert (decision.replicas, len(decision.victims)) == (0, 5)


def test_workers_that_never_come_up_go_once_the_queue_has_been_quiet_for_long() -> None:
    """Their password is wrong, say: they run, and are not ready for as long as they run."""
    story = Story(BURST, replicas=4)
    stuck = tuple(Worker(f"stuck-{number}", Phase.STARTING) for number in range(2))
    decision, waited = story.read((0, 0), (*fleet(2), *stuck)), 1
    while story.replicas:
        decision = story.read((0, 0), (*fleet(2), *stuck))
        waited += 1
        assert waited < 60
    assert waited > SILENT_QUIET
    assert len(decision.victims) == 4
    assert Story(BURST, replicas=4).settle((0, 1), (*fleet(2), *stuck)).replicas == 4


def test_a_worker_that_was_busy_a_moment_ago_stays() -> None:
    story = Story(BURST, replicas=2)
    workers = (ready("old"), ready("fresh", idle_for=IDLE_FOR / 2))
    decision = story.settle((0, 0), workers)
    assert decision.victims == ("old",)


def test_a_worker_that_has_not_reported_stays() -> None:
    story = Story(BURST, replicas=2)
    new = ready("new", busy=None)
    decision = story.settle((0, 0), (ready("known"), new))
    assert decision.victims == ("known",)
    for _ in range(math.ceil(SILENT_QUIET) + 1):
        assert story.read((0, 0), (new,)).replicas == 1, "however quiet it is, until it should have reported"


def test_silent_workers_go_once_the_queue_has_been_quiet_for_long() -> None:
    """Workers that are not Warren's report nothing: only the statistics know of their tasks, late."""
    story = Story(BURST, replicas=2)
    workers = (ready("a", busy=None, silent=True), ready("b", busy=None, silent=True))
    decision, waited = story.read((0, 0), workers), 1.0
    while story.replicas == 2:
        decision = story.read((0, 0), workers)
        waited += 1
        assert waited < 60
    assert waited > SILENT_QUIET
    assert (decision.replicas, len(decision.victims)) == (0, 2)


def test_silent_workers_wait_for_statistics_that_are_as_old_as_the_quiet() -> None:
    """With thousands of queues statistics are read each 15 s: what is old cannot tell of a task that came since."""
    story = Story(BURST, replicas=1)
    workers = (ready("a", busy=None, silent=True),)
    story.read((0, 0), workers)
    for waited in range(1, 40):
        replicas = story.read((0, 0), workers, age=waited % 15).replicas
        assert replicas or waited - waited % 15 >= SILENT_QUIET
    assert not story.replicas


def test_silent_workers_stay_while_anything_is_unacknowledged() -> None:
    story = Story(BURST, replicas=4)
    workers = tuple(ready(f"w{number}", busy=None, silent=True) for number in range(4))
    for _ in range(60):
        assert story.read((0, 1), workers).replicas == 4


def test_no_scale_in_during_a_rollout() -> None:
    story = Story(BURST, replicas=6)
    for _ in range(10):
        decision = story.read((0, 0), fleet(6), rollout=True)
        assert (decision.replicas, decision.limit) == (6, Limit.ROLLOUT)
    assert story.read((0, 0), fleet(6)).replicas == 0


def test_no_scale_in_while_pods_and_replicas_disagree() -> None:
    story = Story(BURST, replicas=6)
    for _ in range(10):
        assert story.read((0, 0), fleet(6), settled=False).limit is Limit.UNSETTLED


def test_no_scale_in_while_statistics_are_missing() -> None:
    """Ready tasks are counted without them, so more workers may come; what is in work unreported is not."""
    story = Story(BURST, replicas=6)
    for _ in range(5):
        decision = story.read((0, 0), fleet(6), counted=False)
        assert (decision.replicas, decision.limit) == (6, Limit.UNCOUNTED) or decision.limit is Limit.UNCONFIRMED
    assert story.read((500, 0), fleet(6), counted=False).replicas == 12
    assert story.settle((0, 0), fleet(12)).replicas == 0


def test_up_goes_on_during_a_rollout() -> None:
    assert Story(BURST, replicas=1).read((60, 0), fleet(1), rollout=True).replicas == 12


def test_workers_stay_while_tasks_are_ready() -> None:
    story = Story(BURST, replicas=12)
    for _ in range(10):
        decision = story.read((1, 3), fleet(9, 3))
        assert (decision.replicas, decision.limit) == (12, Limit.READY_TASKS)


def test_a_lowered_maximum_takes_workers_though_tasks_are_ready() -> None:
    story = Story(Scaling(max_replicas=4), replicas=10)
    decision = story.read((100, 8), fleet(2, 8))
    assert (decision.replicas, decision.limit) == (4, Limit.MAX_REPLICAS)
    assert len(decision.victims) == 6
    assert {"idle-0", "idle-1"} < set(decision.victims), "idle ones first"


def test_under_a_lowered_maximum_those_go_first_that_cost_least() -> None:
    in_order = (
        Worker("pending", Phase.PENDING),
        Worker("failing", Phase.FAILING),
        Worker("starting", Phase.STARTING),
        replace(ready("idle, younger"), age=5.0),
        ready("idle, older", idle_for=2.0),
        ready("idle for a moment", idle_for=IDLE_FOR / 2),
        replace(ready("unheard, younger", busy=None), age=5.0),
        ready("unheard, older", busy=None),
        replace(ready("busy, younger", busy=True), age=5.0),
        ready("busy, older", busy=True),
    )
    pods = tuple(replace(pod, age=pod.age or 9.0) for pod in in_order)
    for kept in range(len(pods)):
        decision = Story(Scaling(max_replicas=kept), replicas=len(pods)).read((100, 3), pods[::-1])
        assert decision.victims == tuple(pod.name for pod in pods[: len(pods) - kept])


def test_replicas_without_a_pod_need_no_victims() -> None:
    forced = Story(Scaling(max_replicas=3), replicas=6).read((100, 4), fleet(0, 4))
    assert (forced.replicas, len(forced.victims)) == (3, 1)
    story = Story(Scaling(max_replicas=12, min_replicas=2), replicas=6)
    decisions = [story.read((0, 0), fleet(3)) for _ in range(math.ceil(SILENT_QUIET) + 1)]
    assert (decisions[-1].replicas, len(decisions[-1].victims)) == (2, 1)


def test_suspend_takes_all_workers_and_keeps_the_tasks_waiting() -> None:
    story = Story(replace(BURST, suspended=True, min_replicas=2), replicas=5)
    decision = story.read((100, 5), fleet(0, 5), rollout=True, settled=False)
    assert (decision.replicas, decision.limit) == (0, Limit.SUSPENDED)
    assert story.read((100, 0)).replicas == 0


def test_what_stabilization_keeps_is_not_put_down_to_another_limit() -> None:
    """Neither to the minimum, which is lower, nor, under a maximum that was lowered as well, to steady arrivals."""
    story = Story(Scaling(max_replicas=12, min_replicas=1, stabilization=60.0), replicas=8)
    for _ in range(2):  # the first one remembers the eight that were there
        story.read((25, 0), fleet(0, 8), after=61)
    decision = story.settle((0, 0), fleet(8))
    assert (decision.replicas, decision.limit) == (5, Limit.STABILIZATION)
    story.spec = replace(story.spec, max_replicas=3)
    decision = story.read((0, 0), fleet(5))
    assert (decision.replicas, decision.limit) == (3, Limit.STABILIZATION)


def test_the_minimum_is_kept_and_named() -> None:
    decision = Story(Scaling(max_replicas=5, min_replicas=2)).read((0, 0))
    assert (decision.replicas, decision.limit) == (2, Limit.MIN_REPLICAS)


@pytest.mark.parametrize(("failing", "working", "replicas"), [(1, 0, 1), (2, 2, 4), (1, 2, 12)])
def test_failing_pods_hold_up_more_of_the_same(failing: int, working: int, replicas: int) -> None:
    """One bad pod among good ones is the node's fault; as many bad as good ones are the image's."""
    pods = (
        *(Worker(f"bad-{number}", Phase.FAILING) for number in range(failing)),
        *(ready(f"good-{number}", busy=True) for number in range(working)),
    )
    assert Story(BURST, replicas=failing + working).read((60, working), pods).replicas == replicas


def test_pods_pending_for_minutes_hold_up_more() -> None:
    story = Story(BURST, replicas=2)
    assert story.read((60, 0), (Worker("young", Phase.PENDING, age=299.0), ready("up"))).replicas == 12
    story.replicas = 2
    decision = story.read((60, 0), (Worker("old", Phase.PENDING, age=301.0), ready("up")))
    assert (decision.replicas, decision.limit) == (2, Limit.PENDING)


@pytest.mark.parametrize("phase", [Phase.READY, Phase.STARTING])
def test_pods_that_have_found_room_hold_up_nobody_however_old(phase: Phase) -> None:
    assert Story(BURST, replicas=1).read((60, 0), (Worker("old", phase, age=1e6),)).replicas == 12


def test_what_holds_back_is_told_before_the_bound_that_would_come_next() -> None:
    bad = tuple(Worker(f"bad-{number}", Phase.FAILING) for number in range(2))
    assert Story(BURST, replicas=2).read((600, 0), bad).limit is Limit.FAILING
    assert Story(PACED).read((600, 0)).limit is Limit.MAX_STEP


def test_a_step_waits_for_the_one_before() -> None:
    story = Story(Scaling(max_replicas=100, backlog_per_worker=1, max_step=10))
    assert story.read((100, 0)).replicas == 10
    starting = tuple(Worker(f"w{number}", Phase.PENDING) for number in range(10))
    decision = story.read((100, 0), starting)
    assert (decision.replicas, decision.limit) == (10, Limit.MAX_STEP)
    assert story.read((100, 0), fleet(0, 10)).replicas == 20


PACED = replace(BURST, max_step=None)


def starting(count: int, *, age: float = 0.0, first: int = 0) -> tuple[Worker, ...]:
    """So many that have been made and have not reported."""
    return tuple(Worker(f"new-{number}", Phase.PENDING, age=age) for number in range(first, first + count))


def test_the_next_ones_start_as_those_before_come_up() -> None:
    story = Story(PACED)
    first = story.read((60, 0))
    assert (first.asked, first.replicas, first.limit) == (12, 3, Limit.MAX_STEP)
    assert story.read((60, 0), starting(3)).replicas == 3
    assert story.read((59, 1), (*starting(2), *fleet(0, 1))).replicas == 4, "one is up: one more"
    assert story.read((57, 3), fleet(0, 3)).replicas == 6
    assert story.read((54, 6), fleet(0, 6)).replicas == 9
    last = story.read((51, 9), fleet(0, 9))
    assert (last.replicas, last.limit) == (12, Limit.NONE)


def test_more_start_at_once_where_more_are_up() -> None:
    """From 3 to 100 in seven steps: as many nodes as a hundred pods need start more than three at a time."""
    story = Story(replace(PACED, max_replicas=100), replicas=3)
    steps = [story.read((500, 0), fleet(0, story.replicas)).replicas for _ in range(10)]
    assert steps == [6, 9, 13, 19, 28, 42, 63, 94, 100, 100]


def test_more_start_at_once_where_they_are_spread_over_nodes() -> None:
    story = Story(replace(PACED, max_replicas=100), replicas=3)
    spread = tuple(replace(worker, node=f"node-{number}") for number, worker in enumerate(starting(3)))
    assert story.read((500, 0), spread).replicas == 9
    alone = tuple(replace(worker, node="node-1") for worker in starting(3))
    assert Story(PACED, replicas=3).read((60, 0), alone).replicas == 3
    unplaced = starting(3)
    assert Story(PACED, replicas=3).read((60, 0), unplaced).replicas == 3
    assert Story(PACED, replicas=3).read((60, 0), (alone[0], *unplaced[1:])).replicas == 3, "nowhere is no node"


def test_a_worker_that_reports_is_up_before_its_probe_says_so() -> None:
    story = Story(PACED, replicas=3)
    told = tuple(replace(worker, busy=True) for worker in starting(3))
    assert story.read((57, 3), told).replicas == 6


def test_the_broker_knows_its_consumers_before_they_report() -> None:
    story = Story(PACED, replicas=3)
    assert story.read((57, 3), starting(3), consumers=2).replicas == 5
    assert story.read((57, 3), starting(5), consumers=4, ending=2).replicas == 5, "two of them are about to go"
    assert story.read((57, 3), starting(5), consumers=90).replicas == 8, "others consume as well"


def test_one_that_waits_for_an_image_holds_back_no_other() -> None:
    story = Story(PACED, replicas=3)
    assert story.read((60, 0), starting(3, age=STARTING_FOR)).replicas == 3
    assert story.read((60, 0), starting(3, age=STARTING_FOR + 0.1)).replicas == 6
    assert story.read((60, 0), (*starting(3, age=9.0), *starting(3, first=3))).replicas == 6
    assert story.read((59, 1), (*starting(3, age=9.0), *starting(2, first=3), *fleet(0, 1))).replicas == 7


def test_more_than_may_start_at_once_are_not_taken_back() -> None:
    for spec in (PACED, replace(PACED, max_step=2)):
        decision = Story(spec, replicas=8).read((60, 0), starting(8))
        assert (decision.replicas, decision.limit) == (8, Limit.MAX_STEP)


def test_a_pod_that_cannot_start_is_not_up() -> None:
    """Its last report may be from before it failed."""
    bad = Worker("bad", Phase.FAILING, busy=False)
    assert Story(PACED, replicas=3).read((60, 0), (bad, *fleet(0, 2))).replicas == 5


def test_stabilization_keeps_what_was_wanted_within_the_window() -> None:
    story = Story(replace(BURST, stabilization=30))
    story.read((60, 0))
    began = story.now
    workers = fleet(12)
    decision = story.read((0, 0), workers)
    while story.replicas == 12:
        decision = story.read((0, 0), workers)
        assert story.now - began < 60
    assert story.now - began > 30
    assert decision.replicas == 0


def test_what_was_wanted_during_a_pause_counts_for_the_stabilization_after_it() -> None:
    spec = replace(BURST, stabilization=60.0)
    story = Story(spec, replicas=4)
    story.read((20, 0), fleet(0, 4))
    story.spec = replace(spec, paused=True)
    for _ in range(70):
        assert story.read((20, 0), fleet(0, 4)).limit is Limit.PAUSED
    story.spec = spec
    held = story.settle((0, 0), fleet(4))
    assert (held.replicas, held.limit) == (4, Limit.STABILIZATION)
    assert story.read((0, 0), fleet(4), after=61.0).replicas == 0


def test_a_pause_that_began_before_the_operator_holds_no_longer_than_the_window() -> None:
    """Nothing was wanted while it was paused: once it is not, the workers go, as they would have gone before."""
    spec = replace(BURST, stabilization=60.0)
    story = Story(replace(spec, paused=True), replicas=4)
    for _ in range(70):
        assert story.read((0, 0), fleet(4)).replicas == 4
    story.spec = spec
    assert story.read((0, 0), fleet(4)).replicas == 0


def test_a_slow_ramp_is_followed_step_by_step() -> None:
    story = Story(Scaling(max_replicas=50, backlog_per_worker=5))
    levels = [story.read((level, 0), fleet(0, story.replicas)).replicas for level in range(1, 101)]
    assert levels == [-(-level // 5) for level in range(1, 101)]


def test_somebody_else_s_replicas_are_taken_as_they_are() -> None:
    story = Story(BURST, replicas=3)
    story.read((15, 0), fleet(0, 3))
    story.replicas = 1
    assert story.read((15, 0), fleet(0, 1)).replicas == 3, "lowered by hand: up again"
    story.replicas = 9
    assert story.settle((0, 2), fleet(7, 2)).replicas == 2, "raised by hand: the idle ones go"


WAIT = Scaling(max_replicas=50, backlog_per_worker=None, max_wait=30.0, max_step=50)


def test_the_longest_wait_asks_by_little_s_law() -> None:
    """4 a second of 2 s each keep 8 busy; 60 that wait are 120 s of work, which 4 more do within 30 s."""
    decision = Story(WAIT).read((60, 0), service=2.0, rate=4.0)
    assert (decision.replicas, decision.rule, decision.limit) == (12, Rule.MAX_WAIT, Limit.NONE)


def test_several_tasks_at_once_in_a_worker_need_fewer_of_them() -> None:
    assert Story(replace(WAIT, concurrency=5)).read((60, 0), service=2.0, rate=4.0).replicas == 3


def test_never_more_workers_than_tasks() -> None:
    """Tasks of ten minutes and a wait of 30 s: each waiting task would justify twenty workers."""
    assert Story(WAIT).read((2, 1), service=600.0, rate=0.0).replicas == 3
    assert Story(WAIT).read((0, 4), service=3.0, rate=10.0).asked == 4, "thirty will be at work at once, but are not"


def test_a_burst_from_zero_with_nothing_known() -> None:
    """Until five tasks have ended nobody knows how long they take: the usual backlog per worker rules, and says so."""
    story = Story(WAIT)
    first = story.read((60, 0))
    assert (first.replicas, first.rule) == (12, Rule.LEARNING)
    known = story.read((40, 12), fleet(0, 12), service=30.0, rate=0.0)
    assert (known.replicas, known.rule) == (50, Rule.MAX_WAIT), "they turn out to be long: more come"


def test_long_tasks_bring_workers_before_the_first_one_ends() -> None:
    """Ten tasks of two hours: once some have run for the longest wait, each of those that wait gets a worker."""
    story = Story(WAIT)
    assert story.read((10, 0)).replicas == 2
    for so_far, replicas, rule in ((1.0, 2, Rule.LEARNING), (5.0, 2, Rule.LEARNING), (15.0, 5, Rule.MAX_WAIT)):
        decision = story.read((8, 2), fleet(0, 2), so_far=so_far)
        assert (decision.replicas, decision.rule) == (replicas, rule)
    last = story.read((6, 4), fleet(0, 4), so_far=30.5)
    assert (last.replicas, last.rule) == (10, Rule.MAX_WAIT)


def test_who_is_at_work_for_longer_than_the_wait_is_no_help() -> None:
    """Twelve tasks of a minute that began at once, and one that comes after them and is to wait for half of that."""
    decision = Story(WAIT, replicas=12).read((1, 12), fleet(0, 12), service=60.0, rate=0.0)
    assert (decision.replicas, decision.rule) == (13, Rule.MAX_WAIT)
    assert Story(WAIT, replicas=12).read((1, 12), fleet(0, 12), service=27.0, rate=0.0).replicas == 12


def test_a_burst_is_worth_as_many_workers_once_some_have_taken_a_task() -> None:
    """Sixty tasks of 10 s, none of which is to wait for more than 30: twenty workers begin the last ones after 20 s."""
    story = Story(WAIT)
    assert story.read((60, 0), service=10.0, rate=0.0).replicas == 20
    for up in (5, 10, 15, 20):
        decision = story.read((60 - up, up), fleet(0, up), service=10.0, rate=0.0)
        assert (decision.asked, decision.rule) == (20, Rule.MAX_WAIT)


def test_steady_traffic_has_no_more_workers_for_the_tasks_in_work() -> None:
    """Five tasks a second of 3 s: fifteen are at work at any time, and none waits."""
    decision = Story(WAIT, replicas=15).read((0, 15), fleet(0, 15), service=3.0, rate=5.0)
    assert decision.asked == 15
    decision = Story(WAIT, replicas=15).read((6, 15), fleet(0, 15), service=3.0, rate=5.0)
    assert decision.asked == 16, "six that wait are 18 s of work, which less than one more does within 30 s"


def test_of_two_rules_the_larger_answer_counts() -> None:
    both = replace(WAIT, backlog_per_worker=5)
    assert Story(both).read((60, 0), service=0.1, rate=0.0).rule is Rule.BACKLOG_PER_WORKER
    decision = Story(both).read((60, 0), service=20.0, rate=0.0)
    assert (decision.replicas, decision.rule) == (40, Rule.MAX_WAIT)


def test_tasks_that_have_become_longer_count_long_before_the_mean_tells() -> None:
    """Thousands of short tasks, then thirty long ones: by the mean a single worker would be enough."""
    story = Story(replace(WAIT, max_replicas=40))
    assert story.read((30, 0), service=0.1, rate=0.0).asked == 1
    assert story.read((29, 1), fleet(0, 1), service=0.1, so_far=10.0, rate=0.0).asked == 10
    assert story.read((20, 10), fleet(0, 10), service=0.2, so_far=31.0, rate=0.0).asked == 30, "longer than maxWait"


def test_tasks_that_take_longer_by_chance_bring_no_workers_while_none_waits() -> None:
    """Ten tasks a second of half a second each, and four of the six that run are long ones."""
    decision = Story(WAIT).read((0, 6), service=0.5, so_far=2.0, rate=10.0)
    assert decision.asked == 5


def test_long_tasks_still_running_while_short_ones_finish() -> None:
    """The mean grows with the long ones that still run; their workers stay, and the idle ones go."""
    story = Story(WAIT)
    decision = story.read((12, 0))
    story.replicas = 12
    for age in range(1, 8):
        decision = story.read((0, 6), fleet(story.replicas - 6, 6), service=(6 * 4 + 6 * age) / 6, rate=0.0)
    assert decision.replicas == 6
    assert decision.limit is Limit.BUSY
    for _ in range(60):
        assert story.read((0, 6), fleet(0, 6), service=14.0, rate=0.0).replicas == 6
    assert story.settle((0, 0), fleet(6)).replicas == 0


def test_workers_that_steady_traffic_needs_stay_though_idle_now() -> None:
    story = Story(BURST, replicas=12)
    decision = story.read((0, 5), fleet(7, 5), service=2.0, rate=2.5)
    for _ in range(20):
        decision = story.read((0, 2), fleet(10, 2), service=2.0, rate=2.5)
    assert (decision.replicas, decision.limit) == (6, Limit.FLOOR)
    for step in range(60):
        busy = 1 + step % 5
        assert story.read((0, busy), fleet(6 - busy, busy), service=2.0, rate=2.5).replicas == 6


def test_workers_go_within_half_a_minute_once_tasks_have_become_so_short_that_few_are_there_at_once() -> None:
    """The mean service time still tells of the longer ones: by it, steady traffic would need 40 workers."""
    story = Story(BURST, replicas=12)
    story.read((0, 12), fleet(0, 12), service=20.0, rate=2.0)
    shorter = story.now
    while story.replicas == 12:
        story.read((0, 2), fleet(10, 2), service=20.0, rate=2.0)
        assert story.now - shorter < FLOOR_SPAN + 5
    assert story.replicas == 3


def test_the_only_worker_of_steady_traffic_stays_though_its_tasks_are_over_before_they_are_told_of() -> None:
    story = Story(BURST, replicas=1)
    for _ in range(60):
        assert story.read((0, 0), fleet(1), service=0.02, rate=5.0).replicas == 1


def test_the_floor_counts_how_many_tasks_a_worker_has_at_once() -> None:
    story = Story(replace(BURST, concurrency=5), replicas=8)
    story.read((0, 12), fleet(0, 8), service=1.0, rate=10.0)
    decisions = [story.read((0, 0), fleet(8), service=1.0, rate=10.0) for _ in range(ZERO_READINGS)]
    assert (story.replicas, decisions[-1].limit) == (3, Limit.FLOOR), "11 at once, five in each"


def test_the_floor_is_no_worker_more_for_a_rounding_error() -> None:
    """Fifty at work and a tenth more: in floating point 1.1 × 50 is a little over 55."""
    story = Story(replace(BURST, max_replicas=60), replicas=60)
    story.read((0, 50), fleet(10, 50), service=1.0, rate=50.0)
    decisions = [story.read((0, 0), fleet(60), service=1.0, rate=50.0) for _ in range(ZERO_READINGS)]
    assert (story.replicas, decisions[-1].limit) == (55, Limit.FLOOR)


def test_what_is_remembered_does_not_grow_while_nothing_changes() -> None:
    story = Story(replace(BURST, stabilization=3600.0), replicas=4)
    for _ in range(100):
        story.read((20, 0), fleet(0, 4), service=2.0, rate=2.0)
    assert len(story.memory.wanted) == len(story.memory.floors) == 1
    story.read((10, 0), fleet(0, 4), service=2.0, rate=1.0)
    for _ in range(100):
        story.read((15, 0), fleet(0, 4), service=2.0, rate=1.0)
    assert [answer for _, answer in story.memory.wanted] == [4, 3]


def test_a_floor_holds_for_a_while_after_the_rate_was_read_lower_and_goes_with_the_traffic() -> None:
    story = Story(BURST, replicas=5)
    story.read((0, 5), fleet(0, 5), service=2.0, rate=2.2)
    lowered = story.now
    while story.replicas == 5:
        story.read((0, 2), fleet(3, 2), service=2.0, rate=1.2)
        assert story.now - lowered < 2 * FLOOR_SPAN
    assert story.now - lowered > FLOOR_SPAN
    assert story.replicas == 3
    story.read((0, 0), fleet(3), service=2.0, rate=1.2)
    assert story.replicas == 3
    story.read((0, 0), fleet(3), service=2.0, rate=0.0)
    assert story.replicas == 0, "nothing comes in any more: gone at once"


def test_a_rate_that_is_unknown_for_a_moment_takes_no_floor_away() -> None:
    story = Story(BURST, replicas=5)
    story.read((0, 5), fleet(0, 5), service=2.0, rate=2.5)
    for _ in range(10):
        assert story.read((0, 3), fleet(2, 3), service=2.0, rate=None).replicas == 5


def test_a_noisy_plateau_is_kept_without_flapping() -> None:
    """8 tasks a second of a second each, measured between 7 and 9, with now and then a task waiting."""
    story = Story(WAIT, replicas=10)
    levels = []
    for step in range(240):
        waiting = 1 if step % 7 == 0 else 0
        busy = 7 + step % 3
        workers = fleet(max(0, story.replicas - busy), min(busy, story.replicas))
        levels.append(story.read((waiting, busy), workers, after=0.5, service=1.0, rate=7 + step % 5 / 2).replicas)
    changes = sum(before != after for before, after in itertools.pairwise(levels))
    assert changes <= 2
    assert len(set(levels[30:])) == 1, "none once a quarter of a minute has told how many tasks there are at once"
    assert min(levels) >= 9


def test_what_the_workers_that_are_up_begin_within_a_second_brings_no_more_of_them() -> None:
    story = Story(replace(BURST, backlog_per_worker=1), replicas=2)
    decision = story.read((18, 2), fleet(0, 2), service=0.1)
    assert (decision.replicas, decision.limit) == (2, Limit.SOON_BEGUN)
    assert story.read((20, 2), fleet(0, 2), service=0.1).replicas == 12, "that takes a second"


@pytest.mark.parametrize(
    ("service", "so_far", "workers"), [(2.0, None, 2), (None, 2.0, 2), (0.1, 2.0, 2), (0.1, None, 0)]
)
def test_what_takes_longer_than_a_pod_to_begin_brings_workers(
    service: float | None, so_far: float | None, workers: int
) -> None:
    """Also where it is not known how long that is, and where nobody is up."""
    story = Story(BURST, replicas=2)
    starting = tuple(Worker(f"starting-{number}", Phase.STARTING) for number in range(2 - workers))
    decision = story.read((18, workers), (*fleet(0, workers), *starting), service=service, so_far=so_far)
    assert decision.replicas == 4


def test_a_wait_of_less_than_a_second_is_kept() -> None:
    spec = Scaling(max_replicas=12, backlog_per_worker=None, max_wait=0.2, max_step=12)
    assert Story(spec, replicas=2).read((18, 2), fleet(0, 2), service=0.1, rate=0.0).replicas == 10


def test_what_was_to_begin_soon_and_still_waits_brings_workers() -> None:
    """The workers hang, say, or what they have in work is longer than anything before."""
    story = Story(replace(BURST, backlog_per_worker=1), replicas=2)
    for _ in range(4):
        assert story.read((3, 2), fleet(0, 2), service=0.1).replicas == 2
    assert story.read((3, 2), fleet(0, 2), service=0.1).replicas == 5


def test_a_minimum_is_reached_though_all_begins_soon() -> None:
    story = Story(Scaling(max_replicas=12, min_replicas=4, backlog_per_worker=1, max_step=12), replicas=2)
    assert story.read((9, 2), fleet(0, 2), service=0.1).replicas == 4


def test_a_budget_that_shrinks_takes_workers_though_tasks_are_ready() -> None:
    """Idle ones first; busy ones finish what they have."""
    story = Story(replace(BURST, budget=4), replicas=10)
    decision = story.read((100, 8), fleet(2, 8))
    assert (decision.replicas, decision.limit, len(decision.victims)) == (4, Limit.BUDGET, 6)
    assert {"idle-0", "idle-1"} < set(decision.victims)


def test_a_budget_of_nothing_holds_a_queue_at_zero_and_says_so() -> None:
    decision = Story(replace(BURST, budget=0)).read((10, 0))
    assert (decision.replicas, decision.limit) == (0, Limit.BUDGET)


def test_a_minimum_that_is_lowered_is_no_steady_traffic() -> None:
    story = Story(Scaling(max_replicas=5, min_replicas=1), replicas=1)
    for _ in range(ZERO_READINGS):
        assert story.read((0, 0), fleet(1)).limit is Limit.MIN_REPLICAS
    story.spec = replace(story.spec, min_replicas=0)
    assert story.read((0, 0), fleet(1)).replicas == 0


def test_a_budget_below_min_replicas_is_what_limits() -> None:
    spec = Scaling(max_replicas=10, min_replicas=5, budget=3)
    decision = Story(spec, replicas=3).settle((0, 0), fleet(3))
    assert (decision.replicas, decision.limit) == (3, Limit.BUDGET)


def test_what_a_queue_demands_of_its_budget_has_nothing_to_do_with_what_it_was_given() -> None:
    spec = replace(BURST, budget=2, fallback=FallbackRule(after_failures=1, replicas=4))
    assert wanted(spec, Observation(Backlog(60, 0), 0), Memory()) == 12
    assert wanted(spec, Observation(None, 0), Memory()) == 4, "this is the failure that the fallback waits for"
    assert wanted(replace(spec, paused=True), Observation(Backlog(60, 0), 3), Memory()) == 3
