"""Whether scaling has harmed a task: judged from what handlers wrote down and from what happened to pods. All pure.

Nothing of this comes from the operator, nor from what workers report to it.
"""

import json
from collections.abc import Collection, Iterable
from dataclasses import dataclass

LAST_SECOND = 1.0
"""Seconds before a pod's removal in which it may have taken a task: no decision can know of it."""


@dataclass(frozen=True, slots=True)
class Run:
    """One time that a task ran.

    Attributes:
        task: its id.
        queue: it came from.
        pod: that ran it.
        started, ended: Unix time in seconds; None where it has not ended.
        deliveries: how often the broker had given the task out by then, this time included.
    """

    task: str
    queue: str
    pod: str
    started: float
    ended: float | None
    deliveries: int

    def at_work(self, at: float) -> bool:
        """Whether it ran at this time."""
        return self.started <= at and (self.ended is None or at < self.ended)


@dataclass(frozen=True, slots=True)
class Removal:
    """A pod was asked to end.

    Attributes:
        pod: its name.
        at: Unix time in seconds, at the latest.
    """

    pod: str
    at: float


@dataclass(frozen=True, slots=True)
class Step:
    """The replicas of a Deployment were changed.

    Attributes:
        deployment: its name.
        before, after: replicas.
        at: Unix time in seconds.
    """

    deployment: str
    before: int
    after: int
    at: float


def read_runs(text: str) -> list[Run]:
    """The runs of all tasks, from the handlers' lines; in the order of their starts."""
    open_runs: dict[tuple[str, str], Run] = {}
    runs: list[Run] = []
    for line in sorted((json.loads(line) for line in text.splitlines()), key=lambda line: line["at"]):
        key = (line["task"], line["pod"])
        if line["what"] == "start":
            if key in open_runs:  # the same pod again, and the first run never ended
                runs.append(open_runs[key])
            deliveries = max(line["attempt"], line["acquired"] + 1)
            open_runs[key] = Run(line["task"], line["queue"], line["pod"], line["at"], None, deliveries)
        else:
            run = open_runs.pop(key)
            runs.append(Run(run.task, run.queue, run.pod, run.started, line["at"], run.deliveries))
    return sorted([*runs, *open_runs.values()], key=lambda run: run.started)


def harm(submitted: Collection[str], runs: Iterable[Run], killed: Collection[str] = ()) -> list[str]:
    """What happened to tasks that should not, a sentence for each.

    Each task is to run once, to its end, at its first delivery. What was in the hands of a pod that was killed may run
    once more for it, also where the pod still came to its end: its network is gone before its processes are, and what
    it has done then it can tell nobody.

    Args:
        submitted: ids of all tasks.
        runs: all that is known of them.
        killed: pods that were killed without grace.
    """
    of: dict[str, list[Run]] = {task: [] for task in submitted}
    last: dict[str, Run] = {}
    for run in sorted(runs, key=lambda run: run.started):
        of.setdefault(run.task, []).append(run)
        last[run.pod] = run
    found = []
    for task, its in of.items():
        in_hand = [run for run in its if run.pod in killed and (run.ended is None or last[run.pod] is run)]
        cut = in_hand if len(its) > 1 else [run for run in in_hand if run.ended is None]
        whole = [run for run in its if run not in cut]
        if not whole and all(run.ended is None for run in cut):
            found.append(f"task {task} has never run to its end")
        # A delivery that reached a killed pod's worker, and not yet its handler, left no trace but the count.
        spare = len(cut) + (1 if killed and not cut else 0)
        found += [f"task {task} was interrupted in pod {run.pod}" for run in whole if run.ended is None]
        if len(whole) > 1:
            found.append(f"task {task} ran {len(its)} times: in {', '.join(run.pod for run in its)}")
        elif any(run.deliveries > 1 + spare for run in its):
            found.append(f"task {task} was delivered {max(run.deliveries for run in its)} times")
    return found


def wronged(
    removals: Iterable[Removal], runs: Collection[Run], excused: Collection[str] = (), steps: Collection[Step] = ()
) -> list[str]:
    """Which pods were chosen to go although they had been at work for longer than the last second.

    Args:
        removals: pods that were asked to end.
        runs: all runs.
        excused: pods that somebody other than the operator chose.
        steps: changes of replicas. A pod was chosen when those of its Deployment were last reduced before it was asked:
            on a busy node Kubernetes takes seconds to ask.
    """
    return [
        f"pod {removal.pod} was asked to end {removal.at - run.started:.2f} s after it began with task {run.task}"
        for removal in removals
        for run in runs
        if run.pod == removal.pod
        and removal.pod not in excused
        and run.at_work(removal.at)
        and _chosen_at(removal, steps) - run.started > LAST_SECOND
    ]


def _chosen_at(removal: Removal, steps: Iterable[Step]) -> float:
    return max(
        (
            step.at
            for step in steps
            if step.after < step.before and step.at <= removal.at and removal.pod.startswith(f"{step.deployment}-")
        ),
        default=removal.at,
    )


def beside_work(steps: Iterable[Step], runs: Collection[Run], prefix: str) -> list[Step]:
    """The scale-ins that happened while a worker of the same queue was at work, and left some replicas.

    Args:
        steps: changes of replicas.
        runs: all runs.
        prefix: what stands before the queue's name in the Deployment's.
    """
    return [
        step
        for step in steps
        if step.after < step.before
        and any(f"{prefix}{run.queue}" == step.deployment and run.at_work(step.at) for run in runs)
    ]


def within(steps: Iterable[Step], spans: Iterable[tuple[float, float]]) -> list[Step]:
    """The scale-ins within one of these spans of time; its first second is not of it, as decisions are under way."""
    kept = list(spans)
    return [
        step
        for step in steps
        if step.after < step.before and any(start + LAST_SECOND < step.at < end for start, end in kept)
    ]
