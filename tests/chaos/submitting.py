"""A client that submits tasks over HTTP and writes down each before it is sent and what it was told: a program.

    python submitting.py URL TOKEN FOLDER NAME SEED QUEUE… [--count N]

Without a count it goes on until SIGTERM. It chooses the ids, so that a task without an answer is known, too. What is
not an answer in so many words is `unknown`: a connection that broke, and whatever the client's own death leaves open.
Its exit code is 1 where one of its threads has ended by an error: the others go on, and nobody would notice.
"""

import argparse
import http.client
import json
import random
import signal
import sys
import threading
import time
import traceback
import urllib.parse
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

ANSWER_LIMIT = 15.0
"""Seconds until the client gives up an answer: the producers under test answer within twice their 5 s."""

PACE = 0.8
"""Seconds between two requests of one thread, on the average."""

SIZES = (1, 1, 1, 1, 1, 8)
"""Tasks in a request; more than one go as a batch."""


@dataclass(frozen=True)
class Mix:
    """What tasks do: each word of work with its share.

    A task that overruns or crashes keeps a worker busy for as long as its attempts take, so there are few of these.
    """

    shares: tuple[tuple[str, float], ...] = (
        ("brief", 0.888),
        ("long", 0.06),
        ("fail", 0.02),
        ("hopeless", 0.02),
        ("crash", 0.01),
        ("overrun", 0.002),
    )

    def body(self, draw: random.Random) -> str:
        """One task's body."""
        (what,) = draw.choices([name for name, _ in self.shares], [share for _, share in self.shares])
        if what == "brief":
            return f"work {draw.uniform(0.01, 0.3):.3f}"
        return f"work {draw.uniform(1.5, 5):.3f}" if what == "long" else what


class Record:
    """The client's own file. A line that is written has reached the kernel, whatever becomes of the process."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("ab", buffering=0)

    def write(self, **line: Any) -> None:
        """Append one line."""
        self._file.write(json.dumps({**line, "at": time.time()}).encode() + b"\n")

    def close(self) -> None:
        """There is no more."""
        self._file.close()


class Client:
    """One connection, made anew whenever it breaks.

    Args:
        url: of the producer.
        token: that may submit.
        record: where everything is written down.
    """

    def __init__(self, url: str, token: str, record: Record) -> None:
        parts = urllib.parse.urlsplit(url)
        self._address = (parts.hostname or "127.0.0.1", parts.port or 80)
        self._token = token
        self._record = record
        self._connection: http.client.HTTPConnection | None = None

    def submit(self, queue: str, tasks: dict[str, str]) -> None:
        """Send tasks, id → body; more than one as a batch."""
        for task, body in tasks.items():
            self._record.write(what="sent", task=task, queue=queue, kind=body.partition(" ")[0])
        if len(tasks) == 1:
            ((task, body),) = tasks.items()
            status, said = self._post(f"/v1/queues/{queue}/tasks", body, {"Idempotency-Key": task})
            self._record.write(what=word(status, said), task=task, why=code(said))
            return
        lines = "".join(json.dumps({"id": task, "body": body}) + "\n" for task, body in tasks.items())
        status, said = self._post(f"/v1/queues/{queue}/tasks:batch", lines, {})
        results = {one.get("id"): one for one in said.get("results") or () if one}
        for task in tasks:
            if said.get("results") is None:  # refused as a whole, or no answer
                self._record.write(what=word(status, said), task=task, why=code(said))
            elif task not in results:
                self._record.write(what="unknown", task=task)
            elif "error" in results[task] and results[task]["error"]:
                self._record.write(what=word(503, results[task]), task=task, why=code(results[task]))
            else:
                self._record.write(what="confirmed", task=task)

    def _post(self, path: str, body: str, headers: dict[str, str]) -> tuple[int, dict[str, Any]]:
        """Status and body of the answer; status 0 where there was none."""
        try:
            if self._connection is None:
                self._connection = http.client.HTTPConnection(*self._address, timeout=ANSWER_LIMIT)
            self._connection.request("POST", path, body, {"Authorization": f"Bearer {self._token}", **headers})
            answer = self._connection.getresponse()
            said = json.loads(answer.read())
        except (OSError, http.client.HTTPException, ValueError):
            self.close()
            return 0, {}
        if answer.will_close:
            self.close()
        return answer.status, said if isinstance(said, dict) else {}

    def close(self) -> None:
        """End the connection; the next request makes another."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None


def word(status: int, said: dict[str, Any]) -> str:
    """What an answer means for a task, as docs/submitting.md says.

    >>> word(202, {}), word(503, {"error": {"code": "broker_blocked"}})
    ('confirmed', 'refused')
    >>> word(503, {"error": {"code": "outcome_unknown"}}), word(0, {}), word(502, {})
    ('unknown', 'unknown', 'unknown')
    """
    if status == 202:
        return "confirmed"
    return "unknown" if code(said) in ("", "outcome_unknown", "internal") else "refused"


def code(said: dict[str, Any]) -> str:
    """The error's code in an answer; empty if it has none."""
    return str((said.get("error") or {}).get("code", ""))


def go_on(client: Client, name: str, queue: str, seed: int, stopped: threading.Event) -> None:
    """Submit until told to stop."""
    draw = random.Random(f"{seed} {name}")
    mix = Mix()
    number = 0
    while not stopped.wait(draw.uniform(0, 2 * PACE)):
        tasks = {}
        for _ in range(draw.choice(SIZES)):
            number += 1
            tasks[f"{name}-{number}"] = mix.body(draw)
        client.submit(queue, tasks)
    client.close()


def burst(client: Client, name: str, queue: str, seed: int, count: int) -> None:
    """Submit so many brief tasks at once."""
    draw = random.Random(f"{seed} {name}")
    client.submit(queue, {f"{name}-{number}": f"work {draw.uniform(0.05, 1):.3f}" for number in range(count)})
    client.close()


def side_by_side(jobs: Sequence[Callable[[], None]]) -> int:
    """Do all of these, each in a thread; the result is 1 where one of them has ended by an error, else 0."""
    failed: list[BaseException] = []

    def do(job: Callable[[], None]) -> None:
        try:
            job()
        except BaseException as error:  # noqa: BLE001  told by the exit code
            traceback.print_exception(error)
            failed.append(error)

    threads = [threading.Thread(target=do, args=(job,)) for job in jobs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return 1 if failed else 0


def main() -> int:
    """Run until SIGTERM, or until the count is sent; the result is the exit code."""
    parser = argparse.ArgumentParser()
    for argument in ("url", "token", "folder", "name"):
        parser.add_argument(argument)
    parser.add_argument("seed", type=int)
    parser.add_argument("queues", nargs="+")
    parser.add_argument("--count", type=int, default=0)
    options = parser.parse_args()
    record = Record(Path(options.folder) / f"client-{options.name}.jsonl")
    if options.count:
        client = Client(options.url, options.token, record)
        burst(client, options.name, options.queues[0], options.seed, options.count)
        return 0
    stopped = threading.Event()
    signal.signal(signal.SIGTERM, lambda _number, _frame: stopped.set())
    return side_by_side(
        [
            partial(
                go_on,
                Client(options.url, options.token, record),
                f"{options.name}-{queue}-{turn}",
                queue,
                options.seed,
                stopped,
            )
            for queue in options.queues
            for turn in range(2)
        ]
    )


if __name__ == "__main__":
    sys.exit(main())
