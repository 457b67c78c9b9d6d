"""Which faults come, in which order and for how long: drawn from a seed, so that a run can be had again. Pure.

Faults come in lanes, one after the other in each and the lanes side by side: two that take away a broker each would
take away the majority, which is more than three brokers promise to bear.
"""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of fault in the schedule.

    Attributes:
        name: its own.
        hold: the shortest and longest seconds that it lasts; both 0 for what happens in a moment.
    """

    name: str
    hold: tuple[float, float] = (0.0, 0.0)


@dataclass(frozen=True, slots=True)
class Lane:
    """Faults that come one after the other.

    Attributes:
        name: its own.
        kinds: that it has.
        pause: the shortest and longest seconds between the end of one and the next.
    """

    name: str
    kinds: Sequence[Kind]
    pause: tuple[float, float]


@dataclass(frozen=True, slots=True)
class Step:
    """One fault to come.

    Attributes:
        number: from 0, in its lane.
        kind: of the fault.
        pause: seconds to wait before it.
        hold: seconds that it lasts.
        draw: from which it draws what else it has to choose, such as its victim.
    """

    number: int
    kind: str
    pause: float
    hold: float
    draw: int


def steps(seed: int, lane: Lane) -> Iterator[Step]:
    """The faults of a lane, without an end.

    All kinds come once, in an order drawn anew, before any of them comes again.
    """
    draw = random.Random(f"{seed} {lane.name}")
    number = 0
    while True:
        for kind in draw.sample(list(lane.kinds), len(lane.kinds)):
            yield Step(number, kind.name, draw.uniform(*lane.pause), draw.uniform(*kind.hold), draw.randrange(2**32))
            number += 1


def at_most(lane: Lane, recovery: float) -> float:
    """Seconds until each kind of a lane has come once at the latest, with so many seconds for each to be well again."""
    return sum(lane.pause[1] + kind.hold[1] + recovery for kind in lane.kinds)
