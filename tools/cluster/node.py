"""Our own node: Kubernetes' programs on this machine, without images from anywhere."""

import json
import os
import shutil
import socket
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from tools.cluster import kernel, netns, pki, supervise
from tools.cluster.build import Cache
from tools.cluster.component import Component
from tools.cluster.components import (
    PAUSE_IMAGE,
    Machine,
    containerd_socket,
    control_plane,
    kubeconfig_path,
    node_components,
)
from tools.cluster.health import healthy, resolves
from tools.cluster.images import Image, Store, archive_images, missing, pause_archive
from tools.cluster.layout import API_ADDRESS, API_PORT, DNS_SERVICE, DOMAIN, MAX_NODES, Layout, Node, layout
from tools.cluster.manifests import manifests
from tools.cluster.places import Places
from tools.cluster.programs import NODE_BUILDS, PAUSE
from tools.cluster.supervise import Action, decide
from tools.console import Console
from tools.host import Need, find
from tools.shell import Result, ToolError, run

NEEDS = (
    Need("containerd", "containerd"),
    Need("ctr", "containerd"),
    Need("runc", "runc"),
    Need("ip", "iproute2"),
    Need("iptables", "iptables"),
    Need("openssl", "openssl"),
    Need("nsenter", "util-linux"),
    Need("mount", "mount"),
)
CNI_FOLDERS = ("/usr/lib/cni", "/opt/cni/bin", "/usr/libexec/cni")
"""Where Debian, the upstream archive and Fedora put the network plugins."""
CNI_PACKAGE = "containernetworking-plugins"
CNI_PLUGINS = ("bridge", "host-local", "portmap", "loopback")

START_LIMIT = 90.0
"""Seconds until a component that was just started has to be well: most take two, a busy machine's API server 20."""
RECOVER_LIMIT = 8.0
"""Seconds that a component which runs but does not answer gets: it may just have been started again by its keeper."""
CRASH_LOOP = 5
"""Ends of a component while we wait for it, a second apart, after which more patience is of no use."""
APPLY_LIMIT = 60.0
"""Seconds until the API server takes the cluster's own objects."""
READY_LIMIT = 120.0
"""Seconds until the node is Ready and DNS answers, once everything runs: ten, usually."""
CNI_CACHE = Path("/var/lib/cni")
LOG_LINKS = Path("/var/log/containers")
DEVICE_PLUGINS = Path("/var/lib/kubelet/device-plugins")
SHIM_SOCKETS = Path("/run/containerd/s")
"""Where containerd has the sockets of its containers' keepers, whatever its own folder of sockets is."""


def cni_folder() -> str | None:
    """The folder that has all the network plugins."""
    for folder in CNI_FOLDERS:
        if all((Path(folder) / plugin).exists() for plugin in CNI_PLUGINS):
            return folder
    return None


def needs() -> tuple[Need, ...]:
    """The programs that the node needs from the machine."""
    return NEEDS if cni_folder() else (*NEEDS, Need(f"{CNI_FOLDERS[0]}/bridge", CNI_PACKAGE))


def boot_id() -> str:
    """Another one after each reboot."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def nodes_there(places: Places) -> int:
    """How many nodes the cluster has, whatever their state: those that have a folder."""
    there = [node.index + 1 for node in layout(MAX_NODES).nodes if node.state(places.state).exists()]
    return max(there, default=0)


def continues(noted: str, now: str) -> bool:
    """Whether nothing was lost since an identity was noted: the machine runs on, and each node has its network.

    A node that has come since, or is to go, changes nothing for the others.
    """
    return all(then == found for then, found in zip(noted.split(), now.split(), strict=False))


@dataclass(frozen=True)
class LocalNode:
    """The cluster that we run ourselves."""

    places: Places
    layout: Layout
    cache: Cache
    console: Console

    # --- up

    def up(self) -> None:
        """Make the cluster, or put right what is not as it should be; return when it works.

        Raises:
            ToolError: something does not come up; the text has the end of its log.
        """
        self._remove_surplus_nodes()
        machine = self._prepare()
        wanted = (*control_plane(self.layout, self.places, machine),)
        for node in self.layout.nodes:
            wanted += node_components(node, self.places, machine)
        by_name = {component.name: component for component in wanted}
        nodes = [node.name for node in self.layout.nodes]
        # What others wait for first; within a wave, all start at once.
        waves: tuple[tuple[str, ...], ...] = (
            ("etcd", *(f"containerd-{name}" for name in nodes)),
            ("kube-apiserver",),
            (
                *("kube-controller-manager", "kube-scheduler", "coredns", "provisioner"),
                *(f"{kind}-{name}" for name in nodes for kind in ("kubelet", "kube-proxy")),
            ),
        )
        self._components([[by_name[name] for name in wave] for wave in waves])
        # Nothing runs from these any more.
        used = {self.cache.folder(build).name for build in NODE_BUILDS}
        for folder in (self.places.state / "programs").iterdir():
            if folder.name not in used:
                shutil.rmtree(folder)

    def _components(self, waves: Sequence[Sequence[Component]]) -> None:
        contents = self._write_files([component for wave in waves for component in wave])
        fresh: set[str] = set()
        for wave in waves:
            fresh |= self._start(wave, contents)
            self._await_healthy(wave, fresh, contents)
            if any(component.name.startswith("containerd-") for component in wave):
                self._pause_images()
                self._copy_images()
            if any(component.name == "kube-apiserver" for component in wave):
                # Rights first: DNS cannot become healthy without its own.
                self._apply()
        self._await_working(bool(fresh))

    def _prepare(self) -> Machine:
        self.places.state.mkdir(parents=True, exist_ok=True, mode=0o711)
        supervise.raise_file_limit()
        self._forget_the_past()
        kernel.make_group(kernel.SYSTEM_GROUP)
        for node in self.layout.nodes:
            netns.ensure(node)
            kernel.make_group(node.cgroup)
            for folder in (node.state(self.places.state), node.state(self.places.run)):
                folder.mkdir(parents=True, exist_ok=True, mode=0o711)
        self._write_identity()
        kernel.save_settings(self.places.state / "kernel-settings.json")
        # Closed to all but root: the folders in it are open to every user, for pods of every user.
        self.places.volumes.mkdir(exist_ok=True, mode=0o700)
        pki.ensure(self.places.pki, self.layout)
        self._write_kubeconfigs()
        plugins, containerd = cni_folder(), find("containerd")
        if plugins is None or containerd is None:
            raise ToolError(f"containerd or the network plugins ({CNI_PACKAGE}) are missing.")
        path = netns.iptables_folder(self.layout.control_plane, self.places.state / "iptables")
        return Machine({**self._install_programs(), "containerd": str(containerd)}, plugins, path)

    def _identity(self) -> str:
        namespaces = " ".join(netns.identity(node.netns) or "none" for node in self.layout.nodes)
        return f"{boot_id()} {namespaces}"

    def _forget_the_past(self) -> None:
        """After a reboot, or where a network namespace is gone: pods of before have no network, and never will again.

        Whatever is left of them and of the components goes, as a reboot would have it; what lies in the state folder
        stays, and the kubelet starts the pods anew.
        """
        mark = self.places.run / "identity"
        if mark.exists() and continues(mark.read_text(), self._identity()):
            return
        if self.places.run.exists() or supervise.processes() or kernel.group_pids():
            self.console.say("The cluster was running before a reboot, or lost its network: starting it anew")
        self._stop_everything()

    def _write_identity(self) -> None:
        (self.places.run / "identity").write_text(self._identity())

    def _install_programs(self) -> dict[str, str]:
        """Link or copy the programs from the user's cache, which may be emptied while the cluster runs."""
        programs: dict[str, str] = {}
        for build in NODE_BUILDS:
            source = self.cache.folder(build)
            folder = self.places.state / "programs" / source.name
            if not folder.exists():
                partial = folder.with_name(f".{folder.name}")
                shutil.rmtree(partial, ignore_errors=True)
                partial.mkdir(parents=True)
                for program in build.programs:
                    try:
                        (partial / program).hardlink_to(source / program)
                    except OSError:
                        shutil.copy2(source / program, partial / program)
                partial.rename(folder)
            programs |= {program: str(folder / program) for program in build.programs}
        return programs

    def _write_kubeconfigs(self) -> None:
        address = self.layout.control_plane.address
        names = ["controller-manager", "scheduler", "proxy", "dns", "provisioner"]
        names += [f"node-{node.name}" for node in self.layout.nodes]
        self.places.config.mkdir(exist_ok=True, mode=0o700)
        for name in names:
            text = pki.kubeconfig(self.places.pki, name, f"https://{address}:{API_PORT}")
            _write(kubeconfig_path(name, self.places), text, 0o600)
        self.places.local.mkdir(exist_ok=True)
        admin = pki.kubeconfig(self.places.pki, "admin", f"https://{API_ADDRESS}:{API_PORT}")
        _write(self.places.kubeconfig, admin, 0o600)

    def _write_files(self, components: Sequence[Component]) -> dict[str, bytes]:
        contents: dict[str, bytes] = {}
        for component in components:
            for path, text in (component.files or {}).items():
                Path(path).parent.mkdir(parents=True, exist_ok=True)
                _write(Path(path), text, 0o600)
            contents |= {path: Path(path).read_bytes() for path in component.inputs}
        return contents

    def _start(self, wave: Sequence[Component], contents: Mapping[str, bytes]) -> set[str]:
        running = supervise.processes()
        actions = {
            component.name: decide(component.name, component.fingerprint(contents), running) for component in wave
        }
        restarts = [name for name, action in actions.items() if action is Action.RESTART]
        if restarts:
            self.console.say(f"Restarting, because of another version or a lost keeper: {', '.join(restarts)}")
            supervise.stop(restarts)
        changed = [component for component in wave if actions[component.name] is not Action.KEEP]
        for component in changed:
            supervise.start(component, component.fingerprint(contents), self.places.logs)
        return {component.name for component in changed}

    def _await_healthy(self, wave: Sequence[Component], fresh: set[str], contents: Mapping[str, bytes]) -> None:
        waiting = [component for component in wave if not healthy(component.health, component.netns)]
        if not waiting:
            return
        with self.console.step(f"Waiting for {', '.join(component.name for component in waiting)}"):
            for component in waiting:
                crashes = supervise.crashes(component, self.places.logs)
                patience = START_LIMIT if component.name in fresh else RECOVER_LIMIT
                if self._becomes_healthy(component, patience):
                    continue
                if component.name not in fresh:
                    self.console.say(f"{component.name} runs but does not answer: restarting it")
                    self._restart(component, contents)
                    if self._becomes_healthy(component, START_LIMIT):
                        continue
                # Slow is not broken: only an etcd that ends by itself, again and again, cannot read its data.
                if component.name == "etcd" and self._crash_loops(component, crashes):
                    self._reset_etcd(component, contents)
                    if self._becomes_healthy(component, START_LIMIT):
                        continue
                raise ToolError(
                    f"{component.name} does not become healthy. The end of its log "
                    f"({self.places.logs / component.name}.log):\n{supervise.log_tail(component, self.places.logs)}"
                )

    def _becomes_healthy(self, component: Component, limit: float) -> bool:
        before = supervise.crashes(component, self.places.logs)

        def settled() -> bool:
            return healthy(component.health, component.netns) or self._crash_loops(component, before)

        return _eventually(settled, limit) and healthy(component.health, component.netns)

    def _crash_loops(self, component: Component, before: int) -> bool:
        return supervise.crashes(component, self.places.logs) - before >= CRASH_LOOP

    def _restart(self, component: Component, contents: Mapping[str, bytes]) -> None:
        supervise.stop([component.name])
        supervise.start(component, component.fingerprint(contents), self.places.logs)

    def _reset_etcd(self, component: Component, contents: Mapping[str, bytes]) -> None:
        """etcd without fsync may lose its data with the machine's power; then the cluster begins empty."""
        data, kept = self.places.state / "etcd", self.places.state / "lost"
        self.console.say(
            f"etcd cannot read its data: the cluster begins anew, empty. Its data and volumes are in {kept}"
        )
        supervise.stop([component.name])
        shutil.rmtree(kept, ignore_errors=True)
        kept.mkdir(mode=0o700)
        for folder in (data, self.places.volumes):
            if folder.exists():
                folder.rename(kept / folder.name)
        self.places.volumes.mkdir(mode=0o700)
        supervise.start(component, component.fingerprint(contents), self.places.logs)

    # --- further nodes

    def cut(self, name: str) -> None:
        """Cut a node off from all the others: to them it is lost, while it runs on. `up` or `mend` ends that.

        Raises:
            ToolError: there is no such node, or it is the first one.
        """
        netns.cut(self._named(name))

    def mend(self, name: str) -> None:
        """End a cut.

        Raises:
            ToolError: there is no such node.
        """
        netns.ensure(self._named(name))

    def _named(self, name: str) -> Node:
        for node in self.layout.nodes:
            if node.name == name:
                return node
        raise ToolError(f"There is no node {name}: there are {', '.join(node.name for node in self.layout.nodes)}.")

    def _remove_surplus_nodes(self) -> None:
        """Remove nodes that the cluster is to have no more, with their pods. Harmless where there are none."""
        count = nodes_there(self.places)
        for node in layout(max(count, 1)).nodes[len(self.layout.nodes) :]:
            with self.console.step(f"Removing node {node.name}"):
                supervise.stop([f"kubelet-{node.name}", f"kube-proxy-{node.name}"])
                # The API server may be down; then the node stays in the list, NotReady, until the next `up`.
                self._kubectl("delete", "node", node.name, "--ignore-not-found", "--wait=false")
                supervise.kill_with_survivors([f"containerd-{node.name}"])
                kernel.empty_groups(limit=15, name=node.cgroup.lstrip("/"))
                kernel.unmount((node.state(self.places.state), node.state(self.places.run)))
                netns.remove(node)
                kernel.remove_groups(limit=15, name=node.cgroup.lstrip("/"))
                _remove_tree(node.state(self.places.run))
                # Last: while it is there, it says that there is something to remove.
                _remove_tree(node.state(self.places.state))

    def _copy_images(self) -> None:
        """Give every node the images of the first one."""
        first, *others = (self.store(node) for node in self.layout.nodes)
        there = first.present()
        for node, store in zip(self.layout.nodes[1:], others, strict=True):
            present = store.present()
            wanted = tuple(
                Image(identity, (name,)) for name, identity in there.items() if present.get(name) != identity
            )
            if not wanted:
                continue
            with (
                self.console.step(f"Copying {len(wanted)} images to node {node.name}"),
                tempfile.TemporaryDirectory(prefix="warren-images-", dir=self.places.state) as folder,
            ):
                archive = Path(folder) / "images.tar"
                first.save(archive, [name for image in wanted for name in image.names])
                store.load(archive, wanted)

    def store(self, node: Node) -> Store:
        """The images of a node."""
        ctr = find("ctr")
        if ctr is None:
            raise ToolError("ctr is missing (Debian package containerd).")
        return Store(str(ctr), containerd_socket(node, self.places))

    def _pause_images(self) -> None:
        archive = self.places.state / "pause.tar"
        content = pause_archive(self.cache.program(PAUSE, "pause").read_bytes(), PAUSE_IMAGE)
        if not archive.exists() or archive.read_bytes() != content:
            archive.write_bytes(content)
        self.load([archive])

    def _apply(self) -> None:
        objects, result = manifests(self.layout.control_plane), Result(0, "", "")

        def applied() -> bool:
            nonlocal result
            result = self._kubectl("apply", "-f", "-", stdin=objects)
            return result.code == 0

        # Not at the first attempt where the API server has just become ready, and restarts once more.
        if not _eventually(applied, APPLY_LIMIT):
            raise ToolError(f"The API server does not take the cluster's own objects:\n{result.stderr}")

    def _await_working(self, changed: bool) -> None:
        """Until the node is Ready, DNS answers through its service, and pods can be made."""
        if not self._working():
            with self.console.step("Waiting for the node to be Ready and DNS to answer"):
                if not _eventually(self._working, READY_LIMIT):
                    raise ToolError(f"The cluster does not become ready:\n{self._story()}")
        if changed:
            self.console.say("The node is Ready, DNS answers")

    def _working(self) -> bool:
        return (
            ready_nodes(self._kubectl("get", "nodes", "-o", "json").stdout) >= {node.name for node in self.layout.nodes}
            and resolves(f"kubernetes.default.svc.{DOMAIN}", DNS_SERVICE, self.layout.control_plane.netns)
            # Made by controllers a moment after the namespace: a pod is refused before.
            and self._kubectl("get", "serviceaccount/default", "configmap/kube-root-ca.crt", "-n", "default").code == 0
        )

    def _story(self) -> str:
        return self._kubectl("describe", "nodes").stdout[-3000:]

    def _kubectl(self, *words: str, stdin: str | None = None) -> Result:
        kubectl = self.places.state / "programs" / self.cache.folder(NODE_BUILDS[0]).name / "kubectl"
        return run(
            [kubectl, "--kubeconfig", self.places.kubeconfig, "--request-timeout=20s", *words],
            limit=30,
            check=False,
            stdin=stdin,
            env={"NO_PROXY": API_ADDRESS, "no_proxy": API_ADDRESS},
        )

    # --- load

    def load(self, archives: Sequence[Path]) -> None:
        """Import images into every node that lacks them.

        Raises:
            ToolError: not an archive of images, or containerd does not run.
        """
        for archive in archives:
            images = archive_images(archive)
            for node in self.layout.nodes:
                store = self.store(node)
                if wanted := missing(images, store.present()):
                    names = ", ".join(name for image in wanted for name in image.names)
                    with self.console.step(f"Loading {names} into node {node.name}"):
                        store.load(archive, images)

    def tag(self, name: str, alias: str) -> None:
        """Give a loaded image another name, on every node."""
        for node in self.layout.nodes:
            self.store(node).tag(name, alias)

    def loaded(self) -> dict[str, str]:
        """Short name → id of the images that every node has."""
        stores = [self.store(node).present() for node in self.layout.nodes]
        return {
            name: identity
            for name, identity in stores[0].items()
            if all(store.get(name) == identity for store in stores[1:])
        }

    # --- status

    def status(self) -> bool:
        """Print each component's state; True if all is well."""
        running = supervise.processes()
        machine = Machine({name: name for build in NODE_BUILDS for name in build.programs} | {"containerd": ""}, "")
        well = True
        components = control_plane(self.layout, self.places, machine)
        for node in self.layout.nodes:
            components += node_components(node, self.places, machine)
        for component in components:
            alive = any(process.component == component.name for process in running)
            answers = alive and healthy(component.health, component.netns)
            well = well and answers
            print(f"{component.name:28} {'well' if answers else 'does not answer' if alive else 'not running'}")
        works = well and self._working()
        print("The cluster works." if works else "The cluster does not work. Put it right: make cluster")
        return works

    # --- down

    def down(self) -> None:
        """Remove everything but the cache. Harmless where nothing is there.

        Raises:
            ToolError: something cannot be removed; the text says what.
        """
        self._stop_everything()
        # The first one last: it has the other ends of the links.
        for node in reversed(layout(max(nodes_there(self.places), 1)).nodes):
            netns.remove(node)
        kernel.remove_groups(limit=15)
        kernel.restore_settings(self.places.state / "kernel-settings.json")
        self._remove_traces()
        # The state last: while it is there, it says that there is something to remove.
        _remove_tree(self.places.state)

    def _stop_everything(self) -> None:
        supervise.kill_everything()
        kernel.empty_groups(limit=15)
        kernel.unmount((self.places.state, self.places.run))
        _remove_tree(self.places.run)

    def _remove_traces(self) -> None:
        """What programs of others write where no setting can tell them otherwise."""
        for file in (CNI_CACHE / "results").glob("*"):
            # The result of each call names the pod's network namespace, which lies in our folder.
            if str(self.places.run) in file.read_text(errors="replace"):
                file.unlink()
        for link in LOG_LINKS.glob("*"):
            if link.is_symlink() and link.readlink().is_relative_to(self.places.state):
                link.unlink()
        for folder in (SHIM_SOCKETS, DEVICE_PLUGINS):
            remove_dead_sockets(folder)
        for folder in (
            *(CNI_CACHE / "results", CNI_CACHE / "cache", CNI_CACHE, LOG_LINKS, DEVICE_PLUGINS, DEVICE_PLUGINS.parent),
            *(SHIM_SOCKETS, SHIM_SOCKETS.parent),
        ):
            # Only if it is empty.
            with suppress(OSError):
                folder.rmdir()


def remove_dead_sockets(folder: Path) -> None:
    """Remove the sockets in a folder that nobody listens on: they are of no use to anybody, whoever made them."""
    for path in folder.glob("*"):
        if not path.is_socket():
            continue
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(1)
            try:
                connection.connect(str(path))
            except ConnectionRefusedError:
                path.unlink(missing_ok=True)
            except OSError:
                # Busy, or gone meanwhile: somebody else's.
                continue


def ready_nodes(nodes: str) -> set[str]:
    """The names of the nodes that are Ready, in the output of `kubectl get nodes -o json`."""
    try:
        items = json.loads(nodes)["items"]
    except (ValueError, KeyError):
        return set()
    return {
        node["metadata"]["name"]
        for node in items
        if any(
            condition["type"] == "Ready" and condition["status"] == "True"
            for condition in node.get("status", {}).get("conditions", ())
        )
    }


def _eventually(condition: Callable[[], bool], limit: float) -> bool:
    deadline = time.monotonic() + limit
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.1)
    return True


def _write(path: Path, text: str, mode: int) -> None:
    """Write a file in one step, if it is not so already."""
    with suppress(FileNotFoundError):
        if path.read_text() == text and path.stat().st_mode & 0o777 == mode:
            return
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
    with os.fdopen(descriptor, "w") as file:
        file.write(text)
    partial.replace(path)


def _remove_tree(folder: Path) -> None:
    if folder.exists():
        shutil.rmtree(folder)
