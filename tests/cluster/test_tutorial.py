"""Everything that RabbitMQ's Work Queues tutorial teaches holds on the cluster, against the installed chart."""

import json
import re
import sys
import time
from pathlib import Path

import pika
import pytest
from evidence_release import evidence_of
from kube import Kube
from release import Release, foreign
from verdicts import Run
from waiting import eventually


@pytest.fixture
def three_workers(release: Release) -> list[str]:
    """Three workers that stay, no more and no fewer, whatever the backlog: their logs tell who did what."""
    release.kube.patch("workqueue/task-queue", {"spec": {"minReplicas": 3, "maxReplicas": 3}})
    return release.wait_for_workers(3)


@pytest.fixture(autouse=True)
def clean(release: Release) -> None:
    """Each test begins with the chart's bounds, an empty queue and no worker."""
    release.kube.patch("workqueue/task-queue", {"spec": {"minReplicas": 0, "maxReplicas": 10}})
    release.wait_until_drained()


def holder(release: Release, task_id: str) -> str | None:
    """Name of the worker that has the task in hand."""
    for worker in release.queue()["worker_states"]:
        if any(task["id"] == task_id for task in worker["running"]):
            return str(worker["worker"])
    return None


def done_in(log: str) -> list[str]:
    """Ids of the tasks that a worker's log reports as done."""
    return re.findall(r"\[x\] Done.*task=(\S+)", log)


def test_a_task_runs_a_second_for_each_dot(release: Release, three_workers: list[str]) -> None:
    """`Hello...` is three seconds of work: it is still in hand after two, and done later."""
    submitted = time.monotonic()
    task_id = release.submit("Hello...")
    eventually(lambda: holder(release, task_id), "the task is in hand")
    while time.monotonic() - submitted < 2:
        done = any(task_id in done_in(release.log(pod)) for pod in three_workers)
        # On a busy machine a look takes long, and tells of a time after its begin.
        assert not done or time.monotonic() - submitted >= 3
    eventually(lambda: any(task_id in done_in(release.log(pod)) for pod in three_workers), "the task is done")


def test_tasks_go_round_over_the_workers(release: Release, three_workers: list[str]) -> None:
    """Nine tasks of one second over three idle workers: nobody stays without work."""
    ids = {release.submit(f"task {number}.") for number in range(9)}
    release.wait_until_drained()
    shares = [ids.intersection(done_in(release.log(pod))) for pod in three_workers]
    assert set().union(*shares) == ids
    assert all(shares)


def test_a_killed_worker_s_task_is_done_by_another(release: Release, three_workers: list[str]) -> None:
    """`kubectl delete pod --force --grace-period=0` in the middle of a task: the acknowledgement comes from another."""
    task_id = release.submit("important" + "." * 8)
    victim = eventually(lambda: holder(release, task_id), "a worker has the task in hand")
    release.kube.kubectl("delete", "pod", victim, "--force", "--grace-period=0")
    survivors = [pod for pod in three_workers if pod != victim]

    def done_by_another() -> str | None:
        now = set(survivors) | set(release.workers())
        return next((pod for pod in now if pod != victim and task_id in done_in(release.log(pod))), None)

    assert eventually(done_by_another, "another worker has done the task") != victim
    release.wait_until_drained()


def test_a_worker_that_is_asked_to_end_finishes_its_task(release: Release, three_workers: list[str]) -> None:
    """An ordinary `kubectl delete pod` interrupts nothing and nothing is delivered twice."""
    task_id = release.submit("patient" + "." * 6)
    chosen = eventually(lambda: holder(release, task_id), "a worker has the task in hand")
    release.kube.kubectl("delete", "pod", chosen, "--wait=false")
    log = release.kube.kubectl("logs", "--follow", chosen)
    assert task_id in done_in(log)
    release.wait_until_drained()
    others = [release.log(pod) for pod in release.workers()]
    assert not any(task_id in log for log in others)


def test_the_broker_s_death_loses_nothing(release: Release, three_workers: list[str]) -> None:
    """The broker's pod is killed with tasks waiting and in work: each confirmed one is done after it is back."""
    ids = {release.submit(f"kept {number}..") for number in range(20)}
    eventually(lambda: release.queue()["unacked"] or release.queue()["busy"], "tasks are in work")
    release.kube.kubectl("delete", "pod", "warren-rabbitmq-0", "--force", "--grace-period=0")

    def all_done() -> bool:
        done = {task_id for pod in three_workers for task_id in done_in(release.log(pod))}
        return ids <= done

    eventually(all_done, "each confirmed task is done", limit=180, every=1)
    eventually(release.drained, "the queue is drained", limit=60, every=1)
    assert not release.queue()["dead"]


def test_light_tasks_are_not_stuck_behind_heavy_ones(recorded: Kube) -> None:
    """A heavy task, light ones after it, two workers: prefetch 1 gives the light ones to the worker that is free.

    The heavy one lasts until the light ones are done: were one of them behind it, it would never be.
    """
    queue, gate = "cedar", f"heavy-{time.time_ns()}"
    with evidence_of(recorded) as evidence:
        evidence.release.wait_until_drained(queue)
        recorded.patch(f"workqueue/{queue}", {"spec": {"minReplicas": 2, "maxReplicas": 2}})
        evidence.release.wait_for_workers(2, queue)
        heavy = evidence.submit(queue, f"gate {gate}")
        try:
            (holder,) = (run.pod for run in eventually(lambda: evidence.runs([heavy]), "a worker has the heavy task"))
            light = {evidence.submit(queue, "0.1") for _ in range(5)}

            def light_runs() -> list[Run] | None:
                runs = evidence.runs(light)
                return runs if {run.task for run in runs if run.ended} == light else None

            runs = eventually(light_runs, "all light tasks are done")
            assert holder not in {run.pod for run in runs}
        finally:
            evidence.open_gate(gate)
            recorded.patch(f"workqueue/{queue}", {"spec": {"minReplicas": 0, "maxReplicas": 6}})
        evidence.release.wait_until_drained(queue)


def test_a_forgotten_ack_is_visible(release: Release, installed: Kube) -> None:
    """A consumer that never acknowledges shows as unacknowledged in kubectl and in warren watch."""
    release.wait_until_nobody_works()
    with (
        installed.forward("pod/warren-rabbitmq-0", 5672) as port,
        foreign("worker.py", port, FORGET_ACK="1") as forgetful,
    ):
        forgetful.wait_for("Waiting for messages")
        release.submit("forgotten")
        forgetful.wait_for("[x] Received forgotten")
        forgetful.wait_for("[x] Done")
        eventually(
            lambda: release.work_queue()["status"]["backlog"]["unacked"] == 1, "the WorkQueue shows it", limit=60
        )
        titles, row = (line.split() for line in release.kube.kubectl("get", "wq", "task-queue").splitlines())
        assert row[titles.index("UNACKED")] == "1"
        titles, *rows = (line.split() for line in watch_once(release).splitlines() if line)
        row = next(row for row in rows if row[0] == "task_queue")
        assert row[titles.index("UNACKED")] == "1"
    release.wait_until_drained()  # the broker takes the task back and a worker of ours does it


def watch_once(release: Release) -> str:
    """What `warren watch --once` prints."""
    warren = str(Path(sys.executable).with_name("warren"))
    place = ("--url", str(release.http.base_url), "--namespace", release.kube.namespace)
    return release.kube.run(warren, "watch", "--once", *place).stdout


def test_the_tutorial_s_new_task_feeds_our_workers(release: Release, installed: Kube, three_workers: list[str]) -> None:
    """A message from the tutorial's program, bare and through the default exchange, is a task like any other."""
    with (
        installed.forward("pod/warren-rabbitmq-0", 5672) as port,
        foreign("new_task.py", port, "From the tutorial.") as program,
    ):
        assert program.process.wait(timeout=30) == 0, program.output
        program.wait_for("[x] Sent From the tutorial.")
    eventually(
        lambda: any("Received From the tutorial." in release.log(pod) for pod in three_workers), "a worker took it"
    )
    release.wait_until_drained()


def test_the_tutorial_s_worker_works_beside_ours(release: Release, installed: Kube) -> None:
    """The tutorial's worker gets its share of what our producer submits, and its acks count."""
    release.kube.patch("workqueue/task-queue", {"spec": {"minReplicas": 1, "maxReplicas": 1}})
    release.wait_for_workers(1)
    with (
        installed.forward("pod/warren-rabbitmq-0", 5672) as port,
        foreign("worker.py", port) as theirs,
    ):
        theirs.wait_for("Waiting for messages")
        for number in range(8):
            release.submit(f"shared {number}.")
        theirs.wait_for("[x] Received shared")
        release.wait_until_drained()
    assert any("Received shared" in release.log(pod) for pod in release.workers())


ODD = {
    "apiVersion": "warren.dev/v1alpha1",
    "kind": "WorkQueue",
    "metadata": {"name": "odd"},
    "spec": {
        "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "odd"},
        "minReplicas": 0,
        "maxReplicas": 1,
        "target": {"backlogPerWorker": 5},
    },
}


def test_a_queue_with_other_arguments_is_reported(release: Release, installed: Kube) -> None:
    """The operator changes nothing about a queue that exists otherwise, and says what differs and what to do."""
    with installed.forward("pod/warren-rabbitmq-0", 5672) as port:
        connection = pika.BlockingConnection(pika.ConnectionParameters(host="localhost", port=port))
        channel = connection.channel()
        channel.queue_declare("odd", durable=True, arguments={"x-queue-type": "classic"})
        channel.basic_publish("", "odd", b"kept")
        connection.close()
    installed.kubectl("create", "deployment", "odd", "--image=none", "--replicas=0")
    installed.kubectl("apply", "--filename", "-", stdin=json.dumps(ODD))
    try:

        def reported() -> str | None:
            conditions = release.work_queue("odd").get("status", {}).get("conditions", [])
            ready: dict[str, str] = next((found for found in conditions if found["type"] == "Ready"), {})
            return str(ready["message"]) if ready.get("reason") == "QueueMismatch" else None

        message = eventually(reported, "the WorkQueue is not Ready because of QueueMismatch")
        assert "classic" in message  # what differs
        assert "delete" in message.lower() or "another" in message.lower()  # what to do
        assert release.queue("odd")["ready"] == 1  # and its task is untouched
    finally:
        installed.kubectl("delete", "workqueue,deployment", "odd")


def test_a_full_queue_refuses_and_loses_nothing(release: Release) -> None:
    """At `maxLength` the producer answers 503 with Retry-After; what it accepted is there, and is done later."""
    release.kube.patch("workqueue/small", {"spec": {"suspend": True}})
    release.wait_until_nobody_works("small")
    answers = [release.http.post("/v1/queues/small/tasks", content=f"task {number}") for number in range(30)]
    accepted = [answer.json()["id"] for answer in answers if answer.status_code == 202]
    refused = [answer for answer in answers if answer.status_code == 503]
    assert len(accepted) + len(refused) == len(answers)
    assert accepted
    assert refused
    assert all("Retry-After" in answer.headers for answer in refused)
    assert release.queue("small")["ready"] == len(accepted)
    release.kube.patch("workqueue/small", {"spec": {"suspend": False}})
    release.wait_until_drained("small")
    assert not release.queue("small")["dead"]


def test_a_ttl_dead_letters(release: Release) -> None:
    """A queue with a message TTL and no worker: the task ends in the dead-letter queue, with its reason."""
    release.wait_until_nobody_works("expiring")
    release.submit("too late", "expiring")
    eventually(lambda: release.queue("expiring")["dead"] == 1, "the dead letter is counted", limit=60)
    assert release.queue("expiring")["ready"] == 0
