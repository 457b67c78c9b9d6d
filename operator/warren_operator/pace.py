"""How much of what it does again and again the operator affords itself."""

LOOKS_SHARE = 0.2
"""Share of one core that regular looks may take unless the settings say otherwise: what some thousands of queues need
to be looked at as often as one."""

TELLS_SHARE = 0.03
"""Share of one core that event messages about queues that change may take."""

WINDOW = 10.0
"""Seconds over which that is measured: a burst says nothing."""

LONGEST = 20.0
"""Times as long as asked for, at most, a pause becomes. A cluster that needs more needs a second operator."""


class Pace:
    """Stretches pauses where there is too much to do: all of them alike, so that a queue that is to be read four times
    as often as another still is.

    What counts is processor time: where others keep the processor busy, things take longer, and are no more expensive.

    Attributes:
        stretch: times as long as asked for; 1 while there is time enough.
    """

    def __init__(self, now: float, share: float = LOOKS_SHARE) -> None:
        """Args:
        now: seconds of a clock.
        share: of one core, that may be used.
        """
        self.stretch = 1.0
        self._share = share
        self._since = now
        self._spent = 0.0

    def spend(self, seconds: float, now: float) -> None:
        """Note so many seconds of processor time, and once a window draw the conclusion."""
        self._spent += seconds
        passed = now - self._since
        if passed < WINDOW:
            return
        # Half the pauses cost twice as much: this is what brings the cost to the share, if all else stays as it is.
        self.stretch = min(max(1.0, self.stretch * self._spent / passed / self._share), LONGEST)
        self._since, self._spent = now, 0.0
