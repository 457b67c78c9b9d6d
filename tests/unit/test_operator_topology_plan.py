"""What there is to be in the broker, against what is there."""

from dataclasses import replace
from typing import Any

from warren_operator.parts import owns_policy
from warren_operator.reasons import Reason
from warren_operator.resource import Key, QueueSettings
from warren_operator.settings import BUILT_IN
from warren_operator.topology import (
    DEAD_POLICY,
    DEFAULT_POLICY,
    EXCHANGES,
    OVERRIDDEN,
    Actual,
    Binding,
    Desired,
    Plan,
    Policy,
    QueueFacts,
    definition,
    desired,
    findings,
    plan,
    read_policy,
    read_queue,
    read_statistics,
)

ONE = Key("media", "one")
TWO = Key("media", "two")
STRICT = replace(BUILT_IN, max_length=10, message_ttl=60.0)


def want(**queues: QueueSettings) -> Desired:
    """Desired state for queues of these names."""
    return desired({Key("media", name): (name, settings) for name, settings in queues.items()}, BUILT_IN)


def facts(effective: Any = None, policy: str = DEFAULT_POLICY, **changes: Any) -> QueueFacts:
    """A queue as it is to be, but for the changes."""
    good = QueueFacts(
        "quorum",
        True,
        False,
        False,
        {"x-queue-type": "quorum"},
        policy,
        definition(BUILT_IN) if effective is None else effective,
    )
    return replace(good, **changes)


def met(target: Desired, **queues: QueueFacts) -> Actual:
    """All that is wanted is there; some queues differ."""
    everything = {name: facts(policy=target.policy_of.get(name, DEAD_POLICY)) for name in target.all_queues}
    return Actual(target.exchanges, {**everything, **queues}, target.bindings, target.policies)


def owned(name: str) -> bool:
    """Policies of the namespace `media`."""
    return owns_policy(("media",), name)


def test_from_nothing_everything_is_made_work_queues_first() -> None:
    target = want(one=BUILT_IN)
    todo = plan(target, Actual(), owned)
    assert dict(todo.exchanges) == EXCHANGES
    assert todo.queues == ("one", "one.dead")
    assert set(todo.bindings) == {Binding("warren.tasks", "one", "one"), Binding("warren.dead", "one.dead", "one")}
    assert {name for name, _ in todo.put} == {DEFAULT_POLICY, DEAD_POLICY}
    assert not todo.drop


def test_where_all_is_there_nothing_is_done() -> None:
    target = want(one=BUILT_IN, two=STRICT)
    assert plan(target, met(target), owned) == Plan()


def test_queues_like_the_default_need_no_policy_of_their_own() -> None:
    target = want(**{f"q{number}": BUILT_IN for number in range(50)})
    assert set(target.policies) == {DEFAULT_POLICY, DEAD_POLICY}


def test_a_queue_that_differs_has_a_full_policy_above_the_default() -> None:
    target = want(one=BUILT_IN, two=STRICT)
    own = target.policies["warren.media.two"]
    assert own.priority > target.policies[DEFAULT_POLICY].priority
    assert own.pattern == "^two$"
    assert own.definition.keys() > target.policies[DEFAULT_POLICY].definition.keys()
    assert (own.definition["max-length"], own.definition["message-ttl"]) == (10, 60_000)


def test_a_dot_in_a_name_matches_a_dot_only() -> None:
    target = desired({ONE: ("a.b", STRICT)}, BUILT_IN)
    assert target.policies["warren.media.one"].pattern == "^a[.]b$"


def test_the_definition_is_what_rabbitmq_wants() -> None:
    keys = definition(BUILT_IN)
    assert keys["delivery-limit"] == 20
    assert keys["consumer-timeout"] == 1_800_000
    assert keys["consumer-disconnected-timeout"] == 5_000
    assert (keys["delayed-retry-type"], keys["delayed-retry-min"], keys["delayed-retry-max"]) == (
        "failed",
        1000,
        300_000,
    )
    assert keys["dead-letter-strategy"] == "at-least-once"
    assert keys["overflow"] == "reject-publish"


def test_our_policies_go_when_they_are_no_longer_wanted_and_others_stay() -> None:
    target = want(one=BUILT_IN)
    have = met(target)
    stale = Policy("^gone$", 20, definition(STRICT))
    others = dict.fromkeys(("warren.media.gone", "warren.other.gone", "warrenty", "ha-all"), stale)
    assert plan(target, replace(have, policies={**have.policies, **others}), owned).drop == ("warren.media.gone",)


def test_what_was_changed_or_deleted_by_hand_comes_back() -> None:
    target = want(one=BUILT_IN)
    have = met(target)
    bent = {**have.policies, DEFAULT_POLICY: replace(have.policies[DEFAULT_POLICY], priority=0)}
    assert [name for name, _ in plan(target, replace(have, policies=bent), owned).put] == [DEFAULT_POLICY]
    queues = {name: queue for name, queue in have.queues.items() if name != "one"}
    assert plan(target, replace(have, queues=queues), owned).queues == ("one",)
    assert len(plan(target, replace(have, bindings=frozenset()), owned).bindings) == 2
    assert plan(target, replace(have, exchanges={}), owned).exchanges


def test_without_quorum_as_default_no_queue_is_made_and_it_is_said_how_to_set_it() -> None:
    target = want(one=BUILT_IN)
    have = Actual(default_queue_type="classic")
    assert not plan(target, have, owned).queues
    (finding, *_) = findings(target, have, "one")
    assert finding.reason == "DefaultQueueType"
    assert "--default-queue-type quorum" in finding.message


def test_a_queue_that_is_otherwise_is_named_with_what_differs_and_what_to_do() -> None:
    target = want(one=BUILT_IN)
    have = met(target, one=facts(type="classic", durable=False, arguments={"x-max-priority": 5}))
    (finding,) = findings(target, have, "one")
    assert finding.reason == Reason.QUEUE_MISMATCH
    for part in ("queue one", "type classic", "durable=false", "x-max-priority=5", "delete it", "spec.queue.name"):
        assert part in finding.message


def test_a_queue_that_the_broker_refuses_is_told_in_its_words_and_not_asked_for_again_at_once() -> None:
    target = want(one=BUILT_IN, two=BUILT_IN)
    have = met(target)
    queues = {name: queue for name, queue in have.queues.items() if name not in ("one", "two")}
    have = replace(have, queues=queues, refused={"one": "queue limit in vhost '/' (3) is reached"})
    have = replace(have, bindings=frozenset(binding for binding in have.bindings if binding.queue in queues))
    todo = plan(target, have, owned)
    assert todo.queues == ("two",)
    assert {binding.queue for binding in todo.bindings} == {"two"}, "a refused queue leaves nothing to do"
    (finding,) = findings(target, have, "one")
    assert finding.reason == Reason.QUEUE_REFUSED
    assert "queue one: queue limit" in finding.message
    assert not findings(target, have, "two")


def test_an_exchange_of_another_type_is_found() -> None:
    target = want(one=BUILT_IN)
    have = met(target)
    have = replace(have, exchanges={**have.exchanges, "warren.tasks": "fanout"})
    (finding,) = findings(target, have, "one")
    assert finding.reason == Reason.EXCHANGE_MISMATCH
    assert "warren.tasks is of type fanout" in finding.message
    assert not plan(target, have, owned).exchanges
    foreign = {**have.queues, "one": facts(effective={"max-length": 5}, policy="mine")}
    reasons = [item.reason for item in findings(target, replace(have, queues=foreign), "one")]
    assert reasons == [OVERRIDDEN, Reason.EXCHANGE_MISMATCH], "a policy over ours is found all the same"


def test_a_foreign_policy_over_ours_is_found() -> None:
    target = want(one=BUILT_IN)
    have = met(target, one=facts(effective={"max-length": 5}, policy="mine"))
    have = replace(have, policies={**have.policies, "mine": Policy("one", 99, {"max-length": 5})})
    (finding,) = findings(target, have, "one")
    assert finding.reason == OVERRIDDEN
    assert "policy mine of priority 99 overrides warren-default" in finding.message
    assert "max-length is 5 instead of 100000" in finding.message


def test_an_operator_policy_that_changes_ours_is_found() -> None:
    target = want(one=BUILT_IN)
    have = met(target, one=facts(effective={**definition(BUILT_IN), "max-length": 9}))
    (finding,) = findings(target, have, "one")
    assert "an operator policy overrides" in finding.message


def test_our_own_policy_not_yet_set_is_no_override() -> None:
    target = want(one=STRICT)
    have = met(target, one=facts())
    assert not findings(target, replace(have, policies={}), "one")


def test_the_listing_is_read() -> None:
    body = {
        "name": "one",
        "type": "quorum",
        "durable": True,
        "arguments": {},
        "policy": None,
        "effective_policy_definition": [],
        "messages": 12,
        "messages_ready": 3,
        "messages_unacknowledged": 4,
        "state": "running",
    }
    assert read_queue(body) == QueueFacts("quorum", True, False, False, {}, "", {})
    dead = {**body, "name": "one.dead", "messages": 2}
    statistics = read_statistics([body, dead], 5.0)
    assert list(statistics) == ["one"]
    assert (statistics["one"].delayed, statistics["one"].dead, statistics["one"].available) == (5, 2, True)
    assert read_statistics([{**body, "state": "minority"}], 5.0)["one"].available is False
    assert read_statistics([{**body, "state": "minority"}], 5.0)["one"].dead is None


def test_of_queues_without_a_leader_nothing_is_made_up() -> None:
    """RabbitMQ lists them without totals and without policies."""
    down = {"name": "one", "type": "quorum", "durable": True, "arguments": {}, "state": "down"}
    one = {**down, "state": "running", "messages": 0}
    assert read_statistics([one, {**down, "name": "one.dead"}], 5.0)["one"].dead is None
    target = want(one=BUILT_IN)
    assert not findings(target, met(target, one=read_queue(down)), "one")


def test_a_policy_for_other_things_is_not_ours() -> None:
    ours = want(one=BUILT_IN).policies[DEFAULT_POLICY]
    assert read_policy(ours.body()) == ours
    assert read_policy({**ours.body(), "apply-to": "queues"}) != ours


def test_policies_are_owned_by_namespace() -> None:
    assert owns_policy(("media",), "warren.media.one")
    assert owns_policy(("*",), "warren.media.one")
    assert not owns_policy(("media",), "warren.other.one")
    assert not owns_policy(("*",), "warren-default")
    assert not owns_policy(("*",), "warren.odd")
