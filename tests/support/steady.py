"""A release at work that is not to be touched while something around the operator is out of order."""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from evidence_release import Evidence, evidence_of
from kube import Kube
from waiting import eventually

BUSY, IDLE, NONE, SPARE = QUEUES = ("amber", "birch", "cedar", "delta")
"""Two workers with a task each; one without; none; and one whose own things are put out of order."""


@contextmanager
def at_work(recorded: Kube) -> Iterator[Evidence]:
    """The release with two long tasks in work, and two workers that idle; all done and gone at the end.

    The end comes also where it never got so far: the tests after this one share the release.
    """
    with evidence_of(recorded) as evidence:
        gates = [f"gate-{time.time():.0f}-{number}" for number in range(2)]
        try:
            for queue in (IDLE, SPARE):
                recorded.patch(f"workqueue/{queue}", {"spec": {"minReplicas": 1}})
            # Queues that are new have a worker each of their own that is about to go. It would take a task along, and
            # be ending until that is done.
            eventually(lambda: rests(evidence, 0, 1, 0, 1), "two idle, no other is there", limit=120)
            tasks = {evidence.submit(BUSY, f"gate {gate}") for gate in gates}
            eventually(lambda: len(evidence.runs(tasks)) == 2, "both long tasks are in work")
            eventually(lambda: rests(evidence, 2, 1, 0, 1), "two work, two idle, no other is there")
            yield evidence
        finally:
            for gate in gates:
                evidence.open_gate(gate)
            for queue in (IDLE, SPARE):
                recorded.patch(f"workqueue/{queue}", {"spec": {"minReplicas": 0}})
        eventually(lambda: evidence.drained(QUEUES), "all is done", limit=120, every=0.5)
        eventually(lambda: not recorded.pods("worker", running=False), "all workers go", limit=120, every=0.5)


def rests(evidence: Evidence, *replicas: int) -> bool:
    """Whether the queues have these replicas, and no pod comes or goes; an AssertionError with what is seen if not."""
    found = seen(evidence, QUEUES)
    assert settled(found), f"pods come or go: {found}"
    assert [count for count, _ in found.values()] == list(replicas), f"other replicas: {found}"
    return True


def seen(evidence: Evidence, queues: Sequence[str]) -> dict[str, Any]:
    """Replicas, and uids of the pods."""
    found: dict[str, Any] = {}
    for queue in queues:
        found[queue] = (evidence.release.replicas(queue), evidence.worker_pods(queue))
    return found


def still(evidence: Evidence, queues: Sequence[str]) -> dict[str, Any] | None:
    """What is seen; None while pods come or go."""
    found = seen(evidence, queues)
    return found if settled(found) else None


def settled(found: dict[str, Any]) -> bool:
    """Whether pods and replicas agree, and no pod is ending."""
    return all(
        replicas == len(pods) and not any(uid.endswith("ending") for uid in pods.values())
        for replicas, pods in found.values()
    )


def same(before: dict[str, Any], after: dict[str, Any]) -> None:
    """Fails, and says which queue's replicas or pods are others, unless both are the same."""
    assert before == after, "; ".join(
        f"{queue}: {before[queue]} became {after[queue]}" for queue in before if after[queue] != before[queue]
    )


@contextmanager
def untouched(evidence: Evidence, *queues: str) -> Iterator[None]:
    """In this block no replicas change, and no pod comes, ends or is asked to."""
    chosen = queues or QUEUES
    before = eventually(lambda: still(evidence, chosen), "pods and replicas agree, and no pod is ending")
    yield
    same(before, seen(evidence, chosen))


def lasting(evidence: Evidence, seconds: float) -> None:
    """The fault lasts for so long, and the workers stay."""
    before = seen(evidence, QUEUES)
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        same(before, seen(evidence, QUEUES))
        time.sleep(1)  # what must not happen cannot be awaited


def told(evidence: Evidence, queue: str, reason: str, *parts: str) -> None:
    """Wait until the condition Ready has this reason, and see what its message says."""
    found = eventually(
        lambda: row if (row := evidence.condition(queue)).get("reason") == reason else None, f"Ready: {reason}"
    )
    assert found["status"] == "False"
    for part in parts:
        assert part in found["message"]


def well_again(evidence: Evidence, *queues: str) -> None:
    """Wait until all is in order, and have a task done."""
    chosen = queues or QUEUES
    eventually(
        lambda: {evidence.condition(queue).get("reason") for queue in chosen} == {"Working"},
        "all is in order",
        every=0.5,
    )
    task = eventually(lambda: evidence.submit(SPARE, "0"), "a task is accepted")
    eventually(lambda: any(run.ended for run in evidence.runs({task})), "a task is done")
