"""The life of a local cluster, crashes included: run by test_cluster_lifecycle.py in namespaces of its own.

Prints one JSON object with what was seen; the test judges.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from tools.cluster import kernel, supervise
from tools.cluster.build import Cache, ensure_built
from tools.cluster.images import archive_images
from tools.cluster.layout import layout
from tools.cluster.node import CNI_CACHE, DEVICE_PLUGINS, LocalNode
from tools.cluster.places import Places, places
from tools.cluster.programs import KUBERNETES, NODE_BUILDS
from tools.console import Console
from tools.shell import Result, ToolError, run

PROGRAM = """
import http.server, pathlib, sys
kept = pathlib.Path("/kept/starts")
kept.write_text(str(int(kept.read_text()) + 1 if kept.exists() else 1))
print("serving", flush=True)
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(kept.read_bytes())
http.server.ThreadingHTTPServer(("", 8000), Handler).serve_forever()
"""
ASK = """
import urllib.request
print(urllib.request.urlopen("http://probe.default.svc.cluster.local", timeout=5).read().decode())
"""
WRITTEN_TO = (Path("/run"), Path("/var/log"), CNI_CACHE, DEVICE_PLUGINS.parent)
"""What programs of others write to whatever they are told: empty for the test."""
HALF = ("etcd", "kubelet-warren", "kube-proxy-warren", "containerd-warren", "coredns")


def probe(image: str) -> str:
    """A pod with a volume behind a service, as an ordinary user."""
    labels = {"app": "probe"}
    pod = {
        # It heeds no SIGTERM; nothing here needs its grace.
        "terminationGracePeriodSeconds": 1,
        "securityContext": {"runAsUser": 10001, "runAsNonRoot": True},
        "containers": [
            {
                "name": "probe",
                "image": image,
                "imagePullPolicy": "IfNotPresent",
                "command": ["python", "-c", PROGRAM],
                "volumeMounts": [{"name": "kept", "mountPath": "/kept"}],
                "readinessProbe": {"httpGet": {"port": 8000}, "periodSeconds": 1},
            }
        ],
    }
    claim = {
        "metadata": {"name": "kept"},
        "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}},
    }
    objects = [
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": "probe"},
            "spec": {"selector": labels, "ports": [{"port": 80, "targetPort": 8000}]},
        },
        {
            "apiVersion": "apps/v1",
            "kind": "StatefulSet",
            "metadata": {"name": "probe"},
            "spec": {
                "serviceName": "probe",
                "selector": {"matchLabels": labels},
                "template": {"metadata": {"labels": labels}, "spec": pod},
                "volumeClaimTemplates": [claim],
                "persistentVolumeClaimRetentionPolicy": {"whenDeleted": "Delete", "whenScaled": "Retain"},
            },
        },
    ]
    return json.dumps({"apiVersion": "v1", "kind": "List", "items": objects})


@dataclass(frozen=True)
class Scenario:
    """A cluster in places of the test's own, and the pod in it."""

    where: Places
    node: LocalNode
    archive: Path

    def kubectl(self, *words: str, stdin: str | None = None, check: bool = True, limit: float = 60) -> Result:
        """kubectl, as the user would run it."""
        program = self.node.cache.program(KUBERNETES, "kubectl")
        return run([program, "--kubeconfig", self.where.kubeconfig, *words], limit=limit, stdin=stdin, check=check)

    def traces(self) -> dict[str, object]:
        """What can be seen of a cluster from outside it."""
        links = json.loads(run(["ip", "-json", "link"], limit=20).stdout)
        mounts = kernel.parse_mounts(Path("/proc/self/mountinfo").read_text(), (self.where.state, self.where.run))
        groups = [hierarchy.root / kernel.GROUP for hierarchy in kernel.hierarchies()]
        files = [str(path) for folder in WRITTEN_TO for path in folder.rglob("*")]
        return {
            "processes": sorted(process.component for process in supervise.processes()),
            "links": sorted(link["ifname"] for link in links),
            "namespaces": run(["ip", "netns", "list"], limit=20).stdout,
            "mounts": mounts,
            "groups": [str(group) for group in groups if group.exists()],
            "folders": [str(folder) for folder in (self.where.state, self.where.run) if folder.exists()],
            "files": sorted(files),
        }

    def serving(self) -> dict[str, object]:
        """What the pod says, through every way to it; waits until it can."""
        deadline = time.monotonic() + 120
        while True:
            try:
                return self._serving()
            except ToolError:
                # After a crash the API server says Ready of a pod that is gone, until the kubelet has looked.
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.5)

    def _serving(self) -> dict[str, object]:
        self.kubectl("rollout", "status", "statefulset/probe", "--timeout=100s", limit=120)
        by_service = self.kubectl("exec", "probe-0", "--", "python", "-c", ASK).stdout.strip()
        pod = json.loads(self.kubectl("get", "pod", "probe-0", "-o", "json").stdout)
        log = self.kubectl("logs", "probe-0").stdout.strip()
        if "serving" not in log:
            raise ToolError(f"kubectl logs shows {log!r}")
        return {"starts": int(by_service), "pod": pod["metadata"]["uid"], "forwarded": self._forwarded()}

    def _forwarded(self) -> str:
        program = str(self.node.cache.program(KUBERNETES, "kubectl"))
        words = [program, "--kubeconfig", str(self.where.kubeconfig), "port-forward", "service/probe", ":80"]
        with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as forward:
            try:
                line = forward.stdout.readline() if forward.stdout else ""
                port = line.split(" -> ", maxsplit=1)[0].rpartition(":")[2]
                ask = "import sys, urllib.request as u; print(u.urlopen(sys.argv[1], timeout=10).read().decode())"
                return run([sys.executable, "-c", ask, f"http://127.0.0.1:{port}"], limit=30).stdout.strip()
            finally:
                forward.kill()

    def begin(self) -> None:
        """A cluster with the pod in it."""
        self.node.up()
        self.node.load([self.archive])
        self.deploy()

    def deploy(self) -> None:
        """The pod, if it is not there."""
        self.kubectl("apply", "-f", "-", stdin=probe(archive_images(self.archive)[0].names[0]))

    def lose_data(self) -> None:
        """As a cut of the machine's power may: etcd's files are there, but not all that was written to them."""
        supervise.kill_everything()
        kernel.empty_groups(limit=15)
        for file in (self.where.state / "etcd" / "member" / "snap").glob("db"):
            file.write_bytes(b"\0" * 4096)

    def components(self) -> dict[str, int]:
        """The process of each component, without its keeper, nor what that runs just now, such as iptables."""
        running = [process for process in supervise.processes() if not process.keeper and not process.survivor]
        first: dict[str, int] = {}
        for process in running:
            first[process.component] = min(process.pid, first.get(process.component, process.pid))
        return first

    def signal(
        self, number: signal.Signals, components: Iterable[str], *, keepers: bool = True, programs: bool = True
    ) -> None:
        """Send a signal to some components: to what keeps them running, or to their programs, or to both."""
        wanted = set(components)
        kernel.kill(
            (
                process.pid
                for process in supervise.processes()
                if process.component in wanted and not process.survivor and (keepers if process.keeper else programs)
            ),
            number,
        )

    def reboot(self) -> None:
        """As the machine would leave it: nothing runs, nothing is mounted, /run is empty."""
        supervise.kill_everything()
        kernel.empty_groups(limit=15)
        run(["ip", "netns", "delete", "warren"], limit=20)
        kernel.unmount((self.where.state, self.where.run, Path("/run/netns")))
        kernel.remove_groups(limit=15)
        for entry in Path("/run").iterdir():
            shutil.rmtree(entry) if entry.is_dir() and not entry.is_symlink() else entry.unlink()
        # What an older system leaves where /run is a disk: a name without a namespace.
        Path("/run/netns").mkdir()
        Path("/run/netns/warren").touch()


def play(scenario: Scenario) -> dict[str, object]:
    """Start; kill in many ways, put right each time; remove; twice."""
    node = scenario.node
    seen: dict[str, object] = {"before": scenario.traces()}
    took: dict[str, float] = {}

    def up(name: str, prepare: Callable[[], object], after: Callable[[], object] = lambda: None) -> None:
        prepare()
        began = time.monotonic()
        node.up()
        took[name] = round(time.monotonic() - began, 1)
        after()
        seen[name] = scenario.serving()

    node.down()
    scenario.begin()
    seen["running"] = scenario.serving()
    first = scenario.components()
    up("nothing to do", lambda: None)
    seen["untouched"] = scenario.components() == first

    def kill_all() -> None:
        supervise.kill_everything()
        kernel.empty_groups(limit=15)

    up("half of it killed", lambda: scenario.signal(signal.SIGKILL, HALF))
    up("keepers left", lambda: scenario.signal(signal.SIGKILL, first, keepers=False))
    up("only keepers killed", lambda: scenario.signal(signal.SIGKILL, first, programs=False))
    hung = ("kube-apiserver", "kubelet-warren")
    up("hung", lambda: scenario.signal(signal.SIGSTOP, hung))
    up("all of it killed", kill_all)
    up("network namespace deleted", lambda: run(["ip", "netns", "delete", "warren"], limit=20))
    up("rebooted", scenario.reboot)

    up("etcd's data lost", scenario.lose_data, after=scenario.deploy)

    scenario.kubectl("delete", "statefulset/probe", "service/probe", "--wait=true")
    volumes = scenario.where.volumes
    deadline = time.monotonic() + 60
    while list(volumes.iterdir()) and time.monotonic() < deadline:
        time.sleep(0.2)
    seen["volumes left"] = [path.name for path in volumes.iterdir()]

    scenario.deploy()
    seen["volume made anew"] = scenario.serving()
    scenario.signal(signal.SIGKILL, HALF)
    node.down()
    seen["after"] = scenario.traces()
    node.down()

    scenario.begin()
    seen["begun again"] = scenario.serving()
    node.down()
    seen["in the end"] = scenario.traces()
    return {**seen, "took": took}


def enter(folders: Iterable[Path]) -> None:
    """Empty places instead of the machine's own, where programs write whatever they are told."""
    folders = tuple(folders)
    # Seen by us only: copies of what the cluster in use has mounted there.
    kernel.unmount((*folders, Places().state))
    for folder in folders:
        folder.mkdir(parents=True, exist_ok=True)
        run(["mount", "-t", "tmpfs", "-o", "mode=755", "warren-test", folder], limit=20)
    run(["ip", "link", "set", "lo", "up"], limit=20)
    # The same hierarchies, as seen from our control group.
    for hierarchy in kernel.hierarchies():
        run(["umount", hierarchy.root], limit=20)
        options = ["-t", "cgroup2"] if hierarchy.unified else ["-t", "cgroup", "-o", _options(hierarchy)]
        run(["mount", *options, "warren-test", hierarchy.root], limit=20)


def _options(hierarchy: kernel.Hierarchy) -> str:
    return ",".join(hierarchy.controllers) or "none,name=systemd"


def main(folder: Path, archive: Path, play: Callable[[Scenario], dict[str, object]] = play) -> None:
    """Play it in a folder of the test's own."""
    enter(WRITTEN_TO)
    console = Console()
    where = Places(state=folder / "state", cache=places().cache, local=folder / "local")
    cache = Cache(where.cache)
    ensure_built(NODE_BUILDS, cache, console)
    scenario = Scenario(where, LocalNode(where, layout(), cache, console), archive)
    try:
        seen = play(scenario)
    except BaseException:
        with suppress(OSError):
            for log in sorted(where.logs.glob("*.log")):
                print(f"--- {log.name}\n{run(['tail', '-n', '8', log], limit=10).stdout}", file=sys.stderr)
        raise
    finally:
        with suppress(ToolError):
            scenario.node.down()
    print(json.dumps(seen))


if __name__ == "__main__":
    os.umask(0o022)
    main(Path(sys.argv[1]), Path(sys.argv[2]))
