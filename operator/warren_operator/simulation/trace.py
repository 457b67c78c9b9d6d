"""Loads: when tasks come, and how long each one takes. Read from a file, or made up from a few words and a seed."""

import csv
import json
import math
import random
import re
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import chain, cycle

from warren_contract.durations import DurationError, parse_duration

LONGEST_SPAN = 366
"""Days from the start to the last task at most: the time until the first one is simulated, too."""

LONGEST = 10_000_000
"""Tasks in one trace at most: a typing error in a rate should not fill the memory."""

UNIX = 1_000_000_000.0
"""A number from here on is a Unix time (it is 2001 by then), a smaller one is seconds since the start."""

LATEST = 100_000_000_000.0
"""A number from here on is no Unix time in seconds (it would be the year 5138), but one in milliseconds or less."""


class TraceError(ValueError):
    """A trace cannot be read; the message says where, and what to write."""


@dataclass(frozen=True)
class Trace:
    """A load.

    Attributes:
        at: seconds since the start at which each task is confirmed, in ascending order.
        takes: seconds of work in each task, in the same order.
        start: Unix time of second 0; None where the trace does not say.
    """

    at: "array[float]"
    takes: "array[float]"
    start: float | None = None

    def __len__(self) -> int:
        return len(self.at)

    @property
    def work(self) -> float:
        """Seconds of work in all tasks together."""
        return math.fsum(self.takes)


def trace_of(tasks: Iterable[tuple[float, float]], start: float | None = None) -> Trace:
    """A trace of (second, seconds of work), in whatever order.

    Raises:
        TraceError: there are none, or more than `LONGEST`.
    """
    ordered = sorted(tasks, key=lambda task: task[0])  # those of one moment stay in their order
    if not ordered:
        raise TraceError("a trace without tasks: there is nothing to simulate")
    if len(ordered) > LONGEST:
        raise TraceError(f"a trace of {len(ordered)} tasks is too long: {LONGEST} is the most")
    days = ordered[-1][0] / 86_400
    if days > LONGEST_SPAN:
        raise TraceError(
            f"the last task comes {days:.0f} days after the start, and {LONGEST_SPAN} days are the most: see that all "
            "times are seconds from the same moment"
        )
    return Trace(array("d", (at for at, _ in ordered)), array("d", (takes for _, takes in ordered)), start)


# -- made up -----------------------------------------------------------------------------------------------------------

GRAMMAR = """\
  burst:60x2s                   60 tasks of 2 s at once (burst:60x2s,30s: half a minute after the start)
  poisson:5/s,2s,10m            5 tasks of 2 s a second on average, at random, for ten minutes
  steps:2s,1/s@5m,6/s@5m        tasks of 2 s; 1 a second for five minutes, then 6 a second
  sine:2-20/s,2s,24h,24h        between 2 and 20 a second, up and down once in 24 h, for 24 h
work of a task:  2s    4s|60s (in turn)    1s..3s (at random between)    ~2s (exponential, 2 s on average)
joined with +:   poisson:1/s,2s,10m+burst:100x2s,3m"""
"""What `made_up` understands, for the help."""

_RATE = re.compile(r"([0-9]+(?:\.[0-9]+)?)/(s|m|h)")
_RANGE = re.compile(r"([0-9]+(?:\.[0-9]+)?)-([0-9]+(?:\.[0-9]+)?)/(s|m|h)")
_PER = {"s": 1.0, "m": 60.0, "h": 3600.0}

Work = Callable[[random.Random], float]
"""Draws the seconds of the next task."""


def is_made_up(text: str) -> bool:
    """Whether a text is a load in words rather than the name of a file."""
    return text.partition(":")[0] in _MAKERS


def made_up(text: str, seed: int) -> Trace:
    """The load that a text such as `poisson:5/s,2s,10m` describes; the same for the same seed.

    Raises:
        TraceError: the text says something else, or too much.
    """
    rng = random.Random(f"trace {seed}")  # noqa: S311  a load, not a secret
    return trace_of(chain.from_iterable(_part(part.strip(), rng) for part in text.split("+")))


def _part(text: str, rng: random.Random) -> list[tuple[float, float]]:
    name, _, rest = text.partition(":")
    maker = _MAKERS.get(name)
    if maker is None:
        raise TraceError(f"{text!r} is no load: it starts with none of {', '.join(f'{key}:' for key in _MAKERS)}")
    try:
        return list(maker(rest.split(","), rng))
    except (DurationError, ValueError) as error:
        if isinstance(error, TraceError):
            raise
        raise TraceError(f"{text!r}: {error}") from error


def _burst(words: Sequence[str], rng: random.Random) -> Iterator[tuple[float, float]]:
    sized, at = _words(words, 1, 2, "burst:60x2s, or burst:60x2s,30s")
    count, found, work = sized.partition("x")
    if not found or not count.isdigit():
        raise TraceError(f"burst:{sized} names no number of tasks: write burst:60x2s")
    draw, moment = _work(work), parse_duration(at) if at else 0.0
    if int(count) > LONGEST:
        raise TraceError(f"{count} tasks are too many: {LONGEST} are the most")
    return ((moment, draw(rng)) for _ in range(int(count)))


def _poisson(words: Sequence[str], rng: random.Random) -> Iterator[tuple[float, float]]:
    rate, work, span = _words(words, 3, 3, "poisson:5/s,2s,10m")
    return _at_random(lambda _: _rate(rate), _rate(rate), _work(work), parse_duration(span), rng)


def _steps(words: Sequence[str], rng: random.Random) -> Iterator[tuple[float, float]]:
    if len(words) < 2:
        raise TraceError("steps names no step: write steps:2s,1/s@5m,6/s@5m")
    draw, began = _work(words[0]), 0.0
    for step in words[1:]:
        rate, _, span = step.partition("@")
        per_second, seconds = _rate(rate), parse_duration(span)
        for at, takes in _at_random(lambda _, rate=per_second: rate, per_second, draw, seconds, rng):  # type: ignore[misc]
            yield began + at, takes
        began += seconds


def _sine(words: Sequence[str], rng: random.Random) -> Iterator[tuple[float, float]]:
    between, work, span, period = _words(words, 3, 4, "sine:2-20/s,2s,24h,24h")
    found = _RANGE.fullmatch(between)
    if not found:
        raise TraceError(f"{between!r} are no two rates: write 2-20/s")
    low, high = float(found[1]) / _PER[found[3]], float(found[2]) / _PER[found[3]]
    if high < low:
        raise TraceError(f"{between!r}: the lower rate comes first")
    total = parse_duration(span)
    turn = 2 * math.pi / (parse_duration(period) if period else total)
    return _at_random(lambda t: low + (high - low) * (1 - math.cos(turn * t)) / 2, high, _work(work), total, rng)


_MAKERS: dict[str, Callable[[Sequence[str], random.Random], Iterator[tuple[float, float]]]] = {
    "burst": _burst,
    "poisson": _poisson,
    "steps": _steps,
    "sine": _sine,
}


def _at_random(
    rate: Callable[[float], float], most: float, draw: Work, span: float, rng: random.Random
) -> Iterator[tuple[float, float]]:
    """A Poisson process whose rate varies and never exceeds `most`: candidates at that rate, thinned out.

    Source: P. A. W. Lewis and G. S. Shedler, Simulation of nonhomogeneous Poisson processes by thinning, 1979.
    """
    if most * span > 2 * LONGEST:
        raise TraceError(f"that may mean {most * span:.0f} tasks, and {LONGEST} are the most: write less")
    at = 0.0
    while most > 0:
        at += rng.expovariate(most)
        if at >= span:
            return
        if rng.random() * most < rate(at):
            yield at, draw(rng)


def _words(words: Sequence[str], least: int, most: int, example: str) -> list[str]:
    if not least <= len(words) <= most:
        raise TraceError(f"{','.join(words)!r} has too few or too many parts: write {example}")
    return [*words, *[""] * (most - len(words))]


def _rate(text: str) -> float:
    found = _RATE.fullmatch(text)
    if not found:
        raise TraceError(f"{text!r} is no rate: write 5/s, 30/m or 100/h")
    return float(found[1]) / _PER[found[2]]


def _work(text: str) -> Work:
    if text.startswith("~"):
        mean = parse_duration(text[1:])
        return lambda rng: rng.expovariate(1 / mean) if mean else 0.0
    low, between, high = text.partition("..")
    if between:
        shortest, longest = parse_duration(low), parse_duration(high)
        return lambda rng: rng.uniform(shortest, longest)
    turns = [parse_duration(part) for part in text.split("|")]
    each = cycle(turns)
    return lambda _: next(each)


# -- from a file -------------------------------------------------------------------------------------------------------


def read_trace(lines: Iterable[str], queue: str | None = None) -> Trace:
    """A trace from CSV (`at,duration[,queue]`, with or without that header) or from one JSON object a line.

    Args:
        lines: of the file.
        queue: only the tasks of this queue; None where the trace has a single one.

    Raises:
        TraceError: a line cannot be understood, or the queue is not there or not said.
    """
    numbered = ((number, line) for number, line in enumerate(lines, 1) if line.strip())
    number, first = next(numbered, (0, ""))
    if not first:
        raise TraceError("the trace is empty: it needs a line at,duration for each task")
    first = first.removeprefix("\ufeff")  # spreadsheets begin their files so
    every = chain([(number, first)], numbered)
    rows = _json_rows(every) if first.lstrip().startswith("{") else _csv_rows(every)
    tasks: list[tuple[float, float]] = []
    queues: set[str] = set()
    calendar = False
    for (at, of_calendar), takes, name in rows:
        queues.add(name)
        calendar = calendar or of_calendar
        if queue is None or name == queue:
            tasks.append((at, takes))
    if queue is not None and not tasks:
        raise TraceError(f"no task of queue {queue} in the trace: it has {_listed(queues)}")
    if queue is None and len(queues) > 1:
        raise TraceError(f"the trace has several queues: choose one with --queue ({_listed(queues)})")
    if not calendar:
        return trace_of(tasks)
    first_at = min((at for at, _ in tasks), default=0.0)
    return trace_of(((at - first_at, takes) for at, takes in tasks), start=first_at)


def _listed(queues: Iterable[str]) -> str:
    names = sorted(name or "tasks without one" for name in queues)
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


_Row = tuple[tuple[float, bool], float, str]
"""When (see `_moment`), seconds of work, and queue."""


def _json_rows(lines: Iterable[tuple[int, str]]) -> Iterator[_Row]:
    for number, line in lines:
        try:
            row = json.loads(line)
            yield _moment(row["at"]), _seconds(row["duration"]), str(row.get("queue", ""))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise TraceError(f'line {number}: {error!r}; write {{"at": 0.5, "duration": 2}}') from error


def _csv_rows(lines: Iterable[tuple[int, str]]) -> Iterator[_Row]:
    numbers: list[int] = []

    def texts() -> Iterator[str]:
        for number, line in lines:
            numbers[:] = [number]
            yield line

    try:
        for index, row in enumerate(csv.reader(texts())):
            if index == 0 and row[0].strip().lower() == "at":
                if [name.strip().lower() for name in row[:3]] not in (["at", "duration"], ["at", "duration", "queue"]):
                    raise TraceError(
                        f"the columns are {', '.join(row)}: they have to be at, duration and perhaps queue"
                    )
                continue
            yield _moment(row[0]), _seconds(row[1]), row[2].strip() if len(row) > 2 else ""
    except (TraceError, UnicodeDecodeError):
        raise
    except (ValueError, IndexError, csv.Error) as error:
        raise TraceError(f"line {numbers[0]}: {error}; write at,duration in seconds, such as 0.5,2") from error


def _moment(value: object) -> tuple[float, bool]:
    """Seconds, from a number or from RFC 3339, and whether they are a Unix time."""
    if isinstance(value, str) and ":" in value:  # with a T between day and time, or a space
        moment = datetime.fromisoformat(value.strip())
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp(), True
    number = _seconds(value)
    if number >= LATEST:
        raise ValueError(f"{value!r} is no time in seconds: milliseconds have to be divided by 1000")
    return number, number >= UNIX


def _seconds(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise ValueError(f"{value!r} is no number of seconds")  # noqa: TRY004  the caller adds the line to a ValueError
    try:
        number = float(value)
    except OverflowError:  # a whole number of hundreds of digits
        number = math.inf
    if not math.isfinite(number) or number < 0:
        raise ValueError(f"{value!r} is no number of seconds from zero on")
    return number
