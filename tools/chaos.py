"""Faults of all kinds on the local cluster, for as long as you like: `make chaos MINUTES=60 SEED=7`.

The report goes to `build/chaos/`. Arguments as in tests/chaos/chaos_run.py.
"""

import os
import subprocess
import sys
from collections.abc import Sequence

from tools.console import Console
from tools.deploy import ROOT, Target, bring_images, cluster
from tools.shell import ToolError


def main(arguments: Sequence[str]) -> int:
    """Prepare cluster and images, then run; the result is the exit code."""
    folder = ROOT / "tests"
    path = os.pathsep.join(str(part) for part in (ROOT, folder / "support", folder / "chaos"))
    program = [sys.executable, str(folder / "chaos" / "chaos_run.py")]
    if "--help" not in arguments:
        try:
            cluster("up")
            program += ["--images", str(bring_images(Target(), Console()))]
        except ToolError as error:
            print(f"error: {error}", file=sys.stderr)
            return 1
    # No limit: the run has its own, from the minutes that were asked for.
    return subprocess.run(
        [*program, *arguments], cwd=ROOT, env={**os.environ, "PYTHONPATH": path}, check=False
    ).returncode


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except KeyboardInterrupt:
        sys.exit(130)
