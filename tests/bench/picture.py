"""A run as a picture: the backlog, and the workers asked for and there, over time. Plain SVG, no library."""

from collections.abc import Sequence
from html import escape

from recording import Recording

WIDTH, HEIGHT, LEFT, TOP, GAP = 900, 160, 60, 40, 50
"""Pixels: of each of the two panels, and around them."""

LINES = {"waiting": "#c0392b", "asked for": "#7f8c8d", "there": "#2471a3", "with a task": "#27ae60"}
"""Colours."""

Series = Sequence[tuple[float, float]]


def steps(changes: Sequence[tuple[float, int]]) -> list[tuple[float, float]]:
    """(time, by how much) as (time, value after it), in order."""
    value, found = 0, []
    for at, by in sorted(changes):
        value += by
        found.append((at, float(value)))
    return found


def series(run: Recording) -> dict[str, Series]:
    """What is drawn, in seconds from the first confirm."""
    zero, end = run.began, max(pod.gone or run.ended for pod in run.pods)
    seconds = {task.id: task.seconds for task in run.tasks}
    pods = [(pod.born, 1) for pod in run.pods] + [(pod.gone, -1) for pod in run.pods if pod.gone is not None]
    hands = [(item.since, 1) for item in run.deliveries]
    hands += [(item.since + seconds.get(item.task, 0.0), -1) for item in run.deliveries]
    drawn = {
        "waiting": [(at, float(count)) for at, count in run.ready],
        "asked for": [(at, float(count)) for at, count in run.replicas],
        "there": steps(pods),
        "with a task": steps(hands),
    }
    return {
        name: [(max(0.0, at - zero), value) for at, value in points if at <= end + 1] for name, points in drawn.items()
    }


def picture(title: str, run: Recording) -> str:
    """The run as an SVG document."""
    drawn = series(run)
    span = max((at for points in drawn.values() for at, _ in points), default=1.0) or 1.0
    height = TOP + 2 * (HEIGHT + GAP)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{LEFT + WIDTH + 20}" height="{height}">',
        "<style>text{font:12px sans-serif}</style>",
        '<rect width="100%" height="100%" fill="white"/>',
        f'<text x="{LEFT}" y="18">{escape(title)}</text>',
        *_panel({"waiting": drawn["waiting"]}, TOP, span, "tasks"),
        *_panel({name: drawn[name] for name in list(LINES)[1:]}, TOP + HEIGHT + GAP, span, "workers"),
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


def _panel(drawn: dict[str, Series], top: int, span: float, unit: str) -> list[str]:
    highest = max((value for points in drawn.values() for _, value in points), default=1.0) or 1.0
    bottom = top + HEIGHT
    parts = [
        f'<path d="M{LEFT} {top}V{bottom}H{LEFT + WIDTH}" fill="none" stroke="black"/>',
        f'<text x="{LEFT - 6}" y="{top + 10}" text-anchor="end">{highest:g}</text>',
        f'<text x="{LEFT - 6}" y="{bottom}" text-anchor="end">0</text>',
        f'<text x="{LEFT + WIDTH}" y="{bottom + 16}" text-anchor="end">{span:.0f} s</text>',
    ]
    for number, (name, points) in enumerate(drawn.items()):
        path = "".join(
            f"{'H' if index else 'M'}{LEFT + at / span * WIDTH:.1f}"
            f"{'V' if index else ' '}{bottom - value / highest * HEIGHT:.1f}"
            for index, (at, value) in enumerate(points)
        )
        parts.append(f'<path d="{path}" fill="none" stroke="{LINES[name]}" stroke-width="1.5"/>')
        parts.append(
            f'<text x="{LEFT + 10 + 130 * number}" y="{top - 6}" fill="{LINES[name]}">{escape(name)} ({unit})</text>'
        )
    return parts
