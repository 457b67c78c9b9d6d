"""The works on the cluster: each is played some times, and its figures stand beside what they should not exceed."""

import random
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field

import loads
from bed import BURST, MIXED, SINGLE, STEADY, Bed, Queue, play, submit
from processors import busy_cores, ticks, withheld
from recording import Figure, Recording, percentile, spent
from waiting import eventually
from watching import recording

MAX_WAIT = 30.0
"""Seconds that the queue `steady` of values.yaml asks for."""

STARTS = 3
"""Single pod starts that are measured; their median counts."""

TRIES = 20
"""Reactions that are measured."""

TRIED = 2
"""Seconds of work in the task of each: long enough for its worker to report it."""

PAUSE = 1.0
"""Seconds at most, at random, before a reaction is tried: whoever looks at fixed times is not met at a fixed moment."""

REACTION_LIMIT = 900.0
"""Seconds for a scaler to take notice."""


@dataclass(frozen=True)
class Result:
    """What one work gave.

    Attributes:
        figures: for the table.
        runs: title → recording, for the pictures.
    """

    figures: tuple[Figure, ...]
    runs: Mapping[str, Recording] = field(default_factory=dict)


def say(text: str) -> None:
    """Tell how far it is."""
    print(text, file=sys.stderr, flush=True)


def played(bed: Bed, title: str, queue: Queue, load: loads.Load, repeats: int) -> list[Recording]:
    """Play a load some times."""
    runs = []
    for number in range(repeats):
        say(f"{title}, {number + 1} of {repeats}; {busy_cores():.1f} cores are busy before it begins ...")
        before = ticks()
        run = play(bed.release, queue, load)
        say(f"  the host withheld {withheld(before, ticks()):.0%} of the processor time")
        where = ", ".join(f"{name} {seconds:.1f}" for name, seconds in asdict(spent(run)).items())
        say(f"  done after {run.done:.1f} s, zero {run.zero:.1f} s later; {run.pod_seconds:.1f} pod-seconds: {where}")
        runs.append(run)
    return runs


def of(runs: Sequence[Recording], pick: Callable[[Recording], float]) -> tuple[float, ...]:
    """A value of each run."""
    return tuple(round(pick(run), 3) for run in runs)


def pod_start(bed: Bed) -> Figure:
    """From a scale patch by hand until the one worker's first task begins; nobody else scales that queue."""
    kube, took = bed.release.kube, []
    for number in range(STARTS):
        say(f"single pod start, {number + 1} of {STARTS} ...")
        with recording(bed.release, SINGLE.name, SINGLE.dns_name) as recorder:
            tasks = submit(bed.release, SINGLE, loads.burst(tasks=1))
            before = len(recorder.deployments.replicas)
            kube.kubectl("scale", f"deployment/{SINGLE.deployment}", "--replicas=1")
            eventually(lambda: recorder.tap.finished, "the task is done")
            kube.kubectl("scale", f"deployment/{SINGLE.deployment}", "--replicas=0")
            run = recorder.complete(tasks)
        took.append(round(min(run.starts.values()) - run.replicas[before][0], 3))
    return Figure("single pod: scale patch → first task", tuple(took), unit="s")


def burst(bed: Bed, repeats: int, start: Figure) -> Result:
    """60 tasks of two seconds from zero."""
    load = loads.burst()
    runs = played(bed, "burst from zero", BURST, load, repeats)
    reaction = Figure("burst: first confirm → scale patch", of(runs, lambda run: run.reaction), floor=0.5, unit="s")
    soon = round(reaction.median + 1.1 * start.median, 2)
    parts = {name: tuple(round(asdict(spent(run))[name], 2) for run in runs) for name in asdict(spent(runs[0]))}
    return Result(
        (
            Figure("burst: time to the end ÷ ideal", of(runs, lambda run: run.done / load.ideal), floor=1.4),
            Figure("burst: pod-seconds ÷ seconds of work", of(runs, lambda run: run.pod_seconds / run.work), floor=1.4),
            reaction,
            Figure(
                "burst: first confirm → first task (floor: reaction + 1.1 pod starts)",
                of(runs, lambda run: run.first_start),
                floor=soon,
                unit="s",
            ),
            Figure("burst: median wait", of(runs, lambda run: percentile(run.waits, 0.5)), unit="s"),
            Figure("burst: last task → no worker", of(runs, lambda run: run.zero), floor=30, unit="s"),
            Figure("burst: tasks delivered twice", of(runs, lambda run: run.twice), floor=0),
            Figure("burst: most workers asked for", of(runs, lambda run: run.peak)),
            *(Figure(f"burst: pod-seconds {name}", values, unit="s") for name, values in parts.items()),
        ),
        {f"burst-{number}": run for number, run in enumerate(runs, 1)},
    )


def mixed(bed: Bed, repeats: int, start: Figure) -> Result:
    """Twelve tasks, half short and half long, a worker for each."""
    load = loads.mixed()
    runs = played(bed, "mixed lengths", MIXED, load, repeats)
    least = load.ideal + start.median
    return Result(
        (
            Figure("mixed: tasks delivered twice", of(runs, lambda run: run.twice), floor=0),
            Figure(
                "mixed: time to the end ÷ (longest task + start)", of(runs, lambda run: run.done / least), floor=1.15
            ),
            Figure("mixed: pod-seconds ÷ seconds of work", of(runs, lambda run: run.pod_seconds / run.work)),
            Figure("mixed: last task → no worker", of(runs, lambda run: run.zero), floor=30, unit="s"),
        ),
        {f"mixed-{number}": run for number, run in enumerate(runs, 1)},
    )


def steady(bed: Bed, duration: float) -> Result:
    """Steps and a sine, with a longest wait asked for."""
    title = f"{duration:.0f} s of steps and sine"
    run = played(bed, title, STEADY, loads.steps_and_sine(duration), 1)[0]
    waits = run.waits

    def figure(name: str, value: float, floor: float | None = None, unit: str = "") -> Figure:
        return Figure(f"steps and sine: {name}", (round(value, 3),), floor, unit)

    return Result(
        (
            figure("p95 wait", percentile(waits, 0.95), MAX_WAIT, "s"),
            figure("median wait", percentile(waits, 0.5), unit="s"),
            figure("longest wait", max(waits), unit="s"),
            figure("pod-seconds ÷ seconds of work", run.pod_seconds / run.work),
            figure("tasks delivered twice", run.twice, 0),
            figure("changes of replicas", run.scale_events),
            figure("tasks whose start was not seen", len(run.tasks) - len(waits)),
        ),
        {"steps-and-sine": run},
    )


def reaction(bed: Bed, tries: int, start: Figure) -> Result:
    """One task at a time from zero: how soon the Deployment is asked for a worker, and how soon the task begins."""
    chance = random.Random(1)
    took: list[float] = []
    confirms: dict[str, float] = {}
    selector = f"warren.dev/queue={BURST.dns_name}"
    with recording(bed.release, BURST.name, BURST.dns_name) as recorder:
        changes = recorder.deployments.replicas
        for number in range(tries):
            say(f"reaction, {number + 1} of {tries} ...")
            eventually(
                lambda: not bed.release.kube.get("pods", "--selector", selector) and changes[-1][1] == 0,
                "no worker is there",
                limit=REACTION_LIMIT,
                every=0.5,
            )
            time.sleep(chance.uniform(0.0, PAUSE))
            before = len(changes)
            task = bed.release.submit("." * TRIED, BURST.name)
            confirmed = confirms[task] = time.time()
            eventually(lambda: len(changes) > before, "a worker is asked for", limit=REACTION_LIMIT)  # noqa: B023  used at once
            # The patch may be there before the answer has come all the way back to us.
            took.append(max(0.0, round(changes[before][0] - confirmed, 3)))
            eventually(
                lambda: task in {item.task for item in set(recorder.tap.deliveries)},  # noqa: B023  used at once
                "the task has begun",
                limit=REACTION_LIMIT,
            )
        starts = {item.task: item.since for item in recorder.tap.deliveries}
    firsts = tuple(round(starts[task] - confirmed, 3) for task, confirmed in confirms.items())
    soon = round(percentile(took, 0.5) + 1.1 * start.median, 2)
    return Result(
        (
            Figure("reaction: confirm → scale patch", tuple(took), floor=0.5, unit="s"),
            Figure("reaction: the same, p95", (percentile(took, 0.95),), floor=1.0, unit="s"),
            Figure(
                "reaction: confirm → the task begins (floor: reaction + 1.1 pod starts)", firsts, floor=soon, unit="s"
            ),
        )
    )
