"""The process executor against a fork server that the test plays: what no real one can be made to do at will.

And the one for threads, where it is up to a handler."""

import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pika
import pytest
from pika.compat import long

from warren_contract.task import SUBMITTED_AT_HEADER, TaskProperties
from warren_worker import attempt, child, wire
from warren_worker.executor import Job
from warren_worker.loop import Loop
from warren_worker.process_executor import ProcessExecutor
from warren_worker.recycling import Recycling
from warren_worker.task import Handler, Task
from warren_worker.thread_executor import REPORT_GAP, ThreadExecutor
from warren_worker.verdict import DONE, Done, Failed, Outcome

PID = 4_194_305
"""Above Linux' largest process id (proc(5), pid_max): nobody's."""


class Heard:
    """What the executor told the worker."""

    def __init__(self) -> None:
        self.ends: list[tuple[int, Outcome]] = []
        self.broken: list[str] = []
        self.progress = 0
        self.ended_before = 0

    def on_ready(self) -> None:
        """Nothing to note."""

    def on_end(self, ticket: int, outcome: Outcome) -> None:
        self.ends.append((ticket, outcome))

    def on_progress(self, _ticket: int, _done: float, _note: str) -> None:
        self.progress += 1

    def on_broken(self, sentence: str, *, at_start: bool) -> None:
        assert not at_start
        self.broken.append(sentence)
        self.ended_before = len(self.ends)


class Stage:
    """An executor for one task at once, and the far end of its control socket."""

    def __init__(self) -> None:
        self.loop = Loop()
        near, self.far = socket.socketpair()
        self.heard = Heard()
        self.executor = ProcessExecutor(self.loop, near, 1)
        self.executor.start(self.heard)

    def turn(self) -> None:
        """Let the loop take in what lies ready."""
        self.loop.call_later(0, self.loop.stop)
        self.loop.start()

    def fork(self) -> socket.socket:
        """Be a fork server that is ready and has forked; the child's end of its socket."""
        self.far.sendall(b'["ready"]\n')
        self.turn()
        _data, fds, _flags, _address = socket.recv_fds(self.far, 65_536, 1)
        self.far.sendall(b'["forked", %d]\n' % PID)
        self.turn()
        return socket.socket(fileno=fds[0])


@pytest.fixture
def stage() -> Iterator[Stage]:
    made = Stage()
    with made.far:
        yield made
    made.executor.close()
    made.loop.close()


JOB = Job(ticket=7, body=b"x", id="seven", attempt=1, deadline=0.0)


def test_a_task_that_comes_before_the_news_of_the_fork_servers_death_is_no_endless_loop(stage: Stage) -> None:
    stage.fork().close()  # a dead fork server's children die, too
    stage.far.close()
    stage.executor.submit(JOB)
    assert len(stage.heard.broken) == 1


def test_a_fork_server_whose_socket_outlives_it_is_missed_all_the_same(stage: Stage) -> None:
    """What the handler's module started holds its far end open, here as there."""
    with stage.fork():
        stage.executor.submit(JOB)
        stage.executor.server_ended()
        stage.executor.server_ended()
    assert len(stage.heard.broken) == 1


def test_what_a_fork_server_said_before_it_died_counts(stage: Stage) -> None:
    with stage.fork():
        stage.executor.submit(JOB)
        stage.far.sendall(b'["exited", %d, 0]\n' % PID)
        stage.executor.server_ended()
    assert [ticket for ticket, _outcome in stage.heard.ends] == [7]
    assert stage.heard.ended_before == 1


def test_a_process_that_says_much_and_dies_has_all_of_it_heard(stage: Stage) -> None:
    with stage.fork() as end:
        stage.executor.submit(JOB)
        end.sendall(wire.encode_progress(0.5, "x" * 200) * 500 + wire.DONE_FRAME)
        # The news of its death first, as when both lie ready in one turn of the loop.
        stage.far.sendall(b'["exited", %d, -9]\n' % PID)
        while not stage.heard.ends:
            stage.turn()
    assert stage.heard.ends == [(7, DONE)]
    assert stage.heard.progress == 500


def test_a_task_is_done_though_the_process_that_did_it_has_no_successor(stage: Stage) -> None:
    with stage.fork() as end:
        stage.executor.submit(JOB)
        stage.far.shutdown(socket.SHUT_RD)  # it can be asked nothing more; that it is gone has not been noticed yet
        end.sendall(wire.LEAVING_FRAME + wire.DONE_FRAME)
        while not stage.heard.broken:
            stage.turn()
    assert stage.heard.ends == [(7, DONE)]
    assert stage.heard.ended_before == 1, "whatever is in hand then is handed back"


def test_the_longest_failure_gets_across() -> None:
    failed = attempt.failure(type("E" * 1000, (Exception,), {})("\N{GRINNING FACE}" * 20_000))
    assert wire.decode_answer(bytearray(wire.encode_answer(failed))) == failed


READ_AS_A_CHILD = """
import sys
from warren_worker import child, wire
task = wire.decode_job(sys.stdin.buffer.read(), print)
assert task.submitted_at == 1_764_300_000_000, task
assert task.headers == {"far": 2**40, "deep": [{"er": 2**41}], "half": 0}, task
far, deep, half = task.headers.values()
print(*(type(number).__name__ for number in (task.submitted_at, far, deep[0]["er"], half)))
print(*sorted({"pika", "asyncio", "ssl"} & set(sys.modules)))
"""


def test_a_task_with_large_numbers_brings_no_pika_into_its_process(stage: Stage) -> None:
    """pika reads each number of 64 bits, and each with a point, as one of a type of its own."""
    sent: Any = {SUBMITTED_AT_HEADER: 1_764_300_000_000, "far": 2**40, "deep": [{"er": 2**41}]}
    received: Any = pika.BasicProperties()
    received.decode(b"".join(pika.BasicProperties(headers=sent).encode()))
    received.headers["half"] = long(0.5)  # pika writes no such number, and reads it so
    assert all(type(received.headers[name]) is long for name in (SUBMITTED_AT_HEADER, "far", "half"))
    task = TaskProperties.from_amqp(received)
    with stage.fork() as end:
        stage.executor.submit(Job(7, b"", "i", 1, 0.0, submitted_at=task.submitted_at, headers=task.headers))
        frame = end.recv(65_536)
    run = subprocess.run([sys.executable, "-c", READ_AS_A_CHILD], input=frame, capture_output=True, check=False)
    assert run.stderr == b""
    assert run.stdout.splitlines() == [b"int int int int", b""]


def test_a_thread_that_reports_all_the_time_leaves_the_loop_to_others() -> None:
    loop = Loop()
    heard = Heard()
    executor = ThreadExecutor(loop, "worker_jobs:reports_all_the_time", 1)
    began = time.monotonic()
    executor.start(heard)
    executor.submit(replace(JOB, deadline=time.time() + 0.2))
    while not heard.ends:
        loop.call_later(0.01, loop.stop)
        loop.start()
    executor.close()
    for thread in threading.enumerate():
        if thread.name == "handler-0":
            thread.join()
    loop.close()
    assert 1 <= heard.progress <= 1 + (time.monotonic() - began) / REPORT_GAP


def _forks_and_returns_twice(_task: Task) -> None:
    os.fork()


def _closes_its_output(_task: Task) -> None:
    import sys  # noqa: PLC0415  the child's

    sys.stdout.close()
    raise ValueError("with its mouth shut")


@pytest.mark.parametrize(
    ("handler", "outcome"),
    [
        pytest.param(_forks_and_returns_twice, DONE, id="a forked copy returns as well"),
        pytest.param(_closes_its_output, Failed("ValueError", "with its mouth shut"), id="stdout is closed"),
    ],
)
def test_a_process_gives_one_answer_to_each_task(handler: Handler, outcome: Done | Failed) -> None:
    near, far = socket.socketpair()
    pid = os.fork()
    if not pid:
        near.close()
        child.serve(far, handler, Recycling())
    far.close()
    with near:
        for _ in range(3):
            near.sendall(wire.encode_job(JOB))
            answers = bytearray()
            while (answer := wire.decode_answer(answers)) is None:
                answers += near.recv(65_536)
            assert isinstance(answer, Done | Failed)
            assert (type(answer), getattr(answer, "message", "")) == (type(outcome), getattr(outcome, "message", ""))
        near.shutdown(socket.SHUT_WR)
        assert near.recv(65_536) == b"", "nobody says anything that was not asked"
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
