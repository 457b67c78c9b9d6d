"""Signals as values: received from the first moment on, handled when the loop turns."""

import os
import signal
import socket
from collections.abc import Callable, Iterable
from contextlib import suppress
from types import TracebackType
from typing import TYPE_CHECKING, Self

from warren_worker.forks import defaults_in_forks

if TYPE_CHECKING:  # this module is there before pika, on which the loop is built
    from warren_worker.loop import Loop

HANDLED = (signal.SIGTERM, signal.SIGINT, signal.SIGCHLD)


class Signals:
    """While entered, SIGTERM, SIGINT and SIGCHLD are noted, and `attach` hands them to a callback in the loop.

    Enter this before anything slow: the first process of a container does not even get a SIGTERM that it has no handler
    for, and Kubernetes would wait for the whole grace period. The image's entry point blocks SIGTERM while the
    interpreter starts; here it is let through.

    What a handler's thread forks takes no part in this: it would write into our socket, and a SIGTERM that was meant
    for it would end the worker.
    """

    def __init__(self) -> None:
        self._read, self._write = socket.socketpair()
        self._read.setblocking(False)
        self._write.setblocking(False)

    def __enter__(self) -> Self:
        for number in HANDLED:
            signal.signal(number, _noted)
        defaults_in_forks(HANDLED, _noted)
        signal.set_wakeup_fd(self._write.fileno(), warn_on_full_buffer=False)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, HANDLED)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.forget()

    def attach(self, loop: "Loop", callback: Callable[[int], object]) -> None:
        """Call `callback` with each signal's number, the ones noted so far first."""

        def on_signals(_fd: int, _events: int) -> None:
            with suppress(BlockingIOError):
                for number in self._read.recv(512):
                    callback(number)

        loop.add_handler(self._read.fileno(), on_signals, loop.READ)

    def forget(self) -> None:
        """Back to the defaults; also for a forked process, which must not write into its parent's socket."""
        signal.set_wakeup_fd(-1)
        for number in HANDLED:
            signal.signal(number, signal.SIG_DFL)
        self._read.close()
        self._write.close()


def reap() -> Iterable[int]:
    """Bury every child that has ended; their process ids.

    The first process of a container inherits what handlers left running. Call this only where all children are ours
    alone: in a worker with threads, a handler may be waiting for its own.
    """
    buried = []
    while True:
        try:
            pid, _status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            break
        if pid == 0:
            break
        buried.append(pid)
    return buried


def _noted(_number: int, _frame: object) -> None:
    """The interpreter writes the number to the socket; that is all."""
