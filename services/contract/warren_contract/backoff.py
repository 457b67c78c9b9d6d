"""How long to wait before the next try: exponential, capped, with jitter."""

import random
from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Backoff:
    """Exponential backoff with full jitter on its upper half.

    Half of each delay is fixed, so that a retry never spins; the other half is random, so that many clients that lost
    the same broker do not come back in step.

    Attributes:
        first: the first delay's upper end, in seconds.
        longest: the cap, in seconds.
        factor: growth from one delay to the next.
    """

    first: float = 0.2
    longest: float = 10.0
    factor: float = 2.0

    def delays(self, rng: random.Random | None = None) -> Iterator[float]:
        """Seconds to wait before each further try, without end."""
        rng = rng or random.Random()  # noqa: S311  jitter is no secret
        ceiling = self.first
        while True:
            yield ceiling / 2 + rng.random() * ceiling / 2
            ceiling = min(self.longest, ceiling * self.factor)
