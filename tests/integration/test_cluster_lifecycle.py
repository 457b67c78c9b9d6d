"""The node that we run ourselves survives every crash, and goes without a trace.

A second one runs beside the cluster in use.
"""

from typing import Any

import pytest
from second_cluster import run_scenario

AS_BEFORE = ("nothing to do", "half of it killed", "keepers left", "only keepers killed", "hung")
"""After these, the pod's process is the one that ran before."""
STARTED_ANEW = ("all of it killed", "network namespace deleted", "rebooted")
"""After each of these, the pod's process is a new one, with the volume of the one before."""


@pytest.fixture(scope="module")
def seen() -> dict[str, Any]:
    return run_scenario("cluster_scenario.py")


def test_a_cluster_that_works_is_left_alone(seen: dict[str, Any]) -> None:
    assert seen["untouched"] is True


def test_pods_run_on_while_their_cluster_is_put_right(seen: dict[str, Any]) -> None:
    assert {name: seen[name]["starts"] for name in AS_BEFORE} == dict.fromkeys(AS_BEFORE, 1)


def test_pods_start_anew_with_their_volumes_after_a_crash_of_everything(seen: dict[str, Any]) -> None:
    starts = [seen[name]["starts"] for name in STARTED_ANEW]
    assert starts == sorted(set(starts))
    assert starts[0] > 1


def test_without_its_data_it_begins_empty(seen: dict[str, Any]) -> None:
    assert seen["etcd's data lost"]["starts"] == 1


def test_every_way_to_a_pod_leads_to_it(seen: dict[str, Any]) -> None:
    for name in ("running", *AS_BEFORE, *STARTED_ANEW, "etcd's data lost", "volume made anew", "begun again"):
        assert seen[name]["forwarded"] == str(seen[name]["starts"])


def test_volumes_go_with_their_claims(seen: dict[str, Any]) -> None:
    assert seen["volumes left"] == []
    assert seen["volume made anew"]["starts"] == 1


def test_nothing_of_it_is_left_even_after_a_crash(seen: dict[str, Any]) -> None:
    assert seen["after"] == seen["before"]
    assert seen["in the end"] == seen["before"]
    assert seen["before"]["processes"] == []


def test_it_begins_again_empty(seen: dict[str, Any]) -> None:
    assert seen["begun again"]["starts"] == 1
