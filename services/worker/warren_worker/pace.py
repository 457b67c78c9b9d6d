"""How often something may be said."""


class Pace:
    """At most one in `gap` seconds in the long run, and `burst` of them at once after a quiet time.

    The generic cell rate algorithm of ITU-T I.371: each one fills a bucket by `gap`, time empties it.

    Args:
        gap: seconds.
        burst: how many.
    """

    def __init__(self, gap: float, burst: int) -> None:
        self._gap = gap
        self._depth = (burst - 1) * gap
        self._full_until = float("-inf")

    def wait(self, now: float) -> float:
        """Seconds until the next one may be said; zero if it may be said at once."""
        return max(0.0, self._full_until - self._depth - now)

    def spend(self, now: float) -> None:
        """One has been said."""
        self._full_until = max(self._full_until, now) + self._gap
