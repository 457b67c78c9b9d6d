"""The live picture as a pure function of samples."""

import io

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console, RenderableType

from warren_cli.client import QueueStatus
from warren_cli.view import Sample, bar_rows, chart, plain_line, render, seconds, table, why

BLOCKS = " ▁▂▃▄▅▆▇█"


def shown(renderable: RenderableType, width: int = 100) -> str:
    console = Console(file=io.StringIO(), width=width, force_terminal=False)
    console.print(renderable)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def status(**values: object) -> QueueStatus:
    return QueueStatus(**{"queue": "q", "stale": False, "state_age": 1.0, "reason": "because", **values})  # type: ignore[arg-type]


def height_of(rows: list[str], column: int) -> int:
    return sum(BLOCKS.index(row[column]) for row in rows)


@given(st.lists(st.integers(0, 10**6), max_size=300), st.integers(1, 80), st.integers(1, 8), st.integers(0, 10**6))
def test_bars_fill_their_box_and_keep_their_order(values: list[int], width: int, height: int, top: int) -> None:
    rows = bar_rows(values, width=width, height=height, top=top)
    assert [len(row) for row in rows] == [width] * height
    heights = [height_of(rows, column) for column in range(width)]
    assert max(heights) <= height * 8
    if len(values) <= width:
        bars = heights[width - len(values) :]
        assert not any(heights[: width - len(values)]), "the newest is at the right"
        for value, bar in zip(values, bars, strict=True):
            assert (bar > 0) == (value > 0 and top > 0), "a value above zero always shows"
        for one, other in zip(sorted(values), sorted(bars), strict=True):
            assert top == 0 or bars[values.index(one)] == other, "a higher value is never a lower bar"


def test_a_bar_has_no_holes() -> None:
    assert bar_rows([0, 4, 8, 12, 16], width=5, height=2, top=16) == ["   ▄█", " ▄███"]


def test_no_peak_is_lost_where_columns_are_shared() -> None:
    values = [0] * 500
    values[123] = 9
    rows = bar_rows(values, width=50, height=1, top=9)
    assert rows[0].count("█") == 1


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, "-"), (0.0, "0s"), (0.0004, "0s"), (0.25, "250ms"), (0.9999, "1.0s"), (4.26, "4.3s"), (9.96, "10s"),
     (59.6, "1m00s"), (200, "3m20s"), (7500, "2h05m")],
)  # fmt: skip
def test_times_are_for_people(value: float | None, text: str) -> None:
    assert seconds(value) == text


def test_the_table_shows_what_is_known_and_why() -> None:
    text = shown(
        table([status(ready=12, unacked=3, delayed=0, dead=1, workers=4, busy=3, desired=5, estimated_wait=4.0)])
    )
    head, row = (line.split() for line in text.splitlines()[:2])
    values = dict(zip(head, row, strict=True))
    assert values == {
        "QUEUE": "q", "READY": "12", "UNACKED": "3", "DELAYED": "0", "DEAD": "1",
        "WORKERS": "4", "BUSY": "3", "WANTED": "5", "WAIT": "4.0s",
    }  # fmt: skip
    assert "because" in text


@pytest.mark.parametrize("width", [20, 40, 60, 79, 80, 100, 250])
@pytest.mark.parametrize("name", ["q", "task_queue", "thumbnails-production-europe-west", "q" * 200])
def test_names_and_numbers_are_whole_in_every_width(width: int, name: str) -> None:
    text = shown(table([status(queue=name, ready=1234567, unacked=8901234, workers=56, reason="because")]), width)
    assert "…" not in text
    for word in ("1234567", "8901234", "56", "because"):
        assert word in text
    letters = [letter for letter in text if letter in name]
    assert len(letters) >= len(name)
    assert all(len(line.rstrip()) <= width for line in text.splitlines())


@pytest.mark.parametrize("name", ["q", "thumbnails-production-europe-west", "q" * 200])
@pytest.mark.parametrize("width", [40, 80, 200])
def test_the_newest_column_of_a_chart_is_there_beside_every_name(width: int, name: str) -> None:
    samples = [Sample(float(at), (status(queue=name, ready=at, workers=at),)) for at in range(9)]
    rows = shown(chart(name, samples, width=max(10, width - 24)), width).splitlines()
    assert all(row.rstrip().endswith("▏") for row in rows)
    assert rows[3].rstrip().endswith("█▏")


def test_a_reason_is_text_and_no_markup() -> None:
    assert "[red]alarm[/red]" in shown(table([status(reason="[red]alarm[/red]")]))


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({}, "because"),
        ({"limited_by": "maxReplicas"}, "because (limited by maxReplicas)"),
        ({"problem": "ScaleTargetMissing: make it"}, "ScaleTargetMissing: make it"),
        ({"stale": True, "state_age": 95.0}, "operator silent for 1m35s; last: because"),
        ({"state_age": None, "stale": True}, "the operator has not told of this queue"),
        ({"exists": False}, "the broker does not have this queue; because"),
    ],
)
def test_why_says_how_far_to_trust_it(values: dict[str, object], words: str) -> None:
    assert why(status(**values)) == words


def test_the_picture_has_a_chart_for_the_busiest_queues_and_a_note() -> None:
    queues = tuple(status(queue=f"q{n}", ready=n, workers=n) for n in range(7))
    text = shown(render([Sample(1.0, queues), Sample(2.0, queues)], note="lost the producer"), width=120)
    assert "lost the producer" in text
    assert text.count("backlog") == 4
    for name in ("q3", "q4", "q5", "q6"):
        assert f"{name}\n" in text or f"{name} " in text
    assert "at most" in text


def test_a_note_is_not_cut_off_by_many_queues() -> None:
    """As on a terminal, which shows the first lines only."""
    text = shown(render([Sample(1.0, tuple(status(queue=f"q{n}") for n in range(50)))], note="lost the producer"))
    assert text.startswith("lost the producer\n")


def test_a_chart_remembers_its_peak() -> None:
    samples = [
        Sample(float(at), (status(ready=ready, workers=0, max_replicas=10),)) for at, ready in enumerate([0, 40, 7])
    ]
    text = shown(chart("q", samples, width=20))
    assert "7 now" in text
    assert "40 at most" in text


def test_pictures_of_nothing_say_so() -> None:
    assert "waiting" in shown(render([]))
    assert "no queues yet" in shown(render([Sample(1.0, ())]))


def test_a_plain_line_has_it_all_in_one_line() -> None:
    line = plain_line(status(ready=1, unacked=2, workers=3, busy=2, desired=3, estimated_wait=0.5))
    assert line == "q: ready=1 unacked=2 workers=3 busy=2 wanted=3 wait=500ms why=because"
