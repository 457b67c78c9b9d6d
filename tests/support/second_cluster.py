"""A second cluster of our own kind beside the one in use: a scenario in namespaces of its own.

The namespaces (network, mounts, processes, control groups) end with the scenario, whatever happens in it.
"""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tools.cluster import kernel
from tools.cluster.node import needs
from tools.console import Console
from tools.engine import ensure
from tools.host import ensure as ensure_packages
from tools.images import bases

ROOT = Path(__file__).resolve().parents[2]
NAMESPACES = ("--net", "--mount", "--pid", "--cgroup", "--fork", "--kill-child", "--mount-proc")


@contextmanager
def control_group(name: str) -> Iterator[Path]:
    """A program that enters a control group of that name in each hierarchy and then becomes what it is told."""
    kernel.make_group(f"/{name}")
    script = 'for file in $0; do echo $$ > "$file"; done; exec "$@"'
    try:
        with tempfile.TemporaryDirectory(prefix="warren-") as folder:
            program = Path(folder) / "enter"
            files = " ".join(kernel.group_files(f"/{name}"))
            program.write_text(f'#!/bin/sh\nexec /bin/sh -c \'{script}\' "{files}" "$@"\n')
            program.chmod(0o755)
            yield program
    finally:
        kernel.remove_groups(limit=15, name=name)


def run_scenario(script: str) -> dict[str, Any]:
    """What a scenario of this folder has seen: the JSON object that it prints.

    It is told a folder for its state and an archive with an image of Python.
    """
    if os.geteuid() != 0 or sys.platform != "linux":
        pytest.skip("only root on Linux runs a node of its own; others use kind")
    ensure_packages(needs(), Console())
    engine = ensure(Console())
    with (
        # Short, because a socket's path may have 107 bytes; and on a disk, because of overlay mounts.
        tempfile.TemporaryDirectory(prefix="warren-", dir="/var/tmp") as folder,
        control_group(f"warren-test-{os.getpid()}") as enter,
    ):
        archive = Path(folder) / "image.tar"
        engine.run("save", "--output", archive, bases(Console(), engine).python, limit=120)
        result = subprocess.run(
            [
                enter,
                "unshare",
                *NAMESPACES,
                sys.executable,
                ROOT / "tests/support" / script,
                folder,
                archive,
            ],
            check=False,
            capture_output=True,
            text=True,
            timeout=580,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )
    assert result.returncode == 0, result.stderr
    seen = json.loads(result.stdout)
    assert isinstance(seen, dict)
    return seen
