"""A local copy of one kind of object: list once, then watch; whatever is lost in between is found by listing again.

Only a compact value of each object is kept. After each new listing the copy equals the listing: what vanished while
nobody watched vanishes here too, and its change is reported like any other. While the API server cannot be reached the
copy stays as it was.
"""

import asyncio
import logging
import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from warren_contract.backoff import Backoff
from warren_operator.kube import Api, KubeError
from warren_operator.resource import Key

log = logging.getLogger(__name__)

T = TypeVar("T")

PAGE = 500
"""Objects in one page of a listing, so that no answer is so large that reading it stalls the loop."""

WATCH_SECONDS = 240
"""The server ends a watch after this long (and up to half as much again), and it is taken up where it ended."""


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


class Mirror(Generic[T]):
    """The copy of one kind in one namespace, or in all.

    Attributes:
        kind: of the objects.
        namespace: None for all.
        synced: whether it has been listed at least once.
        problem: why the copy may be out of date; empty while it is not.
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
        self._api = api
        self._compact = compact
        self._changed = changed
        self._items: dict[Key, T] = {}

    def get(self, key: Key) -> T | None:
        """The object's value, None where there is none."""
        return self._items.get(key)

    def __iter__(self) -> Iterator[T]:
        return iter(self._items.values())

    def __len__(self) -> int:
        return len(self._items)

    async def run(self) -> None:
        """Keep the copy up to date until cancelled."""
        backoff = Backoff(first=0.5, longest=10.0)
        delays = backoff.delays()
        while True:
            try:
                version = await self._list()
                delays = backoff.delays()
                if self.problem:
                    log.info("watching %s again", self.kind.plural)
                self.synced, self.problem = True, ""
                await self._follow(version)
            except KubeError as error:
                self._report(error)
            await asyncio.sleep(next(delays))

    def _report(self, error: KubeError) -> None:
        if error.code == 410:  # the watch fell too far behind; listing again is the remedy, and nothing is wrong
            log.info("watch of %s is too old: listing again", self.kind.plural)
            return
        problem = f"cannot watch {self.kind.plural}: {_advice(error, self.kind)}"
        if not self.problem:  # once; what comes after it until it is over is the same story
            log.warning("%s", problem)
        self.problem = problem

    async def _list(self) -> str:
        path = self.kind.path(self.namespace)
        params = {"limit": str(PAGE)}
        listed: dict[Key, T] = {}
        while True:
            page = await self._api.request("GET", path, params=params)
            for body in page.get("items") or ():
                value = self._compact(body)
                if value is not None:
                    listed[_key(body)] = value
            if not page["metadata"].get("continue"):
                break
            params["continue"] = page["metadata"]["continue"]
        for key in [key for key in self._items if key not in listed]:
            self._set(key, None)
        for key, value in listed.items():
            self._set(key, value)
        return str(page["metadata"]["resourceVersion"])

    async def _follow(self, version: str) -> None:
        """Watch from a version on, and on from where each watch ends; raises where that is not possible any more."""
        path = self.kind.path(self.namespace)
        while True:
            seconds = int(WATCH_SECONDS * (1 + random.random() / 2))  # noqa: S311  spreads load, no secret
            params = {
                "watch": "1",
                "allowWatchBookmarks": "true",
                "timeoutSeconds": str(seconds),
                "resourceVersion": version,
            }
            async for event in self._api.stream(path, params):
                body = event["object"]
                if event["type"] == "ERROR":
                    raise KubeError(body.get("code", 0), body.get("reason", ""), body.get("message", "watch failed"))
                version = body["metadata"]["resourceVersion"]
                if event["type"] != "BOOKMARK":
                    self._set(_key(body), None if event["type"] == "DELETED" else self._compact(body))
            self.problem = ""

    def _set(self, key: Key, value: T | None) -> None:
        before = self._items.get(key)
        if before == value:
            return
        if value is None:
            del self._items[key]
        else:
            self._items[key] = value
        self._changed(key, before, value)


def _key(body: Mapping[str, Any]) -> Key:
    metadata = body["metadata"]
    return Key(metadata.get("namespace", ""), metadata["name"])


def _advice(error: KubeError, kind: Kind) -> str:
    if error.code == 403:
        return f"permission missing: allow the operator's service account list and watch on {kind.plural} ({error})"
    if error.gone:
        return f"the API server does not know {kind.plural}.{kind.api}: install the CustomResourceDefinition ({error})"
    return str(error)
