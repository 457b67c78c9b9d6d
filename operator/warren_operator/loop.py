"""The one loop over all WorkQueues: observe → decide → act → explain.

There is no task per resource and no state that a restart would miss: what must last is in the cluster and the broker.
Looks follow one another in the order of the agenda, their queues read a batch at a time; calls to the API server run
beside.
"""

import asyncio
import logging
import random
import time

from warren_contract.events import Event, Resync, TasksSubmitted, WorkerState
from warren_operator.acting import Actor
from warren_operator.agenda import Agenda
from warren_operator.background import Background
from warren_operator.broker import Broker, EventPublisher
from warren_operator.claims import settle, target_of
from warren_operator.entry import NEVER, Entry
from warren_operator.explanation import Explained, Problem
from warren_operator.history import recalled
from warren_operator.kube import Api, Changes
from warren_operator.lease import Lease
from warren_operator.looking import Looker, Sources
from warren_operator.notes import Note
from warren_operator.pace import Pace
from warren_operator.policy import IDLE_FOR
from warren_operator.reasons import Reason
from warren_operator.resource import Key, WorkQueue
from warren_operator.rhythm import ACTING_EVERY, IDLE_EVERY, JUST_AFTER
from warren_operator.scaling import Wants
from warren_operator.settings import Settings
from warren_operator.status import found_before, read_status
from warren_operator.telling import STATUS_EVERY, Teller
from warren_operator.topology import Topology
from warren_operator.worker_reports import WorkerReports
from warren_operator.workloads import Workloads

log = logging.getLogger(__name__)

TAKE_IN_REST = 10.0
"""Times the processor time that it took to take WorkQueues in are rested after it: a thousand that come one by one are
few flocks."""

BATCH = 100
"""WorkQueues that are read in one go. A hint waits for that long: four milliseconds."""


class Loop:
    """Serves all WorkQueues.

    Attributes:
        workloads: what is known of the cluster.
        entries: by key, for the metrics.
        actor: changes replicas.
        looker: looks.
        pace: of the looks.
        lease: without it, nothing is looked at.
        tick_at: when the loop last turned, by `time.monotonic`.
    """

    def __init__(
        self, api: Api, settings: Settings, broker: Broker, topology: Topology, publisher: EventPublisher
    ) -> None:
        """Args:
        api: session with the API server.
        settings: of the operator.
        broker: counts tasks.
        topology: keeps the queues.
        publisher: of event messages.
        """
        self.workloads = Workloads(api, settings.namespaces, self._work_queue_changed)
        self.entries: dict[Key, Entry] = {}
        self.tick_at = time.monotonic()
        self.pace = Pace(self.tick_at, settings.look_cores)
        self._defaults = settings.defaults
        self._topology = topology
        self._agenda: Agenda[Key] = Agenda()
        self._reports = WorkerReports()
        self._background = Background()
        self.lease = Lease(api, settings.lease, settings.name, self._leadership_changed)
        changes = Changes(api, lambda: self.lease.acts)
        self._teller = Teller(changes, settings.name, publisher, self._background, self.workloads.work_queue)
        self.actor = Actor(changes, self.workloads, self._reports, self._teller, self._background)
        self._wants = Wants(settings.budgets, self._agenda.hint)
        sources = Sources(broker, topology, self.workloads, self._reports, self._wants)
        self.looker = Looker(sources, self.actor, self._teller)
        self._owners: dict[str, Key] = {}
        self._changed = True
        self._take_in_after = NEVER
        self._unsynced_told_at = NEVER
        self._wake = asyncio.Event()

    # -- what others call ----------------------------------------------------------------------------------------------

    def heard(self, event: Event) -> None:
        """Take in an event of a worker or a producer."""
        match event:
            case WorkerState():
                now = asyncio.get_running_loop().time()
                self._reports.add(event, now)
                self._may_go(event, now)
            case TasksSubmitted():
                entry = self._entry_of(event.queue)
                if entry is not None and entry.hinted_at is None:
                    entry.hinted_at = asyncio.get_running_loop().time()
                self.hint([event.queue])
            case Resync():
                for entry in self.entries.values():
                    entry.told_at = NEVER  # each is told at its next look, within a second: all at once take too long
            case _:
                pass

    def _may_go(self, state: WorkerState, now: float) -> None:
        """A worker that has just become idle, and whose queue was empty when last read, is looked at when it counts."""
        report = self._reports.of(state.queue).get(state.worker)
        entry = self._entry_of(state.queue)
        if report is not None and report.idle_since == now and entry is not None and entry.memory.zeros:
            self._agenda.hasten(entry.item.key, now + IDLE_FOR + JUST_AFTER)
            self._wake.set()

    def _entry_of(self, queue: str) -> Entry | None:
        """The WorkQueue that has this queue; None where there is none, or it has not been taken in yet."""
        key = self._owners.get(queue)
        return None if key is None else self.entries.get(key)

    def hint(self, queues: list[str] | None = None) -> None:
        """Read these queues at once, or all."""
        keys = self.entries if queues is None else [self._owners[queue] for queue in queues if queue in self._owners]
        for key in keys:
            self._agenda.hint(key)
        self._wake.set()

    def _work_queue_changed(self, _key: Key) -> None:
        self._changed = True
        self._wake.set()

    def _start_afresh(self) -> None:
        """Take in all WorkQueues anew: what is known of them is from another time."""
        for key in list(self.entries):
            del self.entries[key]
            self._agenda.drop(key)
            self._wants.forget(key)
        self._changed = True

    def _leadership_changed(self) -> None:
        """Another operator acts from now on, or this one does."""
        self._start_afresh()
        if not self.lease.ours:
            self._topology.retire()
        self._wake.set()

    # -- the loop ------------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Serve until cancelled."""
        loop = asyncio.get_running_loop()
        try:
            while True:
                self.tick_at = time.monotonic()
                if not self.lease.ours:
                    await asyncio.sleep(ACTING_EVERY)
                    continue
                if not self.workloads.synced:
                    self._wait_for_sync(loop.time())
                    await asyncio.sleep(ACTING_EVERY)
                    continue
                if self._unsynced_told_at > NEVER:
                    self._unsynced_told_at = NEVER
                    self._start_afresh()  # nobody knew then what they use of their budgets
                if self._changed and loop.time() >= self._take_in_after:
                    used = time.thread_time()
                    self._take_in(loop.time())
                    self._take_in_after = loop.time() + TAKE_IN_REST * (time.thread_time() - used)
                self._wake.clear()
                hinted = self._agenda.hinted
                due = self._due(loop.time())
                if due:
                    await self._turn(due, hinted=hinted)
                else:
                    await self._rest(loop.time())
        finally:
            self._background.cancel()

    def _wait_for_sync(self, now: float) -> None:
        """Where something cannot be listed, say so on the WorkQueues that can be."""
        problem = self.workloads.lasting_problem()
        if not problem or now < self._unsynced_told_at + IDLE_EVERY:
            return
        self._unsynced_told_at = now
        self._take_in(now)
        for entry in self.entries.values():
            told = Explained(Problem(Reason.CLUSTER_UNREADABLE, f"{problem}; nothing is scaled until then"))
            self._teller.explain(entry, told)

    async def _rest(self, now: float) -> None:
        ats = (self._agenda.next_at(), self._take_in_after if self._changed else None)
        pause = max(0.0, min([IDLE_EVERY, *(at - now for at in ats if at is not None)]))
        try:
            async with asyncio.timeout(pause):
                await self._wake.wait()
        except TimeoutError:
            pass

    def _due(self, now: float) -> list[Entry]:
        """What is to be looked at now: all hinted at, or none; so many at most as are read in a few milliseconds."""
        due: list[Entry] = []
        hinted = self._agenda.hinted
        while len(due) < BATCH and self._agenda.hinted == hinted and (key := self._agenda.pop(now)) is not None:
            entry = self.entries.get(key)
            if entry is not None and not entry.serving:
                entry.serving = True
                due.append(entry)
        return due

    async def _turn(self, due: list[Entry], *, hinted: bool) -> None:
        aside = [entry for entry in due if entry.aside]
        if aside:
            self._background.start(self._serve(aside, aside=True, hinted=hinted))
        usual = [entry for entry in due if not entry.aside]
        if usual:
            await self._serve(usual, aside=False, hinted=hinted)

    async def _serve(self, entries: list[Entry], *, aside: bool, hinted: bool) -> None:
        """Read all, then look at one after the other."""
        clock = asyncio.get_running_loop().time
        try:
            readings = await self.looker.read(entries, aside=aside)
        finally:
            for entry in entries:
                entry.serving = False
        # Only what comes again and again can be had more cheaply by longer pauses: neither hints, nor first looks.
        regular = not hinted and all(entry.told is not None for entry in entries)
        begun, used = clock(), time.thread_time()
        for entry, reading in zip(entries, readings, strict=True):
            if self.entries.get(entry.item.key) is not entry:
                continue  # it went while it was read, or has been made anew
            pause = IDLE_EVERY
            try:
                pause = self.looker.look(entry, reading)
            except Exception:  # one queue's trouble is not the others'
                log.exception("serving %s failed", entry.item.key)
            if self.entries.get(entry.item.key) is entry:
                self._agenda.schedule(entry.item.key, begun + pause * self.pace.stretch)
        if regular:
            self.pace.spend(time.thread_time() - used, clock())
        self._wake.set()

    # -- taking in resources -------------------------------------------------------------------------------------------

    def _take_in(self, now: float) -> None:
        """Bring the entries in line with the WorkQueues that exist."""
        self._changed = False
        items = sorted(self.workloads.work_queues(), key=lambda item: item.age_order)
        claims = settle(items, self._defaults)
        present = {item.key for item in items}
        for key in [key for key in self.entries if key not in present]:
            self._let_go(key)
        for item in items:
            refusal = claims.refusals.get(item.key)
            known = self.entries.get(item.key)
            if known is None or known.item.uid != item.uid:
                self.entries[item.key] = _new_entry(item, refusal, now)
                if refusal is None:
                    self._expect(item)
                self._agenda.schedule(item.key, now)
            elif known.item.generation != item.generation or known.refusal != refusal:
                known.item, known.refusal = item, refusal
                self._agenda.schedule(item.key, now)
            if refusal is not None:
                self._wants.forget(item.key)  # what is not served uses nothing
        self._owners = dict(claims.owners)
        # A WorkQueue that is not known yet, or cannot be read, may own a policy that nobody else speaks for.
        all_known = self.workloads.queues.synced and all(item.spec is not None for item in items)
        self._topology.serve(claims.wanted, may_drop=all_known)

    def _expect(self, item: WorkQueue) -> None:
        """What a new one already uses of a budget must not be given to others before it has been looked at."""
        target = self.workloads.target(target_of(item.key, item.spec)) if item.spec and item.spec.budget else None
        if item.spec is not None and target is not None:
            self._wants.expect(item.key, item.spec, target.deployment.replicas, len(target.pods) + len(target.ending))

    def _let_go(self, key: Key) -> None:
        entry = self.entries.pop(key)
        self._agenda.drop(key)
        self._wants.forget(key)
        if entry.refusal is None:
            text = f"Queue {entry.item.queue} and its tasks stay in the broker; delete it there if nobody needs them."
            self._teller.post(entry.item, [Note("QueueKept", text)])
        log.info("WorkQueue %s is gone; its queue %s stays", key, entry.item.queue)


def _new_entry(item: WorkQueue, refusal: Problem | None, now: float) -> Entry:
    """A WorkQueue that has just come, or was there before we came: then only what is news is written."""
    written = read_status(item.status)
    return Entry(
        item,
        refusal,
        found=found_before(written),
        raw=item.status,
        written=written,
        written_at=NEVER if written is None else now + random.uniform(0, STATUS_EVERY),  # noqa: S311  spreads load
        decisions=recalled(item.status),
    )
