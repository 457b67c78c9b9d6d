"""What a worker reports, for the tests."""

from dataclasses import replace
from typing import Any

from warren_contract.events import RunningTask, WorkerState

WALL = 5_000_000.0
"""Unix time in seconds of its report."""


def state(worker: str, running: int = 0, **changes: Any) -> WorkerState:
    """A report of a worker with so many tasks in hand."""
    base = WorkerState(
        queue="q",
        worker=worker,
        at=WALL,
        started_at=WALL - 100,
        concurrency=1,
        running=tuple(RunningTask(f"{worker}-{number}", WALL) for number in range(running)),
        finished=0,
        failed=0,
        finished_seconds=0.0,
        running_seconds=0.0,
    )
    return replace(base, **changes)
