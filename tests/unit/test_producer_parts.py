"""The producer's smaller parts: tokens, what is known about queues, settings, sockets."""

import logging
import os
import socket
import time
from pathlib import Path
from typing import Self

import pika
import pytest
import uvicorn
from hypothesis import given
from hypothesis import strategies as st

import warren_producer.__main__ as program
from warren_contract.events import QueueState, Resync, RunningTask, WorkerState, encode
from warren_contract.settings import SettingError
from warren_producer.http import BoundedProtocol
from warren_producer.observer import Observer
from warren_producer.queues import STALE_AFTER, STATE_FORGOTTEN_AFTER, WORKER_FORGOTTEN_AFTER, Board
from warren_producer.settings import ProducerSettings
from warren_producer.tokens import Scope, TokenFiles, TokenSet, read_tokens

LONG = "long-enough-to-be-a-token"


def scopes(tokens: TokenSet, token: str, queue: str | None = None) -> set[Scope]:
    return {scope for scope in Scope if any(grant.allows(scope, queue) for grant in tokens.grants(token))}


def test_scopes_grant_what_the_design_says() -> None:
    tokens = TokenSet.of([(Scope.READ, "r" * 16), (Scope.SUBMIT, "s" * 16), (Scope.ADMIN, "a" * 16)])
    assert scopes(tokens, "r" * 16) == {Scope.READ}
    assert scopes(tokens, "s" * 16) == {Scope.SUBMIT, Scope.READ}
    assert scopes(tokens, "a" * 16) == set(Scope)
    assert tokens.grants("x" * 16) == ()


def test_a_token_may_be_for_some_queues_only(tmp_path: Path) -> None:
    (tmp_path / "submit").write_text(f"{LONG} mail thumbnails\n")
    (tmp_path / "read").write_text(f"{LONG}\t video\n")
    tokens = read_tokens(tmp_path)
    assert scopes(tokens, LONG, "mail") == scopes(tokens, LONG, "thumbnails") == {Scope.SUBMIT, Scope.READ}
    assert scopes(tokens, LONG, "video") == {Scope.READ}
    assert scopes(tokens, LONG, "other") == set()
    assert scopes(tokens, LONG) == {Scope.SUBMIT, Scope.READ}
    assert tokens.grants(f"{LONG} mail") == ()


@given(st.text(max_size=40))
def test_no_other_text_is_a_token(text: str) -> None:
    granted = TokenSet.of([(Scope.ADMIN, LONG)]).grants(text)
    assert bool(granted) == (text == LONG)


def test_a_token_file_has_one_token_a_line(tmp_path: Path) -> None:
    (tmp_path / "read").write_text(f"{LONG}-1\n\n  {LONG}-2  \n")
    tokens = read_tokens(tmp_path)
    for number in "12":
        assert scopes(tokens, f"{LONG}-{number}") == {Scope.READ}
    assert not tokens.grants("")


def test_tokens_are_not_kept(tmp_path: Path) -> None:
    (tmp_path / "read").write_text(LONG)
    assert LONG not in repr(read_tokens(tmp_path))


@pytest.mark.parametrize("text", ["short", f"short {LONG}", f"{LONG}\nü" + "x" * 20, f"{LONG}\x01"])
def test_an_unusable_token_is_named_by_its_line_and_not_shown(tmp_path: Path, text: str) -> None:
    (tmp_path / "submit").write_text(text)
    with pytest.raises(SettingError, match=r"line \d of .*submit is no usable token") as caught:
        read_tokens(tmp_path)
    assert LONG not in str(caught.value)


@pytest.mark.parametrize("word", ["amq.direct", "second/token+of=the/line", "mail,video"])
def test_a_word_that_is_no_queue_is_named_by_its_place_and_not_shown(tmp_path: Path, word: str) -> None:
    """It may be a second token."""
    (tmp_path / "submit").write_text(f"{LONG} mail {word}")
    with pytest.raises(SettingError, match=r"line 1 of .*submit: word 3 is no queue name") as caught:
        read_tokens(tmp_path)
    assert word not in str(caught.value)


def test_no_tokens_at_all_is_a_mistake(tmp_path: Path) -> None:
    with pytest.raises(SettingError, match="WARREN_TOKEN_DIR"):
        read_tokens(tmp_path)


def test_a_broken_change_leaves_the_old_tokens_in_force(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "read").write_text(LONG)
    files = TokenFiles(tmp_path)
    clock = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: clock)
    for text, works in (("no", True), (LONG + "-new", False)):
        (tmp_path / "read").write_text(text)
        clock += 2
        assert bool(files.current().grants(LONG)) is works


def state(queue: str = "q", at: float = 100.0, workers: int = 1) -> QueueState:
    return QueueState(
        queue=queue, resource="n/q", at=at, ready=0, unacked=0, workers=workers, busy=0, desired=0, min_replicas=0,
        max_replicas=1, reason="why",
    )  # fmt: skip


def worker(
    name: str, at: float = 100.0, *, queue: str = "q", busy: bool = False, draining: bool = False
) -> WorkerState:
    return WorkerState(
        queue=queue, worker=name, at=at, started_at=1, concurrency=1,
        running=(RunningTask(id="t", since=1),) if busy else (), finished=0, failed=0, finished_seconds=0,
        running_seconds=0, draining=draining,
    )  # fmt: skip


def names(board: Board, queue: str = "q", now: float = 0.0) -> list[str]:
    return [known.worker for known in board.heard(queue, now).workers]


def test_the_last_word_counts_and_grows_stale() -> None:
    board = Board()
    assert board.heard("q", 0).stale
    board.hear(state(workers=1), now=0)
    board.hear(state(workers=2), now=5)
    heard = board.heard("q", 6)
    assert heard.state is not None
    assert (heard.state.workers, heard.age, heard.stale) == (2, 1, False)
    assert board.heard("q", 5 + STALE_AFTER + 1).stale
    assert board.queues() == ["q"]


def test_a_worker_that_said_goodbye_is_gone() -> None:
    board = Board()
    board.hear(worker("b"), 0)
    board.hear(worker("a", busy=True, draining=True), 0)
    assert names(board) == ["a", "b"]
    board.hear(worker("a", draining=True), 1)
    assert names(board) == ["b"]


def test_workers_that_were_killed_go_when_the_operator_sees_none() -> None:
    board = Board()
    board.hear(worker("killed", at=100, busy=True), 0)
    board.hear(worker("new", at=200), 0)
    board.hear(worker("other", at=100, queue="p"), 0)
    board.hear(state(at=150, workers=0), 1)
    assert names(board) == ["new"]
    assert names(board, "p") == ["other"]


def test_a_silent_worker_is_forgotten_in_the_end() -> None:
    board = Board()
    board.hear(worker("silent", busy=True), 0)
    assert names(board, now=WORKER_FORGOTTEN_AFTER) == ["silent"]
    assert names(board, now=WORKER_FORGOTTEN_AFTER + 1) == []
    board.hear(worker("loud", queue="p"), WORKER_FORGOTTEN_AFTER + 1)
    assert board.queues() == ["p"]


class Compared(str):
    """A queue's name that counts how often it is compared."""

    __slots__ = ("times",)
    times: int
    __hash__ = str.__hash__

    def __new__(cls, text: str) -> Self:
        made = super().__new__(cls, text)
        made.times = 0
        return made

    def __eq__(self, other: object) -> bool:
        self.times += 1
        return super().__eq__(other)


def test_a_queue_costs_nothing_for_the_workers_of_others() -> None:
    """A list of all queues would else take the square of what there is, and all other requests wait for it."""
    board = Board()
    for number in range(2000):
        board.hear(worker("w", queue=f"q{number // 2}"), 0)
    name = Compared("q7")
    assert names(board, name) == ["w"]
    board.hear(state(name, at=200, workers=0), 0)
    assert names(board, name) == []
    assert name.times < 50
    assert len(board.queues()) == 1000


def test_of_too_many_workers_the_longest_silent_go(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("warren_producer.queues.MAX_WORKERS", 3)
    board = Board()
    for queue, name in (("q", "a"), ("p", "a"), ("q", "b"), ("q", "a"), ("p", "b")):
        board.hear(worker(name, queue=queue), 0)
    assert (names(board, "q"), names(board, "p")) == (["a", "b"], ["b"])
    board.hear(worker("c", queue="q"), 0)
    board.hear(worker("d", queue="q"), 0)
    board.hear(worker("e", queue="q"), 0)
    assert (names(board, "q"), board.queues()) == (["c", "d", "e"], ["q"])


def test_a_queue_that_the_operator_repeats_no_more_is_forgotten_and_a_silent_operators_are_not() -> None:
    """Else each WorkQueue that was ever deleted would be asked for, and shown, as long as the producer lives."""
    board, now = Board(), 0.0

    def speak(queues: list[str], seconds: float) -> None:
        nonlocal now
        end = now + seconds
        while now < end:
            now += 20.0
            for queue in queues:
                board.hear(state(queue), now)

    speak(["deleted", "kept"], 100)
    speak(["kept"], STATE_FORGOTTEN_AFTER)
    assert board.queues() == ["deleted", "kept"]
    speak(["kept"], 20)
    assert board.queues() == ["kept"]
    speak(["late", "kept"], 20)
    now += 10 * STATE_FORGOTTEN_AFTER
    speak(["kept"], STATE_FORGOTTEN_AFTER)
    assert board.queues() == ["kept", "late"]
    assert board.heard("late", now).stale


@pytest.mark.parametrize("name", ["", "q" * 256, "warren.events", "q.dead", "[red]q"])
def test_a_word_about_what_is_no_work_queue_is_skipped(name: str, caplog: pytest.LogCaptureFixture) -> None:
    """The list of all queues would ask the broker for it, and fail with its refusal, for everybody."""
    board = Board()
    observer = Observer(pika.ConnectionParameters, board, lambda: None)
    for event in (state(name), worker("w", queue=name), state(), worker("w", queue="p")):
        observer._on_event(None, pika.spec.Basic.Deliver(routing_key="any"), None, encode(event))
    assert board.queues() == ["p", "q"]
    assert len([record for record in caplog.records if "skipped an event" in record.message]) == 2


def test_other_events_change_nothing() -> None:
    board = Board()
    board.hear(Resync(at=1), 0)
    assert board.queues() == []


def test_settings_have_the_documented_defaults() -> None:
    settings = ProducerSettings.load({"HOSTNAME": "producer-1"})
    assert settings == ProducerSettings(8080, Path("/etc/warren/tokens"), 1_048_576, {}, 10.0, "producer-1")


@pytest.mark.parametrize(
    ("name", "value", "remedy"),
    [
        ("WARREN_HTTP_PORT", "0", "from 1 to 65535"),
        ("WARREN_HTTP_PORT", "65536", "from 1 to 65535"),
        ("WARREN_HTTP_PORT", "tcp://10.0.0.1:8080", "from 1 to 65535"),
        ("WARREN_TOKEN_DIR", "/nowhere/at/all", "write at least one to a file"),
        ("WARREN_MAX_BODY", "0", "from 1 to 16777216"),
        ("WARREN_MAX_BODY", "1MB", "from 1 to 16777216"),
        ("WARREN_MAX_BODY", "99999999", "from 1 to 16777216"),
        ("WARREN_QUEUE_MAX_BODY", "4096", "write <queue>=<bytes>"),
        ("WARREN_QUEUE_MAX_BODY", "mail=4096,", "write <queue>=<bytes>"),
        ("WARREN_QUEUE_MAX_BODY", "mail=4k", "queue 'mail' is '4k': write a whole number"),
        ("WARREN_QUEUE_MAX_BODY", "mail=99999999", "from 1 to 16777216"),
        ("WARREN_QUEUE_MAX_BODY", "mail=1, mail=2", "write it once"),
        ("WARREN_QUEUE_MAX_BODY", "amq.topic=1", "choose one that does not start with"),
        ("WARREN_SUBMIT_TIMEOUT", "10", "such as"),
        ("WARREN_SUBMIT_TIMEOUT", "0s", "longer than zero"),
        ("WARREN_SUBMIT_TIMEOUT", "-1s", "such as"),
        ("WARREN_LOG_LEVEL", "chatty", "debug, info, warning, error"),
        ("WARREN_LOG_FORMAT", "xml", "text, json"),
        ("WARREN_BROKER_HOST", "amqp://mq:5672", "host name or an address alone"),
        ("WARREN_BROKER_HOST", "amqp://me:hunter2@mq:5672", "host name or an address alone"),
        ("WARREN_BROKER_HOST", "", "set WARREN_BROKER_HOST"),
        ("WARREN_BROKER_PORT", "amqp", "from 1 to 65535"),
        ("WARREN_BROKER_USERNAME", "", "set WARREN_BROKER_USERNAME"),
        ("WARREN_BROKER_PASSWORD", "", "set WARREN_BROKER_PASSWORD"),
        ("WARREN_BROKER_TLS", "yes", "true, false"),
        ("WARREN_BROKER_CA_FILE", "/nowhere/ca.crt", "name the PEM file"),
        ("WARREN_BROKER_CA_FILE", __file__, "no certificate in PEM form"),
    ],
)
def test_a_wrong_setting_ends_it_with_one_sentence_and_code_2(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    *,
    name: str,
    value: str,
    remedy: str,
) -> None:
    root = logging.getLogger()
    monkeypatch.setattr(root, "handlers", [])
    monkeypatch.setattr(root, "level", root.level)
    (tmp_path / "read").write_text(LONG)
    for key in [key for key in os.environ if key.startswith("WARREN_")]:
        monkeypatch.delenv(key)
    good = {"HOST": "mq", "USERNAME": "me", "PASSWORD": "hunter2", "TLS": "true"}
    for key, text in {
        **{f"WARREN_BROKER_{key}": text for key, text in good.items()},
        "WARREN_TOKEN_DIR": str(tmp_path),
    }.items():
        monkeypatch.setenv(key, text)
    monkeypatch.setenv(name, value)
    assert program.main() == 2
    [line] = capsys.readouterr().err.splitlines()
    assert name in line
    assert remedy in line
    assert "hunter2" not in line


def test_limits_of_queues_are_read() -> None:
    settings = ProducerSettings.load({"WARREN_QUEUE_MAX_BODY": "a.b:c=1, video=16777216"})
    assert settings.queue_max_body == {"a.b:c": 1, "video": 16_777_216}


def test_a_port_that_is_taken_is_named() -> None:
    with socket.create_server(("", 0)) as taken, pytest.raises(SettingError, match="WARREN_HTTP_PORT"):
        program.listen(taken.getsockname()[1])


def test_it_listens_without_delaying_small_answers() -> None:
    with program.listen(0) as listener:
        port = listener.getsockname()[1]
        with socket.create_connection(("127.0.0.1", port)) as _, listener.accept()[0] as accepted:
            assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


class Listening(socket.socket):
    """Notes how many connections the kernel was told to hold."""

    backlogs: tuple[int, ...] = ()

    def listen(self, backlog: int = 1) -> None:
        """Tell it."""
        self.backlogs += (backlog,)
        super().listen(backlog)


async def test_few_connections_are_accepted_in_a_turn_and_the_kernel_holds_many() -> None:
    async def app(_scope: object, _receive: object, _send: object) -> None:
        """Nobody asks."""

    config = uvicorn.Config(app, http=BoundedProtocol, ws="none", lifespan="off", log_config=None, backlog=7)
    config.load()
    server = program.Server(config)
    server.lifespan = config.lifespan_class(config)
    with Listening() as listener:
        listener.bind(("127.0.0.1", 0))
        await server.startup([listener])
        assert listener.backlogs == (7, program.BACKLOG)
        await server.shutdown([listener])
