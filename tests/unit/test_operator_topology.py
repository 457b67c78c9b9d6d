"""The topology over a broker that is made up: what it knows at which time."""

from typing import TYPE_CHECKING, Any, cast

import pytest

from warren_operator.management import ManagementUnavailable
from warren_operator.resource import Key
from warren_operator.settings import BUILT_IN
from warren_operator.topology import Topology

if TYPE_CHECKING:
    from warren_operator.broker import Broker
    from warren_operator.management import Management

WANTED = {Key("jobs", "a"): ("a", BUILT_IN)}


class Site:
    """A broker with one classic queue, and its management API.

    Attributes:
        away: the management API does not answer.
    """

    problem = ""
    version = "4.3.6"
    too_old = False

    def __init__(self) -> None:
        self.away = False

    async def declare(self, _method: str, **_arguments: Any) -> Any:
        """As is wanted."""
        return type("Answer", (), {"message_count": 0, "consumer_count": 0})

    async def queues(self) -> list[dict[str, Any]]:
        """The one that is there."""
        if self.away:
            raise ManagementUnavailable("the broker's management API cannot be reached")
        return [{"name": "a", "type": "classic", "durable": True}]

    async def nothing(self, *_arguments: Any) -> list[dict[str, Any]]:
        """An empty listing, or a change that is made."""
        return []

    exchanges = bindings = policies = put_policy = delete_policy = nothing

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
    assert [item.reason for item in topology.findings("a")] == ["QueueMismatch"]
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
