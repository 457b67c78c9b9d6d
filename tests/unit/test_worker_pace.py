"""The pace of reports: what it allows at once, and in the long run."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from warren_worker.pace import Pace


def test_after_a_quiet_time_a_burst_goes_at_once_and_the_next_has_to_wait() -> None:
    pace = Pace(gap=1.0, burst=2)
    waits = []
    for _ in range(3):
        waits.append(pace.wait(100.0))
        pace.spend(100.0)
    assert waits == [0.0, 0.0, pytest.approx(1.0)]
    assert pace.wait(103.0) == 0.0


@given(pauses=st.lists(st.floats(0.0, 3.0), min_size=1, max_size=60), burst=st.integers(1, 4))
def test_who_waits_as_told_never_says_more_than_the_burst_and_one_a_gap(pauses: list[float], burst: int) -> None:
    pace, now, said = Pace(1.0, burst), 0.0, []
    for pause in pauses:
        now += pause
        now += pace.wait(now)
        pace.spend(now)
        said.append(now)
    for first, begin in enumerate(said):
        for last in range(first, len(said)):
            assert last - first + 1 <= burst + (said[last] - begin) / 1.0 + 1e-6
