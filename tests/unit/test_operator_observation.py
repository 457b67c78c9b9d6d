"""One observation from the broker's counts, the workers' reports and Kubernetes."""

from dataclasses import replace
from typing import Any

import pytest
from reporting import WALL, state

from warren_operator.observation import (
    Counts,
    Inputs,
    Statistics,
    View,
    bare_since,
    observe,
)
from warren_operator.policy import Decision, Limit, Memory, Phase, Scaling, decide
from warren_operator.worker_reports import Report
from warren_operator.workloads import Deployment, Pod, TargetState

NOW = 1000.0
EMPTY = Counts(ready=0, consumers=0, at=NOW)


def report(worker: str, running: int = 0, *, received: float = NOW - 5, **changes: Any) -> Report:
    """The same as it is kept."""
    return Report(state(worker, running, **changes), received, None if running else received)


def pod(name: str, **changes: Any) -> Pod:
    """A pod that has been ready for 50 s."""
    return replace(Pod(name, "rs", WALL - 60, True, True, WALL - 50, False, False, "", None), **changes)


def see(
    counts: Counts | None = EMPTY,
    pods: tuple[Pod, ...] = (),
    reports: tuple[Report, ...] = (),
    **changes: Any,
) -> View:
    """One observation."""
    base = Inputs(
        counts=counts,
        unknown="",
        statistics=None,
        reports={item.state.worker: item for item in reports},
        active_at=float("-inf"),
        service_time=None,
        arrival_rate=None,
        concurrency=1,
        target=target(len(pods), *pods),
        now=NOW,
        wall=WALL,
        listening_since=NOW - 100,
    )
    return observe(replace(base, **changes))


def unacked(view: View) -> int | None:
    """Tasks in work; None where the backlog is unknown."""
    return None if view.seen.backlog is None else view.seen.backlog.unacked


def stats(
    *, unacked: int = 0, at: float = NOW - 1, ready: int = 0, total: int = 0, available: bool = True
) -> Statistics:
    """Statistics of the management API."""
    return Statistics(ready, unacked, total, available, 0, at)


def test_reports_say_what_is_in_work() -> None:
    view = see(Counts(0, 2, NOW), (pod("a"), pod("b")), (report("a", 1), report("b")), active_at=NOW - 1)
    assert unacked(view) == 1
    assert (view.busy, view.idle) == (1, 1)


def test_tasks_of_workers_that_are_ending_count() -> None:
    view = see(Counts(0, 0, NOW), (), (report("leaving", 1, draining=True),))
    assert unacked(view) == 1


def test_with_tasks_waiting_every_consumer_is_busy() -> None:
    assert unacked(see(Counts(5, 3, NOW))) == 3
    assert unacked(see(Counts(5, 3, NOW), concurrency=4)) == 12


def test_a_worker_has_as_many_tasks_as_it_says_whatever_the_work_queue_does() -> None:
    """Its concurrency has been raised, and the rollout has made one of three workers anew."""
    old = (report("a", 1), report("b", 1))
    assert unacked(see(Counts(5, 3, NOW), reports=old, concurrency=4)) == 6
    assert unacked(see(Counts(5, 1, NOW), reports=old, concurrency=4)) == 2, "at least what they report"
    assert unacked(see(Counts(5, 1, NOW), reports=(report("a", 1, draining=True),), concurrency=4)) == 4


def test_statistics_count_where_a_consumer_does_not_report() -> None:
    """A consumer that forgets to acknowledge is seen by statistics alone."""
    view = see(Counts(0, 2, NOW), (pod("a"),), (report("a"),), statistics=stats(unacked=1), active_at=NOW - 1)
    assert unacked(view) == 1


def test_a_worker_that_is_ending_is_no_stranger() -> None:
    """It says so before the broker takes its consumer off the list: what statistics remember is long done."""
    ended = tuple(report(name, draining=True) for name in "abcd")
    pods = tuple(pod(name, ending=True) for name in "abcd")
    ending = TargetState(Deployment("d", 0, True), (), pods, False, True)
    view = see(Counts(0, 2, NOW), (), ended, statistics=stats(unacked=8), active_at=NOW - 1, target=ending)
    assert unacked(view) == 0


def test_a_worker_that_has_just_started_is_no_stranger() -> None:
    """It consumes a moment before it reports: statistics still tell of the burst before."""
    new = pod("new", ready=False, ready_since=None, created=WALL - 2)
    view = see(Counts(1, 1, NOW), (new,), statistics=stats(unacked=12), active_at=NOW - 3)
    assert unacked(view) == 1
    old = see(Counts(1, 1, NOW), (pod("old"),), statistics=stats(unacked=12), active_at=NOW - 3)
    assert unacked(old) == 12, "one that never reports is known from statistics alone"


def test_statistics_from_before_the_operator_listened_do_not_count_as_settled() -> None:
    """Right after a restart nobody knows when the tasks last moved."""
    assert unacked(see(EMPTY, statistics=stats(unacked=8), listening_since=NOW - 2)) == 0
    assert unacked(see(EMPTY, statistics=stats(unacked=8), listening_since=NOW - 20)) == 8
    assert unacked(see(EMPTY, statistics=stats(unacked=8), listening_since=None)) == 8


def test_statistics_that_lag_behind_the_reports_do_not_count() -> None:
    view = see(Counts(0, 1, NOW), (pod("a"),), (report("a"),), statistics=stats(unacked=9), active_at=NOW - 3)
    assert unacked(view) == 0


def test_statistics_count_again_once_nothing_has_moved_for_long() -> None:
    view = see(Counts(0, 1, NOW), (pod("a"),), (report("a"),), statistics=stats(unacked=9), active_at=NOW - 20)
    assert unacked(view) == 9


def test_old_statistics_count_for_nothing() -> None:
    view = see(Counts(0, 5, NOW), statistics=stats(unacked=9, at=NOW - 60))
    assert unacked(view) == 0
    assert view.dead is None


@pytest.mark.parametrize(
    ("counts", "statistics", "known"),
    [
        (Counts(0, 0, NOW, took=0.25), None, False),
        (Counts(4, 0, NOW, took=0.25), None, True),
        (Counts(0, 0, NOW), stats(available=False), False),
        (Counts(4, 0, NOW), stats(available=False), True),
        (Counts(0, 0, NOW), stats(), True),
    ],
)
def test_a_zero_without_a_leader_is_no_reading(counts: Counts, statistics: Statistics | None, known: bool) -> None:
    view = see(counts, statistics=statistics)
    assert (view.seen.backlog is not None) is known
    assert bool(view.unknown) is not known


@pytest.mark.parametrize(
    ("statistics", "known"),
    [
        (None, False),
        (stats(at=NOW - 3), False),  # listed before: the queue may have lost its leader since
        (stats(at=NOW - 1), True),
        (stats(at=NOW - 1, available=False), False),
    ],
)
def test_a_zero_without_consumers_is_believed_once_statistics_say_so(
    statistics: Statistics | None, known: bool
) -> None:
    """Workers that are ready consume; a queue that lost its leader reads as empty and without consumers at once."""
    view = see(Counts(0, 0, NOW), (pod("a"),), (report("a"),), statistics=statistics, bare_since=NOW - 2)
    assert (view.seen.backlog is not None) is known
    assert bool(view.unknown) is not known


def target(replicas: int, *pods: Pod) -> TargetState:
    """A Deployment with so many replicas, of which these pods are there."""
    return TargetState(Deployment("d", replicas, True), pods, (), False, True)


@pytest.mark.parametrize(
    ("before", "counts", "workers", "waiting", "since"),
    [
        (None, Counts(0, 0, NOW), target(1, pod("a")), False, NOW),  # it is ready, and so it consumes
        (NOW - 2, Counts(0, 0, NOW), target(1, pod("a")), False, NOW - 2),
        (NOW - 2, Counts(0, 1, NOW), target(1, pod("a")), False, None),
        (NOW - 2, Counts(3, 0, NOW), target(1, pod("a")), False, None),
        (None, Counts(0, 0, NOW), target(3), False, None),
        (None, Counts(0, 0, NOW), target(3), True, NOW),  # tasks waited for workers that are about to start
        (NOW - 2, Counts(0, 0, NOW), target(3), False, NOW - 2),
        (None, Counts(0, 1, NOW), target(3), True, None),  # one of them has taken the last one
        (NOW - 2, Counts(0, 0, NOW), target(0), False, None),  # nobody is there that could be taken away
    ],
)
def test_what_vanishes_and_cannot_have_been_taken(
    before: float | None, counts: Counts, workers: TargetState, waiting: bool, since: float | None
) -> None:
    assert bare_since(before, counts, workers, waiting=waiting) == since


def test_without_statistics_nobody_knows_what_silent_workers_do() -> None:
    assert see(Counts(0, 1, NOW), (pod("a"),), statistics=stats()).seen.counted
    assert not see(Counts(0, 1, NOW), (pod("a"),)).seen.counted
    assert not see(Counts(0, 1, NOW), (pod("a"),), statistics=stats(at=NOW - 60)).seen.counted


def test_a_pending_pod_may_be_at_work_while_there_is_a_consumer_that_nobody_has_heard_of() -> None:
    """Its container has started and taken a task; Kubernetes and the worker itself tell so a moment later."""
    new = pod("new", running=False, ready=False, ready_since=None, created=WALL - 2)
    old = replace(new, name="old", created=WALL - 60)
    phases = {worker.name: worker.phase for worker in see(Counts(0, 1, NOW), (new, old)).seen.workers}
    assert phases == {"new": Phase.STARTING, "old": Phase.PENDING}
    heard = see(Counts(0, 1, NOW), (new, pod("up")), (report("up"),))
    assert heard.seen.workers[0].phase is Phase.PENDING
    ending = see(Counts(0, 1, NOW), (new, pod("up")), (report("up", draining=True),))
    assert ending.seen.workers[0].phase is Phase.STARTING


def test_phases_of_pods() -> None:
    view = see(
        pods=(
            pod("up"),
            pod("starting", ready=False, ready_since=None),
            pod("pending", running=False, ready=False, ready_since=None),
            pod("crashing", ready=False, ready_since=None, failing="CrashLoopBackOff"),
            pod("unproven", failing="CrashLoopBackOff", proven_at=WALL + 0.1),
            pod("proven", failing="CrashLoopBackOff", proven_at=WALL),
        )
    )
    phases = {worker.name: worker.phase for worker in view.seen.workers}
    assert phases == {
        "up": Phase.READY,
        "starting": Phase.STARTING,
        "pending": Phase.PENDING,
        "crashing": Phase.FAILING,
        "unproven": Phase.FAILING,
        "proven": Phase.READY,
    }
    assert view.failing == "CrashLoopBackOff"


def test_what_keeps_workers_from_coming_up_is_seen() -> None:
    since = {"ready": False, "ready_since": None}
    pods = (pod("young", unready_since=WALL - 299, **since), pod("old", unready_since=WALL - 301, **since))
    assert see(pods=pods).unready == ("old",)
    refusing = TargetState(Deployment("d", 3, settled=True, refused="exceeded quota"), pods, (), False, True)
    assert see(target=refusing).refused == "exceeded quota"


def test_a_pod_without_reports_is_silent_after_a_while_of_listening() -> None:
    def silent(**changes: Any) -> bool:
        return see(pods=(pod("a"),), **changes).seen.workers[0].silent

    assert silent()
    assert not silent(listening_since=NOW - 3), "the operator has only just begun to listen"
    assert not silent(listening_since=None)
    assert not silent(reports=(report("a"),))
    assert not see(pods=(pod("a", ready_since=WALL - 3),)).seen.workers[0].silent


def test_a_worker_s_word_that_it_is_idle_counts_while_it_would_be_heard_if_it_were_not() -> None:
    """It may have taken a task while the operator's connection was lost, or its own was blocked."""

    def busy(*reports: Report, **changes: Any) -> bool | None:
        return see(Counts(0, 1, NOW), (pod("a"),), reports, **changes).seen.workers[0].busy

    assert busy(report("a")) is False
    assert busy(report("a"), listening_since=NOW - 3) is None, "said before the operator listened again"
    assert busy(report("a"), listening_since=None) is None
    assert busy(report("a", received=NOW - 16)) is None, "signs of life stay away"
    assert busy(report("a", 1), listening_since=NOW - 3) is True, "what was at work counts as at work"


def test_a_word_of_idleness_is_not_believed_where_newer_statistics_have_tasks_in_work_that_nobody_reports() -> None:
    """The broker blocks the workers' events in an alarm, and goes on giving them tasks: one of three took the last."""

    def busy(*reports: Report, **changes: Any) -> list[bool | None]:
        pods = tuple(pod(report.state.worker) for report in reports)
        view = see(Counts(0, len(pods), NOW), pods, reports, **changes)
        return [worker.busy for worker in view.seen.workers]

    old = tuple(report(name, received=NOW - 9) for name in "abc")
    assert busy(*old, statistics=stats(unacked=1)) == [None, None, None]
    assert busy(*old, statistics=stats(unacked=0)) == [False, False, False], "the next statistics deny it"
    assert busy(*old, statistics=stats(unacked=1, at=NOW - 4)) == [False, False, False], "they may be from before"
    fresh = report("c", received=NOW - 5)
    assert busy(*old[:2], fresh, statistics=stats(unacked=1)) == [None, None, False], "it was heard after all"
    known = report("c", 1, received=NOW - 9)
    assert busy(*old[:2], known, statistics=stats(unacked=1)) == [False, False, True], "that is the one that reports it"
    assert busy(*old[:2], known, statistics=stats(unacked=2)) == [None, None, True]


def test_the_last_task_in_an_alarm_keeps_all_that_may_have_it() -> None:
    """Until the next statistics tell that it is done."""
    reports = tuple(report(name, received=NOW - 9) for name in "abc")
    memory = Memory(zeros=3, zero_since=NOW - 5)

    def decided(statistics: Statistics) -> Decision:
        view = see(Counts(0, 3, NOW), tuple(map(pod, "abc")), reports, statistics=statistics, active_at=NOW - 9)
        return decide(Scaling(max_replicas=10), view.seen, memory, NOW)

    held = decided(stats(unacked=1))
    assert (held.replicas, held.victims, held.limit) == (3, (), Limit.BUSY)
    assert decided(stats(unacked=0)).replicas == 0


def test_a_task_that_has_just_ended_makes_no_idle_worker_doubtful() -> None:
    """Statistics still have it; the worker says so itself, and was heard at once."""
    ended = report("a", received=NOW - 0.3)
    view = see(Counts(0, 1, NOW), (pod("a"),), (ended,), statistics=stats(unacked=1), active_at=NOW - 0.3)
    assert view.seen.workers[0].busy is False
    assert unacked(view) == 0


def test_idle_workers_beside_a_consumer_that_keeps_a_task_go_as_each_gives_its_sign_of_life() -> None:
    """Somebody who reports nothing never acknowledges: each word of idleness counts again for some seconds."""
    told: set[str] = set()
    for second in range(10):
        ages = {name: (second + 4 * number) % 10 for number, name in enumerate("abc")}
        reports = tuple(report(name, received=NOW - age) for name, age in ages.items())
        counts = Counts(0, 4, NOW)
        view = see(counts, tuple(map(pod, "abc")), reports, statistics=stats(unacked=1), active_at=NOW - 60)
        told |= {worker.name for worker in view.seen.workers if worker.busy is False}
    assert told == set("abc")


def test_a_busy_report_that_the_broker_denies_is_not_believed() -> None:
    """The event that said idle got lost."""
    lost = report("a", 1, received=NOW - 20)
    view = see(Counts(0, 1, NOW), (pod("a"),), (lost,), statistics=stats(unacked=0), active_at=NOW - 20)
    assert view.seen.workers[0].busy is None


def test_waiting_time_is_estimated_from_service_time_and_workers() -> None:
    view = see(Counts(30, 3, NOW), tuple(pod(name, ready=name != "c") for name in "abc"), service_time=4.0)
    assert view.estimated_wait == 60.0
    assert see(Counts(30, 3, NOW), service_time=4.0).estimated_wait is None


# -- reports over time ---


@pytest.mark.parametrize(
    ("scheduled", "age", "phase"),
    [(False, 3, Phase.PENDING), (True, 3, Phase.STARTING), (True, 60, Phase.PENDING)],
)
def test_a_pod_that_has_just_got_its_node_is_starting(scheduled: bool, age: int, phase: Phase) -> None:
    """Taken away at this moment, the signal to end could meet a container that is not yet the worker."""
    young = pod(
        "young", running=False, ready=False, ready_since=None, created=WALL - age, node="one" if scheduled else ""
    )
    (worker,) = see(pods=(young,)).seen.workers
    assert worker.phase is phase


@pytest.mark.parametrize(("ago", "counted"), [(0.1, 0), (10.0, 12)])
def test_a_worker_that_is_just_leaving_is_no_stranger(ago: float, counted: int) -> None:
    """The broker still counts it as a consumer, and its statistics the task that it had: nobody is needed for that."""
    leaving = report("leaving", draining=True, received=NOW - ago)
    view = see(Counts(0, 1, NOW), (), (leaving,), statistics=stats(unacked=12, at=NOW - 1), active_at=NOW - ago)
    assert unacked(view) == counted


def test_a_worker_that_reports_for_another_queue_is_no_silent_one() -> None:
    (here,) = see(pods=(pod("a"),)).seen.workers
    (elsewhere,) = see(pods=(pod("a"),), elsewhere=frozenset({"a"})).seen.workers
    assert here.silent
    assert not elsewhere.silent
