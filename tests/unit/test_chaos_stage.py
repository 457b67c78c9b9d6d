"""What the stage and the course of a run decide: when all is drained, whom a fault hits, and whether that counts."""

import json
import random
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import course
import faults
import pytest
import records
import stage
from course import TRIES, _LaneThread
from faults import (
    ConnectionsDropped,
    ConnectionsSlow,
    LeadersMoved,
    NoVictim,
    WorkerKilled,
    has_moved,
    promising,
)
from kube import Kube
from ledger import Fault
from records import AtWork
from schedule import Kind, Lane, Step
from stage import DRAINED_LOOKS, QUEUES, STATISTICS_INTERVAL, Calm, Pod, Stage
from toxiproxy import Stuck

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


@pytest.mark.parametrize(
    ("run", "expected"),
    [
        (AtWork("a", "w1", 7, 99, doomed=False), True),
        (AtWork("a", "w1", 7, 99, doomed=True), False),
        (AtWork("a", "w1", 7, 90, doomed=False), False),
    ],
)
def test_a_run_is_worth_hitting_that_has_just_begun_and_would_end(run: AtWork, *, expected: bool) -> None:
    assert promising(run, 100) is expected


@dataclass
class OneProcess:
    """A worker's process that does what it is told, and whose task may end just then."""

    folder: Path
    ends: bool
    inner: int = 7
    pid: int = 4711
    own: bool = True

    def kill(self) -> bool:
        if self.ends:
            note(self.folder, "done")
        return True


def note(folder: Path, what: str, task: str = "a", *, pid: int = 7, doomed: bool = False) -> None:
    line = {"what": what, "task": task, "worker": "w1", "pid": pid, "at": time.time(), "doomed": doomed}
    records.append(folder, "worker-w1.jsonl", line)


@dataclass
class OneWorker(Stage):
    """A stage with one worker."""

    process: Any = None

    def pods(self, _component: str) -> list[Pod]:
        return [Pod("w1", "uid", "node", "address", well=True)]

    def processes(self, _pod: Pod) -> list[Any]:
        return [self.process, OneProcess(self.folder, ends=False, inner=8, own=False)]


@pytest.mark.parametrize("ends", [True, False])
def test_a_fault_that_came_too_late_for_its_victim_has_not_met_it(tmp_path: Path, *, ends: bool) -> None:
    note(tmp_path, "start")
    given = OneWorker(NOBODY, tmp_path, NOBODY, 1, process=OneProcess(tmp_path, ends))
    hit = WorkerKilled(given, random.Random(1)).inject()
    assert hit.met is not ends
    assert hit.workers == frozenset({"w1"})
    assert hit.what == "w1 with a"


def test_most_victims_are_promising_and_any_will_do_where_there_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    note(tmp_path, "start", "doomed", doomed=True)
    given = OneWorker(NOBODY, tmp_path, NOBODY, 1, process=OneProcess(tmp_path, ends=False))
    monkeypatch.setattr(faults, "PREFERENCE_LIMIT", 0.3)
    assert WorkerKilled(given, random.Random(1)).at_work().run.task == "doomed"
    note(tmp_path, "start", "good", pid=8)
    monkeypatch.setattr(faults, "PREFERENCE_LIMIT", 10)
    monkeypatch.setattr(faults, "YOUNG", 60)
    chosen = [WorkerKilled(given, random.Random(draw)).at_work().run.task for draw in range(200)]
    assert 0.8 < chosen.count("good") / 200 < 0.95, "three quarters, and half of the rest"


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("{ok,'rabbit@two.x'}\n", True),
        ("{ok,'rabbit@one.x'}\n", False),
        ("{error,timeout}\n", False),
        ("", False),
    ],
)
def test_leaders_have_moved_where_the_broker_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answer: str, *, expected: bool
) -> None:
    assert has_moved(answer, "rabbit@two.x") is expected
    monkeypatch.setattr(Kube, "rabbitmqctl", lambda *_words: answer)
    row = {"members": ["rabbit@one.x", "rabbit@two.x"], "leader": "rabbit@one.x"}
    fault = LeadersMoved(Still(Kube(tmp_path, "chaos"), tmp_path, NOBODY, 1, rows={"amber": row}), random.Random(1))
    if expected:
        assert fault.inject().what == "amber to two"
    else:
        with pytest.raises(NoVictim):
            fault.inject()


@dataclass
class StuckProxy:
    """A toxiproxy that answers no more until it is started anew."""

    restarts: int = 0

    def poison(self, *_words: Any, **_attributes: Any) -> None:
        raise Stuck

    cure = enable = poison

    def restart(self) -> None:
        self.restarts += 1


@pytest.mark.parametrize("kind", [ConnectionsSlow, ConnectionsDropped])
def test_a_toxiproxy_that_is_stuck_is_started_anew_and_the_end_of_all_connections_is_written_down(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: type[faults.Fault]
) -> None:
    monkeypatch.setattr(course, "KINDS", {kind.kind: kind})
    toxic: Any = StuckProxy()
    given = Stage(NOBODY, tmp_path, toxic, 1)
    thread = _LaneThread(given, Lane("one", [], (0, 0)), began=time.time(), seconds=0, stopping=threading.Event())
    hit = thread._do(Step(0, kind.kind, 0, 0, 1), 0)
    assert (hit is not None) is (kind is ConnectionsDropped)
    assert toxic.restarts == 1
    (fault,) = records.faults(tmp_path)
    assert (fault.kind, fault.harms) == ("connections dropped", faults.LOST_CONNECTIONS)


@dataclass
class Plan:
    """What a fault's tries come to: met, missed (False) or nothing to hit (None); the last one goes on for ever."""

    results: Sequence[bool | None]
    tries: int = 0
    heals: int = 0

    def next(self) -> bool | None:
        result = self.results[min(self.tries, len(self.results) - 1)]
        self.tries += 1
        return result


class Planned(faults.Fault):
    """A fault that goes as planned."""

    kind = "planned"
    plan: ClassVar[Plan]

    def inject(self) -> faults.Hit:
        met = self.plan.next()
        if met is None:
            raise NoVictim
        return faults.Hit("it", frozenset({"w1"}), met)

    def heal(self) -> None:
        self.plan.heals += 1


@pytest.fixture
def planned(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(course, "KINDS", {"planned": Planned})


@pytest.mark.usefixtures("planned")
@pytest.mark.parametrize(
    ("results", "tries"),
    [
        ([True], 1),
        ([False, True], 2),
        ([False], TRIES),
        ([None, True], 2),
        ([None, False, None, True], 4),
        ([False, None, False, None, False], 5),
    ],
)
def test_a_fault_that_missed_is_tried_again_so_many_times(
    tmp_path: Path, results: Sequence[bool | None], tries: int
) -> None:
    """Without any time, so that the first round is all there is."""
    Planned.plan = plan = Plan(results)
    given = Stage(NOBODY, tmp_path, NOBODY, 1)
    thread = _LaneThread(
        given, Lane("one", [Kind("planned")], (0, 0)), began=time.time(), seconds=0, stopping=threading.Event()
    )
    thread.run()
    assert thread.error is None
    assert plan.tries == plan.heals == tries
    assert len(records.faults(tmp_path)) == tries - results.count(None), "what missed may have done harm"
