"""One timer for thousands of waits that may all last equally long, in place of a timer for each."""

import asyncio
from collections import deque
from typing import Generic, TypeVar

T = TypeVar("T")


class Deadlines(Generic[T]):
    """Ends futures that have no result in time. They end in the order in which they were added.

    Args:
        limit: seconds that each may take.
        late: the result of one that took longer.
    """

    def __init__(self, limit: float, late: T) -> None:
        self.limit = limit
        self._late = late
        self._waiting: deque[tuple[float, asyncio.Future[T]]] = deque()
        self._clock: asyncio.TimerHandle | None = None

    def __len__(self) -> int:
        """Futures that are looked after, those included that have ended behind one that has not."""
        return len(self._waiting)

    def add(self, future: asyncio.Future[T]) -> None:
        """Let `future` have its result within the limit, from now on."""
        loop = future.get_loop()
        waiting = self._waiting
        while waiting and waiting[0][1].done():
            waiting.popleft()
        waiting.append((loop.time() + self.limit, future))
        if self._clock is None:
            self._clock = loop.call_later(self.limit, self._look)

    def _look(self) -> None:
        """End those that are due, and come back for the next one."""
        self._clock = None
        waiting = self._waiting
        while waiting:
            due, future = waiting[0]
            if not future.done():
                loop = future.get_loop()
                if due > loop.time():
                    self._clock = loop.call_at(due, self._look)
                    return
                future.set_result(self._late)
            waiting.popleft()
