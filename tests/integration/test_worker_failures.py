"""Failures: counted attempts, dead letters, time limits and crashes, on a real broker."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from brokers import Broker
from waiting import eventually
from workers import Workers, retry_policy, workers_on


@pytest.fixture
def workers(broker: Broker, work_queue: str, tmp_path: Path) -> Iterator[Workers]:
    with retry_policy(broker, work_queue), workers_on(broker, work_queue, tmp_path) as found:
        yield found


@pytest.mark.parametrize("executor", ["process", "thread"])
def test_a_failure_counts_and_is_tried_again(workers: Workers, executor: str) -> None:
    worker = workers.start("fail_twice", WARREN_EXECUTOR=executor).ready()
    workers.publish("stubborn")
    workers.wait_for_notes("end", 1)
    assert [note.attempt for note in workers.notes("start")] == [1, 2, 3]
    worker.wait_for_line(r"attempt 1 of 5 failed .* tried again.*ValueError: attempt 1 is meant to fail")
    workers.wait_until_empty()
    assert worker.metric('tasks_total{outcome="retried"}') == 2
    assert worker.metric('tasks_total{outcome="done"}') == 1


@pytest.mark.parametrize(
    ("way", "sentence"),
    [
        ("segfault", "Crash: .*killed by SIGSEGV"),
        ("exit", "Crash: .*exit code 3"),
        ("sys.exit", "SystemExit: 0"),
        ("close", "Crash: "),
    ],
)
def test_a_crash_costs_one_attempt_and_no_worker(workers: Workers, way: str, sentence: str) -> None:
    worker = workers.start("die").ready()
    workers.publish(way)
    workers.wait_for_notes("end", 1)
    assert [note.attempt for note in workers.notes("start")] == [1, 2]
    worker.wait_for_line(f"attempt 1 of 5 failed .*{sentence}")
    workers.wait_until_empty()
    assert worker.process.poll() is None
    assert worker.metric("reconnects_total") == 0


def test_a_program_that_the_handlers_module_started_may_end(workers: Workers) -> None:
    worker = workers.start("worker_company:light").ready()
    program = int((workers.folder / "gates" / "company.pid").read_text("ascii"))
    workers.open_gate("company")
    eventually(lambda: not Path(f"/proc/{program}").exists(), "it has ended, and somebody has noticed")
    workers.publish("one")
    workers.wait_for_notes("end", 1)
    assert worker.process.poll() is None


def test_the_time_limit_kills_a_handler_that_hangs(workers: Workers) -> None:
    worker = workers.start("die", WARREN_TIME_LIMIT="1s").ready()
    workers.publish("hang")
    workers.wait_for_notes("end", 1)
    first, second = workers.notes("start")
    assert (first.attempt, second.attempt) == (1, 2)
    assert first.pid != second.pid
    worker.wait_for_line("attempt 1 of 5 failed .*TimeLimit: .*longer than the time limit of 1 s")
    assert not Path(f"/proc/{first.pid}").exists()
    workers.wait_until_empty()
    assert worker.metric("timed_out_total") == 1


def test_the_time_limit_kills_what_the_handler_started(workers: Workers) -> None:
    workers.start("die", WARREN_TIME_LIMIT="1s").ready()
    workers.publish("grandchild")
    workers.wait_for_notes("end", 1)
    pid = int(workers.notes("grandchild")[0].what.split()[1])
    eventually(lambda: not _runs(pid), f"process {pid} is gone")


def test_a_thread_that_ruins_the_worker_ends_it_and_the_task_goes_on_elsewhere(workers: Workers) -> None:
    worker = workers.start("die", WARREN_EXECUTOR="thread").ready()
    workers.publish("close")  # closes the worker's own descriptors, the broker's connection among them
    assert worker.exit_code() == 1
    workers.start("die").ready()
    assert workers.wait_for_notes("end", 1)[0].attempt == 2
    workers.wait_until_empty()


def test_a_thread_that_hangs_is_a_failed_attempt_and_an_abnormal_end(workers: Workers) -> None:
    worker = workers.start("gate", WARREN_TIME_LIMIT="1s", WARREN_EXECUTOR="thread").ready()
    workers.publish("stuck")
    assert worker.exit_code() == 1
    assert "past the time limit and cannot be killed" in worker.output
    workers.open_gate("stuck")
    workers.start("gate").ready()
    assert workers.wait_for_notes("end", 1)[0].attempt == 2
    workers.wait_until_empty()


def test_a_task_behind_a_thread_that_hangs_is_handed_back_unblamed(workers: Workers) -> None:
    """The broker gives the next task out as soon as the hanging one has failed, ahead of the worker's cancel."""
    worker = workers.start("gate", WARREN_TIME_LIMIT="2s", WARREN_EXECUTOR="thread").ready()
    workers.publish("stuck", "behind")
    assert worker.exit_code() == 1
    assert worker.output.count("TimeLimit") == 1, "no second task has waited for the thread until its own limit"
    for name in ("stuck", "behind"):
        workers.open_gate(name)
    workers.start("gate").ready()
    assert {note.body: note.attempt for note in workers.wait_for_notes("end", 2)} == {"stuck": 2, "behind": 1}
    workers.wait_until_empty()


def test_progress_is_logged_with_the_tasks_id(workers: Workers) -> None:
    worker = workers.start("chatty").ready()
    workers.publish("long one")
    worker.wait_for_line("50 % done: half way task=long one")
    workers.wait_until_empty()


def test_a_big_body_reaches_the_handler(workers: Workers) -> None:
    workers.start("light").ready()
    body = "0123456789abcdef" * (4 * 65536)  # 4 MiB: many times what the socket to the child takes at once
    with workers.broker.channel() as channel:
        channel.basic_publish("", workers.queue, body.encode())
    assert workers.wait_for_notes("end", 1)[0].body == body
    workers.wait_until_empty()


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text("utf-8").rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False
