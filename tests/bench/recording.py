"""What happened in one run, and the arithmetic on it. No I/O: all times are Unix times in seconds."""

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Pod:
    """A worker's pod, by the times at which the watch told of it.

    Attributes:
        name: of the pod.
        born: it was first seen: within milliseconds of its creation, where the API server's stamp has whole seconds.
        ready: it was first seen ready; None if it never was.
        ending: its deletion was asked for; None if it was gone at once, or never asked.
        gone: it was seen deleted; None while it is there.
    """

    name: str
    born: float
    ready: float | None = None
    ending: float | None = None
    gone: float | None = None


@dataclass(frozen=True, slots=True)
class Task:
    """A task that was submitted.

    Attributes:
        id: the producer's.
        seconds: of work in it.
        confirmed: the producer's answer was there.
    """

    id: str
    seconds: float
    confirmed: float


@dataclass(frozen=True, slots=True)
class Delivery:
    """A task in a worker's hands, as the worker told it.

    Attributes:
        task: its id.
        worker: the pod's name.
        since: its handler started.
    """

    task: str
    worker: str
    since: float


@dataclass(frozen=True, slots=True)
class Recording:
    """One run, complete when the last pod is gone.

    Attributes:
        tasks: in the order of their confirms.
        deliveries: of all tasks, as far as they were told.
        pods: of the workers.
        replicas: (time, replicas asked for) of each change.
        ready: (time, tasks that wait) as read from the broker.
        finished: tasks that the workers counted as done.
    """

    tasks: tuple[Task, ...]
    deliveries: frozenset[Delivery]
    pods: tuple[Pod, ...]
    replicas: tuple[tuple[float, int], ...]
    ready: tuple[tuple[float, int], ...] = ()
    finished: int = 0

    @property
    def began(self) -> float:
        """The first confirm."""
        return min(task.confirmed for task in self.tasks)

    @property
    def work(self) -> float:
        """Seconds of work in all tasks."""
        return sum(task.seconds for task in self.tasks)

    @property
    def starts(self) -> Mapping[str, float]:
        """Task → the first start of its handler; tasks that nobody told of are left out."""
        starts: dict[str, float] = {}
        for delivery in self.deliveries:
            starts[delivery.task] = min(delivery.since, starts.get(delivery.task, math.inf))
        return starts

    @property
    def ended(self) -> float:
        """The end of the last task: the start of its last delivery and the work in it."""
        seconds = {task.id: task.seconds for task in self.tasks}
        return max(item.since + seconds[item.task] for item in self.deliveries if item.task in seconds)

    @property
    def done(self) -> float:
        """Seconds from the first confirm to the end of the last task."""
        return self.ended - self.began

    @property
    def first_start(self) -> float:
        """Seconds from the first confirm to the first start of a handler."""
        return min(self.starts.values()) - self.began

    @property
    def reaction(self) -> float:
        """Seconds from the first confirm until the Deployment asked for more workers; infinite if it never did."""
        before = [count for at, count in self.replicas if at <= self.began]
        idle = before[-1] if before else 0
        return next((at - self.began for at, count in self.replicas if at > self.began and count > idle), math.inf)

    @property
    def zero(self) -> float:
        """Seconds from the end of the last task until the last pod was gone; infinite if one is still there."""
        return max((pod.gone or math.inf) for pod in self.pods) - self.ended

    @property
    def peak(self) -> int:
        """Most workers asked for."""
        return max((count for _, count in self.replicas), default=0)

    @property
    def pod_seconds(self) -> float:
        """Sum over all pods from creation to the object's end; infinite if one is still there."""
        return sum((pod.gone or math.inf) - pod.born for pod in self.pods)

    @property
    def twice(self) -> int:
        """Tasks that were delivered more than once."""
        return len(self.deliveries) - len(self.starts)

    @property
    def waits(self) -> tuple[float, ...]:
        """Seconds from confirm to start of each task that was told of."""
        starts = self.starts
        return tuple(max(0.0, starts[task.id] - task.confirmed) for task in self.tasks if task.id in starts)

    @property
    def scale_events(self) -> int:
        """Changes of the replicas."""
        return sum(before[1] != after[1] for before, after in zip(self.replicas, self.replicas[1:], strict=False))


@dataclass(frozen=True, slots=True)
class Spent:
    """Where pod-seconds went, in seconds summed over all pods.

    Attributes:
        starting: from creation to the first task.
        working: handlers ran.
        between: from one task to the next.
        idle: from the last task until the deletion was asked for.
        ending: from there until the object was gone.
        useless: pods that never had a task, from beginning to end.
    """

    starting: float = 0.0
    working: float = 0.0
    between: float = 0.0
    idle: float = 0.0
    ending: float = 0.0
    useless: float = 0.0


def spent(run: Recording) -> Spent:
    """Take the pod-seconds of a complete run apart. A task's end is its start and the work in it."""
    seconds = {task.id: task.seconds for task in run.tasks}
    total = Spent()
    for pod in run.pods:
        gone = pod.gone if pod.gone is not None else math.inf
        hands = sorted(
            (item.since, item.since + seconds.get(item.task, 0.0)) for item in run.deliveries if item.worker == pod.name
        )
        if not hands:
            total = _plus(total, Spent(useless=gone - pod.born))
            continue
        working = sum(end - since for since, end in hands)
        last = hands[-1][1]
        # A worker that is asked to go while it works ends after its task: then nothing was idle.
        asked = max(last, pod.ending if pod.ending is not None else gone)
        total = _plus(
            total,
            Spent(
                starting=hands[0][0] - pod.born,
                working=working,
                between=last - hands[0][0] - working,
                idle=asked - last,
                ending=gone - asked,
            ),
        )
    return total


def _plus(one: Spent, other: Spent) -> Spent:
    return Spent(
        starting=one.starting + other.starting,
        working=one.working + other.working,
        between=one.between + other.between,
        idle=one.idle + other.idle,
        ending=one.ending + other.ending,
        useless=one.useless + other.useless,
    )


def percentile(values: Iterable[float], share: float) -> float:
    """The smallest value that `share` (0 to 1) of all values do not exceed: the nearest rank, nothing interpolated.

    Raises:
        ValueError: no values, or a share that is none.
    """
    ordered = sorted(values)
    if not ordered or not 0 <= share <= 1:
        raise ValueError(f"no percentile {share} of {len(ordered)} values")
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


@dataclass(frozen=True)
class Figure:
    """One figure of a benchmark.

    Attributes:
        name: what it is.
        values: of each repetition.
        floor: the value to stay under, or over where the name says so; None where there is none.
        unit: of the values; empty for a ratio.
    """

    name: str
    values: tuple[float, ...]
    floor: float | None = None
    unit: str = ""

    @property
    def median(self) -> float:
        """The value to quote."""
        return statistics.median(self.values)


@dataclass(frozen=True)
class Sheet:
    """The figures of one scaler.

    Attributes:
        title: who scaled.
        figures: in the order in which they are shown.
    """

    title: str
    figures: Sequence[Figure] = field(default_factory=tuple)


def table(sheet: Sheet, *others: Sheet) -> str:
    """The figures as a Markdown table: floor, median, range, and the medians of others beside them."""
    titles = ["figure", "floor", sheet.title, "lowest", "highest", *(other.title for other in others)]
    lines = [f"| {' | '.join(titles)} |", "|---" * len(titles) + "|"]
    for figure in sheet.figures:
        floor = "" if figure.floor is None else f"{figure.floor:.2f}"
        beside = [_shown(found.median, found.unit) if (found := _named(other, figure.name)) else "" for other in others]
        ours = [_shown(value, figure.unit) for value in (figure.median, min(figure.values), max(figure.values))]
        lines.append(f"| {' | '.join([figure.name, floor, *ours, *beside])} |")
    return "\n".join(lines) + "\n"


def _named(sheet: Sheet, name: str) -> Figure | None:
    return next((figure for figure in sheet.figures if figure.name == name), None)


def _shown(value: float, unit: str) -> str:
    return f"{value:.2f} {unit}".rstrip()
