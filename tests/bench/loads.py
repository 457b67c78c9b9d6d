"""The works: which tasks come when. Values, so that the same load meets every scaler."""

import math
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Arrival:
    """A task to be submitted.

    Attributes:
        at: seconds from the beginning.
        seconds: of work in it; whole, a dot each.
    """

    at: float
    seconds: int


@dataclass(frozen=True)
class Load:
    """Tasks in the order of their coming.

    Attributes:
        arrivals: the tasks.
        workers: most workers at once.
    """

    arrivals: tuple[Arrival, ...]
    workers: int

    @property
    def work(self) -> float:
        """Seconds of work in all tasks: the fewest pod-seconds that it takes."""
        return float(sum(arrival.seconds for arrival in self.arrivals))

    @property
    def ideal(self) -> float:
        """Seconds to the end with all workers there from the beginning, the longest task first where all come at once.

        Exact for tasks of one length that come at once, and for no more tasks than workers; else a lower bound.
        """
        alike = len({item.seconds for item in self.arrivals}) == 1
        rounds = math.ceil(len(self.arrivals) / self.workers) if alike else 0
        longest = max(item.at + item.seconds for item in self.arrivals)
        return float(max(longest, self.work / self.workers, rounds * self.arrivals[0].seconds))


def burst(tasks: int = 60, seconds: int = 2, workers: int = 12) -> Load:
    """All at once."""
    return Load(tuple(Arrival(0.0, seconds) for _ in range(tasks)), workers)


def mixed(tasks: int = 12, short: int = 4, long: int = 60, seed: int = 1) -> Load:
    """Half short and half long tasks in random order, all at once, a worker for each."""
    lengths = [short, long] * (tasks // 2)
    random.Random(seed).shuffle(lengths)
    return Load(tuple(Arrival(0.0, seconds) for seconds in lengths), tasks)


STEPS = (0.5, 3.0, 1.0, 4.0, 0.0)
"""Tasks a second, a tenth of the time each."""


def steps_and_sine(duration: float = 600.0, workers: int = 12, seed: int = 1) -> Load:
    """Half the time steps, half a sine of two periods, in tasks of 2 to 4 s that come at random (Poisson)."""
    half = duration / 2

    def rate(at: float) -> float:
        if at < half:
            return STEPS[int(at / half * len(STEPS))]
        return 1.5 - 1.5 * math.cos(4 * math.pi * (at - half) / half)

    draw = random.Random(seed)
    times = poisson(rate, max(4.0, *STEPS), duration, draw)
    return Load(tuple(Arrival(at, draw.randint(2, 4)) for at in times), workers)


def poisson(rate: Callable[[float], float], highest: float, duration: float, draw: random.Random) -> Iterator[float]:
    """Random times at a rate that changes, by thinning (Lewis and Shedler 1979).

    Args:
        rate: events a second at a time; never more than `highest`.
        highest: events a second.
        duration: seconds.
        draw: the source of chance.
    """
    at = draw.expovariate(highest)
    while at < duration:
        if draw.random() * highest < rate(at):
            yield at
        at += draw.expovariate(highest)
