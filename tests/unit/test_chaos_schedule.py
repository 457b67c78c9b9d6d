"""The faults' schedule: the same for the same seed, every kind in it, never two of a lane at once."""

from itertools import islice

import pytest
from faults import HEAVY, KINDS, LANES, Fault
from hypothesis import given
from hypothesis import strategies as st
from ledger import Harm
from report import COLOURS
from schedule import Kind, Lane, at_most, steps

SPANS = st.tuples(st.floats(0, 10), st.floats(0, 10)).map(lambda pair: (min(pair), max(pair)))
ANY_LANES = st.builds(
    Lane,
    st.text(max_size=5),
    st.lists(
        st.builds(Kind, st.text(min_size=1, max_size=5), SPANS), min_size=1, max_size=8, unique_by=lambda k: k.name
    ),
    SPANS,
)
SEEDS = st.integers(0, 2**32)


@given(SEEDS, ANY_LANES)
def test_each_kind_comes_before_any_comes_again(seed: int, lane: Lane) -> None:
    names = sorted(kind.name for kind in lane.kinds)
    found = [*islice(steps(seed, lane), 3 * len(names))]
    for turn in range(3):
        assert sorted(step.kind for step in found[turn * len(names) : (turn + 1) * len(names)]) == names


@given(SEEDS, ANY_LANES)
def test_a_seed_can_be_had_again(seed: int, lane: Lane) -> None:
    assert [*islice(steps(seed, lane), 20)] == [*islice(steps(seed, lane), 20)]


@given(SEEDS, ANY_LANES)
def test_pauses_and_holds_stay_in_their_bounds(seed: int, lane: Lane) -> None:
    holds = {kind.name: kind.hold for kind in lane.kinds}
    first = [*islice(steps(seed, lane), len(lane.kinds))]
    for number, step in enumerate(first):
        assert step.number == number
        assert lane.pause[0] <= step.pause <= lane.pause[1]
        low, high = holds[step.kind]
        assert low <= step.hold <= high
    assert sum(step.pause + step.hold for step in first) <= at_most(lane, 0) + 1e-6


def test_seeds_and_lanes_differ() -> None:
    kinds = [Kind(name) for name in "abcdefgh"]
    courses = {
        tuple(step.kind for step in islice(steps(seed, Lane(name, kinds, (0, 1))), 40))
        for seed in range(5)
        for name in ("one", "two")
    }
    assert len(courses) == 10


def test_the_lanes_have_every_kind_once_and_the_report_a_colour_for_each() -> None:
    assert sorted(kind.name for lane in LANES for kind in lane.kinds) == sorted(KINDS)
    assert {*COLOURS} == {*KINDS}
    assert all(fault.kind in {kind.name for kind in LANES[0].kinds} for fault in HEAVY)


def test_a_first_round_fits_into_what_ci_gives() -> None:
    """Seven minutes, with what brokers and nodes need to be well again on an idle machine."""
    assert at_most(LANES[0], recovery=20) <= 420
    assert at_most(LANES[1], recovery=5) <= 300


@pytest.mark.parametrize("fault", KINDS.values(), ids=lambda fault: fault.kind)
def test_only_what_kills_a_run_or_its_connection_may_interrupt_one(fault: type[Fault]) -> None:
    kills = fault.kind in {"worker killed", "worker frozen", "worker deleted by force", "handler killed"}
    loses_connections = not kills and Harm.REPEATED in fault.harms
    assert (Harm.INTERRUPTED in fault.harms) is (kills or loses_connections)
