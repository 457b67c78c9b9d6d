"""Start, find and stop the components.

What runs is read from the process table, not from files about it: each process carries its component's name and
fingerprint in its environment. So nothing can be stale, whoever started it, and whatever was killed since.
"""

import resource
import signal
import subprocess
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from tools.cluster import netns
from tools.cluster.component import Component
from tools.cluster.kernel import SYSTEM_GROUP, group_files, kill
from tools.host import SYSTEM_PATH
from tools.shell import ToolError, run

COMPONENT = "WARREN_CLUSTER_COMPONENT"
FINGERPRINT = "WARREN_CLUSTER_FINGERPRINT"

GROUPS = "WARREN_CLUSTER_GROUPS"

ENDED = "ended with code"
KEEPER = (
    f'for file in ${GROUPS}; do echo $$ > "$file"; done; '
    f'while :; do "$@"; echo "$1 {ENDED} $?, starts again in a second"; sleep 1; done'
)
"""Keeps a component running: Kubernetes leaves that to whoever starts its programs."""
KEEPER_NAME = "warren-cluster-keeper"

SURVIVORS = ("containerd-shim",)
"""Children that outlive their component on purpose: pods go on while containerd restarts."""

GRACE = 2.0
"""Seconds between asking a component to end and killing it. All of them survive being killed; but the API server takes
a minute to part from its clients."""
LOG_SIZE = 16 * 1024 * 1024
"""Bytes of a log from which on it is put aside when its component starts."""


@dataclass(frozen=True)
class Process:
    """A process that belongs to a component."""

    pid: int
    component: str
    fingerprint: str
    argv: tuple[str, ...]

    @property
    def keeper(self) -> bool:
        """Whether it is the one that keeps the component running."""
        return KEEPER_NAME in self.argv[:4]

    @property
    def survivor(self) -> bool:
        """Whether it is meant to outlive its component."""
        return bool(self.argv) and Path(self.argv[0]).name.startswith(SURVIVORS)


def parse_process(pid: int, environ: bytes, cmdline: bytes) -> Process | None:
    """A process of ours, from its files in /proc; None if it is somebody else's."""
    variables = dict(
        entry.split(b"=", 1) for entry in environ.split(b"\0") if entry.startswith(b"WARREN_CLUSTER_") and b"=" in entry
    )
    component = variables.get(COMPONENT.encode())
    if component is None:
        return None
    argv = tuple(part.decode(errors="replace") for part in cmdline.rstrip(b"\0").split(b"\0"))
    return Process(pid, component.decode(), variables.get(FINGERPRINT.encode(), b"").decode(), argv)


def processes() -> tuple[Process, ...]:
    """Every process of the cluster's components, without those of its pods.

    And without those of a cluster in a container of this machine: its processes are in the table too.
    """
    found = []
    ours = Path("/proc/self/ns/pid").readlink()
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        with suppress(OSError):
            process = parse_process(int(entry.name), (entry / "environ").read_bytes(), (entry / "cmdline").read_bytes())
            if process is not None and (entry / "ns" / "pid").readlink() == ours:
                found.append(process)
    return tuple(found)


class Action(Enum):
    """What has to be done with a component."""

    KEEP = "keep"
    START = "start"
    RESTART = "restart"


def decide(name: str, fingerprint: str, running: Sequence[Process]) -> Action:
    """What a component needs, from what runs: restart what is of another version, or has lost its keeper."""
    mine = [process for process in running if process.component == name and not process.survivor]
    if not mine:
        return Action.START
    keepers = [process for process in mine if process.keeper]
    if len(keepers) == 1 and all(process.fingerprint == fingerprint for process in mine):
        return Action.KEEP
    return Action.RESTART


def start(component: Component, fingerprint: str, logs: Path) -> None:
    """Start a component that is not running, in a session of its own, apart from us in every way."""
    logs.mkdir(parents=True, exist_ok=True)
    log = logs / f"{component.name}.log"
    with suppress(FileNotFoundError):
        if log.stat().st_size > LOG_SIZE:
            log.replace(log.with_suffix(".log.1"))
    search = f"{component.path}:{SYSTEM_PATH}" if component.path else SYSTEM_PATH
    variables = {
        "PATH": search,
        "HOME": "/root",
        "LANG": "C.UTF-8",
        COMPONENT: component.name,
        FINGERPRINT: fingerprint,
        GROUPS: " ".join(group_files(SYSTEM_GROUP)),
    }
    argv = [
        *("setsid", "--fork", "nsenter", f"--net={netns.path(component.netns)}", "--"),
        *("/bin/sh", "-c", KEEPER, KEEPER_NAME, *component.argv),
    ]
    # Not through tools.shell: its pipes would be theirs, and whoever waits for our output must not wait for theirs.
    with log.open("ab") as output:
        done = subprocess.run(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env=variables,
            cwd="/",
            timeout=30,
            check=False,
        )
    if done.returncode != 0:
        raise ToolError(f"Could not start {component.name}: setsid ended with code {done.returncode}")


def stop(names: Iterable[str]) -> None:
    """Stop components, but not their survivors. Returns when they are gone.

    Raises:
        ToolError: one does not end even when killed.
    """
    wanted = set(names)

    def remaining() -> list[Process]:
        return [found for found in processes() if found.component in wanted and not found.survivor]

    left = remaining()
    # First those that would start the others again.
    kill((process.pid for process in left if process.keeper), signal.SIGKILL)
    kill((process.pid for process in left if not process.keeper), signal.SIGTERM)
    deadline = time.monotonic() + GRACE
    while (left := remaining()) and time.monotonic() < deadline:
        time.sleep(0.02)
    _kill_all(lambda: left_pids(remaining()))


def left_pids(found: Iterable[Process]) -> set[int]:
    """Their ids."""
    return {process.pid for process in found}


def kill_with_survivors(names: Iterable[str]) -> None:
    """Kill some components with their survivors, at once.

    Raises:
        ToolError: one does not end.
    """
    wanted = set(names)

    def remaining() -> list[Process]:
        return [process for process in processes() if process.component in wanted]

    kill((process.pid for process in remaining() if process.keeper), signal.SIGKILL)
    _kill_all(lambda: left_pids(remaining()))


def kill_everything() -> None:
    """Kill every component with its survivors, at once.

    Raises:
        ToolError: one does not end.
    """
    kill((process.pid for process in processes() if process.keeper), signal.SIGKILL)
    _kill_all(lambda: left_pids(processes()))


def _kill_all(remaining: Callable[[], set[int]]) -> None:
    deadline = time.monotonic() + 10
    while pids := remaining():
        kill(pids, signal.SIGKILL)
        if time.monotonic() > deadline:
            raise ToolError(f"These processes do not end when killed: {sorted(pids)}")
        time.sleep(0.02)


def raise_file_limit() -> None:
    """Let the components open as many files as a system service may; they inherit it from us."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    # Programs that walk through all possible descriptors (Erlang does) take for ever where there are a milliard.
    limit = 1048576 if hard == resource.RLIM_INFINITY else min(hard, 1048576)
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))


def crashes(component: Component, logs: Path) -> int:
    """How many times its log says that the component ended."""
    try:
        text = (logs / f"{component.name}.log").read_text(errors="replace")
    except FileNotFoundError:
        return 0
    return sum(line.startswith(f"{component.argv[0]} {ENDED}") for line in text.splitlines())


def log_tail(component: Component, logs: Path) -> str:
    """The end of a component's log, for an error."""
    log = logs / f"{component.name}.log"
    if not log.exists():
        return "(no log)"
    return run(["tail", "-n", "15", log], limit=10).stdout
