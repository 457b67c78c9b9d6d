"""What is wanted of a queue at a moment: spec, schedule and budget together."""

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from warren_operator.policy import Backlog, Limit, Memory, Observation, Phase, Scaling, Worker, decide
from warren_operator.resource import Key, Spec, parse_spec
from warren_operator.scaling import Wants

NOON = 1_795_521_600.0
"""Tuesday, 24 November 2026, 12:00 UTC."""

A, B = Key("jobs", "a"), Key("jobs", "b")


def spec(**fields: Any) -> Spec:
    """A WorkQueue's spec."""
    return parse_spec({"scaleTargetRef": {"name": "workers"}, "maxReplicas": 20, **fields}, "q")


def ask(wants: Wants, key: Key, item: Spec, tasks: int, replicas: int = 0) -> Scaling:
    """What is wanted of a queue with so many tasks."""
    return wants.now(key, item, Observation(Backlog(tasks, 0), replicas), Memory(), NOON)


def test_a_schedule_sets_the_bounds_until_it_changes_them() -> None:
    item = spec(schedule=[{"start": "0 8 * * *", "end": "0 18 * * *", "minReplicas": 2}])
    wants = Wants({}, lambda _: None)
    assert wants.usual(A, item, NOON).min_replicas == 2
    assert wants.usual(A, item, NOON + 6 * 3600 - 1).min_replicas == 2
    assert wants.usual(A, item, NOON + 6 * 3600).min_replicas == 0
    assert wants.usual(A, item, NOON + 6 * 3600).min_scheduled == ""
    assert wants.usual(A, item, NOON + 20 * 3600).min_replicas == 2


def test_a_clock_that_is_put_right_has_the_schedule_read_anew() -> None:
    item = spec(schedule=[{"start": "0 8 * * *", "end": "0 18 * * *", "minReplicas": 2}])
    wants = Wants({}, lambda _: None)
    week = 7 * 24 * 3600
    assert wants.usual(A, item, NOON + week + 7 * 3600).min_replicas == 0, "a week ahead, in the evening"
    assert wants.usual(A, item, NOON).min_replicas == 2


def test_a_new_spec_counts_at_once() -> None:
    wants = Wants({}, lambda _: None)
    assert wants.usual(A, spec(maxReplicas=3), NOON).max_replicas == 3
    assert wants.usual(A, spec(maxReplicas=4), NOON).max_replicas == 4


def test_the_others_are_told_when_their_share_changes() -> None:
    changed: list[Key] = []
    wants = Wants({"gpu": 10}, changed.append)
    item = spec(budget={"name": "gpu"}, target={"backlogPerWorker": 1})
    assert ask(wants, A, item, 100).budget == 10
    assert changed == []
    assert ask(wants, B, item, 100).budget == 0
    assert changed == [A], "A is to give up what is B's"
    assert ask(wants, A, item, 100, replicas=10).budget == 5
    wants.forget(B)
    assert changed == [A, A]
    assert ask(wants, A, item, 100, replicas=10).budget == 10


def test_a_share_is_never_used_before_it_is_free() -> None:
    wants = Wants({"gpu": 10}, lambda _: None)
    item = spec(budget={"name": "gpu"}, target={"backlogPerWorker": 1})
    ask(wants, A, item, 100, replicas=10)
    late = ask(wants, B, item, 100)
    decision = decide(late, Observation(Backlog(100, 0), 0), Memory(), 1.0)
    assert (decision.replicas, decision.limit) == (0, Limit.BUDGET)
    assert ask(wants, A, item, 100, replicas=10).budget == 5
    ask(wants, A, item, 100, replicas=5)
    assert ask(wants, B, item, 100).budget == 5


def test_what_was_given_is_used_before_the_cluster_shows_it() -> None:
    wants = Wants({"gpu": 10}, lambda _: None)
    item = spec(budget={"name": "gpu"}, target={"backlogPerWorker": 1})
    assert ask(wants, A, item, 6).budget == 6
    assert ask(wants, B, item, 100).budget == 4


def test_what_runs_since_before_the_operator_is_not_given_away() -> None:
    wants = Wants({"gpu": 10}, lambda _: None)
    item = spec(budget={"name": "gpu"}, target={"backlogPerWorker": 1})
    wants.expect(A, item, 7, 8)
    assert ask(wants, B, item, 100).budget == 2


def test_what_is_just_as_was_expected_is_granted() -> None:
    """As at the first look after a start, while the broker cannot be read."""
    wants = Wants({"gpu": 10}, lambda _: None)
    item = spec(budget={"name": "gpu"})
    wants.expect(A, item, 1, 0)
    assert wants.now(A, item, Observation(None, 1), Memory(), NOON).budget == 1


def test_who_leaves_a_budget_frees_its_share() -> None:
    wants = Wants({"gpu": 10}, lambda _: None)
    shared = spec(budget={"name": "gpu"}, target={"backlogPerWorker": 1})
    ask(wants, A, shared, 100, replicas=10)
    assert ask(wants, A, spec(), 100, replicas=10).budget is None
    assert ask(wants, B, shared, 100).budget == 10


def test_what_is_only_recommended_takes_nothing_from_others() -> None:
    wants = Wants({"gpu": 10}, lambda _: None)
    ask(wants, A, spec(budget={"name": "gpu", "priority": 5}, mode="Recommend"), 1000, replicas=1)
    assert ask(wants, B, spec(budget={"name": "gpu"}, target={"backlogPerWorker": 1}), 100).budget == 9


def test_what_is_recommended_is_what_a_budget_has_room_for() -> None:
    wants = Wants({"gpu": 10}, lambda _: None)
    item = spec(budget={"name": "gpu"}, target={"backlogPerWorker": 1}, mode="Recommend")
    assert ask(wants, A, item, 100).budget == 10
    ask(wants, B, spec(budget={"name": "gpu"}, target={"backlogPerWorker": 1}), 3)
    assert ask(wants, A, item, 100).budget == 7


def test_what_cannot_start_takes_nothing_from_others() -> None:
    """A broken image beside a queue that works: no more of its pods are made, whatever its share is."""
    wants = Wants({"gpu": 10}, lambda _: None)
    item = spec(budget={"name": "gpu"}, target={"backlogPerWorker": 1})
    broken = Observation(Backlog(100, 0), 2, tuple(Worker(str(number), Phase.FAILING) for number in range(2)))
    scaling = wants.now(A, item, broken, Memory(), NOON)
    assert decide(scaling, broken, Memory(), 1.0).limit is Limit.FAILING, "that is what holds it, not the budget"
    assert ask(wants, B, item, 100, replicas=8).budget == 8
    mended = Observation(Backlog(100, 0), 2, tuple(Worker(str(number), Phase.READY) for number in range(2)))
    wants.now(A, item, mended, Memory(), NOON)
    assert ask(wants, B, item, 100, replicas=8).budget == 5


def test_the_fallback_counts_as_a_demand() -> None:
    wants = Wants({"gpu": 10}, lambda _: None)
    item = spec(budget={"name": "gpu"}, fallback={"afterFailures": 1, "replicas": 4})
    scaling = wants.now(A, item, Observation(None, 1), Memory(), NOON)
    assert decide(scaling, Observation(None, 1), Memory(), 1.0).replicas == 4


@given(
    st.lists(
        st.tuples(
            st.sampled_from("abcd"), st.sampled_from(["look", "fail", "go", "restart"]), st.sampled_from([0, 5, 40])
        )
    )
)
def test_whatever_comes_and_goes_a_budget_is_never_overdrawn(story: list[tuple[str, str, int]]) -> None:
    """Queues are looked at in any order, with any number of tasks; they go, and the operator starts anew."""
    wants, replicas = Wants({"gpu": 10}, lambda _: None), dict.fromkeys("abcd", 0)
    items = {name: spec(budget={"name": "gpu", "priority": ord(name) % 2}) for name in replicas}
    for name, what, tasks in story:
        key = Key("jobs", name)
        if what in ("look", "fail"):
            phase = Phase.READY if what == "look" else Phase.FAILING
            workers = tuple(Worker(str(number), phase, busy=True) for number in range(replicas[name]))
            seen = Observation(Backlog(tasks, 0), replicas[name], workers)
            scaling = wants.now(key, items[name], seen, Memory(), NOON)
            replicas[name] = decide(scaling, seen, Memory(), 1.0).replicas
        elif what == "go":
            wants.forget(key)
            replicas[name] = 0
        else:
            wants = Wants({"gpu": 10}, lambda _: None)
            for other, count in replicas.items():
                wants.expect(Key("jobs", other), items[other], count, count)
        assert sum(replicas.values()) <= 10


def test_what_warren_leaves_alone_uses_what_it_has_of_a_budget_and_no_more() -> None:
    changed: list[Key] = []
    wants = Wants({"gpu": 8}, changed.append)
    item = spec(budget={"name": "gpu"}, target={"backlogPerWorker": 1})
    assert ask(wants, A, item, 8).budget == 8
    assert ask(wants, B, item, 8).budget == 0
    changed.clear()
    wants.occupy(A, item, replicas=3, pods=4)  # an HPA has it now, and one of its pods is ending
    assert changed == [B]
    assert ask(wants, B, item, 8).budget == 4
    wants.occupy(A, item, replicas=3, pods=4)
    assert changed == [B], "nothing is new"
