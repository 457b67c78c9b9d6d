"""What each of our images is made from, and the tag that follows from it."""

import hashlib
import tomllib
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from tools.shell import ToolError


@dataclass(frozen=True)
class Part:
    """One image: its target in the Dockerfile, and the folders and files that go into it."""

    name: str
    packages: tuple[str, ...]

    @property
    def image(self) -> str:
        """The image's name without a tag."""
        return f"warren/{self.name}"

    @property
    def requirements(self) -> str:
        """The pinned packages of others."""
        return f"requirements/{self.name}.txt"


CONTRACT = "services/contract/warren_contract"
PARTS = (
    Part("producer", (CONTRACT, "services/producer/warren_producer")),
    Part("worker", (CONTRACT, "services/worker/warren_worker")),
    Part("operator", (CONTRACT, "operator/warren_operator")),
)
COMMON = ("Dockerfile", "LICENSE")


def version(root: Path) -> str:
    """The project's version, from pyproject.toml."""
    project = tomllib.loads((root / "pyproject.toml").read_text())["project"]
    return str(project["version"])


def read(part: Part, root: Path) -> dict[str, bytes]:
    """The part's input files, by path below `root`; bytecode is none of them.

    Raises:
        ToolError: the clone is not complete.
    """
    found: dict[str, bytes] = {}
    for name in (*COMMON, part.requirements, *part.packages):
        path = root / name
        if path.is_dir():
            for file in path.rglob("*"):
                if file.is_file() and "__pycache__" not in file.parts and file.suffix != ".pyc":
                    # An editor's temporary file may be gone again.
                    with suppress(FileNotFoundError):
                        found[file.relative_to(root).as_posix()] = file.read_bytes()
        elif path.is_file():
            found[name] = path.read_bytes()
        else:
            raise ToolError(f"{name} is missing, so the image {part.image} cannot be built. Is this a complete clone?")
    return found


def content_tag(release: str, base_id: str, contents: Mapping[str, bytes]) -> str:
    """`<version>-<12 hex digits>`: what did not change keeps its tag, so pods roll only on a change."""
    digest = hashlib.sha256(f"{release}\0{base_id}\0".encode())
    for path in sorted(contents):
        digest.update(path.encode() + b"\0" + hashlib.sha256(contents[path]).digest())
    return f"{release}-{digest.hexdigest()[:12]}"
