"""A picture of runs side by side: backlog, workers and waits over time, one row for each contender, as one SVG file."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from xml.sax.saxutils import escape

from warren_operator.simulation.report import Curve, Figures

SLICES = 240
"""Points in time of each curve: about as many as a panel has pixels to show."""

WIDTH, MARGIN, GAP = 1180, 24, 56
PANEL_HEIGHT, ROW_HEIGHT, TOP = 120, 196, 84
PANEL_WIDTH = (WIDTH - 2 * MARGIN - 2 * GAP - 36) // 3
PANELS = (
    "Backlog (tasks waiting or in hand)",
    "Workers (pods, until they are gone)",
    "Wait of the tasks that came then (s)",
)
COLOURS = ("#c2410c", "#1d4ed8", "#0f766e")

STYLE = """\
svg{background:#fff;font-family:system-ui,-apple-system,"Segoe UI",Roboto,"DejaVu Sans",sans-serif}
text{fill:#475569;font-size:11px}.title{font-size:17px;font-weight:600;fill:#0f172a}.name{font-size:14px;font-weight:600;fill:#0f172a}
.figures{font-size:12px;fill:#334155}.panel{font-size:11px;fill:#475569;font-weight:600}.grid{stroke:#e2e8f0;stroke-width:1}
.axis{stroke:#94a3b8;stroke-width:1}.end{text-anchor:end}.middle{text-anchor:middle}.high{fill-opacity:.22;stroke:none}
.mean{fill:none;stroke-width:1.6;stroke-linejoin:round}.rule{stroke:#e2e8f0}
@media(prefers-color-scheme:dark){svg{background:#0f172a}text{fill:#94a3b8}.title,.name{fill:#f1f5f9}.figures{fill:#cbd5e1}
.panel{fill:#94a3b8}.grid,.rule{stroke:#1e293b}.axis{stroke:#475569}.high{fill-opacity:.35}}"""


@dataclass(frozen=True)
class Row:
    """One contender in the picture.

    Attributes:
        figures: of its run.
        curves: backlog, workers and waits over time.
    """

    figures: Figures
    curves: tuple[Curve, Curve, Curve]


def picture(title: str, rows: Sequence[Row]) -> str:
    """The SVG file. Scales are shared by all rows, so that heights can be compared."""
    height = TOP + ROW_HEIGHT * len(rows) + 8
    tops = [_nice_top(max(max(row.curves[panel].high, default=0.0) for row in rows)) for panel in range(3)]
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" role="img">',
        f"<title>{escape(title)}</title><style>{STYLE}</style>",
        f'<text class="title" x="{MARGIN}" y="34">{escape(title)}</text>',
        f'<text x="{MARGIN}" y="54">Line: mean; shade: highest value. All rows have the same scales.</text>',
    ]
    for index, row in enumerate(rows):
        parts += _row(row, TOP + ROW_HEIGHT * index, tops)
    return "\n".join([*parts, "</svg>\n"])


def _row(row: Row, y: float, tops: Sequence[float]) -> list[str]:
    told = row.figures
    words = (
        f"wait {told.wait_p50:.1f} s median, {told.wait_p95:.1f} s p95, {told.wait_max:.1f} s max · "
        f"{told.pod_seconds:.0f} pod-seconds, {told.pod_seconds_per_work:.2f} per second of work · "
        f"{told.ups} up, {told.downs} down · {told.interrupted} tasks cut off"
    )
    parts = [
        f'<line class="rule" x1="{MARGIN}" x2="{WIDTH - MARGIN}" y1="{y - 14}" y2="{y - 14}"/>',
        f'<text x="{MARGIN}" y="{y + 4}"><tspan class="name">{escape(_short(told.name))}</tspan>',
        f'<tspan class="figures" dx="14">{escape(words)}</tspan></text>',
    ]
    for panel, curve in enumerate(row.curves):
        x = MARGIN + 36 + panel * (PANEL_WIDTH + GAP)
        parts += _panel(panel, curve, x, y + 32, tops[panel])
    return parts


def _panel(panel: int, curve: Curve, x: float, y: float, top: float) -> list[str]:
    bottom = y + PANEL_HEIGHT
    parts = [f'<text class="panel" x="{x}" y="{y - 8}">{PANELS[panel]}</text>']
    for share in (0.0, 0.5, 1.0):
        level = bottom - share * PANEL_HEIGHT
        kind = "grid" if share else "axis"
        parts.append(f'<line class="{kind}" x1="{x}" x2="{x + PANEL_WIDTH}" y1="{level}" y2="{level}"/>')
        parts.append(f'<text class="end" x="{x - 6}" y="{level + 4}">{_number(top * share)}</text>')
    unit, name, step = _time_scale(curve.span)
    tick = 0.0
    while tick <= curve.span * 1.001:
        at = x + tick / curve.span * PANEL_WIDTH
        label = f"{tick / unit:g}" + (f" {name}" if tick + step > curve.span * 1.001 else "")
        parts.append(f'<text class="middle" x="{at:.1f}" y="{bottom + 15}">{label}</text>')
        tick += step
    colour = COLOURS[panel]
    high = _path(curve.high, x, y, top)
    parts.append(f'<path class="high" fill="{colour}" d="{high}V{bottom}H{x}Z"/>')
    parts.append(f'<path class="mean" stroke="{colour}" d="{_path(curve.mean, x, y, top)}"/>')
    return parts


def _path(values: Sequence[float], x: float, y: float, top: float) -> str:
    """Steps: a value holds for its slice. Runs of equal values are one step."""
    width = PANEL_WIDTH / len(values)
    parts: list[str] = []
    before = ""
    for index, value in enumerate(values):
        level = f"{y + PANEL_HEIGHT * (1 - min(value, top) / top):.1f}".removesuffix(".0")
        if level == before:
            continue
        at = f"{x + index * width:.1f}".removesuffix(".0")
        parts.append(f"M{at} {level}" if not parts else f"H{at}V{level}")
        before = level
    return "".join(parts) + f"H{x + PANEL_WIDTH}"


def _nice_top(value: float) -> float:
    """The end of a scale: 1, 2, 3, 4, 5, 6 or 8 times a power of ten."""
    if value <= 0:
        return 1.0
    power = 10.0 ** math.floor(math.log10(value))
    return next((step * power for step in (1, 2, 3, 4, 5, 6, 8) if step * power >= value * 0.999), 10 * power)


def _time_scale(span: float) -> tuple[float, str, float]:
    """Seconds in a unit, its name, and seconds between two marks: three to six marks."""
    steps = (1, 2, 5, 10, 15, 20, 30, 60, 120, 300, 600, 900, 1200, 1800, 3600, 7200, 10800, 14400, 21600, 43200, 86400)
    step = next((float(step) for step in steps if span / step <= 6), 86400.0 * math.ceil(span / 86400 / 6))
    unit, name = (86400.0, "d") if step >= 86400 else (3600.0, "h") if step >= 3600 else (60.0, "min")
    return (unit, name, step) if step >= 60 else (1.0, "s", step)


def _number(value: float) -> str:
    return f"{value / 1000:g}k" if value >= 10_000 else f"{value:g}"


def _short(name: str) -> str:
    return name if len(name) <= 60 else name[:59] + "…"
