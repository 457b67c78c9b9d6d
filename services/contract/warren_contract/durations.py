"""Durations as Kubernetes users write them: `500ms`, `30s`, `25m`, `1h30m`."""

import re

_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
_PART = re.compile(r"([0-9]+(?:\.[0-9]+)?)(ms|s|m|h)")
_WHOLE = re.compile(r"(?:[0-9]+(?:\.[0-9]+)?(?:ms|s|m|h))+")


class DurationError(ValueError):
    """A text is not a duration; the message shows how to write one."""


def parse_duration(text: str) -> float:
    """Seconds in a duration such as `1h30m`.

    Raises:
        DurationError: the text is not a chain of number and unit (ms, s, m, h).
    """
    if not _WHOLE.fullmatch(text):
        raise DurationError(f"{text!r} is not a duration: write a number and a unit, such as 500ms, 30s, 25m or 1h30m")
    return sum(float(number) * _UNITS[unit] for number, unit in _PART.findall(text))


def format_duration(seconds: float) -> str:
    """The shortest text that `parse_duration` reads back to the millisecond: `90.0` → `1m30s`."""
    milliseconds = round(seconds * 1000)
    if milliseconds < 0:
        raise DurationError(f"{seconds} s is negative: a duration starts at 0s")
    parts = []
    for unit, size in (("h", 3_600_000), ("m", 60_000), ("s", 1000), ("ms", 1)):
        count, milliseconds = divmod(milliseconds, size)
        if count:
            parts.append(f"{count}{unit}")
    return "".join(parts) or "0s"
