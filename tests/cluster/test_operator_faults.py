"""What may be wrong around the operator: it says so and what to do, and the workers stay as they were.

Each test puts one thing out of order, waits until a condition tells, sees that no worker's pod was touched while that
lasted, and that all goes on by itself once it is mended. Two workers have tasks in hand all the time, others idle.

Told elsewhere: QueueMismatch in test_operator_scaling.py, what lies between the operator and the rest of the world in
test_operator_cut_off.py, what a watch misses in test_operator_watch.py, a broker that is too old or short of memory in
the integration tests.
"""

import json
from collections.abc import Iterator

import pytest
from evidence_release import WORKERS, Evidence
from kube import Kube
from release import wait_until_ready
from steady import BUSY, IDLE, NONE, SPARE, at_work, lasting, told, untouched, well_again
from waiting import eventually


@pytest.fixture(scope="module")
def evidence(recorded: Kube) -> Iterator[Evidence]:
    """The release at work."""
    with at_work(recorded) as evidence:
        yield evidence


def test_a_queue_that_may_not_be_declared(evidence: Evidence) -> None:
    """It is deleted, and the operator has lost the right to make it again."""
    kube = evidence.kube
    with untouched(evidence):
        kube.rabbitmqctl("set_permissions", "--vhost", "/", "warren-operator", "", ".*", ".*")
        try:
            kube.rabbitmqctl("delete_queue", SPARE)
            told(evidence, SPARE, "QueueRefused", "does not declare queue", "give the operator's user all rights")
            assert "backlog unknown" in evidence.status(SPARE)["decision"]["reason"]
            lasting(evidence, 3)
        finally:
            kube.rabbitmqctl("set_permissions", "--vhost", "/", "warren-operator", ".*", ".*", ".*")
        well_again(evidence)


def test_a_queue_without_a_leader(evidence: Evidence) -> None:
    """It reads as empty and without consumers at once, and statistics tell only seconds later."""
    server = f"{{'%2F_{SPARE}', node()}}"
    evidence.kube.patch(f"workqueue/{SPARE}", {"spec": {"minReplicas": 0, "behavior": {"scaleDown": LONG}}})
    with untouched(evidence):
        evidence.kube.rabbitmqctl("eval", f"ra:stop_server(quorum_queues, {server}).")
        try:
            evidence.kube.patch(f"workqueue/{SPARE}", {"spec": {"behavior": {"scaleDown": {"stabilization": "0s"}}}})
            told(evidence, SPARE, "QueueUnavailable", "leader", "see `rabbitmq-queues quorum_status QUEUE`")
            lasting(evidence, 5)
        finally:
            evidence.kube.patch(f"workqueue/{SPARE}", {"spec": {"minReplicas": 1}})
            evidence.kube.rabbitmqctl("eval", f"ra:restart_server(quorum_queues, {server}).")
        well_again(evidence)


LONG = {"stabilization": "10m"}


def test_an_autoscaler_beside_us(evidence: Evidence) -> None:
    """Neither its floor nor ours is fought for: the replicas stay until one of both goes."""
    kube, deployment = evidence.kube, f"{WORKERS}{SPARE}"
    with untouched(evidence):
        kube.kubectl("autoscale", "deployment", deployment, "--min=1", "--max=3", "--cpu=50%")
        try:
            told(evidence, SPARE, "AutoscalerConflict", deployment, "delete it, or the WorkQueue")
            kube.patch(f"workqueue/{SPARE}", {"spec": {"minReplicas": 0}})
            lasting(evidence, 4)
            kube.patch(f"workqueue/{SPARE}", {"spec": {"minReplicas": 1}})
        finally:
            kube.kubectl("delete", "hpa", deployment)
        well_again(evidence)


def test_a_deployment_that_is_deleted_and_comes_back(evidence: Evidence) -> None:
    kube = evidence.kube
    deployment = kube.get("deployment", f"{WORKERS}{SPARE}")
    with untouched(evidence, BUSY, IDLE, NONE):
        kube.kubectl("delete", "deployment", f"{WORKERS}{SPARE}")
        told(evidence, SPARE, "ScaleTargetMissing", "does not exist: make it")
        task = evidence.submit(SPARE, "0")
        kept = {name: deployment["metadata"][name] for name in ("name", "labels", "annotations")}
        body = {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": kept, "spec": deployment["spec"]}
        kube.kubectl("create", "--filename", "-", stdin=json.dumps(body))
        eventually(lambda: any(run.ended for run in evidence.runs({task})), "what came meanwhile is done")
        well_again(evidence)


def test_two_of_a_kind(evidence: Evidence) -> None:
    """The later ones change nothing, whatever they want."""
    kube = evidence.kube
    wants = {"minReplicas": 5, "maxReplicas": 5}
    squatter = {"scaleTargetRef": {"name": f"{WORKERS}{SPARE}"}, **wants}
    thief = {"queue": {"name": BUSY}, "scaleTargetRef": {"name": "there-is-none"}, **wants}
    bodies = [
        {"apiVersion": "warren.dev/v1alpha1", "kind": "WorkQueue", "metadata": {"name": name}, "spec": spec}
        for name, spec in (("squatter", squatter), ("thief", thief))
    ]
    with untouched(evidence):
        for body in bodies:
            kube.kubectl("create", "--filename", "-", stdin=json.dumps(body))
        try:
            told(evidence, "squatter", "ScaleTargetTaken", "name another in spec.scaleTargetRef.name")
            told(evidence, "thief", "QueueTaken", "name another in spec.queue.name")
            lasting(evidence, 2)
        finally:
            kube.kubectl("delete", "workqueue", "squatter", "thief")
        well_again(evidence)


def test_a_foreign_policy_moves_nobody(evidence: Evidence) -> None:
    with untouched(evidence):
        evidence.kube.rabbitmqctl("set_policy", "--priority", "99", "foreign", f"^{SPARE}$", '{"max-length": 7}')
        try:
            message = eventually(
                lambda: (
                    row["message"]
                    if (row := evidence.condition(SPARE, "PolicyOverridden")).get("status") == "True"
                    else None
                ),
                "it is told",
                limit=90,
            )
            assert "remove it, or give it a priority below" in message
        finally:
            evidence.kube.rabbitmqctl("clear_policy", "foreign")
        eventually(lambda: evidence.condition(SPARE, "PolicyOverridden")["status"] == "False", "it is gone", limit=90)


def test_the_exchange_for_events_is_of_another_type(evidence: Evidence) -> None:
    """Nobody tells the operator of anything any more. The queues are as they are to be, and more workers come."""
    kube = evidence.kube
    exchange = '{resource, <<"/">>, exchange, <<"warren.events">>}'
    delete = f'rabbit_exchange:delete({exchange}, false, <<"test">>)'
    with untouched(evidence, BUSY, IDLE, SPARE):
        kube.rabbitmqctl(
            "eval", f'{delete}, rabbit_exchange:declare({exchange}, direct, true, false, false, [], <<"test">>).'
        )
        try:
            told(evidence, BUSY, "ExchangeMismatch", "exchange warren.events is of type direct", "delete it")
            assert evidence.condition(BUSY, "PolicyOverridden")["status"] == "False", "that is still known"
            task = evidence.submit(NONE, "0")
            eventually(lambda: any(run.ended for run in evidence.runs({task})), "a worker comes for a new task")
        finally:
            kube.rabbitmqctl("eval", f"{delete}.")
        eventually(lambda: evidence.release.replicas(NONE) == 0, "the worker that came goes again")
        well_again(evidence)


def test_the_broker_is_down(evidence: Evidence) -> None:
    """For longer than any report or statistics count. Last, because it takes every connection with it.

    When it is back, the two tasks wait anew: they are delivered again, and more workers come for them.
    """
    kube = evidence.kube
    try:
        with untouched(evidence):
            kube.kubectl("scale", "statefulset/warren-rabbitmq", "--replicas=0")
            told(evidence, BUSY, "BrokerUnavailable", "see that the broker runs")
            lasting(evidence, 40)
    finally:
        kube.kubectl("scale", "statefulset/warren-rabbitmq", "--replicas=1")
    wait_until_ready(kube)
    well_again(evidence)
