"""`warren simulate` as it is typed, and how the command line finds it."""

import io
import json
import re
import sys
import tomllib
from importlib.metadata import EntryPoint
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from warren_cli import commands
from warren_cli.__main__ import main as warren
from warren_operator.simulation import command
from warren_operator.simulation.contenders import ContenderError, contenders
from warren_operator.simulation.report import percentile

ROOT = Path(__file__).resolve().parent.parent.parent
POINT = EntryPoint("simulate", "warren_operator.simulation.command", commands.GROUP)


@pytest.fixture(autouse=True)
def installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The entry point as pyproject.toml has it, however this environment was made."""
    table = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["entry-points"][commands.GROUP]
    points = [EntryPoint(name, value, commands.GROUP) for name, value in table.items()]
    assert POINT in points
    monkeypatch.setattr(commands, "installed", lambda: points)


def test_a_table_with_a_row_for_each_contender(capsys: pytest.CaptureFixture[str]) -> None:
    assert warren(["simulate", "burst:60x2s", "backlogPerWorker=5,maxReplicas=12", "keda-tuned", "hpa"], {}) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert out.startswith("60 tasks, 120 s of work")
    assert [line.split()[0] for line in out.splitlines()[-3:]] == [
        "backlogPerWorker=5,maxReplicas=12",
        "keda-tuned",
        "hpa",
    ]


def test_json_and_the_picture(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    drawn = tmp_path / "burst.svg"
    words = ["simulate", "poisson:2/s,~2s,2m", "maxWait=5s", "keda-tuned", "--json", "--picture", str(drawn)]
    assert warren(words, {}) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["name"] for row in rows] == ["maxWait=5s", "keda-tuned"]
    assert all(row["unfinished"] == 0 and 0 <= row["wait_p50"] <= row["wait_p95"] <= row["wait_max"] for row in rows)
    picture = ET.parse(drawn).getroot()  # noqa: S314  our own
    texts = " ".join(picture.itertext())
    assert "maxWait=5s" in texts
    assert "keda-tuned" in texts
    assert "http" not in drawn.read_text().replace("http://www.w3.org/2000/svg", ""), "it needs nothing else"


def test_a_trace_from_standard_input(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("at,duration\n0,1\n5,2\n"))
    assert warren(["simulate", "-", "hpa:minReplicas=1"], {}) == 0
    assert capsys.readouterr().out.startswith("2 tasks, 3 s of work")


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["nowhere.csv"], "nowhere.csv cannot be read"),
        (["burst:60"], "write burst:60x2s"),
        (["burst:1x1s", "nowhere.yaml"], "backlogPerWorker=5"),
        (["burst:1x1s", "maxWait=5"], "such as 500ms"),
        (["burst:1x1s", "maxWorkers=5"], "cannot be read"),
        (["burst:1x1s", "maxReplicas=5,maxWorkers=5"], "maxWorkers is none of"),
        (["burst:1x1s", "maxReplicas=0"], "nothing to simulate"),
        (["burst:1x1s", "keda:poll=5s"], "poll is no option"),
        (["burst:1x1s", "keda:target=0"], "above zero"),
        (["burst:1x1s", "keda:target=1e-320"], "above zero"),
        (["burst:1x1s", "hpa:target=nan"], "'nan' is no number from zero on"),
        (["burst:1x1s", "keda:pollingInterval=0s"], "longer than nothing"),
        (["burst:1x1s", "--picture", "/nowhere/x.svg"], "cannot be written"),
    ],
)
def test_what_is_wrong_is_told_in_one_line(words: list[str], told: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert warren(["simulate", *words], {}) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert told in err
    assert len(err.splitlines()) == 1


def test_without_the_operators_packages_it_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "warren_operator.simulation.comparison", None)  # importing it fails
    assert warren(["simulate", "burst:1x1s"], {}) == 2
    assert "pip install 'warren[operator]'" in capsys.readouterr().err


def test_a_command_whose_module_is_not_there_is_listed_and_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(commands, "installed", lambda: [EntryPoint("simulate", "no_such_module", commands.GROUP)])
    assert warren(["simulate", "burst:1x1s", "--json"], {}) == 2
    assert "pip install 'warren[operator]'" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        warren(["--help"], {})
    assert "simulate" in capsys.readouterr().out


def test_the_examples_of_the_help_run(capsys: pytest.CaptureFixture[str]) -> None:
    lines = [line.split(" --picture")[0].split() for line in command.EPILOG.splitlines() if "warren simulate" in line]
    plain = [line for line in lines if line[0] == "warren" and not any("24h" in word for word in line)]
    assert plain
    for words in plain:
        assert warren(words[1:], {}) == 0


def test_the_example_of_the_documentation_prints_what_it_says(capsys: pytest.CaptureFixture[str]) -> None:
    document = (ROOT / "docs" / "simulate.md").read_text("utf-8")
    (typed,) = re.findall(r"^(warren simulate burst:.*) --picture burst.svg$", document, re.MULTILINE)
    (printed,) = re.findall(r"^prints\n```\n(.*?)```", document, re.MULTILINE | re.DOTALL)
    assert warren(typed.split()[1:], {}) == 0
    assert capsys.readouterr().out.strip() == printed.strip()


WORK_QUEUE = """
apiVersion: warren.dev/v1alpha1
kind: WorkQueue
metadata: {name: thumbnails, namespace: warren}
spec:
  scaleTargetRef: {name: worker}
  maxReplicas: 7
  target: {maxWait: 30s}
status: {}
"""


@pytest.mark.parametrize(
    ("text", "names", "most"),
    [
        (WORK_QUEUE, ["thumbnails"], 7),
        (json.dumps({"kind": "List", "items": []}), [], 0),
        ("queues: {a: {replicas: {max: 4}}, b: null}\nworker: {replicas: {min: 1}}", ["a"], 4),
        ((ROOT / "charts" / "warren" / "values.yaml").read_text(), ["task_queue"], 10),
    ],
    ids=["object", "empty list", "values", "the chart's values"],
)
def test_files(text: str, names: list[str], most: int) -> None:
    if not names:
        with pytest.raises(ContenderError, match="no WorkQueue"):
            contenders(["file.yaml"], lambda _: text)
        return
    found = contenders(["file.yaml", "file.yaml"], lambda _: text)
    assert [item.name for item in found] == [*names, *(f"{name} (2)" for name in names)]
    assert found[0].spec is not None
    assert found[0].spec.max_replicas == most


def test_values_are_merged_as_the_chart_does() -> None:
    text = """
worker: {replicas: {min: 1}, target: {maxWait: 30s}}
queues:
  one: {replicas: {max: 4}}
  two: {target: {maxWait: 5s}}
"""
    one, two = (item.spec for item in contenders(["values.yaml"], lambda _: text))
    assert one is not None
    assert two is not None
    assert (one.min_replicas, one.max_replicas, two.max_replicas) == (1, 4, 10)
    assert (one.target.backlog_per_worker, one.target.max_wait) == (5, "30s")
    assert (two.target.backlog_per_worker, two.target.max_wait) == (None, "5s"), "its own target is taken whole"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("queues: {a: {replicas: 3}}", "file.yaml: queues.a.replicas is 3"),
        ("queues: {a: 3}", "file.yaml: queues.a is 3"),
        ("queues: {a: {}}\nworker: 3", "file.yaml: worker is 3"),
        ("kind: WorkQueue\nmetadata: x", "file.yaml: metadata is 'x'"),
        ("kind: List\nitems: 3", "no WorkQueue"),
        ("queues: {a: {suspend: true}}", "nothing to simulate"),
    ],
)
def test_a_file_that_makes_no_sense_is_told_of(text: str, told: str) -> None:
    with pytest.raises(ContenderError, match=told):
        contenders(["file.yaml"], lambda _: text)


def test_a_trace_that_is_no_text_is_told_of(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"0,1\n\xff\xfe\n"), "utf-8"))
    assert warren(["simulate", "-"], {}) == 2
    assert "- cannot be read" in capsys.readouterr().err


def test_percentiles_are_values_that_were_there() -> None:
    values = [1.0, 2.0, 3.0, 4.0]
    assert [percentile(values, share) for share in (0.01, 0.25, 0.5, 0.51, 0.95, 1.0)] == [1, 1, 2, 3, 4, 4]
