"""A cluster of several nodes: each in a network of its own, coming and going without harm to the others."""

from typing import Any

import pytest
from second_cluster import run_scenario

NODES = {"warren", "warren-2", "warren-3"}


@pytest.fixture(scope="module")
def seen() -> dict[str, Any]:
    return run_scenario("cluster_nodes_scenario.py")


def all_reached(found: dict[str, dict[str, bool]], nodes: set[str]) -> bool:
    return found == {node: dict.fromkeys({*nodes, "service"}, True) for node in nodes}


def test_nodes_join_a_cluster_that_runs_and_leave_it_alone(seen: dict[str, Any]) -> None:
    assert {name.removeprefix("node/") for name in seen["three"]} == NODES
    assert seen["touched by more nodes"] == []
    assert seen["touched by nothing"] == []


def test_every_pod_reaches_every_other_and_every_service(seen: dict[str, Any]) -> None:
    assert all_reached(seen["reached"], NODES), seen["reached"]


def test_a_node_that_is_cut_off_is_reached_by_nobody_until_it_is_mended(seen: dict[str, Any]) -> None:
    assert seen["cut"] == {"warren": True, "warren-2": False, "warren-3": True}
    assert all_reached(seen["mended"], NODES), seen["mended"]


def test_a_node_that_is_wanted_no_more_goes_and_the_others_stay(seen: dict[str, Any]) -> None:
    assert {name.removeprefix("node/") for name in seen["two"]} == {"warren", "warren-2"}
    assert seen["components of two"] == []
    assert all_reached(seen["two reached"], {"warren", "warren-2"}), seen["two reached"]


def test_nothing_is_left_of_any_of_them(seen: dict[str, Any]) -> None:
    assert seen["after"] == seen["before"]
