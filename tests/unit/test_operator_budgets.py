"""Budgets that several queues share."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from warren_operator.budgets import Demand, allocate

demands = st.dictionaries(
    st.integers(0, 20),
    st.builds(
        Demand,
        wanted=st.integers(0, 60),
        least=st.integers(0, 5),
        replicas=st.integers(0, 30),
        ending=st.integers(0, 5),
        priority=st.integers(-1, 2),
    ),
    max_size=12,
)
caps = st.integers(0, 100)


@given(demands, caps)
def test_what_is_given_never_overdraws_the_budget(asked: dict[int, Demand], cap: int) -> None:
    """Not even in between: what is added fits beside all that still runs."""
    grants = allocate(asked, cap)
    assert set(grants) == set(asked)
    assert all(grant >= 0 for grant in grants.values())
    used = sum(demand.replicas + demand.ending for demand in asked.values())
    added = sum(max(0, grants[key] - demand.replicas) for key, demand in asked.items())
    assert added <= max(0, cap - used)


@given(demands, caps)
def test_nobody_is_held_back_while_there_is_room_for_all(asked: dict[int, Demand], cap: int) -> None:
    room = sum(max(demand.wanted, demand.replicas) + demand.ending for demand in asked.values())
    grants = allocate(asked, cap + room)
    assert all(grants[key] >= max(demand.wanted, demand.replicas) for key, demand in asked.items())


@given(demands, caps)
def test_workers_go_only_where_others_want_them(asked: dict[int, Demand], cap: int) -> None:
    grants = allocate(asked, cap)
    if any(grants[key] < demand.replicas for key, demand in asked.items()):
        assert sum(max(demand.wanted, demand.replicas) for demand in asked.values()) > cap


@given(demands, caps)
def test_once_all_has_come_to_rest_the_whole_budget_serves(asked: dict[int, Demand], cap: int) -> None:
    """Carried out until nothing moves, the budget is used up or everybody has what it wants."""
    for _ in range(len(asked) + 3):
        grants = allocate(asked, cap)
        asked = {
            key: replace(demand, replicas=min(grants[key], max(demand.wanted, demand.replicas)), ending=0)
            for key, demand in asked.items()
        }
    have = {key: demand.replicas for key, demand in asked.items()}
    assert sum(have.values()) <= max(cap, 0)
    missing = sum(max(0, demand.wanted - have[key]) for key, demand in asked.items())
    assert not missing or sum(have.values()) == cap


def test_a_flood_leaves_a_worker_for_each_queue_with_tasks() -> None:
    grants = allocate({"flood": Demand(1000, priority=9), "small": Demand(1), "idle": Demand(0)}, 10)
    assert grants == {"flood": 9, "small": 1, "idle": 0}


def test_equals_share_evenly_and_leave_what_they_do_not_want() -> None:
    assert allocate({"a": Demand(100), "b": Demand(100), "c": Demand(2)}, 12) == {"a": 5, "b": 5, "c": 2}
    assert allocate({"a": Demand(100), "b": Demand(100)}, 5) == {"a": 3, "b": 2}


def test_the_larger_priority_gets_what_it_wants_first() -> None:
    assert allocate({"low": Demand(100), "high": Demand(6, priority=1)}, 10) == {"high": 6, "low": 4}


def test_the_minimum_comes_before_everything() -> None:
    assert allocate({"flood": Demand(100, priority=5), "kept": Demand(4, least=4)}, 5) == {"flood": 1, "kept": 4}


@pytest.mark.parametrize(("ending", "granted"), [(3, 0), (1, 2), (0, 3)])
def test_what_still_runs_is_waited_for(ending: int, granted: int) -> None:
    """A worker that has been asked to go finishes its task first, and takes its place until then."""
    grants = allocate({"old": Demand(7, replicas=7, ending=ending), "new": Demand(3, priority=1)}, 10)
    assert grants == {"new": granted, "old": 7}


def test_who_has_more_than_its_share_gives_it_up_for_others_only() -> None:
    spare = allocate({"a": Demand(1, replicas=8), "b": Demand(2)}, 10)
    assert spare == {"a": 8, "b": 2}
    wanted = allocate({"a": Demand(1, replicas=8), "b": Demand(9)}, 10)
    assert wanted == {"a": 1, "b": 2}, "b gets the rest once the others are gone"
