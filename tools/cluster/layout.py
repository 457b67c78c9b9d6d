"""Names and addresses of the control plane and of each node, as values.

Every address is one that exists only inside the cluster's network namespaces: 198.18.0.0/15 is set aside for
benchmarks (RFC 2544), so that it meets no network that the machine is really in.
"""

from dataclasses import dataclass
from pathlib import Path

NAME = "warren"
"""The cluster, its kubeconfig context, its first node, its network namespace."""

SERVICE_CIDR = "10.96.0.0/16"
API_SERVICE = "10.96.0.1"
DNS_SERVICE = "10.96.0.10"
POD_CIDR = "10.244.0.0/16"
DOMAIN = "cluster.local"

API_PORT = 6443
HOST_LINK = "warren0"
"""The interface in the machine's own namespace that leads into the cluster's."""
HOST_LINK_INSIDE = "host0"
HOST_ADDRESS = "198.18.255.1"
API_ADDRESS = "198.18.255.2"
"""Where kubectl on this machine finds the API server (and node ports)."""
HOST_LINK_PREFIX = 30

MAX_PODS = 250


@dataclass(frozen=True)
class Node:
    """One node; `index` 0 also carries the control plane."""

    index: int

    @property
    def name(self) -> str:
        """Its name in Kubernetes, and that of its network namespace."""
        return NAME if self.index == 0 else f"{NAME}-{self.index + 1}"

    @property
    def netns(self) -> str:
        """The network namespace that it lives in, as `ip netns` lists it."""
        return self.name

    @property
    def address(self) -> str:
        """Its InternalIP."""
        return f"198.18.{self.index}.{1 if self.index == 0 else 2}"

    @property
    def gateway(self) -> str:
        """The first node's end of the link to this one, which no node but a further one has."""
        return f"198.18.{self.index}.1"

    @property
    def link(self) -> str:
        """The name of that end."""
        return f"to-{self.name}"

    @property
    def pod_cidr(self) -> str:
        """Addresses of its pods: 1,022 of them, for at most 250 pods and those that are just going."""
        return f"10.244.{4 * self.index}.0/22"

    @property
    def cgroup(self) -> str:
        """The group above its pods, in each hierarchy."""
        return f"/warren-cluster/{self.name}"

    def state(self, root: Path) -> Path:
        """Its part of the cluster's state folder (or of the folder of sockets)."""
        return root / "nodes" / self.name


@dataclass(frozen=True)
class Layout:
    """The whole cluster."""

    nodes: tuple[Node, ...]

    @property
    def control_plane(self) -> Node:
        """The node whose network namespace has the control plane."""
        return self.nodes[0]


MAX_NODES = 9
"""More would not fit on one machine anyway."""


def layout(nodes: int = 1) -> Layout:
    """A cluster of some nodes.

    Raises:
        ValueError: not between 1 and `MAX_NODES`.
    """
    if not 1 <= nodes <= MAX_NODES:
        raise ValueError(f"a cluster has 1 to {MAX_NODES} nodes, not {nodes}")
    return Layout(tuple(Node(index) for index in range(nodes)))
