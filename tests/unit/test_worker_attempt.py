"""Calling a handler, finding one, and what a log line says meanwhile."""

import logging
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from warren_worker import attempt, handlers
from warren_worker.handler_error import HandlerError
from warren_worker.task import Task
from warren_worker.verdict import DONE, Failed


def task(body: bytes = b"Hello...") -> Task:
    return Task(body=body, id="the-id", attempt=1, deadline=0.0)


class Unshowable(Exception):
    def __str__(self) -> str:
        raise ValueError("no text")


@pytest.mark.parametrize(("body", "seconds"), [(b"Hello...", 3), (b"Hello", 0), (b"...\xff..", 5), (b"", 0)])
def test_dots_works_one_second_for_each_dot(
    body: bytes, seconds: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    slept: list[float] = []
    monkeypatch.setattr(time, "sleep", slept.append)
    with caplog.at_level(logging.INFO):
        handlers.load("dots")(task(body))
    assert slept == [seconds]
    assert [record.getMessage()[:13] for record in caplog.records] == [" [x] Received", " [x] Done"]


def test_returning_is_success_and_raising_is_failure() -> None:
    def fail(_task: Task) -> None:
        raise ValueError("no such picture")

    assert attempt.run(lambda _task: "anything", task()) == DONE
    failed = attempt.run(fail, task())
    assert isinstance(failed, Failed)
    assert (failed.exception, failed.message) == ("ValueError", "no such picture")
    assert "in fail\n" in failed.traceback
    assert "in run\n" not in failed.traceback, "our own frames are of no use to the reader"


@pytest.mark.parametrize("error", [SystemExit(0), KeyboardInterrupt(), MemoryError(), Unshowable(), GeneratorExit()])
def test_nothing_a_handler_raises_gets_out(error: BaseException) -> None:
    def fail(_task: Task) -> None:
        raise error

    failed = attempt.run(fail, task())
    assert isinstance(failed, Failed)
    assert failed.exception == type(error).__name__


def test_message_and_traceback_have_a_limit() -> None:
    def fail(_task: Task) -> None:
        raise ValueError("x" * 1_000_000)

    failed = attempt.run(fail, task())
    assert isinstance(failed, Failed)
    assert len(failed.message) == attempt.MAX_MESSAGE
    assert len(failed.traceback) <= attempt.MAX_TRACEBACK


def test_a_result_that_nobody_would_await_is_a_failure() -> None:
    class Later:
        def __await__(self) -> None:
            """Never awaited."""

    assert isinstance(attempt.run(lambda _task: Later(), task()), Failed)


def test_a_generator_behind_a_plain_function_is_a_failure_and_not_done() -> None:
    worked: list[str] = []

    def steps() -> Iterator[None]:
        worked.append("a step")
        yield

    async def later_steps() -> AsyncIterator[None]:
        worked.append("a step")
        yield

    for outcome in (attempt.run(lambda _task: steps(), task()), attempt.run(lambda _task: later_steps(), task())):
        assert isinstance(outcome, Failed)
        assert "returned a generator" in outcome.message
    assert not worked


def test_a_result_that_answers_to_any_name_is_none_to_be_awaited() -> None:
    class Proxy:
        def __getattr__(self, name: str) -> str:
            return name

    class Unbound:
        def __getattr__(self, name: str) -> str:
            raise RuntimeError("working outside of context")

    assert attempt.run(lambda _task: Proxy(), task()) == DONE
    assert attempt.run(lambda _task: Unbound(), task()) == DONE


def test_log_records_carry_the_id_of_the_task_in_hand_only() -> None:
    def record() -> logging.LogRecord:
        made = logging.makeLogRecord({"msg": "hello"})
        assert attempt.TaskIdFilter().filter(made)
        return made

    seen: list[logging.LogRecord] = []
    attempt.run(lambda _task: seen.append(record()), task())
    assert vars(seen[0])["task"] == "the-id"
    assert "task" not in vars(record())


def test_progress_is_kept_within_bounds() -> None:
    seen: list[tuple[float, str]] = []
    work = Task(b"", "id", 1, 0.0, report=lambda done, note: seen.append((done, note)))
    work.progress(0.5, "half")
    work.progress(7, "x" * 1000)
    work.progress(-1)
    assert [(done, len(note)) for done, note in seen] == [(0.5, 4), (1.0, 200), (0.0, 0)]


@pytest.mark.parametrize(
    ("spec", "sentence"),
    [
        ("dotz", "write dots, exec, http or module:function"),
        (":f", "write dots, exec, http or module:function"),
        ("os:", "write dots, exec, http or module:function"),
        ("no_such_module:f", "cannot import no_such_module"),
        ("os.path:no_such", "module os.path has no function no_such"),
        ("os:sep", "sep cannot be called"),
        ("os:environ", "environ\\[.*cannot be called"),
        ("broken_module:f", "importing broken_module failed: ZeroDivisionError"),
        ("ending_module:f", "importing ending_module failed: SystemExit: DATABASE_URL is not set"),
        ("half_module:work", "work is async or a generator"),
        ("half_module:numbers", "numbers is async or a generator"),
    ],
)
def test_a_handler_that_cannot_be_used_is_named(
    spec: str, sentence: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "broken_module.py").write_text("1 / 0\n", "utf-8")
    (tmp_path / "ending_module.py").write_text("import sys\nsys.exit('DATABASE_URL is not set')\n", "utf-8")
    (tmp_path / "half_module.py").write_text(
        "async def work(task): ...\ndef numbers(task):\n    yield 1\n"
        "class A:\n    @staticmethod\n    def b(task): ...\n",
        "utf-8",
    )
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(HandlerError, match=sentence):
        handlers.load(spec)
    assert callable(handlers.load("half_module:A.b"))
