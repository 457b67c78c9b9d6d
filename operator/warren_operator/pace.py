"""How much looking the operator affords itself."""

SHARE = 0.1
"""Share of one core that regular looks may take. It is processor time: where others keep the processor busy, looks take
longer, and are no more expensive."""

WINDOW = 10.0
"""Seconds over which that is measured: a burst of looks says nothing."""

LONGEST = 20.0
"""Times as long as asked for, at most, a pause becomes. A cluster that needs more needs a second operator."""


class Pace:
    """Stretches the pauses between looks when there is too much to look at: all of them alike, so that a queue that is
    to be read four times as often as another still is.

    Attributes:
        stretch: times as long as asked for; 1 while there is time enough.
    """

    def __init__(self, now: float) -> None:
        """Args:
        now: seconds of a clock.
        """
        self.stretch = 1.0
        self._since = now
        self._spent = 0.0

    def spend(self, seconds: float, now: float) -> None:
        """Note what looks have taken, in seconds of processor time, and once a window draw the conclusion."""
        self._spent += seconds
        passed = now - self._since
        if passed < WINDOW:
            return
        # Half the pauses cost twice as much: this is what brings the cost to the share, if the looks stay as they are.
        self.stretch = min(max(1.0, self.stretch * self._spent / passed / SHARE), LONGEST)
        self._since, self._spent = now, 0.0
