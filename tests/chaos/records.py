"""What the client and the handlers wrote into their folder, as entries of the ledger."""

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from ledger import Answer, Run, Submission


def submissions(folder: Path) -> list[Submission]:
    """Everything that clients sent, with the last word on each."""
    return read_submissions(_lines(folder, "client-*.jsonl"))


def runs(folder: Path) -> list[Run]:
    """All runs, in the order of their starts."""
    return read_runs(_lines(folder, "worker-*.jsonl"))


def read_submissions(lines: Iterable[dict[str, Any]]) -> list[Submission]:
    """From a client's lines; what has no answer is unknown."""
    found: dict[str, Submission] = {}
    for line in lines:
        task, at = line["task"], line["at"]
        if line["what"] == "sent":
            found[task] = Submission(task, line["queue"], at, Answer.UNKNOWN)
        else:
            sent = found[task]
            found[task] = Submission(task, sent.queue, sent.sent, Answer(line["what"]), at)
    return list(found.values())


def read_runs(lines: Iterable[dict[str, Any]]) -> list[Run]:
    """From the handlers' lines, each file's in its order.

    A handler's process runs one task at a time, so an end belongs to the last start of its process.
    """
    found: list[Run] = []
    running: dict[tuple[str, int, str], Run] = {}
    for line in lines:
        key = (line["worker"], line["pid"], line["task"])
        if line["what"] == "start":
            if key in running:  # the same process again, and the first run never ended
                found.append(running[key])
            running[key] = Run(line["task"], line["worker"], line["at"], doomed=line["doomed"])
        else:
            run = running.pop(key)
            found.append(Run(run.task, run.worker, run.started, line["at"], completed=line["what"] == "done"))
    return sorted([*found, *running.values()], key=lambda run: run.started)


def at_work(folder: Path) -> list[tuple[str, str, int]]:
    """(task, worker, process id inside its pod) of the runs that have begun and not ended yet."""
    open_runs: dict[tuple[str, int], str] = {}
    for line in _lines(folder, "worker-*.jsonl"):
        key = (line["worker"], line["pid"])
        if line["what"] == "start":
            open_runs[key] = line["task"]
        else:
            open_runs.pop(key, None)
    return sorted((task, worker, pid) for (worker, pid), task in open_runs.items())


def _lines(folder: Path, pattern: str) -> Iterator[dict[str, Any]]:
    for path in sorted(folder.glob(pattern)):
        whole, _, _unfinished = path.read_text("utf-8").rpartition("\n")
        for line in whole.splitlines():
            yield json.loads(line)
