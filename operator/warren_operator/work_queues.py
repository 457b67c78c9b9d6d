"""The WorkQueues that exist: what kopf's watch reports, checked against listings of our own.

kopf lists and watches, and says what comes, changes and goes. Two things it does not say: that it has listed everything
once, and, where it had to list again after a gap, what had vanished meanwhile. A listing of names and uids tells both.
It also shows whether kopf still watches at all: what is listed and does not come by the watch is missing there.
"""

import asyncio
import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from warren_operator.copies import Copy
from warren_operator.kube import METADATA, Api, KubeError
from warren_operator.mirror import BACKOFF, Kind, advice, key_of, pages
from warren_operator.resource import GROUP, PLURAL, VERSION, Key, WorkQueue, read_work_queue

log = logging.getLogger(__name__)

WORK_QUEUES = Kind(f"apis/{GROUP}/{VERSION}", PLURAL)

CHECK_EVERY = 60.0
"""Seconds between two comparisons: at most so long a WorkQueue that vanished unseen is served on."""

AWAITED_EVERY = 2.0
"""Seconds between two comparisons while something that is listed has not come by the watch."""

AWAITED_LIMIT = 45.0
"""Seconds until a watch that does not bring what is listed counts as ended. After an outage kopf pauses for up to 8."""


OTHERS_EVERY = 30.0
"""Seconds between two looks at which of several namespaces may be watched. What two of them say is so."""


class NotWatched(Exception):
    """kopf's watch no longer brings what exists. Only a new start mends that."""


@dataclass(frozen=True, slots=True)
class Listed:
    """A WorkQueue as listed.

    Attributes:
        uid: of the object; another one of the same name has another.
        generation: counts changes of the spec.
    """

    uid: str
    generation: int

    def is_in(self, item: WorkQueue | None) -> bool:
        """Whether what the watch has brought is as new as this."""
        return item is not None and item.uid == self.uid and item.generation >= self.generation


class WorkQueues:
    """All WorkQueues of the namespaces served.

    Attributes:
        synced: whether everything that was listed first has come by the watch.
        problem: why what is known may be out of date; empty while it is not.
        answered: set once the API server has said what there is, or that this may not be asked.
    """

    def __init__(
        self,
        api: Api,
        scopes: tuple[str | None, ...],
        changed: Callable[[Key, WorkQueue | None, WorkQueue | None], None],
    ) -> None:
        """Args:
        api: session.
        scopes: the namespaces; None for all.
        changed: called with the key, the value before and the value after (None: not there) at each change.
        """
        self.synced = False
        self.problem = ""
        self.answered = asyncio.Event()
        self._api = api
        self._scopes = scopes
        self._copy: Copy[WorkQueue] = Copy(changed)
        self._awaited: dict[Key, tuple[Listed, float]] = {}
        self._check = asyncio.Event()

    def __iter__(self) -> Iterator[WorkQueue]:
        return iter(self._copy)

    def get(self, key: Key) -> WorkQueue | None:
        """One WorkQueue; None where there is none."""
        return self._copy.get(key)

    # -- what the watch brings -----------------------------------------------------------------------------------------

    def take(self, kind: str | None, body: Mapping[str, Any]) -> None:
        """Take in an event of kopf's watch; a kind of None stands for an item of its listing.

        Events of one object come in their order. Those of an object and of its successor of the same name may not.
        """
        key, uid = key_of(body), body["metadata"]["uid"]
        known = self._copy.get(key)
        same = known is not None and known.uid == uid
        if kind == "DELETED":
            if same:
                self._copy.set(key, None)
            return
        if kind is None and same:
            self._check.set()  # listed again: something may have vanished meanwhile
        if kind is not None and known is not None and same and _generation(body) == known.generation:
            item = replace(known, status=body.get("status") or {})  # most events only bring back what we wrote
        else:
            item = read_work_queue(body)
        if known is None or same or item.created >= known.created:
            self._copy.set(key, item)
            if key in self._awaited and self._awaited[key][0].is_in(item):
                del self._awaited[key]
                self._settle()

    def _settle(self) -> None:
        self.synced = self.synced or not self._awaited

    # -- what listings of our own say ----------------------------------------------------------------------------------

    async def run(self) -> None:
        """Compare again and again until cancelled.

        Raises:
            NotWatched: what is listed does not come by the watch.
        """
        delays = BACKOFF.delays()
        while True:
            try:
                await self.compare()
            except KubeError as error:
                self._report(error)
                await asyncio.sleep(next(delays))
                continue
            delays = BACKOFF.delays()
            await self._rest()

    async def compare(self) -> None:
        """List, let go what is gone, and await what has not come yet.

        Raises:
            KubeError: refused, or not reachable.
            NotWatched: what is listed has not come for `AWAITED_LIMIT` seconds.
        """
        self._check.clear()
        if not self.answered.is_set():
            await self._discover()
        before = {item.uid for item in self}
        listed = {key: item for scope in self._scopes for key, item in (await self._list(scope)).items()}
        if self.problem:
            log.info("listing %s again", PLURAL)
        self.problem = ""
        uids = {item.uid for item in listed.values()}
        for known in list(self):
            # It was known before the listing began and is not in it; those that came since may be newer than it.
            if known.uid in before and known.uid not in uids:
                log.info("WorkQueue %s has vanished unseen", known.key)
                self._copy.set(known.key, None)
        now = asyncio.get_running_loop().time()
        awaited: dict[Key, tuple[Listed, float]] = {}
        for key, item in listed.items():
            if not item.is_in(self._copy.get(key)):
                before_that, since = self._awaited.get(key, (item, now))
                awaited[key] = (item, since if before_that == item else now)
        self._awaited = awaited
        self.answered.set()
        self._settle()
        for key, (_, since) in awaited.items():
            if now - since > AWAITED_LIMIT:
                raise NotWatched(f"WorkQueue {key} is listed, but does not come by the watch")

    async def _discover(self) -> None:
        """Make sure that the API server tells of the resource: kopf looks once, when it starts, and not again.

        Raises:
            KubeError: it does not know it, or does not tell yet.
        """
        groups = await self._api.request("GET", "/apis")
        version = f"{GROUP}/{VERSION}"
        told = [version["groupVersion"] for group in groups["groups"] for version in group["versions"]]
        resources = await self._api.request("GET", f"/apis/{version}")
        if version not in told or PLURAL not in [resource["name"] for resource in resources["resources"]]:
            raise KubeError(404, "NotFound", f"{PLURAL} are not among the API server's resources")

    async def _list(self, scope: str | None) -> dict[Key, Listed]:
        return {
            key_of(body): Listed(body["metadata"]["uid"], _generation(body))
            async for page, _ in pages(self._api, WORK_QUEUES, scope, METADATA)
            for body in page
        }

    def _report(self, error: KubeError) -> None:
        if error.forbidden:
            self.answered.set()  # kopf will be told the same, and ends if that does not change
        problem = f"cannot watch {PLURAL}: {advice(error, WORK_QUEUES)}"
        if not self.problem:  # once; what comes after it until it is over is the same story
            log.warning("%s", problem)
        self.problem = problem

    async def _rest(self) -> None:
        """Wait until there is reason to compare again.

        What was listed a moment before the watch brought it is no such reason: while hundreds are made, a listing each
        two seconds would take a third of the operator's time.
        """
        clock = asyncio.get_running_loop().time
        until = clock() + CHECK_EVERY
        while clock() < until:
            try:
                async with asyncio.timeout(AWAITED_EVERY if self._awaited else until - clock()):
                    await self._check.wait()
            except TimeoutError:
                if self._awaited:
                    return
            else:
                await asyncio.sleep(AWAITED_EVERY)  # the rest of what is listed again has come by then
                return


async def watchable(api: Api, namespaces: tuple[str, ...]) -> tuple[str, ...]:
    """Those of the namespaces whose WorkQueues may be listed; all where none may, or there is but one.

    A namespace that is deleted takes the operator's rights in it along. There is nothing left to serve in it, and it
    must not keep the others from being served: what is not known of one stops the scaling in all.

    Raises:
        KubeError: it is not known of one.
    """
    if len(namespaces) < 2:
        return namespaces
    allowed = await asyncio.gather(*(_allowed(api, namespace) for namespace in namespaces))
    return tuple(name for name, well in zip(namespaces, allowed, strict=True) if well) or namespaces


async def until_others(api: Api, wanted: tuple[str, ...], served: tuple[str, ...]) -> None:
    """Wait until other ones of the namespaces that are wanted may be watched than those that are served.

    Raises:
        NotWatched: it is so, and not only for a moment: a new start serves them.
    """
    before = served
    while True:
        await asyncio.sleep(OTHERS_EVERY)
        try:
            now = await watchable(api, wanted)
        except KubeError:
            continue
        if now == before != served:
            raise NotWatched(f"the namespaces that may be watched are now {', '.join(now)}: starting anew with these")
        before = now


async def _allowed(api: Api, namespace: str) -> bool:
    """Whether WorkQueues may be listed."""
    try:
        await api.request("GET", WORK_QUEUES.path(namespace), params={"limit": "1"}, media=METADATA)
    except KubeError as error:
        if error.forbidden:
            return False
        raise
    return True


def _generation(body: Mapping[str, Any]) -> int:
    return int(body["metadata"].get("generation", 0))
