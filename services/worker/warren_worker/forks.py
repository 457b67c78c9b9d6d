"""Signals in what a handler forks.

A program that is started has the defaults; the kernel sees to that. A mere fork, as `multiprocessing` makes them, keeps
the functions that stand for signals in its parent: it would take no notice of a SIGTERM that is meant to end it.
"""

import os
import signal
import threading
from collections.abc import Callable, Iterable


class _Held(threading.local):
    """The signals that are held back while this thread forks."""

    signals: frozenset[int] = frozenset()


def defaults_in_forks(numbers: Iterable[int], function: Callable[[int, object], object]) -> None:
    """Put signals back to their defaults in all that is forked without a program from here on, by whatever thread.

    Only those for which `function` still stands: what a handler has set itself, its forks inherit as everywhere. Call
    this once; what is forked registers nothing of its own, and still does so for its own forks.

    The signals are held back meanwhile. One that comes at once, as with `terminate` right after `start`, would find the
    function still in place in nearly all cases: lost, or written to the descriptor that wakes the parent.
    """
    ours = frozenset(numbers)
    held = _Held()

    def before() -> None:
        held.signals = ours  # should the next line raise what another signal's function raises
        held.signals = ours - signal.pthread_sigmask(signal.SIG_BLOCK, ours)

    def release() -> None:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, held.signals)

    def in_child() -> None:
        found = [number for number in ours if signal.getsignal(number) is function]
        for number in found:
            signal.signal(number, signal.SIG_DFL)
        if found:
            signal.set_wakeup_fd(-1)  # the parent's
        release()

    os.register_at_fork(before=before, after_in_parent=release, after_in_child=in_child)
