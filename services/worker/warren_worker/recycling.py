"""When a handler's process makes way for a fresh one: what leaks, leaks for a while only."""

import os
from dataclasses import dataclass
from pathlib import Path

_PAGE = os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True, slots=True)
class Recycling:
    """After which task a process ends.

    Attributes:
        max_tasks: tasks it runs at most; 0 for no limit.
        max_memory: bytes of resident memory above which it takes no further task; 0 for no limit.
    """

    max_tasks: int = 0
    max_memory: int = 0

    def due(self, tasks: int) -> str:
        """Why this process should end after so many tasks; empty where it should not."""
        if self.max_tasks and tasks >= self.max_tasks:
            return f"{tasks} tasks"
        if not self.max_memory:
            return ""
        try:
            used = resident_memory()
        except OSError as error:  # no file more can be opened: what leaks is not always memory
            return f"{tasks} tasks, as its memory cannot be read: {error}"
        return f"{tasks} tasks, with {used / 2**20:.0f} MiB of memory" if used > self.max_memory else ""


def resident_memory() -> int:
    """Bytes of memory that this process occupies now, not at its peak (proc_pid_statm(5))."""
    return int(Path("/proc/self/statm").read_bytes().split()[1]) * _PAGE
