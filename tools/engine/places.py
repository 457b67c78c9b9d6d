"""Where an engine that we started keeps what it has."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path


def cache_home(environ: Mapping[str, str] = os.environ) -> Path:
    """Warren's folder in the user's cache: what can be made again, but takes time or a download."""
    base = environ.get("XDG_CACHE_HOME", "")
    # The rule of the XDG base directory specification: a relative value is to be ignored.
    return (Path(base) if base.startswith("/") else Path.home() / ".cache") / "warren"


@dataclass(frozen=True)
class Places:
    """The folders and files of our own engine. One engine for each machine, so they are not the clone's.

    The images lie in the cache and outlive `down`; all the rest is state of the running engine and goes with it.
    """

    data: Path
    state: Path = Path("/var/lib/warren-engine")
    run: Path = Path("/run/warren-engine")
    socket: Path = Path("/var/run/docker.sock")
    group: str = "warren-engine"
    """The control group of its containers, at the top of the hierarchy."""

    @property
    def pid_file(self) -> Path:
        """Written by the engine itself."""
        return self.state / "docker.pid"

    @property
    def log(self) -> Path:
        """What the engine printed."""
        return self.state / "dockerd.log"

    @property
    def config(self) -> Path:
        """The engine's settings."""
        return self.state / "daemon.json"

    @property
    def before(self) -> Path:
        """How the machine's network was set before the engine changed it."""
        return self.state / "before.json"


def places() -> Places:
    """The places on this machine."""
    return Places(data=cache_home() / "engine" / "docker")
