"""Bounds by the time of day."""

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from warren_operator.schedule import ScheduleError, Window, bounds_at, check_window

OFFICE = Window("0 8 * * 1-5", "0 18 * * 1-5", "Europe/Berlin", min_replicas=2)


def at(text: str, zone: str = "Europe/Berlin") -> float:
    """Unix time of a moment where people are."""
    return datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(zone)).timestamp()


@pytest.mark.parametrize(
    ("moment", "fewest"),
    [
        ("2026-11-24 07:59:59", 0),
        ("2026-11-24 08:00:00", 2),
        ("2026-11-24 08:00:30", 2),
        ("2026-11-24 17:59:59", 2),
        ("2026-11-24 18:00:00", 0),
        ("2026-11-28 12:00:00", 0),  # a Saturday
        ("2026-07-01 08:00:00", 2),  # summer time
        ("2026-07-01 07:30:00", 0),
    ],
)
def test_a_window_opens_and_closes_by_the_clock_on_the_wall(moment: str, fewest: int) -> None:
    assert bounds_at([OFFICE], 0, 10, at(moment)).min_replicas == fewest


def test_it_is_told_until_when_the_bounds_hold() -> None:
    bounds = bounds_at([OFFICE], 0, 10, at("2026-11-24 12:00:00"))
    assert bounds.until == at("2026-11-24 18:00:00")
    assert (bounds.min_scheduled, bounds.max_scheduled) == ("Tue 18:00 Europe/Berlin", "")
    outside = bounds_at([OFFICE], 0, 10, at("2026-11-27 20:00:00"))
    assert (outside.until, outside.min_scheduled) == (at("2026-11-30 08:00:00"), "")


def test_a_window_over_midnight() -> None:
    night = Window("0 22 * * *", "0 6 * * *", "UTC", max_replicas=50)
    assert [
        bounds_at([night], 0, 10, at(f"2026-11-24 {hour}:00:00", "UTC")).max_replicas
        for hour in ("21", "23", "03", "07")
    ] == [10, 50, 50, 10]


def test_of_several_open_windows_the_last_one_that_names_a_bound_decides_it() -> None:
    noon = Window("0 12 * * *", "0 13 * * *", "Europe/Berlin", min_replicas=5, max_replicas=6)
    bounds = bounds_at([noon, OFFICE], 0, 10, at("2026-11-24 12:30:00"))
    assert (bounds.min_replicas, bounds.max_replicas) == (2, 6)
    assert (bounds.min_scheduled, bounds.max_scheduled) == ("Tue 18:00 Europe/Berlin", "Tue 13:00 Europe/Berlin")


def test_a_maximum_below_the_usual_minimum_takes_that_along() -> None:
    closed = Window("0 0 * * *", "0 1 * * *", "UTC", max_replicas=0)
    bounds = bounds_at([closed], 3, 10, at("2026-11-24 00:30:00", "UTC"))
    assert (bounds.min_replicas, bounds.max_replicas) == (0, 0)
    assert bounds.min_scheduled == bounds.max_scheduled == "Tue 01:00 UTC"


def test_the_hour_that_summer_time_leaves_out_still_opens_the_window() -> None:
    early = Window("30 2 * * *", "0 9 * * *", "Europe/Berlin", min_replicas=1)
    assert bounds_at([early], 0, 10, at("2026-03-29 04:00:00")).min_replicas == 1


@pytest.mark.parametrize(
    ("start", "end", "opens"),
    [
        (
            "50 * * * *",
            "10 * * * *",
            ("00:50+02", "01:50+02", "02:50+02", "02:50+01", "03:50+01"),
        ),  # twenty minutes each
        ("30 2 * * *", "50 2 * * *", ("02:30+02",)),  # what has a time of day happens once, the first time
        ("15 2 * * *", "35 4 * * *", ("02:15+02",)),
        ("30 1 * * *", "30 2 * * *", ("01:30+02",)),
    ],
)
def test_the_hour_that_comes_twice_is_two_hours(start: str, end: str, opens: tuple[str, ...]) -> None:
    """Each minute of the night in which summer time ends, as an operator would see it that starts just then."""
    window = Window(start, end, "Europe/Berlin", min_replicas=1)
    begin, last = (datetime.fromisoformat(f"2026-10-25T{text}").timestamp() for text in ("00:30+02:00", "04:30+01:00"))
    length = {"50 * * * *": 20, "30 2 * * *": 20, "15 2 * * *": 200, "30 1 * * *": 60}[start]
    starts = [datetime.fromisoformat(f"2026-10-25T{text}:00").timestamp() for text in opens]
    moment = begin
    while moment < last:
        bounds = bounds_at([window], 0, 10, moment)
        expected = any(opened <= moment < opened + length * 60 for opened in starts)
        assert bool(bounds.min_replicas) is expected, datetime.fromtimestamp(moment, UTC)
        assert bounds.until is not None
        assert bounds.until > moment
        moment += 60


@given(st.integers(0, 60 * 24 * 400))
def test_bounds_hold_until_they_say(minutes: int) -> None:
    """Nothing changes between a moment and the one at which they have to be looked up again."""
    start = at("2026-01-01 00:00:00") + minutes * 60.0
    windows = [OFFICE, Window("0 22 * * *", "15 6 * * *", "America/New_York", max_replicas=50)]
    bounds = bounds_at(windows, 0, 10, start)
    assert bounds.until is not None
    assert start < bounds.until <= start + timedelta(days=4).total_seconds()
    last = bounds_at(windows, 0, 10, bounds.until - 1)
    assert (last.min_replicas, last.max_replicas) == (bounds.min_replicas, bounds.max_replicas)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"time_zone": "Mars/Olympus"}, "timeZone 'Mars/Olympus' is not known: write a name such as Europe/Berlin"),
        ({"time_zone": "../etc/passwd"}, "is not known"),
        ({"start": "8:00"}, "start '8:00': write five fields"),
        ({"start": "0 25 * * *"}, "start '0 25 * * *' is no time that comes"),
        ({"end": "0 0 30 2 *"}, "end '0 0 30 2 *' is no time that comes"),
        ({"end": "0 0 * * * *"}, "write five fields"),
    ],
)
def test_what_is_wrong_is_named(change: dict[str, str], says: str) -> None:
    fields = {"start": "0 8 * * *", "end": "0 9 * * *", "time_zone": "UTC", **change}
    with pytest.raises(ScheduleError) as caught:
        check_window(Window(fields["start"], fields["end"], fields["time_zone"], min_replicas=1))
    assert says in str(caught.value)
