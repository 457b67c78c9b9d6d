"""A local copy of one kind of object: list once, then watch; whatever is lost in between is found by listing again.

Only a compact value of each object is kept. After each new listing the copy equals the listing: what vanished while
nobody watched vanishes here too, and its change is reported like any other. While the API server cannot be reached the
copy stays as it was.
"""

import asyncio
import logging
import math
import random
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from warren_contract.backoff import Backoff
from warren_operator.copies import Copy
from warren_operator.kube import JSON, Api, KubeError
from warren_operator.resource import Key

log = logging.getLogger(__name__)

T = TypeVar("T")

PAGE = 500
"""Objects in one page of a listing, so that no answer is so large that reading it stalls the loop."""

WATCH_SECONDS = 45
"""The server ends a watch after this long (and up to a third as much again), and it is taken up where it ended.

A watch of a quiet kind may bring nothing in all that time, not even a bookmark: its regular end is the sign of life.
"""

SILENCE_MARGIN = 20.0
"""Seconds without a byte, beyond the time after which the server ends a watch, until the connection counts as dead."""

SHORTEST_WATCH = 1.0
"""Seconds that a watch takes at least, so that a server that ends each one at once is not asked without a pause."""


BACKOFF = Backoff(first=0.5, longest=10.0)
"""Pauses after a listing or watch that failed."""


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of object in one API group.

    Attributes:
        api: `api/v1` or `apis/GROUP/VERSION`.
        plural: as in the path, which is also the name in RBAC rules.
    """

    api: str
    plural: str

    def path(self, namespace: str | None, name: str = "", subresource: str = "") -> str:
        """Path of an object, or of the list of all where there is no name; None stands for all namespaces."""
        parts = [self.api]
        if namespace is not None:
            parts += ["namespaces", namespace]
        parts += [part for part in (self.plural, name, subresource) if part]
        return "/" + "/".join(parts)


async def pages(
    api: Api, kind: Kind, namespace: str | None, media: str = JSON
) -> AsyncIterator[tuple[list[Mapping[str, Any]], str]]:
    """All objects of a kind, as they were at one moment after the call; each page with the version of that moment.

    Raises:
        KubeError: refused, or not reachable.
    """
    params = {"limit": str(PAGE)}
    while True:
        page = await api.request("GET", kind.path(namespace), params=params, media=media)
        yield page.get("items") or [], str(page["metadata"]["resourceVersion"])
        if not page["metadata"].get("continue"):
            return
        params["continue"] = page["metadata"]["continue"]


def key_of(body: Mapping[str, Any]) -> Key:
    """Namespace and name of an object."""
    metadata = body["metadata"]
    return Key(metadata.get("namespace", ""), metadata["name"])


def advice(error: KubeError, kind: Kind) -> str:
    """What an error of a listing or watch means, and what to do about it."""
    if error.forbidden:
        return f"permission missing: allow the operator's service account list and watch on {kind.plural} ({error})"
    if error.gone:
        group = kind.api.removeprefix("apis/")
        return f"the API server does not know {kind.plural} of {group}: install the CustomResourceDefinition ({error})"
    if not error.code:
        return f"{error}; see that the API server runs and that the network lets the operator's pod reach it"
    if error.code == 401:
        return f"{error}; see that the operator's service account is there, and that its pod has a valid token of it"
    return f"{error}; see what keeps the API server from answering"


class Mirror(Generic[T]):
    """The copy of one kind in one namespace, or in all.

    Attributes:
        kind: of the objects.
        namespace: None for all.
        synced: whether it has been listed at least once.
        problem: why the copy may be out of date; empty while it is not.
        unheard_since: where a watch has been silent for too long, its last word, in seconds of the loop's clock: what
            has happened since then is not known. Else infinite.
    """

    def __init__(
        self,
        api: Api,
        kind: Kind,
        namespace: str | None,
        compact: Callable[[Mapping[str, Any]], T | None],
        changed: Callable[[Key, T | None, T | None], None],
    ) -> None:
        """Args:
        api: session.
        kind: of the objects.
        namespace: None for all.
        compact: the value kept of an object; None where it is of no interest.
        changed: called with the key, the value before and the value after (None: not there) at each change.
        """
        self.kind = kind
        self.namespace = namespace
        self.synced = False
        self.problem = ""
        self.unheard_since = math.inf
        self._api = api
        self._compact = compact
        self._copy: Copy[T] = Copy(changed)
        self._delays = BACKOFF.delays()

    def get(self, key: Key) -> T | None:
        """The object's value, None where there is none."""
        return self._copy.get(key)

    def __iter__(self) -> Iterator[T]:
        return iter(self._copy)

    def __len__(self) -> int:
        return len(self._copy)

    async def run(self) -> None:
        """Keep the copy up to date until cancelled."""
        while True:
            try:
                version = await self._list()
                self.synced = True
                await self._follow(version)
            except KubeError as error:
                self._report(error)
            await asyncio.sleep(next(self._delays))

    def _well(self) -> None:
        """The server has accepted a watch."""
        self._delays = BACKOFF.delays()
        if self.problem:
            log.info("watching %s again", self.kind.plural)
        self.problem, self.unheard_since = "", math.inf

    def _report(self, error: KubeError) -> None:
        if error.code == 410:  # the watch fell too far behind; listing again is the remedy, and nothing is wrong
            log.info("watch of %s is too old: listing again", self.kind.plural)
            return
        problem = f"cannot watch {self.kind.plural}: {advice(error, self.kind)}"
        if not self.problem:  # once; what comes after it until it is over is the same story
            log.warning("%s", problem)
        self.problem = problem

    async def _list(self) -> str:
        listed: dict[Key, T] = {}
        version = ""
        async for page, of_all in pages(self._api, self.kind, self.namespace):
            version = of_all
            for body in page:
                value = self._compact(body)
                if value is not None:
                    listed[key_of(body)] = value
        for key in self._copy.known():
            if key not in listed:
                self._copy.set(key, None)
        for key, value in listed.items():
            self._copy.set(key, value)
        return version

    async def _follow(self, version: str) -> None:
        """Watch from a version on, and on from where each watch ends; raises where that is not possible any more."""
        path = self.kind.path(self.namespace)
        clock = asyncio.get_running_loop().time
        while True:
            seconds = int(WATCH_SECONDS * (1 + random.random() / 3))  # noqa: S311  spreads load, no secret
            params = {
                "watch": "1",
                "allowWatchBookmarks": "true",
                "timeoutSeconds": str(seconds),
                "resourceVersion": version,
            }
            begun = heard = clock()
            silence = seconds + SILENCE_MARGIN
            try:
                async with self._api.watch(path, params, silence) as events:
                    self._well()
                    async for event in events:
                        heard, body = clock(), event["object"]
                        if event["type"] == "ERROR":
                            failed = body.get("message", "it failed")
                            raise KubeError(body.get("code", 0), body.get("reason", ""), failed)
                        version = body["metadata"]["resourceVersion"]
                        if event["type"] != "BOOKMARK":
                            self._copy.set(key_of(body), None if event["type"] == "DELETED" else self._compact(body))
            except KubeError:
                if clock() - heard >= silence:
                    self.unheard_since = heard
                raise
            await asyncio.sleep(max(0.0, begun + SHORTEST_WATCH - clock()))
