"""What follows from what the workers report."""

from dataclasses import replace

import pytest
from reporting import WALL, state

from warren_contract.events import RunningTask, WorkerState
from warren_operator.worker_reports import QUEUE_AGE, REPORT_AGE, WorkerReports

NOW = 1000.0


def test_idle_since_is_kept_over_signs_of_life_and_renewed_by_work() -> None:
    reports = WorkerReports()
    reports.add(state("a"), 10)
    reports.add(state("a", at=WALL + 10), 20)
    assert reports.of("q")["a"].idle_since == 10
    reports.add(state("a", at=WALL + 20, finished=1, finished_seconds=0.1), 30)
    assert reports.of("q")["a"].idle_since == 30, "it has worked in between, too briefly to say so"
    reports.add(state("a", 1, at=WALL + 30), 40)
    assert reports.of("q")["a"].idle_since is None


def test_a_report_that_was_overtaken_is_dropped() -> None:
    reports = WorkerReports()
    reports.add(state("a", 1, at=WALL + 5), 10)
    reports.add(state("a", at=WALL), 11)
    assert reports.of("q")["a"].state.busy


def test_a_restarted_worker_is_believed_whatever_its_clock_says() -> None:
    reports = WorkerReports()
    reports.add(state("a", 1, at=WALL + 50), 10)
    reports.add(state("a", at=WALL, started_at=WALL), 11)
    assert not reports.of("q")["a"].state.busy


def test_activity_is_when_tasks_move() -> None:
    reports = WorkerReports()
    reports.add(state("a", 1), 10)
    reports.add(state("a", 1, at=WALL + 1), 20)
    assert reports.active_at("q") == 10
    reports.add(state("a", at=WALL + 2), 30)
    assert reports.active_at("q") == 30


def test_reports_of_pods_that_are_gone_go_too_and_old_ones() -> None:
    reports = WorkerReports()
    for name in ("gone", "there", "outside"):
        reports.add(state(name), 10)
    reports.add(state("there", at=WALL + 40), 50)
    reports.forget("q", ["gone"], 50)
    assert set(reports.of("q")) == {"there"}


def test_old_reports_go_where_nobody_looks() -> None:
    """A standby operator hears all workers and looks at none; each burst from zero brings new names."""
    reports = WorkerReports()
    for second in range(1000):
        reports.add(state(f"worker-{second}", at=WALL + second), second)
    assert len(reports.of("q")) <= 2 * REPORT_AGE + 1
    assert {f"worker-{second}" for second in range(1000 - int(REPORT_AGE), 1000)} <= set(reports.of("q"))


def test_old_reports_of_one_queue_go_with_the_reports_of_another() -> None:
    reports = WorkerReports()
    reports.add(state("a"), 0)
    reports.add(state("b", queue="other"), REPORT_AGE + 1)
    assert set(reports.of("q")) == set()
    assert set(reports.of("other")) == {"b"}


def test_not_every_report_searches_all_for_old_ones() -> None:
    reports = WorkerReports()
    for name, at in (("a", 0.0), ("b", REPORT_AGE - 1), ("c", REPORT_AGE + 1), ("d", 2 * REPORT_AGE)):
        reports.add(state(name), at)
    assert set(reports.of("q")) == {"b", "c", "d"}, "searched when c came, and not again when d came"
    reports.add(state("e"), 2 * REPORT_AGE + 1)
    assert set(reports.of("q")) == {"c", "d", "e"}


def test_a_worker_that_was_silent_for_long_tells_only_what_is_new() -> None:
    reports = WorkerReports()
    reports.add(state("a", finished=100, finished_seconds=1000.0), 0)
    reports.add(state("a", at=WALL + 60, finished=200, finished_seconds=1100.0), 60)
    assert reports.service_time("q", 60) == pytest.approx(5.2, rel=0.1), "its first hundred tasks count once"


def test_a_queue_is_remembered_without_workers_but_not_for_ever() -> None:
    """Down to zero and up again: what its tasks took is known for the next burst."""
    reports = WorkerReports()
    reports.add(state("a", finished=10, finished_seconds=20.0), 0)
    for at in (QUEUE_AGE / 2, QUEUE_AGE):
        reports.add(state("b", queue="other", at=WALL + at), at)
    assert reports.of("q") == {}
    assert reports.service_time("q", QUEUE_AGE) == 2.0
    reports.add(state("b", queue="other", at=WALL + QUEUE_AGE + REPORT_AGE), QUEUE_AGE + REPORT_AGE)
    assert reports.service_time("q", QUEUE_AGE + REPORT_AGE) is None
    assert reports.version("q") == 0


def test_a_queue_that_is_looked_at_is_remembered() -> None:
    reports = WorkerReports()
    reports.add(state("a", finished=10, finished_seconds=20.0), 0)
    reports.arrival_rate("q", 0, QUEUE_AGE)
    reports.add(state("b", queue="other"), QUEUE_AGE + REPORT_AGE)
    assert reports.service_time("q", QUEUE_AGE + REPORT_AGE) == 2.0


def test_service_time_needs_five_tasks_and_counts_those_that_run() -> None:
    reports = WorkerReports()
    reports.add(state("a", finished=4, finished_seconds=8.0), 10)
    assert reports.service_time("q", 10) is None
    reports.add(state("a", at=WALL + 1, finished=5, finished_seconds=10.0), 11)
    assert reports.service_time("q", 11) == pytest.approx(2.0, rel=0.01)
    reports.add(state("b", 1, running_seconds=60.0), 12)
    assert reports.service_time("q", 12) == pytest.approx(14.0, rel=0.01)


def test_running_tasks_tell_how_long_tasks_take_at_least() -> None:
    reports = WorkerReports()
    assert reports.time_so_far("q", 0) is None
    reports.add(state("a"), 0)
    assert reports.time_so_far("q", 0) is None
    reports.add(state("b", 1, at=WALL + 1), 1)
    assert reports.time_so_far("q", 31) == pytest.approx(31 * 1.1, rel=0.15)  # in steps, upwards
    reports.add(replace(state("c", at=WALL + 30), running=(RunningTask("new", WALL + 30),)), 30)
    assert reports.time_so_far("q", 31) == pytest.approx(31 * 1.1, rel=0.15), "one that has just begun tells nothing"
    reports.add(state("a", at=WALL + 31, finished=3, finished_seconds=6.0), 31)
    quarter = 2 + (31 - 2) / 4  # one of four has outlived the others
    assert reports.time_so_far("q", 31) == pytest.approx(quarter * 1.1, rel=0.15)


def at_work(worker: str, seconds: float, now: float) -> WorkerState:
    """A report of a new worker whose first task has run for so long."""
    told = WALL + now
    return replace(state(worker, at=told), running=(RunningTask(worker, told - seconds),), running_seconds=seconds)


def test_running_tasks_tell_that_tasks_have_become_longer() -> None:
    reports = WorkerReports()
    reports.add(state("a", finished=3000, finished_seconds=300.0), 0)
    for number in range(5):
        reports.add(at_work(f"b{number}", 0.0, 1), 1)
    assert reports.time_so_far("q", 2) is None, "they may be over"
    assert reports.service_time("q", 31) == pytest.approx(0.15, rel=0.01)
    assert reports.time_so_far("q", 31) == pytest.approx(30.0, rel=0.01), "150 s of work, beside five short tasks"
    reports.add(state("a", at=WALL + 31, finished=3045, finished_seconds=304.5), 31)
    assert reports.time_so_far("q", 31) == pytest.approx(3.1, rel=0.01), "what has ended meanwhile counts, too"


def test_long_tasks_that_have_come_to_keep_all_workers_tell_of_it_whatever_ended_before_the_last_of_them_began() -> (
    None
):
    reports = WorkerReports()
    reports.add(state("a", finished=3000, finished_seconds=300.0), 0)
    reports.add(at_work("b", 0.0, 1), 1)
    reports.add(state("a", at=WALL + 11, finished=3100, finished_seconds=310.0), 11)
    assert reports.time_so_far("q", 11) is None
    reports.add(at_work("c", 0.0, 11), 11)
    assert reports.time_so_far("q", 31) == pytest.approx((5 * 0.12 + 2 * 20) / 5, rel=0.01), "nothing since"


def test_a_long_task_among_many_short_ones_is_no_change() -> None:
    reports = WorkerReports()
    reports.add(state("a", finished=3000, finished_seconds=300.0), 0)
    reports.add(at_work("b", 0.0, 1), 1)
    assert reports.time_so_far("q", 31) == pytest.approx(6.1, rel=0.01), "a single one tells of little"
    reports.add(state("a", at=WALL + 31, finished=3300, finished_seconds=330.0), 31)
    assert reports.time_so_far("q", 31) is None
    reports.add(state("b", at=WALL + 32, finished=1, finished_seconds=31.0), 32)
    assert reports.time_so_far("q", 32) is None, "nothing runs"


def test_what_ended_beside_a_task_before_anybody_listened_is_not_taken_for_nothing() -> None:
    """As after a restart of the operator: a long task runs, and nobody knows how many short ones have ended since."""
    reports = WorkerReports()
    reports.add(state("a", finished=3000, finished_seconds=300.0), 0)
    reports.add(at_work("b", 600.0, 0), 0)
    assert reports.time_so_far("q", 2) is None
    reports.add(state("a", at=WALL + 5, finished=3050, finished_seconds=305.0), 5)
    assert reports.time_so_far("q", 5) is None


def test_service_time_follows_a_change() -> None:
    reports = WorkerReports()
    reports.add(state("a", finished=100, finished_seconds=100.0), 0)
    reports.add(state("a", at=WALL + 3000, finished=200, finished_seconds=1100.0), 3000)
    assert reports.service_time("q", 3000) == pytest.approx(10.0, rel=0.1)


@pytest.mark.parametrize(("seconds", "workers"), [(600.0, 30), (30.0, 15), (5.0, 4)])
def test_the_service_time_is_what_tasks_take_however_long_they_are(seconds: float, workers: int) -> None:
    """Each worker does one task after the other, no two in step; each tells of it every ten seconds."""
    reports = WorkerReports()
    for now in range(0, 3 * 3600, 10):
        for number in range(workers):
            worked = now + seconds * number / workers
            done, running = divmod(worked, seconds)
            told = state(
                f"w{number}",
                1,
                at=WALL + now,
                finished=int(done),
                finished_seconds=done * seconds,
                running_seconds=running,
            )
            reports.add(told, NOW + now)
    found = reports.service_time("q", NOW + now)
    assert found == pytest.approx(seconds, rel=0.1)


def test_work_on_a_task_that_is_handed_back_does_not_count() -> None:
    reports = WorkerReports()
    reports.add(state("a", finished=10, finished_seconds=10.0), NOW)
    reports.add(state("a", 1, at=WALL + 1, finished=10, finished_seconds=10.0, running_seconds=50.0), NOW + 1)
    assert reports.service_time("q", NOW + 1) == pytest.approx(6.0, rel=0.01)
    reports.add(state("a", at=WALL + 2, finished=10, finished_seconds=10.0), NOW + 2)
    assert reports.service_time("q", NOW + 2) == pytest.approx(1.0, rel=0.05)


def test_which_workers_report_for_another_queue() -> None:
    reports = WorkerReports()
    reports.add(state("a", queue="before"), NOW)
    reports.add(state("b"), NOW)
    assert reports.elsewhere("q", ("a", "b", "c")) == {"a"}
    assert reports.elsewhere("before", ("a", "b", "c")) == {"b"}
    reports.add(state("a", at=WALL + 1), NOW + 1)
    assert reports.elsewhere("q", ("a", "b")) == set(), "it is back"
    reports.add(state("b", queue="another"), NOW + 2 + REPORT_AGE)
    assert reports.elsewhere("another", ("a",)) == set(), "what is too old is forgotten"


def test_queues_that_nobody_reports_for_are_forgotten_as_well() -> None:
    """Foreign workers report nothing, and so might those whose events are refused."""
    reports = WorkerReports()
    for number in range(1000):
        reports.arrival_rate(f"job-{number}", 0, NOW + number * 60)
    assert len(reports._queues) <= QUEUE_AGE / 60 + 2
