"""Compact values of Kubernetes objects, and how to reach a cluster."""

import base64
import math
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml

from warren_contract.settings import SettingError
from warren_operator.kube import TOKEN, find_cluster
from warren_operator.workloads import (
    PROVEN_AFTER,
    Pod,
    read_autoscaler,
    read_deployment,
    read_pod,
    read_replica_set,
)


def owned(kind: str, **metadata: Any) -> dict[str, Any]:
    """Metadata of an object with a controller."""
    owner = {"kind": kind, "uid": "owner", "controller": True, "name": "x"}
    base = {"name": "n", "namespace": "media", "uid": "u", "creationTimestamp": "2026-01-01T00:00:00Z"}
    return {**base, "ownerReferences": [owner], **metadata}


def test_a_running_pod() -> None:
    ready = {"type": "Ready", "status": "True", "lastTransitionTime": "2026-01-01T00:00:09Z"}
    pod = read_pod({"metadata": owned("ReplicaSet"), "status": {"phase": "Running", "conditions": [ready]}})
    assert pod is not None
    assert (pod.owner, pod.running, pod.ready, pod.ending, pod.over, pod.failing) == (
        "owner",
        True,
        True,
        False,
        False,
        "",
    )
    assert pod.ready_since == pod.created + 9


@pytest.mark.parametrize("time", [{}, {"lastTransitionTime": None}])
def test_a_pod_that_is_ready_since_nobody_says_when(time: dict[str, Any]) -> None:
    ready = {"type": "Ready", "status": "True", **time}
    pod = read_pod({"metadata": owned("ReplicaSet"), "status": {"phase": "Running", "conditions": [ready]}})
    assert pod is not None
    assert pod.ready
    assert pod.ready_since == pod.created


def test_a_pod_that_cannot_start() -> None:
    waiting = {"state": {"waiting": {"reason": "ImagePullBackOff"}}}
    pod = read_pod({"metadata": owned("ReplicaSet"), "status": {"phase": "Pending", "containerStatuses": [waiting]}})
    assert pod is not None
    assert (pod.failing, pod.running, pod.ready_since) == ("ImagePullBackOff", False, None)


def test_a_pod_that_is_only_being_created_is_not_failing() -> None:
    waiting = {"state": {"waiting": {"reason": "ContainerCreating"}}}
    pod = read_pod({"metadata": owned("ReplicaSet"), "status": {"phase": "Pending", "containerStatuses": [waiting]}})
    assert pod is not None
    assert pod.failing == ""


def crashed(spec: dict[str, Any], changes: dict[str, Any]) -> Pod:
    """A pod whose container is up for the moment between two crashes; with these differences."""
    ended = {
        "exitCode": 1,
        "reason": "Error",
        "startedAt": "2026-01-01T00:00:00Z",
        "finishedAt": changes.pop("finishedAt", "2026-01-01T00:00:01Z"),
    }
    container = {
        "name": "worker",
        "ready": False,
        "restartCount": 2,
        "state": {"running": {"startedAt": "2026-01-01T00:00:20Z"}},
        "lastState": {"terminated": {**ended, "exitCode": changes.pop("exitCode", 1)}},
        **changes,
    }
    status = {"phase": "Running", "containerStatuses": [container]}
    pod = read_pod({"metadata": owned("ReplicaSet"), "spec": spec, "status": status})
    assert pod is not None
    return pod


PROBED = {"containers": [{"name": "worker", "readinessProbe": {"exec": {"command": ["true"]}}}]}
UNPROBED = {"containers": [{"name": "worker"}, {"name": "sidecar", "readinessProbe": {"exec": {"command": ["true"]}}}]}


def crashing(**changes: Any) -> str:
    """Why such a pod cannot start."""
    return crashed(PROBED, changes).failing


def test_a_pod_in_a_crash_loop_is_failing_also_while_it_runs_for_a_moment() -> None:
    assert crashing() == "CrashLoopBackOff"
    assert crashing(state={"terminated": {"exitCode": 1}}) == "CrashLoopBackOff"
    assert crashing(state={"waiting": {"reason": "CrashLoopBackOff"}}) == "CrashLoopBackOff"


@pytest.mark.parametrize(
    "difference",
    [
        {"ready": True},
        {"restartCount": 1},
        {"exitCode": 0},
        {"lastState": {}},
        {"finishedAt": "2026-01-01T00:10:00Z"},
    ],
)
def test_a_pod_that_has_come_up_or_failed_once_or_after_long_is_not_failing(difference: dict[str, Any]) -> None:
    assert crashing(**difference) == ""


def test_what_is_ready_without_a_probe_has_to_last_first() -> None:
    pod = crashed(UNPROBED, {"ready": True})
    began = datetime(2026, 1, 1, 0, 0, 20, tzinfo=UTC).timestamp()
    assert pod.failing == "CrashLoopBackOff"
    assert pod.fails(began)
    assert pod.fails(began + PROVEN_AFTER - 0.1)
    assert not pod.fails(began + PROVEN_AFTER)


def test_what_is_not_ready_never_proves_anything() -> None:
    assert crashed(UNPROBED, {}).fails(math.inf)
    assert crashed(UNPROBED, {"ready": True, "state": {"waiting": {"reason": "CrashLoopBackOff"}}}).fails(math.inf)


def test_a_pod_that_is_being_deleted_and_one_that_is_over() -> None:
    ending = read_pod({"metadata": owned("ReplicaSet", deletionTimestamp="2026-01-01T00:00:00Z"), "status": {}})
    over = read_pod({"metadata": owned("ReplicaSet"), "status": {"phase": "Failed"}})
    assert ending is not None
    assert over is not None
    assert (ending.ending, over.over) == (True, True)


def test_what_nobody_owns_is_of_no_interest() -> None:
    metadata = owned("ReplicaSet", ownerReferences=[])
    assert read_pod({"metadata": metadata, "status": {}}) is None
    assert read_replica_set({"metadata": metadata, "spec": {}}) is None
    assert read_pod({"metadata": owned("StatefulSet"), "status": {}}) is None


def test_a_deployment_is_settled_when_its_controller_has_seen_it() -> None:
    def settled(seen: int) -> bool:
        body = {"metadata": owned("X", generation=3), "spec": {"replicas": 2}, "status": {"observedGeneration": seen}}
        return read_deployment(body).settled

    assert [settled(2), settled(3)] == [False, True]


def test_why_pods_of_a_deployment_cannot_be_made() -> None:
    def refused(**condition: str) -> str:
        row = {"type": "ReplicaFailure", "status": "True", "reason": "FailedCreate", "message": "exceeded quota: team"}
        status = {"conditions": [{"type": "Available", "status": "False"}, row | condition]}
        return read_deployment({"metadata": owned("X"), "spec": {"replicas": 2}, "status": status}).refused

    assert refused() == "exceeded quota: team"
    assert refused(message="") == "FailedCreate"
    assert refused(status="False") == refused(reason="FailedDelete") == ""


def test_since_when_a_pod_runs_without_being_ready() -> None:
    def since(**container: Any) -> float | None:
        running = {"ready": False, "name": "worker", "state": {"running": {"startedAt": "2026-01-01T00:06:00Z"}}}
        ready = {"type": "Ready", "status": "False", "lastTransitionTime": "2026-01-01T00:00:09Z"}
        status = {"phase": "Running", "conditions": [ready], "containerStatuses": [running | container]}
        pod = read_pod({"metadata": owned("ReplicaSet"), "status": status})
        assert pod is not None
        return None if pod.unready_since is None else pod.unready_since - pod.created

    assert since() == 360, "however long its image took before"
    assert since(state={"running": {"startedAt": "2026-01-01T00:00:01Z"}}) == 9, "it was ready once"
    assert since(state={"waiting": {"reason": "ContainerCreating"}}) is None
    assert since(ready=True) is None, "its readiness is about to be told"


def test_an_autoscaler_of_something_else_is_of_no_interest() -> None:
    assert read_autoscaler({"spec": {"scaleTargetRef": {"kind": "Deployment", "name": "w"}}}) == "w"
    assert read_autoscaler({"spec": {"scaleTargetRef": {"kind": "StatefulSet", "name": "w"}}}) is None


def kubeconfig(folder: Path, cluster: dict[str, Any], user: dict[str, Any]) -> dict[str, str]:
    """Environment with a kubeconfig of one context."""
    path = folder / "config"
    path.write_text(
        yaml.safe_dump(
            {
                "current-context": "c",
                "contexts": [{"name": "c", "context": {"cluster": "k", "user": "u"}}],
                "clusters": [{"name": "k", "cluster": cluster}],
                "users": [{"name": "u", "user": user}],
            }
        )
    )
    return {"KUBECONFIG": str(path)}


async def test_a_kubeconfig_with_a_token(tmp_path: Path) -> None:
    server = {"server": "https://there:6443/", "insecure-skip-tls-verify": True}
    cluster = await find_cluster(kubeconfig(tmp_path, server, {"token": "t0ken"}))
    assert (cluster.host, cluster.verify_ssl) == ("https://there:6443", False)
    assert await cluster.get_api_key_with_prefix(TOKEN) == "Bearer t0ken"


async def test_a_broken_kubeconfig_is_a_sentence(tmp_path: Path) -> None:
    broken = {"server": "https://there", "certificate-authority-data": base64.b64encode(b"rubbish").decode()}
    with pytest.raises(SettingError, match=r"KUBECONFIG='.+' cannot be used"):
        await find_cluster(kubeconfig(tmp_path, broken, {}))
    with pytest.raises(SettingError, match=r"KUBECONFIG='.+' cannot be used"):
        await find_cluster({"KUBECONFIG": str(tmp_path / "there-is-none")})
    (tmp_path / "config").write_text("{")
    with pytest.raises(SettingError, match=r"KUBECONFIG='.+' cannot be used"):
        await find_cluster({"KUBECONFIG": str(tmp_path / "config")})


async def test_no_cluster_at_all_is_a_sentence() -> None:
    with pytest.raises(SettingError, match="set KUBECONFIG"):
        await find_cluster({})
