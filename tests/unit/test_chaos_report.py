"""The report's arithmetic, and that it stands alone: nothing in it leads elsewhere, and names are shown as they are."""

import re
import xml.etree.ElementTree as ET

from hypothesis import given
from hypothesis import strategies as st
from ledger import Answer, Death, Entries, Fault, Harm, Limits, Run, Submission, judge
from report import backlog, page, rate
from told import Told

TIMES = st.floats(0, 100)


def told() -> Told:
    entries = Entries(
        [Submission(f"t{number}", "amber", number, Answer.CONFIRMED, number + 0.5) for number in range(60)],
        [
            *(Run(f"t{number}", "w1", number + 1, number + 2, completed=True) for number in range(58)),
            Run("t5", "w2", 30, 31, completed=True),
        ],
        [Death("t58", 60, "<Value>")],
        [Fault("broker killed", "<b>&", 5, 20, frozenset(Harm)), Fault("rollout", "workers", 30, 31)],
    )
    return Told(7, 0, 60, entries, judge(entries, Limits(10, 5)), [(0, 1, 2), (30, 2, 2), (60, 0, 0)])


def test_the_page_tells_all_and_stands_alone() -> None:
    text = page(told())
    assert "task t59 was confirmed and is neither completed nor dead" in text
    assert "2 faults of 2 kinds" in text
    assert "<td>work</td><td>&lt;Value&gt;</td><td>1</td>" in text
    assert "repeated 25%" in text
    assert "broker killed: &lt;b&gt;&amp;" in text
    assert re.findall(r'(?:src|href)="', text) == []
    for picture in re.findall(r"<svg.*?</svg>", text, re.DOTALL):
        ET.fromstring(picture)  # noqa: S314  our own, just made


@given(st.lists(st.tuples(TIMES, st.none() | st.floats(0, 10)), max_size=20))
def test_the_backlog_is_never_below_zero_and_ends_with_what_is_owed(tasks: list[tuple[float, float | None]]) -> None:
    entries = Entries(
        [Submission(str(number), "q", at, Answer.CONFIRMED, at + 1) for number, (at, _) in enumerate(tasks)],
        [
            Run(str(number), "w", at, at + seconds, completed=True)
            for number, (at, seconds) in enumerate(tasks)
            if seconds is not None
        ],
    )
    values = [value for _, value in backlog(entries)]
    assert all(value >= 0 for value in values)
    assert (values or [0])[-1] == sum(seconds is None for _, seconds in tasks)


@given(st.lists(TIMES, max_size=50), st.floats(0.5, 10))
def test_a_rate_loses_no_event(times: list[float], step: float) -> None:
    assert round(sum(value * step for _, value in rate(times, 0, 100, step))) == len(times)
