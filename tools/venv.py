"""The project's virtual environment `.venv`, from pinned and hashed requirements: `python3 -m tools.venv`.

Does nothing where it is complete already. Standard library only: this runs before anything is installed.
"""

import hashlib
import json
import shutil
import sys
import tomllib
from pathlib import Path

from tools.console import Console
from tools.host import Need, ensure
from tools.shell import ToolError, run

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
STAMP = VENV / "warren-fingerprint"
REQUIREMENTS = ROOT / "requirements" / "dev.txt"

INSTALL_LIMIT = 1200.0
"""Seconds to download and install everything; a slow line needs minutes."""


def fingerprint(python: str, *inputs: bytes) -> str:
    """What an environment is made from; with another value it has to be made again."""
    digest = hashlib.sha256(python.encode())
    for data in inputs:
        digest.update(b"\0" + data)
    return digest.hexdigest()


def main() -> None:
    """Make the environment, or leave it as it is where nothing that it is made from has changed.

    A run that dies half-way leaves no stamp, so the next one begins anew.

    Raises:
        ToolError: an installation failed; the message says which, and what to do.
    """
    wanted = fingerprint(f"{sys.executable} {sys.version} {ROOT}", REQUIREMENTS.read_bytes(), _installed_part())
    if STAMP.exists() and STAMP.read_text() == wanted:
        return
    console = Console()
    if not _has_ensurepip():
        ensure([Need("/usr/share/doc/python3-venv", "python3-venv")], console)
    with console.step("Python environment .venv with pinned packages"):
        shutil.rmtree(VENV, ignore_errors=True)
        run([sys.executable, "-m", "venv", VENV], limit=120)
        pip: list[str | Path] = [VENV / "bin" / "python", "-m", "pip", "--disable-pip-version-check", "install", "-q"]
        run([*pip, "--require-hashes", "--requirement", REQUIREMENTS], limit=INSTALL_LIMIT)
        run([*pip, "--no-deps", "--no-build-isolation", "--editable", ROOT], limit=120)
    STAMP.write_text(wanted)


def _installed_part() -> bytes:
    """What of pyproject.toml an installation depends on; the rules of the checkers are not part of it."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    return json.dumps([project["build-system"], project["project"], project["tool"]["hatch"]]).encode()


def _has_ensurepip() -> bool:
    """Debian splits venv's pip off into a package of its own."""
    return run([sys.executable, "-c", "import ensurepip"], limit=30, check=False).code == 0


if __name__ == "__main__":
    try:
        main()
    except ToolError as error:
        sys.exit(f"error: {error}")
