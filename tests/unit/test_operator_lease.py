"""The lease, against an API server in memory. The cluster tests ask a real one."""

import asyncio
import copy
from typing import Any

import pytest

from warren_operator import lease as module
from warren_operator.kube import Changes, KubeError
from warren_operator.lease import Lease
from warren_operator.resource import Key

KEY = Key("media", "warren-operator")


class Server:
    """One Lease, with versions."""

    def __init__(self) -> None:
        self.body: dict[str, Any] | None = None
        self.version = 0
        self.away = False
        self.hangs = False
        self.takes = 0.0
        self.changes: list[str] = []

    async def request(self, method: str, path: str, *, body: Any = None, media: str = "") -> Any:
        assert path.startswith("/apis/coordination.k8s.io/v1/namespaces/media/leases") or media
        if self.hangs:
            await asyncio.sleep(3600)
        await asyncio.sleep(self.takes)
        if self.away:
            raise KubeError(0, "Unreachable", "the Kubernetes API cannot be reached")
        if media:
            self.changes.append(method)
            return {}
        if method == "GET":
            if self.body is None:
                raise KubeError(404, "NotFound", "no lease")
            return copy.deepcopy(self.body)
        if method == "POST" and self.body is not None:
            raise KubeError(409, "AlreadyExists", "there is one")
        if method == "PUT" and body["metadata"]["resourceVersion"] != str(self.version):
            raise KubeError(409, "Conflict", "it has changed")
        if method in ("POST", "PUT") and body["spec"]["leaseTransitions"] > 2**31 - 1:
            raise KubeError(400, "BadRequest", "json: cannot unmarshal number into Go struct field of type int32")
        self.version += 1
        self.body = copy.deepcopy(body)
        self.body["metadata"]["resourceVersion"] = str(self.version)
        return copy.deepcopy(self.body)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """A twentieth of all times, in their proportions."""
    for name in ("DURATION", "ACTS_FOR", "RENEW_EVERY", "LOOK_EVERY", "CALL_LIMIT", "LONGEST_DURATION"):
        monkeypatch.setattr(module, name, getattr(module, name) / 20)


def part(server: Any, name: str, told: list[str] | None = None) -> Lease:
    """One operator's part."""
    told = [] if told is None else told
    return Lease(server, KEY, name, lambda: told.append(name))


async def until(check: Any) -> None:
    """Wait until a condition holds."""
    async with asyncio.timeout(20):
        while not check():  # noqa: ASYNC110
            await asyncio.sleep(0.005)


async def end(task: "asyncio.Task[None]") -> None:
    """As at a good end."""
    task.cancel()
    await asyncio.wait([task])


async def test_the_first_one_acts_and_hands_over_at_the_end() -> None:
    server = Server()
    one, two = part(server, "one"), part(server, "two")
    first = asyncio.create_task(one.run())
    await until(lambda: one.acts)
    second = asyncio.create_task(two.run())
    await until(lambda: two.holder == one.identity)
    assert not two.acts
    await end(first)
    assert not one.acts
    await until(lambda: two.acts)
    assert server.body is not None
    assert server.body["spec"]["leaseTransitions"] == 2
    await end(second)


async def test_there_are_never_two_that_act() -> None:
    """Ten at once, again and again one less: each moment at most one, and in the end always one."""
    server = Server()
    parts = [part(server, str(number)) for number in range(5)]
    tasks = {lease.identity: asyncio.create_task(lease.run()) for lease in parts}
    most = 0

    async def watch() -> None:
        nonlocal most
        while True:
            most = max(most, sum(lease.acts for lease in parts))
            await asyncio.sleep(0)

    watching = asyncio.create_task(watch())
    for _ in range(4):
        await until(lambda: any(lease.acts for lease in parts))
        leader = next(lease for lease in parts if lease.acts)
        await end(tasks.pop(leader.identity))
    await until(lambda: any(lease.acts for lease in parts))
    watching.cancel()
    assert most == 1
    for task in tasks.values():
        await end(task)


@pytest.mark.parametrize("how", ["away", "hangs"])
async def test_one_that_cannot_renew_stops_before_another_may_begin(how: str) -> None:
    server = Server()
    told: list[str] = []
    one = part(server, "one", told)
    task = asyncio.create_task(one.run())
    await until(lambda: one.acts)
    setattr(server, how, True)
    await until(lambda: not one.acts)
    assert one.ours, "nobody else is known to act: it goes on looking"
    changes = Changes(server, lambda: one.acts)  # type: ignore[arg-type]
    with pytest.raises(KubeError, match="nothing is changed"):
        await changes.request("PATCH", "/apis/apps/v1/x", body={}, media="merge")
    assert server.changes == []
    setattr(server, how, False)
    await until(lambda: one.acts)
    assert told == ["one"], "it is the same time in office"
    await end(task)


async def test_what_others_did_meanwhile_is_noticed_though_they_are_gone() -> None:
    server = Server()
    told: list[str] = []
    one = part(server, "one", told)
    task = asyncio.create_task(one.run())
    await until(lambda: one.acts)
    server.away = True
    await until(lambda: not one.acts)
    assert server.body is not None
    server.body["spec"]["holderIdentity"] = ""
    server.version += 1
    server.body["metadata"]["resourceVersion"] = str(server.version)
    server.away = False
    await until(lambda: one.acts)
    assert told == ["one", "one", "one"], "left it, and has it anew"
    await end(task)


async def test_without_a_lease_it_always_acts() -> None:
    told: list[str] = []
    lease = Lease(Server(), None, "one", lambda: told.append("one"))  # type: ignore[arg-type]
    await lease.run()
    assert lease.acts
    assert told == ["one"]


async def test_answers_that_are_slow_keep_nobody_from_taking_the_lease_and_keeping_it() -> None:
    """To take it needs two calls, each of which is in time."""
    server = Server()
    server.takes = 0.6 * module.CALL_LIMIT
    told: list[str] = []
    one = part(server, "one", told)
    task = asyncio.create_task(one.run())
    await until(lambda: one.acts)
    await until(lambda: server.version >= 4)
    assert told == ["one"]
    await end(task)


async def test_a_lease_that_somebody_has_edited_is_taken_all_the_same() -> None:
    server = Server()
    server.body = {
        "metadata": {"name": "warren-operator", "resourceVersion": "0"},
        "spec": {"holderIdentity": "nobody", "leaseDurationSeconds": 2**31 - 1, "leaseTransitions": 2**31 - 1},
    }
    one = part(server, "one")
    task = asyncio.create_task(one.run())
    await until(lambda: one.holder == "nobody")
    await until(lambda: one.acts)
    assert not one.problem
    await end(task)
