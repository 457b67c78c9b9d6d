"""The handlers `exec` and `http`, dispatch by type, and processes that make way for fresh ones, on a real broker."""

import json
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pika
import pytest
from brokers import Broker
from waiting import eventually
from workers import Workers, retry_policy, workers_on

from warren_worker.processes import look_at


@pytest.fixture
def workers(broker: Broker, work_queue: str, tmp_path: Path) -> Iterator[Workers]:
    with retry_policy(broker, work_queue), workers_on(broker, work_queue, tmp_path) as found:
        yield found


def python(program: str) -> str:
    """A command that runs a Python program, as `WARREN_EXEC_COMMAND`."""
    return json.dumps([sys.executable, "-I", "-c", program])


def test_a_program_gets_payload_and_metadata(workers: Workers, tmp_path: Path) -> None:
    program = (
        "import json, os, sys; print('working'); seen = json.dumps([sys.stdin.buffer.read().hex(), dict(os.environ)]); "
        f"print(seen, file=open({str(tmp_path / 'seen')!r}, 'a'))"
    )
    worker = workers.start("exec", WARREN_EXEC_COMMAND=python(program), SIZE="320").ready()
    with workers.broker.channel() as channel:
        properties = pika.BasicProperties(
            message_id="nul\0byte",
            type="resize",
            content_type="image/png",
            correlation_id="order 7",
            timestamp=1_600_000_000,
            headers={"mine": {"deep": [1, None, b"\xff"]}, "x": 1},
        )
        channel.basic_publish("", workers.queue, b"\x00\xff payload", properties)
        channel.basic_publish("", workers.queue, b"")
    worker.wait_for_line("working task=", 2)
    workers.wait_until_empty()
    first, second = (json.loads(line) for line in (tmp_path / "seen").read_text("utf-8").splitlines())
    assert bytes.fromhex(first[0]) == b"\x00\xff payload"
    told = {name: value for name, value in first[1].items() if name.startswith("WARREN_")}
    assert float(told.pop("WARREN_TASK_DEADLINE")) > 1_600_000_000
    assert json.loads(told.pop("WARREN_TASK_HEADERS")) == {"mine": {"deep": [1, None, "\\xff"]}, "x": 1}
    assert told == {
        "WARREN_TASK_ID": "nul\ufffdbyte",
        "WARREN_TASK_ATTEMPT": "1",
        "WARREN_TASK_QUEUE": workers.queue,
        "WARREN_TASK_TYPE": "resize",
        "WARREN_TASK_CONTENT_TYPE": "image/png",
        "WARREN_TASK_CORRELATION_ID": "order 7",
        "WARREN_TASK_SUBMITTED_AT": "1600000000000",
    }, "and nothing of the worker's own settings, such as where the broker's password is"
    assert first[1]["SIZE"] == "320"
    assert second[0] == ""
    assert "WARREN_TASK_TYPE" not in second[1]


@pytest.mark.parametrize(
    ("program", "attempts", "exception", "message"),
    [
        ("sys.exit(3)", 2, "ProgramFailed", "exit code 3"),
        ("sys.exit(65)", 1, "ProgramRefused", "exit code 65: not to be tried again"),
        ("os.kill(os.getpid(), 11)", 2, "ProgramFailed", "killed by SIGSEGV"),
        ("time.sleep(600)", 2, "TimeLimit", "did not end within the time limit"),
        ("signal.signal(15, 1); os.close(0); os.close(1); os.close(2); time.sleep(600)", 2, "TimeLimit", "time limit"),
    ],
)
def test_the_exit_code_decides_and_the_last_words_are_kept(
    workers: Workers, program: str, attempts: int, exception: str, message: str
) -> None:
    code = f"import os, signal, sys, time; print('x' * 9000 + 'last words', file=sys.stderr, flush=True); {program}"
    workers.start("exec", WARREN_EXEC_COMMAND=python(code), WARREN_MAX_ATTEMPTS="2", WARREN_TIME_LIMIT="2s").ready()
    workers.publish("bad")
    (letter,) = workers.dead_letters(1)
    assert letter.headers["x-warren-exception"] == exception
    assert message in letter.headers["x-warren-message"]
    assert letter.headers["x-warren-attempts"] == attempts
    tail = letter.headers["x-warren-traceback"]
    assert tail.endswith("xlast words\n")
    assert len(tail) == 8192
    workers.wait_until_empty()


def test_a_program_that_floods_its_output_or_ignores_its_input_is_no_trouble(workers: Workers) -> None:
    flood = "import sys; [sys.stdout.write('y' * 100_000) for _ in range(200)]; sys.stderr.write('z\\n' * 1_000_000)"
    worker = workers.start("exec", WARREN_EXEC_COMMAND=python(flood)).ready()
    workers.publish("0123456789" * 100_000)
    worker.wait_for_line(r"20\d{6} bytes more of its output are left out")
    workers.wait_until_empty()
    assert len(worker.output) < 2_000_000
    assert worker.metric('tasks_total{outcome="done"}') == 1


@pytest.mark.parametrize("how", ["it ends", "time limit", "the worker is killed", "drained"])
def test_what_a_program_started_ends_with_it(workers: Workers, tmp_path: Path, how: str) -> None:
    """Also what has made a process group of its own, and holds the pipes open."""
    program = (
        "import os, subprocess, sys, time; "
        "child = subprocess.Popen(['sleep', '600'], process_group=0 if 'it ends' not in sys.argv else None); "
        "print(child.pid, os.getpid(), flush=True, file=open(sys.argv[1], 'w')); "
        "time.sleep(0 if sys.argv[2] == 'it ends' else 600)"
    )
    command = json.dumps([sys.executable, "-I", "-c", program, str(tmp_path / "pids"), how])
    worker = workers.start(
        "exec",
        WARREN_EXEC_COMMAND=command,
        WARREN_TIME_LIMIT="2s" if how == "time limit" else "60s",
        WARREN_MAX_ATTEMPTS="1",
    ).ready()
    workers.publish("go")

    def pids() -> list[int]:
        assert (tmp_path / "pids").exists()
        found = [int(word) for word in (tmp_path / "pids").read_text("utf-8").split()]
        assert len(found) == 2
        return found

    grandchild, program_pid = eventually(pids, "the program tells its process ids")
    if how == "the worker is killed":
        worker.signal(signal.SIGKILL)
        eventually(lambda: look_at(program_pid) is None, "the program is gone")
        os.kill(grandchild, signal.SIGKILL)  # in a pod the first process takes all others along
        return
    if how == "drained":
        worker.signal(signal.SIGTERM)
        worker.wait_for_line("finishing 1 tasks")
        worker.signal(signal.SIGTERM)
        assert worker.exit_code() == 0
        assert workers.counts() == (1, 0)
    if how == "time limit":
        workers.dead_letters(1)
    if how == "it ends":
        workers.wait_until_empty()
    eventually(lambda: look_at(grandchild) is None and look_at(program_pid) is None, "both are gone")


@dataclass
class Service:
    """What a service was asked, and what it answers."""

    port: int
    asked: list[tuple[dict[str, str], bytes]] = field(default_factory=list)


@contextmanager
def service(answer: bytes) -> Iterator[Service]:
    """A service that answers each POST with these bytes; those after a NUL drip, one a tenth of a second, until the
    test is over."""
    over = threading.Event()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            seen.asked.append((dict(self.headers), body))
            head, _, drip = answer.partition(b"\0")
            self.wfile.write(head)
            for byte in drip:
                if over.wait(0.1):
                    break
                self.wfile.write(bytes([byte]))
            self.close_connection = True

        def log_message(self, *_args: object) -> None:
            """Nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        seen = Service(server.server_address[1])
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield seen
        finally:
            over.set()
            server.shutdown()
            thread.join()


@pytest.mark.parametrize("executor", ["process", "thread"])
def test_a_task_is_posted_with_its_metadata(workers: Workers, executor: str) -> None:
    with service(b"HTTP/1.1 204 No Content\r\n\r\n") as found:
        url = f"http://127.0.0.1:{found.port}/tasks?kind=a%20b"
        workers.start("http", WARREN_HTTP_URL=url, WARREN_EXECUTOR=executor).ready()
        with workers.broker.channel() as channel:
            headers: Any = {
                "shop": "Köln 100%\r\nEvil: yes",
                "n": 7,
                "traceparent": "00-1-2-00",
                "not a token": 1,
                "": 2,
            }
            properties = pika.BasicProperties(message_id="the id\n", type="resize", headers=headers)
            channel.basic_publish("", workers.queue, b"\xff payload", properties)
        workers.wait_until_empty()
        ((asked, body),) = found.asked
    assert body == b"\xff payload"
    asked = {name: value for name, value in asked.items() if name not in {"Host", "Accept-Encoding"}}
    assert float(asked.pop("X-Task-Deadline")) > 1_600_000_000
    assert int(asked.pop("X-Task-Submitted-At")) > 1_600_000_000_000
    assert asked == {
        "Content-Type": "application/octet-stream",
        "Content-Length": "9",
        "Connection": "close",
        "User-Agent": "warren-worker",
        "Idempotency-Key": "the id%0A",
        "X-Task-Id": "the id%0A",
        "X-Task-Attempt": "1",
        "X-Task-Queue": workers.queue,
        "X-Task-Type": "resize",
        "X-Task-Header-shop": "K%C3%B6ln 100%25%0D%0AEvil: yes",
        "X-Task-Header-n": "7",
        "traceparent": "00-1-2-00",
    }


@pytest.mark.parametrize(
    ("answer", "attempts", "exception", "message"),
    [
        (b"HTTP/1.1 500 Oops\r\nContent-Length: 5\r\n\r\nsorry", 2, "HttpError", "answered 500 Oops"),
        (b"HTTP/1.1 429 Slow Down\r\nContent-Length: 5\r\n\r\nsorry", 2, "HttpError", "answered 429"),
        (b"HTTP/1.1 404 Not Found\r\nContent-Length: 5\r\n\r\nsorry", 2, "HttpError", "answered 404"),
        (b"HTTP/1.1 422 No\r\nContent-Length: 5\r\n\r\nsorry", 1, "Refused", "answered 422"),
        (b"HTTP/1.1 400 No\r\n\r\nsorry" + b"y" * 300_000, 1, "Refused", "answered 400"),
        (
            b"HTTP/1.1 302 Found\r\nLocation: http://elsewhere/\r\n\r\nsorry",
            2,
            "HttpError",
            "redirects are not followed",
        ),
        (b"SSH-2.0-no\r\n", 2, "HttpError", "BadStatusLine"),
        (b"", 2, "HttpError", "RemoteDisconnected"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\nbroken off", 2, "HttpError", "IncompleteRead"),
        (b"\0HTTP/1.1 200 " + b"O" * 1000, 2, "TimeLimit", "no whole answer"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 5000\r\n\r\n\0" + b"o" * 5000, 2, "TimeLimit", "no whole answer"),
    ],
)
def test_the_status_decides(workers: Workers, answer: bytes, attempts: int, exception: str, message: str) -> None:
    with service(answer) as found:
        workers.start(
            "http",
            WARREN_HTTP_URL=f"http://127.0.0.1:{found.port}",
            WARREN_MAX_ATTEMPTS="2",
            WARREN_TIME_LIMIT="2s",
            WARREN_EXECUTOR="thread",  # which could not be killed: the handler itself keeps the limit
        ).ready()
        workers.publish("bad")
        (letter,) = workers.dead_letters(1)
        assert len(found.asked) == attempts
    assert letter.headers["x-warren-exception"] == exception
    assert message in letter.headers["x-warren-message"]
    assert letter.headers["x-warren-attempts"] == attempts
    assert letter.headers.get("x-warren-traceback", "").startswith("sorry") == (b"sorry" in answer)
    workers.wait_until_empty()


def test_a_service_that_is_not_there_is_a_failed_attempt(workers: Workers) -> None:
    workers.start("http", WARREN_HTTP_URL="http://127.0.0.1:1/", WARREN_MAX_ATTEMPTS="2").ready()
    workers.publish("early")
    (letter,) = workers.dead_letters(1)
    assert "ConnectionRefusedError" in letter.headers["x-warren-message"]
    assert letter.headers["x-warren-attempts"] == 2


def test_a_tasks_type_chooses_its_handler_and_an_unknown_one_is_dead_at_once(workers: Workers) -> None:
    workers.start("BY_TYPE").ready()
    with workers.broker.channel() as channel:
        for kind in ("light", "heavy", None):
            channel.basic_publish("", workers.queue, b"x", pika.BasicProperties(type=kind))
    letters = workers.dead_letters(2)
    assert {letter.headers["x-warren-exception"] for letter in letters} == {"UnknownType"}
    assert {letter.headers["x-warren-attempts"] for letter in letters} == {1}
    assert "type 'heavy', only for 'boom', 'light'" in str([letter.headers["x-warren-message"] for letter in letters])
    workers.wait_until_empty()
    assert len(workers.notes("end")) == 1


def test_a_process_makes_way_after_its_tasks(workers: Workers) -> None:
    worker = workers.start("light", WARREN_MAX_TASKS_PER_CHILD="3", WARREN_CONCURRENCY="2").ready()
    workers.publish(*(f"task {number}" for number in range(40)))
    ends = workers.wait_for_notes("end", 40)
    workers.wait_until_empty()
    runs = [note.pid for note in ends]
    assert max(runs.count(pid) for pid in runs) == 3
    assert len({note.body for note in ends}) == len(ends) == 40, "none of them was tried twice"
    assert worker.metric("crashes_total") == 0
    worker.wait_for_line("a handler process ends after 3 tasks")


def test_a_process_makes_way_when_it_has_grown(workers: Workers) -> None:
    worker = workers.start("hoard", WARREN_MAX_MEMORY_PER_CHILD="100Mi").ready()
    workers.publish(*(f"task {number}" for number in range(12)))
    ends = workers.wait_for_notes("end", 12)
    workers.wait_until_empty()
    assert 2 <= len({note.pid for note in ends}) <= 6
    worker.wait_for_line("a handler process ends after . tasks, with 1.. MiB of memory")
    assert worker.metric("crashes_total") == 0
