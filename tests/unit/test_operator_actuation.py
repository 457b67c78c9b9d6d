"""Which pods are marked before a scale-in."""

from dataclasses import replace
from typing import TYPE_CHECKING, Any, cast

import pytest

from warren_operator.actuation import RANKED, VICTIM_COST, Actuator, Outdated, ScaleIn, marks, ranks
from warren_operator.resource import Key
from warren_operator.workloads import Deployment, Pod, TargetState

if TYPE_CHECKING:
    from warren_operator.kube import Changes

TARGET = Key("jobs", "worker")


def state(deployment: Deployment, **costs: str | None) -> TargetState:
    """A target with these pods, by name and deletion cost."""
    pods = tuple(
        Pod(name, "rs", 0.0, running=True, ready=True, ready_since=1.0, ending=False, over=False, failing="", cost=cost)
        for name, cost in costs.items()
    )
    return TargetState(deployment, pods, (), rollout=False, settled=True)


THREE = Deployment("uid", replicas=3, settled=True)


@pytest.mark.parametrize(
    ("costs", "wanted", "victims", "expected"),
    [
        # A choice has to be made: the victim is marked, what is marked already is left alone.
        ({"a": None, "b": None, "c": None}, 2, ("b",), {"b": VICTIM_COST}),
        ({"a": None, "b": VICTIM_COST, "c": None}, 1, ("b", "c"), {"c": VICTIM_COST}),
        # A mark that was left over must not take away a worker that is to stay.
        ({"a": VICTIM_COST, "b": None, "c": "5"}, 2, ("b",), {"a": None, "b": VICTIM_COST}),
        # Marked ahead, and well: nothing is left to do.
        ({"a": "-899", "b": "-900", "c": "-898"}, 1, ("a", "b"), {}),
        # Marked ahead in another order than the one that it came to.
        ({"a": "-899", "b": "-900", "c": "-898"}, 2, ("c",), {"c": VICTIM_COST}),
        ({"a": "-899", "b": VICTIM_COST, "c": "-898"}, 2, ("a",), {"a": VICTIM_COST, "b": None}),
        # All go: marks would only make the kubelet slower.
        ({"a": None, "b": VICTIM_COST, "c": None}, 0, ("a", "b", "c"), {}),
    ],
)
def test_only_the_victims_are_marked_and_only_where_there_is_a_choice(
    costs: dict[str, str | None], wanted: int, victims: tuple[str, ...], expected: dict[str, str | None]
) -> None:
    assert marks(state(THREE, **costs), ScaleIn(TARGET, 3, wanted, victims)) == expected


@pytest.mark.parametrize(
    ("costs", "order", "expected"),
    [
        ({"a": None, "b": None, "c": None}, ("c", "a"), {"c": "-900", "a": "-899"}),
        # In this order already, whatever the numbers.
        ({"a": "-880", "b": None, "c": "-890"}, ("c", "a"), {}),
        ({"a": "-900", "b": None, "c": "-899"}, ("c", "a"), {"c": "-900", "a": "-899"}),
        # What was marked to go and did not is one of them; what somebody else marked is not ours.
        ({"a": VICTIM_COST, "b": "-5", "c": None}, ("c", "b", "a"), {"c": "-900", "a": "-899"}),
        # One that is gone meanwhile.
        ({"a": None, "b": None}, ("gone", "a", "b"), {"a": "-900", "b": "-899"}),
    ],
)
def test_pods_are_marked_ahead_in_the_order_in_which_they_will_be_free(
    costs: dict[str, str | None], order: tuple[str, ...], expected: dict[str, str]
) -> None:
    assert ranks(state(THREE, **costs), order) == expected


def test_a_flock_is_not_marked_ahead_as_a_whole() -> None:
    names = [f"w{number}" for number in range(3 * RANKED)]
    assert list(ranks(state(THREE, **dict.fromkeys(names)), names)) == names[:RANKED]


class Server:
    """Takes every change, and has something happen when the first pod is marked."""

    def __init__(self, target: TargetState, then: TargetState) -> None:
        self.target = target
        self._then = then
        self.scaled = False

    async def request(self, _method: str, path: str, **_more: Any) -> dict[str, Any]:
        """One call."""
        self.target = self._then
        self.scaled = self.scaled or path.endswith("/scale")
        return {}


@pytest.mark.parametrize(("rollout", "settled"), [(True, True), (False, False), (True, False)])
async def test_a_rollout_that_begins_while_pods_are_marked_ends_the_scale_in(rollout: bool, settled: bool) -> None:
    """The patch would be divided between two ReplicaSets, and take others than the victims."""
    before = state(THREE, a=None, b=None, c=None)
    marked = state(THREE, a=None, b=VICTIM_COST, c=None)
    server = Server(before, replace(marked, rollout=rollout, settled=settled))
    order = ScaleIn(TARGET, 3, 2, ("b",))
    with pytest.raises(Outdated, match="rollout"):
        await Actuator(cast("Changes", server)).scale_in(order, lambda: server.target, lambda _victims: True)
    assert not server.scaled
    quiet = Server(before, marked)
    await Actuator(cast("Changes", quiet)).scale_in(order, lambda: quiet.target, lambda _victims: True)
    assert quiet.scaled
