"""The tutorial's rows that are about workers, on a real broker."""

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from brokers import Broker
from waiting import eventually
from workers import Workers, workers_on


@pytest.fixture
def workers(broker: Broker, work_queue: str, tmp_path: Path) -> Iterator[Workers]:
    with workers_on(broker, work_queue, tmp_path) as found:
        yield found


def test_dots_says_what_the_tutorials_worker_says(workers: Workers) -> None:
    worker = workers.start("dots").ready()
    workers.publish("First message.")
    worker.wait_for_line(r"\[x\] Received First message\. task=First message\.")
    worker.wait_for_line(r"\[x\] Done task=First message\.")
    workers.wait_until_empty()


@pytest.mark.parametrize("executor", ["process", "thread"])
def test_a_task_without_any_property_is_a_task(workers: Workers, broker: Broker, executor: str) -> None:
    workers.start("light", WARREN_EXECUTOR=executor).ready()
    with broker.channel() as channel:
        channel.basic_publish("", workers.queue, b"Hello World!")
    note = workers.wait_for_notes("end", 1)[0]
    assert (note.body, note.attempt) == ("Hello World!", 1)
    assert len(note.id) == 36
    workers.wait_until_empty()


def test_two_workers_take_turns(workers: Workers) -> None:
    for name in ("C1", "C2"):
        workers.start("light", name).ready()
    for number in range(1, 7):
        workers.publish(f"message {number}")
        workers.wait_for_notes("end", number)
        workers.wait_until_empty()
    turns = [note.worker for note in workers.notes("end")]
    assert turns in (["C1", "C2"] * 3, ["C2", "C1"] * 3)


def test_a_killed_workers_task_is_done_by_another(workers: Workers) -> None:
    first = workers.start("gate").ready()
    workers.publish("precious")
    begun = workers.wait_for_notes("start", 1)[0]
    first.signal(signal.SIGKILL)
    second = workers.start("gate").ready()
    again = workers.wait_for_notes("start", 2)[1]
    workers.open_gate("precious")
    ended = workers.wait_for_notes("end", 1)
    workers.wait_until_empty()
    assert (begun.worker, again.worker) == (first.name, second.name)
    assert [(note.worker, note.id) for note in ended] == [(second.name, "precious")]
    assert len(workers.notes("end")) == 1, "the killed worker's handler went on"


def test_a_killed_worker_takes_its_handlers_process_along(workers: Workers) -> None:
    worker = workers.start("gate").ready()
    workers.publish("precious")
    pid = workers.wait_for_notes("start", 1)[0].pid
    assert pid != worker.process.pid
    assert Path(f"/proc/{pid}").exists()
    worker.signal(signal.SIGKILL)
    eventually(lambda: _is_gone(pid), f"process {pid} is gone")


def test_what_is_in_work_is_visible_as_unacknowledged(workers: Workers) -> None:
    workers.start("gate").ready()
    workers.publish("one", "two")
    workers.wait_for_notes("start", 1)
    assert workers.counts() == (1, 1)
    workers.open_gate("one")
    workers.open_gate("two")
    workers.wait_until_empty()


def test_light_tasks_are_not_stuck_behind_heavy_ones(workers: Workers) -> None:
    for name in ("C1", "C2"):
        workers.start("gate", name).ready()
    workers.publish("heavy 1", "light 2", "heavy 3", "light 4", "heavy 5", "light 6")
    # Both workers get a task at once; which of them notes it first is chance.
    busy = eventually(
        lambda: next((note for note in workers.notes("start") if note.body == "heavy 1"), None), "heavy 1 is in work"
    )
    workers.open_gate("heavy 3")
    workers.open_gate("heavy 5")
    others = workers.wait_for_notes("end", 5)
    assert {note.body for note in others} == {"light 2", "heavy 3", "light 4", "heavy 5", "light 6"}
    assert {note.worker for note in others} == {"C1", "C2"} - {busy.worker}
    workers.open_gate("heavy 1")
    workers.wait_until_empty()


def test_as_many_tasks_at_once_as_the_concurrency(workers: Workers) -> None:
    workers.start("gate", WARREN_CONCURRENCY="3").ready()
    workers.publish("a", "b", "c", "d")
    begun = workers.wait_for_notes("start", 3)
    assert workers.counts() == (1, 3)
    assert len({note.pid for note in begun}) == 3
    workers.open_gate("b")
    workers.wait_for_notes("start", 4)
    assert [note.body for note in workers.notes("end")] == ["b"]
    for name in "acd":
        workers.open_gate(name)
    workers.wait_until_empty()


def _is_gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text("utf-8").rsplit(")", 1)[1].split()[0] == "Z"
    except FileNotFoundError:
        return True
