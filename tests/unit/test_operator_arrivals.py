"""The measured rate of arrival."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from warren_operator.arrivals import DIP, SPAN, SPANS, Arrivals


def after(*arrivals: float, until: float, every: float = 0.25) -> float | None:
    """The rate at a time, of tasks that came in at these times, read in steps."""
    measured = Arrivals(0.0)
    steps = int(until / every)
    for step in range(steps + 1):
        now = step * every
        measured.note(sum(at <= now for at in arrivals), now)
    return measured.rate(until)


def steady(per_second: float, until: float) -> list[float]:
    """Times of an even stream."""
    return [(number + 1) / per_second for number in range(int(until * per_second))]


def test_nothing_is_known_before_half_of_the_time_looked_at() -> None:
    measured = Arrivals(0.0)
    measured.note(0, 0.0)
    assert measured.rate(SPAN * SPANS / 2 - 0.1) is None
    assert measured.rate(SPAN * SPANS / 2) == 0


@pytest.mark.parametrize("per_second", [0.5, 4.0, 50.0])
def test_an_even_stream_is_measured(per_second: float) -> None:
    assert after(*steady(per_second, 60), until=60) == pytest.approx(per_second, rel=0.05, abs=0.05)


def test_one_burst_is_no_traffic() -> None:
    assert after(*[30.0] * 60, until=40) == 0


@pytest.mark.parametrize("seconds", [0.5, 2.0, 4.0, 7.5])
def test_nor_is_one_that_takes_its_time(seconds: float) -> None:
    """Wherever the spans meet in it: a rate that shows for a moment keeps workers for half a minute."""
    burst = [30.0 + seconds * number / 60 for number in range(60)]
    assert {after(*burst, until=30.0 + later / 4) for later in range(1, 140)} == {0.0}


def test_a_stream_that_ended_is_forgotten_within_half_a_minute() -> None:
    stream = steady(3.0, 60)
    ended = stream[-1]
    assert after(*stream, until=ended + SPAN) not in (None, 0)
    assert after(*stream, until=ended + SPAN * (SPANS - 1) + 0.25) == 0


def test_a_task_each_few_seconds_is_traffic() -> None:
    rate = after(*steady(0.2, 60), until=60)
    assert rate is not None
    assert 0 < rate <= 0.4


def test_what_was_there_before_is_no_arrival() -> None:
    measured = Arrivals(0.0)
    for second in range(60):
        measured.note(1000, float(second))
    assert measured.rate(60.0) == 0


def test_reports_that_come_late_add_nothing() -> None:
    """A worker takes a task, which is no longer ready, and tells it a second later."""
    measured = Arrivals(0.0)
    for second in range(60):
        measured.note(10, float(second))
        measured.note(9, second + 0.25)
    assert measured.rate(60.0) == 0


def test_a_purged_queue_is_counted_from_there() -> None:
    measured = Arrivals(0.0)
    measured.note(0, 0.0)
    measured.note(500, 1.0)
    for second in range(2, 80):
        measured.note(max(0, second - 20) * 2, float(second))  # purged, and two a second from 20 s on
    assert measured.rate(80.0) == pytest.approx(2.0, abs=0.3)
    assert DIP < SPAN


@given(st.lists(st.tuples(st.floats(0, 5), st.integers(-50, 200)), max_size=60))
def test_a_rate_is_never_negative_nor_larger_than_what_came_in(steps: list[tuple[float, int]]) -> None:
    measured, now, total, came = Arrivals(0.0), 0.0, 0, 0
    for pause, change in steps:
        now, total, came = now + pause, total + change, came + max(0, change)
        measured.note(total, now)
        rate = measured.rate(now)
        assert rate is None or 0 <= rate * SPAN <= came
