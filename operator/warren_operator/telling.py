"""Telling what is seen and decided: to the status and to Events in Kubernetes, and to the producers by event messages.

Nothing waits for any of it. A write that fails is made good by a later one.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from warren_operator.background import Background
from warren_operator.broker import EventPublisher
from warren_operator.conditions import transitions
from warren_operator.entry import NEVER, Entry
from warren_operator.explanation import Explained
from warren_operator.kube import MERGE_PATCH, Changes, KubeError
from warren_operator.mirror import Kind
from warren_operator.notes import Note, event_body
from warren_operator.pace import TELLS_SHARE, Pace
from warren_operator.resource import Key, Mode, Status, WorkQueue
from warren_operator.status import UNKNOWN, queue_state, status, status_patch, still_holds, substance
from warren_operator.work_queues import WORK_QUEUES

log = logging.getLogger(__name__)

STATUS_EVERY = 10.0
"""Seconds between two status writes that only bring the counts up to date."""

UNHURRIED = 20.0
"""Status writes a second, of all WorkQueues together, that can wait: those that only bring counts up to date, or say
that a queue has been compared. Each takes the API server 8 ms of a processor; thousands at once took one from the
broker."""

TELL_EVERY = 1.0
"""Seconds between two event messages about a changing queue; more where hundreds change all the time."""

TELL_QUIET_EVERY = 20.0
"""Seconds between two event messages about a queue that does not change, at most: a producer waits for 30 until it
says that the operator is silent. They are a third of what a queue costs in which nothing happens."""

TELL_CROWDED_EVERY = 10.0
"""Seconds between two event messages about a changing queue at most, however many there are."""

COMPLAIN_EVERY = 60.0
"""Seconds between two log lines about statuses that were refused."""

RETRY_EVERY = 1.0
"""Seconds until the next try of a status write that the API server refused."""

RETRY_LATER = 10.0
"""The same where it did not answer, or has too much to do: at most, since all come back at different times. By then
the cluster can be read again as well, and there may be nothing to write any more."""

WRITES = 16
"""Status writes and Events in flight; scaling does not wait for them."""

EVENTS = Kind("api/v1", "events")


class Teller:
    """Writes statuses and Events, and publishes event messages."""

    def __init__(
        self,
        api: Changes,
        name: str,
        publisher: EventPublisher,
        background: Background,
        known: Callable[[Key], WorkQueue | None],
    ) -> None:
        """Args:
        api: session with the API server.
        name: of this operator, in Events.
        publisher: of event messages.
        background: what runs beside the loop.
        known: a WorkQueue as the watch last brought it.
        """
        self._api = api
        self._name = name
        self._publisher = publisher
        self._background = background
        self._known = known
        self._writes = asyncio.Semaphore(WRITES)
        self._complained_at = self._next_turn = NEVER
        self._pace = Pace(time.monotonic(), TELLS_SHARE)

    def explain(self, entry: Entry, told: Explained) -> None:
        """Keep the explanation, tell it, and write the status if there is reason to."""
        now = asyncio.get_running_loop().time()
        spec = entry.item.spec
        told = replace(told, recommended=spec is not None and spec.mode is Mode.RECOMMEND, decisions=entry.decisions)
        entry.told, entry.mark = told, _mark(entry.item, told)
        self.tell(entry, now)
        due = now - entry.written_at >= STATUS_EVERY
        if entry.acting:
            return  # in a moment there is more to tell: whether it was carried out
        if entry.writing or now < entry.write_after:
            return
        if entry.mark == entry.judged and (now < entry.turn if entry.turn else not due):
            return
        entry.judged = entry.mark
        latest = substance(entry.item, told)
        presses = entry.written is None or latest.pressing != entry.substance.pressing
        if not presses and (now < entry.turn if entry.turn else latest == entry.substance and not due):
            return  # only counts have changed: they wait for the next regular write
        item = replace(entry.item, status=entry.raw)
        new = status(item, told, datetime.now(UTC))
        restored = entry.substance == UNKNOWN and entry.written is not None
        if restored and not due and entry.written is not None and still_holds(entry.written, new):
            entry.substance = latest
            return
        writes = new != entry.written or (due and self._overwritten(entry))
        if writes and not presses and not self._its_turn(entry, now):
            return
        entry.substance, entry.written_at, entry.turn = latest, now, 0.0
        if writes:
            entry.writing = True
            self._background.start(self._write(entry, told, item, new))

    def repeat(self, entry: Entry, now: float) -> None:
        """What was told stands: publish it again in its time, and write what could not be written, or could wait until
        its turn, which has come."""
        self.tell(entry, now)
        if entry.told is not None and (not entry.judged or (entry.turn and now >= entry.turn)):
            self.explain(entry, entry.told)

    def _its_turn(self, entry: Entry, now: float) -> bool:
        """Whether a write that can wait is to be done now; else it has got its time, after all those before it."""
        if not entry.turn:
            entry.turn = self._next_turn = max(now, self._next_turn + 1 / UNHURRIED)
        return now >= entry.turn

    def _overwritten(self, entry: Entry) -> bool:
        """Whether the conditions are not what was last written here: somebody has edited them, or a call of an operator
        that acted before us came late."""
        item = self._known(entry.item.key)
        return item is not None and item.uid == entry.item.uid and _words(item.status) != _words(entry.raw)

    def tell(self, entry: Entry, now: float) -> None:
        """Publish the state, unless that was done just now."""
        if entry.told is None:
            return
        changed = entry.mark != entry.told_mark
        every = min(TELL_EVERY * self._pace.stretch, TELL_CROWDED_EVERY) if changed else TELL_QUIET_EVERY * entry.early
        if now - entry.told_at < every:
            return
        used = time.thread_time() if changed else 0.0
        state = queue_state(entry.item, entry.told, time.time())
        if state is not None:
            self._publisher.tell(state)
            entry.told_at, entry.told_mark = now, entry.mark
        if changed:
            self._pace.spend(time.thread_time() - used, time.monotonic())

    def post(self, item: WorkQueue, notes: Iterable[Note]) -> None:
        """Write Events."""
        self._background.start(self._post(item, notes))

    async def _write(self, entry: Entry, told: Explained, item: WorkQueue, new: Status) -> None:
        """Write the status, and an Event for each condition that changed."""
        try:
            async with self._writes:
                if entry.told is not None and entry.told is not told:  # it had to wait, and says how things are now
                    item = replace(entry.item, status=entry.raw)
                    new = status(item, entry.told, datetime.now(UTC))
                    entry.substance = substance(item, entry.told)
                    if new == entry.written:
                        return
                notes = transitions(item.status.get("conditions") or (), new.conditions)
                patch = status_patch(new)
                path = WORK_QUEUES.path(item.key.namespace, item.key.name, "status")
                await self._api.request("PATCH", path, body=patch, media=MERGE_PATCH)
        except KubeError as error:
            # What is there now is not known: write it in full at the next look.
            entry.written, entry.judged = None, ()
            busy = not error.code or error.code == 429 or error.code >= 500
            pause = RETRY_LATER * entry.early if busy else RETRY_EVERY
            entry.write_after = asyncio.get_running_loop().time() + pause
            if error.code and not error.gone:  # that the API server is not reached, the mirrors have told
                self._complain(item, error)
        else:
            entry.written, entry.raw = new, patch["status"]
            await self._post(item, notes)
        finally:
            entry.writing = False

    def _complain(self, item: WorkQueue, error: KubeError) -> None:
        """Log that a status was refused; what refuses one mostly refuses all, again and again."""
        now = asyncio.get_running_loop().time()
        if now - self._complained_at < COMPLAIN_EVERY:
            return
        self._complained_at = now
        advice = "; allow the operator's service account workqueues/status patch" if error.forbidden else ""
        log.warning("%s: status not written: %s%s", item.key, error, advice)

    async def _post(self, item: WorkQueue, notes: Iterable[Note]) -> None:
        path = EVENTS.path(item.key.namespace)
        for note in notes:
            try:
                async with self._writes:
                    body = event_body(item, note, self._name, datetime.now(UTC))
                    await self._api.request("POST", path, body=body)
            except KubeError as error:
                log.warning("%s: Event %s not written: %s", item.key, note.reason, error)


def _words(raw: Mapping[str, Any]) -> list[tuple[Any, ...]]:
    """The conditions of a status, but for their times."""
    return [
        tuple(item.get(name) for name in ("type", "status", "reason", "message"))
        for item in raw.get("conditions") or ()
    ]


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
        None if decision is None else (decision.replicas, decision.asked, decision.rule, decision.limit),
        told.decisions[:1],
    )
