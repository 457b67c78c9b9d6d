"""Which queue is to be read next: hinted ones at once, the others when they are due."""

import heapq
import itertools
from typing import Generic, TypeVar

K = TypeVar("K")


class Agenda(Generic[K]):
    """Keys with the times at which they are due. Times are seconds on one clock."""

    def __init__(self) -> None:
        self._due: dict[K, float] = {}
        self._heap: list[tuple[float, int, K]] = []
        self._hints: dict[K, None] = {}  # in the order in which they came
        self._count = itertools.count()

    def schedule(self, key: K, at: float) -> None:
        """Make `key` due at `at`, whatever it was before."""
        self._due[key] = at
        heapq.heappush(self._heap, (at, next(self._count), key))

    def hasten(self, key: K, at: float) -> None:
        """Make a known key due at `at`, unless it is due sooner."""
        if self._due.get(key, at) > at:
            self.schedule(key, at)

    def hint(self, key: K) -> None:
        """Make a known key due at once, before all that are merely due."""
        if key in self._due:
            self._hints[key] = None

    @property
    def hinted(self) -> bool:
        """Whether the next key is one that was hinted at."""
        return bool(self._hints)

    def drop(self, key: K) -> None:
        """Forget a key."""
        self._due.pop(key, None)
        self._hints.pop(key, None)

    def pop(self, now: float) -> K | None:
        """The next key to see to; it has to be scheduled again. None where nothing is due."""
        if self._hints:
            key = next(iter(self._hints))
            del self._hints[key]
            return key
        while self._heap and self._heap[0][0] <= now:
            at, _, key = heapq.heappop(self._heap)
            if self._due.get(key) == at:
                return key
        return None

    def next_at(self) -> float | None:
        """When the next key is due; None where there is none."""
        while self._heap and self._due.get(self._heap[0][2]) != self._heap[0][0]:
            heapq.heappop(self._heap)
        if self._hints:
            return float("-inf")
        return self._heap[0][0] if self._heap else None
