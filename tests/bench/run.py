"""Run the benchmarks one after the other and write their figures as JSON and as a table."""

import json
import platform
import statistics
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from burst import BurstResult, burst
from kube import ROOT, Kube
from release import connect, install, remove
from submit import CONCURRENT, SubmitResult, bench_bed, submit_round

NAMESPACE = "warren-bench"
REPEATS = 3
VALUES = Path(__file__).resolve().parent / "values.yaml"


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


def table(figures: Sequence[Figure]) -> str:
    """The figures as a Markdown table."""
    lines = ["| figure | median | lowest | highest | floor |", "|---|---|---|---|---|"]
    for figure in figures:
        floor = "" if figure.floor is None else f"{figure.floor:g}"
        cells = (figure.median, min(figure.values), max(figure.values))
        shown = " | ".join(f"{value:.2f} {figure.unit}".rstrip() for value in cells)
        lines.append(f"| {figure.name} | {shown} | {floor} |")
    return "\n".join(lines) + "\n"


def bursts() -> list[Figure]:
    """The burst from zero on an installed release, several times."""
    kube = Kube(ROOT / ".cluster" / "kubeconfig", NAMESPACE)
    remove(kube)
    install(kube, VALUES, "--values", str(ROOT / ".cluster" / "images.values.json"))
    try:
        with connect(kube) as release:
            results = []
            for number in range(REPEATS):
                print(f"burst from zero, {number + 1} of {REPEATS} ...", file=sys.stderr, flush=True)
                results.append(burst(release))
                print(f"  {asdict(results[-1])}", file=sys.stderr, flush=True)
    finally:
        remove(kube)

    def of(pick: Callable[[BurstResult], float]) -> tuple[float, ...]:
        return tuple(round(pick(result), 3) for result in results)

    return [
        Figure("burst: time to the end ÷ ideal", of(lambda result: result.done_ratio), floor=1.4),
        Figure("burst: pod-seconds ÷ seconds of work", of(lambda result: result.pod_seconds_ratio), floor=1.4),
        Figure("burst: first confirm → scale patch", of(lambda result: result.first_patch), floor=0.5, unit="s"),
        Figure("burst: first confirm → first worker ready", of(lambda result: result.first_ready), unit="s"),
        Figure("burst: last task → no worker", of(lambda result: result.zero), floor=30, unit="s"),
        Figure("burst: most workers asked for", of(lambda result: result.peak)),
    ]


def submits() -> list[Figure]:
    """Submitting against bare pika on a broker of its own, several times."""
    with bench_bed() as (broker, producer):
        submit_round(broker, producer)  # the first one pays for caches and the broker's first segments
        results = []
        for number in range(REPEATS):
            print(f"submit, {number + 1} of {REPEATS} ...", file=sys.stderr, flush=True)
            results.append(submit_round(broker, producer))
            print(f"  {asdict(results[-1])}", file=sys.stderr, flush=True)

    def of(pick: Callable[[SubmitResult], float]) -> tuple[float, ...]:
        return tuple(round(pick(result), 3) for result in results)

    return [
        Figure("submit: batch ÷ bare pipelined pika (over)", of(lambda result: result.batch_ratio), floor=0.7),
        *(
            Figure(
                f"submit: single, {count} clients ÷ bare pipelined pika",
                of(lambda result, count=count: result.single_ratio(count)),  # type: ignore[misc]  # bound now
            )
            for count in CONCURRENT
        ),
    ]


def main(folder: Path) -> None:
    """Run all, write `bench.json` and `bench.md` into the folder, and print the table."""
    figures = [*bursts(), *submits()]
    folder.mkdir(parents=True, exist_ok=True)
    record = {"machine": platform.platform(), "figures": [asdict(figure) for figure in figures]}
    (folder / "bench.json").write_text(json.dumps(record, indent=2) + "\n")
    (folder / "bench.md").write_text(table(figures))
    print(table(figures))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
