"""Everything that CI runs: checks, then all tests on real parts, which are started first: `make test`.

Arguments go to pytest: `.venv/bin/python -m tools.test tests/cluster -k tutorial`. The last line is pytest's summary.
"""

import os
import subprocess
import sys
from collections.abc import Sequence

from tools import check
from tools.console import Console
from tools.deploy import ROOT, Target, bring_images, cluster
from tools.shell import ToolError

SUITE_LIMIT = 4600.0
"""Seconds for the whole suite, which takes some 4,000 on two cores; CI gives a run 90 minutes, of which a start takes
3, or up to 20 where nothing is cached."""


def prepare(console: Console) -> None:
    """The cluster with the working copy's images in it, and the tools of the chart's tests.

    Raises:
        ToolError: one of them cannot be had; the message says what to do.
    """
    cluster("up")
    cluster("tools")
    bring_images(Target(), console)


def main(arguments: Sequence[str]) -> int:
    """Run the checks and then the tests; the result is the exit code."""
    console = Console()
    failed = check.main([])
    if failed:
        console.say(f"{failed} of the checks failed; `.venv/bin/python -m tools.check --fix` mends what it can")
        return 1
    try:
        prepare(console)
    except ToolError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    # No bytecode in the tree, and unbuffered, so that a log of CI shows where a run stands.
    environ = {**os.environ, "PYTHONUNBUFFERED": "1"}
    command = [sys.executable, "-m", "pytest", "--durations=15", *arguments]
    return subprocess.run(command, cwd=ROOT, env=environ, timeout=SUITE_LIMIT, check=False).returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
