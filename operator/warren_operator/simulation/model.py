"""A cluster on paper: one queue, the pods of its workers, and a clock that jumps from event to event.

The broker is a quorum queue with prefetch = concurrency: a task goes to the consumer that has waited longest. Pods
start one behind the other where they share a node's processors, and end when their task has, or with their grace.
Nothing is drawn at random but what a real cluster leaves to chance: which of equal pods a ReplicaSet deletes, and when
a readiness probe falls. Who scales is told by calling `World.scale`; the scalers live in other modules.
"""

import heapq
import math
import random
from array import array
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from warren_operator.policy import Phase
from warren_operator.simulation.trace import Trace

LINGER = 3600.0
"""Seconds after the last task within which a scaler has to come to rest; what lasts longer is not waited for."""

STUCK = 24 * 3600.0
"""Seconds without a task that ends, after the last one came, until the rest counts as unfinished."""


@dataclass(frozen=True)
class Timing:
    """What a cluster needs for what. The defaults were measured, see docs/simulate.md.

    Attributes:
        start: seconds from the creation of a pod until it consumes, if it starts alone.
        stop: seconds until a pod that was told to end, and has nothing in hand, is gone, if it ends alone.
        start_work, stop_work: how much of that is work of the processors, which all pods share that start or end.
        processors: that they share; on a cluster of many nodes, of all nodes together.
        nodes: that the pods are spread over; how many pods start at once goes by the nodes that have any.
        probe: seconds between two readiness probes.
        patch: seconds from a decision until the replicas are changed.
        controller: seconds from a change of replicas until pods are made or told to end.
        overhead: seconds that a worker spends on each task besides the work itself.
        redelivery: seconds until a task that a killed worker had is ready again.
    """

    start: float = 0.7
    stop: float = 2.0
    start_work: float = 0.5
    stop_work: float = 0.45
    processors: int = 2
    nodes: int = 1
    probe: float = 1.0
    patch: float = 0.03
    controller: float = 0.05
    overhead: float = 0.005
    redelivery: float = 1.0


class Pod:
    """A worker's pod.

    Attributes:
        name: of the pod; also its place in the order of creation.
        node: that it is on.
        uid: what a ReplicaSet goes by where all else is equal.
        created: second of its creation.
        phase: as Kubernetes tells it.
        ready_since: second at which it passed its probe; None before.
        cost: its pod-deletion-cost.
        consuming: it takes tasks.
        queued: it waits for a task at the broker.
        ending: it was told to end.
        gone: second at which it was gone; None before.
        tasks: in hand, with the second at which each was taken.
        finished, finished_seconds: attempts that ended, and the time they took.
    """

    __slots__ = (
        "consuming",
        "cost",
        "created",
        "ending",
        "finished",
        "finished_seconds",
        "gone",
        "name",
        "node",
        "phase",
        "queued",
        "ready_since",
        "tasks",
        "uid",
    )

    def __init__(self, name: str, node: str, uid: float, created: float) -> None:
        self.name = name
        self.node = node
        self.uid = uid
        self.created = created
        self.phase = Phase.PENDING
        self.ready_since: float | None = None
        self.cost = 0
        self.consuming = False
        self.queued = False
        self.ending = False
        self.gone: float | None = None
        self.tasks: dict[int, float] = {}
        self.finished = 0
        self.finished_seconds = 0.0


class Processors:
    """Processors that jobs share evenly, each job on one of them at most."""

    def __init__(self, world: "World", count: int) -> None:
        self._world = world
        self._count = count
        self._jobs: list[tuple[float, int, Callable[[Pod], None], Pod]] = []
        self._number = 0
        self._done = 0.0
        """Seconds of work that a job has got that has been there from the beginning."""
        self._at = 0.0
        self._change = 0

    def run(self, seconds: float, action: Callable[[Pod], None], pod: Pod) -> None:
        """Have an action called once this much work has been done for it."""
        self._pass_time()
        self._number += 1
        heapq.heappush(self._jobs, (self._done + seconds, self._number, action, pod))
        self._expect()

    def _pass_time(self) -> None:
        now = self._world.now
        self._done += (now - self._at) * self._speed()
        self._at = now

    def _speed(self) -> float:
        return min(1.0, self._count / len(self._jobs)) if self._jobs else 1.0

    def _expect(self) -> None:
        self._change += 1
        if self._jobs:
            left = max(0.0, self._jobs[0][0] - self._done)
            self._world.at(self._world.now + left / self._speed(), self._next, self._change)

    def _next(self, change: int) -> None:
        if change != self._change:
            return  # a job has come in between
        self._pass_time()
        _, _, action, pod = heapq.heappop(self._jobs)
        self._expect()
        action(pod)


class Scaler(Protocol):
    """Who decides about the replicas.

    Attributes:
        rest: replicas that it keeps when there is nothing to do.
        grace: seconds that a pod has to end, once it is told to.
    """

    rest: int
    grace: float

    def begin(self, world: "World") -> None:
        """Start to look at the world."""

    def submitted(self, now: float) -> None:
        """A task has been confirmed."""

    def changed(self, pod: Pod, now: float) -> None:
        """A pod began or stopped to consume, took up or put down a task."""


@dataclass(frozen=True)
class Record:
    """What happened.

    Attributes:
        trace: the load.
        waits: seconds from its confirm until each task was first taken, in the order of the trace; -1 for
            those that never were.
        ended: seconds at which tasks ended, in the order in which they did.
        replicas: (second, number asked for) of each change, the first at 0.
        pods: (created, began to consume, gone) of each pod; None for what it has not come to.
        interrupted: tasks that a pod had in hand when it was killed at the end of its grace: they run a second time.
        over: second at which everything was at rest.
    """

    trace: Trace
    waits: "array[float]"
    ended: "array[float]"
    replicas: tuple[tuple[float, int], ...]
    pods: tuple[tuple[float, float | None, float | None], ...]
    interrupted: int
    over: float

    @property
    def unfinished(self) -> int:
        """Tasks that never ended, as with a scaler that leaves no worker."""
        return len(self.trace) - len(self.ended)


class World:
    """One run of one scaler over one trace.

    Attributes:
        now: second.
        replicas: asked for.
        pods: that count, oldest first.
        waiting: tasks that are ready, by number.
        unacked: tasks in hand, those of pods that end included.
        consumers: pods that take tasks.
        timing: what the cluster needs for what.
        rng: chance.
    """

    def __init__(self, trace: Trace, scaler: Scaler, timing: Timing, concurrency: int, seed: int) -> None:
        self.now = 0.0
        self.replicas = scaler.rest
        self.pods: list[Pod] = []
        self.waiting: deque[int] = deque()
        self.unacked = 0
        self.consumers = 0
        self.rng = random.Random(f"world {seed}")  # noqa: S311  chance, not a secret
        self._trace = trace
        self._scaler = scaler
        self.timing = timing
        self._concurrency = concurrency
        self._events: list[tuple[float, int, Callable[[Any], None], Any]] = []
        self._count = 0
        self._free: deque[Pod] = deque()
        self._left = len(trace)
        self._processors = Processors(self, timing.processors)
        self._ending = 0
        self._asked = self.replicas
        self._made: list[Pod] = []
        self._began: dict[str, float] = {}
        self._waits = array("d", [-1.0]) * len(trace)
        self._ended = array("d")
        self._changes: list[tuple[float, int]] = [(0.0, self.replicas)]
        self._interrupted = 0
        self._over = False

    # -- the clock -----------------------------------------------------------------------------------------------------

    def at(self, when: float, action: Callable[[Any], None], argument: Any = None) -> None:
        """Have an action called with its argument at a time."""
        self._count += 1
        heapq.heappush(self._events, (when, self._count, action, argument))

    def run(self) -> Record:
        """Run until all tasks are done and the scaler is at rest."""
        self._scaler.begin(self)
        for _ in range(self.replicas):
            self._make_pod(ready=True)
        self.at(math.inf, self._stop)  # so that there is always something to come
        events, arrivals, submitted = self._events, self._trace.at, self._scaler.submitted
        pop, infinity = heapq.heappop, math.inf
        number, count = 0, len(arrivals)
        next_at = arrivals[0]
        while not self._over:
            if next_at <= events[0][0]:
                self.now = next_at
                if self._free:
                    self._give(number)
                else:
                    self.waiting.append(number)
                submitted(next_at)
                number += 1
                if number < count:
                    next_at = arrivals[number]
                else:
                    next_at = infinity
                    self.at(self.now + STUCK, self._give_up, len(self._ended))
            else:
                when, _, action, argument = pop(events)
                self.now = when
                action(argument)
        return Record(
            trace=self._trace,
            waits=self._waits,
            ended=self._ended,
            replicas=tuple(self._changes),
            pods=tuple((pod.created, self._began.get(pod.name), pod.gone) for pod in self._made),
            interrupted=self._interrupted,
            over=self.now,
        )

    def _give_up(self, ended: int) -> None:
        if len(self._ended) == ended:
            self._over = True
        elif self._left:
            self.at(self.now + STUCK, self._give_up, len(self._ended))

    def _stop(self, _: object) -> None:
        self._over = True

    def _see_if_over(self) -> None:
        if not self._left and not self._ending and self.replicas == self._scaler.rest == len(self.pods):
            self._over = True

    # -- the queue -----------------------------------------------------------------------------------------------------

    def _give(self, task: int) -> None:
        """Hand a task to the consumer that has waited longest; there is one."""
        pod = self._free.popleft()
        pod.queued = False
        self._take(pod, task)

    def _take(self, pod: Pod, task: int) -> None:
        now = self.now
        pod.tasks[task] = now
        self.unacked += 1
        if self._waits[task] < 0:  # its first delivery
            self._waits[task] = now - self._trace.at[task]
        if len(pod.tasks) < self._concurrency:
            if not pod.queued:
                pod.queued = True
                self._free.append(pod)
        elif pod.queued:  # it has just got several, and had said that it has room after the first of them
            pod.queued = False
            self._free.remove(pod)
        self._count += 1
        event = (now + self._trace.takes[task] + self.timing.overhead, self._count, self._end, (pod, task))
        heapq.heappush(self._events, event)
        self._scaler.changed(pod, now)

    def _end(self, what: tuple[Pod, int]) -> None:
        pod, task = what
        since = pod.tasks.pop(task, None)
        if since is None or pod.gone is not None:
            return  # it was taken back
        now = self.now
        self.unacked -= 1
        pod.finished += 1
        pod.finished_seconds += now - since
        self._ended.append(now)
        self._left -= 1
        self._scaler.changed(pod, now)
        if pod.ending:
            if not pod.tasks:
                self._wind_up(pod)
        elif self.waiting:
            self._take(pod, self.waiting.popleft())
        elif not pod.queued:
            pod.queued = True
            self._free.append(pod)
        if not self._left:
            self.at(now + LINGER, self._stop)
            self._see_if_over()

    def _feed(self, pod: Pod) -> None:
        """A pod begins to consume."""
        while self.waiting and len(pod.tasks) < self._concurrency:
            self._take(pod, self.waiting.popleft())
        if len(pod.tasks) < self._concurrency and not pod.queued:
            pod.queued = True
            self._free.append(pod)

    # -- the pods ------------------------------------------------------------------------------------------------------

    @property
    def settled(self) -> bool:
        """Whether the controllers have caught up with the replicas that are asked for."""
        return self._asked == self.replicas and len(self.pods) <= self.replicas

    def scale(self, replicas: int, victims: tuple[str, ...] = ()) -> None:
        """Ask for a number of replicas; `victims` are marked to be deleted first, and no other pod is."""
        for pod in self.pods:
            pod.cost = -1000 if pod.name in victims else 0
        if replicas != self.replicas:
            self.replicas = replicas
            self._changes.append((self.now, replicas))
            self.at(self.now + self.timing.controller, self._reconcile)

    def _reconcile(self, _: object) -> None:
        """What Deployment and ReplicaSet do: make pods, or tell some to end."""
        self._asked = self.replicas
        surplus = len(self.pods) - self.replicas
        for _ in range(-surplus):
            self._make_pod()
        if surplus > 0:
            for pod in sorted(self.pods, key=self._deletion_order)[:surplus]:
                self._tell_to_end(pod)
        self._see_if_over()

    def _deletion_order(self, pod: Pod) -> tuple[int, int, float, float]:
        """As a ReplicaSet chooses: not running, not ready, cheapest, ready for less long (by powers of two), chance.

        Source: `ActivePodsWithRanks` in Kubernetes' pkg/controller/controller_utils.go.
        """
        order = {Phase.PENDING: 0, Phase.STARTING: 1}.get(pod.phase, 2)
        age = 0.0 if pod.ready_since is None else math.floor(math.log2(max(1e-9, self.now - pod.ready_since)))
        return order, pod.cost, age, pod.uid

    def _make_pod(self, *, ready: bool = False) -> None:
        node = f"node-{len(self._made) % self.timing.nodes}"
        pod = Pod(f"worker-{len(self._made):05}", node, self.rng.random(), self.now)
        self._made.append(pod)
        self.pods.append(pod)
        if ready:
            self._consume(pod)
            self._pass_probe(pod)
            return
        # The node's work comes first, then the containers run, and the worker connects.
        self._processors.run(self.timing.start_work, self._run_containers, pod)

    def _run_containers(self, pod: Pod) -> None:
        if not pod.ending:
            pod.phase = Phase.STARTING
            self.at(self.now + max(0.0, self.timing.start - self.timing.start_work), self._consume, pod)

    def _consume(self, pod: Pod) -> None:
        if pod.ending:
            return
        if pod.phase is Phase.STARTING:
            self.at(self.now + self.rng.random() * self.timing.probe, self._pass_probe, pod)
        self._began[pod.name] = self.now
        pod.consuming = True
        self.consumers += 1
        self._scaler.changed(pod, self.now)
        self._feed(pod)

    def _pass_probe(self, pod: Pod) -> None:
        if not pod.ending:
            pod.phase = Phase.READY
            pod.ready_since = self.now

    def _tell_to_end(self, pod: Pod) -> None:
        self.pods.remove(pod)
        self._ending += 1
        pod.ending = True
        if pod.consuming:
            pod.consuming = False
            self.consumers -= 1
        if pod.queued:
            pod.queued = False
            self._free.remove(pod)
        self._scaler.changed(pod, self.now)
        if pod.tasks:
            self.at(self.now + self._scaler.grace, self._kill, pod)
        else:
            self._wind_up(pod)

    def _wind_up(self, pod: Pod) -> None:
        self.at(self.now + max(0.0, self.timing.stop - self.timing.stop_work), self._clear_away, pod)

    def _clear_away(self, pod: Pod) -> None:
        self._processors.run(self.timing.stop_work, self._remove, pod)

    def _kill(self, pod: Pod) -> None:
        """The end of its grace: what it has in hand goes back to the queue."""
        if pod.gone is not None or not pod.tasks:
            return
        tasks = list(pod.tasks)
        self._interrupted += len(tasks)
        self.unacked -= len(tasks)
        pod.tasks.clear()
        self.at(self.now + self.timing.redelivery, self._return, tasks)
        self._remove(pod)

    def _return(self, tasks: list[int]) -> None:
        for task in reversed(tasks):
            self.waiting.appendleft(task)
        for pod in list(self._free):
            self._free.remove(pod)
            pod.queued = False
            self._feed(pod)

    def _remove(self, pod: Pod) -> None:
        if pod.gone is None:
            pod.gone = self.now
            self._ending -= 1
            self._scaler.changed(pod, self.now)
            self._see_if_over()
