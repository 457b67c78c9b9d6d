"""More control on a real cluster: a longest wait, windows of a schedule, a budget that queues share."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from release import Release
from waiting import eventually

NAME = "task-queue"
SHARED = 4
"""Workers of the budget `shared` in values.yaml."""


@pytest.fixture(autouse=True)
def clean(release: Release) -> Iterator[None]:
    """Each test leaves the WorkQueue as the chart made it, and no task."""
    yield
    change(release, target={"backlogPerWorker": 5, "maxWait": None}, schedule=None, budget=None)
    release.wait_until_drained()


def change(release: Release, name: str = NAME, **fields: Any) -> None:
    """Change a WorkQueue's spec."""
    release.kube.patch(f"workqueue/{name}", {"spec": fields})


def reason(release: Release, kind: str, wanted: str) -> str:
    """Wait until a condition of the WorkQueue has this reason, and return its message."""

    def message() -> str | None:
        rows = release.work_queue()["status"].get("conditions", [])
        return next((row["message"] for row in rows if row["type"] == kind and row["reason"] == wanted), None)

    return str(eventually(message, f"{kind}: {wanted}", limit=30))


def test_the_longest_wait_rules_once_the_service_time_is_known(release: Release) -> None:
    change(release, target={"backlogPerWorker": None, "maxWait": "3s"})
    for number in range(6):
        release.submit(f"sample {number}.")
    eventually(lambda: "serviceTime" in release.work_queue()["status"], "the service time is known", limit=60)
    for number in range(24):
        release.submit(f"many {number}.")
    decision = eventually(
        lambda: found if "the wait under" in (found := release.work_queue()["status"]["decision"])["reason"] else None,
        "maxWait rules",
    )
    assert decision["rule"] == "maxWait"
    assert "keep the wait under 3s" in decision["reason"]
    release.wait_until_drained()


def test_a_window_of_the_schedule_sets_the_bounds(release: Release) -> None:
    release.wait_for_workers(0)
    change(
        release,
        schedule=[{"start": "* * * * *", "end": "0 0 1 1 *", "timeZone": "Europe/Berlin", "minReplicas": 2}],
    )
    release.wait_for_workers(2)
    message = reason(release, "ScalingLimited", "MinReplicas")
    assert "minReplicas is 2 by schedule until" in message
    change(release, schedule=None)
    release.wait_for_workers(0)


def test_a_time_zone_that_is_not_known_is_told_and_changes_nothing(release: Release) -> None:
    before = release.replicas()
    change(release, schedule=[{"start": "* * * * *", "end": "0 0 1 1 *", "timeZone": "Moon", "minReplicas": 2}])
    assert "write a name such as Europe/Berlin" in reason(release, "Ready", "InvalidSpec")
    assert release.replicas() == before
    change(release, schedule=None)
    reason(release, "Ready", "Working")


def test_a_budget_that_is_not_known_is_told_and_changes_nothing(release: Release) -> None:
    release.wait_until_nobody_works()
    change(release, budget={"name": "mine"})
    assert "knows no budget mine: add it to operator.budgets" in reason(release, "Ready", "BudgetUnknown")
    release.submit("waits.")
    eventually(lambda: release.queue()["ready"] == 1, "the task waits")
    assert release.replicas() == 0
    change(release, budget=None)
    release.wait_until_drained()


@contextmanager
def never_more_than(release: Release, most: int) -> Iterator[list[int]]:
    """In this block the pods of both queues that share, those that are ending included, are never more."""
    seen: list[int] = []
    done = threading.Event()

    def look() -> None:
        while not done.wait(0.2):
            pods = release.kube.get("pods", "--selector", "warren.dev/queue in (flood, trickle)")
            # A pod whose container has ended takes nothing any more, though its object stays for a moment.
            seen.append(sum(pod["status"].get("phase") not in ("Succeeded", "Failed") for pod in pods))

    watcher = threading.Thread(target=look)
    watcher.start()
    try:
        yield seen
    finally:
        done.set()
        watcher.join()
    assert seen
    assert max(seen) <= most


def test_a_flood_does_not_starve_the_other_queue_of_a_budget(release: Release) -> None:
    """The flood takes all there is; a task in the other queue still gets a worker while the flood goes on."""
    for name in ("flood", "trickle"):
        release.wait_until_nobody_works(name)
    with never_more_than(release, SHARED) as seen:
        for number in range(60):
            release.submit(f"flood {number}..", "flood")
        release.wait_for_workers(SHARED, "flood")
        release.submit("trickle.", "trickle")
        release.wait_until_drained("trickle", limit=60)
        assert release.queue("flood")["ready"] > 0, "the flood goes on"
        change(release, "flood", budget={"name": "shared", "priority": -1})
        release.wait_until_drained("flood")
    assert max(seen) == SHARED
    for name, queue in (("flood", "flood"), ("trickle", "trickle")):
        release.wait_until_nobody_works(name)
        assert release.queue(queue)["dead"] in (0, None)
