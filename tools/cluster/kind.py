"""The cluster in Docker containers, where Docker can pull kind's node image."""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tools.cluster.images import archive_images, short_name, stored_name, written_out
from tools.cluster.layout import NAME
from tools.cluster.places import Places
from tools.console import Console
from tools.engine import Engine
from tools.shell import Result, ToolError, run

IMAGE = "kindest/node:v1.37.0@sha256:a1ed56cfb0e7b93589bdf97c8cd566405a265939e3620fc4f5de89adff580ae5"
"""The image that this version of kind (go/kind/go.mod) was released with."""

CREATE_LIMIT = 600.0
"""Seconds to create the cluster: one minute as a rule, kubeadm gives up after about five."""
COMMAND_LIMIT = 60.0
LOAD_LIMIT = 600.0


def config(nodes: int, *, cgroup_v1: bool) -> str:
    """kind's configuration: the first node has the control plane and takes pods too, when it is alone."""
    value: dict[str, object] = {
        "kind": "Cluster",
        "apiVersion": "kind.x-k8s.io/v1alpha4",
        "name": NAME,
        "nodes": [{"role": "control-plane", "image": IMAGE}]
        + [{"role": "worker", "image": IMAGE} for _ in range(nodes - 1)],
    }
    if cgroup_v1:
        # From 1.35 on, the kubelet refuses version 1 of control groups unless it is told otherwise.
        kubelet = {
            "apiVersion": "kubelet.config.k8s.io/v1beta1",
            "kind": "KubeletConfiguration",
            "failCgroupV1": False,
        }
        value["kubeadmConfigPatches"] = [json.dumps(kubelet)]
    return json.dumps(value, indent=2)


def node_names(output: str) -> tuple[str, ...]:
    """The containers in the output of `kind get nodes`."""
    return tuple(line.strip() for line in output.splitlines() if line.strip().startswith(f"{NAME}-"))


@dataclass(frozen=True)
class KindCluster:
    """The cluster `warren` of kind."""

    program: Path
    kubectl: Path
    engine: Engine
    places: Places
    console: Console

    def _environment(self) -> Mapping[str, str]:
        path = f"{self.engine.docker.parent}:{os.environ.get('PATH', '')}"
        # kind writes to the user's kubeconfig unless each command is told otherwise; this is for one that forgets.
        return {**self.engine.environment, "PATH": path, "KUBECONFIG": str(self.places.kubeconfig)}

    def _kind(self, *words: str | Path, limit: float = COMMAND_LIMIT, stdin: str | None = None) -> Result:
        return run([self.program, *words], limit=limit, env=self._environment(), stdin=stdin)

    def exists(self) -> bool:
        """Whether there is such a cluster, running or stopped."""
        return NAME in self._kind("get", "clusters").stdout.split()

    def nodes(self) -> tuple[str, ...]:
        """Its containers."""
        return node_names(self._kind("get", "nodes", "--name", NAME).stdout)

    def works(self, limit: float) -> bool:
        """Whether every node becomes Ready within the limit (seconds)."""
        wait = ["wait", "--for=condition=Ready", "nodes", "--all", f"--timeout={limit:g}s"]
        result = run([self.kubectl, "--kubeconfig", self.places.kubeconfig, *wait], limit=limit + 30, check=False)
        return result.code == 0

    def up(self, nodes: int | None, *, cgroup_v1: bool) -> None:
        """Create the cluster, or start its stopped containers; one that does not come back is made anew.

        Args:
            nodes: how many; None for those that it has, or one.
            cgroup_v1: whether the machine has control groups of version 1.

        Raises:
            CommandError: kind failed.
            ToolError: it has another number of nodes, which kind cannot change.
        """
        self.places.local.mkdir(exist_ok=True)
        if self.exists():
            there = len(self.nodes())
            if nodes not in (None, there):
                raise ToolError(
                    f"The cluster has {there} node(s), and kind adds and removes none. "
                    f"Make it anew: make down && make cluster NODES={nodes}"
                )
            for name in self.nodes():
                # Docker starts them again after a reboot only if it was stopped in order.
                self.engine.run("start", name, check=False)
            self._export()
            if self.works(limit=90):
                return
            with self.console.step("The kind cluster does not come back: removing it"):
                self.down()
        with self.console.step("Creating a kind cluster"):
            self._kind(
                *("create", "cluster", "--name", NAME, "--image", IMAGE, "--wait", "180s"),
                *("--kubeconfig", self.places.kubeconfig, "--config", "-"),
                limit=CREATE_LIMIT,
                stdin=config(nodes or 1, cgroup_v1=cgroup_v1),
            )
            self.places.kubeconfig.chmod(0o600)

    def _export(self) -> None:
        self._kind("export", "kubeconfig", "--name", NAME, "--kubeconfig", self.places.kubeconfig)
        self.places.kubeconfig.chmod(0o600)

    def down(self) -> None:
        """Delete it."""
        self._kind("delete", "cluster", "--name", NAME, "--kubeconfig", self.places.kubeconfig, limit=CREATE_LIMIT)

    def loaded(self) -> dict[str, str]:
        """Short name → id of the images that every node has."""
        found: list[dict[str, str]] = []
        for node in self.nodes():
            output = self.engine.run("exec", node, "crictl", "images", "-o", "json").stdout
            found.append(parse_crictl(output))
        first, *others = found or [{}]
        return {name: identity for name, identity in first.items() if all(o.get(name) == identity for o in others)}

    def load(self, archives: Sequence[Path]) -> None:
        """Load archives of images into every node that lacks them."""
        present = self.loaded()
        for archive in archives:
            images = archive_images(archive)
            names = [name for image in images for name in image.names if present.get(short_name(name)) != image.id]
            if names:
                with self.console.step(f"Loading {', '.join(names)}"):
                    self._kind("load", "image-archive", archive, "--name", NAME, limit=LOAD_LIMIT)

    def tag(self, name: str, alias: str) -> None:
        """Give a loaded image another name, on every node."""
        for node in self.nodes():
            images = ("exec", node, "ctr", "--namespace", "k8s.io", "images")
            stored = stored_name(name, self.engine.run(*images, "list", "--quiet").stdout.split())
            self.engine.run(*images, "tag", "--force", stored, written_out(short_name(alias), stored))


def parse_crictl(output: str) -> dict[str, str]:
    """Short name → id in the output of `crictl images -o json`."""
    found = {}
    for image in json.loads(output).get("images", ()):
        for name in image.get("repoTags") or ():
            found[short_name(name)] = str(image["id"])
    return found
