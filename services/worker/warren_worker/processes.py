"""Ending processes, and all that they started."""

import ctypes
import os
import signal
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

PR_SET_PDEATHSIG = 1
"""prctl(2): the signal this process gets when its parent dies."""

PR_SET_CHILD_SUBREAPER = 36
"""prctl(2): orphans among its descendants become this process's children."""

ROUNDS = 10
"""Looks for further processes; each is needed only where one was just starting another."""

_LIBC = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True, slots=True)
class Running:
    """A process that has not ended.

    Attributes:
        pid: its number, which may be another's later.
        parent: its parent's.
        session: number of its session.
        started: ticks of the clock since the machine's start; with the number, it is this process and no other.
    """

    pid: int
    parent: int = field(compare=False)
    session: int = field(compare=False)
    started: int


def adopt_orphans() -> None:
    """Become the parent of what is left behind by what this process starts, however it has cut its ties."""
    _LIBC.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def die_with(parent: int) -> None:
    """End at once when the parent ends, however that happens: a task must not go on under nobody's eyes."""
    _LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:  # it died before the call
        os._exit(0)


def kill_group(pid: int) -> None:
    """SIGKILL to a child and its process group; a child that did not come to make its group yet is killed alone.

    Where all of them run as somebody else, as with sudo, none is killed.
    """
    with suppress(ProcessLookupError, PermissionError):
        try:
            os.killpg(pid, signal.SIGKILL)
        except ProcessLookupError:
            os.kill(pid, signal.SIGKILL)


def kill_family(pid: int) -> None:
    """SIGKILL to a child of this process and to all that it has started; see `kill_descendants`."""
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGSTOP)  # not yet reaped, so the number is still its own
    kill_descendants(pid)
    kill_group(pid)


def kill_session(leader: int) -> None:
    """SIGKILL to all processes of a session but its leader, whatever groups they have made.

    Call this while the leader is not yet reaped, so that its number is nobody else's.
    """
    for _ in range(ROUNDS):
        found = [process for process in _processes() if process.pid != leader and process.session == leader]
        if not found:
            return
        for process in found:
            _signal(process, signal.SIGKILL)


def kill_descendants(root: int) -> None:
    """SIGKILL to all that a process has started, directly or not, in whatever sessions and groups; not to itself.

    They are found by their parents, so call this before the root is killed, and while it starts nothing: what loses its
    parent is no longer a descendant, unless the root adopts orphans. For the same reason all are stopped before the
    first one dies; what is stopped does not start others.
    """
    found: set[Running] = set()
    for _ in range(ROUNDS):
        more = _descendants(root) - found
        if not more:
            break
        for process in more:
            _signal(process, signal.SIGSTOP)
        found |= more
    for process in found:
        _signal(process, signal.SIGKILL)


def look_at(pid: int) -> Running | None:
    """A process that still runs (proc_pid_stat(5): behind the name are state, parent, group, session, …)."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
    except OSError:
        return None
    return None if fields[0] in {b"Z", b"X"} else Running(pid, int(fields[1]), int(fields[3]), int(fields[19]))


def _processes() -> Iterator[Running]:
    for name in os.listdir("/proc"):  # noqa: PTH208  twice as quick as Path.iterdir
        if name.isdigit() and (process := look_at(int(name))) is not None:
            yield process


def _descendants(root: int) -> set[Running]:
    children: dict[int, list[Running]] = {}
    for process in _processes():
        children.setdefault(process.parent, []).append(process)
    found: set[Running] = set()
    parents = [root]
    while parents:
        born = children.pop(parents.pop(), [])
        found.update(born)
        parents += [process.pid for process in born]
    return found


def _signal(process: Running, number: int) -> None:
    now = look_at(process.pid)
    if now is not None and now.started == process.started:
        with suppress(ProcessLookupError, PermissionError):  # the latter where it runs as somebody else
            os.kill(process.pid, number)
