"""Processes of pods, as the machine sees them: every node of the local cluster is this machine."""

import os
import signal
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Process:
    """A process of a pod.

    Attributes:
        pid: on this machine.
        inner: its number inside the pod's container; 1 is the container's own program.
        command: its command line.
    """

    pid: int
    inner: int
    command: str

    def kill(self) -> bool:
        """kill -9; False if it has just ended by itself."""
        try:
            os.kill(self.pid, signal.SIGKILL)
        except ProcessLookupError:
            return False
        return True


def processes(uid: str) -> list[Process]:
    """The processes of the pod with this uid, without the one that holds its namespaces open."""
    found = []
    for folder in Path("/proc").iterdir():
        if not folder.name.isdigit():
            continue
        try:
            if f"pod{uid}" not in (folder / "cgroup").read_text("ascii"):
                continue
            command = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode("utf-8", "replace").strip()
            status = (folder / "status").read_text("utf-8")
        except (FileNotFoundError, ProcessLookupError):  # it has just ended
            continue
        inner = next((line.split()[-1] for line in status.splitlines() if line.startswith("NSpid:")), "")
        if command and command != "/pause" and inner:
            found.append(Process(int(folder.name), int(inner), command))
    return sorted(found, key=lambda process: process.pid)
