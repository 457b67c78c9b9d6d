"""The operator on a real cluster: workers follow the backlog, no task is harmed, and what is wrong is said."""

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Self

import httpx
import pika
import pytest
from evidence_release import evidence_of
from kube import Kube
from release import Release
from verdicts import harm
from waiting import eventually

NAME = "task-queue"
DEPLOYMENT = f"warren-worker-{NAME}"


@pytest.fixture(autouse=True)
def clean(release: Release) -> Iterator[None]:
    """Each test begins with the chart's bounds, an empty queue and no worker, and leaves nothing behind."""
    mend(release)
    yield
    mend(release)


def mend(release: Release) -> None:
    """The WorkQueue as the chart made it, and the queue drained."""
    release.kube.patch(f"workqueue/{NAME}", {"spec": CHART})
    release.wait_until_drained()
    eventually(
        lambda: not release.kube.pods("worker", running=False),
        "no worker is left, and none that is ending and may still take a task",
        limit=120,
    )


CHART: dict[str, Any] = {"minReplicas": 0, "maxReplicas": 10, "paused": None, "suspend": None, "mode": None}


def spec(release: Release, **changes: Any) -> None:
    """Change the WorkQueue's spec."""
    release.kube.patch(f"workqueue/{NAME}", {"spec": changes})


def condition(release: Release, kind: str, name: str = NAME) -> dict[str, Any]:
    """A condition of a WorkQueue; empty while it has none."""
    rows = release.work_queue(name).get("status", {}).get("conditions", [])
    return next((row for row in rows if row["type"] == kind), {})


def reason(release: Release, wanted: str, kind: str = "Ready", name: str = NAME) -> str:
    """Wait until a condition has this reason, and return its message."""
    found = eventually(
        lambda: row if (row := condition(release, kind, name)).get("reason") == wanted else None, f"{kind}: {wanted}"
    )
    return str(found["message"])


@contextmanager
def management(kube: Kube) -> Iterator[httpx.Client]:
    """The broker's management API, as the operator's user."""
    user = kube.secret("warren-broker-operator")
    with (
        kube.forward("pod/warren-rabbitmq-0", 15672) as port,
        httpx.Client(
            base_url=f"http://127.0.0.1:{port}/api/", auth=(user["username"], user["password"]), timeout=30
        ) as client,
    ):
        yield client


def counted(kube: Kube) -> tuple[int, int]:
    """Deliveries from all quorum queues and acknowledgements, since the broker's start and to the moment.

    These are the broker's own counters; a queue's statistics come later, and lose what a consumer did just before it
    went.
    """
    names = ("messages_delivered_total", "messages_acknowledged_total")
    program = (
        "C = maps:get(#{protocol => amqp091, queue_type => rabbit_quorum_queue}, rabbit_global_counters:overview()), "
        f'io:format("~p ~p~n", [maps:get(Name, C) || Name <- [{", ".join(names)}]]).'
    )
    delivered, acknowledged = kube.rabbitmqctl("eval", program).split()[:2]
    return int(delivered), int(acknowledged)


@contextmanager
def nothing_delivered_twice(kube: Kube, tasks: int) -> Iterator[None]:
    """In this block so many tasks are acknowledged, and no more are delivered."""
    delivered, acknowledged = counted(kube)
    yield
    assert counted(kube) == (delivered + tasks, acknowledged + tasks)


class Watch:
    """What the Deployment's replicas have been."""

    def __init__(self, release: Release) -> None:
        self.replicas: list[int] = []
        self._release = release
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.wait(0.2):
            replicas = self._release.replicas()
            if not self.replicas or self.replicas[-1] != replicas:
                self.replicas.append(replicas)


def test_a_burst_starts_all_workers_and_they_go_when_it_is_done(release: Release, installed: Kube) -> None:
    """Up straight to the maximum, down only as workers fall idle, no task delivered twice, and none left."""
    with nothing_delivered_twice(installed, tasks=60), Watch(release) as watch:
        for number in range(60):
            release.submit(f"burst {number}..")
        release.wait_for_workers(10)
        eventually(release.drained, "the burst is done", limit=120)
        release.wait_for_workers(0)
        eventually(lambda: release.replicas() == 0, "no replicas are left")
    top = watch.replicas.index(10)
    assert watch.replicas[:top] == sorted(watch.replicas[:top]), "up without a step back"
    assert watch.replicas[top:] == sorted(watch.replicas[top:], reverse=True), "down without a step up"
    status = release.work_queue()["status"]
    assert status["desiredReplicas"] == 0
    assert status["decision"]["reason"]
    events = release.kube.get("events", "--field-selector", f"involvedObject.name={NAME}")
    assert {"ScaledUp", "ScaledDown"} <= {event["reason"] for event in events}


def test_a_scale_in_takes_the_idle_and_leaves_the_busy(recorded: Kube) -> None:
    """Two long tasks among short ones: while they run, the other workers go, and not one of theirs."""
    queue, gate = "ebony", f"long-{time.time_ns()}"
    with evidence_of(recorded) as evidence:
        recorded.patch(f"workqueue/{queue}", {"spec": {"minReplicas": 6}})
        evidence.release.wait_for_workers(6, queue)
        try:
            long_ones = {evidence.submit(queue, f"gate {gate}") for _ in range(2)}
            eventually(lambda: len(evidence.runs(long_ones)) == 2, "two workers have a long task")
            short_ones = {evidence.submit(queue, "0.5") for _ in range(4)}
            recorded.patch(f"workqueue/{queue}", {"spec": {"minReplicas": 0}})
            eventually(lambda: evidence.release.replicas(queue) == 2, "the four idle ones are taken away")
            holders = {run.pod for run in evidence.runs(long_ones) if run.ended is None}
            assert len(holders) == 2, "the long tasks still run"

            def staying() -> set[str]:
                return {pod for pod, uid in evidence.worker_pods(queue).items() if not uid.endswith("ending")}

            eventually(lambda: len(staying()) == 2, "the four are asked to end")
            assert staying() == holders
        finally:
            evidence.open_gate(gate)
            recorded.patch(f"workqueue/{queue}", {"spec": {"minReplicas": 0}})
        evidence.release.wait_until_drained(queue)
        tasks = long_ones | short_ones
        assert harm(tasks, evidence.runs(tasks)) == []


def test_the_operator_s_death_changes_nothing(release: Release) -> None:
    """Killed in the middle of a burst: the tasks go on, and the next operator goes on where it was."""
    with Watch(release) as watch:
        ids = {release.submit(f"orphan {number}....") for number in range(40)}
        eventually(lambda: release.replicas() == 8, "a worker for each five tasks")
        (pod,) = release.kube.pods("operator")
        release.kube.kubectl("delete", "pod", pod, "--force", "--grace-period=0")
        eventually(release.drained, "all tasks are done", limit=120)
        release.wait_for_workers(0)
    assert ids
    top = watch.replicas.index(max(watch.replicas))
    assert watch.replicas[top:] == sorted(watch.replicas[top:], reverse=True)


def test_no_scale_in_while_a_rollout_is_under_way(release: Release) -> None:
    """A rollout that cannot finish keeps two ReplicaSets with pods: the workers stay until it is undone."""
    spec(release, minReplicas=3)
    release.wait_for_workers(3)
    kube = release.kube
    kube.kubectl("set", "image", f"deployment/{DEPLOYMENT}", "*=warren/worker:there-is-none")
    try:
        eventually(lambda: len(sets(kube)) == 2, "two ReplicaSets have pods")
        spec(release, minReplicas=0)
        assert "rollout" in reason(release, "Rollout", "ScalingLimited")
        assert release.replicas() == 3
    finally:
        kube.kubectl("rollout", "undo", f"deployment/{DEPLOYMENT}")
    eventually(lambda: release.replicas() == 0, "the workers go once the rollout is over")


CRASHING = 30.0
"""Seconds over which a crash loop is watched: Kubernetes starts its container again after 10 s and after 20 s."""


def test_workers_in_a_crash_loop_are_told_all_the_time_and_no_more_are_made(release: Release) -> None:
    """Between two pauses of Kubernetes their containers run for a moment: no reason to hope, nor to make more."""
    kube = release.kube
    kube.kubectl("set", "env", f"deployment/{DEPLOYMENT}", "WARREN_HANDLER=there_is:none")
    try:
        for number in range(50):
            release.submit(f"waiting {number}")
        assert "cannot start (CrashLoopBackOff)" in reason(release, "WorkersFailing")
        reason(release, "WorkersFailing", "ScalingLimited")
        before = release.replicas()
        assert 0 < before < 10
        deadline = time.monotonic() + CRASHING
        while time.monotonic() < deadline:
            assert condition(release, "Ready")["reason"] == "WorkersFailing"
            assert release.replicas() == before
            time.sleep(0.5)  # what must not happen cannot be awaited
    finally:
        kube.kubectl("rollout", "undo", f"deployment/{DEPLOYMENT}")
    reason(release, "Working")


def sets(kube: Kube) -> list[str]:
    """ReplicaSets of the workers that have pods."""
    found = kube.get("replicasets", "--selector", f"warren.dev/queue={NAME}")
    return [item["metadata"]["name"] for item in found if item["status"].get("replicas")]


def test_pause_suspend_and_recommend(release: Release) -> None:
    """Paused, replicas stand still; recommending, they are only told; suspended, there are none and tasks wait."""
    spec(release, paused=True)
    reason(release, "Paused", "ScalingLimited")
    waiting = [release.submit(f"waiting {number}") for number in range(12)]
    eventually(lambda: release.work_queue()["status"]["backlog"].get("ready") == len(waiting), "they are counted")
    assert release.replicas() == 0
    spec(release, paused=False, mode="Recommend")
    eventually(lambda: release.work_queue()["status"]["desiredReplicas"] == 3, "three are recommended")
    assert "recommended only" in release.work_queue()["status"]["decision"]["reason"]
    assert release.replicas() == 0
    spec(release, mode="Enforce", suspend=True)
    reason(release, "Suspend", "ScalingLimited")
    assert release.replicas() == 0
    spec(release, suspend=False)
    eventually(lambda: release.replicas() >= 1, "the workers come")


def test_somebody_s_replicas_are_corrected(release: Release) -> None:
    """Replicas set by hand are idle workers like any other."""
    spec(release, paused=True)
    reason(release, "Paused", "ScalingLimited")
    release.kube.kubectl("scale", f"deployment/{DEPLOYMENT}", "--replicas=4")
    release.wait_for_workers(4)
    spec(release, paused=False)
    eventually(lambda: release.replicas() == 0, "they go")


def work_queue(name: str, **changes: Any) -> str:
    """A WorkQueue as text for kubectl."""
    body = {"scaleTargetRef": {"name": f"{name}-workers"}, **changes}
    resource = {"apiVersion": "warren.dev/v1alpha1", "kind": "WorkQueue", "metadata": {"name": name}, "spec": body}
    return json.dumps(resource)


@contextmanager
def another(release: Release, name: str, **changes: Any) -> Iterator[None]:
    """A further WorkQueue for the time of a block."""
    release.kube.kubectl("apply", "--filename", "-", stdin=work_queue(name, **changes))
    try:
        yield
    finally:
        release.kube.kubectl("delete", "workqueue", name)


def test_two_of_a_kind_and_what_is_not_there(release: Release) -> None:
    """The later WorkQueue on one queue or Deployment is refused, and so is one without a Deployment; each says so."""
    with another(release, "thief", queue={"name": "task_queue"}):
        assert "task_queue belongs to the older" in reason(release, "QueueTaken", name="thief")
    with another(release, "squatter", scaleTargetRef={"name": DEPLOYMENT}):
        assert DEPLOYMENT in reason(release, "ScaleTargetTaken", name="squatter")
    with another(release, "orphan"):
        assert "does not exist: make it" in reason(release, "ScaleTargetMissing", name="orphan")
    reason(release, "Working")


def test_an_autoscaler_on_the_same_deployment_is_left_alone(release: Release) -> None:
    release.kube.kubectl("autoscale", "deployment", DEPLOYMENT, "--min=2", "--max=3", "--cpu=50%")
    try:
        assert "HorizontalPodAutoscaler" in reason(release, "AutoscalerConflict")
    finally:
        release.kube.kubectl("delete", "hpa", DEPLOYMENT)
    reason(release, "Working")


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"minReplicas": 3, "maxReplicas": 2}, "write a minReplicas of at most maxReplicas"),
        ({"timeLimit": "25 minutes"}, "write a duration as number and unit, such as 500ms, 30s, 25m or 1h30m"),
        ({"timeLimit": "0s"}, "write how long one task may take"),
        ({"retry": {"minDelay": "10m", "maxDelay": "5m"}}, "write a minDelay of at most maxDelay"),
        ({"queue": {"name": "warren.mine"}}, "are reserved: choose another"),
        ({"queue": {"name": "no spaces"}}, "write letters, digits"),
        ({"target": {"maxWait": "0s"}}, "write how long a task may wait, such as 30s"),
        ({"queue": {"messageTTL": "0s"}}, "write how long a task may wait, such as 24h, or leave it out"),
        ({"schedule": [{"start": "0 8 * * *", "end": "0 9 * * *"}]}, "write minReplicas, maxReplicas or both"),
        (
            {"schedule": [{"start": "0 8 * * *", "end": "0 9 * * *", "minReplicas": 3, "maxReplicas": 2}]},
            "write a minReplicas of at most maxReplicas",
        ),
        ({"budget": {}}, "spec.budget.name: Required value"),
        ({"maxReplica": 2}, "unknown field"),
    ],
)
def test_nonsense_is_refused_with_what_to_write(release: Release, wrong: dict[str, Any], says: str) -> None:
    refused = release.kube.run(
        *("kubectl", "--namespace", release.kube.namespace, "apply", "--filename", "-"),
        stdin=work_queue("nonsense", **wrong),
        check=False,
    )
    assert refused.returncode != 0
    assert says in refused.stderr


def test_a_queue_cannot_be_renamed(release: Release) -> None:
    """Its workers would go on with the one before, and nobody would count their tasks. The name may be spelled out."""
    kube = release.kube

    def renamed(work_queue: str, queue: str | None) -> str:
        words = ("patch", "workqueue", work_queue, "--type", "merge", "--dry-run=server", "--patch")
        body = json.dumps({"spec": {"queue": {"name": queue}}})
        done = kube.run("kubectl", "--namespace", kube.namespace, *words, body, check=False)
        return done.stderr if done.returncode else ""

    refusal = "a queue cannot be renamed: make another WorkQueue for the other queue"
    with another(release, "unnamed"):
        assert refusal in renamed("unnamed", "another")
        assert renamed("unnamed", "unnamed") == ""
    for queue in ("another", None):  # the one of the release has a queue whose name is not its own
        assert refusal in renamed("task-queue", queue)
    assert renamed("task-queue", "task_queue") == ""


def test_a_foreign_policy_over_ours_is_told(release: Release, installed: Kube) -> None:
    """It is named with what it changes, as a condition and as an Event, and gone when it is gone."""
    body = {"pattern": "^task_queue$", "priority": 99, "apply-to": "queues", "definition": {"max-length": 5}}
    with management(installed) as client:
        client.put("policies/%2F/foreign", json=body).raise_for_status()
        try:
            message = reason(release, "ForeignPolicy", "PolicyOverridden")
            assert "policy foreign of priority 99" in message
            assert "max-length is 5" in message
        finally:
            client.delete("policies/%2F/foreign").raise_for_status()
    reason(release, "InForce", "PolicyOverridden")


def test_a_queue_with_other_arguments_is_told_and_taken_in_once_it_is_mended(release: Release, installed: Kube) -> None:
    """The operator changes nothing about it; the condition says what differs and what to do."""
    user = installed.secret("warren-broker-operator")
    with installed.forward("pod/warren-rabbitmq-0", 5672) as port:
        credentials = pika.PlainCredentials(user["username"], user["password"])
        connection = pika.BlockingConnection(pika.ConnectionParameters("127.0.0.1", port, "/", credentials))
        try:
            channel = connection.channel()
            channel.queue_declare("odd", durable=True, arguments={"x-queue-type": "classic", "x-max-priority": 9})
            channel.basic_publish("", "odd", b"somebody's")
            with another(release, "odd", scaleTargetRef={"name": "warren-producer"}, paused=True):
                message = reason(release, "QueueMismatch", name="odd")
                for part in ("queue odd", "type classic", "x-max-priority=9", "delete it"):
                    assert part in message
                assert channel.queue_declare("odd", passive=True).method.message_count == 1
                channel.queue_delete("odd")
                reason(release, "Working", name="odd")
            channel.queue_delete("odd")
            channel.queue_delete("odd.dead")
        finally:
            connection.close()


def test_a_queue_that_is_deleted_by_hand_comes_back(release: Release, installed: Kube) -> None:
    with management(installed) as client:
        client.delete("queues/%2F/task_queue").raise_for_status()
        eventually(lambda: client.get("queues/%2F/task_queue").status_code == 200, "it is declared again")
    release.submit("after the flood")
    release.wait_until_drained()
