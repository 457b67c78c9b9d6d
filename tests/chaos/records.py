"""What the client, the handlers and the stage wrote into their folder, as entries of the ledger.

Dead letters and faults are written down as well: what has been judged can be judged again, by another rule.
"""

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ledger import Answer, Death, Fault, Harm, Run, Submission

DEATHS = "deaths.jsonl"
FAULTS = "faults.jsonl"


def submissions(folder: Path) -> list[Submission]:
    """Everything that clients sent, with the last word on each."""
    return read_submissions(_lines(folder, "client-*.jsonl"))


def runs(folder: Path) -> list[Run]:
    """All runs, in the order of their starts."""
    return read_runs(_lines(folder, "worker-*.jsonl"))


def deaths(folder: Path) -> list[Death]:
    """All dead letters that were read, in the order of their reading."""
    return read_deaths(_lines(folder, DEATHS))


def faults(folder: Path) -> list[Fault]:
    """All faults that were done, in the order of their ends."""
    return read_faults(_lines(folder, FAULTS))


def append(folder: Path, name: str, line: dict[str, Any]) -> None:
    """Write one line; a line that is written has reached the kernel."""
    with (folder / name).open("ab", buffering=0) as file:
        file.write(json.dumps(line).encode() + b"\n")


def letter(task: str, headers: Mapping[str, Any]) -> dict[str, Any]:
    """A dead letter's line: of its headers, those that say why and when, and the broker's own word where it buried.

    A letter without a reason says so: what is missing stays empty.
    """
    reason = headers.get("x-warren-exception") or headers.get("x-first-death-reason") or ""
    return {
        "task": task,
        "at": int(str(headers.get("x-warren-failed-at", 0))) / 1000,
        "reason": str(reason),
        "attempts": headers.get("x-warren-attempts"),
        "worker": str(headers.get("x-warren-worker") or ""),
    }


def fault_line(fault: Fault) -> dict[str, Any]:
    """A fault's line."""
    return {
        "kind": fault.kind,
        "what": fault.what,
        "began": fault.began,
        "ended": fault.ended,
        "harms": sorted(harm.value for harm in fault.harms),
        "workers": None if fault.workers is None else sorted(fault.workers),
        "echo": fault.echo,
    }


def read_deaths(lines: Iterable[dict[str, Any]]) -> list[Death]:
    """From the lines of `letter`."""
    return [Death(line["task"], line["at"], line["reason"], line["worker"]) for line in lines]


def read_faults(lines: Iterable[dict[str, Any]]) -> list[Fault]:
    """From the lines of `fault_line`."""
    return [
        Fault(
            line["kind"],
            line["what"],
            line["began"],
            line["ended"],
            frozenset(map(Harm, line["harms"])),
            None if line["workers"] is None else frozenset(line["workers"]),
            line["echo"],
        )
        for line in lines
    ]


def read_submissions(lines: Iterable[dict[str, Any]]) -> list[Submission]:
    """From a client's lines; what has no answer is unknown."""
    found: dict[str, Submission] = {}
    for line in lines:
        task, at = line["task"], line["at"]
        if line["what"] == "sent":
            found[task] = Submission(task, line["queue"], at, Answer.UNKNOWN, kind=line["kind"])
        else:
            sent = found[task]
            found[task] = replace(sent, answer=Answer(line["what"]), answered=at)
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


@dataclass(frozen=True, slots=True)
class AtWork:
    """A run that has begun and not ended yet.

    Attributes:
        task: its id.
        worker: that runs it.
        pid: of the handler's process, inside its pod.
        started: when.
        doomed: it never ends by itself.
    """

    task: str
    worker: str
    pid: int
    started: float
    doomed: bool


def at_work(folder: Path) -> list[AtWork]:
    """The runs that have begun and not ended yet; also those whose process has died."""
    return read_at_work(_lines(folder, "worker-*.jsonl"))


def read_at_work(lines: Iterable[dict[str, Any]]) -> list[AtWork]:
    """From the handlers' lines."""
    found: dict[tuple[str, int], AtWork] = {}
    for line in lines:
        key = (line["worker"], line["pid"])
        if line["what"] == "start":
            found[key] = AtWork(line["task"], line["worker"], line["pid"], line["at"], line["doomed"])
        else:
            found.pop(key, None)
    return sorted(found.values(), key=lambda run: (run.task, run.worker, run.pid))


def _lines(folder: Path, pattern: str) -> Iterator[dict[str, Any]]:
    for path in sorted(folder.glob(pattern)):
        whole, _, _unfinished = path.read_text("utf-8").rpartition("\n")
        for line in whole.splitlines():
            yield json.loads(line)
