"""Starting an engine by hand where no service manager does it, and taking it away again without a trace."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from tools.alone import alone
from tools.console import Console
from tools.engine import leftovers
from tools.engine.client import Engine, answering, answers, at, check_socket
from tools.engine.places import Places, places
from tools.host import SYSTEM_PATH, Need, find, is_root
from tools.host import ensure as ensure_packages
from tools.shell import CommandError, ToolError, run

NEEDS = (Need("dockerd", "docker.io"), Need("containerd", "containerd"), Need("iptables", "iptables"))

START_LIMIT = 90.0
"""Seconds from the engine's start to its first answer: 1 s as a rule, more where it has to recover many containers."""

STOP_LIMIT = 60.0
"""Seconds for a clean end. The engine itself gives its containers 15 s."""

LOG_LIMIT = 10_000_000
"""Bytes of log beyond which the next start begins a new one."""

FLAGS = frozenset({"cgroup-parent", "data-root", "exec-root", "hosts", "pidfile"})
"""Settings that we give on the command line, where dockerd refuses to find them in its file too."""

TABLES = ("iptables", "ip6tables")

SHARED_FOLDERS = ("/run/docker/plugins", "/run/docker", "/run/containerd/s", "/run/containerd")
"""Made by every engine, wherever its run-time folder is."""


def ensure(console: Console) -> Engine:
    """The engine to use: one that answers, else our own, which is installed and started.

    Raises:
        ToolError: there is none and we cannot start one; the text says what to do.
    """
    engine = answering()
    if engine is not None:
        return engine
    if sys.platform != "linux":
        raise ToolError(
            "No Docker engine answers. Start Docker on this machine (Docker Desktop, colima, …), then try again."
        )
    if not is_root():
        raise ToolError(
            "No Docker engine answers, and only root can start one. Run this, log in anew, then try again:\n"
            "    sudo sh -c 'apt-get update && apt-get install -y docker.io && systemctl enable --now docker' "
            "&& sudo usermod -aG docker $USER"
        )
    with alone("engine", console):
        return answering() or _install(console) or start(places(), console)


def down(console: Console) -> bool:
    """End our own engine and all that it ran; False where there was nothing of it.

    Its images stay in the cache, so that the next start has them. An engine that we did not start is not touched.
    """
    where = places()
    if not (ours(where) or where.state.exists() or where.run.exists()):
        return False
    if not is_root():
        raise ToolError("Root started this Docker engine, so only root can end it: sudo python3 -m tools.engine down")
    with alone("engine", console):
        stop(where, console)
    return True


def ours(where: Places) -> tuple[int, ...]:
    """The processes of our own engine: dockerd first, then containerd, then the shims of the containers."""
    found = [(pid, Path(argv[0]).name) for pid, argv in _processes() if leftovers.is_ours(argv, where.run)]
    order = {"dockerd": 0, "containerd": 1}
    return tuple(pid for pid, _ in sorted(found, key=lambda item: (order.get(item[1], 2), item[0])))


def start(where: Places, console: Console) -> Engine:
    """Start an engine in these places, whatever an earlier one left there, and wait until it answers."""
    with console.step("Starting a Docker engine"):
        _clear(where)
        return _await_answer(where, _spawn(where))


def stop(where: Places, console: Console) -> None:
    """End the engine of these places, alive or crashed, with its containers, networks, volumes and traces."""
    with console.step("Stopping the Docker engine"):
        _recover(where, console)
        _remove_containers(where)
        _end_processes(where)
        _sweep(where)


def _install(console: Console) -> Engine | None:
    """Install what is missing; the engine, where the machine's service manager starts it by itself."""
    ensure_packages(NEEDS, console)
    if find("docker") is None:
        # Newer Debian releases have the program in a package of its own.
        ensure_packages((Need("docker", "docker-cli"),), console)
    if not Path("/run/systemd/system").exists():
        return None
    run(["systemctl", "start", "docker"], limit=START_LIMIT, check=False)
    return answering()


def _clear(where: Places) -> None:
    """Make room for a start after a crash or a reboot.

    A process number in a file means nothing once the process is gone: another one may have it, and dockerd would then
    refuse to start, or take a stranger for its containerd.
    """
    for pid in ours(where):
        # What is left here does not answer, or is a containerd whose dockerd was killed. Shims may live: the new
        # containerd finds them, and dockerd then ends or adopts their containers.
        if _name(pid) != "containerd-shim-runc-v2":
            _end(pid, 10)
    check_socket(where.socket)
    for stale in (where.pid_file, where.run / "containerd/containerd.pid"):
        stale.unlink(missing_ok=True)


def _spawn(where: Places) -> subprocess.Popen[bytes]:
    for folder in (where.data, where.state, where.run):
        folder.mkdir(parents=True, exist_ok=True)
    _remember(where)
    where.config.write_text(json.dumps(_settings(), indent=2) + "\n")
    if where.log.exists() and where.log.stat().st_size > LOG_LIMIT:
        where.log.unlink()
    dockerd = find("dockerd")
    if dockerd is None:
        raise ToolError("dockerd is not there although its package is installed: apt-get install --reinstall docker.io")
    # Nothing of this command's surroundings may hang on to the engine: not its terminal, files or folder.
    wanted = ("HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "SSL_CERT_FILE", "SSL_CERT_DIR")
    inherited = {key: value for key, value in os.environ.items() if key.upper() in wanted}
    with where.log.open("ab") as log:
        return subprocess.Popen(
            [
                str(dockerd),
                *("--config-file", str(where.config)),
                *("--host", f"unix://{where.socket}"),
                *("--data-root", str(where.data)),
                *("--exec-root", str(where.run)),
                *("--pidfile", str(where.pid_file)),
                *("--cgroup-parent", f"/{where.group}"),
            ],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
            cwd="/",
            env={"PATH": SYSTEM_PATH, "HOME": str(Path.home()), **inherited},
        )


def _settings(machine: Path = Path("/etc/docker/daemon.json")) -> dict[str, object]:
    """The machine's own settings (mirrors, proxies), less those that we give as flags; bounded container logs."""
    settings: dict[str, object] = {"log-opts": {"max-size": "10m", "max-file": "2"}}
    if machine.exists():
        try:
            settings |= json.loads(machine.read_text())
        except ValueError as error:
            raise ToolError(f"{machine} is not valid JSON ({error}). Mend or remove it, then try again.") from error
    return {key: value for key, value in settings.items() if key not in FLAGS}


def _await_answer(where: Places, process: subprocess.Popen[bytes]) -> Engine:
    deadline = time.monotonic() + START_LIMIT
    while time.monotonic() < deadline:
        engine = at(where.socket)
        if engine is not None:
            # It stays when we end: without this, Python would complain that nobody waited for it.
            process.returncode = 0
            return engine
        # Asked of our child itself: just after its start, its command line may still read as empty.
        if process.poll() is not None:
            break
        time.sleep(0.1)
    tail = "\n    ".join(where.log.read_text(errors="replace").splitlines()[-15:])
    raise ToolError(
        f"The Docker engine did not start:\n    {tail}\n"
        f"The whole log is {where.log}. If its data is damaged, begin anew: rm -rf {where.data}"
    )


def _recover(where: Places, console: Console) -> None:
    """After a crash, let the engine itself put away its containers, their rules and mounts: it knows them best."""
    remains = ours(where) or leftovers.mounts_under(_mountinfo(), [where.run, where.data])
    if remains and at(where.socket) is None and find("dockerd"):
        try:
            _clear(where)
            _await_answer(where, _spawn(where))
        except ToolError as error:
            console.say(f"The engine would not start to clean up, so its leftovers are removed by hand: {error}")


def _remove_containers(where: Places) -> None:
    engine = at(where.socket)
    if engine is None:
        return
    with suppress(CommandError):
        containers = engine.run("ps", "--all", "--quiet").stdout.split()
        if containers:
            engine.run("rm", "--force", "--volumes", *containers, limit=STOP_LIMIT)
        engine.run("network", "prune", "--force")
        volumes = engine.run("volume", "ls", "--quiet").stdout.split()
        if volumes:
            engine.run("volume", "rm", "--force", *volumes)


def _end_processes(where: Places) -> None:
    """End dockerd, which ends its containers and its containerd; then whatever is still there, by force."""
    for pid in ours(where):
        if _name(pid) == "dockerd":
            _end(pid, STOP_LIMIT)
    deadline = time.monotonic() + 5
    while ours(where) and time.monotonic() < deadline:
        time.sleep(0.05)
    parents = {pid: _parent(pid) for pid, _ in _processes()}
    for pid in leftovers.descendants(ours(where), parents):
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def _sweep(where: Places) -> None:
    """Remove what a clean end leaves too, and all that an unclean one left."""
    before = _before(where)
    for point in leftovers.mounts_under(_mountinfo(), [where.run, where.data]):
        run(["umount", "-l", point], limit=20, check=False)
    if before is not None:
        _restore_network(before)
    # One hierarchy (cgroup v2), or one for each controller (v1).
    groups = Path("/sys/fs/cgroup")
    for group in (groups / where.group, *groups.glob(f"*/{where.group}")):
        for folder in sorted([group, *group.glob("**/")], reverse=True):
            with suppress(OSError):
                folder.rmdir()
    if not answers(where.socket):
        where.socket.unlink(missing_ok=True)
    if not leftovers.mounts_under(_mountinfo(), [where.run]):
        # With a mount still below it, this would delete what is mounted.
        shutil.rmtree(where.run, ignore_errors=True)
    shutil.rmtree(where.state, ignore_errors=True)
    for shared in SHARED_FOLDERS:
        if before is not None and shared not in before["folders"]:
            # Only where it is empty: with something in it, somebody else uses it by now.
            with suppress(OSError):
                Path(shared).rmdir()


def _remember(where: Places) -> None:
    """Note how the network was before the engine changes it, once for each boot."""
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    known = _before(where)
    if known is not None and known["boot"] == boot:
        return
    before = {
        "boot": boot,
        "ip_forward": Path("/proc/sys/net/ipv4/ip_forward").read_text().strip(),
        "bridges": _bridges(),
        "folders": [folder for folder in SHARED_FOLDERS if Path(folder).exists()],
        "forward": {table: leftovers.forward_policy(_saved(table)) for table in TABLES},
    }
    partial = where.before.with_suffix(".new")
    partial.write_text(json.dumps(before, indent=2) + "\n")
    partial.replace(where.before)


def _before(where: Places) -> Mapping[str, Any] | None:
    try:
        before = json.loads(where.before.read_text())
    except (OSError, ValueError):
        return None
    return before if isinstance(before, dict) else None


def _restore_network(before: Mapping[str, Any]) -> None:
    if before["bridges"]:
        # Another engine had been here: what looks like ours may be its.
        return
    for table in TABLES:
        rules = leftovers.engine_rules(_saved(table))
        for arguments in (*rules.rules, *rules.chains):
            run([table, "-w", "10", *arguments], limit=20, check=False)
        if rules.chains:
            run([table, "-w", "10", "-P", "FORWARD", before["forward"][table]], limit=20, check=False)
    for bridge in _bridges():
        run(["ip", "link", "delete", bridge], limit=20, check=False)
    Path("/proc/sys/net/ipv4/ip_forward").write_text(before["ip_forward"])


def _bridges() -> list[str]:
    # Asked of ip, not read below /sys, which may show another network namespace than ours.
    links = json.loads(run(["ip", "-json", "link", "show", "type", "bridge"], limit=20).stdout or "[]")
    names = [link.get("ifname", "") for link in links]
    return [name for name in names if leftovers.BRIDGE.fullmatch(name)]


def _saved(table: str) -> str:
    if find(f"{table}-save") is None:
        return ""
    return run([f"{table}-save"], limit=20, check=False).stdout


def _processes() -> Iterator[tuple[int, list[str]]]:
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with suppress(OSError):
                argv = (entry / "cmdline").read_text(errors="replace").split("\0")
                if argv[0]:
                    yield int(entry.name), argv


def _name(pid: int) -> str:
    return next((Path(argv[0]).name for found, argv in _processes() if found == pid), "")


def _parent(pid: int) -> int:
    with suppress(OSError, ValueError):
        # The name, in brackets, may hold blanks and brackets itself: the fields start after the last one.
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    return 0


def _end(pid: int, limit: float) -> None:
    """Ask a process to end, and make it after `limit` seconds."""
    for number, patience in ((signal.SIGTERM, limit), (signal.SIGKILL, 10.0)):
        with suppress(ProcessLookupError):
            os.kill(pid, number)
        if _until(lambda: not _alive(pid), patience):
            return


def _alive(pid: int) -> bool:
    with suppress(OSError):
        # A zombie has ended; whoever started it has not looked yet.
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


def _until(condition: Callable[[], bool], limit: float) -> bool:
    deadline = time.monotonic() + limit
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


def _mountinfo() -> str:
    return Path("/proc/self/mountinfo").read_text()
