"""The worker between a broker and an executor that the test plays: what real ones cannot be made to do at will."""

import time
from collections.abc import Callable, Iterator
from typing import Any, ClassVar

import pika
import pytest

from warren_contract.events import RunningTask, WorkerState, decode
from warren_worker import worker as engine
from warren_worker.executor import Job, Reports
from warren_worker.loop import Loop
from warren_worker.reporter import Reporter
from warren_worker.settings import MAX_CONCURRENCY, MAX_NAME, WorkerSettings
from warren_worker.thread_executor import ThreadExecutor
from warren_worker.verdict import INTERRUPTED, Outcome
from warren_worker.worker import EXIT_FAILED, EXIT_OK, EXIT_USAGE, Worker

LIMIT = 30.0
"""Seconds; fractions of one are usual."""


class Executor:
    """Runs nothing. What becomes of a kill, the test says."""

    def __init__(self) -> None:
        self.jobs: list[int] = []
        self.deadlines: list[float] = []
        self.on_kill: Callable[[int], bool] = lambda _ticket: True
        self.fault: Exception | None = None

    def start(self, reports: Reports) -> None:
        """The handler is there at once."""
        reports.on_ready()

    def submit(self, job: Job) -> None:
        self.jobs.append(job.ticket)
        self.deadlines.append(job.deadline)
        if self.fault is not None:
            raise self.fault

    def kill(self, ticket: int, _outcome: Outcome) -> bool:
        return self.on_kill(ticket)

    def close(self) -> None:
        """Nothing runs."""


class Broker:
    """A connection with one channel: it consumes, delivers what the test says, and answers no cancel."""

    is_open = True
    losses = 0

    def __init__(self) -> None:
        self.confirms = True
        self.told: list[tuple[str, int]] = []
        self._cancelled: set[str] = set()
        self._on_message: Callable[..., object] = print

    # What the link does.

    def start(self, *users: Any) -> None:
        users[0].on_connected(self)

    def close(self, on_closed: Callable[[bool], object]) -> None:
        self.is_open = False
        if self.confirms:
            on_closed(True)

    # What the connection and its channel do.

    def channel(self, on_open_callback: Callable[[Any], object]) -> None:
        on_open_callback(self)

    def add_on_close_callback(self, _callback: object) -> None:
        """It is never closed."""

    add_on_cancel_callback = add_on_close_callback

    def basic_qos(self, *, prefetch_count: int) -> None:
        """It is the test that delivers."""

    def basic_consume(
        self, _queue: str, on_message: Callable[..., object], *, callback: Callable[[None], object], **_options: Any
    ) -> str:
        self._on_message = on_message
        callback(None)
        return "tag"

    def basic_cancel(self, _tag: str, **_options: Any) -> None:
        self.told.append(("cancel", 0))

    def basic_reject(self, tag: int, *, requeue: bool) -> None:
        assert requeue
        self.told.append(("reject", tag))

    def basic_nack(self, tag: int, *, multiple: bool = False, requeue: bool) -> None:
        assert requeue
        self.told.append(("nack all" if multiple else "nack", tag))

    def deliver(self, tag: int) -> None:
        """A task comes."""
        self._on_message(self, pika.spec.Basic.Deliver("tag", tag), pika.BasicProperties(), b"x")


class Mute:
    """A link that never connects."""

    is_open = False

    def start(self, *_users: object) -> None:
        """It is on its way."""

    def close(self, on_closed: Callable[[bool], object]) -> None:
        on_closed(False)


class Stage:
    """A worker that consumes."""

    def __init__(self, **settings: str) -> None:
        self.loop = Loop()
        self.executor = Executor()
        self.broker = Broker()
        link: Any = self.broker
        mute: Any = Mute()
        loaded = WorkerSettings.load({"WARREN_QUEUE": "q", **settings})
        self.worker = Worker(self.loop, loaded, link, self.executor, mute)
        self.worker.start()

    def run_until(self, check: Callable[[], bool]) -> None:
        """Turn the loop until a condition holds."""

        def look() -> None:
            if check():
                self.loop.stop()
            else:
                self.loop.call_later(0.01, look)

        def give_up() -> None:
            raise AssertionError(f"not within {LIMIT} s; the broker was told {self.broker.told}")

        late = self.loop.call_later(LIMIT, give_up)
        look()
        self.loop.start()
        late.cancel()


@pytest.fixture
def make(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Stage]]:
    monkeypatch.setattr(engine, "KILL_LIMIT", 0.05)
    made: list[Stage] = []

    def stage(**settings: str) -> Stage:
        made.append(Stage(**settings))
        return made[-1]

    yield stage
    for one in made:
        one.loop.close()


def test_a_process_that_survives_its_kill_does_not_keep_its_place_for_ever(make: Callable[..., Stage]) -> None:
    """One that hangs in the kernel; or its fork server does, which is asked to kill it."""
    stage = make(WARREN_TIME_LIMIT="50ms")
    stage.broker.deliver(1)
    stage.run_until(lambda: bool(stage.broker.told))
    assert stage.broker.told == [("reject", 1)], "a failed attempt, as if it had died"
    assert not stage.worker.state().running
    stage.broker.deliver(2)
    assert len(stage.executor.jobs) == 2, "its place is free"
    stage.worker.on_end(stage.executor.jobs[0], INTERRUPTED)
    assert stage.broker.told == [("reject", 1)], "its late end changes nothing"


def test_an_executor_that_turns_out_to_be_gone_at_the_first_kill_has_all_tasks_handed_back(
    make: Callable[..., Stage],
) -> None:
    stage = make(WARREN_CONCURRENCY="3")
    for tag in (1, 2, 3):
        stage.broker.deliver(tag)

    def gone(_ticket: int) -> bool:
        stage.worker.on_broken("the fork server cannot be reached", at_start=False)
        return True

    stage.executor.on_kill = gone
    stage.worker.drain("SIGTERM")
    stage.worker.drain("SIGTERM")
    assert stage.broker.told[:4] == [("cancel", 0), ("nack", 1), ("nack", 2), ("nack", 3)]
    assert stage.worker.exit_code == EXIT_FAILED


def test_a_task_that_comes_when_the_thread_is_lost_is_handed_back_and_not_blamed(make: Callable[..., Stage]) -> None:
    """The broker may give the next one out as soon as the hanging one is rejected, before it reads the cancel."""
    stage = make(WARREN_TIME_LIMIT="50ms")
    stage.executor.on_kill = lambda _ticket: False
    stage.broker.deliver(1)
    stage.run_until(lambda: bool(stage.broker.told))
    stage.broker.deliver(2)
    assert stage.broker.told == [("reject", 1), ("cancel", 0), ("nack", 2)]


@pytest.mark.parametrize("fault", [OSError(24, "Too many open files"), MemoryError()], ids=repr)
def test_a_task_that_cannot_be_handed_over_leaves_nothing_behind(make: Callable[..., Stage], fault: Exception) -> None:
    stage = make(WARREN_TIME_LIMIT="50ms")
    stage.executor.fault = fault
    with pytest.raises(type(fault)):
        stage.broker.deliver(1)
    assert not stage.worker.state().running


@pytest.mark.parametrize(("confirms", "code"), [(True, EXIT_OK), (False, EXIT_FAILED)])
def test_an_end_that_the_broker_does_not_confirm_is_no_good_one(
    make: Callable[..., Stage], monkeypatch: pytest.MonkeyPatch, *, confirms: bool, code: int
) -> None:
    monkeypatch.setattr(engine, "CANCEL_LIMIT", 0.01)
    monkeypatch.setattr(engine, "CLOSE_LIMIT", 0.05)
    stage = make()
    stage.broker.confirms = confirms
    stage.worker.drain("SIGTERM")
    late = stage.loop.call_later(LIMIT, stage.loop.stop)
    stage.loop.start()
    assert late.due > time.monotonic()
    assert stage.worker.exit_code == code


def test_a_clock_that_is_put_back_does_not_make_later_states_look_older(
    make: Callable[..., Stage], monkeypatch: pytest.MonkeyPatch
) -> None:
    stage = make()
    idle = stage.worker.state()
    wall = time.time
    monkeypatch.setattr(time, "time", lambda: wall() - 7200.0)
    stage.broker.deliver(1)
    busy = stage.worker.state()
    (task,) = busy.running
    assert idle.started_at <= idle.at <= task.since <= busy.at < idle.at + 3600.0
    assert busy.started_at == idle.started_at
    assert stage.executor.deadlines[0] < idle.at, "a deadline is for others to compare with the clock as it is"


@pytest.mark.parametrize("id_", ["\x01" * 255, "\N{GRINNING FACE}" * 63, "0" * 36], ids=["controls", "emoji", "uuid"])
def test_a_worker_with_many_tasks_is_heard_whatever_they_are_called(id_: str) -> None:
    class Channel:
        is_open = True
        told: ClassVar[list[bytes]] = []

        def channel(self, on_open_callback: Callable[[Any], object]) -> None:
            on_open_callback(self)

        def add_on_close_callback(self, _callback: object) -> None:
            """It is never closed."""

        add_on_connection_blocked_callback = add_on_connection_unblocked_callback = add_on_close_callback

        def basic_publish(self, _exchange: str, _key: str, body: bytes, _properties: object) -> None:
            self.told.append(body)

    running = (RunningTask(id_, time.time()),) * MAX_CONCURRENCY
    loop = Loop()
    state = WorkerState("q", "\xe9" * MAX_NAME, time.time(), time.time(), MAX_CONCURRENCY, running, 0, 0, 0.0, 0.0)
    reporter = Reporter(loop, lambda: state)
    channel: Any = Channel()
    reporter.on_connected(channel)
    reporter.close()
    loop.close()
    heard = decode(channel.told[0])
    assert isinstance(heard, WorkerState)
    assert [task.since for task in heard.running] == [task.since for task in running]
    assert all(id_.startswith(task.id) for task in heard.running)
    assert heard.running[0].id[:36] == id_[:36]


def test_a_bad_handler_for_threads_ends_the_worker_at_once() -> None:
    loop = Loop()
    late = loop.call_later(LIMIT, loop.stop)
    mute: Any = Mute()
    settings = WorkerSettings.load({"WARREN_QUEUE": "q"})
    worker = Worker(loop, settings, mute, ThreadExecutor(loop, "no_such_module:f", 1), mute)
    began = time.monotonic()
    worker.start()
    loop.start()
    loop.close()
    assert late.due > time.monotonic()
    assert worker.exit_code == EXIT_USAGE
    assert time.monotonic() - began < engine.CLOSE_LIMIT / 2
