"""One load, several contenders: run them all, and tell and draw how they did."""

import json
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from warren_contract.durations import format_duration
from warren_operator.simulation.contenders import ContenderError, contenders
from warren_operator.simulation.model import Record, Timing, World
from warren_operator.simulation.picture import SLICES, Row, picture
from warren_operator.simulation.report import Figures, curves, figures, table
from warren_operator.simulation.trace import Trace, TraceError, is_made_up, made_up, read_trace


class Unusable(Exception):
    """The command line asks for something that cannot be; the message says what to write instead."""


@dataclass(frozen=True)
class Request:
    """What is asked for on the command line.

    Attributes:
        trace: the load: a file, `-`, or words.
        specs: who scales: files, or words.
        queue: only the tasks of this queue; None for a trace with a single one.
        timing: of the cluster.
        seed: of all that is left to chance.
        begin: Unix time of second 0, for schedules; None for the trace's own, else for now.
        picture: the SVG file to write; None for none.
        as_json: one JSON object a contender instead of the table.
    """

    trace: str
    specs: tuple[str, ...]
    queue: str | None = None
    timing: Timing = field(default_factory=Timing)
    seed: int = 1
    begin: float | None = None
    picture: Path | None = None
    as_json: bool = False


@dataclass(frozen=True)
class Run:
    """One contender's run.

    Attributes:
        name: of the contender.
        record: what happened.
        took: seconds of real time.
    """

    name: str
    record: Record
    took: float


def compare(request: Request, standard_input: Iterable[str]) -> str:
    """Do what is asked; returns what is to be printed.

    Raises:
        Unusable: the trace, a spec or the picture's file is of no use.
    """
    try:
        load = _load(request, standard_input)
        found = contenders(request.specs, _read)
    except (TraceError, ContenderError) as error:
        raise Unusable(str(error)) from error
    begin = request.begin if request.begin is not None else load.start if load.start is not None else time.time()
    runs: list[Run] = []
    for contender in found:
        started = time.perf_counter()
        record = World(load, contender.make(begin), request.timing, contender.concurrency, request.seed).run()
        runs.append(Run(contender.name, record, time.perf_counter() - started))
    until = max(run.record.over for run in runs)
    rows = [figures(run.name, run.record, until, run.took) for run in runs]
    if request.picture is not None:
        _draw(request.picture, f"{request.trace}: {_summary(load)}", runs, rows, until)
    if request.as_json:
        return "\n".join(json.dumps(row.as_json()) for row in rows)
    return f"{_summary(load)}, the last one after {format_duration(load.at[-1])}\n\n{table(rows)}"


def _load(request: Request, standard_input: Iterable[str]) -> Trace:
    if is_made_up(request.trace):
        return made_up(request.trace, request.seed)
    try:
        if request.trace == "-":
            return read_trace(standard_input, request.queue)
        with Path(request.trace).open(encoding="utf-8") as lines:
            return read_trace(lines, request.queue)
    except (OSError, UnicodeDecodeError) as error:
        raise Unusable(f"{_why(request.trace, error)}; a load in words starts as in burst:60x2s") from error


def _read(name: str) -> str:
    try:
        return Path(name).read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise Unusable(f"{_why(name, error)}; a WorkQueue in words starts as in backlogPerWorker=5") from error


def _why(name: str, error: Exception) -> str:
    return f"{name} cannot be read: {error.strerror if isinstance(error, OSError) else error}"


def _draw(file: Path, title: str, runs: list[Run], rows: list[Figures], until: float) -> None:
    drawn = picture(title, [Row(row, curves(run.record, until, SLICES)) for row, run in zip(rows, runs, strict=True)])
    try:
        file.write_text(drawn, "utf-8")
    except OSError as error:
        raise Unusable(f"{file} cannot be written: {error.strerror}") from error


def _summary(load: Trace) -> str:
    return f"{len(load)} tasks, {load.work:.0f} s of work"
