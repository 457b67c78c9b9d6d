"""What is told of a run: a few figures, side by side."""

import math
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any

from warren_operator.simulation.model import Record


@dataclass(frozen=True)
class Figures:
    """The figures of one contender. Times in seconds.

    Attributes:
        name: of the contender.
        tasks, unfinished: in the trace; of them, those that never ended.
        wait_p50, wait_p95, wait_max: from a task's confirm until it was first taken.
        done: from the first task's confirm until the last one had ended.
        zero: from then until everything was at rest again.
        pod_seconds: sum of the lives of all pods, up to the moment at which the last contender was at rest.
        pod_seconds_per_work: the same for each second of work.
        peak: most replicas asked for.
        ups, downs: changes of replicas.
        interrupted: tasks that were cut off by a scale-in and delivered a second time.
        simulated: length of what was simulated.
        took: of the simulation itself.
    """

    name: str
    tasks: int
    unfinished: int
    wait_p50: float
    wait_p95: float
    wait_max: float
    done: float
    zero: float
    pod_seconds: float
    pod_seconds_per_work: float
    peak: int
    ups: int
    downs: int
    interrupted: int
    simulated: float
    took: float

    def as_json(self) -> dict[str, Any]:
        """For JSON: whole milliseconds are exact enough."""
        return {name: round(value, 3) if isinstance(value, float) else value for name, value in asdict(self).items()}


def figures(name: str, record: Record, until: float, took: float) -> Figures:
    """The figures of a run.

    Args:
        name: of the contender.
        record: of the run.
        until: second up to which the pods that stay are counted, the same for all contenders.
        took: seconds that the simulation took.
    """
    waits = sorted(wait for wait in record.waits if wait >= 0)
    work, first = record.trace.work, record.trace.at[0]
    numbers = [number for _, number in record.replicas]
    steps = list(pairwise(numbers))
    last = record.ended[-1] if record.ended else first
    pod_seconds = sum((max(until, record.over) if gone is None else gone) - created for created, _, gone in record.pods)
    return Figures(
        name=name,
        tasks=len(record.trace),
        unfinished=record.unfinished,
        wait_p50=percentile(waits, 0.5),
        wait_p95=percentile(waits, 0.95),
        wait_max=percentile(waits, 1.0),
        done=last - first,
        zero=record.over - last,
        pod_seconds=pod_seconds,
        pod_seconds_per_work=pod_seconds / work if work else 0.0,
        peak=max(numbers),
        ups=sum(after > before for before, after in steps),
        downs=sum(after < before for before, after in steps),
        interrupted=record.interrupted,
        simulated=record.over,
        took=took,
    )


def percentile(ordered: Sequence[float], share: float) -> float:
    """The smallest value that at least `share` of the values do not exceed (nearest rank); zero where there is none."""
    if not ordered:
        return 0.0
    return ordered[max(1, math.ceil(len(ordered) * share)) - 1]


def table(rows: Sequence[Figures]) -> str:
    """The figures as a table for people."""
    head = [
        ("", "wait p50", "p95", "max", "done", "at rest", "pod-seconds", "per second", "peak", "up", "down", "cut off"),
        ("", "s", "s", "s", "after s", "after s", "", "of work", "", "", "", "tasks"),
    ]
    body = [
        (
            row.name,
            *(f"{value:.1f}" for value in (row.wait_p50, row.wait_p95, row.wait_max, row.done, row.zero)),
            f"{row.pod_seconds:.0f}",
            f"{row.pod_seconds_per_work:.2f}",
            *(str(value) for value in (row.peak, row.ups, row.downs, row.interrupted)),
        )
        for row in rows
    ]
    widths = [max(len(line[column]) for line in (*head, *body)) for column in range(len(head[0]))]

    def laid(line: Sequence[str]) -> str:
        numbers = (cell.rjust(width) for cell, width in zip(line[1:], widths[1:], strict=True))
        return "  ".join([line[0].ljust(widths[0]), *numbers]).rstrip()

    lines = [laid(line) for line in head] + ["─" * len(laid(head[0]))] + [laid(line) for line in body]
    lines += [f"{row.name}: {row.unfinished} of {row.tasks} tasks never ended" for row in rows if row.unfinished]
    return "\n".join(lines)


@dataclass(frozen=True)
class Curve:
    """Values over time, one for each slice of it.

    Attributes:
        span: seconds from the first slice's begin to the last one's end.
        high: largest value in each slice.
        mean: mean value in each slice.
    """

    span: float
    high: tuple[float, ...]
    mean: tuple[float, ...]


def curves(record: Record, span: float, slices: int) -> tuple[Curve, Curve, Curve]:
    """Backlog (tasks that wait or are in hand), workers (pods, until they are gone) and waits (of the tasks that came
    in a slice) over `span` seconds.
    """
    fine = 8  # looks in each slice
    times = [span * (index + 0.5) / (slices * fine) for index in range(slices * fine)]
    born = sorted(created for created, _, _ in record.pods)
    gone = sorted(end for _, _, end in record.pods if end is not None)
    at, ended = record.trace.at, record.ended
    backlog = [float(bisect_right(at, t) - bisect_right(ended, t)) for t in times]
    workers = [float(bisect_right(born, t) - bisect_right(gone, t)) for t in times]
    edges = [bisect_right(at, span * index / slices) if index else 0 for index in range(slices + 1)]
    groups = [[w for w in record.waits[low:high] if w >= 0] for low, high in pairwise(edges)]
    waits = Curve(
        span,
        tuple(max(group, default=0.0) for group in groups),
        tuple(sum(group) / len(group) if group else 0.0 for group in groups),
    )
    return _sliced(backlog, span, fine), _sliced(workers, span, fine), waits


def _sliced(values: Sequence[float], span: float, fine: int) -> Curve:
    slices = [values[index : index + fine] for index in range(0, len(values), fine)]
    return Curve(span, tuple(max(part) for part in slices), tuple(sum(part) / fine for part in slices))
