"""Run the benchmarks that are asked for; write their figures as JSON and as a table, and their courses as pictures.

With `--scaler`, something else scales in Warren's place: see docs/benchmarks.md.
"""

import argparse
import json
import os
import platform
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import works
from bed import bed
from kube import ROOT, Kube
from many import bench
from picture import picture
from processors import ticks, withheld
from recording import Figure, Recording, Sheet, table
from simulated import simulated_figures
from submit import submit_figures
from working import working_figures
from works import Result

NAMESPACE = "warren-bench"
CLUSTER_WORKS = ("burst", "mixed", "steady", "reaction")
WORKS = (*CLUSTER_WORKS, "many", "submit", "working", "simulated")
SIMULATED = 180.0
"""Seconds of steps and sine that the model is compared on, at most."""
WARREN = "Warren"
MANY = 1000
"""WorkQueues."""


@dataclass(frozen=True)
class Options:
    """What to run, and how long.

    Attributes:
        works: of WORKS, in this order.
        repeats: of the burst; the mixed lengths are played once, since they take a minute each.
        duration: seconds of steps and sine.
        tries: reactions.
        scaler: a manifest, or a program with its arguments; empty for Warren.
        images: values that name the images.
        folder: for the results.
        set: `--set` for the chart.
    """

    works: tuple[str, ...]
    repeats: int
    duration: float
    tries: int
    scaler: str
    images: Path
    folder: Path
    set: tuple[str, ...]


def parse(arguments: Sequence[str]) -> Options:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m tools.bench", description=__doc__)
    parser.add_argument("--works", default=",".join(WORKS), help=f"all, or some of {', '.join(WORKS)}")
    parser.add_argument("--repeats", type=int, default=3, help="of the burst (default 3)")
    parser.add_argument("--duration", type=float, default=600.0, help="seconds of steps and sine (default 600)")
    parser.add_argument("--tries", type=int, default=works.TRIES, help=f"reactions (default {works.TRIES})")
    parser.add_argument("--scaler", default="", help="manifest, or Python program and arguments, that scales instead")
    parser.add_argument("--set", action="append", default=[], help="a value for the chart, as in helm")
    parser.add_argument("--images", type=Path, required=True, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, required=True, help=argparse.SUPPRESS)
    found = parser.parse_args(arguments)
    wanted = tuple(name for name in found.works.split(",") if name)
    unknown = sorted(set(wanted) - set(WORKS))
    if unknown:
        parser.error(f"no such work: {', '.join(unknown)}; there are {', '.join(WORKS)}")
    return Options(
        works=tuple(name for name in WORKS if name in wanted and not (found.scaler and name not in CLUSTER_WORKS)),
        repeats=found.repeats,
        duration=found.duration,
        tries=found.tries,
        scaler=found.scaler,
        images=found.images,
        folder=found.folder,
        set=tuple(found.set),
    )


def title(scaler: str) -> str:
    """Who scales, for the table."""
    return " ".join([Path(scaler.split(maxsplit=1)[0]).stem, *scaler.split()[1:]]) if scaler else WARREN


def accompanied(name: str, work: Callable[[], Result]) -> Result:
    """Run a work, and note beside its figures how much of the processors the machine was not given meanwhile."""
    before = ticks()
    result = work()
    share = Figure(f"{name}: share of the processor time that the host withheld", (withheld(before, ticks()),))
    return Result((*result.figures, share), result.runs)


def on_the_cluster(options: Options, kube: Kube) -> list[Result]:
    """The works that need an installed release."""
    chart = [word for item in options.set for word in ("--set", item)]
    with bed(kube, options.images, options.scaler, chart) as made:
        start = works.pod_start(made)
        play: dict[str, Callable[[], Result]] = {
            "burst": lambda: works.burst(made, options.repeats, start),
            "mixed": lambda: works.mixed(made, 1, start),
            "steady": lambda: works.steady(made, options.duration),
            "reaction": lambda: works.reaction(made, options.tries, start),
        }
        return [Result((start,)), *(accompanied(name, play[name]) for name in options.works if name in play)]


def elsewhere(options: Options, folder: Path) -> list[Result]:
    """The works that bring along what they need."""
    play: dict[str, Callable[[], Sequence[Figure]]] = {
        "many": lambda: many(folder),
        "submit": lambda: submit_figures(options.repeats),
        "working": lambda: working_figures(options.repeats),
        "simulated": lambda: simulated_figures(options.images, folder, min(options.duration, SIMULATED)),
    }

    def alone(name: str) -> Result:
        return accompanied(name, lambda: Result(tuple(play[name]())))

    return [alone(name) for name in play if name in options.works]


def many(folder: Path) -> list[Figure]:
    """A thousand WorkQueues: cost, reaction and restart of the operator among them."""
    points, restarts = bench(folder, (MANY,))
    point = points[0]
    name = f"{point.count} WorkQueues"
    shown = [
        Figure(f"{name}: confirm → scale patch", point.told.times, floor=0.5, unit="s"),
        Figure(f"{name}: the same, p95", (point.told.p95,), floor=1.0, unit="s"),
        Figure(f"{name}: any client's confirm → scale patch", point.foreign.times, floor=0.5, unit="s"),
        Figure(f"{name}: the same of any client, p95", (point.foreign.p95,), floor=1.0, unit="s"),
        Figure(f"{name}: the last of them taken in after", (point.taken_in,), floor=15, unit="s"),
        Figure(f"{name}: each taken in after, of its own creation", point.entries.times, unit="s"),
        Figure(f"{name}: idle operator's cores", (point.idle_cores,), floor=0.3),
        Figure(f"{name}: operator's memory", (point.memory / 2**20,), floor=200, unit="MiB"),
    ]
    after = (Figure(f"{name}: 10 s after a restart, p95", (item.after.p95,), floor=1.0, unit="s") for item in restarts)
    return [*shown, *after]


def machine() -> dict[str, object]:
    """What it ran on."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {"platform": platform.platform(), "cores": os.cpu_count(), "memory": memory}


def plain(value: object) -> object:
    """What JSON does not know, as something that it does: for `json.dumps`."""
    if isinstance(value, frozenset):
        return sorted((asdict(item) for item in value), key=lambda item: item["since"])
    raise TypeError(f"{value!r} has no place in JSON")


def write(folder: Path, name: str, figures: Sequence[Figure], runs: dict[str, Recording]) -> str:
    """Write all files of a run into its folder; the table."""
    folder.mkdir(parents=True, exist_ok=True)
    sheet = Sheet(name, tuple(figures))
    shown = table(sheet)
    record = {"scaler": name, "machine": machine(), "figures": [asdict(figure) for figure in figures]}
    (folder / "bench.json").write_text(json.dumps(record, indent=2) + "\n")
    for run_name, run in runs.items():
        (folder / f"{run_name}.svg").write_text(picture(f"{name}: {run_name}", run))
        (folder / f"{run_name}.json").write_text(json.dumps(asdict(run), default=plain) + "\n")
    (folder / "bench.md").write_text(shown)
    return shown


def read(path: Path) -> Sheet:
    """The figures of an earlier run."""
    record = json.loads(path.read_text())
    figures = (Figure(item["name"], tuple(item["values"]), item["floor"], item["unit"]) for item in record["figures"])
    return Sheet(record["scaler"], tuple(figures))


def main(arguments: Sequence[str]) -> int:
    """Run what is asked for, write it, and print the table, beside those of other scalers that were run before."""
    options = parse(arguments)
    name = title(options.scaler)
    folder = options.folder / re.sub(r"[^a-z0-9]+", "-", name.lower())
    results: list[Result] = []
    if set(options.works) & set(CLUSTER_WORKS):
        results += on_the_cluster(options, Kube(ROOT / ".cluster" / "kubeconfig", NAMESPACE))
    results += elsewhere(options, folder)
    figures = [figure for result in results for figure in result.figures]
    runs = {run_name: run for result in results for run_name, run in result.runs.items()}
    write(folder, name, figures, runs)
    others = [read(path) for path in sorted(options.folder.glob("*/bench.json")) if path.parent != folder]
    shown = table(Sheet(name, tuple(figures)), *others)
    (options.folder / "bench.md").write_text(shown)
    print(shown)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
