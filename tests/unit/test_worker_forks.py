"""What handlers start: it hears the signals that are meant for it, and the worker none of them; it ends in time."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import pytest
from waiting import eventually

from warren_worker import fork_server, processes
from warren_worker.executor import Job
from warren_worker.loop import Loop
from warren_worker.process_executor import ProcessExecutor
from warren_worker.processes import look_at
from warren_worker.recycling import Recycling
from warren_worker.verdict import DONE, Failed, Outcome

LIMIT = 30.0
"""Seconds; fractions of one are usual."""


class Stage:
    """A real fork server with one real process, and what they told the worker."""

    def __init__(self, loop: Loop, executor: ProcessExecutor) -> None:
        self._loop = loop
        self.executor = executor
        self.notes: list[str] = []
        self.outcome: Outcome | None = None
        self.on_note: Callable[[], object] = lambda: None

    def run(self, job: Job) -> Outcome:
        """Run one task to its end."""
        self.executor.submit(job)
        late = self._loop.call_later(LIMIT, self._loop.stop)
        self._loop.start()
        late.cancel()
        assert self.outcome is not None, f"not within {LIMIT} s"
        return self.outcome

    def on_ready(self) -> None:
        self._loop.stop()

    def on_end(self, _ticket: int, outcome: Outcome) -> None:
        self.outcome = outcome
        self._loop.stop()

    def on_progress(self, _ticket: int, _done: float, note: str) -> None:
        self.notes.append(note)
        self.on_note()

    def on_broken(self, sentence: str, *, at_start: bool) -> None:
        raise AssertionError(f"at start: {at_start}: {sentence}")


@contextmanager
def stage(handler: str, recycling: Recycling) -> Iterator[Stage]:
    pid, control = fork_server.start(handler, recycling, lambda: None)
    loop = Loop()
    executor = ProcessExecutor(loop, control, 1)
    made = Stage(loop, executor)
    executor.start(made)
    loop.start()
    try:
        yield made
    finally:
        executor.close()
        loop.close()
        os.waitpid(pid, 0)


def job(seconds: float = LIMIT) -> Job:
    return Job(1, b"", "id", 1, time.time() + seconds)


def assert_gone(pid: int) -> None:
    try:
        eventually(lambda: look_at(pid) is None, "it is gone", limit=LIMIT, every=0.01)
    finally:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def test_a_handlers_process_ends_what_it_forks_and_is_not_ended_itself() -> None:
    """A signal right after the fork, when the child has hardly begun to run, is not lost either."""
    with stage("worker_jobs:ends_its_helper", Recycling()) as found:
        assert found.run(job()) == DONE
    assert found.notes == [str(-signal.SIGTERM)]


def test_what_a_handler_started_in_a_session_of_its_own_is_killed_along_with_it() -> None:
    ended = Failed("TimeLimit", "it took too long")
    with stage("worker_jobs:detaches", Recycling()) as found:
        found.on_note = lambda: found.executor.kill(1, ended)
        assert found.run(job()) == ended
    assert_gone(int(found.notes[0]))


@pytest.mark.parametrize(
    ("command", "seconds", "outcome"),
    [
        pytest.param("setsid sleep 600 & echo $! > $pids; wait", 3.0, "TimeLimit", id="in a session, at the limit"),
        pytest.param("(setsid sleep 600 & echo $! > $pids); sleep 600", 3.0, "TimeLimit", id="a daemon, at the limit"),
        pytest.param("(setsid sleep 600 & echo $! > $pids)", LIMIT, "", id="a daemon, left behind"),
    ],
)
def test_what_a_program_started_ends_with_it_though_it_cut_its_ties(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, command: str, seconds: float, outcome: str
) -> None:
    monkeypatch.setenv("WARREN_EXEC_COMMAND", json.dumps(["sh", "-c", command]))
    monkeypatch.setenv("pids", str(tmp_path / "pids"))
    with stage("exec", Recycling()) as found:
        assert getattr(found.run(job(seconds)), "exception", "") == outcome
        assert_gone(int((tmp_path / "pids").read_text("utf-8")))


def test_what_ran_under_a_number_before_is_not_taken_for_what_runs_now() -> None:
    with subprocess.Popen(["sleep", "600"]) as other:
        now = look_at(other.pid)
        assert now is not None
        processes._signal(replace(now, started=now.started - 1), signal.SIGKILL)
        processes._signal(now, signal.SIGTERM)
    assert other.returncode == -signal.SIGTERM


def test_a_task_is_done_though_its_process_has_no_descriptor_left_to_look_at_its_memory() -> None:
    with stage("worker_jobs:leaks_files", Recycling(max_memory=2**40)) as found:
        assert found.run(job()) == DONE


A_THREAD_ENDS_ITS_HELPER = """
import os, signal, time
from warren_worker.lifecycle import Signals
with Signals() as signals:
    from warren_worker.executor import Job
    from warren_worker.loop import Loop
    from warren_worker.thread_executor import ThreadExecutor
    class Reports:
        def on_ready(self): executor.submit(Job(1, b"", "id", 1, time.time() + 60))
        def on_progress(self, ticket, done, note): print(note)
        def on_end(self, ticket, outcome): print(outcome), loop.call_later(0, loop.stop)
    loop = Loop()
    executor = ThreadExecutor(loop, "worker_jobs:ends_its_helper", 1)
    signals.attach(loop, lambda number: number != signal.SIGCHLD and heard.append(number))
    heard = []
    executor.start(Reports())
    loop.start()
    print(heard)
"""


def test_a_thread_ends_what_it_forks_and_the_worker_hears_only_what_is_meant_for_it() -> None:
    """The handler sends a SIGTERM to its own process, which is the worker's here, and one to its helper."""
    run = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path[:] = {sys.path!r}\n{A_THREAD_ENDS_ITS_HELPER}"],
        capture_output=True,
        text=True,
        timeout=LIMIT,
        check=True,
    )
    assert run.stdout.splitlines() == [str(-signal.SIGTERM), "Done()", "[15]"], run.stderr
