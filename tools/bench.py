"""The benchmarks, on the local cluster and a broker of their own: `make bench`; arguments as in tests/bench/run.py.

Results go to `build/bench/`: figures as JSON and as a table, courses as pictures. Nothing passes or fails here.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence

from tools.console import Console
from tools.deploy import ROOT, Target, bring_images, cluster
from tools.shell import ToolError

LIMIT = 7200.0
"""Seconds for all benchmarks. Warren's take half an hour; a scaler with long periods needs longer."""

FOLDER = ROOT / "build" / "bench"


def main(arguments: Sequence[str]) -> int:
    """Prepare cluster and images, then measure; the result is the exit code."""
    folder = ROOT / "tests"
    path = os.pathsep.join(str(part) for part in (ROOT, folder / "support", folder / "bench"))
    images = FOLDER / "images.values.json"
    program = [sys.executable, str(folder / "bench" / "run.py"), "--images", str(images), "--folder", str(FOLDER)]
    # Who starts a broker removes it; testcontainers' own keeper would be one image more to have.
    environ = {**os.environ, "PYTHONPATH": path, "TESTCONTAINERS_RYUK_DISABLED": "true"}
    if "--help" not in arguments:
        try:
            cluster("up")
            made = bring_images(Target(), Console())
        except ToolError as error:
            print(f"error: {error}", file=sys.stderr)
            return 1
        FOLDER.mkdir(parents=True, exist_ok=True)
        shutil.copy(made, images)
    return subprocess.run([*program, *arguments], cwd=ROOT, env=environ, timeout=LIMIT, check=False).returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
