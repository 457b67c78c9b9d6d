"""What is known about the queues from events: the operator's last word on each, and what the workers say themselves."""

import math
from dataclasses import dataclass

from warren_contract.events import Event, QueueState, WorkerState

STALE_AFTER = 30.0
"""Seconds. The operator repeats each state after 20 s at the latest (`TELL_QUIET_EVERY`)."""

STATE_FORGOTTEN_AFTER = 600.0
"""Seconds of silence about one queue, while the operator speaks of others, after which its WorkQueue counts as deleted.
Where the operator says nothing at all, its last words stay, as old as they are."""

WORKER_FORGOTTEN_AFTER = 35.0
"""Seconds of silence after which a worker counts as gone: it says something every 10 s, unless it was killed."""

MAX_QUEUES = 20_000
MAX_WORKERS = 20_000
"""Bounds of this process's memory against a flood of events; the longest silent go first."""


@dataclass(frozen=True, slots=True)
class Heard:
    """What events have told about one queue.

    Attributes:
        state: the operator's last; None if it never spoke.
        age: seconds since that was received; None if it never spoke.
        workers: last states of the queue's workers, by name.
    """

    state: QueueState | None
    age: float | None
    workers: tuple[WorkerState, ...]

    @property
    def stale(self) -> bool:
        """Whether the operator has been silent about the queue for too long to trust its last word."""
        return self.age is None or self.age > STALE_AFTER


class Board:
    """The last state of each queue and worker. Ages are counted from receipt, so that clocks need not agree."""

    def __init__(self) -> None:
        # Both in the order of receipt, oldest first.
        self._states: dict[str, tuple[QueueState, float]] = {}
        self._spoken_at = self._speaking_since = -math.inf
        """When the operator spoke last, and since when it has without a pause, in monotonic seconds."""
        self._workers: dict[tuple[str, str], tuple[WorkerState, float]] = {}
        self._names: dict[str, set[str]] = {}
        """The workers of each queue that has any, so that a look at one queue costs nothing for all others."""

    def hear(self, event: Event, now: float) -> None:
        """Take in an event.

        Args:
            event: of any kind; only states matter.
            now: monotonic time in seconds.
        """
        match event:
            case QueueState():
                self._states.pop(event.queue, None)
                self._states[event.queue] = (event, now)
                self._forget_deleted(now)
                if event.workers == 0:
                    # Nobody is left to say goodbye: these were killed.
                    for name in list(self._names.get(event.queue, ())):
                        if self._workers[event.queue, name][0].at < event.at:
                            self._forget((event.queue, name))
            case WorkerState():
                key = (event.queue, event.worker)
                self._forget(key)
                if event.running or not event.draining:
                    self._workers[key] = (event, now)
                    self._names.setdefault(event.queue, set()).add(event.worker)
            case _:
                return
        self._trim(now)

    def queues(self) -> list[str]:
        """Names of all queues heard of, sorted."""
        return sorted(self._states.keys() | self._names.keys())

    def heard(self, queue: str, now: float) -> Heard:
        """Everything known about `queue` at `now` (monotonic time in seconds)."""
        state, at = self._states.get(queue, (None, None))
        known = (self._workers[queue, name] for name in sorted(self._names.get(queue, ())))
        workers = tuple(last for last, heard in known if now - heard <= WORKER_FORGOTTEN_AFTER)
        return Heard(state=state, age=None if at is None else max(0.0, now - at), workers=workers)

    def _forget_deleted(self, now: float) -> None:
        """States that a speaking operator does not repeat any more."""
        if now - self._spoken_at > STALE_AFTER:
            self._speaking_since = now
        self._spoken_at = now
        if now - self._speaking_since <= STATE_FORGOTTEN_AFTER:
            return  # back after a pause, it has perhaps not told all of them yet
        while now - self._states[oldest := next(iter(self._states))][1] > STATE_FORGOTTEN_AFTER:
            del self._states[oldest]

    def _forget(self, key: tuple[str, str]) -> None:
        """A worker, by its queue and name, if it is known."""
        if self._workers.pop(key, None) is None:
            return
        queue, name = key
        names = self._names[queue]
        names.discard(name)
        if not names:
            del self._names[queue]

    def _trim(self, now: float) -> None:
        while self._workers:
            key = next(iter(self._workers))
            if len(self._workers) <= MAX_WORKERS and now - self._workers[key][1] <= WORKER_FORGOTTEN_AFTER:
                break
            self._forget(key)
        while len(self._states) > MAX_QUEUES:
            del self._states[next(iter(self._states))]
