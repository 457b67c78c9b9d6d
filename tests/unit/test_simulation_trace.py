"""Loads in words and in files."""

import itertools
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from warren_operator.simulation.trace import LONGEST, TraceError, is_made_up, made_up, read_trace


def test_a_burst() -> None:
    load = made_up("burst:3x2s,30s", seed=1)
    assert list(zip(load.at, load.takes, strict=True)) == [(30.0, 2.0)] * 3


def test_work_in_turn_at_random_and_exponential() -> None:
    assert list(made_up("burst:4x4s|1m", seed=1).takes) == [4.0, 60.0, 4.0, 60.0]
    between = made_up("burst:500x1s..3s", seed=1).takes
    assert 1 <= min(between) < 1.1
    assert 2.9 < max(between) <= 3
    exponential = made_up("burst:5000x~2s", seed=1)
    assert exponential.work / 5000 == pytest.approx(2.0, rel=0.1)


def test_rates() -> None:
    assert len(made_up("poisson:600/m,2s,10m", seed=1)) == pytest.approx(6000, rel=0.1)
    load = made_up("steps:2s,1/s@5m,0/s@5m,6/s@5m", seed=1)
    counts = [sum(low <= at < low + 300 for at in load.at) for low in (0, 300, 600)]
    assert counts == [pytest.approx(300, rel=0.25), 0, pytest.approx(1800, rel=0.1)]
    wave = made_up("sine:1-9/s,2s,20m,10m", seed=1)
    minutes = [sum(low <= at < low + 60 for at in wave.at) for low in (0, 270, 570, 870)]
    assert max(minutes[0], minutes[2]) < 150
    assert min(minutes[1], minutes[3]) > 400


def test_loads_are_joined_in_order_of_time() -> None:
    load = made_up("burst:2x1s,10s+burst:1x5s", seed=1)
    assert list(load.at) == [0.0, 10.0, 10.0]
    assert list(load.takes) == [5.0, 1.0, 1.0]


def test_the_seed_decides() -> None:
    assert made_up("poisson:5/s,~2s,1m", seed=1) == made_up("poisson:5/s,~2s,1m", seed=1)
    assert made_up("poisson:5/s,~2s,1m", seed=1) != made_up("poisson:5/s,~2s,1m", seed=2)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("burst:60", "burst:60x2s"),
        ("burst:60x2", "not a duration"),
        ("poisson:5,2s,10m", "5/s"),
        ("poisson:5/s,2s", "poisson:5/s,2s,10m"),
        ("steps:2s", "steps:2s,1/s@5m"),
        ("sine:9-1/s,2s,1h", "lower rate"),
        ("burst:60x2s+what:5", "'what:5' is no load"),
        ("poisson:0/s,2s,10m", "without tasks"),
        ("sine:1-1000000/s,2s,24h", str(LONGEST)),
        ("burst:99999999x2s", str(LONGEST)),
        ("burst:1x2s,20000h", "366 days"),
    ],
)
def test_what_cannot_be_is_refused_with_what_to_write(text: str, told: str) -> None:
    assert is_made_up(text)
    with pytest.raises(TraceError, match=told.replace(".", r"\.")):
        made_up(text, seed=1)


@pytest.mark.parametrize("header", ["", "at,duration\n", "At, Duration\n"])
def test_csv(header: str) -> None:
    load = read_trace(f"{header}3,2\n\n0.5,1.25\n".splitlines())
    assert list(zip(load.at, load.takes, strict=True)) == [(0.5, 1.25), (3.0, 2.0)]
    assert load.start is None


def test_times_of_the_calendar_start_the_clock() -> None:
    load = read_trace(['{"at": "2026-01-01T00:00:10+00:00", "duration": 3}', '{"at": 1767225600, "duration": 1}'])
    assert list(load.at) == [0.0, 10.0]
    assert load.start == 1767225600.0


def test_no_day_of_the_calendar_is_too_early_to_start_the_clock() -> None:
    load = read_trace("2000-01-01 00:00:00Z,1\n2000-01-01T00:01:00Z,1\n".splitlines())
    assert list(load.at) == [0.0, 60.0]
    assert load.start == 946684800.0


def test_a_file_may_begin_as_spreadsheets_write_it() -> None:
    assert list(read_trace(["\ufeffat,duration\r\n", "3,2\r\n"]).at) == [3.0]


def test_one_of_several_queues_is_chosen() -> None:
    lines = "at,duration,queue\n0,1,a\n1,2,b\n".splitlines()
    assert list(read_trace(lines, "b").takes) == [2.0]
    with pytest.raises(TraceError, match="--queue \\(a, b\\)"):
        read_trace(lines)
    with pytest.raises(TraceError, match="no task of queue c"):
        read_trace(lines, "c")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "empty"),
        ("1,2\n3,x\n", "line 2: could not convert"),
        ("1,2\n3\n", "line 2"),
        ("1,-2\n", "line 1: '-2'"),
        ("at,took\n1,2\n", "at, duration"),
        ("at,duration\n", "without tasks"),
        ('{"at": 1}\n', "line 1"),
        ('{"at": 1, "duration": true}\n', "line 1"),
        ('{"at": 1, "duration": 2}\nnonsense\n', "line 2"),
        ("0,1\n1767225600,1\n", "366 days"),
        ("900000000,1\n", "366 days"),
        ("1767225600000,1\n", "line 1: '1767225600000' is no time in seconds: milliseconds"),
        pytest.param(f'{{"at": 1{"0" * 400}, "duration": 1}}\n', "line 1", id="digits"),
        pytest.param(f'0,1,"{"x" * 200_000}\n', "line 1: field larger", id="an open quote"),
    ],
)
def test_a_file_that_makes_no_sense_is_refused_with_its_line(text: str, told: str) -> None:
    with pytest.raises(TraceError, match=told):
        read_trace(text.splitlines())


@given(st.lists(st.tuples(st.floats(0, 1e6), st.floats(0, 1e4)), min_size=1, max_size=20))
def test_what_is_written_is_read(tasks: list[tuple[float, float]]) -> None:
    csv = (f"{at!r},{takes!r}" for at, takes in tasks)
    rows = (json.dumps({"at": at, "duration": takes}) for at, takes in tasks)
    for lines in (csv, rows):
        load = read_trace(lines)
        assert list(zip(load.at, load.takes, strict=True)) == sorted(tasks, key=lambda task: task[0])
        assert all(before <= after for before, after in itertools.pairwise(load.at))
