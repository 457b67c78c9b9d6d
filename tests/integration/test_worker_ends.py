"""SIGTERM at any moment, several tasks at once, and a loop that stands still, on a real broker."""

import random
import signal
import urllib.error
from collections.abc import Iterator
from pathlib import Path

import pytest
from brokers import Broker
from proxies import proxy_to
from waiting import eventually
from workers import Workers, retry_policy, workers_on


@pytest.fixture
def workers(broker: Broker, work_queue: str, tmp_path: Path) -> Iterator[Workers]:
    with retry_policy(broker, work_queue), workers_on(broker, work_queue, tmp_path) as found:
        yield found


@pytest.mark.parametrize("executor", ["process", "thread"])
def test_sigterm_at_any_moment_is_a_clean_end(workers: Workers, executor: str) -> None:
    """From the first line it prints to the middle of its work: exit code 0, nothing lost, done twice or counted."""
    seed = random.SystemRandom().randrange(2**32)
    print(f"seed {seed}")  # shown where the test fails
    rng = random.Random(seed)
    tasks = [f"task {number}" for number in range(3000)]
    workers.publish(*tasks)
    for moment in sorted([1, *rng.sample(range(2, 120), 5), *rng.sample(range(120, 400), 3)]):
        worker = workers.start(
            "light", WARREN_LOG_LEVEL="debug", WARREN_EXECUTOR=executor, WARREN_CONCURRENCY=rng.choice(["1", "5"])
        )
        worker.wait_for_line(".", moment)
        worker.signal(signal.SIGTERM)
        assert worker.exit_code() == 0, worker.output
        assert "Traceback" not in worker.output
        assert workers.counts()[1] == 0
    assert workers.notes("end"), "none of them came as far as to work"
    assert len(workers.notes("end")) + workers.counts()[0] == len(tasks), "a task was lost or done twice"
    workers.start("light", WARREN_CONCURRENCY="20", WARREN_EXECUTOR="thread").ready()
    workers.wait_until_empty()
    ends = workers.notes("end")
    assert sorted(note.body for note in ends) == sorted(tasks)
    assert {note.attempt for note in ends} == {1}, "an end was counted as a failed attempt"


def test_sigterm_while_it_reconnects_ends_it_at_once(workers: Workers) -> None:
    with proxy_to(workers.broker.host, workers.broker.amqp_port) as proxy:
        worker = workers.start("gate", WARREN_BROKER_HOST="127.0.0.1", WARREN_BROKER_PORT=str(proxy.port)).ready()
        workers.publish("long one")
        workers.wait_for_notes("start", 1)
        proxy.close()
        worker.wait_for_line("tasks: cannot connect to the broker.*trying again", 2)
        worker.signal(signal.SIGTERM)
        assert worker.exit_code() == 0
    workers.open_gate("long one")
    workers.start("gate").ready()
    assert workers.wait_for_notes("end", 1)[0].attempt == 2  # a lost delivery counts, and alone never kills
    workers.wait_until_empty()


@pytest.mark.parametrize("executor", ["process", "thread"])
def test_tasks_at_once_end_in_any_order_and_as_they_like(workers: Workers, executor: str) -> None:
    worker = workers.start(
        "gate_then_fail", WARREN_CONCURRENCY="4", WARREN_EXECUTOR=executor, WARREN_MAX_ATTEMPTS="1"
    ).ready()
    workers.publish("a", "b", "light 1", "c", "light 2", "d", "e", "light 3")
    workers.wait_for_notes("end", 2)
    assert {note.body for note in workers.wait_for_notes("start", 6)} == {"a", "b", "c", "d", "light 1", "light 2"}
    assert workers.counts() == (2, 4), "the prefetch is the concurrency"
    for number, name in enumerate("dbeca", start=1):
        workers.open_gate(name)
        (letter,) = workers.dead_letters(1)
        assert letter.body == name.encode()
        eventually(
            lambda number=number: sum(workers.counts()) == (6 if number == 1 else 5) - number,  # type: ignore[misc]
            f"{name} is settled",
            every=0.3,
        )
    workers.wait_for_notes("end", 3)
    workers.wait_until_empty()
    assert worker.metric('tasks_total{outcome="done"}') == 3
    assert worker.metric('tasks_total{outcome="dead"}') == 5
    assert worker.metric('tasks_total{outcome="retried"}') == 0


@pytest.mark.parametrize("executor", ["process", "thread"])
def test_a_drain_waits_for_all_that_run(workers: Workers, executor: str) -> None:
    worker = workers.start("gate", WARREN_CONCURRENCY="3", WARREN_EXECUTOR=executor).ready()
    workers.publish("a", "b", "c", "d")
    workers.wait_for_notes("start", 3)
    worker.signal(signal.SIGTERM)
    worker.wait_for_line("SIGTERM: finishing 3 tasks")
    for count, name in enumerate("cab", start=1):
        assert worker.process.poll() is None
        workers.open_gate(name)
        workers.wait_for_notes("end", count)
    assert worker.exit_code() == 0
    assert workers.counts() == (1, 0)
    assert [note.body for note in workers.notes("end")] == ["c", "a", "b"]


def test_each_task_has_its_own_time_limit(workers: Workers) -> None:
    worker = workers.start("gate", WARREN_CONCURRENCY="3", WARREN_TIME_LIMIT="2s", WARREN_MAX_ATTEMPTS="1").ready()
    workers.publish("first")
    workers.wait_for_notes("start", 1)
    workers.publish("quick")
    workers.open_gate("quick")
    workers.wait_for_notes("end", 1)
    workers.publish("second")
    letters = workers.dead_letters(2)
    assert [letter.body for letter in letters] == [b"first", b"second"]
    assert {letter.headers["x-warren-exception"] for letter in letters} == {"TimeLimit"}
    workers.wait_until_empty()
    assert worker.metric("timed_out_total") == 2
    assert worker.metric('tasks_total{outcome="done"}') == 1


def test_a_loop_that_stands_still_does_not_look_alive_and_its_task_goes_elsewhere(workers: Workers) -> None:
    stuck = workers.start("gate", WARREN_HEARTBEAT="1s").ready()
    assert stuck.get("/healthz")[0] == 200
    workers.publish("precious")
    workers.wait_for_notes("start", 1)
    stuck.signal(signal.SIGSTOP)
    try:
        with pytest.raises((TimeoutError, urllib.error.URLError)):
            stuck.get("/healthz", limit=2)
        other = workers.start("gate").ready()
        again = workers.wait_for_notes("start", 2)[1]
        assert (again.worker, again.attempt) == (other.name, 2)
    finally:
        stuck.signal(signal.SIGCONT)
    stuck.wait_for_line("while this task was running.*task=precious")
    workers.open_gate("precious")
    stuck.wait_for_line("result dropped .*task=precious")
    assert stuck.get("/healthz")[0] == 200
    workers.wait_until_empty()
