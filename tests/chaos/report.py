"""The report of a run: one HTML page with its pictures in it, without any library. Pure."""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from html import escape

from ledger import NO_REASON, Answer, Entries, Fault, Harm, Surplus, covered, outages, tally
from told import Told

WIDTH, LEFT, RIGHT = 1100, 168, 16
"""Pixels: of the picture, and beside its plots."""
PLOT = WIDTH - LEFT - RIGHT

SHORTEST_OUTAGE = 3.0
"""Seconds without a confirm that are worth telling: clients submit four times a second, and wait for their answers."""

COLOURS = {
    "broker killed": "#b03a2e",
    "broker cut off": "#d35400",
    "node lost": "#7d3c98",
    "alarm": "#c27c0e",
    "broker frozen": "#5b7fb5",
    "leaders moved": "#8d6e63",
    "connections dropped": "#1f618d",
    "connections slow": "#5499c7",
    "worker killed": "#c0392b",
    "worker frozen": "#d98880",
    "worker deleted": "#7f8c8d",
    "worker deleted by force": "#e67e22",
    "handler killed": "#af601a",
    "operator restarted": "#16a085",
    "producer restarted": "#2874a6",
    "scale storm": "#27ae60",
    "rollout": "#85929e",
}
"""Of the kinds of faults."""

Points = Sequence[tuple[float, float]]


@dataclass(frozen=True)
class Line:
    """A line of a plot, drawn as steps."""

    name: str
    colour: str
    points: Points


def page(told: Told) -> str:
    """The whole page."""
    verdict = told.verdict
    problems = verdict.problems()
    minutes = (told.ended - told.began) / 60
    parts = [
        "<!DOCTYPE html>",
        '<html lang="en"><head><meta charset="utf-8"><title>Warren under faults</title>',
        f"<style>{STYLE}</style></head><body>",
        "<h1>Warren under faults</h1>",
        f'<p class="{"bad" if problems else "good"}">'
        + (f"{len(problems)} problems" if problems else "Nothing lost, nothing unexpected, all else explained")
        + f"</p><p>Seed {told.seed}; {len(told.entries.faults)} faults of {len(told.kinds())} kinds in {minutes:.1f} "
        f"minutes. Repeat: <code>make chaos MINUTES={max(1, round(minutes))} SEED={told.seed}</code></p>",
        _figures(told),
    ]
    if problems:
        parts.append(_list("Problems", problems))
    parts += [
        "<h2>The course</h2>",
        timeline(told),
        "<h2>Confirms that stayed out</h2>",
        f"<p>Spans of {SHORTEST_OUTAGE:g} s and more in which clients submitted and no task was confirmed.</p>",
        _outages(told),
        "<h2>Dead letters, by what the task was to do and why it died</h2>",
        _reasons(told),
        "<h2>Duplicates, and what explains them</h2>",
        _covered(told),
        bars(verdict.duplicates, verdict.interruptions),
        _surplus(verdict.duplicates, told.began),
        "<h2>Faults</h2>",
        _faults(told),
        "</body></html>",
    ]
    return "\n".join(parts) + "\n"


STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 1100px; color: #222; padding: 0 1rem }
h1 { margin-bottom: 0 } h2 { margin-top: 2.2rem }
.good { color: #1e8449; font-size: 1.2rem } .bad { color: #b03a2e; font-size: 1.2rem }
table { border-collapse: collapse; font-size: 14px } td, th { padding: .15rem .9rem .15rem 0; text-align: left }
th { border-bottom: 1px solid #aaa } td.n, th.n { text-align: right }
.figures { display: flex; flex-wrap: wrap; gap: 1rem 2.4rem; margin: 1.2rem 0 }
.figures b { display: block; font-size: 1.6rem }
svg { max-width: 100%; height: auto } svg text { font: 12px system-ui, sans-serif }
details { margin-top: 1rem } summary { cursor: pointer }
"""


def _figures(told: Told) -> str:
    verdict = told.verdict
    figures = {
        "confirmed": verdict.confirmed,
        "completed": verdict.completed,
        "dead letters": verdict.dead,
        "refused": verdict.refused,
        "unknown to the client": verdict.unknown,
        "lost": verdict.lost,
        "unexpected": verdict.unexpected | verdict.belied,
        "duplicates": verdict.duplicates,
        "runs interrupted": verdict.interruptions,
    }
    cells = [f"<div><b>{len(its):,}</b>{escape(name)}</div>" for name, its in figures.items()]
    return f'<div class="figures">{"".join(cells)}</div>'


def timeline(told: Told) -> str:
    """Rates, what is owed, workers, faults and outages over time, one above the other."""
    ended = max([told.ended, *(run.ended or run.started for run in told.entries.runs)])
    span = ended - told.began
    kinds = [kind for kind in COLOURS if kind in told.kinds()]
    heights = [150, 110, 110, 16 * len(kinds) + 8, 26]
    titles = ["tasks a second", "confirmed and not done yet", "workers", "faults", "no confirms"]
    tops, top = [], 30
    for height in heights:
        tops.append(top)
        top += height + 38

    def x(at: float) -> float:
        return LEFT + min(max(at - told.began, 0.0), span) / span * PLOT

    parts = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {top}">']
    parts.append("<style>text { font: 12px system-ui, sans-serif }</style>")
    parts.append(f'<rect width="{WIDTH}" height="{top}" fill="white"/>')
    # What takes a while is a band behind the plots.
    for fault in told.entries.faults:
        if fault.ended - fault.began > 3 and fault.kind != "scale storm":
            left, width = x(fault.began), max(1.0, x(fault.ended) - x(fault.began))
            colour = COLOURS.get(fault.kind, "#888")
            for plot_top, height in zip(tops[:3], heights[:3], strict=True):
                parts.append(
                    f'<rect x="{left:.1f}" y="{plot_top}" width="{width:.1f}" height="{height}" fill="{colour}" '
                    'opacity="0.11"/>'
                )
    step = max(2.0, span / 250)
    plots: list[list[Line]] = [
        [
            Line("confirmed", "#1e8449", rate(_confirms(told.entries), told.began, ended, step)),
            Line("completed", "#2471a3", rate(_completions(told.entries), told.began, ended, step)),
            Line("refused or unknown", "#c0392b", rate(_no_confirms(told.entries), told.began, ended, step)),
        ],
        [Line("owed", "#6c3483", backlog(told.entries))],
        [
            Line("there", "#aab7b8", [(at, float(there)) for at, _, there in told.samples]),
            Line("ready", "#117a65", [(at, float(well)) for at, well, _ in told.samples]),
        ],
    ]
    for lines, plot_top, height, title in zip(plots, tops, heights, titles, strict=False):
        parts += _plot(lines, plot_top, height, title, x)
    parts += _lanes(told.entries.faults, kinds, tops[3], x)
    parts += _gaps(told, tops[4], heights[4], x)
    parts += _axis(span, top - 22, x, told.began)
    return "\n".join([*parts, "</svg>"])


def _plot(lines: Sequence[Line], top: int, height: int, title: str, x: Callable[[float], float]) -> list[str]:
    highest = max((value for line in lines for _, value in line.points), default=1.0) or 1.0
    bottom = top + height
    parts = [
        f'<text x="{LEFT}" y="{top - 8}" font-weight="bold">{escape(title)}</text>',
        f'<path d="M{LEFT} {top}V{bottom}H{LEFT + PLOT}" fill="none" stroke="#999"/>',
        f'<text x="{LEFT - 6}" y="{top + 10}" text-anchor="end">{highest:.3g}</text>',
        f'<text x="{LEFT - 6}" y="{bottom}" text-anchor="end">0</text>',
    ]
    at = LEFT + 210
    for line in lines:
        path = "".join(
            f"{'H' if number else 'M'}{x(when):.1f}{'V' if number else ' '}{bottom - value / highest * height:.1f}"
            for number, (when, value) in enumerate(line.points)
        )
        parts.append(f'<path d="{path or "M0 0"}" fill="none" stroke="{line.colour}" stroke-width="1.5"/>')
        if len(lines) > 1:
            parts.append(f'<text x="{at}" y="{top - 8}" fill="{line.colour}">{escape(line.name)}</text>')
            at += 30 + 7 * len(line.name)
    return parts


def _lanes(faults: Iterable[Fault], kinds: Sequence[str], top: int, x: Callable[[float], float]) -> list[str]:
    parts = [f'<text x="{LEFT}" y="{top - 8}" font-weight="bold">faults</text>']
    for number, kind in enumerate(kinds):
        y = top + 16 * number
        parts.append(f'<path d="M{LEFT} {y + 8}H{LEFT + PLOT}" stroke="#eee"/>')
        for fault in faults:
            if fault.kind == kind:
                width = max(4.0, x(fault.ended) - x(fault.began))
                parts.append(
                    f'<rect x="{x(fault.began):.1f}" y="{y + 2}" width="{width:.1f}" height="12" rx="2" '
                    f'fill="{COLOURS[kind]}"><title>{escape(kind)}: {escape(fault.what)}</title></rect>'
                )
        parts.append(
            f'<text x="{LEFT - 8}" y="{y + 12}" text-anchor="end" fill="{COLOURS[kind]}">{escape(kind)}</text>'
        )
    return parts


def _gaps(told: Told, top: int, height: int, x: Callable[[float], float]) -> list[str]:
    parts = [
        f'<text x="{LEFT}" y="{top - 8}" font-weight="bold">no confirms</text>',
        f'<text x="{LEFT + 210}" y="{top - 8}" fill="#6c3483">and duplicates, at their second begin</text>',
        f'<rect x="{LEFT}" y="{top}" width="{PLOT}" height="{height}" fill="#f4f4f4"/>',
    ]
    for began, until in outages(told.entries.submissions, SHORTEST_OUTAGE):
        parts.append(
            f'<rect x="{x(began):.1f}" y="{top}" width="{max(1.0, x(until) - x(began)):.1f}" height="{height}" '
            f'fill="#b03a2e"><title>{until - began:.1f} s</title></rect>'
        )
    marks = [
        f'<path d="M{x(item.until):.1f} {top - 3}V{top + height + 3}" stroke="#6c3483"/>'
        for item in told.verdict.duplicates
    ]
    return parts + marks


def _axis(span: float, y: int, x: Callable[[float], float], began: float) -> list[str]:
    step = next(step for step in (30, 60, 120, 300, 600, 1200, 3600, 86400) if span / step <= 12)
    marks = range(0, int(span) + 1, step)
    return [
        f'<text x="{x(began + mark):.1f}" y="{y + 12}" text-anchor="middle">{mark // 60}:{mark % 60:02d}</text>'
        for mark in marks
    ]


def bars(duplicates: Sequence[Surplus], interruptions: Sequence[Surplus]) -> str:
    """How many of each, by the kind of fault that explains them."""
    rows = sorted({*tally(duplicates), *tally(interruptions)})
    if not rows:
        return "<p>There were none.</p>"
    counts = {"duplicates": tally(duplicates), "runs interrupted": tally(interruptions)}
    highest = max(max(its.values(), default=0) for its in counts.values())
    colours = {"duplicates": "#6c3483", "runs interrupted": "#b9770e"}
    height = 40 * len(rows) + 26
    parts = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}">']
    for number, (name, colour) in enumerate(colours.items()):
        parts.append(f'<text x="{200 + 130 * number}" y="14" fill="{colour}">{name}</text>')
    for number, kind in enumerate(rows):
        y = 26 + 40 * number
        parts.append(f'<text x="190" y="{y + 20}" text-anchor="end">{escape(kind)}</text>')
        for turn, (name, its) in enumerate(counts.items()):
            width = its.get(kind, 0) / highest * (WIDTH - 280)
            parts.append(
                f'<rect x="200" y="{y + 15 * turn + 2}" width="{width:.1f}" height="12" fill="{colours[name]}"/>'
                f'<text x="{206 + width:.1f}" y="{y + 15 * turn + 12}">{its.get(kind, 0)}</text>'
            )
    return "\n".join([*parts, "</svg>"])


def rate(times: Iterable[float], began: float, ended: float, step: float) -> list[tuple[float, float]]:
    """Events a second, in slices of so many seconds."""
    slices = Counter(int((at - began) // step) for at in times if at >= began)
    return [(began + number * step, slices[number] / step) for number in range(int((ended - began) // step) + 1)]


def backlog(entries: Entries) -> list[tuple[float, float]]:
    """Tasks that were confirmed and had not come to an end, at each change."""
    confirmed = {
        one.id: one.answered
        for one in entries.submissions
        if one.answer is Answer.CONFIRMED and one.answered is not None
    }
    ends: dict[str, float] = {}
    for task, at in [
        *((run.task, run.ended) for run in entries.runs if run.completed and run.ended is not None),
        *((death.task, death.at) for death in entries.deaths),
    ]:
        ends[task] = min(at, ends.get(task, at))
    # A quick task may be done before its confirm has reached the client.
    changes = [(at, 1) for at in confirmed.values()]
    changes += [(max(at, confirmed[task]), -1) for task, at in ends.items() if task in confirmed]
    value, found = 0, []
    for at, by in sorted(changes, key=lambda change: (change[0], -change[1])):
        value += by
        found.append((at, float(value)))
    return found


def _confirms(entries: Entries) -> list[float]:
    return [one.answered for one in entries.submissions if one.answer is Answer.CONFIRMED and one.answered is not None]


def _no_confirms(entries: Entries) -> list[float]:
    return [one.answered or one.sent for one in entries.submissions if one.answer is not Answer.CONFIRMED]


def _completions(entries: Entries) -> list[float]:
    return [run.ended for run in entries.runs if run.completed and run.ended is not None]


def _outages(told: Told) -> str:
    rows = []
    for began, until in sorted(outages(told.entries.submissions, SHORTEST_OUTAGE), key=lambda gap: gap[0] - gap[1]):
        during = [f"{fault.kind} ({fault.what})" for fault in told.entries.faults if _meets(fault, began, until)]
        rows.append([f"{until - began:.1f} s", _clock(began - told.began), "; ".join(during) or "none"])
    return _table(["for", "from", "faults at that time"], rows[:40]) if rows else "<p>There were none.</p>"


def _reasons(told: Told) -> str:
    rows = [[kind, reason or NO_REASON, str(count)] for (kind, reason), count in told.verdict.reasons.items()]
    return _table(["kind of task", "reason", "letters"], rows) if rows else "<p>There were none.</p>"


def _covered(told: Told) -> str:
    """How much of the time an explanation lies ready for any worker's task: what the verdict cannot see then."""
    shares = [
        f"{harm.value} {covered(told.entries.faults, harm, told.began, told.ended):.0%}"
        for harm in (Harm.REPEATED, Harm.DIED_TWICE)
    ]
    return f"<p>Share of the time in which a fault explains it for tasks of all workers: {', '.join(shares)}.</p>"


def _meets(fault: Fault, began: float, until: float) -> bool:
    return fault.began <= until and began <= fault.ended + fault.echo and fault.kind not in ("rollout", "scale storm")


def _surplus(items: Sequence[Surplus], began: float) -> str:
    rows = [
        [
            item.task,
            item.harm.value,
            item.worker,
            f"{_clock(item.began - began)}-{_clock(item.until - began)}",
            "<b>nothing</b>" if item.cause is None else escape(f"{item.cause.kind}: {item.cause.what}"),
        ]
        for item in items
    ]
    shown = _table(["task", "was", "in the hands of", "in the span", "explained by"], rows[:500], raw_last=True)
    return f"<details><summary>All {len(rows)}, one by one</summary>{shown}</details>" if rows else ""


def _faults(told: Told) -> str:
    by = Counter(id(item.cause) for item in told.verdict.duplicates)
    rows = [
        [
            _clock(fault.began - told.began),
            f"{fault.ended - fault.began:.1f} s",
            fault.kind,
            fault.what,
            str(by[id(fault)]),
        ]
        for fault in sorted(told.entries.faults, key=lambda fault: fault.began)
    ]
    return _table(["at", "for", "kind", "what", "duplicates"], rows)


def _list(title: str, sentences: Sequence[str]) -> str:
    items = "".join(f"<li>{escape(sentence)}</li>" for sentence in sentences[:200])
    return f"<h2>{escape(title)}</h2><ul>{items}</ul>"


def _table(head: Sequence[str], rows: Iterable[Sequence[str]], *, raw_last: bool = False) -> str:
    parts = ["<table><tr>", *(f"<th>{escape(word)}</th>" for word in head), "</tr>"]
    for row in rows:
        cells = [escape(cell) for cell in row]
        if raw_last:
            cells[-1] = row[-1]
        parts.append("<tr>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>")
    return "".join([*parts, "</table>"])


def _clock(seconds: float) -> str:
    whole = max(0, int(seconds))
    return f"{whole // 60}:{whole % 60:02d}"
