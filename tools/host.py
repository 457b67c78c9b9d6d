"""What this machine has, and how to get what it lacks."""

import os
import shutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from tools.console import Console
from tools.shell import ToolError, run

SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
"""Where Debian puts programs; an ordinary user's PATH lacks the sbin folders."""


@dataclass(frozen=True)
class Need:
    """A program (or, with a slash, a file) that has to be there, and the Debian package that brings it."""

    program: str
    package: str


def find(program: str) -> Path | None:
    """The program's path, looked up in PATH and in the system's folders; a name with a slash is a path."""
    if "/" in program:
        return Path(program) if Path(program).exists() else None
    found = shutil.which(program) or shutil.which(program, path=SYSTEM_PATH)
    return Path(found) if found else None


def is_root() -> bool:
    """Whether we may make namespaces, mounts and install packages."""
    return os.geteuid() == 0


def missing_packages(needs: Iterable[Need], find: Callable[[str], Path | None] = find) -> tuple[str, ...]:
    """The packages that bring what is not there, in order, each once."""
    return tuple(dict.fromkeys(need.package for need in needs if find(need.program) is None))


def ensure(needs: Iterable[Need], console: Console) -> None:
    """Install the Debian packages whose programs are missing.

    Raises:
        ToolError: we are not root, or this is not a Debian-like system; the text has the line to run.
        CommandError: apt-get failed.
    """
    needs = tuple(needs)
    packages = missing_packages(needs)
    if not packages:
        return
    command = f"apt-get update && apt-get install -y --no-install-recommends {' '.join(packages)}"
    if find("apt-get") is None:
        programs = ", ".join(need.program for need in needs if need.package in packages and not find(need.program))
        raise ToolError(
            f"This machine lacks {programs}, and has no apt-get to install them with. "
            f"Install what Debian calls: {' '.join(packages)}"
        )
    if not is_root():
        raise ToolError(f"This machine lacks some packages. Run this, then try again:\n    sudo sh -c '{command}'")
    quiet = {"DEBIAN_FRONTEND": "noninteractive"}
    # Another apt-get (a boot's automatic upgrade, a second helper) holds the lock for minutes at most.
    lock = ("-o", "DPkg::Lock::Timeout=300")
    with console.step(f"Installing Debian packages: {' '.join(packages)}"):
        # An index that is partly out of reach still has most packages: let the installation decide.
        run(["apt-get", *lock, "update", "-q"], limit=600, env=quiet, check=False)
        run(
            ["apt-get", *lock, "install", "-q", "-y", "--no-install-recommends", *packages],
            limit=1200,
            env=quiet,
            hint=f"Install them by hand, then try again:\n    {command}",
        )
    still = missing_packages(needs)
    if still:
        raise ToolError(f"The packages {' '.join(still)} are installed, but their programs are not where expected.")
