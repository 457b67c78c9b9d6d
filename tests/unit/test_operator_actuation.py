"""Which pods are marked before a scale-in."""

import pytest

from warren_operator.actuation import VICTIM_COST, ScaleIn, marks
from warren_operator.resource import Key
from warren_operator.workloads import Deployment, Pod, TargetState

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
        # All go: marks would only make the kubelet slower.
        ({"a": None, "b": VICTIM_COST, "c": None}, 0, ("a", "b", "c"), {}),
    ],
)
def test_only_the_victims_are_marked_and_only_where_there_is_a_choice(
    costs: dict[str, str | None], wanted: int, victims: tuple[str, ...], expected: dict[str, str | None]
) -> None:
    assert marks(state(THREE, **costs), ScaleIn(TARGET, 3, wanted, victims)) == expected
