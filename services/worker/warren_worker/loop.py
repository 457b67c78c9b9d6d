"""The event loop of the IO thread: everything the worker waits for, in one place.

pika's `SelectConnection` runs on any loop that offers these few methods. pika's own loop asks the kernel twice to watch
for writability and waits once for it, for each acknowledgement; here a write is tried at the end of the turn in which
it was asked for, which nearly always succeeds, and the kernel is asked only where it does not. Linux only (epoll).
"""

import heapq
import select
import socket
import time
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from pika.adapters.utils.selector_ioloop_adapter import AbstractSelectorIOLoop

READ = select.EPOLLIN
WRITE = select.EPOLLOUT
ERROR = select.EPOLLERR

LONGEST_WAIT = 5.0
"""Seconds a turn takes at most: a backstop against a lost wake-up, as in pika's own loop."""

Handler = Callable[[int, int], None]


class Timer:
    """A callback that is due at a time; see `Loop.call_later`."""

    __slots__ = ("callback", "due")

    def __init__(self, due: float, callback: Callable[[], object]) -> None:
        self.due = due
        self.callback: Callable[[], object] | None = callback

    def cancel(self) -> None:
        """Make sure that the callback does not run."""
        self.callback = None

    def __lt__(self, other: "Timer") -> bool:
        return self.due < other.due


if TYPE_CHECKING:
    _Interface = AbstractSelectorIOLoop[Timer]
else:
    _Interface = AbstractSelectorIOLoop  # generic only for type checkers


class Loop(_Interface):
    """Watches file descriptors, timers and callbacks from other threads.

    All methods but `add_callback` belong to the thread that runs the loop. A callback's exception ends the run.
    """

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._handlers: dict[int, Handler] = {}
        self._interest: dict[int, int] = {}
        self._watched: dict[int, int] = {}
        self._eager: list[int] = []
        self._added: set[int] = set()
        self._timers: list[Timer] = []
        self._callbacks: deque[Callable[[], object]] = deque()
        self._last: list[Callable[[], object]] = []
        self._stopped = False
        self._asleep = False
        self._wake_read, self._wake_write = socket.socketpair()
        self._wake_read.setblocking(False)
        self._wake_write.setblocking(False)
        self.add_handler(self._wake_read.fileno(), self._on_wake, READ)

    @property
    def READ(self) -> int:  # noqa: N802  pika's interface
        """Event bit: readable."""
        return READ

    @property
    def WRITE(self) -> int:  # noqa: N802  pika's interface
        """Event bit: writable."""
        return WRITE

    @property
    def ERROR(self) -> int:  # noqa: N802  pika's interface
        """Event bit: failed."""
        return ERROR

    def start(self) -> None:
        """Run until `stop`; a callback's exception ends the run and is raised."""
        self._stopped = False
        while not self._stopped:
            self._turn()

    def stop(self) -> None:
        """End the run after this turn."""
        self._stopped = True

    def close(self) -> None:
        """Free the loop's own file descriptors."""
        self._epoll.close()
        self._wake_read.close()
        self._wake_write.close()

    def call_later(self, delay: float, callback: Callable[[], object]) -> Timer:
        """Run `callback` in `delay` seconds."""
        timer = Timer(time.monotonic() + delay, callback)
        heapq.heappush(self._timers, timer)
        return timer

    def remove_timeout(self, timeout_handle: Timer) -> None:
        """Cancel a timer."""
        timeout_handle.cancel()

    def add_callback(self, callback: Callable[[], object]) -> None:
        """Run `callback` in the loop's thread as soon as possible; any thread may call this."""
        self._callbacks.append(callback)
        # The loop raises the flag before it looks at the callbacks for the last time, so one of the two sees the other.
        if self._asleep:
            self._asleep = False
            self._wake()

    add_callback_threadsafe = add_callback

    def at_end_of_turn(self, callback: Callable[[], object]) -> None:
        """Run `callback` once before the loop waits again: for what is better done once for many events."""
        self._last.append(callback)

    def add_handler(self, fd: int, handler: Handler, events: int) -> None:
        """Call `handler(fd, events)` whenever one of `events` is there."""
        self._handlers[fd] = handler
        self._interest[fd] = events
        self._watched[fd] = events
        self._added.add(fd)
        self._epoll.register(fd, events)

    def update_handler(self, fd: int, events: int) -> None:
        """Wait for other events than before on a descriptor."""
        before = self._interest[fd]
        self._interest[fd] = events
        if events & WRITE and before & READ and not before & WRITE:
            self._eager.append(fd)
        elif self._watched[fd] & ~events or events & ~self._watched[fd] & ~(WRITE | ERROR):
            self._watch(fd, events)

    def remove_handler(self, fd: int) -> None:
        """Stop watching a descriptor; call this before it is closed."""
        del self._handlers[fd], self._interest[fd], self._watched[fd]
        self._epoll.unregister(fd)

    def _watch(self, fd: int, events: int) -> None:
        self._watched[fd] = events
        self._epoll.modify(fd, events)

    def _turn(self) -> None:
        if self._last:
            last, self._last = self._last, []
            for callback in last:
                callback()
        if self._eager:
            self._write_eagerly()
        self._asleep = True
        events = self._epoll.poll(0 if self._callbacks else self._wait())
        self._asleep = False
        self._added.clear()
        for fd, event in events:
            handler = self._handlers.get(fd)
            # A descriptor that an earlier handler of this turn closed, or closed and opened again, is not meant.
            if handler is not None and fd not in self._added:
                # A hang-up or an error shows itself to whoever reads or writes.
                failed = event & ~(READ | WRITE)
                handler(fd, event | (self._interest[fd] & (READ | WRITE)) if failed else event)
        for _ in range(len(self._callbacks)):
            self._callbacks.popleft()()
        if self._timers:
            self._run_timers()

    def _write_eagerly(self) -> None:
        eager, self._eager = self._eager, []
        for fd in eager:
            if self._interest.get(fd, 0) & WRITE and not self._watched[fd] & WRITE:
                self._handlers[fd](fd, WRITE)
                events = self._interest.get(fd, 0)
                if events & WRITE:
                    self._watch(fd, events)

    def _wait(self) -> float:
        if not self._timers:
            return LONGEST_WAIT
        return min(LONGEST_WAIT, max(0.0, self._timers[0].due - time.monotonic()))

    def _run_timers(self) -> None:
        now = time.monotonic()
        while self._timers and self._timers[0].due <= now:
            callback = heapq.heappop(self._timers).callback
            if callback is not None:
                callback()

    def _wake(self) -> None:
        try:
            self._wake_write.send(b"\0")
        except BlockingIOError:
            return  # the loop has enough to wake up for

    def _on_wake(self, _fd: int, _events: int) -> None:
        self._wake_read.recv(4096)


def remove(loop: Loop, sock: socket.socket | Any) -> None:
    """Stop watching a socket of ours and close it."""
    loop.remove_handler(sock.fileno())
    sock.close()
