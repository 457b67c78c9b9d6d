"""An idle consumer that its queue has forgotten: when it looks, what it believes, and that it is left alone else."""

from collections.abc import Callable, Collection
from types import SimpleNamespace
from typing import Any, cast

import pika
import pytest
from pika.channel import Channel

from warren_worker.consumer import QUIET, SECOND_LOOK, Consumer, Delivery, Session
from warren_worker.loop import Loop, Timer
from warren_worker.verdict import Verdict


class Clock:
    """A loop whose timers fire when the test says so."""

    def __init__(self) -> None:
        self._timers: list[Timer] = []
        self.now = 0.0

    def call_later(self, delay: float, callback: Callable[[], object]) -> Timer:
        timer = Timer(self.now + delay, callback)
        self._timers.append(timer)
        return timer

    def at_end_of_turn(self, callback: Callable[[], object]) -> None:
        callback()

    def pass_time(self, seconds: float) -> None:
        until = self.now + seconds
        while due := [timer for timer in self._timers if timer.due <= until]:
            timer = min(due)
            self._timers.remove(timer)
            self.now = timer.due
            if timer.callback is not None:
                timer.callback()
        self.now = until


class Pipe:
    """A channel; what it is told is written down, and looks are answered at once with `waiting` tasks."""

    def __init__(self, broker: "FakeBroker") -> None:
        self._broker = broker
        self.is_open = True
        self.said: list[str] = []
        self.deliver: Callable[..., object] = print

    def add_on_close_callback(self, _callback: object) -> None:
        pass

    add_on_cancel_callback = add_on_close_callback

    def basic_qos(self, prefetch_count: int) -> None:
        self.said.append(f"qos {prefetch_count}")

    def basic_consume(self, _queue: str, deliver: Callable[..., object], *, callback: Any, **_: object) -> str:
        self.deliver = deliver
        callback(None)
        return "tag"

    def basic_ack(self, _tag: int, *, multiple: bool = False) -> None:  # noqa: ARG002  pika's interface
        self.said.append("ack")

    def basic_nack(self, _tag: int, **_: object) -> None:
        self.said.append("nack all")

    def queue_declare(self, _queue: str, *, passive: bool, callback: Callable[[Any], object]) -> None:
        assert passive
        self._broker.looks += 1
        callback(SimpleNamespace(method=SimpleNamespace(message_count=self._broker.waiting)))

    def close(self) -> None:
        self.is_open = False
        self.said.append("close")


class FakeBroker:
    """Connection and queue; `waiting` is what the queue says of itself."""

    is_open = True

    def __init__(self) -> None:
        self.waiting = 0
        self.looks = 0
        self.channels: list[Pipe] = []

    def channel(self, on_open_callback: Callable[[Channel], object]) -> None:
        pipe = Pipe(self)
        self.channels.append(pipe)
        on_open_callback(cast("Channel", pipe))


class User:
    """A worker that does each task at once, or keeps it."""

    def __init__(self) -> None:
        self.consumer: Consumer | None = None
        self.keeps = False

    def on_delivery(self, delivery: Delivery) -> None:
        if not self.keeps and self.consumer is not None:
            self.consumer.settle(delivery, Verdict.ACK)

    def on_consuming(self) -> None:
        pass

    def on_sessions_lost(self, lost: Collection[Session], sentence: str, *, cancelled: bool) -> None:
        assert not cancelled, sentence
        assert not any(session.unsettled for session in lost)


@pytest.fixture
def stage() -> tuple[Clock, FakeBroker, User]:
    """A worker that has just begun to consume."""
    clock, broker, user = Clock(), FakeBroker(), User()
    link: Any = SimpleNamespace(start=lambda _user: None)
    connection: Any = broker
    consumer = Consumer(cast("Loop", clock), link, "q", 60.0, lambda: 1)
    user.consumer = consumer
    consumer.start(user)
    consumer.on_connected(connection)
    return clock, broker, user


def give(broker: FakeBroker) -> None:
    """Deliver a task."""
    broker.channels[-1].deliver(None, SimpleNamespace(delivery_tag=1, redelivered=False), pika.BasicProperties(), b"")


def test_tasks_that_wait_twice_while_nothing_comes_are_a_reason_to_consume_anew(
    stage: tuple[Clock, FakeBroker, User],
) -> None:
    clock, broker, _ = stage
    broker.waiting = 2
    clock.pass_time(QUIET + SECOND_LOOK - 0.1)
    assert len(broker.channels) == 1
    clock.pass_time(0.2)
    assert len(broker.channels) == 2
    # Handed back by a nack, which counts for nothing: closing alone would count as a failed attempt.
    assert broker.channels[0].said == ["qos 1", "nack all", "close"]
    clock.pass_time(QUIET + SECOND_LOOK + 0.1)
    assert len(broker.channels) == 3, "the fresh consumer is looked after as well"


def test_an_empty_queue_is_no_reason_and_costs_one_look_each_time(stage: tuple[Clock, FakeBroker, User]) -> None:
    clock, broker, _ = stage
    clock.pass_time(10 * QUIET + 1)
    assert (len(broker.channels), broker.looks) == (1, 10)


def test_a_task_that_passes_by_is_no_reason(stage: tuple[Clock, FakeBroker, User]) -> None:
    clock, broker, _ = stage
    for _ in range(5):
        broker.waiting = 1
        clock.pass_time(QUIET + 0.1)
        broker.waiting = 0
        clock.pass_time(SECOND_LOOK)
    assert len(broker.channels) == 1


def test_a_consumer_that_gets_tasks_does_not_look(stage: tuple[Clock, FakeBroker, User]) -> None:
    clock, broker, _ = stage
    broker.waiting = 100
    for _ in range(5):
        clock.pass_time(QUIET / 2)
        give(broker)
    assert (len(broker.channels), broker.looks) == (1, 0)


def test_a_task_between_the_two_looks_clears_the_suspicion(stage: tuple[Clock, FakeBroker, User]) -> None:
    clock, broker, _ = stage
    broker.waiting = 100
    clock.pass_time(QUIET + 0.1)
    give(broker)
    clock.pass_time(QUIET)
    assert (len(broker.channels), broker.looks) == (1, 1)


def test_a_worker_with_a_task_in_hand_is_left_alone(stage: tuple[Clock, FakeBroker, User]) -> None:
    clock, broker, user = stage
    user.keeps = True
    give(broker)
    broker.waiting = 100
    clock.pass_time(20 * QUIET)
    assert (len(broker.channels), broker.looks) == (1, 0)


def test_a_worker_that_goes_does_not_look(stage: tuple[Clock, FakeBroker, User]) -> None:
    clock, broker, user = stage
    broker.waiting = 100
    assert user.consumer is not None
    setattr(user.consumer, "_cancelling", lambda: None)  # noqa: B010  as `cancel` leaves it
    clock.pass_time(20 * QUIET)
    assert (len(broker.channels), broker.looks) == (1, 0)
