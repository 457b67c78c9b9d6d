"""The operator cut off from what it needs: it says so and what to do, and the workers stay as they were.

It runs beside the cluster, behind proxies, with the rights of the release's own operator, which sleeps meanwhile. Two
workers have tasks in hand all the time, others idle.
"""

from collections.abc import Iterator
from typing import Any

import pytest
from evidence_release import WORKERS, Evidence
from kube import Kube
from operators import LocalOperator, operator_beside
from steady import BUSY, IDLE, NONE, SPARE, at_work, lasting, told, untouched, well_again
from waiting import eventually

from warren_operator.observation import STATISTICS_AGE

ROLE = "role/warren-operator"


@pytest.fixture(scope="module")
def evidence(recorded: Kube) -> Iterator[Evidence]:
    """The release at work."""
    with at_work(recorded) as evidence:
        yield evidence


@pytest.fixture(scope="module")
def beside(evidence: Evidence, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalOperator]:
    """The operator behind proxies, in place of the release's own."""
    with operator_beside(evidence.kube, tmp_path_factory.mktemp("operator")) as operator:
        yield operator


def test_statistics_are_missing(evidence: Evidence, beside: LocalOperator) -> None:
    """Tasks that wait are counted without them, so more workers come; none goes, as nobody knows what is in work."""
    kube = evidence.kube
    beside.management.refuse()
    try:
        with untouched(evidence):
            told(evidence, BUSY, "TopologyUnknown", "management API cannot be reached", "see that the plugin")
            lasting(evidence, STATISTICS_AGE + 1)  # until what was known is too old
        task = evidence.submit(NONE, "0")
        eventually(lambda: any(run.ended for run in evidence.runs({task})), "a worker comes for a new task")
        kube.patch(f"workqueue/{IDLE}", {"spec": {"minReplicas": 0}})
        with untouched(evidence):
            limited = eventually(
                lambda: (
                    row
                    if (row := evidence.condition(IDLE, "ScalingLimited")).get("reason") == "StatisticsMissing"
                    else None
                ),
                "what idles stays",
            )
            assert "statistics" in limited["message"]
            lasting(evidence, 3)
    finally:
        beside.management.accept()
        kube.patch(f"workqueue/{IDLE}", {"spec": {"minReplicas": 1}})
    eventually(lambda: evidence.release.replicas(NONE) == 0, "the worker that came goes again")
    well_again(evidence)


def test_a_permission_is_missing(evidence: Evidence, beside: LocalOperator) -> None:
    """First the one to change replicas, then the one to see pods, then all of them."""
    kube = evidence.kube
    rules = kube.get(ROLE)["rules"]

    def without(*resources: str) -> dict[str, Any]:
        kept = [{**rule, "resources": [name for name in rule["resources"] if name not in resources]} for rule in rules]
        return {"rules": [rule for rule in kept if rule["resources"]]}

    try:
        with untouched(evidence):
            kube.patch(ROLE, without("deployments/scale"))
            task = evidence.submit(NONE, "0")
            told(evidence, NONE, "ScalingRefused", "permission missing: allow", "deployments/scale")
            kube.patch(ROLE, without("deployments/scale", "pods"))
            told(evidence, BUSY, "ClusterUnreadable", "permission missing: allow", "pods")
        kube.patch(ROLE, {"rules": rules})
        eventually(lambda: any(run.ended for run in evidence.runs({task})), "the task that came meanwhile is done")
        eventually(lambda: evidence.release.replicas(NONE) == 0, "its worker is gone")
        well_again(evidence)
        with untouched(evidence):
            kube.patch(ROLE, {"rules": []})
            eventually(
                lambda: beside.exit_code() is not None or beside.metric("synced") == 0,
                "it has noticed",
            )
            assert "permission missing: allow the operator's service account" in beside.log.read_text("utf-8")
            lasting(evidence, 3)
    finally:
        kube.patch(ROLE, {"rules": rules})
    if eventually(lambda: (beside.exit_code(), beside.metric("synced")) != (None, 0), "it is well, or has ended"):
        beside.kill()
        beside.start()  # as Kubernetes does
    well_again(evidence)


def test_watches_stall(evidence: Evidence, beside: LocalOperator) -> None:
    """The connections stand and bring nothing: what the operator knows is old, and it takes nobody away by it."""
    beside.wait_until_it_serves()
    with untouched(evidence):
        beside.api.silent = True
        try:
            told(evidence, BUSY, "ClusterUnreadable", "cannot watch", "no worker is taken away")
            lasting(evidence, 3)
        finally:
            beside.api.silent = False
        well_again(evidence)


def test_the_operator_s_node_is_gone(evidence: Evidence, beside: LocalOperator) -> None:
    """It stands still with all its connections; tasks go on, and it goes on from what is then, not from what was."""
    beside.wait_until_it_serves()
    kube = evidence.kube
    with untouched(evidence):
        beside.freeze()
        try:
            task = evidence.submit(SPARE, "0")
            eventually(lambda: any(run.ended for run in evidence.runs({task})), "tasks are done without it")
            lasting(evidence, 10)
            kube.kubectl("scale", f"deployment/{WORKERS}{NONE}", "--replicas=0")
        finally:
            beside.thaw()
        well_again(evidence)


def test_the_operator_is_killed_and_starts_again(evidence: Evidence, beside: LocalOperator) -> None:
    with untouched(evidence):
        beside.kill()
        lasting(evidence, 2)
        beside.start()
        beside.wait_until_it_serves()
        lasting(evidence, 5)
        well_again(evidence)


def test_the_api_server_is_away_for_a_minute(evidence: Evidence, beside: LocalOperator) -> None:
    """Nothing can be written meanwhile; log and metrics tell, and what has happened is taken in afterwards."""
    beside.wait_until_it_serves()
    with untouched(evidence):
        beside.api.go_away()
        eventually(lambda: beside.metric("synced") == 0, "it has noticed")
        assert "see that the API server runs" in beside.log.read_text("utf-8")
        lasting(evidence, 60)
        beside.api.come_back(forgetful=True)
        eventually(lambda: beside.metric("synced") == 1, "it sees again")
        well_again(evidence)
    assert beside.exit_code() is None
