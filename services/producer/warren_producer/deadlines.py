"""One timer for thousands of waits that may all last equally long, in place of a timer for each."""

import asyncio
from collections import deque
from typing import Generic, Protocol, TypeVar

T_contra = TypeVar("T_contra", contravariant=True)


class Waiting(Protocol[T_contra]):
    """Whatever waits for an outcome."""

    @property
    def wanted(self) -> bool:
        """Whether it waits still."""

    def settle(self, outcome: T_contra) -> None:
        """End the wait; must not raise."""


T = TypeVar("T")


class Deadlines(Generic[T]):
    """Ends waits that have no outcome in time. They end in the order in which they were added.

    Args:
        limit: seconds that each may take.
        late: the outcome of one that took longer.
    """

    def __init__(self, limit: float, late: T) -> None:
        self.limit = limit
        self._late = late
        self._waiting: deque[tuple[float, Waiting[T]]] = deque()
        self._clock: asyncio.TimerHandle | None = None

    def __len__(self) -> int:
        """Waits that are looked after, those included that have ended behind one that has not."""
        return len(self._waiting)

    def add(self, waiter: Waiting[T]) -> None:
        """Let `waiter` have its outcome within the limit, from now on."""
        loop = asyncio.get_running_loop()
        waiting = self._waiting
        while waiting and not waiting[0][1].wanted:
            waiting.popleft()
        waiting.append((loop.time() + self.limit, waiter))
        if self._clock is None:
            self._clock = loop.call_later(self.limit, self._look)

    def _look(self) -> None:
        """End those that are due, and come back for the next one."""
        self._clock = None
        waiting = self._waiting
        loop = asyncio.get_running_loop()
        while waiting:
            due, waiter = waiting[0]
            if waiter.wanted:
                if due > loop.time():
                    self._clock = loop.call_at(due, self._look)
                    return
                waiter.settle(self._late)
            waiting.popleft()
