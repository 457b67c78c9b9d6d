"""The program of `helm test`: submits a task and waits until a worker says that it has done it."""

import json
import os
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

LIMIT = 240.0
"""Seconds for all of it: Helm waits 300. A worker has to start first, and may have other tasks before this one."""

QUIET = 5.0
"""Seconds without a task that waits, is in work or has died until that is believed; each change is told at once."""

QUEUE = f"{os.environ['WARREN_URL']}/v1/queues/{os.environ['WARREN_QUEUE']}"
DEADLINE = time.monotonic() + LIMIT


def find_token(folder: Path, queue: str) -> str:
    """The first token that may submit to the queue; a line names its queues, or is for all."""
    for scope in ("submit", "admin"):
        path = folder / scope
        for line in path.read_text("utf-8").splitlines() if path.exists() else ():
            token, *queues = line.split() or [""]
            if token and (not queues or queue in queues):
                return token
    sys.exit(f"no token for {queue}: the Secret needs one under the key submit or admin")


TOKEN = find_token(Path(os.environ["WARREN_TOKEN_DIR"]), os.environ["WARREN_QUEUE"])


def call(url: str, body: bytes | None = None) -> Any:
    """The answer's JSON; tries again while the producer is not up, or says that the broker is not."""
    while True:
        request = urllib.request.Request(url, data=body, headers={"Authorization": f"Bearer {TOKEN}"})  # noqa: S310
        try:
            with urllib.request.urlopen(request, timeout=15) as answer:  # noqa: S310  it is our own producer
                return json.load(answer)
        except urllib.error.HTTPError as error:
            # 404: the operator has not made the queue yet.
            problem = f"HTTP {error.code}: {error.read().decode(errors='replace')}"
            if error.code not in (404, 502, 503, 504):
                sys.exit(problem)
        except OSError as error:
            problem = str(error)
        if time.monotonic() > DEADLINE:
            sys.exit(f"{url}: no good answer within {LIMIT:g} s; the last was {problem}")
        time.sleep(1)


def main() -> None:
    """Submit, then follow the task from worker to worker until one has finished it."""
    dead = call(QUEUE)["dead"]  # of earlier tasks
    task = call(f"{QUEUE}/tasks", b"helm test..")["id"]
    print(f"submitted {task}", flush=True)
    holder, finished, quiet_since, state = "", 0, None, None
    while time.monotonic() < DEADLINE:
        state = call(QUEUE)
        workers = {worker["worker"]: worker for worker in state["worker_states"]}
        holding = [
            name for name, worker in workers.items() if any(running["id"] == task for running in worker["running"])
        ]
        if holding and holding[0] != holder:
            print(f"{holding[0]} has it in hand", flush=True)
        if holding:
            holder, finished, quiet_since = holding[0], workers[holding[0]]["finished"], None
        elif holder in workers and workers[holder]["finished"] > finished:
            print(f"{holder} has done it")
            return
        elif (
            holder
            and holder not in workers
            and not any(state[count] for count in ("ready", "unacked", "delayed"))
            and (state["dead"] or 0) <= (dead or 0)
        ):
            # A worker may be gone, with its last word, as soon as it has nothing to do. Nothing may be left then.
            quiet_since = quiet_since or time.monotonic()
            if time.monotonic() - quiet_since > QUIET:
                print(f"{holder} is gone and has left no task behind")
                return
        time.sleep(0.2)
    sys.exit(f"no worker has done it within {LIMIT:g} s; the queue's state: {json.dumps(state)}")


main()
