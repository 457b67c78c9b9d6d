"""The one loop over all WorkQueues: observe → decide → act → explain.

There is no task per resource and no state that a restart would miss: what must last is in the cluster and the broker.
Reading and deciding happen one queue after the other, in the order of the agenda; calls to the API server run beside,
at most one change and one status write at a time for each WorkQueue.
"""

import asyncio
import logging
import time
from collections.abc import Coroutine, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

from warren_contract.aio import BrokerUnavailable
from warren_contract.events import Event, Resync, TasksSubmitted, WorkerState
from warren_operator.actuation import Actuator, Outdated, ScaleIn
from warren_operator.agenda import Agenda
from warren_operator.broker import Broker, EventPublisher, QueueMissing
from warren_operator.conditions import transitions
from warren_operator.explanation import Explained, Problem, sentence
from warren_operator.kube import MERGE_PATCH, Api, KubeError
from warren_operator.mirror import Kind
from warren_operator.notes import Note, event_body, scaled
from warren_operator.observation import SLOW_READING, Counts, Inputs, View, WorkerReports, observe
from warren_operator.policy import Decision, FallbackRule, Memory, Scaling, decide
from warren_operator.resource import Key, Mode, QueueSettings, Spec, Status, WorkQueue, queue_settings, seconds
from warren_operator.status import queue_state, status, status_patch, substance
from warren_operator.topology import OVERRIDDEN, Finding, Topology
from warren_operator.work_queues import WORK_QUEUES
from warren_operator.workloads import TargetState, Workloads

log = logging.getLogger(__name__)

BUSY_EVERY = 0.25
"""Seconds between two readings of a queue that has tasks or workers."""

GROWING_EVERY = 0.1
"""Seconds between two readings while more workers are wanted: a burst takes a moment to arrive."""

IDLE_EVERY = 1.0
"""Seconds between two readings of a queue that has neither, or that cannot be read."""

ACTING_EVERY = 0.05
"""Seconds until a queue is looked at again whose replicas are just being changed."""

ECHO_LIMIT = 2.0
"""Seconds to wait until a change of replicas comes back by the watch, before anything else is decided."""

FIRST_READING = 15.0
"""Seconds to wait for a queue's first reading before it is told that there is none: the broker may be starting, too."""

RETRY_EVERY = 1.0
"""Seconds until the next try of a call that the API server refused or did not answer."""

STATUS_EVERY = 10.0
"""Seconds between two status writes that only bring the counts up to date."""

TELL_EVERY = 1.0
"""Seconds between two event messages about a changing queue."""

TELL_QUIET_EVERY = 10.0
"""Seconds between two event messages about a queue that does not change."""

WRITES = 16
"""Status writes and Events in flight; scaling does not wait for them."""

EVENTS = Kind("api/v1", "events")

AUTOSCALER_CONFLICT = "AutoscalerConflict"
CLUSTER_UNREADABLE = "ClusterUnreadable"


@dataclass(slots=True)
class Entry:
    """What the loop keeps of one WorkQueue.

    Attributes:
        item: as last read.
        refusal: why it is not served: unusable, or somebody else's queue or Deployment.
        memory: of the policy.
        told: the latest explanation.
        mark: what of it is compared, to see whether there is anything new to tell.
        judged: the mark that was last compared with the status.
        acting: a change of replicas is under way.
        expected: replicas that the watch has yet to bring back, and the time until which that is waited for.
        act_after: no change before this time, after one that was refused.
        trouble: why the last change was refused.
        unread_since: since when readings have failed; None while they do not.
        aside: the queue is missing or slow, and read on a channel of its own.
        serving: it is being read right now.
        pods: names seen last.
        raw: the status as last read or written.
        written: what was last written; None before the first time.
        written_at, told_at: times of the last status write and of the last event message.
        write_after: no status write before this time, after one that was refused.
        told_mark: the mark of the last event message.
        writing: a status write is under way.
    """

    item: WorkQueue
    refusal: Problem | None = None
    memory: Memory = field(default_factory=Memory)
    told: Explained | None = None
    mark: tuple[object, ...] = ()
    judged: tuple[object, ...] = ()
    acting: bool = False
    expected: tuple[int, float] | None = None
    act_after: float = float("-inf")
    trouble: Problem | None = None
    unread_since: float | None = None
    aside: bool = False
    serving: bool = False
    pods: frozenset[str] = frozenset()
    raw: Mapping[str, Any] = field(default_factory=dict)
    written: Status | None = None
    written_at: float = float("-inf")
    told_at: float = float("-inf")
    write_after: float = float("-inf")
    told_mark: tuple[object, ...] = ()
    writing: bool = False


class Loop:
    """Serves all WorkQueues.

    Attributes:
        entries: by key, for the metrics.
        tick_at: when the loop last turned, in seconds of its clock.
        decisions: changes of replicas that were carried out, by direction, for the metrics.
        failures: readings that failed, for the metrics.
    """

    def __init__(self, api: Api, namespaces: tuple[str, ...], name: str, defaults: QueueSettings) -> None:
        """Args:
        api: session with the API server.
        namespaces: served; `("*",)` for all.
        name: of this operator, in Events.
        defaults: for the queues.
        """
        self.workloads = Workloads(api, namespaces, self._work_queue_changed)
        self.entries: dict[Key, Entry] = {}
        self.tick_at = time.monotonic()
        self.decisions = {"up": 0, "down": 0}
        self.failures = 0
        self._api = api
        self._name = name
        self._defaults = defaults
        self._actuator = Actuator(api)
        self._reports = WorkerReports()
        self._agenda: Agenda[Key] = Agenda()
        self._keys: dict[str, Key] = {}
        self._changed = True
        self._unsynced_told_at = float("-inf")
        self._wake = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        self._writes = asyncio.Semaphore(WRITES)
        self._broker: Broker | None = None
        self._topology: Topology | None = None
        self._publisher: EventPublisher | None = None

    def connect(self, broker: Broker, topology: Topology, publisher: EventPublisher) -> None:
        """Say what to read from, what keeps the queues, and where to tell; before `run`."""
        self._broker, self._topology, self._publisher = broker, topology, publisher

    # -- what others call ----------------------------------------------------------------------------------------------

    def heard(self, event: Event) -> None:
        """Take in an event of a worker or a producer."""
        match event:
            case WorkerState():
                self._reports.add(event, asyncio.get_running_loop().time())
            case TasksSubmitted():
                self.hint([event.queue])
            case Resync():
                for entry in self.entries.values():
                    entry.told_at = float("-inf")
                    self._tell(entry, asyncio.get_running_loop().time())
            case _:
                pass

    def hint(self, queues: list[str] | None = None) -> None:
        """Read these queues at once, or all."""
        keys = self.entries if queues is None else [self._keys[queue] for queue in queues if queue in self._keys]
        for key in keys:
            self._agenda.hint(key)
        self._wake.set()

    def _work_queue_changed(self, _key: Key) -> None:
        self._changed = True
        self._wake.set()

    # -- the loop ------------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Serve until cancelled."""
        loop = asyncio.get_running_loop()
        try:
            while True:
                self.tick_at = time.monotonic()
                if not self.workloads.synced:
                    self._wait_for_sync(loop.time())
                    await asyncio.sleep(ACTING_EVERY)
                    continue
                if self._changed:
                    self._take_in(loop.time())
                self._wake.clear()
                key = self._agenda.pop(loop.time())
                if key is None:
                    await self._rest(loop.time())
                else:
                    await self._turn(key)
        finally:
            for task in self._tasks:
                task.cancel()

    def _wait_for_sync(self, now: float) -> None:
        """Where something cannot be listed, say so on the WorkQueues that can be."""
        problem = self.workloads.problem
        if not problem or now < self._unsynced_told_at + IDLE_EVERY:
            return
        self._unsynced_told_at = now
        self._take_in(now)
        for entry in self.entries.values():
            self._explain(entry, Explained(Problem(CLUSTER_UNREADABLE, f"{problem}; nothing is scaled until then")))

    async def _rest(self, now: float) -> None:
        at = self._agenda.next_at()
        pause = IDLE_EVERY if at is None else min(IDLE_EVERY, max(0.0, at - now))
        try:
            async with asyncio.timeout(pause):
                await self._wake.wait()
        except TimeoutError:
            pass

    async def _turn(self, key: Key) -> None:
        entry = self.entries.get(key)
        if entry is None or entry.serving:
            return
        entry.serving = True
        if entry.aside:
            self._spawn(self._serve(entry))
        else:
            await self._serve(entry)

    async def _serve(self, entry: Entry) -> None:
        loop = asyncio.get_running_loop()
        pause = IDLE_EVERY
        try:
            pause = await self._look(entry)
        except Exception:  # one queue's trouble is not the others'
            log.exception("serving %s failed", entry.item.key)
        finally:
            entry.serving = False
            if self.entries.get(entry.item.key) is entry:
                self._agenda.schedule(entry.item.key, loop.time() + pause)
            self._wake.set()

    # -- taking in resources -------------------------------------------------------------------------------------------

    def _take_in(self, now: float) -> None:
        """Bring the entries in line with the WorkQueues that exist, and settle who owns what."""
        self._changed = False
        items = sorted(self.workloads.work_queues(), key=lambda item: item.age_order)
        present = {item.key for item in items}
        for key in [key for key in self.entries if key not in present]:
            self._let_go(key)
        queues: dict[str, Key] = {}
        targets: dict[Key, Key] = {}
        wanted: dict[Key, tuple[str, QueueSettings]] = {}
        for number, item in enumerate(items):
            refusal = _refusal(item, queues, targets)
            if refusal is None and item.spec is not None:
                queues[item.queue] = item.key
                targets[_target(item.key, item.spec)] = item.key
                wanted[item.key] = (item.queue, queue_settings(item.spec, self._defaults))
            known = self.entries.get(item.key)
            if known is None or known.item.uid != item.uid:
                self.entries[item.key] = Entry(item, refusal, raw=item.status)
                # New ones are read at once; after a restart thousands are new, and those spread over a second.
                self._agenda.schedule(item.key, now + (number % 1000) / 1000 * IDLE_EVERY if number > 50 else now)
            elif known.item.generation != item.generation or known.refusal != refusal:
                known.item, known.refusal = item, refusal
                self._agenda.schedule(item.key, now)
        self._keys = queues
        if self._topology is not None:
            self._topology.serve(wanted, may_drop=all(item.spec is not None for item in items))

    def _let_go(self, key: Key) -> None:
        entry = self.entries.pop(key)
        self._agenda.drop(key)
        if entry.refusal is None:
            text = f"Queue {entry.item.queue} and its tasks stay in the broker; delete it there if nobody needs them."
            self._spawn(self._post(entry.item, [Note("QueueKept", text)]))
        log.info("WorkQueue %s is gone; its queue %s stays", key, entry.item.queue)

    # -- one look at one queue -----------------------------------------------------------------------------------------

    async def _look(self, entry: Entry) -> float:
        """Observe, decide, act and explain once; returns the seconds until the next look."""
        spec = entry.item.spec
        if entry.refusal is not None or spec is None:
            self._explain(entry, Explained(entry.refusal))
            return IDLE_EVERY
        if entry.acting:
            return ACTING_EVERY
        key = _target(entry.item.key, spec)
        reading = await self._read(entry)
        target = self.workloads.target(key)
        if target is None:
            text = f"Deployment {key.name} does not exist: make it, or name another in spec.scaleTargetRef.name"
            self._explain(entry, Explained(Problem("ScaleTargetMissing", text)))
            return IDLE_EVERY
        pause = self._too_early(entry, target, reading[0])
        if pause is not None:
            return pause
        return self._judge(entry, spec, target, self._observe(entry, spec, target, reading))

    def _too_early(self, entry: Entry, target: TargetState, counts: Counts | None) -> float | None:
        """Seconds until the next look where this one tells nothing yet; None where it tells something.

        It does not while a change of replicas has still to come back, and when everything has only just begun.
        """
        now = asyncio.get_running_loop().time()
        if entry.expected is not None:
            if target.deployment.replicas != entry.expected[0] and now < entry.expected[1]:
                return ACTING_EVERY
            entry.expected = None
        if counts is not None:
            entry.unread_since = None
        elif entry.unread_since is None:
            entry.unread_since = now
        if entry.told is None and entry.unread_since is not None and now - entry.unread_since < FIRST_READING:
            return IDLE_EVERY  # a connection that is made, and a queue that is declared, are hints
        return None

    def _judge(self, entry: Entry, spec: Spec, target: TargetState, view: View) -> float:
        """Decide on an observation, have it carried out, and explain it; returns the seconds until the next look."""
        now = asyncio.get_running_loop().time()
        key, scaling = _target(entry.item.key, spec), scaling_of(spec)
        problem, override = self._problem(entry, key, view), self._override(entry)
        if problem is not None and problem.reason == AUTOSCALER_CONFLICT:
            self._explain(entry, Explained(problem, override, view))
            return IDLE_EVERY
        decision = decide(scaling, view.seen, entry.memory, now)
        entry.memory = decision.memory
        told = Explained(problem, override, view, decision, scaling)
        if decision.changes and spec.mode is Mode.ENFORCE and now >= entry.act_after:
            entry.acting = True
            self._spawn(self._act(entry, key, told, decision))
        self._explain(entry, told)
        if decision.replicas > target.deployment.replicas:
            return GROWING_EVERY
        return BUSY_EVERY if _is_active(view, decision) else IDLE_EVERY

    async def _read(self, entry: Entry) -> tuple[Counts | None, str]:
        broker = self._broker
        if broker is None or broker.problem:
            self.failures += 1
            return None, broker.problem if broker else "not connected to the broker yet"
        queue = entry.item.queue
        try:
            counts = await broker.read(queue, aside=entry.aside)
        except QueueMissing:
            entry.aside = True
            self.failures += 1
            if self._topology is not None:
                self._topology.missing(queue)
            return None, f"queue {queue} is not there yet: the operator is about to declare it"
        except BrokerUnavailable as error:
            entry.aside = True
            self.failures += 1
            return None, str(error)
        entry.aside = counts.took >= SLOW_READING
        return counts, ""

    def _observe(self, entry: Entry, spec: Spec, target: TargetState, reading: tuple[Counts | None, str]) -> View:
        now = asyncio.get_running_loop().time()
        counts, unknown = reading
        queue = entry.item.queue
        pods = frozenset(pod.name for pod in (*target.pods, *target.ending))
        self._reports.forget(queue, entry.pods - pods, now)
        entry.pods = pods
        topology = self._topology
        if counts is not None and any(item.reason != OVERRIDDEN for item in self._findings(entry)):
            # A queue of another kind promises other things: nothing is decided on what is counted there.
            counts, unknown = None, f"queue {queue} is not what Warren needs"
        return observe(
            Inputs(
                counts=counts,
                unknown=unknown,
                statistics=topology.statistics.get(queue) if topology else None,
                reports=self._reports.of(queue),
                active_at=self._reports.active_at(queue),
                service_time=self._reports.service_time(queue, now),
                concurrency=spec.concurrency,
                target=target,
                now=now,
                wall=time.time(),
                listening_since=self._broker.listening_since if self._broker else None,
            )
        )

    def _problem(self, entry: Entry, target: Key, view: View) -> Problem | None:
        """What is wrong: the cause before its consequences."""
        topology, broker = self._topology, self._broker
        autoscalers = self.workloads.autoscalers(target)
        causes: list[tuple[str, str]] = []
        if autoscalers:
            causes.append((AUTOSCALER_CONFLICT, _another_scales(autoscalers[0], target)))
        causes.append((CLUSTER_UNREADABLE, self.workloads.problem))
        if broker is not None and broker.problem:
            causes.append(("BrokerUnavailable", f"{broker.problem}; the workers stay as they are"))
        if topology is not None and broker is not None:
            causes.append(("BrokerTooOld" if broker.too_old else "TopologyUnknown", topology.problem))
            causes += [(item.reason, item.message) for item in self._findings(entry) if item.reason != OVERRIDDEN]
        if view.unknown:
            causes.append(("QueueUnavailable", f"{view.unknown}; the workers stay as they are"))
        return next((Problem(reason, text) for reason, text in causes if text), entry.trouble)

    def _override(self, entry: Entry) -> str | None:
        """Whose policy is in the way, and what it changes."""
        return next((item.message for item in self._findings(entry) if item.reason == OVERRIDDEN), None)

    def _findings(self, entry: Entry) -> tuple[Finding, ...]:
        return self._topology.findings(entry.item.queue) if self._topology else ()

    # -- act -----------------------------------------------------------------------------------------------------------

    async def _act(self, entry: Entry, target: Key, told: Explained, decision: Decision) -> None:
        """Carry a decision out, and tell that it has been."""
        loop = asyncio.get_running_loop()
        queue = entry.item.queue
        trouble: Problem | None = None
        try:
            if decision.replicas > decision.current:
                await self._actuator.scale(target, decision.current, decision.replicas)
            else:
                forced = told.scaling is not None and decision.current > _ceiling(told.scaling)
                await self._actuator.scale_in(
                    ScaleIn(target, decision.current, decision.replicas, decision.victims),
                    lambda: self.workloads.target(target),
                    lambda victims: forced or self._free(queue, victims),
                )
        except Outdated as error:
            log.info("%s: %s", entry.item.key, error)
        except KubeError as error:
            trouble = Problem("ScalingRefused", _refused(error, target))
            entry.act_after = loop.time() + RETRY_EVERY
            log.warning("%s: %s", entry.item.key, trouble.message)
        else:
            entry.expected = (decision.replicas, loop.time() + ECHO_LIMIT)
            self.decisions["up" if decision.replicas > decision.current else "down"] += 1
            if told.view is not None and told.scaling is not None:
                note = scaled(decision, sentence(decision, told.view, told.scaling))
                log.info("%s: %s", entry.item.key, note.message)
                self._spawn(self._post(entry.item, [note]))
        finally:
            entry.trouble = trouble
            entry.acting = False

    def _free(self, queue: str, victims: tuple[str, ...]) -> bool:
        reports = self._reports.of(queue)
        return not any(name in reports and reports[name].state.busy for name in victims)

    # -- explain -------------------------------------------------------------------------------------------------------

    def _explain(self, entry: Entry, told: Explained) -> None:
        """Keep the explanation, tell it, and write the status if there is reason to."""
        now = asyncio.get_running_loop().time()
        entry.told, entry.mark = told, _mark(entry.item, told)
        self._tell(entry, now)
        regular = now - entry.written_at >= STATUS_EVERY
        if entry.writing or now < entry.write_after or (entry.mark == entry.judged and not regular):
            return
        entry.judged = entry.mark
        item = replace(entry.item, status=entry.raw)
        new = status(item, told, datetime.now(UTC))
        if entry.written is not None and not regular and substance(new) == substance(entry.written):
            return  # only counts have changed: they wait for the next regular write
        entry.written_at = now
        if new != entry.written:
            entry.writing = True
            self._spawn(self._write(entry, item, new))

    async def _write(self, entry: Entry, item: WorkQueue, new: Status) -> None:
        """Write the status, and an Event for each condition that changed."""
        notes = transitions(item.status.get("conditions") or (), new.conditions)
        patch = status_patch(new)
        try:
            async with self._writes:
                path = WORK_QUEUES.path(item.key.namespace, item.key.name, "status")
                await self._api.request("PATCH", path, body=patch, media=MERGE_PATCH)
        except KubeError as error:
            # What is there now is not known: write it in full at the next look.
            entry.written, entry.judged = None, ()
            entry.write_after = asyncio.get_running_loop().time() + RETRY_EVERY
            if error.code and not error.gone:  # that the API server is not reached, the mirrors have told
                log.warning("%s: status not written: %s", item.key, error)
        else:
            entry.written, entry.raw = new, patch["status"]
            await self._post(item, notes)
        finally:
            entry.writing = False

    def _tell(self, entry: Entry, now: float) -> None:
        if entry.told is None or self._publisher is None:
            return
        every = TELL_EVERY if entry.mark != entry.told_mark else TELL_QUIET_EVERY
        if now - entry.told_at < every:
            return
        state = queue_state(entry.item, entry.told, time.time())
        if state is not None:
            self._publisher.tell(state)
            entry.told_at, entry.told_mark = now, entry.mark

    async def _post(self, item: WorkQueue, notes: list[Note]) -> None:
        path = EVENTS.path(item.key.namespace)
        for note in notes:
            try:
                async with self._writes:
                    body = event_body(item, note, self._name, datetime.now(UTC))
                    await self._api.request("POST", path, body=body)
            except KubeError as error:
                log.warning("%s: Event %s not written: %s", item.key, note.reason, error)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: "asyncio.Task[None]") -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("a call failed in a way that it should not", exc_info=error)


def scaling_of(spec: Spec) -> Scaling:
    """The part of a spec that the policy decides by."""
    fallback = spec.fallback
    return Scaling(
        max_replicas=spec.max_replicas,
        min_replicas=spec.min_replicas,
        backlog_per_worker=spec.target.backlog_per_worker,
        max_step=spec.behavior.scale_up.max_step,
        stabilization=seconds(spec.behavior.scale_down.stabilization),
        fallback=None if fallback is None else FallbackRule(fallback.after_failures, fallback.replicas),
        paused=spec.paused,
        suspended=spec.suspend,
    )


def _ceiling(scaling: Scaling) -> int:
    return 0 if scaling.suspended else scaling.max_replicas


def _target(key: Key, spec: Spec) -> Key:
    return Key(key.namespace, spec.scale_target_ref.name)


def _refusal(item: WorkQueue, queues: Mapping[str, Key], targets: Mapping[Key, Key]) -> Problem | None:
    """Why a WorkQueue is not served, given what older ones claim."""
    if item.spec is None:
        return Problem("InvalidSpec", item.problem)
    owner = queues.get(item.queue)
    if owner is not None:
        text = f"queue {item.queue} belongs to the older WorkQueue {owner}: name another in spec.queue.name"
        return Problem("QueueTaken", text)
    target = _target(item.key, item.spec)
    owner = targets.get(target)
    if owner is not None:
        text = (
            f"Deployment {target.name} belongs to the older WorkQueue {owner}: name another in spec.scaleTargetRef.name"
        )
        return Problem("ScaleTargetTaken", text)
    return None


def _another_scales(autoscaler: str, target: Key) -> str:
    return (
        f"HorizontalPodAutoscaler {autoscaler} scales Deployment {target.name} as well: delete it, or the WorkQueue; "
        "until then Warren leaves the replicas alone"
    )


def _refused(error: KubeError, target: Key) -> str:
    if error.code == 403:
        return f"permission missing: allow the operator's service account deployments/scale and pods patch ({error})"
    return f"replicas of Deployment {target.name} could not be changed: {error}"


def _is_active(view: View, decision: Decision) -> bool:
    seen = view.seen
    if seen.backlog is None:
        return False
    return bool(
        seen.backlog.ready or seen.backlog.unacked or decision.changes or len(seen.workers) != decision.replicas
    ) or (bool(seen.workers) and decision.asked is not None and decision.asked < seen.replicas)


def _mark(item: WorkQueue, told: Explained) -> tuple[object, ...]:
    """What is compared to see whether there is anything new; ages and means alone are nothing new."""
    view, decision = told.view, told.decision
    return (
        item.generation,
        told.problem,
        told.override,
        None
        if view is None
        else (view.seen.backlog, len(view.seen.workers), view.busy, view.idle, view.delayed, view.dead, view.failing),
        None if decision is None else (decision.replicas, decision.asked, decision.limit),
    )
