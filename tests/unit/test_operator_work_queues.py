"""The WorkQueues' copy: what the watch brings, and what a listing says about it."""

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from warren_operator import work_queues as module
from warren_operator.kube import KubeError
from warren_operator.resource import Key, WorkQueue
from warren_operator.work_queues import AWAITED_LIMIT, NotWatched, WorkQueues, until_others, watchable

if TYPE_CHECKING:
    from collections.abc import Callable

GROUPS = {"groups": [{"versions": [{"groupVersion": "warren.dev/v1alpha1"}]}]}
RESOURCES = {"resources": [{"name": "workqueues"}]}


def resource(name: str, uid: str, *, generation: int = 1, created: str = "2026-01-01T00:00:00Z") -> dict[str, Any]:
    """A WorkQueue as the API server gives it."""
    metadata = {
        "namespace": "media",
        "name": name,
        "uid": uid,
        "generation": generation,
        "creationTimestamp": created,
    }
    return {"metadata": metadata, "spec": {"scaleTargetRef": {"name": "workers"}, "maxReplicas": 5}}


class Listings:
    """Answers listings with what it is given, two to a page. The cluster tests ask a real API server."""

    def __init__(self) -> None:
        self.items: list[dict[str, Any]] = []
        self.failure: KubeError | None = None
        self.meanwhile: Callable[[], None] = lambda: None

    async def request(
        self,
        _method: str,
        path: str,
        *,
        body: object = None,
        media: str = "",
        params: dict[str, str] | None = None,
    ) -> Any:
        assert body is None
        if self.failure is not None:
            raise self.failure
        if path == "/apis":
            return GROUPS
        if path == "/apis/warren.dev/v1alpha1":
            return RESOURCES
        assert "PartialObjectMetadataList" in media
        start = int((params or {}).get("continue", 0))
        page = self.items[start : start + 2]
        self.meanwhile()
        more = str(start + 2) if start + 2 < len(self.items) else ""
        return {"metadata": {"resourceVersion": "7", "continue": more}, "items": page}


class Site:
    """A copy, its listings, and the changes that it reported."""

    def __init__(self) -> None:
        self.listings = Listings()
        self.changes: list[tuple[str, str | None, str | None]] = []
        self.queues = WorkQueues(self.listings, (None,), self._changed)  # type: ignore[arg-type]

    def _changed(self, key: Key, before: WorkQueue | None, after: WorkQueue | None) -> None:
        self.changes.append((key.name, before.uid if before else None, after.uid if after else None))

    def names(self) -> set[tuple[str, str]]:
        """Names and uids that are known."""
        return {(item.key.name, item.uid) for item in self.queues}


async def until(check: "Callable[[], bool]") -> None:
    """Wait until a condition holds."""
    async with asyncio.timeout(10):
        while True:
            if check():
                return
            await asyncio.sleep(0.01)


@pytest.fixture
def site() -> Site:
    return Site()


def test_what_comes_changes_and_goes(site: Site) -> None:
    site.queues.take(None, resource("a", "1"))
    site.queues.take("ADDED", resource("b", "2"))
    site.queues.take("MODIFIED", resource("b", "2"))
    site.queues.take("MODIFIED", resource("b", "2", generation=2))
    site.queues.take("DELETED", resource("b", "2", generation=2))
    assert site.changes == [("a", None, "1"), ("b", None, "2"), ("b", "2", "2"), ("b", "2", None)]


def test_a_status_that_comes_back_is_read_and_the_spec_is_not() -> None:
    site = Site()
    site.queues.take(None, resource("a", "1"))
    spec = site.queues.get(Key("media", "a")).spec  # type: ignore[union-attr]
    site.queues.take("MODIFIED", {**resource("a", "1"), "status": {"desiredReplicas": 3}})
    item = site.queues.get(Key("media", "a"))
    assert item is not None
    assert item.spec is spec
    assert item.status == {"desiredReplicas": 3}
    changed = resource("a", "1", generation=2)
    changed["spec"]["maxReplicas"] = 7
    site.queues.take("MODIFIED", changed)
    item = site.queues.get(Key("media", "a"))
    assert item is not None
    assert item.spec is not None
    assert (item.spec.max_replicas, item.status) == (7, {})


def test_a_listing_reads_all_anew() -> None:
    """After a new definition the same generation may have other defaults."""
    site = Site()
    site.queues.take(None, resource("a", "1"))
    renewed = resource("a", "1")
    renewed["spec"]["maxReplicas"] = 7
    site.queues.take(None, renewed)
    item = site.queues.get(Key("media", "a"))
    assert item is not None
    assert item.spec is not None
    assert item.spec.max_replicas == 7


def test_a_successor_survives_what_is_said_late_of_its_predecessor(site: Site) -> None:
    """kopf keeps the order of events for one object, not between two of the same name."""
    old, new = resource("a", "1"), resource("a", "2", created="2026-01-01T00:00:05Z")
    site.queues.take("ADDED", old)
    site.queues.take("ADDED", new)
    site.queues.take("MODIFIED", resource("a", "1", generation=2))
    site.queues.take("DELETED", old)
    assert site.names() == {("a", "2")}


async def test_synced_once_all_that_is_listed_has_come(site: Site) -> None:
    site.listings.items = [resource(name, name) for name in "abc"]
    await site.queues.compare()
    assert site.queues.answered.is_set()
    for name in "abc":
        assert not site.queues.synced
        site.queues.take(None, resource(name, name))
    assert site.queues.synced


async def test_synced_at_once_where_there_is_none(site: Site) -> None:
    await site.queues.compare()
    assert site.queues.synced


async def test_an_older_generation_is_awaited_too(site: Site) -> None:
    site.listings.items = [resource("a", "1", generation=3)]
    site.queues.take(None, resource("a", "1", generation=2))
    await site.queues.compare()
    assert not site.queues.synced
    site.queues.take("MODIFIED", resource("a", "1", generation=4))
    assert site.queues.synced


async def test_what_is_not_listed_any_more_is_dropped(site: Site) -> None:
    for name in "abc":
        site.queues.take(None, resource(name, name))
    site.listings.items = [resource("a", "a"), resource("b", "another"), resource("c", "c")]
    await site.queues.compare()
    assert site.names() == {("a", "a"), ("c", "c")}


async def test_what_came_while_it_was_listed_is_kept(site: Site) -> None:
    site.queues.take(None, resource("a", "1"))
    site.listings.meanwhile = lambda: site.queues.take("ADDED", resource("new", "2"))
    site.listings.items = [resource("a", "1")]
    await site.queues.compare()
    assert site.names() == {("a", "1"), ("new", "2")}


async def test_an_error_changes_nothing_and_is_told_until_it_is_over(site: Site) -> None:
    site.queues.take(None, resource("a", "1"))
    site.listings.failure = KubeError(404, "NotFound", "no such thing")
    running = asyncio.ensure_future(site.queues.run())
    await until(lambda: bool(site.queues.problem))
    assert "install the CustomResourceDefinition" in site.queues.problem
    assert not site.queues.answered.is_set(), "kopf would look for a definition that is not there"
    assert site.names() == {("a", "1")}
    site.listings.failure = None
    await until(site.queues.answered.is_set)
    running.cancel()
    assert site.queues.problem == ""
    assert site.names() == set()


async def test_a_missing_permission_is_an_answer(site: Site) -> None:
    """kopf meets it, too, and ends the operator if it stays."""
    site.listings.failure = KubeError(403, "Forbidden", "not you")
    running = asyncio.ensure_future(site.queues.run())
    await until(site.queues.answered.is_set)
    running.cancel()
    assert "allow the operator's service account list and watch on workqueues" in site.queues.problem
    assert not site.queues.synced


async def test_a_watch_that_does_not_bring_what_is_listed_is_no_watch(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    loop = asyncio.get_running_loop()
    now = loop.time()
    monkeypatch.setattr(loop, "time", lambda: now)
    site.listings.items = [resource("a", "1")]
    await site.queues.compare()
    now += AWAITED_LIMIT - 1
    await site.queues.compare()
    site.listings.items = [resource("a", "1", generation=2)]  # another change: another wait
    now += 2
    await site.queues.compare()
    now += AWAITED_LIMIT + 1
    with pytest.raises(NotWatched, match="media/a is listed, but does not come by the watch"):
        await site.queues.compare()


async def test_a_second_listing_of_kopf_is_followed_by_one_of_our_own(site: Site) -> None:
    """After a gap kopf lists again, and does not say what has vanished in it."""
    site.listings.items = [resource("a", "1"), resource("b", "2")]
    for item in site.listings.items:
        site.queues.take(None, item)
    running = asyncio.ensure_future(site.queues.run())
    await until(lambda: site.queues.synced)
    site.listings.items = [resource("a", "1")]
    site.queues.take(None, resource("a", "1"))
    await until(lambda: len(site.names()) == 1)
    running.cancel()
    assert site.names() == {("a", "1")}


async def test_what_the_watch_brings_a_moment_later_is_no_reason_to_list_again(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("warren_operator.work_queues.AWAITED_EVERY", 0.01)
    listed: list[str] = []
    site.listings.meanwhile = lambda: listed.append("once")
    site.listings.items = [resource("a", "1")]
    running = asyncio.ensure_future(site.queues.run())
    await until(site.queues.answered.is_set)
    site.queues.take("ADDED", resource("a", "1"))
    before = len(listed)
    for _ in range(10):  # of what would have been its pauses
        await asyncio.sleep(0.01)
    assert len(listed) == before
    site.queues.take(None, resource("a", "1"))  # that it is listed by kopf is one
    await until(lambda: len(listed) > before)
    running.cancel()


class Namespaces:
    """An API server that answers for some namespaces and has other words for the rest."""

    def __init__(self, **refusals: KubeError) -> None:
        self.refusals = refusals

    async def request(self, _method: str, path: str, **_more: Any) -> Any:
        """A listing."""
        name = path.split("/")[-2]
        if name in self.refusals:
            raise self.refusals[name]
        return {"kind": "PartialObjectMetadataList", "items": []}


FORBIDDEN = KubeError(403, "Forbidden", 'cannot list resource "workqueues" in the namespace "gone"')
AWAY = KubeError(0, "Unreachable", "the Kubernetes API cannot be reached")


@pytest.mark.parametrize(
    ("refusals", "served"),
    [
        ({"gone": FORBIDDEN}, ("jobs",)),
        ({"gone": FORBIDDEN, "jobs": FORBIDDEN}, ("gone", "jobs")),
        ({}, ("gone", "jobs")),
    ],
)
async def test_a_namespace_that_is_gone_keeps_no_other_from_being_served(
    refusals: dict[str, KubeError], served: tuple[str, ...]
) -> None:
    """Its roles went with it, and nothing was scaled anywhere while it could not be watched."""
    assert await watchable(Namespaces(**refusals), ("gone", "jobs")) == served  # type: ignore[arg-type]


async def test_of_one_namespace_nobody_asks() -> None:
    assert await watchable(Namespaces(gone=AWAY), ("gone",)) == ("gone",)  # type: ignore[arg-type]


@pytest.mark.parametrize("back", [True, False])
async def test_a_new_start_serves_the_namespaces_that_are_there(monkeypatch: pytest.MonkeyPatch, *, back: bool) -> None:
    monkeypatch.setattr(module, "OTHERS_EVERY", 0.01)
    before, after = ({"gone": FORBIDDEN}, {}) if back else ({}, {"gone": FORBIDDEN})
    namespaces = Namespaces(**before)
    served = ("jobs",) if back else ("gone", "jobs")
    waiting = asyncio.ensure_future(until_others(namespaces, ("gone", "jobs"), served))  # type: ignore[arg-type]
    for refusals in (before, {"jobs": AWAY}, {"gone": AWAY}):
        namespaces.refusals = refusals
        await asyncio.sleep(0.1)
        assert not waiting.done(), "where the API server is away, nothing is known of any"
    namespaces.refusals = after
    with pytest.raises(NotWatched, match=f"are now {'gone, ' if back else ''}jobs: starting anew"):
        await asyncio.wait_for(waiting, 10)
