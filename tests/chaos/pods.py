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
        inner: its number inside the container, or inside the pod, where its containers share their processes.
        own: it is the container's own program, which the container runtime started and not another one of the pod.
        command: its command line.
    """

    pid: int
    inner: int
    own: bool
    command: str

    def kill(self) -> bool:
        """kill -9; False if it has just ended by itself."""
        return self._signal(signal.SIGKILL)

    def stop(self) -> bool:
        """Let it stand still until `go_on`; False if it has just ended by itself."""
        return self._signal(signal.SIGSTOP)

    def go_on(self) -> bool:
        """Let it go on; False if somebody has ended it meanwhile."""
        return self._signal(signal.SIGCONT)

    def _signal(self, number: signal.Signals) -> bool:
        try:
            os.kill(self.pid, number)
        except ProcessLookupError:
            return False
        return True


def processes(uid: str) -> list[Process]:
    """The processes of the pod with this uid, without the one that holds its namespaces open."""
    found = []
    members = set()
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
        facts = dict(line.split(":", 1) for line in status.splitlines() if ":" in line)
        members.add(int(folder.name))
        if command and command != "/pause" and "NSpid" in facts:
            found.append((int(folder.name), int(facts["NSpid"].split()[-1]), int(facts["PPid"]), command))
    return [Process(pid, inner, parent not in members, command) for pid, inner, parent, command in sorted(found)]
