"""Everything that CI runs: checks, then all tests on real parts, which are started first: `make test`.

The tests come in two runs of pytest. What needs no cluster, or brings all that it needs, runs in several processes at
once; what uses the one cluster runs after that by itself, one test after the other, since it judges what it sees there.

Arguments go to pytest, in one run and one process: `.venv/bin/python -m tools.test tests/cluster -k tutorial`.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree as ET

from tools import check
from tools.console import Console, duration
from tools.deploy import ROOT, Target, bring_images, cluster
from tools.shell import ToolError

LIMIT = 5100.0
"""Seconds for all of this: CI gives a run 90 minutes, of which the environment `.venv` has taken one or two before us.
The cluster takes 3 minutes to start, or up to 22 where nothing is cached, and the tests some 45 on two cores."""

END_LIMIT = 60.0
"""Seconds for a run that is out of time to end its tests' programs and containers, and to tell what it has seen."""

REPORTS = ROOT / "build" / "tests"
"""Where each run leaves its report, in the format of JUnit."""


@dataclass(frozen=True)
class Run:
    """One run of pytest.

    Attributes:
        title: what it is, for the end of the log.
        paths: its tests, by folder or file. Those that take longest come first where there are several processes.
        several: whether processes share the work, each a module at a time.
    """

    title: str
    paths: tuple[str, ...]
    several: bool

    @property
    def report(self) -> Path:
        """Its report."""
        return REPORTS / f"{self.title.replace(' ', '-')}.xml"

    @property
    def options(self) -> tuple[str, ...]:
        """Of pytest."""
        # One process more than there are processors: many tests wait for others' programs. The modules in the order
        # of the paths, as the number of tests in them, by which pytest-xdist would go, says nothing of their time.
        several = ("--numprocesses", str(processes()), "--dist", "loadfile", "--no-loadscope-reorder")
        return ("--durations=15", f"--junit-xml={self.report}", *(several if self.several else ()), *self.paths)


RUNS = (
    Run(
        "side by side",
        ("tests/integration", "tests/chaos/test_ledger_catches.py", "tests/chart", "tests/unit"),
        several=True,
    ),
    Run("on the cluster", ("tests/cluster", "tests/chaos/test_chaos.py"), several=False),
)
"""Between them, each test once; tests/unit/test_suite.py holds them to it."""


def processes() -> int:
    """How many share a run: each has a broker of its own, and more than six find no more to share."""
    return min(6, (os.cpu_count() or 1) + 1)


def prepare(console: Console) -> None:
    """The cluster with the working copy's images in it, and the tools of the chart's tests.

    Raises:
        ToolError: one of them cannot be had; the message says what to do.
    """
    cluster("up")
    cluster("tools")
    bring_images(Target(), console)


def pytest(options: Sequence[str], deadline: float) -> int | None:
    """Run pytest until a moment of the monotonic clock; the result is its exit code, or None where the time ran out."""
    # No bytecode in the tree, and unbuffered, so that a log of CI shows where a run stands.
    environ = {**os.environ, "PYTHONUNBUFFERED": "1"}
    with subprocess.Popen([sys.executable, "-m", "pytest", *options], cwd=ROOT, env=environ) as process:
        try:
            return process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGINT)
            try:
                process.wait(END_LIMIT)
            except subprocess.TimeoutExpired:
                process.kill()
            return None


def told(report: Path) -> list[str]:
    """What a run's report says: the numbers, then the name of each test that failed, a line each."""
    try:
        suite = next(ET.parse(report).iter("testsuite"))  # noqa: S314  our own file
    except (OSError, ET.ParseError):  # a run that was killed has left none, or half of one
        return ["no report"]
    counts = {name: int(suite.get(name, "0")) for name in ("tests", "failures", "errors", "skipped")}
    failed = [
        f"{case.get('classname')}::{case.get('name')}"
        for case in suite.iter("testcase")
        if case.find("failure") is not None or case.find("error") is not None
    ]
    return [", ".join(f"{count} {name}" for name, count in counts.items()), *failed]


def run_all(runs: Sequence[Run], deadline: float, console: Console, start: Callable[..., int | None] = pytest) -> int:
    """Each run, also after one has failed, and then what came of all of them; the result is the exit code."""
    lines: list[str] = []
    failed = 0
    for run in runs:
        run.report.unlink(missing_ok=True)
        console.say(f"Tests {run.title} ...")
        began = time.monotonic()
        code = start(run.options, deadline)
        outcome = {0: "passed", None: "FAILED, as the time ran out"}.get(code, f"FAILED, with pytest's code {code}")
        failed += code != 0
        first, *names = told(run.report)
        lines += [f"Tests {run.title}: {outcome} after {duration(time.monotonic() - began)}: {first}"]
        lines += [f"  {name}" for name in names]
    for line in lines:
        console.say(line)
    return min(1, failed)


def main(arguments: Sequence[str]) -> int:
    """Run the checks and then the tests; the result is the exit code."""
    console = Console()
    deadline = time.monotonic() + LIMIT
    failed = check.main([])
    if failed:
        console.say(f"{failed} of the checks failed; `.venv/bin/python -m tools.check --fix` mends what it can")
        return 1
    try:
        prepare(console)
    except ToolError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    if not arguments:
        return run_all(RUNS, deadline, console)
    code = pytest(("--durations=15", *arguments), deadline)
    return 1 if code is None else code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
