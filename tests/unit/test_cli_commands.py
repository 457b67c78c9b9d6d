"""The command line and the client, against a small HTTP server that answers as it is told."""

import base64
import io
import itertools
import json
import os
import stat
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import h11
import httpx
import pytest
from rich.console import Console

from warren_cli import submit as reading
from warren_cli.__main__ import main
from warren_cli.client import Abandoned, Client, QueueStatus, Refused, TaskOptions, Unreachable, WarrenError
from warren_cli.credentials import Cluster, find_token
from warren_cli.watch import Watch, watch
from warren_producer.line import parse_line
from warren_producer.metadata import task_properties


@dataclass
class Answers:
    """A scripted producer: what it answers next (202 when the script is over), and what it was asked.

    An answer of None hangs up without one. A batch is answered line by line, but for those in `whole`, which are
    answered as one, also by other servers.
    """

    url: str = ""
    script: list[tuple[int, dict[str, Any], dict[str, str]] | None] = field(default_factory=list)
    asked: list[tuple[str, str, Mapping[str, str], bytes]] = field(default_factory=list)
    whole: list[tuple[int, dict[str, Any]] | None] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)
    stop: Callable[[], None] = lambda: None
    """From now on nobody is there."""
    start: Callable[[], None] = lambda: None
    """It is there again, at the same address."""

    def then(self, status: int, code: str = "", *, retry_after: int | None = None, **error: str) -> None:
        headers = {} if retry_after is None else {"Retry-After": str(retry_after)}
        self.script.append((status, {"error": {"code": code, "message": "for a reason", **error}}, headers))

    @property
    def ids(self) -> list[str]:
        return [headers["Idempotency-Key"] for _, _, headers, _ in self.asked]

    @property
    def bodies(self) -> list[bytes]:
        return [body for _, _, _, body in self.asked]


class Told(BaseHTTPRequestHandler):
    """HTTP, as far as the scripted producer needs it."""

    protocol_version = "HTTP/1.1"

    def log_message(self, *args: object) -> None:
        """Say nothing."""

    def chunks(self) -> bytes:
        body = b""
        while size := int(self.rfile.readline(), 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body

    def tell(self, status: int, data: dict[str, Any], headers: Mapping[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(json.dumps(data))), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(json.dumps(data).encode())


@pytest.fixture
def producer() -> Iterator[Answers]:
    answers = Answers()

    class Handler(Told):
        def answer_batch(self) -> None:
            """One step of the script for each line; a step of None hangs up."""
            body = self.chunks()
            if (whole := answers.whole.pop(0) if answers.whole else None) is not None:
                ids = [json.loads(line)["id"] for line in body.splitlines()]
                answers.asked += [(self.command, self.path, {"Idempotency-Key": task_id}, b"") for task_id in ids]
                self.tell(*whole)
                return
            results: list[dict[str, Any]] = []
            worst = 202
            for number, line in enumerate(body.splitlines(), 1):
                said = json.loads(line)
                text = base64.b64decode(said["body_base64"]) if "body_base64" in said else said["body"].encode()
                with answers.lock:
                    answers.asked.append((self.command, self.path, {"Idempotency-Key": said["id"]}, text))
                    step = answers.script.pop(0) if answers.script else (202, {}, {})
                if step is None:
                    self.close_connection = True
                    return
                status, data, headers = step
                if status == 202:
                    results.append({"id": said["id"]})
                    continue
                worst = max(worst, status) if worst != 202 else status
                wait = {"retry_after": int(headers["Retry-After"])} if headers else {}
                results.append({"line": number, "id": said["id"], "error": {**data["error"], **wait}})
            first = next((result["error"] for result in results if "error" in result), None)
            data = {"results": results} | ({} if first is None else {"error": first})
            self.tell(worst, data)

        def answer(self) -> None:
            if self.path.endswith("/tasks:batch"):
                self.answer_batch()
                return
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            with answers.lock:
                answers.asked.append((self.command, self.path, dict(self.headers), body))
                step = answers.script.pop(0) if answers.script else (202, {"id": self.headers["Idempotency-Key"]}, {})
            if step is None:
                self.close_connection = True
                return
            self.tell(*step)

        do_GET = do_POST = answer  # noqa: N815  the base class's names

    with ExitStack() as running:

        def start(port: int = 0) -> None:
            server = running.enter_context(ThreadingHTTPServer(("127.0.0.1", port), Handler))
            thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
            thread.start()
            running.callback(thread.join)
            running.callback(server.shutdown)
            answers.url = f"http://127.0.0.1:{server.server_port}"
            answers.start = lambda: start(server.server_port)

        answers.stop = running.close
        start()
        yield answers


@pytest.fixture
def environ(producer: Answers) -> dict[str, str]:
    return {"WARREN_URL": producer.url, "WARREN_TOKEN": "a-token"}


@pytest.fixture
def at_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    """All tasks of the command line are there at once."""
    monkeypatch.setattr("warren_cli.submit._at_hand", lambda tasks: iter([list(tasks)]))


def client(producer: Answers, patience: float = 60.0) -> tuple[Client, list[float]]:
    """A client that notes how long it would have waited."""
    waits: list[float] = []
    return Client(producer.url, "a-token", patience=patience, sleep=waits.append), waits


def test_a_task_is_sent_with_everything_that_was_said(producer: Answers) -> None:
    warren, _ = client(producer)
    options = TaskOptions(
        id="k-1",
        content_type="text/x",
        type="t",
        priority=7,
        expiration="30s",
        correlation_id="c",
        headers={"Tenant": "ü"},
    )
    with warren:
        assert warren.submit(b"Hello", "my queue", options) == "k-1"
    [(method, path, headers, body)] = producer.asked
    assert (method, path, body) == ("POST", "/v1/queues/my%20queue/tasks", b"Hello")
    assert headers["Authorization"] == "Bearer a-token"
    assert (headers["Idempotency-Key"], headers["Content-Type"], headers["X-Task-Type"]) == ("k-1", "text/x", "t")
    assert (headers["X-Task-Priority"], headers["X-Task-Expiration"], headers["X-Task-Correlation-Id"]) == (
        "7",
        "30s",
        "c",
    )
    assert headers["X-Task-Header-Tenant"].encode("latin-1").decode() == "ü"


def test_a_503_is_tried_again_under_the_same_id_after_the_time_it_names(producer: Answers) -> None:
    producer.then(503, "broker_unavailable", retry_after=3)
    producer.then(503, "outcome_unknown", retry_after=1, id="x")
    warren, waits = client(producer)
    with warren:
        task_id = warren.submit("x")
    assert producer.ids == [task_id] * 3
    assert waits[0] == 3
    assert waits[1] >= 1


def test_a_connection_that_breaks_before_the_answer_is_tried_again_under_the_same_id(producer: Answers) -> None:
    producer.script.append(None)
    warren, waits = client(producer)
    with warren:
        task_id = warren.submit("x")
    assert producer.ids == [task_id] * 2
    assert len(waits) == 1


@pytest.mark.parametrize("status", [401, 403, 404, 413, 422, 500])
def test_what_would_end_the_same_way_is_not_tried_again(producer: Answers, status: int) -> None:
    producer.then(status, "some_code", field="X-Task-Type")
    warren, waits = client(producer)
    with warren, pytest.raises(Refused, match="for a reason") as caught:
        warren.submit("x")
    assert (caught.value.status, caught.value.code, caught.value.field) == (status, "some_code", "X-Task-Type")
    assert waits == []


def test_patience_ends(producer: Answers) -> None:
    for _ in range(3):
        producer.then(503, "broker_unavailable", retry_after=50)
    warren, waits = client(producer, patience=1)
    with warren, pytest.raises(Refused):
        warren.submit("x")
    assert waits == []
    assert len(producer.asked) == 1


UNKNOWN = [(503, "outcome_unknown"), (500, "internal"), (502, ""), (504, ""), (503, ""), None]
"""Ends of a try that leave open whether the task was accepted: answers, also of what stands before a producer, and a
connection that breaks."""


def end(producer: Answers, how: tuple[int, str] | None) -> None:
    if how is None:
        producer.script.append(None)
    elif how[1]:
        producer.then(*how)
    else:
        producer.script.append((how[0], {"detail": "bad gateway"}, {}))


@pytest.mark.parametrize("first", [how for how in UNKNOWN if how != (500, "internal")])
@pytest.mark.parametrize(
    "last",
    [(503, "broker_unavailable"), (503, "broker_blocked"), (503, "overloaded"), (404, "queue_unknown"), (401, "x")],
)
def test_a_refusal_after_a_try_in_doubt_keeps_the_id(
    producer: Answers, first: tuple[int, str] | None, last: tuple[int, str]
) -> None:
    end(producer, first)
    producer.then(*last, retry_after=99, field="f")
    warren, waits = client(producer)
    with warren, pytest.raises(Refused, match="for a reason; an earlier try may have been accepted") as caught:
        warren.submit("x")
    assert len(waits) == 1
    [task_id] = set(producer.ids)
    assert caught.value.id == task_id
    assert task_id in str(caught.value)
    assert (caught.value.status, caught.value.code, caught.value.field) == (*last, "f")
    assert caught.value.retry_after == 99


@pytest.mark.parametrize("how", UNKNOWN)
def test_a_try_in_doubt_that_is_the_last_has_the_id(producer: Answers, how: tuple[int, str] | None) -> None:
    end(producer, how)
    warren, _ = client(producer, patience=0)
    with warren, pytest.raises((Refused, Unreachable)) as caught:
        warren.submit("x")
    assert producer.ids == [caught.value.id]
    assert "earlier" not in str(caught.value)
    assert ("may have been accepted" in str(caught.value)) == (how != (503, "outcome_unknown")), "the producer says so"


@pytest.fixture
def stopping(producer: Answers, monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """A sleep in which the producer stops. The client's clock knows of sleeps alone, however busy the machine is."""
    now = 0.0

    def sleep(seconds: float) -> None:
        nonlocal now
        now += seconds
        producer.stop()

    monkeypatch.setattr("warren_cli.client.time", SimpleNamespace(monotonic=lambda: now))
    return sleep


def test_nobody_there_after_a_try_in_doubt_does_not_mean_that_nothing_was_sent(
    producer: Answers, stopping: Callable[[float], None]
) -> None:
    producer.script.append(None)
    with (
        Client(producer.url, "t", patience=1, sleep=stopping) as warren,
        pytest.raises(Unreachable, match="an earlier try may have been accepted") as caught,
    ):
        warren.submit("x")
    assert producer.ids == [caught.value.id]
    assert not caught.value.refused


@pytest.mark.parametrize("many", [False, True], ids=["one", "batch"])
def test_a_producer_that_restarts_is_waited_for(producer: Answers, many: bool) -> None:
    producer.script.append(None)
    events = iter((producer.stop, lambda: None, producer.start))
    with Client(producer.url, "t", sleep=lambda _: next(events)()) as warren:
        if many:
            [found] = warren.submit_many(["x"])
            assert found.error is None
            task_id = found.id
        else:
            task_id = warren.submit("x")
    assert producer.ids == [task_id] * 2
    assert next(events, None) is None, "it was not there in between"


@pytest.mark.parametrize("last", [(503, "broker_unavailable"), (503, "broker_blocked"), (404, "queue_unknown")])
def test_a_refusal_without_any_doubt_is_plain(producer: Answers, last: tuple[int, str]) -> None:
    producer.then(503, "queue_full")
    producer.then(*last, retry_after=99)
    warren, waits = client(producer)
    with warren, pytest.raises(Refused, match=r"^for a reason$") as caught:
        warren.submit("x")
    assert caught.value.id is None
    assert len(waits) == 1


@pytest.mark.parametrize("status", [502, 504])
def test_what_an_ingress_says_of_a_lost_producer_is_tried_again_under_the_same_id(
    producer: Answers, status: int
) -> None:
    end(producer, (status, ""))
    warren, waits = client(producer)
    with warren:
        task_id = warren.submit("x")
        assert producer.ids == [task_id] * 2
        producer.whole.append((status, {}))
        [found] = warren.submit_many(["x"])
    assert found.error is None
    assert producer.ids[2:] == [found.id] * 2
    assert len(waits) == 2


def test_a_refusal_of_a_whole_batch_leaves_the_doubt_about_its_lines(producer: Answers) -> None:
    producer.then(503, "outcome_unknown", retry_after=1)
    producer.then(503, "queue_full", retry_after=1)
    producer.script.append((202, {}, {}))
    warren, waits = client(producer)
    warren._sleep = lambda _: producer.whole.append((401, {"error": {"code": "unauthorized", "message": "no"}}))
    with warren:
        unknown, full, accepted = warren.submit_many(["a", "b", "c"])
    assert accepted.error is None
    assert isinstance(unknown.error, Refused)
    assert isinstance(full.error, Refused)
    assert (unknown.error.code, unknown.error.id) == ("unauthorized", unknown.id)
    assert "no; an earlier try may have been accepted" in str(unknown.error)
    assert (full.error.code, full.error.id, str(full.error)) == ("unauthorized", None, "no")
    assert waits == []


@pytest.mark.parametrize("how", [None, (500, {}), (502, {}), (503, {}), (504, {}), (202, {"results": []})])
def test_each_line_of_a_batch_in_doubt_has_its_own_id(
    producer: Answers, how: tuple[int, dict[str, Any]] | None
) -> None:
    if how is None:
        producer.script.append(None)
    else:
        producer.whole.append(how)
    warren, _ = client(producer, patience=0)
    with warren:
        found = list(warren.submit_many(["a", "b"]))
    assert all(task.error is not None and task.error.id == task.id for task in found)
    assert all(task.id in str(task.error) for task in found)


def test_lines_of_a_batch_that_the_last_try_could_not_reach_stay_in_doubt(
    producer: Answers, stopping: Callable[[float], None]
) -> None:
    producer.script.append(None)
    with Client(producer.url, "t", patience=1, sleep=stopping) as warren:
        [found] = warren.submit_many(["a"])
    assert isinstance(found.error, Unreachable)
    assert (found.error.id, found.error.refused) == (found.id, False)


def test_lines_that_nobody_ever_took_are_in_no_doubt() -> None:
    with Client("http://127.0.0.1:1", "t") as warren:
        [found] = warren.submit_many(["a"])
    assert isinstance(found.error, Unreachable)
    assert (found.error.id, found.error.refused) == (None, True)


@pytest.mark.parametrize(
    ("last", "words"), [((404, "queue_unknown"), "for a reason"), ((401, "unauthorized"), "for a reason")]
)
def test_the_command_shows_the_id_of_a_task_in_doubt(
    producer: Answers,
    environ: dict[str, str],
    capsys: pytest.CaptureFixture[str],
    last: tuple[int, str],
    words: str,
) -> None:
    producer.script.append(None)
    producer.then(*last)
    assert main(["submit", "x"], environ) == 1
    said = capsys.readouterr()
    assert said.out == ""
    first, remedy = said.err.splitlines()
    assert words in first
    assert "an earlier try may have been accepted" in first
    assert remedy == f"To submit it again under the same id: --id {producer.ids[0]}"


def test_the_command_shows_the_id_of_a_task_whose_answer_was_lost(
    producer: Answers, environ: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    producer.script.append(None)
    assert main(["submit", "x", "--retry-for", "0s"], environ) == 1
    assert f"--id {producer.ids[0]}" in capsys.readouterr().err


def test_of_several_the_command_shows_all_ids_in_doubt(
    producer: Answers, environ: dict[str, str], capsys: pytest.CaptureFixture[str], at_hand: None
) -> None:
    for status, code in ((422, "invalid"), (202, ""), (503, "outcome_unknown"), (503, "outcome_unknown")):
        producer.then(status, code)
    assert main(["submit", "x", "--repeat", "4", "--retry-for", "0s"], environ) == 1
    said = capsys.readouterr()
    assert said.out.split() == [producer.ids[1]]
    first, head, *rest, last = said.err.splitlines()
    assert first == "warren: task 1: for a reason (1 tasks were submitted; their ids are above)"
    assert "may have been accepted" in head
    assert last == "Nothing after task 4 was tried."
    assert rest == [f"  task 3: --id {producer.ids[2]}", f"  task 4: --id {producer.ids[3]}"]


TEXTS = ["", "plain", "in ner", "ü", "half \udce9", *(
    text for code in (*range(0x21), 0x7F, 0x85, 0xA0, 0x3000)
    for text in (chr(code), chr(code) + "x", "x" + chr(code), "x" + chr(code) + "x")
)]  # fmt: skip


@pytest.mark.parametrize("name", ["type", "correlation_id", "content_type", "header A"])
def test_one_task_and_many_may_carry_the_same_texts(name: str) -> None:
    for text in TEXTS:
        options = TaskOptions(headers={"A": text}) if name == "header A" else TaskOptions(**{name: text})  # type: ignore[arg-type]
        good = text == text.strip(" ") and not any(char < " " or char in "\x7f\udce9" for char in text)
        if not good:
            for make in (lambda: options.http_headers("k"), lambda: options.line(b"", "k")):  # noqa: B023
                with pytest.raises(ValueError, match=f"^{name}: .*leave them out"):
                    make()
            continue
        sent = h11.Request(method="POST", target="/", headers=[(b"Host", b"x"), *options.http_headers("k")])
        alone = task_properties(list(sent.headers), now=1.0)
        line, _ = parse_line(options.line(b"", "k"), 1.0, 100)
        assert alone == line


@pytest.mark.parametrize(
    "options",
    [
        TaskOptions(correlation_id="a\nb"),
        TaskOptions(type=" t"),
        TaskOptions(headers={"A": "b "}),
        TaskOptions(expiration="30s "),
    ],
)
def test_what_cannot_be_sent_is_a_value_error_at_once(producer: Answers, options: TaskOptions) -> None:
    warren, waits = client(producer, patience=0.5)
    with warren:
        with pytest.raises(ValueError, match="leave them out"):
            warren.submit("x", options=options)
        with pytest.raises(ValueError, match="leave them out"):
            list(warren.submit_many(["x"], options=options))
        with pytest.raises(ValueError, match=r"^id: 'k ' has spaces"):
            warren.submit("x", options=TaskOptions(id="k "))
    assert waits == []
    assert producer.asked == []


@pytest.mark.parametrize("url", ["nonsense", "ftp://x"])
def test_an_address_that_cannot_be_asked_is_not_tried_again(url: str) -> None:
    waits: list[float] = []
    with Client(url, "t", patience=0.5, sleep=waits.append) as warren, pytest.raises(Unreachable) as caught:
        warren.submit("x")
    assert (caught.value.refused, caught.value.id, waits) == (True, None, [])


@pytest.mark.parametrize("token", ["secret\n", " secret", "sec ret", "", "geheimnüs"])
def test_a_token_that_cannot_be_sent_is_refused_and_not_shown(token: str) -> None:
    with pytest.raises(WarrenError, match="the token") as caught:
        Client("http://127.0.0.1:1", token)
    assert "sec" not in str(caught.value)


def test_nobody_there_is_told_at_once() -> None:
    waits: list[float] = []
    with Client("http://127.0.0.1:1", "t", sleep=waits.append) as warren, pytest.raises(Unreachable) as caught:
        warren.submit("x")
    assert caught.value.refused
    assert waits == []


@pytest.mark.parametrize("answer", [(404, {"detail": "?"}), (200, {"status": "ok"}), (201, {})])
def test_another_server_is_not_mistaken_for_a_producer(producer: Answers, answer: tuple[int, dict[str, Any]]) -> None:
    """Above all not for one that has accepted a task."""
    producer.script += [(*answer, {})] * 3
    producer.whole.append(answer)
    warren, waits = client(producer)
    with warren:
        for ask in (warren.queues, lambda: warren.queue("q"), lambda: warren.submit("x")):
            with pytest.raises(Refused, match="is it the right address"):
                ask()
        (submitted,) = warren.submit_many(["x"])
    assert "is it the right address" in str(submitted.error)
    assert waits == []


def test_a_password_in_the_address_is_refused_and_not_shown(capsys: pytest.CaptureFixture[str]) -> None:
    """It would be sent in the token's place."""
    url = "http://me:geheim@127.0.0.1:1"
    with pytest.raises(WarrenError, match="user and password") as caught:
        Client(url, "t")
    with pytest.raises(SystemExit):
        main(["queues"], {"WARREN_URL": url, "WARREN_TOKEN": "t"})
    assert "geheim" not in str(caught.value) + capsys.readouterr().err


@pytest.mark.parametrize("url", ["nonsense", "ftp://x", "http://", "http://x:port"])
def test_a_wrong_address_is_one_sentence(url: str) -> None:
    with pytest.raises(WarrenError) as caught, Client(url, "t") as warren:
        warren.queues()
    assert url.rstrip("/") in str(caught.value)


def test_states_of_other_releases_are_read_as_far_as_they_go(producer: Answers) -> None:
    producer.script.append(
        (200, {"queue": "q", "ready": 3, "mood": "good", "worker_states": [{"worker": "w\x1b[2J"}]}, {})
    )
    warren, _ = client(producer)
    with warren:
        status = warren.queue("q")
    assert (status.ready, status.workers, status.backlog) == (3, None, 3)
    assert "\x1b" not in status.worker_states[0].worker


def test_text_from_the_network_cannot_command_the_terminal() -> None:
    assert "\x1b" not in (QueueStatus.from_json({"queue": "q", "reason": "\x1b[2Jgone"}).reason or "")


def test_words_are_joined_as_in_the_tutorial(
    producer: Answers, environ: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["submit", "First", "message."], environ) == 0
    assert producer.bodies == [b"First message."]
    assert producer.asked[0][1] == "/v1/queues/task_queue/tasks"
    assert capsys.readouterr().out.split() == producer.ids


def test_repeat_submits_that_many_and_prints_each_id(
    producer: Answers, environ: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["submit", "x", "--repeat", "50", "-q", "other"], environ) == 0
    assert producer.bodies == [b"x"] * 50
    printed = capsys.readouterr().out.split()
    assert sorted(printed) == sorted(producer.ids)
    assert len(set(printed)) == 50


def test_a_file_is_one_task_or_one_a_line(producer: Answers, environ: dict[str, str], tmp_path: Path) -> None:
    file = tmp_path / "tasks"
    file.write_bytes(b"a.\r\n\n  \nb..\xff\nlast")
    assert main(["submit", "--file", str(file)], environ) == 0
    assert producer.bodies == [file.read_bytes()]
    assert producer.asked[0][2]["Content-Type"] == "application/octet-stream"
    producer.asked.clear()
    assert main(["submit", "--file", str(file), "--lines", "--repeat", "2"], environ) == 0
    assert producer.bodies == [b"a.", b"b..\xff", b"last"] * 2


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["submit", "x", "--file", "y"], "not both"),
        (["submit", "x", "--lines"], "leave the words out"),
        (["submit", "x", "--repeat", "2", "--id", "k"], "--id names one task"),
        (["submit", "--file", "/no/such/file"], "cannot read /no/such/file"),
        (["submit", "--file", "/no/such/file", "--lines"], "cannot read /no/such/file"),
        (["submit", "-", "-H", "a b=c"], "cannot be the name of a header"),
        (["submit", "--lines", "--repeat", "2"], "--repeat needs --file"),
    ],
)
def test_what_does_not_fit_together_is_usage_and_sends_nothing(
    producer: Answers, environ: dict[str, str], capsys: pytest.CaptureFixture[str], arguments: list[str], words: str
) -> None:
    assert main(arguments, environ) == 2
    assert words in capsys.readouterr().err
    assert producer.asked == []


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "COMMAND"),
        (["dance"], "invalid choice: 'dance'"),
        (["submit", "x", "--priority", "32"], "argument --priority: write a whole number from 0 to 31"),
        (["submit", "x", "--priority", "high"], "argument --priority: write a whole number from 0 to 31"),
        (["submit", "x", "-q", "a b"], "argument -q/--queue: queue name 'a b' is not usable: write"),
        (["submit", "x", "-q", "amq.direct"], "argument -q/--queue: queue name 'amq.direct' is reserved: choose"),
        (["submit", "x", "--repeat", "0"], "argument --repeat: write a whole number from 1"),
        (["submit", "x", "--expiration", "0s"], "argument --expiration: write a duration longer than zero"),
        (["submit", "x", "--expiration", "soon"], "argument --expiration: "),
        (["submit", "x", "-H", "nameless"], "argument -H/--header: 'nameless' is no header: write NAME=VALUE"),
        (["submit", "x", "-H", "A=a\nb"], "argument -H/--header: 'a\\nb' has characters that no header can carry"),
        (["submit", "x", "--type", "caf\udce9"], "argument --type: 'caf\\udce9' has characters that no header can"),
        (["submit", "x", "-H", "A= b"], "argument -H/--header: ' b' has spaces at its ends, which no header can carry"),
        (["submit", "x", "-H", "A=b "], "argument -H/--header: 'b ' has spaces at its ends"),
        (["submit", "x", "--type", " t"], "argument --type: ' t' has spaces at its ends"),
        (["submit", "x", "--correlation-id", "c "], "argument --correlation-id: 'c ' has spaces at its ends"),
        (["submit", "x", "--content-type", "text/x "], "argument --content-type: 'text/x ' has spaces at its ends"),
        (["submit", "x", "--expiration", "30s "], "argument --expiration: '30s ' is not a duration"),
        (["submit", "x", "--repeat", "2", "--type", "t "], "argument --type: 't ' has spaces at its ends"),
        (["submit", "x", "--id", "a b"], "argument --id: write 1 to 255 visible ASCII characters"),
        (["submit", "x", "--id", ""], "argument --id: write 1 to 255 visible ASCII characters"),
        (["queues", "--url", "localhost:8080"], "argument --url: 'localhost:8080' is no address of a producer: write"),
        (["queues", "--url", "http://x:99999"], "is no address of a producer: write one such as http://localhost:8080"),
        (["submit", "x", "--retry-for", "long"], "argument --retry-for: "),
        (["submit", "x", "--colour", "red"], "unrecognized arguments: --colour"),
        (["watch", "--interval", "fast"], "argument --interval: "),
        (["watch", "--interval", "0s"], "argument --interval: write a duration longer than zero"),
        (["watch", "a b"], "argument queue: queue name 'a b' is not usable: write"),
    ],
)
def test_a_wrong_command_line_is_code_2_and_one_sentence(
    environ: dict[str, str], capsys: pytest.CaptureFixture[str], arguments: list[str], words: str
) -> None:
    with pytest.raises(SystemExit) as caught:
        main(arguments, environ)
    assert caught.value.code == 2
    *_, last = capsys.readouterr().err.splitlines()
    assert words in last


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ({"WARREN_TOKEN": "two words"}, "WARREN_TOKEN has no usable token: it must be one line"),
        ({"WARREN_TOKEN": "ümlaut"}, "WARREN_TOKEN has no usable token: it must be one line"),
        ({"WARREN_URL": "nonsense"}, "'nonsense' is no address of a producer: write one such as"),
        ({"WARREN_URL": "ftp://x"}, "(WARREN_URL)"),
        ({"WARREN_URL": "http://x:port"}, "'http://x:port' is no address of a producer: write one such as"),
    ],
)
def test_a_wrong_environment_is_code_2_and_one_sentence(
    environ: dict[str, str], capsys: pytest.CaptureFixture[str], setting: dict[str, str], words: str
) -> None:
    try:
        code: object = main(["queues"], environ | setting)
    except SystemExit as ended:  # argparse's way
        code = ended.code
    assert code == 2
    *_, last = capsys.readouterr().err.splitlines()
    assert words in last


def test_a_refusal_is_code_1_with_its_reason_and_the_id_to_use_again(
    producer: Answers, environ: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    producer.then(503, "outcome_unknown", id="k-1", retry_after=9)
    assert main(["submit", "x", "--retry-for", "0s"], environ) == 1
    said = capsys.readouterr()
    assert said.out == ""
    assert "for a reason" in said.err
    assert "--id k-1" in said.err


def test_of_several_the_submitted_ones_are_shown_when_one_is_refused(
    producer: Answers, environ: dict[str, str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("warren_cli.submit.BATCH_TASKS", 10)
    producer.script += [(202, {}, {})] * 3
    producer.then(413, "body_too_large")
    assert main(["submit", "x", "--repeat", "1000"], environ) == 1
    said = capsys.readouterr()
    shown = said.out.split()
    assert shown == producer.ids[:3] + producer.ids[4:], "every accepted task is shown"
    assert len(producer.asked) <= 10, "the first refusal ends it"
    assert f"{len(shown)} tasks were submitted" in said.err


def test_of_lines_each_refused_one_is_named_and_where_to_go_on(
    producer: Answers, environ: dict[str, str], capsys: pytest.CaptureFixture[str], tmp_path: Path, *, at_hand: None
) -> None:
    (tmp_path / "lines").write_bytes(b"a\nb\n\nlong\nd\nlong\nlong\n\n")
    for step in "aalall":
        producer.script.append((202, {}, {})) if step == "a" else producer.then(413, "body_too_large")
    assert main(["submit", "--lines", "--file", str(tmp_path / "lines")], environ) == 1
    said = capsys.readouterr()
    assert said.out.split() == [producer.ids[0], producer.ids[1], producer.ids[3]]
    assert said.err.splitlines() == [
        "warren: task 3 (line 4): for a reason (3 tasks were submitted; their ids are above)",
        "  tasks 5 to 6 (lines 6 to 7): for a reason",
        "Nothing after task 6 (line 7 of the input) was tried.",
    ]


def test_of_very_many_refused_ones_only_the_first_are_named(
    producer: Answers, environ: dict[str, str], capsys: pytest.CaptureFixture[str], at_hand: None
) -> None:
    for _ in range(50):
        producer.script.append((202, {}, {}))
        producer.then(422, "invalid")
    assert main(["submit", "x", "--repeat", "100"], environ) == 1
    first, *named, rest, last = capsys.readouterr().err.splitlines()
    assert first.startswith("warren: task 2: for a reason")
    assert named == [f"  task {number}: for a reason" for number in range(4, 44, 2)]
    assert rest == "  … and 29 tasks more were not accepted"
    assert last == "Nothing after task 100 was tried."


@pytest.fixture
def interrupted(at_hand: None, monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Ctrl-C once a request is out: after so many that get their answer."""

    def after(answered: int) -> None:
        calls = itertools.count()
        request = httpx.Client.request

        def sent(*args: Any, **kwargs: Any) -> httpx.Response:
            answer = request(*args, **kwargs)
            if next(calls) == answered:
                raise KeyboardInterrupt
            return answer

        monkeypatch.setattr(httpx.Client, "request", sent)

    return after


def test_ctrl_c_names_the_task_that_is_on_its_way(
    producer: Answers,
    environ: dict[str, str],
    capsys: pytest.CaptureFixture[str],
    interrupted: Callable[[int], None],
) -> None:
    interrupted(0)
    assert main(["submit", "x"], environ) == 130
    assert capsys.readouterr().err.splitlines() == [
        "warren: interrupted: the task may have been accepted",
        f"To submit it again under the same id: --id {producer.ids[0]}",
    ]


def test_ctrl_c_names_the_tasks_that_are_on_their_way(
    producer: Answers,
    environ: dict[str, str],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    interrupted: Callable[[int], None],
) -> None:
    monkeypatch.setattr("warren_cli.client.BATCH_TASKS", 3)
    interrupted(1)
    assert main(["submit", "x", "--repeat", "6"], environ) == 130
    said = capsys.readouterr()
    assert said.out.split() == producer.ids[:3]
    assert said.err.splitlines() == [
        "warren: interrupted (3 tasks were submitted; their ids are above)",
        "These may have been accepted; to submit one of them again, do it under its id:",
        *[f"  task {number}: --id {producer.ids[number - 1]}" for number in (4, 5, 6)],
        "Nothing after task 6 was tried.",
    ]


def test_ctrl_c_in_a_large_batch_says_how_many_and_which(
    producer: Answers,
    environ: dict[str, str],
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    interrupted: Callable[[int], None],
) -> None:
    (tmp_path / "lines").write_bytes(b"\n" + b"x\n" * 50)
    interrupted(0)
    assert main(["submit", "--lines", "--file", str(tmp_path / "lines")], environ) == 130
    first, last = producer.ids[0], producer.ids[-1]
    assert capsys.readouterr().err.splitlines() == [
        "warren: interrupted (0 tasks were submitted; their ids are above)",
        f"May have been accepted: 50 of tasks 1 to 50 (lines 2 to 51), the first with the id {first}, the last {last}",
        "Nothing after task 50 (line 51 of the input) was tried.",
    ]


def test_ctrl_c_between_two_tries_leaves_those_in_doubt_that_no_answer_settled(producer: Answers) -> None:
    def stop(_seconds: float) -> None:
        raise KeyboardInterrupt

    producer.script.append((202, {}, {}))
    producer.then(503, "queue_full", retry_after=3)
    producer.then(422, "invalid")
    producer.then(503, "outcome_unknown", retry_after=3)
    with Client(producer.url, "a-token", sleep=stop) as warren:
        with pytest.raises(Abandoned) as raised:
            list(warren.submit_many(["a", "b", "c", "d"]))
        assert raised.value.ids == (producer.ids[0], producer.ids[3])
        producer.then(503, "queue_full", retry_after=3)
        with pytest.raises(Abandoned) as raised:
            warren.submit("a")
        assert raised.value.ids == ()


class Stuck(Exception):
    """Somebody would wait."""


class NoWait(threading.Condition):
    """Raises in place of waiting."""

    def wait(self, timeout: float | None = None) -> bool:
        raise Stuck(timeout)


def test_no_more_is_read_ahead_than_a_batch_has(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "BATCH_BYTES", 10)
    monkeypatch.setattr(reading, "BATCH_TASKS", 3)
    ahead = reading._Ahead()
    ahead._changed = NoWait()
    for bodies in ([b"x" * 100], [b"x" * 6, b"x" * 4], [b"", b"", b""]):
        for body in bodies:
            ahead.put(reading._Task(body))
        with pytest.raises(Stuck):
            ahead.put(reading._Task(b"x"))
        assert [ahead.get() for _ in bodies] == [reading._Task(body) for body in bodies]
    with pytest.raises(Stuck):
        ahead.get()


def test_lines_longer_than_what_is_read_ahead_are_submitted_all_the_same(
    producer: Answers, environ: dict[str, str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(reading, "BATCH_BYTES", 10)
    lines = [b"x" * (number % 25 + 1) for number in range(100)]
    (tmp_path / "lines").write_bytes(b"\n".join(lines))
    assert main(["submit", "--lines", "--file", str(tmp_path / "lines")], environ) == 0
    assert producer.bodies == lines


def test_of_many_only_those_worth_it_are_tried_again_under_their_ids(producer: Answers) -> None:
    producer.script.append((202, {}, {}))
    producer.then(503, "queue_full", retry_after=3)
    producer.then(422, "invalid", field="body")
    producer.then(503, "outcome_unknown", retry_after=1)
    warren, waits = client(producer)
    with warren:
        found = list(warren.submit_many([b"a", "b", b"\xff", "d"], "q", TaskOptions(type="t")))
    assert [submitted.id for submitted in found] == producer.ids[:4]
    assert producer.ids[4:] == [found[1].id, found[3].id]
    assert producer.bodies == [b"a", b"b", b"\xff", b"d", b"b", b"d"]
    assert [submitted.error is None for submitted in found] == [True, True, False, True]
    assert isinstance(found[2].error, Refused)
    assert (found[2].error.code, found[2].error.field) == ("invalid", "body")
    assert len(waits) == 1
    assert waits[0] >= 3


def test_many_are_sent_again_when_the_answer_is_lost(producer: Answers) -> None:
    producer.script.append(None)
    warren, waits = client(producer)
    with warren:
        found = list(warren.submit_many(["a", "b"]))
    assert [submitted.error for submitted in found] == [None, None]
    assert producer.ids == [found[0].id, found[0].id, found[1].id]
    assert len(waits) == 1


def test_many_are_read_as_far_as_needed(producer: Answers, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("warren_cli.client.BATCH_TASKS", 10)
    read = itertools.count()
    warren, _ = client(producer)
    with warren:
        first = next(warren.submit_many(str(number) for number in read))
    assert first.id == producer.ids[0]
    assert next(read) == 11


def test_a_body_full_of_control_characters_goes_as_base64(producer: Answers) -> None:
    warren, _ = client(producer)
    with warren:
        list(warren.submit_many([b"\x00" * 5000, "plain"]))
    assert producer.bodies == [b"\x00" * 5000, b"plain"]
    assert b"body_base64" in TaskOptions().line(b"\x00" * 5000, "k")
    assert b"body_base64" not in TaskOptions().line("ü".encode() * 5000, "k")


def test_what_a_header_can_carry_the_command_line_takes(
    producer: Answers, environ: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    family = "\N{WOMAN}\N{ZERO WIDTH JOINER}\N{GIRL}"
    assert main(["submit", "x", "-H", "Price=5\N{NO-BREAK SPACE}€", "--type", family], environ) == 0
    sent = {name.encode(): value.encode("latin-1") for name, value in producer.asked[0][2].items()}
    properties = task_properties(sent.items(), 0.0)
    assert (properties.headers["price"], properties.type) == ("5\N{NO-BREAK SPACE}€", family)


def test_an_id_names_one_task(producer: Answers) -> None:
    warren, _ = client(producer)
    with warren, pytest.raises(ValueError, match="one task"):
        next(warren.submit_many(["x"], options=TaskOptions(id="k")))


def test_nobody_there_is_code_1_with_the_line_to_run(capsys: pytest.CaptureFixture[str]) -> None:
    environ = {"WARREN_URL": "http://127.0.0.1:1", "WARREN_TOKEN": "t"}
    assert main(["submit", "x", "-n", "elsewhere", "--context", "prod"], environ) == 1
    assert (
        "kubectl --context prod --namespace elsewhere port-forward service/warren-producer 8080"
        in capsys.readouterr().err
    )


@pytest.mark.parametrize(
    ("secret", "service"),
    [("jobs-warren-tokens", "jobs-warren-producer"), ("mine", "warren-producer"), ("-tokens", "warren-producer")],
)
def test_the_line_to_run_is_for_the_release_whose_secret_is_named(
    secret: str, service: str, capsys: pytest.CaptureFixture[str]
) -> None:
    environ = {"WARREN_URL": "http://127.0.0.1:1", "WARREN_TOKEN": "t"}
    assert main(["queues", f"--secret={secret}"], environ) == 1
    assert f"kubectl --namespace warren port-forward service/{service} 8080" in capsys.readouterr().err


def test_watch_once_as_json_is_one_object(
    producer: Answers, environ: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    producer.script.append((200, {"queue": "task_queue", "ready": 4}, {}))
    assert main(["watch", "task_queue", "--once", "--json"], environ) == 0
    [line] = capsys.readouterr().out.splitlines()
    assert json.loads(line)["queues"][0]["ready"] == 4


def test_queues_shows_a_table(producer: Answers, environ: dict[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    producer.script.append((200, {"queues": [{"queue": "task_queue", "ready": 4}]}, {}))
    assert main(["queues"], environ) == 0
    assert "task_queue" in capsys.readouterr().out


def test_in_a_pipe_names_are_whole_and_lines_are_not_broken(
    producer: Answers, environ: dict[str, str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "40")  # as shells export it
    name, reason = "thumbnails-" * 15, "because of this and that, " * 20
    producer.script.append(
        (200, {"queues": [{"queue": name, "ready": 1234567, "state_age": 1.0, "stale": False, "reason": reason}]}, {})
    )
    assert main(["queues"], environ) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert [lines[1][:2], lines[3]] == [[name, "1234567"], [name, *reason.split()]]


def test_an_output_of_few_letters_gets_question_marks(
    producer: Answers, environ: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Such as a file on Windows, or a terminal of the nineties."""
    producer.script.append((200, EXPLAINED, {}))
    written = io.BytesIO()
    monkeypatch.setattr("sys.stdout", io.TextIOWrapper(written, "latin-1", write_through=True))
    assert main(["explain", "q"], environ) == 0
    assert b"0 ? 10  so" in written.getvalue()


def test_without_a_standard_input_words_are_submitted_all_the_same(
    producer: Answers, environ: dict[str, str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", None)  # as after `<&-`
    assert main(["submit", "x"], environ) == 0
    assert main(["submit"], environ) == 2
    assert "say what to submit" in capsys.readouterr().err
    assert producer.bodies == [b"x"]


@pytest.mark.usefixtures("at_hand")
@pytest.mark.parametrize("arguments", [["submit", "x"], ["submit", "x", "--repeat", "3"], ["queues"]])
def test_an_answer_that_cannot_be_written_is_one_sentence(
    producer: Answers,
    environ: dict[str, str],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
) -> None:
    if arguments == ["queues"]:
        producer.script.append((200, {"queues": []}, {}))
    with Path("/dev/full").open("w") as full:
        monkeypatch.setattr("sys.stdout", full)
        assert main(arguments, environ) == 1
    said = capsys.readouterr().err
    assert said.startswith("warren: ")
    assert "No space left on device" in said
    if arguments == ["submit", "x"]:
        assert producer.ids[0] in said
    elif "--repeat" in arguments:
        assert "no id could be shown from task 1 on" in said
        assert "3 tasks were submitted" in said
        assert "Nothing after task 3 was tried." in said


@pytest.mark.usefixtures("at_hand")
def test_where_nobody_reads_the_ids_any_more_it_says_what_was_submitted(
    producer: Answers,
    environ: dict[str, str],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As with `| head`, which ends the submitting before the last task."""
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w") as pipe:
        monkeypatch.setattr("sys.stdout", pipe)
        assert main(["submit", "x", "--repeat", "3"], environ) == 1
    assert "no id could be shown from task 1 on: Broken pipe (3 tasks were submitted)" in capsys.readouterr().err


EXPLAINED = {
    "queue": "q", "exists": True, "ready": 60, "stale": False, "state_age": 1.0, "reason": "because", "desired": 10,
    "remedies": ["Raise it."], "decisions": [{"at": 1.0, "from_replicas": 0, "to_replicas": 10, "reason": "so"}],
}  # fmt: skip


def test_explain_is_text_for_people_without_colours_in_a_pipe(
    producer: Answers, environ: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    producer.script.append((200, EXPLAINED, {}))
    assert main(["explain", "q"], environ) == 0
    said = capsys.readouterr().out
    assert "10 workers wanted: because" in said
    assert "Raise it." in said
    assert "0 → 10  so" in said
    assert "\x1b" not in said
    assert producer.asked[0][1] == "/v1/queues/q"


def test_explain_as_json_has_everything(
    producer: Answers, environ: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    producer.script.append((200, EXPLAINED, {}))
    assert main(["explain", "q", "--json"], environ) == 0
    said = json.loads(capsys.readouterr().out)
    assert (said["remedies"], said["decisions"][0]["to_replicas"]) == (["Raise it."], 10)


@pytest.mark.parametrize("form", [[], ["--json"]])
def test_an_operator_that_is_silent_is_code_3(
    producer: Answers, environ: dict[str, str], capsys: pytest.CaptureFixture[str], form: list[str]
) -> None:
    producer.script.append((200, EXPLAINED | {"stale": True, "state_age": 125.0}, {}))
    assert main(["explain", "q", *form], environ) == 3
    assert "silent for 2m05s" in capsys.readouterr().out or form


@pytest.mark.parametrize(
    ("answer", "words"),
    [((404, "queue_unknown"), "warren queues"), ((401, "unauthorized"), "for a reason"), ((503, "blocked"), "for")],
)
def test_explain_says_what_is_wrong_and_ends_with_1(
    producer: Answers,
    environ: dict[str, str],
    capsys: pytest.CaptureFixture[str],
    answer: tuple[int, str],
    words: str,
) -> None:
    producer.then(*answer)
    assert main(["explain", "q"], environ) == 1
    said = capsys.readouterr()
    assert words in said.err
    assert not said.out


def test_watch_in_a_pipe_prints_changes_and_survives_a_moment_without_a_producer(
    producer: Answers, environ: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    def look(ready: int) -> tuple[int, dict[str, Any], dict[str, str]]:
        return 200, {"queues": [{"queue": "q", "ready": ready, "state_age": 1.0, "stale": False, "reason": "r"}]}, {}

    producer.script += [look(1), look(1)]
    producer.then(503, "broker_unavailable")
    producer.script.append(look(2))
    producer.then(401, "unauthorized")
    assert main(["watch", "--interval", "10ms"], environ) == 1
    said = capsys.readouterr()
    assert [line.split(" ", 1)[1].split(" unacked")[0] for line in said.out.splitlines()] == [
        "q: ready=1",
        "for a reason; trying again",
        "q: ready=2",
    ]


def test_watch_on_a_terminal_draws_until_interrupted(producer: Answers) -> None:
    for ready in (5, 9):
        producer.script.append((200, {"queues": [{"queue": "q", "ready": ready, "workers": 2}]}, {}))
    looks = 0

    def sleep(_seconds: float) -> None:
        nonlocal looks
        looks += 1
        if looks == 2:
            raise KeyboardInterrupt

    console = Console(file=io.StringIO(), force_terminal=True, width=100, height=40)
    warren, _ = client(producer)
    with warren, pytest.raises(KeyboardInterrupt):
        watch(warren, Watch(), console, sleep)
    assert isinstance(console.file, io.StringIO)
    assert "9 now" in console.file.getvalue()


def kubectl(folder: Path, script: str, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A program named kubectl that does what the script says; returns the file that it may write its arguments to."""
    program, said = folder / "kubectl", folder / "said"
    program.write_text(f'#!/bin/sh\nprintf "%s\\n" "$@" > {said}\n{script}\n')
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}/bin:/usr/bin")
    return said


def test_the_token_is_read_from_the_secret_with_the_least_rights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # c3VibWl0LXRva2Vu is "submit-token", cmVhZC10b2tlbgpvbGQ= is "read-token" and a second line.
    secret = '{"data": {"submit": "c3VibWl0LXRva2Vu", "read": "cmVhZC10b2tlbgpvbGQ="}}'
    said = kubectl(tmp_path, f"echo '{secret}'", monkeypatch)
    assert find_token({}, "submit", Cluster()) == "submit-token"
    assert find_token({}, "read", Cluster(namespace="elsewhere", context="prod")) == "read-token"
    words = said.read_text().split()
    assert words[:6] == ["--context", "prod", "--namespace", "elsewhere", "get", "secret"]


@pytest.mark.parametrize(
    ("script", "words"),
    [
        ("echo 'Error: not found' >&2; exit 1", "Error: not found"),
        ("echo nonsense", "not made as the chart makes it"),
        ('echo \'{"data": {"read": "%%%"}}\'', "not made as the chart makes it"),
        ("echo '{\"data\": {}}'", "has no token"),
    ],
)
def test_a_secret_that_cannot_be_read_names_the_other_ways(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, words: str
) -> None:
    kubectl(tmp_path, script, monkeypatch)
    with pytest.raises(WarrenError, match="WARREN_TOKEN") as caught:
        find_token({}, "read", Cluster())
    assert words in str(caught.value)


def test_a_secret_that_is_not_there_names_what_leads_to_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A release of another name has another Secret."""
    kubectl(tmp_path, "echo 'Error: not found' >&2; exit 1", monkeypatch)
    with pytest.raises(WarrenError, match="name the installation with --namespace, --secret and --context"):
        find_token({}, "read", Cluster())


def test_without_kubectl_the_other_ways_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(WarrenError, match="--token-file"):
        find_token({}, "read", Cluster())


def test_a_kubectl_that_cannot_be_run_names_the_other_ways(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kubectl(tmp_path, "", monkeypatch)
    monkeypatch.setenv("PATH", str(tmp_path))
    (tmp_path / "kubectl").write_bytes(b"\x7fELF of another processor")
    with pytest.raises(WarrenError, match=r"kubectl cannot be run \(Exec format error\): set WARREN_TOKEN"):
        find_token({}, "read", Cluster())


def test_to_read_the_token_that_may_submit_is_taken_before_the_one_that_may_do_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # YWRtaW4tdG9rZW4= is "admin-token".
    kubectl(tmp_path, 'echo \'{"data": {"admin": "YWRtaW4tdG9rZW4=", "submit": "c3VibWl0LXRva2Vu"}}\'', monkeypatch)
    assert find_token({}, "read", Cluster()) == "submit-token"


def test_a_token_file_wins_and_must_hold_one(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text("from-the-file\n")
    assert find_token({"WARREN_TOKEN": "from-the-environment"}, "read", Cluster(), file) == "from-the-file"
    assert find_token({"WARREN_TOKEN": "from-the-environment"}, "read", Cluster()) == "from-the-environment"
    file.write_text("\n")
    with pytest.raises(WarrenError, match="no usable token"):
        find_token({}, "read", Cluster(), file)


def test_no_token_is_code_2(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert main(["queues"], {}) == 2
    assert "WARREN_TOKEN" in capsys.readouterr().err
