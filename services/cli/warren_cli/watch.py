"""`warren watch` and `warren queues`: look again and again, and show it as the output allows."""

import dataclasses
import json
import time
from collections import deque
from collections.abc import Callable

from rich.console import Console
from rich.live import Live

from warren_cli import view
from warren_cli.client import Client, Refused, Unreachable

HISTORY = 3600
"""Samples kept for the charts: an hour at one a second."""

PLAIN_REPEAT = 30.0
"""Seconds after which an unchanged queue is printed again, so that a log shows that the watch lives."""


@dataclasses.dataclass(frozen=True, slots=True)
class Watch:
    """How to watch.

    Attributes:
        queue: only this one.
        once: look once.
        as_json: one JSON object a look; where one fails, an object with the error.
        interval: seconds between two looks.
    """

    queue: str | None = None
    once: bool = False
    as_json: bool = False
    interval: float = 1.0


def watch(client: Client, how: Watch, console: Console, sleep: Callable[[float], None] = time.sleep) -> None:
    """Look and show until interrupted (KeyboardInterrupt passes through), or once.

    Raises:
        WarrenError: the first look failed, or the token is not accepted any more. Later failures are shown, and passed
            over once the producer answers again.
    """
    first = look(client, how.queue)
    if how.as_json:
        _as_json(client, how, console, first, sleep)
    elif how.once:
        console.print(view.render([first], width=_width(console)) if console.is_terminal else view.table(first.queues))
    elif console.is_terminal:
        _live(client, how, console, first, sleep)
    else:
        _plain(client, how, console, first, sleep)


def look(client: Client, queue: str | None) -> view.Sample:
    """All queues, or one, at this moment."""
    queues = client.queues() if queue is None else [client.queue(queue)]
    return view.Sample(at=time.time(), queues=tuple(queues))


def sample_json(sample: view.Sample) -> str:
    """A sample on one line."""
    return json.dumps({"at": round(sample.at, 3), "queues": [dataclasses.asdict(status) for status in sample.queues]})


def _live(client: Client, how: Watch, console: Console, first: view.Sample, sleep: Callable[[float], None]) -> None:
    samples = deque([first], maxlen=HISTORY)
    with Live(view.render(samples, width=_width(console)), console=console, auto_refresh=False) as live:
        while True:
            sleep(how.interval)
            sample, problem = _look_again(client, how)
            if sample is not None:
                samples.append(sample)
            live.update(view.render(samples, width=_width(console), note=problem), refresh=True)


def _plain(client: Client, how: Watch, console: Console, first: view.Sample, sleep: Callable[[float], None]) -> None:
    """A line for each queue that changed."""
    shown: dict[str, tuple[str, float]] = {}
    sample: view.Sample | None = first
    while True:
        for status in sample.queues if sample else ():
            line = view.plain_line(status)
            last, at = shown.get(status.queue, ("", 0.0))
            if line != last or time.monotonic() - at > PLAIN_REPEAT:
                shown[status.queue] = line, time.monotonic()
                _print(console, f"{time.strftime('%H:%M:%S')} {line}")
        sleep(how.interval)
        sample, problem = _look_again(client, how)
        if problem:
            _print(console, f"{time.strftime('%H:%M:%S')} {problem}")


def _as_json(client: Client, how: Watch, console: Console, first: view.Sample, sleep: Callable[[float], None]) -> None:
    sample: view.Sample | None = first
    problem = ""
    while True:
        _print(console, json.dumps({"error": problem}) if sample is None else sample_json(sample))
        if how.once:
            return
        sleep(how.interval)
        sample, problem = _look_again(client, how)


def _look_again(client: Client, how: Watch) -> tuple[view.Sample | None, str]:
    try:
        return look(client, how.queue), ""
    except Refused as error:
        if error.status in {401, 403}:
            raise
        return None, f"{error}; trying again"
    except Unreachable as error:
        return None, f"{error}; trying again"


def _width(console: Console) -> int:
    """Columns for a chart beside its label."""
    return max(10, min(120, console.width - 24))


def _print(console: Console, line: str) -> None:
    """As it is: no markup, no colours, no wrapping; at once, also into a pipe."""
    console.file.write(line + "\n")
    console.file.flush()
