"""The live picture: pure functions from queue states over time to something that rich can show."""

from collections.abc import Sequence
from dataclasses import dataclass

from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.table import Table
from rich.text import Text

from warren_cli.client import QueueStatus

CHARTED = 4
"""Queues that get a chart; more do not fit on a screen."""

CHART_WIDTH = 60
CHART_HEIGHT = 4
LABEL_WIDTH = 20
"""Columns of what stands beside a chart; the table above has the whole of a longer name."""

NAME_WIDTH = 10
"""Columns that a table leaves to a longer name at least; where they are not there, it is no table."""

GAP = 2
"""Columns between two of a table."""

_BLOCKS = " ▁▂▃▄▅▆▇█"


@dataclass(frozen=True, slots=True)
class Sample:
    """All queues at one moment.

    Attributes:
        at: Unix time in seconds.
        queues: their states.
    """

    at: float
    queues: tuple[QueueStatus, ...]


def render(samples: Sequence[Sample], *, width: int = CHART_WIDTH, note: str = "") -> RenderableType:
    """The picture of the last sample, with charts of how it came about.

    Args:
        samples: oldest first.
        width: columns of a chart; its right end is now.
        note: a line above, such as an error: what is below is cut off where there are many queues.
    """
    parts: list[RenderableType] = []
    if note:
        parts += [Text(note, style="yellow"), Text("")]
    if samples:
        latest = samples[-1]
        parts.append(table(latest.queues))
        for status in _charted(latest.queues):
            parts += [Text(""), chart(status.queue, samples, width=width)]
    else:
        parts.append(Text("waiting for the first answer", style="dim"))
    return Group(*parts)


def table(queues: Sequence[QueueStatus]) -> RenderableType:
    """One line for each queue, and below them why each has the workers that it has.

    Names and numbers are there as a whole, however long: a name goes on in the next line, and where the numbers leave
    no room for one, each queue is a sentence.
    """
    return _Queues(tuple(queues)) if queues else Text("no queues yet: the operator has told of none", style="dim")


@dataclass(frozen=True, slots=True)
class _Queues:
    queues: tuple[QueueStatus, ...]

    def __rich_console__(self, _console: Console, options: ConsoleOptions) -> RenderResult:
        titles = ("READY", "UNACKED", "DELAYED", "DEAD", "WORKERS", "BUSY", "WANTED", "WAIT")
        rows = [_numbers(status) for status in self.queues]
        widths = [max(map(len, column)) for column in zip(titles, *rows, strict=True)]
        room = options.max_width - sum(widths) - GAP * (len(widths) + 1)
        if room < min(NAME_WIDTH, max(len(status.queue) for status in self.queues)):
            for status in self.queues:
                yield Text(plain_line(status), style=_style(status), overflow="fold")
            return
        grid = Table(box=None, pad_edge=False, padding=(0, GAP, 0, 0))
        grid.add_column("QUEUE", max_width=room, overflow="fold", style="bold")
        for title, width in zip(titles, widths, strict=True):
            grid.add_column(title, justify="right", no_wrap=True, min_width=width)
        reasons = Table(box=None, pad_edge=False, padding=(0, GAP, 0, 0), show_header=False)
        reasons.add_column(max_width=max(NAME_WIDTH, options.max_width // 2), overflow="fold", style="bold")
        reasons.add_column(overflow="fold", ratio=1)
        for status, row in zip(self.queues, rows, strict=True):
            grid.add_row(Text(status.queue), *row)
            reasons.add_row(Text(status.queue), Text(why(status), style=_style(status)))
        yield grid
        yield Text("")
        yield reasons


def _numbers(status: QueueStatus) -> tuple[str, ...]:
    counts = (status.ready, status.unacked, status.delayed, status.dead, status.workers, status.busy, status.desired)
    return (*map(number, counts), seconds(status.estimated_wait))


def _style(status: QueueStatus) -> str:
    return "yellow" if status.stale or not status.exists else ""


def chart(
    queue: str, samples: Sequence[Sample], *, width: int = CHART_WIDTH, height: int = CHART_HEIGHT
) -> RenderableType:
    """Backlog (waiting and in work) and workers of one queue as bars over time, each on its own scale."""
    states = [next((status for status in sample.queues if status.queue == queue), None) for sample in samples]
    backlog = [0 if status is None else status.backlog for status in states]
    workers = [0 if status is None else status.workers or 0 for status in states]
    ceiling = max((status.max_replicas or 0 for status in states if status is not None), default=0)
    grid = Table.grid(padding=(0, 1))
    grid.add_column(max_width=LABEL_WIDTH, no_wrap=True, overflow="ellipsis")
    grid.add_column(no_wrap=True)
    for title, values, top, style in (
        ("backlog", backlog, max(backlog, default=0), "cyan"),
        ("workers", workers, max([ceiling, *workers]), "green"),
    ):
        label = f"{queue}\n{title}\n{values[-1] if values else 0} now\n{max(values, default=0)} at most"
        bars = bar_rows(values, width=width, height=height, top=top)
        grid.add_row(Text(label), Text("\n".join(f"▕{row}▏" for row in bars), style=style, no_wrap=True))
    return grid


def bar_rows(values: Sequence[int], *, width: int, height: int, top: int) -> list[str]:
    """Bars of block characters, one column a value, newest at the right; rows from top to bottom.

    Where there are more values than columns, each column shows the highest of its share, so that no peak is lost. A
    value above zero always shows.

    Args:
        values: oldest first, none negative.
        width: columns.
        height: rows.
        top: the value that fills a column.
    """
    columns = _resample(values, width)
    steps = [0 if value <= 0 or top <= 0 else max(1, round(min(value, top) / top * height * 8)) for value in columns]
    rows = []
    for row in range(height - 1, -1, -1):
        line = "".join(_BLOCKS[min(8, max(0, step - row * 8))] for step in steps)
        rows.append(line.rjust(width))
    return rows


def plain_line(status: QueueStatus) -> str:
    """One queue in one line, for logs and pipes."""
    return (
        f"{status.queue}: ready={number(status.ready)} unacked={number(status.unacked)} "
        f"workers={number(status.workers)} busy={number(status.busy)} wanted={number(status.desired)} "
        f"wait={seconds(status.estimated_wait)} why={why(status)}"
    )


def why(status: QueueStatus) -> str:
    """The operator's reason, and what to know about it."""
    if not status.exists:
        missing = "the broker does not have this queue"
        return f"{missing}; {status.reason}" if status.reason else missing
    if status.state_age is None:
        return "the operator has not told of this queue"
    reason = status.problem or status.reason or ""
    if status.limited_by and status.limited_by not in reason:
        reason += f" (limited by {status.limited_by})"
    return f"operator silent for {seconds(status.state_age)}; last: {reason}" if status.stale else reason


def number(value: int | None) -> str:
    """The number, or `-` where it is not known."""
    return "-" if value is None else str(value)


def seconds(value: float | None) -> str:
    """A time for people: `-`, `0s`, `850ms`, `4.2s`, `3m20s`, `2h05m`."""
    if value is None:
        return "-"
    if value < 0.9995:
        return f"{value * 1000:.0f}ms" if value >= 0.0005 else "0s"
    if value < 9.95:
        return f"{value:.1f}s"
    whole = round(value)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02d}s"
    return f"{whole // 3600}h{whole % 3600 // 60:02d}m"


def _charted(queues: Sequence[QueueStatus]) -> list[QueueStatus]:
    """The queues with the most to see, in the order of the table."""
    busiest = sorted(queues, key=lambda status: (status.backlog, status.workers or 0), reverse=True)[:CHARTED]
    return [status for status in queues if status in busiest]


def _resample(values: Sequence[int], width: int) -> list[int]:
    if len(values) <= width:
        return list(values)
    return [max(values[column * len(values) // width : (column + 1) * len(values) // width]) for column in range(width)]
