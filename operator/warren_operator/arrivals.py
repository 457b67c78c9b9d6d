"""How many tasks a second come into a queue, whoever submits them: measured, not told.

What comes in either waits or has been taken up: the tasks that are ready, plus all that workers have ever started, grow
by exactly the arrivals. Redeliveries count as arrivals, since they are work again.
"""

from collections import deque

SPAN = 8.0
"""Seconds of one span. Workers report at most once a second: over a shorter one, the reports' delay would show."""

SPANS = 4
"""Spans that are looked at. The rate is that of the second lowest: a burst is not traffic, also where it begins in one
span and ends in the next, and one gap does not end traffic."""

DIP = 3.0
"""Seconds that the sum may fall behind: workers take up tasks at once, and tell it up to a second later. A sum that
stays lower lost tasks in another way (purged, expired), and is counted from there."""

GRAIN = 0.25
"""Seconds that one sample stands for."""


class Arrivals:
    """The arrivals of one queue. Times are seconds on one clock."""

    def __init__(self, now: float) -> None:
        self._began = now
        self._high = 0
        self._offset: int | None = None
        self._dip_since: float | None = None
        self._samples: deque[tuple[float, int]] = deque()

    def note(self, total: int, now: float) -> None:
        """Take in the sum of the tasks that are ready and of those ever started, as known at `now`."""
        if self._offset is None:
            self._offset = -total  # what was there before is no arrival
        value = total + self._offset
        if value < self._high:
            self._dip_since = now if self._dip_since is None else self._dip_since
            if now - self._dip_since > DIP:
                self._offset += self._high - value
                self._dip_since = None
            return
        self._dip_since = None
        if value == self._high:
            return
        self._high = value
        if self._samples and now - self._samples[-1][0] < GRAIN:
            self._samples[-1] = (self._samples[-1][0], value)
        else:
            self._samples.append((now, value))
        while len(self._samples) > 1 and self._samples[1][0] <= now - SPAN * SPANS:
            self._samples.popleft()

    def rate(self, now: float) -> float | None:
        """Tasks a second that come in steadily; None until known, which takes half of the time looked at."""
        if now - self._began < SPAN * SPANS / 2:
            return None
        counts = [0] * SPANS
        before = 0
        for at, value in self._samples:
            span = int((now - at) // SPAN)
            if span < SPANS:
                counts[span] += value - before
            before = value
        return sorted(counts)[1] / SPAN
