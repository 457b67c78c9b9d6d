"""What workers really did, written down by their handler; this file is mounted into their pods, so it stands alone.

Each pod has a file of its own in the folder `WARREN_EVIDENCE`, with a line of JSON at the start and at the end of each
run. Pods and tests share one clock where the cluster runs on the tests' machine.
"""

import json
import os
import time
from pathlib import Path
from typing import Any

GATE_LIMIT = 300.0
"""Seconds until a task gives up waiting for its gate; a test that got so far has failed."""


def work(task: Any) -> None:
    """Work for as many seconds as the body says; or, where it says `gate NAME`, until the file `NAME` is there."""
    note(task, "start")
    kind, _, name = task.body.decode().partition(" ")
    if kind == "gate":
        deadline = time.monotonic() + GATE_LIMIT
        while not (folder() / name).exists() and time.monotonic() < deadline:
            time.sleep(0.1)
    else:
        time.sleep(float(kind))
    note(task, "end")


def folder() -> Path:
    """Where everything is written."""
    return Path(os.environ["WARREN_EVIDENCE"])


def note(task: Any, what: str) -> None:
    """Append one line; a single short write to a file opened for appending is never torn."""
    line = {
        "what": what,
        "task": task.id,
        "queue": os.environ["WARREN_QUEUE"],
        "pod": os.environ["WARREN_WORKER_NAME"],
        "at": time.time(),
        "attempt": task.attempt,
        "acquired": int(task.headers.get("x-acquired-count", 0)),
    }
    with (folder() / f"{line['pod']}.jsonl").open("ab", buffering=0) as file:
        file.write(json.dumps(line).encode() + b"\n")
