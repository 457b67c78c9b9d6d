"""What the stage of a run decides: when all is drained, and what is a failure of the run itself."""

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import records
import stage
from kube import Kube
from ledger import Fault
from stage import DRAINED_LOOKS, QUEUES, STATISTICS_INTERVAL, Calm, Stage

NOTHING: dict[str, int | None] = dict.fromkeys(["amber", "birch"], 0)
EMPTY = {name: {"messages": 0} for queue in QUEUES for name in (queue, f"{queue}.dead")}
NOBODY: Any = None


def test_all_is_calm_after_three_looks_that_span_more_than_the_statistics_interval() -> None:
    calm = Calm()
    assert [calm.look(NOTHING, at) for at in (0, 2, 4, 5.1)] == [False, False, False, True]
    slow = Calm()
    assert [slow.look(NOTHING, at) for at in (0, 20, 40)] == [False, False, True]


@pytest.mark.parametrize("held", [{**NOTHING, "amber": 1}, {**NOTHING, "amber": None}, {}])
def test_one_look_that_does_not_see_all_queues_empty_begins_anew(held: Mapping[str, int | None]) -> None:
    calm = Calm()
    looks = [calm.look(NOTHING if at != 5 else held, at) for at in range(15)]
    assert looks.index(True) == 6 + STATISTICS_INTERVAL + 1
    assert DRAINED_LOOKS == 3


@dataclass
class Still(Stage):
    """A stage whose queues stay as they are."""

    rows: dict[str, dict[str, Any]] = field(default_factory=dict)

    def queues(self) -> dict[str, dict[str, Any]]:
        return self.rows

    def read_dead_letters(self) -> None:
        pass


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"DRAIN_LIMIT": 0.3, "LOOK": 0.01, "STATISTICS_INTERVAL": 0.03}.items():
        monkeypatch.setattr(stage, name, value)


def still(folder: Path, rows: dict[str, dict[str, Any]]) -> Still:
    return Still(NOBODY, folder, NOBODY, 1, rows=rows)


@pytest.mark.usefixtures("hasty")
def test_empty_queues_are_drained(tmp_path: Path) -> None:
    given = still(tmp_path, EMPTY)
    given.drain()
    assert given.entries().failures == ()


@pytest.mark.usefixtures("hasty")
@pytest.mark.parametrize(
    ("rows", "says"),
    [
        ({**EMPTY, "amber": {"messages": 7}}, "'amber': 7"),
        ({**EMPTY, "amber.dead": {"messages": 7}}, "'amber.dead': 7"),
        ({**EMPTY, "amber": {}}, "'amber': None"),
        ({}, "'amber': None"),
    ],
    ids=["something stuck", "a letter stuck", "no leader", "no queue"],
)
def test_what_does_not_drain_is_a_failure_of_the_run(tmp_path: Path, rows: dict[str, Any], says: str) -> None:
    given = still(tmp_path, rows)
    given.drain()
    (failure,) = given.entries().failures
    assert failure.startswith("not drained")
    assert says in failure


@pytest.mark.usefixtures("hasty")
def test_what_is_owed_is_not_drained_though_all_queues_are_empty(tmp_path: Path) -> None:
    lines = [{"what": "sent", "task": "a", "queue": "amber", "kind": "work"}, {"what": "confirmed", "task": "a"}]
    text = "".join(json.dumps({**line, "at": 1}) + "\n" for line in lines)
    (tmp_path / "client-one.jsonl").write_text(text, "utf-8")
    given = still(tmp_path, EMPTY)
    given.drain()
    (failure,) = given.entries().failures
    assert "1 tasks are owed" in failure


@dataclass
class Ended:
    """A client that has ended."""

    code: int

    def wait(self, _limit: float) -> int:
        return self.code

    def send_signal(self, _number: int) -> None:
        pass


@dataclass
class Asking(Stage):
    """A stage whose clients are told at once; each but one queue takes the second task that it is given."""

    code: int = 0
    deaf: str = ""
    asked: list[str] = field(default_factory=list)

    def client(self, name: str, *arguments: str) -> Any:
        self.asked.append(name)
        queue = arguments[0]
        word = "confirmed" if name.endswith("-2") and queue != self.deaf else "refused"
        records.append(
            self.folder,
            f"client-{name}.jsonl",
            {"what": "sent", "task": name, "queue": queue, "kind": "work", "at": time.time()},
        )
        records.append(self.folder, f"client-{name}.jsonl", {"what": word, "task": name, "at": time.time()})
        return Ended(self.code)


def at_once(check: Callable[[], bool], what: str, **_limits: float) -> bool:
    """`eventually` for those who do not wait."""
    if any(check() for _ in range(3)):
        return True
    raise AssertionError(what)


@pytest.mark.parametrize("deaf", ["", "birch"])
def test_all_queues_are_asked_until_they_take_a_task(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, deaf: str
) -> None:
    monkeypatch.setattr(stage, "eventually", at_once)
    given = Asking(NOBODY, tmp_path, NOBODY, 1, deaf=deaf)
    given.ask_all_queues()
    turns = {queue: 3 if queue == deaf else 2 for queue in QUEUES}
    assert given.asked == [f"end-{queue}-{turn + 1}" for queue in QUEUES for turn in range(turns[queue])]
    assert given.failures == []


def test_a_client_that_ends_by_an_error_is_a_failure_of_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stage, "eventually", lambda *_args, **_limits: True)
    sound, given = (Asking(NOBODY, tmp_path, NOBODY, 1, code=code) for code in (0, 1))
    for one in (sound, given):
        with stage.load(one):
            pass
    assert (len(sound.failures), len(given.failures)) == (0, 1)
    monkeypatch.setattr(stage, "eventually", at_once)
    given.ask_all_queues()
    assert "had exit code 1" in given.failures[-1]


def test_evidence_has_the_problems_and_all_that_was_written_down(tmp_path: Path) -> None:
    class NoPods(Kube):
        def run(self, *_words: str, **_more: Any) -> Any:
            return Printed("")

        def get(self, *_words: str) -> Any:
            return []

    folder = tmp_path / "run"
    folder.mkdir()
    given = Stage(NoPods(tmp_path, "chaos"), folder, NOBODY, 1)
    given.write_fault(Fault("rollout", "", 1, 2))
    given.keep_evidence(tmp_path / "evidence", ["not drained: 7", "another"])
    assert (tmp_path / "evidence" / "problems.txt").read_text() == "not drained: 7\nanother\n"
    assert records.faults(tmp_path / "evidence") == [Fault("rollout", "", 1, 2)]


@dataclass
class Printed:
    """What a program has printed."""

    stdout: str
    returncode: int = 0
