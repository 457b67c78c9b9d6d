"""The suite itself: each test is in exactly one of its runs, and what failed is told."""

import math
import time
import tomllib
from collections.abc import Sequence
from pathlib import Path

import pytest

from tools import test as suite
from tools.console import Console
from tools.deploy import ROOT
from tools.test import RUNS, Run, run_all, told


def files(path: str) -> list[Path]:
    """The files with tests at a path of the repository."""
    found = ROOT / path
    assert found.exists(), path
    return [found] if found.is_file() else sorted(found.rglob("test_*.py"))


def test_each_test_is_in_exactly_one_run() -> None:
    """What a plain `pytest` would run, and not one file of it twice."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["pytest"]["ini_options"]
    wanted = [file for folder in settings["testpaths"] for file in files(folder)]
    assert sorted(file for run in RUNS for path in run.paths for file in files(path)) == sorted(wanted)
    assert sorted({*(ROOT / "tests").rglob("test_*.py")}) == sorted(wanted), "and no file lies elsewhere"


def test_only_what_needs_no_cluster_runs_side_by_side() -> None:
    for run in RUNS:
        folders = {path.split("/")[1] for path in run.paths}
        assert run.several is not ("cluster" in folders), run.title


REPORT = """<?xml version="1.0" encoding="utf-8"?>
<testsuites><testsuite name="pytest" errors="1" failures="1" skipped="1" tests="4">
  <testcase classname="tests.unit.test_a" name="test_fine" />
  <testcase classname="tests.unit.test_a" name="test_wrong[a@b]"><failure message="no">…</failure></testcase>
  <testcase classname="tests.unit.test_b" name="test_left"><skipped message="so">…</skipped></testcase>
  <testcase classname="tests.unit.test_b" name="test_set_up[a@b]"><error message="x">…</error></testcase>
</testsuite></testsuites>
"""


def test_a_report_tells_the_numbers_and_what_failed(tmp_path: Path) -> None:
    report = tmp_path / "report.xml"
    assert told(report) == ["no report"]
    report.write_text(REPORT[:200], "utf-8")
    assert told(report) == ["no report"]
    report.write_text(REPORT, "utf-8")
    assert told(report) == [
        "4 tests, 1 failures, 1 errors, 1 skipped",
        "tests.unit.test_a::test_wrong[a@b]",
        "tests.unit.test_b::test_set_up[a@b]",
    ]


@pytest.mark.parametrize(
    ("codes", "expected", "words"),
    [
        ((0, 0), 0, ["passed", "passed"]),
        ((1, 0), 1, ["FAILED, with pytest's code 1", "passed"]),
        ((0, 2), 1, ["passed", "FAILED, with pytest's code 2"]),
        ((None, 5), 1, ["FAILED, as the time ran out", "FAILED, with pytest's code 5"]),
    ],
)
def test_every_run_takes_place_and_one_failure_is_enough(
    *,
    codes: tuple[int | None, ...],
    expected: int,
    words: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(suite, "REPORTS", tmp_path)
    runs = [Run(f"number {number}", (f"tests/{number}",), several=False) for number in range(len(codes))]
    answers = iter(codes)
    started: list[Sequence[str]] = []

    def start(options: Sequence[str], _deadline: float) -> int | None:
        started.append(options)
        return next(answers)

    (tmp_path / "number-0.xml").write_text(REPORT, "utf-8")  # of an earlier run, which is not this one's
    assert run_all(runs, math.inf, Console(), start) == expected
    assert [options[-1] for options in started] == ["tests/0", "tests/1"]
    *_, first, second = capsys.readouterr().err.splitlines()
    for line, title, word in zip((first, second), ("number 0", "number 1"), words, strict=True):
        assert f"Tests {title}: {word} after" in line
        assert line.endswith("no report")


MODULE = """
import os, pathlib, pytest

@pytest.fixture(scope="module", autouse=True)
def made():
    with pathlib.Path(__file__).with_suffix(".made").open("a") as file:
        file.write(f"{os.getpid()} ")

@pytest.mark.parametrize("number", range(20))
def test_something(number): pass
"""


def test_several_processes_share_the_modules_and_tear_none(tmp_path: Path) -> None:
    """What is made once for a module is made once."""
    names = [f"test_{name}.py" for name in ("one", "two", "three", "four")]
    for name in names:
        (tmp_path / name).write_text(MODULE, "utf-8")
    options = Run("here", (str(tmp_path),), several=True).options
    several = options[options.index("--numprocesses") :]
    # Without the plugins that this does not need, processes start in half the time.
    without = [
        word for name in ("asyncio", "anyio", "schemathesis", "hypothesispytest") for word in ("-p", f"no:{name}")
    ]
    assert suite.pytest((*without, "--rootdir", str(tmp_path), *several), time.monotonic() + 300) == 0
    made = [(tmp_path / name).with_suffix(".made").read_text("utf-8").split() for name in names]
    assert [len(processes) for processes in made] == [1] * len(names)
    assert len({process for processes in made for process in processes}) > 1


def test_a_run_that_is_out_of_time_is_ended_and_is_a_failure(tmp_path: Path) -> None:
    (tmp_path / "test_slow.py").write_text("import time\ndef test_slow(): time.sleep(600)\n", "utf-8")
    assert suite.pytest((str(tmp_path), "--rootdir", str(tmp_path)), time.monotonic()) is None
