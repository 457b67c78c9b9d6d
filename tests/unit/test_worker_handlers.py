"""The handlers `exec` and `http`: what they make of a task, and of their settings."""

import datetime as dt
import errno
import json
import os
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from decimal import Decimal
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from warren_contract.settings import LONGEST_DURATION, SettingError, memory, setting
from warren_worker import attempt, exec_handler, handlers, http_handler, recycling
from warren_worker.attempt import Explained
from warren_worker.handler_error import HandlerError
from warren_worker.recycling import Recycling, resident_memory
from warren_worker.task import PermanentError, Task
from warren_worker.verdict import DONE, Failed

any_text = st.text(st.characters(exclude_categories=()))
values = st.recursive(
    st.none() | st.booleans() | st.integers() | any_text | st.binary() | st.datetimes() | st.decimals(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(any_text, inner, max_size=3),
    max_leaves=4,
)
tasks = st.builds(
    Task,
    body=st.just(b""),
    id=any_text,
    attempt=st.integers(1),
    deadline=st.floats(allow_nan=False, allow_infinity=False),
    type=st.none() | any_text,
    content_type=st.none() | any_text,
    correlation_id=st.none() | any_text,
    submitted_at=st.integers(),
    headers=st.dictionaries(any_text, values, max_size=4),
)


@pytest.mark.parametrize(
    ("text", "command"),
    [
        ("cat", ["cat"]),
        ("convert - 'png: a b'", ["convert", "-", "png: a b"]),
        (' ["a", "b c", ""]', ["a", "b c", ""]),
    ],
)
def test_a_command_is_words_or_json(text: str, command: list[str]) -> None:
    assert exec_handler.parse_command(text) == command


@pytest.mark.parametrize("text", ["'", "[", "[]", '["a", 1]', "   ", '[""]', '["a\\u0000b"]', '["a"] b'])
def test_what_is_no_command_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"write|JSON|quotation"):
        exec_handler.parse_command(text)


@given(tasks)
@example(Task(b"", "nul\0 \ud800", 1, 0.0, type="\0", headers={"\0": "\0"}))
def test_whatever_a_task_carries_a_program_can_be_told(task: Task) -> None:
    told = exec_handler.variables(task, "q")
    for name, value in told.items():
        assert name.startswith("WARREN_TASK_")
        assert "\0" not in value
        value.encode()
    assert set(json.loads(told["WARREN_TASK_HEADERS"])) <= {
        name.encode("utf-8", "replace").decode() for name in task.headers
    }


def test_headers_too_long_for_a_program_are_a_permanent_failure() -> None:
    with pytest.raises(PermanentError, match="65536 bytes"):
        exec_handler.variables(Task(b"", "i", 1, 0.0, headers={"a": "x" * 70_000}), "q")


def test_headers_are_told_as_json_knows_them() -> None:
    told = exec_handler.plain(
        {"b": b"\xff", "t": dt.datetime(2026, 1, 1, tzinfo=dt.UTC), "d": Decimal("1.5"), "l": [1]}
    )
    assert told == {"b": "\\xff", "t": "2026-01-01 00:00:00+00:00", "d": "1.5", "l": [1]}


@given(tasks)
def test_whatever_a_task_carries_makes_valid_http(task: Task) -> None:
    for name, value in http_handler.headers_of(task, "q").items():
        assert name.isascii()
        assert ":" not in name
        assert all(" " <= character <= "~" for character in value)


@pytest.mark.parametrize("url", ["", "localhost", "ftp://a/", "http://", "http://[a/", "http://a/ b", "http://a/ä"])
def test_what_is_no_address_is_refused(url: str) -> None:
    with pytest.raises(SettingError, match="WARREN_HTTP_URL"):
        http_handler.make({"WARREN_HTTP_URL": url})


@pytest.mark.parametrize("port", ["0", "65536", "99999", "x"])
def test_what_is_no_port_is_refused_in_our_own_words(port: str) -> None:
    with pytest.raises(SettingError, match=r"WARREN_HTTP_URL=.* is wrong: write a port from 1 to 65535, such as"):
        http_handler.make({"WARREN_HTTP_URL": f"http://localhost:{port}/"})


def test_a_service_that_answers_no_connection_is_given_up_long_before_the_deadline(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(http_handler, "CONNECT_LIMIT", 0.2)
    with socket.socket() as listener, ExitStack() as stack:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        # Linux drops what asks for a connection once so many wait to be accepted (listen(2)), as a lost node does.
        for _ in range(4):
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(listener.getsockname())
        post = http_handler.make({"WARREN_HTTP_URL": f"http://127.0.0.1:{listener.getsockname()[1]}/"})
        with pytest.raises(http_handler.HttpError, match=r"no answer from .*TimeoutError"):
            post(Task(b"", "id", 1, time.time() + 3600))


@pytest.mark.parametrize(
    ("status", "message", "permanent"),
    [
        pytest.param(b"413 Too Large", "answered 413 Too Large", True, id="413"),
        pytest.param(b"422 No", "answered 422 No", True, id="422"),
        pytest.param(b"503 Busy", "answered 503 Busy", False, id="503"),
        pytest.param(b"200 OK", "answered 200 and hung up before it had the whole task", False, id="200"),
    ],
)
def test_a_service_that_answers_and_hangs_up_before_it_has_the_whole_task_is_heard(
    status: bytes, message: str, permanent: bool
) -> None:
    def serve() -> None:
        with listener.accept()[0] as connection:
            connection.recv(4096)
            connection.sendall(b"HTTP/1.1 " + status + b"\r\nContent-Length: 4\r\n\r\nwhy\n")

    with socket.create_server(("127.0.0.1", 0)) as listener, ThreadPoolExecutor(1) as pool:
        served = pool.submit(serve)
        post = http_handler.make({"WARREN_HTTP_URL": f"http://127.0.0.1:{listener.getsockname()[1]}/"})
        # Twice as much as Linux keeps of it on both sides by default (tcp(7), tcp_wmem and tcp_rmem).
        outcome = attempt.run(post, Task(bytes(20 * 2**20), "id", 1, time.time() + 60))
        served.result()
    assert isinstance(outcome, Failed)
    assert message in outcome.message
    assert outcome.permanent is permanent


@pytest.mark.parametrize("said", [b"100 Continue", b"102 Processing", b"103 Early Hints\r\nLink: </style.css>"])
def test_what_a_service_says_while_it_works_is_not_its_answer(said: bytes) -> None:
    def serve() -> None:
        with listener.accept()[0] as connection:
            connection.recv(4096)
            connection.sendall(2 * (b"HTTP/1.1 " + said + b"\r\n\r\n") + b"HTTP/1.1 204 Done\r\n\r\n")

    with socket.create_server(("127.0.0.1", 0)) as listener, ThreadPoolExecutor(1) as pool:
        served = pool.submit(serve)
        post = http_handler.make({"WARREN_HTTP_URL": f"http://127.0.0.1:{listener.getsockname()[1]}/"})
        assert attempt.run(post, Task(b"", "id", 1, time.time() + 60)) == DONE
        served.result()


def test_a_program_has_a_year_where_that_is_the_limit() -> None:
    work = exec_handler.make({"WARREN_EXEC_COMMAND": "true", "PATH": os.defpath})
    assert attempt.run(work, Task(b"", "id", 1, time.time() + LONGEST_DURATION)) == DONE


def test_a_program_that_ended_well_as_somebody_else_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
    """As with sudo. A unit test has no program with the rights to become another user."""

    def killpg(_group: int, _signal: int) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "killpg", killpg)
    for command, outcome in (("true", DONE), ("false", Failed("ProgramFailed", "the program ended with exit code 1"))):
        work = exec_handler.make({"WARREN_EXEC_COMMAND": command, "PATH": os.defpath})
        assert attempt.run(work, Task(b"", "id", 1, time.time() + 60)) == outcome


def test_a_program_that_is_not_there_or_may_not_be_run_is_named(tmp_path: Path) -> None:
    (tmp_path / "tool").write_text("#!/bin/sh\n", "utf-8")
    for command in ("tool", str(tmp_path / "tool"), str(tmp_path / "none"), str(tmp_path)):
        with pytest.raises(HandlerError, match="no program"):
            handlers.load("exec", {"WARREN_EXEC_COMMAND": command, "PATH": str(tmp_path)})
    (tmp_path / "tool").chmod(0o755)
    assert callable(handlers.load("exec", {"WARREN_EXEC_COMMAND": "tool", "PATH": str(tmp_path)}))


def test_a_type_chooses_its_handler() -> None:
    seen: list[str] = []
    handler = handlers.by_type({"a": lambda _task: seen.append("a"), "": lambda _task: seen.append("none")})
    for kind in ("a", None, ""):
        handler(Task(b"", "i", 1, 0.0, type=kind))
    assert seen == ["a", "none", "none"]
    with pytest.raises(PermanentError, match="no handler for tasks of type 'b'"):
        handler(Task(b"", "i", 1, 0.0, type="b"))


def test_an_explained_failure_carries_its_detail_in_place_of_our_own_frames() -> None:
    def fail(_task: Task) -> None:
        raise Explained("short", "long story")

    assert attempt.run(fail, Task(b"", "i", 1, 0.0)) == Failed("Explained", "short", "long story")


@pytest.mark.parametrize(
    ("text", "number"), [("0", 0), ("1000", 1000), ("512Mi", 512 * 2**20), ("1.5G", 1_500_000_000), ("2k", 2000)]
)
def test_memory_is_written_as_in_kubernetes(text: str, number: int) -> None:
    assert memory(text) == number


@pytest.mark.parametrize("text", ["512MB", "-1", "1e3", "Mi", "1 Gi", "9" * 30])
def test_what_is_no_memory_is_refused(text: str) -> None:
    with pytest.raises(SettingError, match="such as 512Mi"):
        setting({"X": text}, "X", memory)


def test_a_process_is_due_by_its_tasks_or_its_memory() -> None:
    assert Recycling().due(10**9) == ""
    assert [bool(Recycling(max_tasks=3).due(tasks)) for tasks in (1, 2, 3)] == [False, False, True]
    used = resident_memory()
    assert used > 2**20
    assert "MiB" in Recycling(max_memory=used // 2).due(1)
    assert Recycling(max_memory=used * 100).due(1) == ""


def test_a_process_whose_memory_cannot_be_read_is_due(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> int:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(recycling, "resident_memory", fail)
    assert "memory cannot be read" in Recycling(max_memory=1).due(1)
    assert Recycling().due(1) == ""
