"""Bounds that change with the time of day: windows between two cron expressions, in the time zone of people.

Cron expressions are read by the library cronsim, which treats the change to summer time as Debian's cron does.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from zoneinfo import ZoneInfo

from cronsim import CronSim, CronSimError

CLOCK_CHANGE = 3 * 3600.0
"""Seconds that no clock is set back by. cronsim counts by the clock on the wall and takes the first of two times that
read the same: in the hour that comes twice it would begin from the wrong one."""


class ScheduleError(ValueError):
    """A window cannot be used; the message says what to write instead."""


@dataclass(frozen=True, slots=True)
class Window:
    """A time in which other bounds hold.

    Attributes:
        start, end: cron expressions, five fields; the window is open from each start until the next end.
        time_zone: in which they are meant, such as Europe/Berlin.
        min_replicas, max_replicas: in place of the usual ones; None to leave them.
    """

    start: str
    end: str
    time_zone: str
    min_replicas: int | None = None
    max_replicas: int | None = None


@dataclass(frozen=True, slots=True)
class Bounds:
    """Bounds that hold for a while.

    Attributes:
        min_replicas, max_replicas: fewest and most workers.
        until: Unix time in seconds at which they have to be looked up again; None for never.
        min_scheduled, max_scheduled: when the window ends that each comes from, as text for people; empty where it is
            none.
    """

    min_replicas: int
    max_replicas: int
    until: float | None = None
    min_scheduled: str = ""
    max_scheduled: str = ""


def check_window(window: Window) -> None:
    """Raise what is wrong with a window.

    Raises:
        ScheduleError: an expression or the time zone cannot be read.
    """
    try:
        zone = ZoneInfo(window.time_zone)
    except (KeyError, ValueError, OSError) as error:
        raise ScheduleError(
            f"timeZone {window.time_zone!r} is not known: write a name such as Europe/Berlin, or UTC"
        ) from error
    for name, expression in (("start", window.start), ("end", window.end)):
        try:
            if len(expression.split()) != 5:
                raise ScheduleError(f'{name} {expression!r}: write five fields, such as "0 8 * * 1-5"')
            next(CronSim(expression, datetime(2000, 1, 1, tzinfo=zone)))
        except (CronSimError, StopIteration) as error:
            raise ScheduleError(
                f'{name} {expression!r} is no time that comes: write a cron expression such as "0 8 * * 1-5"'
            ) from error


def bounds_at(windows: Iterable[Window], min_replicas: int, max_replicas: int, wall: float) -> Bounds:
    """The bounds at a moment; of several open windows, the last one that names a bound decides on it.

    Args:
        windows: that have been checked.
        min_replicas, max_replicas: outside of all windows.
        wall: Unix time in seconds.
    """
    changes: list[float] = []
    min_scheduled = max_scheduled = ""
    for window in windows:
        opens, closes = _next(window.start, window, wall), _next(window.end, window, wall)
        changes += [at.timestamp() for at in (opens, closes) if at is not None]
        if not _is_open(window, wall):
            continue
        end = "" if closes is None else f"{closes:%a %H:%M} {window.time_zone}"
        if window.min_replicas is not None:
            min_replicas, min_scheduled = window.min_replicas, end
        if window.max_replicas is not None:
            max_replicas, max_scheduled = window.max_replicas, end
    if min_replicas > max_replicas:
        min_replicas, min_scheduled = max_replicas, max_scheduled
    return Bounds(min_replicas, max_replicas, min(changes, default=None), min_scheduled, max_scheduled)


def _is_open(window: Window, wall: float) -> bool:
    """Whether the last thing that happened was a start; one that falls on an end is a new start."""
    opened, closed = _last(window.start, window, wall), _last(window.end, window, wall)
    # As Unix times: in the hour that comes twice, clocks tell the wrong one of two moments to be the later.
    return opened is not None and (closed is None or opened.timestamp() >= closed.timestamp())


def _next(expression: str, window: Window, wall: float) -> datetime | None:
    return next((at for at in CronSim(expression, _local(window, wall)) if at.timestamp() > wall), None)


def _last(expression: str, window: Window, wall: float) -> datetime | None:
    """The latest moment up to `wall`, that minute included."""
    after = wall // 60 * 60 + 60
    backwards = CronSim(expression, _local(window, after + CLOCK_CHANGE), reverse=True)
    return next((at for at in backwards if at.timestamp() < after), None)


def _local(window: Window, wall: float) -> datetime:
    return datetime.fromtimestamp(wall, UTC).astimezone(ZoneInfo(window.time_zone))
