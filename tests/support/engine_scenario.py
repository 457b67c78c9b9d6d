"""The life of an engine of our own, crashes included: run by test_engine_lifecycle.py in namespaces of its own.

Prints one JSON object with what was seen; the test judges.
"""

import json
import os
import signal
import sys
from pathlib import Path

from tools.console import Console
from tools.engine import Engine
from tools.engine.daemon import ours, start, stop
from tools.engine.places import Places
from tools.shell import run

IMAGE = "scenario:1"


def traces(where: Places) -> dict[str, object]:
    """What can be seen of an engine from outside it."""
    links = json.loads(run(["ip", "-json", "link"], limit=20).stdout)
    rules = run(["iptables-save"], limit=20).stdout
    mounts = Path("/proc/self/mountinfo").read_text()
    groups = Path("/sys/fs/cgroup")
    return {
        "processes": len(ours(where)),
        "mounts": sum(str(where.run) in line or str(where.data) in line for line in mounts.splitlines()),
        "links": sorted(link["ifname"] for link in links),
        "rules": sorted(line for line in rules.splitlines() if "DOCKER" in line or "docker0" in line),
        "groups": [str(path) for path in (groups / where.group, *groups.glob(f"*/{where.group}")) if path.exists()],
        "folders": [str(path) for path in (where.run, where.state, where.socket) if path.exists()],
    }


def containers(engine: Engine) -> list[str]:
    """The state of each container."""
    return engine.run("ps", "--all", "--format", "{{.State}}").stdout.split()


def kill(where: Places, *, all_of_it: bool) -> None:
    """kill -9 for dockerd, or for everything that is ours."""
    pids = ours(where)
    for pid in pids if all_of_it else pids[:1]:
        os.kill(pid, signal.SIGKILL)


def scenario(where: Places, root_tar: Path) -> dict[str, object]:
    """Start, crash in three ways, stop after a crash, and start once more."""
    console = Console()
    seen: dict[str, object] = {"before": traces(where)}
    engine = start(where, console)
    engine.run("import", root_tar, IMAGE, limit=120)
    # --init: a first process that ends on SIGTERM, so that nothing waits for the engine's patience.
    engine.run("run", "--detach", "--init", "--volume", "kept:/kept", IMAGE, "/bin/sleep", "600")
    seen["running"] = containers(engine)

    kill(where, all_of_it=False)
    engine = start(where, console)
    seen["after dockerd was killed"] = containers(engine)
    engine.run("start", *engine.run("ps", "--all", "--quiet").stdout.split())

    kill(where, all_of_it=True)
    # As after a reboot: the numbers in the files belong to others now, and a socket nobody listens on is there.
    for stale in (where.pid_file, where.run / "containerd/containerd.pid"):
        stale.write_text("1")
    engine = start(where, console)
    seen["after all was killed"] = containers(engine)
    engine.run("start", *engine.run("ps", "--all", "--quiet").stdout.split())
    seen["running again"] = containers(engine)

    kill(where, all_of_it=False)
    stop(where, console)
    seen["after"] = traces(where)

    engine = start(where, console)
    seen["image kept"] = engine.image_id(IMAGE) is not None
    seen["containers kept"] = containers(engine)
    seen["volumes kept"] = engine.run("volume", "ls", "--quiet").stdout.split()
    stop(where, console)
    seen["in the end"] = traces(where)
    return seen


if __name__ == "__main__":
    base = Path(sys.argv[1])
    engine_places = Places(
        data=base / "data", state=base / "state", run=base / "run", socket=base / "docker.sock", group=base.name
    )
    print(json.dumps(scenario(engine_places, Path(sys.argv[2]))))
