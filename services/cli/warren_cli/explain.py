"""`warren explain`: why a queue has the workers that it has, in words. Pure."""

import textwrap
import time
from collections.abc import Iterator

from rich.text import Text

from warren_cli.client import PastDecision, QueueStatus
from warren_cli.view import number, seconds

LABEL = 12
"""Columns of a label, its two columns of indentation included."""

LEARNING = "learning"
"""The rule that stands in for maxWait until the service time is known."""


def explanation(status: QueueStatus, *, now: float, width: int | None = None) -> Iterator[Text]:
    """The lines to print.

    Args:
        status: of one queue that was asked for by its name.
        now: Unix time in seconds.
        width: columns to wrap at; None leaves the lines as long as they are.
    """
    resource = f" (WorkQueue {status.resource})" if status.resource else ""
    yield Text.assemble((status.queue, "bold"), resource)
    if not status.exists:
        yield Text("The broker does not have this queue.", style="yellow")
    if status.state_age is None:
        known = "" if status.ready is None else f" The broker has {status.ready} ready in it."
        text = (
            "The operator has not told of this queue: either it does not run, or no WorkQueue names the queue "
            "(`kubectl get wq --all-namespaces`)."
        )
        yield from _wrapped("", text + known, width, style="yellow")
        return
    if status.stale:
        text = f"The operator has been silent for {seconds(status.state_age)}: below is its last word. Does it run?"
        yield from _wrapped("", text, width, style="yellow")
    if status.problem:
        yield from _wrapped("", f"Not ready: {status.problem}", width, style="red")
    if status.reason:
        yield Text("")
        yield from _wrapped("  ", f"{_workers(status.desired)} wanted: {status.reason}", width, style="bold")
    yield from _section("Seen", _seen(status), width)
    yield from _section("Decided", _decided(status), width)
    if status.remedies:
        yield Text("")
        yield Text("What would change it", style="bold")
        for text in status.remedies:
            yield from _wrapped("  - ", text, width)
    yield Text("")
    yield Text("Last decisions", style="bold")
    if not status.decisions:
        yield Text("  none yet")
    for past in status.decisions:
        yield from _past(past, now, width)


def _seen(status: QueueStatus) -> list[tuple[str, str]]:
    takes, arriving, wait = status.service_time, status.arrival_rate, status.estimated_wait
    nobody = "until a worker has started: none runs" if status.workers == 0 else "not known yet"
    waiting = f"{number(status.ready)} ready, {number(status.unacked)} in work"
    return [
        ("tasks", f"{waiting}, {number(status.delayed)} waiting for a retry, {number(status.dead)} dead"),
        ("workers", f"{number(status.workers)}: {number(status.busy)} busy, {number(status.idle)} idle"),
        ("one task", "not known yet" if takes is None else f"{seconds(takes)} of work"),
        ("arriving", "not known yet" if arriving is None else f"{arriving:.3g}/s"),
        ("wait", nobody if wait is None else f"{seconds(wait)} until a task submitted now starts"),
    ]


def _decided(status: QueueStatus) -> list[tuple[str, str]]:
    rule = "backlogPerWorker, until the service time is known," if status.rule == LEARNING else status.rule
    none = "none: nothing is decided" if status.desired is None else "none: the backlog is not known"
    return [
        ("rule", f"{rule} asks for {status.asked}" if rule and status.asked is not None else none),
        ("limit", status.limited_by or "none"),
        ("bounds", f"{number(status.min_replicas)} to {number(status.max_replicas)} workers"),
    ]


def _section(title: str, rows: list[tuple[str, str]], width: int | None) -> Iterator[Text]:
    yield Text("")
    yield Text(title, style="bold")
    for label, text in rows:
        yield from _wrapped(f"  {label}".ljust(LABEL), text, width)


def _past(past: PastDecision, now: float, width: int | None) -> Iterator[Text]:
    clock = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(past.at))
    head = f"  {clock} {seconds(max(0.0, now - past.at)):>6} ago {f'{past.from_replicas} → {past.to_replicas}':>8}  "
    yield from _wrapped(head, past.reason, width)


def _wrapped(head: str, text: str, width: int | None, style: str = "") -> Iterator[Text]:
    """The text after its head; what does not fit goes below, indented as far."""
    room = None if width is None else max(20, width - len(head))
    for row, line in enumerate([text] if room is None else textwrap.wrap(text, room) or [""]):
        yield Text((head if row == 0 else " " * len(head)) + line, style=style)


def _workers(count: int | None) -> str:
    return f"{number(count)} worker{'s' * (count != 1)}"
