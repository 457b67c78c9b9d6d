"""Curves as a picture: panels side by side in one SVG, without any library."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

WIDTH, HEIGHT = 360, 240
"""Of one panel, in pixels."""

LEFT, RIGHT, TOP, BOTTOM = 52, 14, 44, 40
"""Margins around its plot."""

COLUMNS = 2
COLOURS = ("#b5472f", "#2f6db5", "#4b8b3b", "#8b6a2f")


@dataclass(frozen=True)
class Curve:
    """A line through points (x, y).

    Attributes:
        name: for the legend.
        points: in the order of x.
    """

    name: str
    points: tuple[tuple[float, float], ...]


@dataclass(frozen=True)
class Panel:
    """One plot.

    Attributes:
        title: with the unit.
        curves: in it.
        limit: a value to stay under, drawn as a dashed line.
    """

    title: str
    curves: tuple[Curve, ...]
    limit: float | None = None


def draw(title: str, across: str, panels: Sequence[Panel]) -> str:
    """The picture.

    Args:
        title: of the whole.
        across: what the x axis has.
        panels: from left to right, two in a row.
    """
    rows = math.ceil(len(panels) / COLUMNS)
    width, height = COLUMNS * WIDTH, rows * HEIGHT + 30
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" font-family="sans-serif">',
        "<style>text { font-size: 11px }</style>",
        f'<rect width="{width}" height="{height}" fill="white"/>',
        f'<text x="{width / 2}" y="20" text-anchor="middle" style="font-size: 14px">{escape(title)}</text>',
    ]
    for number, panel in enumerate(panels):
        row, column = divmod(number, COLUMNS)
        parts.append(f'<g transform="translate({column * WIDTH},{row * HEIGHT + 30})">')
        parts += _panel(panel, across)
        parts.append("</g>")
    return "\n".join([*parts, "</svg>", ""])


def _panel(panel: Panel, across: str) -> list[str]:
    points = [point for curve in panel.curves for point in curve.points]
    right = max(x for x, _ in points) or 1
    top = ceiling(max([y for _, y in points] + ([] if panel.limit is None else [panel.limit])))

    def place(x: float, y: float) -> tuple[float, float]:
        return (
            round(LEFT + x / right * (WIDTH - LEFT - RIGHT), 1),
            round(HEIGHT - BOTTOM - y / top * (HEIGHT - TOP - BOTTOM), 1),
        )

    parts = [f'<text x="{LEFT}" y="16" style="font-size: 12px">{escape(panel.title)}</text>']
    for step in range(5):
        value = top * step / 4
        x, y = place(0, value)
        parts.append(f'<line x1="{x}" y1="{y}" x2="{WIDTH - RIGHT}" y2="{y}" stroke="#ddd"/>')
        parts.append(f'<text x="{x - 6}" y="{y + 4}" text-anchor="end">{value:g}</text>')
    shown: list[float] = []
    for value in sorted({x for x, _ in points}, reverse=True):
        x, y = place(value, 0)
        if all(abs(x - other) > 30 for other in shown):
            shown.append(x)
            parts.append(f'<text x="{x}" y="{y + 15}" text-anchor="middle">{value:g}</text>')
    parts.append(f'<text x="{WIDTH - RIGHT}" y="{HEIGHT - 8}" text-anchor="end">{escape(across)}</text>')
    if panel.limit is not None:
        x, y = place(0, panel.limit)
        parts.append(f'<line x1="{x}" y1="{y}" x2="{WIDTH - RIGHT}" y2="{y}" stroke="#888" stroke-dasharray="5 4"/>')
    for number, curve in enumerate(panel.curves):
        colour = COLOURS[number % len(COLOURS)]
        places = [place(x, y) for x, y in curve.points]
        line = " ".join(f"{x},{y}" for x, y in places)
        parts.append(f'<polyline points="{line}" fill="none" stroke="{colour}" stroke-width="1.8"/>')
        parts += [f'<circle cx="{x}" cy="{y}" r="2.5" fill="{colour}"/>' for x, y in places]
        at = LEFT + number * (WIDTH - LEFT - RIGHT) / len(panel.curves)
        parts.append(f'<text x="{at}" y="32" fill="{colour}">{escape(curve.name)}</text>')
    return parts


def ceiling(value: float) -> float:
    """The next round number that is not smaller: 1, 2, 4, 5 or 8 times a power of ten."""
    if value <= 0:
        return 1.0
    power = 10.0 ** math.floor(math.log10(value))
    return next(step * power for step in (1, 2, 4, 5, 8, 10) if step * power >= value * (1 - 1e-9))
