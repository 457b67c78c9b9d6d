"""One long-running program of the cluster, as a value."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Component:
    """What runs, where, and how to see that it is well."""

    name: str
    """Unique in the cluster."""
    argv: tuple[str, ...]
    netns: str
    """The network namespace that it runs in."""
    health: str = ""
    """An address (`http:`, `https:`, or `unix:` for a socket that accepts), reached from its namespace; if empty, being
    alive is all that can be seen from outside."""
    files: Mapping[str, str] | None = None
    """Configuration files by path; written before it starts."""
    inputs: tuple[str, ...] = ()
    """Further files (certificates, keys) that it reads when it starts."""
    path: str = ""
    """A folder that comes first in its PATH."""

    def fingerprint(self, contents: Mapping[str, bytes]) -> str:
        """Changes with the command, its configuration, and the `contents` of its inputs; then it must be restarted."""
        digest = hashlib.sha256(repr((self.argv, self.netns, sorted((self.files or {}).items()), self.path)).encode())
        for path in self.inputs:
            digest.update(hashlib.sha256(contents[path]).digest())
        return digest.hexdigest()[:16]
