"""The benchmarks, on the local cluster and a broker of their own: `make bench`.

Figures go to `build/bench/`: JSON to compare runs with, and the same as a table. Nothing passes or fails here.
"""

import os
import subprocess
import sys

from tools.console import Console
from tools.deploy import ROOT, Target, bring_images, cluster
from tools.shell import ToolError

LIMIT = 3600.0
"""Seconds for all benchmarks."""


def main() -> int:
    """Prepare cluster and images, then measure; the result is the exit code."""
    try:
        cluster("up")
        bring_images(Target(), Console())
    except ToolError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    folder = ROOT / "tests"
    path = os.pathsep.join(str(part) for part in (ROOT, folder / "support", folder / "bench"))
    command = [sys.executable, str(folder / "bench" / "run.py"), str(ROOT / "build" / "bench")]
    return subprocess.run(
        command, cwd=ROOT, env={**os.environ, "PYTHONPATH": path}, timeout=LIMIT, check=False
    ).returncode


if __name__ == "__main__":
    sys.exit(main())
