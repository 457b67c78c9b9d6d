"""The cluster's network namespaces: made, repaired, entered, removed.

The first node's namespace has the control plane too. Two veth pairs make it whole:

- one with both ends inside carries the node's address and the default route. It leads nowhere, but without a default
  route the kernel refuses a packet to a service's address before it can be redirected;
- one leads to the machine's own namespace, for kubectl and port-forward.

A further node has one veth pair, to the first node, which forwards everything between its pods and the others. To cut
that link is to lose the node: it runs on, but nobody hears of it.
"""

import ctypes
import json
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from tools.cluster import kernel
from tools.cluster.layout import (
    API_ADDRESS,
    HOST_ADDRESS,
    HOST_LINK,
    HOST_LINK_INSIDE,
    HOST_LINK_PREFIX,
    POD_CIDR,
    Node,
    layout,
)
from tools.shell import CommandError, ToolError, run

T = TypeVar("T")

LIMIT = 30.0
"""Seconds for one `ip` or `iptables`: they are done in milliseconds, unless another holds iptables' lock."""

CLONE_NEWNET = 0x40000000

UPLINK = "uplink0"
"""A further node's end of its link to the first one."""

SETTINGS = (
    ("net/ipv4/ip_forward", "1", True),
    # Traffic between pods on one bridge passes iptables, as services of the same node need. Kernels without the module
    # (then the file is missing) still serve pods that talk to each other through another address.
    ("net/bridge/bridge-nf-call-iptables", "1", False),
)


def path(name: str) -> Path:
    """The file that stands for the namespace."""
    return Path("/run/netns") / name


def exists(name: str) -> bool:
    """Whether the namespace is there: a file alone (as after a reboot, where /run is a disk) is none."""
    own = Path("/proc/self/ns/net").stat()
    try:
        found = path(name).stat()
    except FileNotFoundError:
        return False
    return found.st_dev == own.st_dev


def identity(name: str) -> str:
    """Another one for each namespace that is made, also under the same name."""
    return str(path(name).stat().st_ino) if exists(name) else ""


def inside(name: str, call: Callable[[], T]) -> T:
    """Call a function whose sockets shall belong to the namespace.

    In a thread of its own, which ends in that namespace; the rest of the process stays where it is.
    """
    result: list[T] = []
    failure: list[BaseException] = []

    def enter() -> None:
        try:
            libc = ctypes.CDLL(None, use_errno=True)
            descriptor = os.open(path(name), os.O_RDONLY | os.O_CLOEXEC)
            try:
                if libc.setns(descriptor, CLONE_NEWNET) != 0:
                    raise OSError(ctypes.get_errno(), f"cannot enter the network namespace {name}")
            finally:
                os.close(descriptor)
            result.append(call())
        except BaseException as error:  # noqa: BLE001 - handed to the caller below
            failure.append(error)

    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    if failure:
        raise failure[0]
    return result[0]


def ensure(node: Node) -> None:
    """Make the node's namespace, or put right what is missing in it.

    Raises:
        CommandError: the kernel or this container does not let us.
    """
    if not exists(node.netns):
        path(node.netns).unlink(missing_ok=True)
        run(
            ["ip", "netns", "add", node.netns],
            limit=LIMIT,
            hint="The cluster needs a kernel with network namespaces, and root with CAP_SYS_ADMIN and CAP_NET_ADMIN.",
        )
    _up(node, "lo")
    if node.index == 0:
        _own_link(node)
        _host_link(node)
        _rules(node)
    else:
        _first_node_link(node)
    inside(node.netns, _settings)


def _own_link(node: Node) -> None:
    if "node0" not in _links(node.netns):
        _ip(node, "link", "add", "node0", "type", "veth", "peer", "name", "node0-end")
    _up(node, "node0")
    _up(node, "node0-end")
    _address(node.netns, "node0", node.address, 24)
    _default_route(node, "dev", "node0")


def _first_node_link(node: Node) -> None:
    first = layout().control_plane
    # One end without the other cannot be; but the other may have been given to a namespace that is gone.
    if UPLINK not in _links(node.netns):
        if node.link in _links(first.netns):
            _ip(first, "link", "delete", node.link)
        _ip(first, "link", "add", node.link, "type", "veth", "peer", "name", UPLINK, "netns", node.netns)
    _up(first, node.link)
    _up(node, UPLINK)
    _address(first.netns, node.link, node.gateway, 30)
    _address(node.netns, UPLINK, node.address, 30)
    _ip(first, "route", "replace", node.pod_cidr, "via", node.address)
    _default_route(node, "via", node.gateway)


def _default_route(node: Node, *way: str) -> None:
    if not any(route.get("dst") == "default" for route in _json("-n", node.netns, "route", "show")):
        _ip(node, "route", "replace", "default", *way)


def cut(node: Node) -> None:
    """Cut a further node off from all the others; `ensure` mends it.

    Raises:
        ToolError: it is the first one, which has the control plane.
        CommandError: it is not there.
    """
    if node.index == 0:
        raise ToolError(f"{node.name} has the control plane and cannot be cut off: take one of the others.")
    _ip(node, "link", "set", UPLINK, "down")


def _host_link(node: Node) -> None:
    # One end without the other cannot be; but the one inside may have been given to a namespace that is gone.
    if HOST_LINK_INSIDE not in _links(node.netns):
        if HOST_LINK in _links(None):
            run(["ip", "link", "delete", HOST_LINK], limit=LIMIT)
        run(
            [
                *("ip", "link", "add", HOST_LINK, "type", "veth"),
                *("peer", "name", HOST_LINK_INSIDE, "netns", node.netns),
            ],
            limit=LIMIT,
        )
    run(["ip", "link", "set", HOST_LINK, "up"], limit=LIMIT)
    _up(node, HOST_LINK_INSIDE)
    _address(None, HOST_LINK, HOST_ADDRESS, HOST_LINK_PREFIX)
    _address(node.netns, HOST_LINK_INSIDE, API_ADDRESS, HOST_LINK_PREFIX)


def _settings() -> None:
    # /proc/sys/net shows the namespace of the thread that looks.
    for name, value, required in SETTINGS:
        try:
            (Path("/proc/sys") / name).write_text(value)
        except OSError as error:
            if required:
                raise ToolError(f"The kernel setting {name} could not be set to {value}: {error}") from error


def _rules(node: Node) -> None:
    """Pods may reach the machine itself, under the address that it knows the cluster by."""
    rule = (
        *("POSTROUTING", "-s", POD_CIDR, "!", "-d", POD_CIDR, "-o", HOST_LINK_INSIDE),
        *("-m", "comment", "--comment", "warren: pods to this machine", "-j", "MASQUERADE"),
    )
    iptables = ["nsenter", f"--net={path(node.netns)}", "iptables", "-w", "10", "-t", "nat"]
    if run([*iptables, "-C", *rule], limit=LIMIT, check=False).code != 0:
        run([*iptables, "-A", *rule], limit=LIMIT)


def remove(node: Node) -> None:
    """Remove the namespace with all that is in it, and the link to it."""
    if HOST_LINK in _links(None) and node.index == 0:
        run(["ip", "link", "delete", HOST_LINK], limit=LIMIT, check=False)
    first = layout().control_plane
    # It goes with its other end, but a moment later; and with it the way to the node's pods.
    if node.index and exists(first.netns) and node.link in _links(first.netns):
        _ip(first, "link", "delete", node.link)
    if exists(node.netns):
        run(["ip", "netns", "delete", node.netns], limit=LIMIT)
    path(node.netns).unlink(missing_ok=True)
    remove_empty_folder(path(node.netns).parent)


def remove_empty_folder(folder: Path) -> None:
    """Remove the folder that `ip netns add` made and mounted onto itself, unless a namespace is left in it."""
    if folder.is_dir() and not list(folder.iterdir()):
        kernel.unmount((folder,))
        folder.rmdir()


def _ip(node: Node, *words: str) -> None:
    run(["ip", "-n", node.netns, *words], limit=LIMIT)


def _up(node: Node, link: str) -> None:
    _ip(node, "link", "set", link, "up")


def _in(netns: str | None) -> tuple[str, ...]:
    return ("-n", netns) if netns else ()


def _json(*words: str) -> list[dict[str, Any]]:
    output = run(["ip", "-json", *words], limit=LIMIT).stdout
    # Nothing to show is no output at all in some versions.
    parsed: list[dict[str, Any]] = json.loads(output) if output.strip() else []
    return parsed


def _links(netns: str | None) -> set[str]:
    return {link["ifname"] for link in _json(*_in(netns), "link", "show") if "ifname" in link}


def _address(netns: str | None, link: str, address: str, prefix: int) -> None:
    present = {
        (info.get("local"), info.get("prefixlen"))
        for entry in _json(*_in(netns), "address", "show", "dev", link)
        for info in entry.get("addr_info", ())
    }
    if (address, prefix) not in present:
        run(["ip", *_in(netns), "address", "add", f"{address}/{prefix}", "dev", link], limit=LIMIT)


def iptables_folder(node: Node, folder: Path) -> str:
    """A folder to put first in PATH, where the machine's `iptables` is the flavour that its kernel lacks; else ''.

    Debian has two: nf_tables behind the old commands (the default), and the old one as `iptables-legacy`.

    Raises:
        ToolError: neither works.
    """
    enter = ["nsenter", f"--net={path(node.netns)}"]

    def works(program: str) -> bool:
        try:
            return run([*enter, program, "-w", "10", "-t", "nat", "-S"], limit=LIMIT, check=False).code == 0
        except CommandError:
            return False

    if works("iptables"):
        return ""
    for flavour in ("legacy", "nft"):
        if works(f"iptables-{flavour}"):
            folder.mkdir(parents=True, exist_ok=True)
            for family in ("iptables", "ip6tables"):
                for verb in ("", "-save", "-restore"):
                    link = folder / f"{family}{verb}"
                    link.unlink(missing_ok=True)
                    link.symlink_to(f"/usr/sbin/{family}-{flavour}{verb}")
            return str(folder)
    raise ToolError(
        "iptables does not work in a network namespace of this machine: its kernel has neither flavour of it."
    )
