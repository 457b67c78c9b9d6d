"""A budget that several WorkQueues share: how many of its workers each of them may have. Pure.

Three rounds, so that no queue's flood starves the others: first what each must have (minReplicas), then one worker for
each queue that has tasks, then the rest by priority, shared evenly between equals (max-min fairness: who wants less
than an even share gets what it wants, and what it leaves goes to the others).

A queue that has more than its share gives workers up only where others want them; they finish what they have in hand
first, and count until they are gone. So a budget is never overdrawn by what is given here.
"""

from bisect import bisect_right
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TypeVar

K = TypeVar("K")


@dataclass(frozen=True, slots=True)
class Demand:
    """What one queue would take of a budget.

    Attributes:
        wanted: workers that its own rules and bounds ask for.
        least: of these, workers that it must have.
        replicas: that its scale target asks for now.
        pods: that are there and not being deleted; more than replicas until its controllers have caught up.
        ending: pods that are being deleted, and still run.
        priority: who gets more than one worker first; the larger number.
    """

    wanted: int
    least: int = 0
    replicas: int = 0
    pods: int = 0
    ending: int = 0
    priority: int = 0

    @property
    def used(self) -> int:
        """Workers that it takes of the budget now."""
        return max(self.replicas, self.pods) + self.ending


def allocate(demands: Mapping[K, Demand], cap: int) -> dict[K, int]:
    """The most workers that each queue may ask for now.

    Args:
        demands: in the order in which equals are served, where one worker more or less has to go to somebody.
        cap: workers of all together.
    """
    ranked = sorted(demands, key=lambda key: -demands[key].priority)
    shares = dict.fromkeys(ranked, 0)

    def give(keys: Iterable[K], up_to: Callable[[Demand], int]) -> None:
        room = cap - sum(shares.values())
        wants = {key: max(0, up_to(demands[key]) - shares[key]) for key in keys}
        for key, more in _evenly(shares, wants, room).items():
            shares[key] += more

    for key in ranked:
        give([key], lambda demand: min(demand.least, demand.wanted))
    for key in ranked:
        give([key], lambda demand: min(1, demand.wanted))
    for priority in sorted({demand.priority for demand in demands.values()}, reverse=True):
        give([key for key in ranked if demands[key].priority == priority], lambda demand: demand.wanted)
    give(ranked, lambda demand: demand.replicas)  # who has more than its share keeps it while nobody else wants it
    return _in_time(demands, shares, cap)


def _evenly(have: Mapping[K, int], wants: Mapping[K, int], room: int) -> dict[K, int]:
    """What each gets of `room` on top of what it has: all come to the same level, as far as they want to."""

    def given(level: int) -> dict[K, int]:
        return {key: min(want, max(0, level - have[key])) for key, want in wants.items()}

    top = max((have[key] + want for key, want in wants.items()), default=0)
    level = bisect_right(range(top + 1), room, key=lambda level: sum(given(level).values())) - 1
    result = given(level)
    left = room - sum(result.values())
    for key, more in given(level + 1).items():  # what does not divide evenly goes to the first ones
        if left > 0 and more > result[key]:
            result[key], left = more, left - 1
    return result


def _in_time(demands: Mapping[K, Demand], shares: Mapping[K, int], cap: int) -> dict[K, int]:
    """The shares, as far as there is room for them before others have gone."""
    room = max(0, cap - sum(demand.used for demand in demands.values()))
    grants: dict[K, int] = {}
    for key, share in shares.items():
        more = min(max(0, share - demands[key].replicas), room)
        room -= more
        grants[key] = min(share, demands[key].replicas + more)
    return grants
