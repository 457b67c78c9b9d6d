"""The node that we run ourselves survives every crash, and goes without a trace.

A second one runs beside the cluster in use: in namespaces of its own (network, mounts, processes, control groups),
which end with the test, whatever happens in it.
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

AS_BEFORE = ("nothing to do", "half of it killed", "keepers left", "only keepers killed", "hung")
"""After these, the pod's process is the one that ran before."""
STARTED_ANEW = ("all of it killed", "network namespace deleted", "rebooted")
"""After each of these, the pod's process is a new one, with the volume of the one before."""


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


@pytest.fixture(scope="module")
def seen() -> Any:
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
                ROOT / "tests/support/cluster_scenario.py",
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
    return json.loads(result.stdout)


def test_a_cluster_that_works_is_left_alone(seen: dict[str, Any]) -> None:
    assert seen["untouched"] is True


def test_pods_run_on_while_their_cluster_is_put_right(seen: dict[str, Any]) -> None:
    assert {name: seen[name]["starts"] for name in AS_BEFORE} == dict.fromkeys(AS_BEFORE, 1)


def test_pods_start_anew_with_their_volumes_after_a_crash_of_everything(seen: dict[str, Any]) -> None:
    starts = [seen[name]["starts"] for name in STARTED_ANEW]
    assert starts == sorted(set(starts))
    assert starts[0] > 1


def test_without_its_data_it_begins_empty(seen: dict[str, Any]) -> None:
    assert seen["etcd's data lost"]["starts"] == 1


def test_every_way_to_a_pod_leads_to_it(seen: dict[str, Any]) -> None:
    for name in ("running", *AS_BEFORE, *STARTED_ANEW, "etcd's data lost", "volume made anew", "begun again"):
        assert seen[name]["forwarded"] == str(seen[name]["starts"])


def test_volumes_go_with_their_claims(seen: dict[str, Any]) -> None:
    assert seen["volumes left"] == []
    assert seen["volume made anew"]["starts"] == 1


def test_nothing_of_it_is_left_even_after_a_crash(seen: dict[str, Any]) -> None:
    assert seen["after"] == seen["before"]
    assert seen["in the end"] == seen["before"]
    assert seen["before"]["processes"] == []


def test_it_begins_again_empty(seen: dict[str, Any]) -> None:
    assert seen["begun again"]["starts"] == 1
