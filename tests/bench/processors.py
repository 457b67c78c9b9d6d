"""What else the processors do: for other programs on this machine, and for other machines on its host."""

import os
import time
from dataclasses import dataclass
from pathlib import Path

LOOK = 2.0
"""Seconds of looking at what else the machine does."""


@dataclass(frozen=True, slots=True)
class Ticks:
    """Processor time since the machine began, of all its processors, in the kernel's unit.

    Attributes:
        all: busy, idle or withheld.
        idle: nothing was to be done, or only disks were awaited.
        withheld: something was to be done, but the host gave the time to other machines ("steal", see proc(5)).
    """

    all: int
    idle: int
    withheld: int


def read_ticks(text: str) -> Ticks:
    """What /proc/stat says: user, nice, system, idle, waiting for disks, two kinds of interrupts, withheld."""
    fields = [int(field) for field in text.splitlines()[0].split()[1:9]]
    return Ticks(sum(fields), fields[3] + fields[4], fields[7])


def ticks() -> Ticks:
    """As of now."""
    return read_ticks(Path("/proc/stat").read_text())


def withheld(before: Ticks, after: Ticks) -> float:
    """Share of all processor time (0 to 1) that the host gave to other machines meanwhile."""
    return (after.withheld - before.withheld) / max(1, after.all - before.all)


def busy_cores() -> float:
    """Cores that are taken right now, by others or by the host: unless that is next to none, figures mean little."""
    before = ticks()
    time.sleep(LOOK)
    after = ticks()
    whole = after.all - before.all
    return (whole - (after.idle - before.idle)) / max(1, whole) * (os.cpu_count() or 1)
