"""Why a queue has the workers that it has: by kubectl, by `warren explain`, by the metrics, and after a restart."""

import json
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families
from release import Release
from waiting import eventually

NAME = "task-queue"


@pytest.fixture(autouse=True)
def clean(release: Release) -> Iterator[None]:
    """Begin and end with an empty queue and no worker."""
    release.wait_until_drained()
    release.wait_until_nobody_works()
    yield
    release.wait_until_drained()
    release.wait_until_nobody_works()


def explain(release: Release, queue: str, *options: str) -> "subprocess.CompletedProcess[str]":
    """`warren explain`, as a user runs it: it finds its token by kubectl."""
    kube = release.kube
    where = ("--url", str(release.http.base_url), "--namespace", kube.namespace)
    return kube.run(sys.executable, "-m", "warren_cli", "explain", queue, *where, *options, check=False)


def explained(release: Release) -> dict[str, Any]:
    """What it says of the queue, as JSON."""
    done = explain(release, "task_queue", "--json")
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert isinstance(said, dict)
    return said


def steps(release: Release) -> list[tuple[int, int, str]]:
    """The last changes of replicas in the status, newest first."""
    rows = release.work_queue()["status"].get("decisions", [])
    return [(row["from"], row["to"], row["reason"]) for row in rows]


def samples(release: Release) -> dict[str, float]:
    """What the operator measures of the queue and of itself, summed over all other labels."""
    found: dict[str, float] = {}
    with release.kube.forward("deployment/warren-operator", 8081) as port:
        text = httpx.get(f"http://127.0.0.1:{port}/metrics").raise_for_status().text
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            if sample.labels.get("name", NAME) == NAME:
                found[sample.name] = found.get(sample.name, 0.0) + sample.value
    return found


def test_every_word_about_a_decision_is_the_same_and_outlives_the_operator(release: Release) -> None:
    reactions = samples(release)["warren_operator_reaction_seconds_count"]
    for dots in (40, 40, 40, *[0] * 9):  # three for each worker to be at while we look, the others wait behind them
        release.submit("explain" + "." * dots)
    release.wait_for_workers(3)
    eventually(lambda: release.work_queue()["status"].get("backlog", {}).get("unacked") == 3, "three are in work")
    eventually(lambda: release.queue()["decisions"] and release.queue()["desired"] == 3, "the operator has told of it")

    header, row = release.kube.kubectl("get", "wq", NAME).splitlines()
    assert header.split() == ["NAME", "READY", "UNACKED", "WORKERS", "DESIRED", "WAIT", "REASON", "AGE"]
    assert "12 tasks at 5 a worker ask for 3" in row

    described = release.kube.kubectl("describe", "wq", NAME)
    for words in ("Rule: ", "backlogPerWorker", "Remedy:", "more tasks would bring 1 more worker.", "Decisions:"):
        assert words in described
    events = [line for line in described.splitlines() if "ScaledUp" in line]
    newest = steps(release)[0]
    assert newest[1] == 3
    assert any(line.endswith(f"{newest[0]} → 3 workers: {newest[2]}") for line in events), described

    said = explain(release, "task_queue")
    assert said.returncode == 0, said.stderr
    for words in ("3 workers wanted: 12 tasks", "backlogPerWorker asks for 3", "would bring 1 more worker", newest[2]):
        assert words in said.stdout
    assert "\x1b" not in said.stdout, "no colours in a pipe"
    eventually(  # each is told at a pace of its own
        lambda: release.work_queue()["status"]["decision"]["remedy"] in " ".join(explained(release)["remedies"]),
        "kubectl and the command line say the same",
    )

    measured = samples(release)
    assert measured["warren_operator_reaction_seconds_count"] > reactions
    assert measured["warren_queue_asked_replicas"] == measured["warren_queue_desired_replicas"] == 3
    assert measured["warren_queue_workers"] == 3
    assert measured["warren_queue_ready"] + measured["warren_queue_unacked"] == 12
    assert measured["warren_queue_condition"] == 4

    before = steps(release)
    release.kube.kubectl("rollout", "restart", "deployment/warren-operator")
    release.kube.kubectl("rollout", "status", "deployment/warren-operator", "--timeout=120s", limit=130)
    eventually(lambda: samples(release).get("warren_queue_limit") == 1, "the new operator has decided")
    eventually(lambda: explained(release)["state_age"] < 2, "and has told of it")
    told = [(row["from_replicas"], row["to_replicas"], row["reason"]) for row in explained(release)["decisions"]]
    assert told[-len(before) :] == before
    assert steps(release)[-len(before) :] == before


def test_a_queue_that_nobody_knows_and_a_wrong_token_are_said_to_be_so(release: Release) -> None:
    unknown = explain(release, "there-is-none")
    assert (unknown.returncode, unknown.stdout) == (1, "")
    assert "'there-is-none' does not exist" in unknown.stderr
    where = ("--url", str(release.http.base_url))
    environ = {**release.kube.environ, "WARREN_TOKEN": "a-token-that-nobody-made-0000000000"}
    command = [sys.executable, "-m", "warren_cli", "explain", "task_queue", *where]
    wrong = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=60, check=False)
    assert wrong.returncode == 1
    assert "token is not known" in wrong.stderr


def test_why_a_workqueue_is_not_ready_is_explained_too(release: Release) -> None:
    """Its queue is there, its Deployment is not."""
    name = "no-workers-for-it"
    body = {
        "apiVersion": "warren.dev/v1alpha1",
        "kind": "WorkQueue",
        "metadata": {"name": name},
        "spec": {"scaleTargetRef": {"name": "there-is-none"}},
    }
    release.kube.kubectl("create", "--filename", "-", stdin=json.dumps(body))
    try:
        said = eventually(
            lambda: done if (done := explain(release, name)).returncode == 0 else None, "the operator has told of it"
        )
        assert "Not ready: ScaleTargetMissing: Deployment there-is-none does not exist" in said.stdout
    finally:
        release.kube.kubectl("delete", "wq", name, "--timeout=30s")
