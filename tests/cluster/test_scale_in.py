"""Scale-ins beside work: whatever happens meanwhile, no task is interrupted or delivered twice.

The load is drawn from a seed, which is printed; `WARREN_SEED=…` repeats it. The verdict rests on what the handlers
wrote down and on what the API server told of pods, not on anything that Warren says (see verdicts.py).
"""

import os
import random
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import pytest
from evidence_release import WORKERS, Evidence, evidence_of
from kube import Kube
from recorder import recording
from verdicts import Removal, Run, Step, beside_work, harm, within, wronged
from waiting import eventually

QUEUES = ("amber", "birch", "cedar", "delta", "ebony", "fern")

SCALE_INS = 20
"""That must have happened while a worker of the same queue was at work."""

MOST_LOADS = 3
"""Loads until so many have happened. One is enough as a rule; where pods start slowly, workers are fewer."""

ECHO = 2.0
"""Seconds after somebody's edit of replicas, or around a rollout, in which pods go because of it."""


@dataclass
class Load:
    """Tasks on their way into one queue.

    Attributes:
        queue: they go into.
        plan: when each is submitted, in seconds from the beginning, and the seconds that it takes.
        tasks: ids of those submitted.
    """

    queue: str
    plan: list[tuple[float, float]]
    tasks: list[str] = field(default_factory=list)

    @classmethod
    def drawn(cls, queue: str, seed: int) -> "Load":
        """Three bursts of four to six tasks, some long, most of them short: apart, so as to be no steady traffic."""
        draw = random.Random(f"{seed} {queue}")
        plan = []
        for begin in (draw.uniform(0, 12), draw.uniform(30, 40), draw.uniform(58, 66)):
            long_ones = [draw.uniform(9, 14) for _ in range(draw.randint(1, 2))]
            short_ones = [draw.uniform(0.2, 6) for _ in range(draw.randint(3, 4))]
            tasks = [*long_ones, *short_ones]
            draw.shuffle(tasks)
            plan += [(begin, seconds) for seconds in tasks]
        return cls(queue, plan)

    def run(self, evidence: Evidence) -> None:
        """Submit all of it."""
        began = time.monotonic()
        for at, seconds in self.plan:
            time.sleep(max(0.0, began + at - time.monotonic()))  # the load's own rhythm
            self.tasks.append(evidence.submit(self.queue, f"{seconds:.2f}"))


@pytest.fixture
def seed() -> int:
    """Printed, and so shown where a test fails."""
    chosen = int(os.environ.get("WARREN_SEED") or random.randrange(10**6))
    print(f"WARREN_SEED={chosen}")
    return chosen


@pytest.fixture
def evidence(recorded: Kube) -> Iterator[Evidence]:
    with evidence_of(recorded) as evidence:
        at_rest(evidence)
        yield evidence
        at_rest(evidence)


def at_rest(evidence: Evidence) -> None:
    """No task, and no worker, also none that is ending."""
    eventually(lambda: evidence.drained(QUEUES), "all queues are drained", limit=120, every=0.5)
    eventually(lambda: not evidence.kube.pods("worker", running=False), "no worker is left", limit=120, every=0.5)


@contextmanager
def under_load(evidence: Evidence, loads: list[Load]) -> Iterator[None]:
    """The loads run beside the block; after it all tasks are done and all workers gone."""
    threads = [threading.Thread(target=load.run, args=(evidence,)) for load in loads]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        for thread in threads:
            thread.join()
    at_rest(evidence)


def test_scale_ins_take_none_that_is_at_work(evidence: Evidence, seed: int) -> None:
    """Short and long tasks mixed, in six queues at once: only what has nothing to do goes."""
    tasks: set[str] = set()
    steps: list[Step] = []
    runs: list[Run] = []
    with recording(evidence.kube) as recorder:
        for number in range(MOST_LOADS):
            loads = [Load.drawn(queue, seed + number) for queue in QUEUES]
            with under_load(evidence, loads):
                pass
            tasks |= {task for load in loads for task in load.tasks}
            runs = evidence.runs(tasks)
            steps = beside_work(recorder.steps(), runs, WORKERS)
            if len(steps) >= SCALE_INS:
                break
    print(f"{len(steps)} scale-ins beside work, {sum(step.before - step.after for step in steps)} pods")
    assert harm(tasks, runs) == []
    assert wronged(recorder.removals(), runs, steps=recorder.steps()) == []
    assert len(steps) >= SCALE_INS


def test_whatever_happens_meanwhile_no_task_is_interrupted(evidence: Evidence, seed: int) -> None:
    """The operator is killed, a worker's pod dies, another Deployment is rolled out, the node is drained of a third
    queue's pods, and somebody edits the replicas of the fourth: all during one load."""
    amber, birch, cedar, delta, *_ = loads = [Load.drawn(queue, seed + 1) for queue in QUEUES]
    kube = evidence.kube
    edited: list[tuple[float, float]] = []
    with recording(kube) as recorder, under_load(evidence, loads):
        began = time.monotonic()
        until(began + 6)
        kill_the_operator(kube)
        until(began + 10)
        killed = kill_a_worker(evidence, amber)
        kube.kubectl("rollout", "restart", f"deployment/{WORKERS}{birch.queue}")
        until(began + 14)
        evicted = drain_the_node(evidence, cedar.queue)
        until(began + 22)
        for replicas in (5, 1, 3):
            edited.append((time.time(), time.time() + ECHO))
            kube.kubectl("scale", f"deployment/{WORKERS}{delta.queue}", f"--replicas={replicas}")
            until(began + 22 + 4 * len(edited))
        kill_the_operator(kube)
        kube.kubectl("rollout", "restart", f"deployment/{WORKERS}{birch.queue}")
    tasks = {task for load in loads for task in load.tasks}
    runs = evidence.runs(tasks)
    removals = recorder.removals()
    rollouts = recorder.rollouts(f"{WORKERS}{birch.queue}")
    rolled = [(start - ECHO, end + ECHO) for start, end in rollouts]
    excused = killed | evicted | chosen(removals, delta.queue, edited) | chosen(removals, birch.queue, rolled)
    steps = beside_work(recorder.steps(), runs, WORKERS)
    print(f"{len(steps)} scale-ins beside work, {len(rollouts)} rollouts, killed: {killed}")
    assert harm(tasks, runs, killed) == []
    assert wronged(removals, runs, excused, recorder.steps()) == []
    assert rollouts, "a rollout was seen"
    birches = [step for step in recorder.steps() if step.deployment == f"{WORKERS}{birch.queue}"]
    assert within(birches, rollouts) == [], "no scale-in while two ReplicaSets have pods"
    assert steps, "there was something to judge"


def until(moment: float) -> None:
    """Let the load run on until a moment of the script."""
    time.sleep(max(0.0, moment - time.monotonic()))


def kill_the_operator(kube: Kube) -> None:
    """As when its node loses power: no goodbye."""
    for pod in kube.pods("operator"):
        kube.kubectl("delete", "pod", pod, "--force", "--grace-period=0", "--wait=false")


def kill_a_worker(evidence: Evidence, load: Load) -> set[str]:
    """Kill a pod that has a task in hand, and return its name."""

    kube = evidence.kube

    def kill() -> str | None:
        runs = [run for run in evidence.runs(load.tasks) if run.ended is None]
        for run in sorted(runs, key=lambda run: run.started, reverse=True):
            words = ("delete", "pod", run.pod, "--force", "--grace-period=0", "--wait=false")
            # One that is through by now may be gone, since idle workers go at once: then it is another's turn.
            if kube.run("kubectl", "--namespace", kube.namespace, *words, check=False).returncode == 0:
                return run.pod
        return None

    return {eventually(kill, "a worker with a task in hand is killed", limit=30)}


def drain_the_node(evidence: Evidence, queue: str) -> set[str]:
    """Drain the nodes of the pods of one queue, let them take pods again, and return the names of those pods."""
    kube = evidence.kube
    evicted: set[str] = set()
    nodes = [node["metadata"]["name"] for node in kube.get("nodes")]
    try:
        for node in nodes:
            evicted |= {*evidence.worker_pods(queue)}
            kube.kubectl(
                *("drain", node, f"--pod-selector=warren.dev/queue={queue}", "--delete-emptydir-data"),
                *("--ignore-daemonsets", "--timeout=60s"),
            )
    finally:
        for node in nodes:
            kube.kubectl("uncordon", node)
    return evicted


def chosen(removals: list[Removal], queue: str, spans: list[tuple[float, float]]) -> set[str]:
    """Pods of a queue that were asked to end in one of these spans of time, in which others choose as well."""
    return {
        removal.pod
        for removal in removals
        if removal.pod.startswith(f"{WORKERS}{queue}-") and any(start <= removal.at <= end for start, end in spans)
    }
