"""Handlers for the worker's tests. They write down what they do, so that tests judge by order and count, not by time.

Each writes lines of JSON to the file `WARREN_TEST_RECORD`; `gate` waits until the test opens its gate.
"""

import json
import multiprocessing
import os
import resource
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

from warren_worker.task import PermanentError, Task

GATE_LIMIT = 120.0
"""Seconds until a handler gives up waiting for its gate; a test that got so far has failed."""


def note(task: Task, what: str) -> None:
    """Append one line; a single short write to a file opened for appending is never torn."""
    line = json.dumps(
        {
            "what": what,
            "id": task.id,
            "body": task.body.decode("utf-8", "replace"),
            "attempt": task.attempt,
            "worker": os.environ["WARREN_WORKER_NAME"],
            "pid": os.getpid(),
        }
    )
    with Path(os.environ["WARREN_TEST_RECORD"]).open("ab", buffering=0) as file:
        file.write(line.encode() + b"\n")


def light(task: Task) -> None:
    """Done at once."""
    note(task, "start")
    note(task, "end")


def gate(task: Task) -> None:
    """Wait until the file named like the body is there; a body `light…` passes at once."""
    note(task, "start")
    wait_for(Path(os.environ["WARREN_TEST_GATES"]) / task.body.decode())
    note(task, "end")


def gate_each_run(task: Task) -> None:
    """Like `gate`, with a gate of its own for each time that the task runs: `<body>-1`, `<body>-2`, …"""
    note(task, "start")
    lines = Path(os.environ["WARREN_TEST_RECORD"]).read_text("utf-8").splitlines()
    runs = sum(json.loads(line)["what"] == "start" and json.loads(line)["id"] == task.id for line in lines)
    wait_for(Path(os.environ["WARREN_TEST_GATES"]) / f"{task.body.decode()}-{runs}")
    note(task, "end")


def wait_for(path: Path) -> None:
    """Wait for a gate to open."""
    if path.name.startswith("light"):
        return
    deadline = time.monotonic() + GATE_LIMIT
    while not path.exists():
        if time.monotonic() > deadline:
            raise TimeoutError(f"nobody opened gate {path}")
        time.sleep(0.01)


def fail_twice(task: Task) -> None:
    """Fails at the first two attempts."""
    note(task, "start")
    if task.attempt <= 2:
        raise ValueError(f"attempt {task.attempt} is meant to fail")
    note(task, "end")


def boom(task: Task) -> None:
    """Always fails."""
    note(task, "start")
    raise ValueError("no such picture")


class NoSuchPicture(PermanentError):
    """Trying again is of no use."""


def hopeless(task: Task) -> None:
    """Fails in a way that a further attempt does not mend."""
    note(task, "start")
    raise NoSuchPicture("it was deleted")


def gate_then_fail(task: Task) -> None:
    """Fails once its gate is open; a body `light…` is done at once."""
    note(task, "start")
    wait_for(Path(os.environ["WARREN_TEST_GATES"]) / task.body.decode())
    if not task.body.startswith(b"light"):
        raise ValueError("no such picture")
    note(task, "end")


def fail_if_bad(task: Task) -> None:
    """Fails for bodies `bad…`."""
    note(task, "start")
    if task.body.startswith(b"bad"):
        raise ValueError("bad")
    note(task, "end")


def die(task: Task) -> None:
    """Ends its own process in the way that the body says, except on later attempts."""
    note(task, "start")
    if task.attempt == 1:
        match task.body.decode():
            case "segfault":
                os.kill(os.getpid(), signal.SIGSEGV)
            case "killed":  # as the kernel does where memory runs out
                os.kill(os.getpid(), signal.SIGKILL)
            case "exit":
                os._exit(3)
            case "sys.exit":
                sys.exit(0)
            case "close":
                os.closerange(3, 256)  # the worker's socket among them
                time.sleep(GATE_LIMIT)
            case "hang":
                signal.signal(signal.SIGTERM, signal.SIG_IGN)
                while True:
                    time.sleep(60)
            case "grandchild":
                program = subprocess.Popen(["sleep", "600"])
                note(task, f"grandchild {program.pid}")
                program.wait()
    note(task, "end")


def sleep_3(task: Task) -> None:
    """Longer than two heartbeats of one second."""
    note(task, "start")
    time.sleep(3)
    note(task, "end")


def chatty(task: Task) -> None:
    """Tells how far it is."""
    task.progress(0.5, "half way")
    note(task, "end")


def quiet_at_first(task: Task) -> None:
    """Does nothing; only a further attempt is worth a note."""
    if task.attempt > 1:
        note(task, "again")


async def asynchronous(_task: Task) -> None:
    """Nobody awaits this."""


NOT_CALLABLE = 5

BY_TYPE = {"light": light, "boom": boom}
WRONG_TYPES = {"a": light, "b": asynchronous}

_hoard: list[bytes] = []


def hoard(task: Task) -> None:
    """Keeps 20 MiB of each task."""
    note(task, "start")
    _hoard.append(bytes(range(256)) * (20 * 4096))
    note(task, "end")


def ends_its_helper(task: Task) -> None:
    """Is deaf to SIGTERM itself, and reports how the helper ended that it forked and told to end at once."""
    os.kill(os.getpid(), signal.SIGTERM)
    helper = multiprocessing.get_context("fork").Process(target=time.sleep, args=(GATE_LIMIT,))
    helper.start()
    helper.terminate()
    helper.join(5.0)  # far more than it takes; then it is not going to
    code = helper.exitcode
    helper.kill()
    helper.join()
    task.progress(1.0, str(code))


def detaches(task: Task) -> None:
    """Reports a program that it has started in a session of its own, and waits for it."""
    program = subprocess.Popen(["sleep", "600"], start_new_session=True)
    task.progress(0.0, str(program.pid))
    program.wait()


def leaks_files(_task: Task) -> None:
    """Opens files until it may open no more, and is done."""
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, 256))
    with suppress(OSError):
        while True:
            os.open(os.devnull, os.O_RDONLY)


def reports_all_the_time(task: Task) -> None:
    """Reports more than anybody can read, until its deadline."""
    while time.time() < task.deadline:
        task.progress(0.5, "x" * 200)
