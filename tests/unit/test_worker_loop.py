"""The event loop: timers, callbacks, descriptors, and writes that are tried before they are waited for."""

import socket
import threading
from collections.abc import Iterator
from functools import partial

import pytest

from warren_worker.loop import READ, WRITE, Loop, remove


@pytest.fixture
def loop() -> Iterator[Loop]:
    made = Loop()
    made.call_later(30, pytest.fail)  # whatever is wrong, it does not hang
    yield made
    made.close()


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    one, other = socket.socketpair()
    one.setblocking(False)
    other.setblocking(False)
    with one, other:
        yield one, other


def test_timers_run_in_their_order_and_not_when_cancelled(loop: Loop) -> None:
    seen: list[str] = []
    loop.call_later(0.02, lambda: seen.append("second"))
    loop.call_later(0.01, lambda: seen.append("first"))
    loop.remove_timeout(loop.call_later(0.01, lambda: seen.append("cancelled")))
    loop.call_later(0.03, loop.stop)
    loop.start()
    assert seen == ["first", "second"]


def test_a_callback_from_another_thread_wakes_the_loop(loop: Loop) -> None:
    seen: list[int] = []
    for number in range(200):

        def callback(number: int = number) -> None:
            seen.append(number)
            loop.stop()

        thread = threading.Thread(target=loop.add_callback, args=(callback,))
        loop.call_later(0, thread.start)
        loop.start()
        thread.join()
    assert seen == list(range(200))


def test_no_callback_is_lost_among_many_threads(loop: Loop) -> None:
    seen: list[int] = []

    def add(start: int) -> None:
        for number in range(start, start + 2000):
            loop.add_callback(partial(arrived, number))

    def arrived(number: int) -> None:
        seen.append(number)
        if len(seen) == 8000:
            loop.stop()

    threads = [threading.Thread(target=add, args=(start,)) for start in range(0, 8000, 2000)]
    for thread in threads:
        thread.start()
    loop.start()
    for thread in threads:
        thread.join()
    assert sorted(seen) == list(range(8000))


def test_a_write_happens_at_the_end_of_the_turn_without_waiting(
    loop: Loop, pair: tuple[socket.socket, socket.socket]
) -> None:
    one, other = pair
    seen: list[tuple[int, int]] = []

    def handler(fd: int, events: int) -> None:
        seen.append((fd, events))
        one.send(b"x")
        loop.update_handler(fd, READ)
        loop.stop()

    loop.add_handler(one.fileno(), handler, READ)
    loop.update_handler(one.fileno(), READ | WRITE)
    loop.start()
    assert seen == [(one.fileno(), WRITE)]
    assert other.recv(10) == b"x"


def test_a_write_that_does_not_fit_goes_on_when_there_is_room(
    loop: Loop, pair: tuple[socket.socket, socket.socket]
) -> None:
    one, other = pair
    outbox = bytearray(4_000_000)
    received = 0

    def write(fd: int, events: int) -> None:
        if events & WRITE:
            try:
                del outbox[: one.send(outbox)]
            except BlockingIOError:
                return
            if not outbox:
                loop.update_handler(fd, READ)

    def read(_fd: int, _events: int) -> None:
        nonlocal received
        received += len(other.recv(65536))
        if received == 4_000_000:
            loop.stop()

    loop.add_handler(one.fileno(), write, READ)
    loop.add_handler(other.fileno(), read, READ)
    loop.update_handler(one.fileno(), READ | WRITE)
    loop.start()
    assert not outbox


def test_the_end_of_a_peer_is_readable(loop: Loop, pair: tuple[socket.socket, socket.socket]) -> None:
    one, other = pair

    def handler(_fd: int, events: int) -> None:
        assert events & READ
        assert one.recv(10) == b""
        loop.stop()

    loop.add_handler(one.fileno(), handler, READ)
    other.close()
    loop.start()


def test_a_descriptor_closed_by_an_earlier_handler_is_left_alone(loop: Loop) -> None:
    pairs = [socket.socketpair() for _ in range(2)]
    handled: list[int] = []

    def handler(fd: int, _events: int) -> None:
        handled.append(fd)
        for (
            one,
            _other,
        ) in pairs:  # both were readable; whoever comes first closes both, and opens another in their place
            remove(loop, one)
        fresh, _ = pairs[0] = socket.socketpair()
        loop.add_handler(fresh.fileno(), lambda _fd, _events: pytest.fail("nothing was sent to it"), READ)
        loop.call_later(0.01, loop.stop)

    for one, other in pairs:
        loop.add_handler(one.fileno(), handler, READ)
        other.send(b"x")
    kept = [other for _, other in pairs]
    loop.start()
    assert len(handled) == 1
    for end in (*kept, *pairs[0]):
        end.close()


def test_what_is_left_to_the_end_of_the_turn_runs_once(loop: Loop) -> None:
    seen: list[str] = []

    def event() -> None:
        seen.append("event")
        loop.at_end_of_turn(lambda: seen.append("end"))

    loop.add_callback(event)
    loop.add_callback(lambda: seen.append("event"))
    loop.call_later(0.02, loop.stop)
    loop.start()
    assert seen == ["event", "event", "end"]


def test_an_error_ends_the_run_and_is_raised(loop: Loop) -> None:
    def fail() -> None:
        raise ValueError("a bug")

    loop.add_callback(fail)
    with pytest.raises(ValueError, match="a bug"):
        loop.start()
