"""What a reviewer should not have to say: format, lint, types and import contracts: `python -m tools.check [--fix]`."""

import re
import subprocess
import sys
from pathlib import Path

from tools.console import Console

ROOT = Path(__file__).resolve().parent.parent

LIMIT = 600.0
"""Seconds for one checker; the slowest, the type checker on a cold cache, needs about one minute."""

CHECKS = {
    "format": ("ruff", "format", "--check", "."),
    "lint": ("ruff", "check", "."),
    "types": ("mypy",),
    "import contracts": ("lint-imports", "--no-cache"),
}
FIXES = {"lint fixes": ("ruff", "check", "--fix", "."), "format": ("ruff", "format", ".")}

DOWNLOAD_ADDRESS = re.compile(r"https?://[^\s\"')]+\.(?:whl|tar\.gz|zip|tgz)\b")


def download_addresses(text: str) -> list[str]:
    """Addresses of files to download; none belongs into the tree, so that a mirror serves as well as the original."""
    return DOWNLOAD_ADDRESS.findall(text)


def main(arguments: list[str]) -> int:
    """Run every check, also after one has failed, and return the number of those that failed."""
    console = Console()
    failed = 0
    for title, command in (FIXES if "--fix" in arguments else CHECKS).items():
        with console.step(title):
            program = Path(sys.executable).parent / command[0]
            failed += subprocess.run([program, *command[1:]], cwd=ROOT, timeout=LIMIT, check=False).returncode != 0
    for path in sorted((ROOT / "requirements").glob("*.txt")):
        for address in download_addresses(path.read_text()):
            console.say(f"{path.relative_to(ROOT)}: pins {address}: pin the name, version and hash instead")
            failed += 1
    return failed


if __name__ == "__main__":
    sys.exit(min(1, main(sys.argv[1:])))
