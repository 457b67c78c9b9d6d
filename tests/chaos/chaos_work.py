"""The handler of the workers under faults; it is mounted into their pods, so it stands alone.

A task's body says what to do: `work SECONDS`, `gate NAME` (wait until the file `NAME-<worker>` is there), `fail`,
`hopeless` (fails for good), `crash` (ends its own process) or `overrun` (never ends). Each worker writes a line of JSON
at the start and at the end of each run to a file of its own in the folder `WARREN_EVIDENCE`: a line that is written has
reached the kernel, whatever becomes of the process.
"""

import json
import os
import time
from pathlib import Path
from typing import Any, NoReturn

from warren_worker.task import PermanentError

FOR_EVER = 3600.0
"""Seconds: beyond any time limit of these tests."""


GATE_LIMIT = 120.0
"""Seconds until a task gives up waiting for its gate; a test that got so far has failed."""


def work(task: Any) -> None:
    """Do what the body says."""
    what, _, how = task.body.decode().partition(" ")
    note(task, "start", doomed=what == "overrun")
    match what:
        case "work":
            time.sleep(float(how))
        case "gate":
            wait_for(folder() / f"{how}-{worker()}")
        case "overrun":
            time.sleep(FOR_EVER)
        case _:
            fail(task, what)
    note(task, "done")


def fail(task: Any, what: str) -> NoReturn:
    """Fail in the way that the body says."""
    note(task, "failed")
    if what == "crash":
        os._exit(7)
    if what == "hopeless":
        raise PermanentError("it is meant to fail for good")
    raise ValueError(f"{what} is meant to fail")


def wait_for(path: Path) -> None:
    """Wait for a gate to open."""
    deadline = time.monotonic() + GATE_LIMIT
    while not path.exists():
        if time.monotonic() > deadline:
            raise TimeoutError(f"nobody opened gate {path}")
        time.sleep(0.01)


def folder() -> Path:
    """Where everything is written."""
    return Path(os.environ["WARREN_EVIDENCE"])


def worker() -> str:
    """Our own name."""
    return os.environ["WARREN_WORKER_NAME"]


def note(task: Any, what: str, *, doomed: bool = False) -> None:
    """Append one line; a single short write to a file opened for appending is never torn."""
    line = {"what": what, "task": task.id, "worker": worker(), "pid": os.getpid(), "at": time.time(), "doomed": doomed}
    with (folder() / f"worker-{worker()}.jsonl").open("ab", buffering=0) as file:
        file.write(json.dumps(line).encode() + b"\n")
