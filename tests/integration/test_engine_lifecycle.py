"""The Docker engine that we start ourselves survives crashes, and goes without a trace.

A second engine runs beside the one in use: in network, mount and process namespaces of its own, which end with the
test, whatever happens in it.
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest

from tools.console import Console
from tools.engine import ensure
from tools.images import bases

ROOT = Path(__file__).resolve().parents[2]
NAMESPACES = ("--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc")


@pytest.fixture(scope="module")
def seen() -> Any:
    if os.geteuid() != 0 or sys.platform != "linux":
        pytest.skip("only root on Linux starts an engine of its own; others use the one that runs")
    engine = ensure(Console())
    # Short, because a socket's path may have 107 bytes; and not on a tmpfs that forbids devices, as /tmp may be.
    with tempfile.TemporaryDirectory(prefix="warren-", dir="/var/tmp") as folder:
        tar = Path(folder) / "root.tar"
        container = engine.run("create", bases(Console(), engine).python).stdout.strip()
        try:
            engine.run("export", "--output", tar, container, limit=120)
        finally:
            engine.run("rm", container)
        program = ROOT / "tests/support/engine_scenario.py"
        result = subprocess.run(
            ["unshare", *NAMESPACES, sys.executable, program, folder, tar],
            check=False,
            capture_output=True,
            text=True,
            timeout=240,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)


def test_it_starts_again_after_each_crash(seen: dict[str, Any]) -> None:
    assert seen["running"] == ["running"]
    assert seen["after dockerd was killed"] == ["exited"]
    assert seen["after all was killed"] == ["exited"]
    assert seen["running again"] == ["running"]


def test_nothing_of_it_is_left_even_after_a_crash(seen: dict[str, Any]) -> None:
    assert seen["after"] == seen["before"]
    assert seen["in the end"] == seen["before"]
    assert seen["before"]["processes"] == 0


def test_images_outlive_it_containers_and_volumes_do_not(seen: dict[str, Any]) -> None:
    assert seen["image kept"] is True
    assert seen["containers kept"] == []
    assert seen["volumes kept"] == []
