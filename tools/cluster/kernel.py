"""Control groups, mounts and kernel settings that the cluster leaves its marks in."""

import json
import os
import signal
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from tools.shell import ToolError, run

GROUP = "warren-cluster"
"""The control group, in each hierarchy, above all that belongs to the cluster."""
SYSTEM_GROUP = f"/{GROUP}/system"
"""Of the components: else they would share the fate, and the limits, of the session that happened to start them."""

NEEDED = ("cpu", "memory", "pids")
"""Controllers without which the kubelet does not start."""

CHANGED_SETTINGS = (
    "vm/overcommit_memory",
    "vm/panic_on_oom",
    "kernel/panic",
    "kernel/panic_on_oops",
    "kernel/keys/root_maxkeys",
    "kernel/keys/root_maxbytes",
)
"""What the kubelet sets for the whole machine when it starts."""


@dataclass(frozen=True)
class Hierarchy:
    """A mounted hierarchy of control groups."""

    root: Path
    controllers: tuple[str, ...]
    """Those of version 1; in version 2 they are switched on for each group."""
    unified: bool
    """Version 2."""


def unescape(field: str) -> str:
    """A path as /proc/self/mountinfo writes it, with spaces as octal numbers."""
    for code, char in (("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")):
        field = field.replace(code, char)
    return field


def parse_hierarchies(mountinfo: str) -> tuple[Hierarchy, ...]:
    """The hierarchies in the text of /proc/self/mountinfo."""
    known = {"cpu", "cpuacct", "cpuset", "memory", "devices", "freezer", "blkio", "pids", "net_cls", "net_prio"}
    known |= {"hugetlb", "perf_event", "rdma", "misc"}
    found: dict[Path, Hierarchy] = {}
    for line in mountinfo.splitlines():
        before, separator, after = line.partition(" - ")
        fields = after.split()
        if not separator or not fields or fields[0] not in {"cgroup", "cgroup2"}:
            continue
        root = Path(unescape(before.split()[4]))
        options = fields[2].split(",") if len(fields) > 2 else []
        controllers = tuple(option for option in options if option in known)
        found[root] = Hierarchy(root, controllers, fields[0] == "cgroup2")
    return tuple(found.values())


def hierarchies() -> tuple[Hierarchy, ...]:
    """The machine's hierarchies."""
    return parse_hierarchies(Path("/proc/self/mountinfo").read_text())


def version_1(found: Iterable[Hierarchy]) -> bool:
    """Whether the controllers are those of version 1, as on a machine that was booted for it, or with both."""
    return any(not hierarchy.unified and hierarchy.controllers for hierarchy in found)


def make_group(group: str) -> None:
    """Make a control group, with the ones above it, where the kubelet looks for it.

    Raises:
        ToolError: this machine has no control groups that the kubelet can use.
    """
    found = hierarchies()
    if version_1(found):
        have = {controller for hierarchy in found for controller in hierarchy.controllers}
        for hierarchy in found:
            # Those without controllers too (systemd's, and version 2 beside version 1): the kubelet looks into each
            # named one, and a session's end is told by them.
            _make_legacy(hierarchy, group)
    else:
        unified = [hierarchy for hierarchy in found if hierarchy.unified]
        if not unified:
            raise ToolError("No control groups are mounted (/sys/fs/cgroup): the cluster cannot run pods here.")
        have = _make_unified(unified[0], group)
    lacking = [controller for controller in NEEDED if controller not in have]
    if lacking:
        raise ToolError(
            f"The control group controllers {', '.join(lacking)} are not available here, and the kubelet needs them. "
            "In a container, give it its own cgroup namespace and --privileged; on a machine, boot with them enabled."
        )


def _make_legacy(hierarchy: Hierarchy, group: str) -> None:
    folder = hierarchy.root
    for part in Path(group).parts[1:]:
        above, folder = folder, folder / part
        folder.mkdir(exist_ok=True)
        if "cpuset" in hierarchy.controllers:
            # A new group may use no CPU until it is told which.
            for file in ("cpuset.cpus", "cpuset.mems"):
                if not (folder / file).read_text().strip():
                    (folder / file).write_text((above / file).read_text().strip())


def _make_unified(hierarchy: Hierarchy, group: str) -> set[str]:
    folder = hierarchy.root
    for part in Path(group).parts[1:]:
        for controller in (folder / "cgroup.controllers").read_text().split():
            # Refused for one that is busy elsewhere; what matters is checked below.
            with suppress(OSError):
                (folder / "cgroup.subtree_control").write_text(f"+{controller}")
        folder /= part
        folder.mkdir(exist_ok=True)
    return set((folder / "cgroup.controllers").read_text().split())


def group_files(group: str) -> tuple[str, ...]:
    """The files that a process writes its id to in order to enter the group, in each hierarchy that has it."""
    folders = (hierarchy.root / group.lstrip("/") for hierarchy in hierarchies())
    return tuple(str(folder / "cgroup.procs") for folder in folders if folder.is_dir())


def group_pids(name: str = GROUP) -> set[int]:
    """Every process of a pod or component, or of the pods of one node."""
    pids: set[int] = set()
    for hierarchy in hierarchies():
        top = hierarchy.root / name
        if not top.is_dir():
            continue
        for folder, _, _ in os.walk(top):
            with suppress(OSError):
                pids.update(int(pid) for pid in (Path(folder) / "cgroup.procs").read_text().split())
    # 0 stands for a process of a namespace above ours.
    return pids - {0}


def kill(pids: Iterable[int], number: signal.Signals) -> None:
    """Send a signal to those that are still there."""
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, number)


def empty_groups(limit: float, name: str = GROUP) -> None:
    """Kill every process of a pod or component, or of the pods of one node, and wait until they are gone.

    Raises:
        ToolError: some are not gone within `limit` seconds: they hang in the kernel.
    """
    deadline = time.monotonic() + limit
    while pids := group_pids(name):
        # Again and again: one that was just forked is not in the list yet.
        kill(pids, signal.SIGKILL)
        if time.monotonic() > deadline:
            raise ToolError(f"These processes of the cluster do not end when killed: {sorted(pids)}")
        time.sleep(0.05)


def remove_groups(limit: float, name: str = GROUP) -> None:
    """Remove a control group from each hierarchy, with all below it, from the leaves up.

    Raises:
        ToolError: the kernel still counts something in them after `limit` seconds.
    """
    deadline = time.monotonic() + limit
    for hierarchy in hierarchies():
        top = hierarchy.root / name
        while top.is_dir():
            for folder, _, _ in os.walk(top, topdown=False):
                # Busy for a moment, while the last process in it is being buried.
                with suppress(OSError):
                    Path(folder).rmdir()
            if not top.is_dir():
                break
            if time.monotonic() > deadline:
                raise ToolError(f"The control group {top} could not be removed: something still runs in it.")
            time.sleep(0.05)


def parse_mounts(mountinfo: str, roots: Iterable[Path]) -> list[str]:
    """Mount points in or below the folders, the innermost and latest first."""
    wanted = []
    for line in mountinfo.splitlines():
        point = unescape(line.split()[4])
        if any(Path(point).is_relative_to(root) for root in roots):
            wanted.append(point)
    return list(reversed(wanted))


def unmount(roots: Iterable[Path]) -> None:
    """Unmount everything in or below the folders.

    Raises:
        ToolError: something stays mounted. Then nothing below may be deleted: it might be somebody else's.
    """
    roots = tuple(roots)
    for _ in range(5):
        points = parse_mounts(Path("/proc/self/mountinfo").read_text(), roots)
        if not points:
            return
        # Lazily: what a process in its last moment still holds must not stop us.
        run(["umount", "--lazy", "--", *points], limit=60, check=False)
    points = parse_mounts(Path("/proc/self/mountinfo").read_text(), roots)
    if points:
        raise ToolError(f"Could not unmount {', '.join(points)}. Unmount by hand (umount -l), then try again.")


def save_settings(file: Path) -> None:
    """Note the machine's kernel settings that the kubelet is going to change, unless that has been done."""
    if file.exists():
        return
    found = {}
    for name in CHANGED_SETTINGS:
        with suppress(OSError):
            found[name] = (Path("/proc/sys") / name).read_text().strip()
    partial = file.with_suffix(".partial")
    partial.write_text(json.dumps(found))
    partial.replace(file)


def restore_settings(file: Path) -> None:
    """Put the machine's kernel settings back to what was noted, if it was."""
    if not file.exists():
        return
    for name, value in json.loads(file.read_text()).items():
        if name in CHANGED_SETTINGS:
            with suppress(OSError):
                (Path("/proc/sys") / name).write_text(str(value))
