"""Where things lie on this machine.

There is one cluster on a machine, whichever clone of the project started it: state and sockets are the machine's,
the build cache is the user's, the kubeconfig and the tools are the clone's.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

CLONE = Path(__file__).resolve().parents[2]
"""The project's root."""


@dataclass(frozen=True)
class Places:
    """The folders that the cluster uses."""

    state: Path = Path("/var/lib/warren-cluster")
    """Survives a reboot: etcd's data, images, volumes, certificates, logs."""
    run: Path = Path("/run/warren-cluster")
    """Does not survive a reboot: sockets, the state of running containers, addresses given to pods."""
    cache: Path = Path.home() / ".cache" / "warren"
    """Built programs, by the hash of what they are built from; `down` leaves them."""
    local: Path = CLONE / ".cluster"
    """What this clone needs to use the cluster: kubeconfig and tools."""

    @property
    def kubeconfig(self) -> Path:
        """The administrator's access to the cluster, for this clone."""
        return self.local / "kubeconfig"

    @property
    def tools(self) -> Path:
        """kubectl, helm and the tools of the tests."""
        return self.local / "bin"

    @property
    def pki(self) -> Path:
        """Certificates and keys."""
        return self.state / "pki"

    @property
    def config(self) -> Path:
        """Configuration files of the components."""
        return self.state / "config"

    @property
    def logs(self) -> Path:
        """One log file for each component."""
        return self.state / "logs"

    @property
    def volumes(self) -> Path:
        """One folder for each PersistentVolume."""
        return self.state / "volumes"


def places(environment: Mapping[str, str] = os.environ) -> Places:
    """The folders, with the cache where the user's environment says that caches belong."""
    base = environment.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Places(cache=Path(base) / "warren")
