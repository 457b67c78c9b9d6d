"""`warren simulate` against the cluster: the model's times are taken from single tasks and a burst, then three other
loads are played on the cluster and on the model, and what comes of it is compared.
"""

import itertools
import json
import random
import statistics
import sys
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import loads
from bed import BURST, MIXED, STEADY, Bed, Queue, bed, play
from kube import ROOT, Kube
from loads import Arrival, Load
from recording import Figure, Recording, percentile

from warren_operator.resource import Spec, parse_spec
from warren_operator.simulation.model import Record, Timing, World
from warren_operator.simulation.report import figures
from warren_operator.simulation.trace import Trace, trace_of
from warren_operator.simulation.warren import Warren

NAMESPACE = "warren-bench-simulated"

SEEDS = 15
"""Runs of the model, whose median counts: what is chance on the cluster is chance there, too."""

SHARE, SLACK = 0.2, 0.5
"""How far the model may be off: relatively, or in seconds where a wait is shorter than people notice."""

SINGLES = 2
"""Single tasks from zero."""


@dataclass(frozen=True)
class Outcome:
    """What is compared, of one run. Seconds; `pod_seconds` is a sum over pods."""

    done: float
    pod_seconds: float
    wait_p50: float
    wait_p95: float


@dataclass(frozen=True)
class Compared:
    """One load on both.

    Attributes:
        name: of the load.
        cluster, model: what came of it.
    """

    name: str
    cluster: Outcome
    model: Outcome

    def ratios(self) -> dict[str, float]:
        """Model ÷ cluster, by figure; 1 where a wait differs by less than `SLACK`."""
        found = {}
        for name, measured in asdict(self.cluster).items():
            modelled = asdict(self.model)[name]
            near = name.startswith("wait") and abs(modelled - measured) < SLACK
            found[name] = 1.0 if near else modelled / measured
        return found


def validation(duration: float) -> list[tuple[str, Queue, Load]]:
    """Loads that nothing is calibrated with: another target, other lengths, another course each."""
    draw = random.Random(5)
    times = list(loads.poisson(lambda _: 2.0, 2.0, duration / 2, draw))
    return [
        ("mixed lengths at once", MIXED, loads.mixed(tasks=8, short=3, long=20)),
        ("2 a second, 1 to 3 s", BURST, Load(tuple(Arrival(at, draw.randint(1, 3)) for at in times), 12)),
        ("steps and sine", STEADY, loads.steps_and_sine(duration)),
    ]


def trace(run: Recording) -> Trace:
    """The load as it came to the broker."""
    return trace_of((task.confirmed - run.began, task.seconds) for task in run.tasks)


def measured(run: Recording) -> Outcome:
    """What came of a load on the cluster."""
    return Outcome(run.done, run.pod_seconds, percentile(run.waits, 0.5), percentile(run.waits, 0.95))


def records(load: Trace, spec: Spec, timing: Timing) -> list[Record]:
    """The model's runs."""
    return [World(load, Warren(spec, 0.0), timing, spec.concurrency, seed).run() for seed in range(SEEDS)]


def modelled(load: Trace, spec: Spec, timing: Timing) -> Outcome:
    """What comes of a load on the model."""
    runs = [figures("model", record, record.over, 0.0) for record in records(load, spec, timing)]
    names = Outcome.__dataclass_fields__
    return Outcome(**{name: statistics.median(getattr(run, name) for run in runs) for name in names})


def calibrated(singles: Sequence[Recording], burst: Recording, spec: Spec) -> Timing:
    """The times of the model that fit single tasks, and a burst, best.

    What an end takes is the burst's: the pod of a single task is marked only just before it goes, for which a node
    takes a second more.
    """
    timing = replace(
        Timing(),
        start=statistics.median(begin for run in singles for begin, _ in first_and_last(run)),
        stop=statistics.median(end for _, end in first_and_last(burst)),
        overhead=statistics.median(gaps(burst)),
    )
    begin, end = (statistics.fmean(part) for part in zip(*first_and_last(burst), strict=True))
    load = trace(burst)

    def error(shares: tuple[float, ...]) -> float:
        tried = replace(timing, start_work=timing.start * shares[0], stop_work=timing.stop * shares[1])
        pods = [pod for record in records(load, spec, tried)[:3] for pod in record.pods]
        begins = [began - created for created, began, _ in pods if began is not None]
        whole = statistics.fmean(gone - created for created, _, gone in pods if gone is not None)
        lived = burst.pod_seconds / len(burst.pods)
        return abs(statistics.fmean(begins) - begin) + abs(whole - lived)

    grid = itertools.product([step / 10 for step in range(11)], repeat=2)
    start, stop = min(grid, key=error)
    print(f"burst: {begin:.2f} s to the first task, {end:.2f} s to end on average", file=sys.stderr)
    return replace(timing, start_work=timing.start * start, stop_work=timing.stop * stop)


def first_and_last(run: Recording) -> list[tuple[float, float]]:
    """Of each pod that had a task: seconds from its creation to that, and from the order to end until it was gone."""
    first: dict[str, float] = {}
    for item in run.deliveries:
        first[item.worker] = min(item.since, first.get(item.worker, item.since))
    return [
        (first[pod.name] - pod.born, pod.gone - pod.ending)
        for pod in run.pods
        if pod.name in first and pod.gone is not None and pod.ending is not None
    ]


def gaps(run: Recording) -> list[float]:
    """Seconds between two tasks of one worker, while tasks were waiting."""
    seconds = {task.id: task.seconds for task in run.tasks}
    found = []
    hands = sorted((item.worker, item.since, item.since + seconds[item.task]) for item in run.deliveries)
    for before, after in itertools.pairwise(hands):
        if before[0] == after[0]:
            found.append(max(0.0, after[1] - before[2]))
    return found


def compare(made: Bed, duration: float) -> tuple[Timing, list[Compared]]:
    """Calibrate, play, compare."""

    def spec_of(queue: Queue) -> Spec:
        return parse_spec(made.release.work_queue(queue.dns_name)["spec"], queue.dns_name)

    singles = [play(made.release, BURST, loads.burst(tasks=1)) for _ in range(SINGLES)]
    timing = calibrated(singles, play(made.release, BURST, loads.burst()), spec_of(BURST))
    print(f"calibrated: {timing}", file=sys.stderr, flush=True)
    found = []
    for name, queue, load in validation(duration):
        run = play(made.release, queue, load)
        found.append(Compared(name, measured(run), modelled(trace(run), spec_of(queue), timing)))
        print(table(found[-1:]), file=sys.stderr, flush=True)
    return timing, found


def table(rows: Iterable[Compared]) -> str:
    """Cluster, model and their ratio, as a Markdown table."""
    lines = ["| load | figure | cluster | model | model ÷ cluster |", "|---|---|---|---|---|"]
    for row in rows:
        ratios = row.ratios()
        for name, value in asdict(row.cluster).items():
            lines.append(f"| {row.name} | {name} | {value:.2f} | {asdict(row.model)[name]:.2f} | {ratios[name]:.2f} |")
    return "\n".join(lines)


def simulated_figures(images: Path, folder: Path, duration: float) -> list[Figure]:
    """The comparison on an installed release of its own; writes `simulated.json` and `simulated.md`.

    Args:
        images: values that name the images.
        folder: for the files.
        duration: seconds of steps and sine; the longest of the three loads.
    """
    with bed(Kube(ROOT / ".cluster" / "kubeconfig", NAMESPACE), images) as made:
        timing, rows = compare(made, duration)
    folder.mkdir(parents=True, exist_ok=True)
    record = {"timing": asdict(timing), "loads": [asdict(row) for row in rows]}
    (folder / "simulated.json").write_text(json.dumps(record, indent=2) + "\n")
    (folder / "simulated.md").write_text(table(rows) + "\n")
    return [
        Figure(f"simulated: {row.name}, {name}, model ÷ cluster", (round(ratio, 3),), 1 + SHARE)
        for row in rows
        for name, ratio in row.ratios().items()
    ]
