"""The topology over a broker that is made up: what it knows at which time."""

from dataclasses import replace
from typing import TYPE_CHECKING, Any, cast

import pytest

from warren_operator import topology as module
from warren_operator.broker import DeclareRefused
from warren_operator.management import ManagementUnavailable
from warren_operator.resource import Key
from warren_operator.settings import BUILT_IN
from warren_operator.topology import DEFAULT_POLICY, OVERRIDDEN, Topology

if TYPE_CHECKING:
    from warren_operator.broker import Broker
    from warren_operator.management import Management

WANTED = {Key("jobs", "a"): ("a", BUILT_IN)}


class Site:
    """A broker with one queue, and its management API.

    Attributes:
        kind: of the queue.
        away: the management API does not answer.
        kept: the policies, by name.
        refuses: to bind anything.
    """

    refuses = False

    problem = ""
    version = "4.3.6"
    too_old = False

    def __init__(self) -> None:
        self.away = False
        self.kind = "classic"
        self.kept: dict[str, dict[str, Any]] = {}

    async def declare(self, method: str, **_arguments: Any) -> Any:
        """As is wanted."""
        if method == "queue_bind" and self.refuses:
            raise DeclareRefused("ACCESS_REFUSED - read access to exchange; give the operator's user all rights")
        return type("Answer", (), {"message_count": 0, "consumer_count": 0})

    async def queues(self) -> list[dict[str, Any]]:
        """The one that is there."""
        if self.away:
            raise ManagementUnavailable("the broker's management API cannot be reached")
        return [{"name": name, "type": self.kind, "durable": True} for name in ("a", "a.dead")]

    async def nothing(self, *_arguments: Any) -> list[dict[str, Any]]:
        """An empty listing, or a change that is made."""
        return []

    exchanges = bindings = delete_policy = nothing

    async def policies(self) -> list[dict[str, Any]]:
        """As they were last set."""
        return [{"name": name, **body} for name, body in self.kept.items()]

    async def put_policy(self, name: str, body: dict[str, Any]) -> bool:
        """Set one."""
        self.kept[name] = body
        return True

    async def default_queue_type(self) -> str:
        """As Warren needs it."""
        return "quorum"


@pytest.fixture
def site() -> Site:
    """A broker."""
    return Site()


@pytest.fixture
def topology(site: Site) -> Topology:
    """The part that is tested."""
    return Topology(cast("Broker", site), cast("Management", site), BUILT_IN, lambda _name: False, lambda _queues: None)


async def test_what_was_found_is_forgotten_while_another_operator_keeps_the_broker(
    site: Site, topology: Topology
) -> None:
    """Else it would be told once more an hour later, by one that has just begun to act and has compared nothing."""
    topology.serve(WANTED, may_drop=True)
    await topology.compare()
    assert {item.reason for item in topology.findings("a")} == {"QueueMismatch"}
    assert topology.absent("b")
    site.away = True
    for _ in range(3):
        await topology.compare()
    assert "cannot be reached" in topology.problem
    topology.retire()
    await topology.compare()
    assert topology.findings("a") == ()
    assert not topology.absent("b")
    assert not topology.problem
    assert not topology.compared


async def test_somebody_who_keeps_a_policy_of_our_name_is_told(
    site: Site, topology: Topology, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As another release in the same virtual host does, with defaults of its own."""
    monkeypatch.setattr(module, "FULL_EVERY", 0.0)
    site.kind = "quorum"
    topology.serve(WANTED, may_drop=True)

    async def contend(times: int) -> None:
        for _ in range(times):
            await topology.compare()
            site.kept[DEFAULT_POLICY] = {**site.kept[DEFAULT_POLICY], "definition": {"max-length": 7}}

    await contend(3)
    assert topology.findings("a") == (), "twice may be an edit"
    await contend(1)
    (found,) = topology.findings("a")
    assert found.reason == OVERRIDDEN
    assert "only one release of Warren in a virtual host" in found.message
    await topology.compare()
    await topology.compare()
    assert topology.findings("a") == ()


async def test_settings_that_change_again_and_again_contend_with_nobody(
    topology: Topology, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "FULL_EVERY", 0.0)
    site.kind = "quorum"
    for length in range(1, 8):
        topology.serve({Key("jobs", "a"): ("a", replace(BUILT_IN, max_length=length))}, may_drop=True)
        await topology.compare()
        assert topology.findings("a") == ()


async def test_a_queue_that_may_not_be_bound_is_told_until_it_is(site: Site, topology: Topology) -> None:
    """Nothing that is submitted reaches it, and only the log told of it."""
    site.kind = "quorum"
    site.refuses = True
    topology.serve(WANTED, may_drop=True)
    await topology.compare()
    assert topology.findings("a") == (), "somebody may have deleted the exchange a moment ago"
    await topology.compare()
    first, second = topology.findings("a")
    assert (first.reason, second.reason) == ("BindingRefused", "BindingRefused")
    assert "does not bind queue a to exchange warren.tasks: ACCESS_REFUSED" in first.message
    assert "does not bind queue a.dead to exchange warren.dead: ACCESS_REFUSED" in second.message
    assert "all rights" in second.message
    site.refuses = False
    await topology.compare()
    await topology.compare()
    assert topology.findings("a") == ()
