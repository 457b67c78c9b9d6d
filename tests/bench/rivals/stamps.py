"""From submitting a task to its start: the handler writes down when it began, and the submitter waits for that."""

import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path

LIMIT = 30.0
"""Seconds for one task to begin."""


def stamp(path: str) -> None:
    """What the handler does: note the time, in seconds of the machine's monotonic clock."""
    with open(path, "a", encoding="utf-8") as file:  # noqa: PTH123  the cheapest way, since this is being timed
        file.write(f"{time.monotonic()}\n")


def latency(send: Callable[[str], object], count: int) -> float:
    """Median seconds from the call of `send`, which gives a task the path, to the task's start."""
    path = Path(os.environ["RIVAL_STAMPS"])
    path.touch()
    taken = []
    for _ in range(count):
        before, began = path.stat().st_size, time.monotonic()
        send(str(path))
        while path.stat().st_size == before:
            assert time.monotonic() < began + LIMIT, "no worker began the task"
            time.sleep(0.0002)
        taken.append(float(path.read_text().splitlines()[-1]) - began)
    return statistics.median(taken)
