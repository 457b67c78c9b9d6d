"""The command: `python -m tools.cluster up|down|status|cut|mend|load|tools|kubeconfig`."""

import argparse
import os
import shutil
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tools.alone import alone
from tools.cluster import kind as kind_cluster
from tools.cluster.build import Cache, ensure_built, link_tools
from tools.cluster.choice import VARIABLE, Kind, choose
from tools.cluster.images import short_name
from tools.cluster.kernel import hierarchies, version_1
from tools.cluster.kind import KindCluster
from tools.cluster.layout import MAX_NODES, NAME, layout
from tools.cluster.node import LocalNode, needs, nodes_there
from tools.cluster.places import Places, places
from tools.cluster.programs import HELM, KIND, KIND_BUILDS, KUBERNETES, NODE_BUILDS, TEST_BUILDS, TOXIPROXY
from tools.console import Console
from tools.engine import Engine
from tools.engine import ensure as ensure_engine
from tools.engine.client import answering
from tools.engine.daemon import down as engine_down
from tools.host import ensure, is_root
from tools.images.pull import pull
from tools.shell import ToolError

CHANGE_LIMIT = 1800.0
"""Seconds to wait for another command that changes the cluster: longer than a cold start takes."""
SAVE_LIMIT = 300.0
"""Seconds for Docker to write an image of some hundred megabytes to disk."""


@dataclass(frozen=True)
class Commands:
    """What each command does."""

    places: Places
    console: Console
    forced: str

    @property
    def cache(self) -> Cache:
        """The built programs."""
        return Cache(self.places.cache)

    def node(self, nodes: int | None = None) -> LocalNode:
        """Our own cluster, whether it is there or not: with so many nodes, or with those that it has."""
        count = max(1, nodes_there(self.places)) if nodes is None else nodes
        return LocalNode(self.places, layout(count), self.cache, self.console)

    def kind(self, engine: Engine) -> KindCluster:
        """The kind cluster, whether it is there or not; needs its programs."""
        kubectl = self.cache.program(KUBERNETES, "kubectl")
        return KindCluster(self.cache.program(KIND, "kind"), kubectl, engine, self.places, self.console)

    def there(self) -> Kind | None:
        """Which cluster this machine has, in whatever state it is."""
        if self.places.state.exists():
            return Kind.NODE
        engine = answering()
        if engine is not None:
            label = f"label=io.x-k8s.kind.cluster={NAME}"
            if engine.run("ps", "--all", "--quiet", "--filter", label).stdout.strip():
                return Kind.KIND
        return None

    def up(self, nodes: int | None) -> None:
        """See `LocalNode.up` and `KindCluster.up`; without a number, a cluster that is there keeps its nodes."""
        with alone("cluster", self.console, limit=CHANGE_LIMIT):
            chosen = choose(self.forced, self.there(), self._node_image)
            if chosen is Kind.KIND:
                self._kind_up(nodes)
            else:
                self._node_up(nodes)

    def _node_image(self) -> bool:
        return pull(ensure_engine(self.console), kind_cluster.IMAGE, self.console)

    def _kind_up(self, nodes: int | None) -> None:
        engine = ensure_engine(self.console)
        ensure_built(KIND_BUILDS, self.cache, self.console)
        # On a machine without /proc, Docker runs in a virtual one of recent make.
        cgroup_v1 = sys.platform == "linux" and version_1(hierarchies())
        self.kind(engine).up(nodes, cgroup_v1=cgroup_v1)
        self._link()

    def _node_up(self, nodes: int | None) -> None:
        if sys.platform != "linux":
            raise ToolError(
                "Docker cannot pull kind's node image, and only Linux can run the cluster without it. "
                f"See what `docker pull {kind_cluster.IMAGE}` says, then try again."
            )
        _require_root("up")
        ensure(needs(), self.console)
        ensure_built(NODE_BUILDS, self.cache, self.console)
        self.node(nodes).up()
        self._link()
        _give_back(self.places)
        self.console.say(
            f"The cluster is up: export KUBECONFIG={self.places.kubeconfig} PATH={self.places.tools}:$PATH"
        )

    def _link(self) -> None:
        link_tools((KUBERNETES, HELM), ("kubectl", "helm"), self.cache, self.places.tools)

    def down(self) -> None:
        """Remove the cluster, and the Docker engine if we started it; the cache stays."""
        with alone("cluster", self.console, limit=CHANGE_LIMIT):
            there = self.there()
            if there is Kind.KIND:
                engine = ensure_engine(self.console)
                ensure_built((KIND,), self.cache, self.console)
                with self.console.step("Removing the kind cluster"):
                    self.kind(engine).down()
            if there is Kind.NODE or self.places.run.exists():
                _require_root("down")
                with self.console.step("Removing the cluster"):
                    self.node().down()
            engine_down(self.console)
            # Links only; what they lead to is in the cache.
            shutil.rmtree(self.places.local, ignore_errors=True)

    def status(self) -> bool:
        """Print what is there; True if it works."""
        there = self.there()
        if there is None:
            print("There is no cluster: make cluster")
            return False
        if there is Kind.NODE:
            return self.node().status()
        engine = answering()
        works = engine is not None and self.kind(engine).works(limit=5)
        print(f"kind cluster {NAME}: {'works' if works else 'does not work: make cluster'}")
        return works

    def link(self, name: str, *, whole: bool) -> None:
        """Cut a node off, or end that.

        Raises:
            ToolError: there is no such node, or not on a cluster of this kind.
        """
        if self.there() is not Kind.NODE:
            raise ToolError("Only nodes of a cluster that runs on this machine itself can be cut off.")
        _require_root("mend" if whole else "cut")
        if whole:
            self.node().mend(name)
        else:
            self.node().cut(name)

    def load(self, archives: Sequence[Path], names: Sequence[str]) -> None:
        """Load images from archives, or from Docker by name, into every node that lacks them."""
        there = self.there()
        if there is None:
            raise ToolError("There is no cluster to load images into: make cluster")
        target: LocalNode | KindCluster
        if there is Kind.KIND:
            target = self.kind(ensure_engine(self.console))
        else:
            _require_root("load")
            target = self.node()
        target.load(archives)
        if not names:
            return
        engine = ensure_engine(self.console)
        loaded = target.loaded()
        for name, _, alias in (given.partition("=") for given in names):
            identity = engine.image_id(name)
            if identity is None:
                raise ToolError(f"Docker has no image {name}: build it first (python -m tools.images).")
            if loaded.get(short_name(name)) != identity:
                with tempfile.TemporaryDirectory(prefix="warren-image-") as folder:
                    archive = Path(folder) / "image.tar"
                    engine.run("save", "--output", archive, name, limit=SAVE_LIMIT)
                    target.load([archive])
            if alias and loaded.get(short_name(alias)) != identity:
                target.tag(name, alias)

    def tools(self) -> None:
        """Build what the chart's tests need, and toxiproxy, without a cluster."""
        builds = (KUBERNETES, *TEST_BUILDS)
        ensure_built((*builds, TOXIPROXY), self.cache, self.console)
        names = ("kubectl", *(program for build in TEST_BUILDS for program in build.programs))
        link_tools(builds, names, self.cache, self.places.tools)
        _give_back(self.places)


def _node_count(text: str) -> int:
    if not (text.isdigit() and 1 <= int(text) <= MAX_NODES):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 1 to {MAX_NODES}")
    return int(text)


def _require_root(command: str) -> None:
    if not is_root():
        raise ToolError(
            "Docker cannot pull kind's node image here, so the cluster runs on this machine itself: that needs root. "
            f"Run this:\n    sudo -E {sys.executable} -m tools.cluster {command}"
        )


def _give_back(where: Places) -> None:
    """Under sudo: what lies in the clone belongs to the user."""
    if not (os.environ.get("SUDO_UID", "").isdigit() and os.environ.get("SUDO_GID", "").isdigit()):
        return
    user, group = int(os.environ["SUDO_UID"]), int(os.environ["SUDO_GID"])
    for path in (where.local, where.kubeconfig, where.tools, *where.tools.glob("*")):
        if path.exists():
            os.chown(path, user, group, follow_symlinks=False)


def parser() -> argparse.ArgumentParser:
    """The command line."""
    top = argparse.ArgumentParser(prog="python -m tools.cluster", description="A real Kubernetes on this machine.")
    commands = top.add_subparsers(dest="command", required=True)
    up = commands.add_parser("up", help="make the cluster, or put right what is not as it should be")
    up.add_argument(
        "--nodes",
        type=_node_count,
        metavar="NUMBER",
        help="how many nodes it has from now on; without it, those that it has, or one",
    )
    commands.add_parser("down", help="remove it, with everything that belongs to it; built programs stay in the cache")
    commands.add_parser("status", help="what runs and what does not; exit code 1 unless all is well")
    for verb, text in (
        ("cut", "cut a node off from all the others: to them it is lost, while it runs on"),
        ("mend", "end that"),
    ):
        commands.add_parser(verb, help=text).add_argument("node", metavar="NODE", help="such as warren-2")
    load = commands.add_parser("load", help="load images into the cluster, unless they are there")
    load.add_argument("archives", nargs="*", type=Path, metavar="ARCHIVE", help="as `docker save` writes them")
    load.add_argument(
        "--docker",
        nargs="+",
        default=[],
        metavar="NAME[=ALIAS]",
        help="images of the Docker engine, by name; with an alias, under that name too",
    )
    commands.add_parser("tools", help="build kubectl, helm and the other tools of the tests; needs no cluster")
    commands.add_parser("kubeconfig", help="print the path of the kubeconfig")
    return top


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; the result is the exit code."""
    options = parser().parse_args(arguments)
    commands = Commands(places(), Console(), os.environ.get(VARIABLE, ""))
    try:
        match options.command:
            case "up":
                commands.up(options.nodes)
            case "down":
                commands.down()
            case "status":
                return 0 if commands.status() else 1
            case "cut" | "mend":
                commands.link(options.node, whole=options.command == "mend")
            case "load":
                commands.load(options.archives, options.docker)
            case "tools":
                commands.tools()
            case _:
                print(commands.places.kubeconfig)
    except ToolError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
