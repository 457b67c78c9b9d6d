"""The ledger's arithmetic: nothing that is lost, made up or done twice goes unseen, whatever else happened."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ledger import (
    CONFIRMED_A_MINUTE,
    Answer,
    Death,
    Demands,
    Entries,
    Fault,
    Harm,
    Limits,
    Run,
    Submission,
    covered,
    judge,
    outages,
    owed,
    tally,
)
from records import (
    DEATHS,
    FAULTS,
    AtWork,
    append,
    deaths,
    fault_line,
    faults,
    letter,
    read_at_work,
    read_deaths,
    read_runs,
    read_submissions,
)
from submitting import Mix, side_by_side, word

LIMITS = Limits(task=20.0, letter=10.0, attempts=3)
ALL = frozenset(Harm)

TASKS = st.sampled_from([f"t{number}" for number in range(6)])
TIMES = st.floats(0, 100)


def sent(task: str, answer: Answer = Answer.CONFIRMED, at: float = 0.0, kind: str = "work") -> Submission:
    return Submission(task, "amber", at, answer, at + 1, kind)


def tried(task: str, *began: float) -> list[Run]:
    """Runs that failed."""
    return [Run(task, "w1", at, at + 0.5) for at in began]


def done(task: str, worker: str = "w1", began: float = 10.0) -> Run:
    return Run(task, worker, began, began + 1, completed=True)


def verdict(
    submissions: Iterable[Submission],
    runs: Iterable[Run] = (),
    deaths: Iterable[Death] = (),
    faults: Iterable[Fault] = (),
) -> list[str]:
    return judge(Entries([*submissions], [*runs], [*deaths], [*faults]), LIMITS).problems()


@st.composite
def stories(draw: st.DrawFn) -> Entries:
    """Anything at all."""
    answers = st.sampled_from(list(Answer))
    return Entries(
        [sent(draw(TASKS), draw(answers)) for _ in range(draw(st.integers(0, 8)))],
        [
            Run(draw(TASKS), "w1", at, at + 1 if ended else None, completed=ended)
            for at, ended in draw(st.lists(st.tuples(TIMES, st.booleans()), max_size=8))
        ],
        [Death(draw(TASKS), at, "ValueError") for at in draw(st.lists(TIMES, max_size=4))],
        [Fault("x", "x", at, at + 5, ALL) for at in draw(st.lists(TIMES, max_size=3))],
    )


@given(stories())
def test_each_task_is_counted_once_and_each_end_beyond_the_first_is_a_duplicate(entries: Entries) -> None:
    found = judge(entries, LIMITS)
    assert found.confirmed | found.refused | found.unknown == {one.id for one in entries.submissions}
    assert len(found.confirmed) + len(found.refused) + len(found.unknown) == len(
        {one.id for one in entries.submissions}
    )
    assert found.lost == found.confirmed - found.completed - found.dead
    assert found.lost == owed([sent(task) for task in found.confirmed], entries.runs, entries.deaths)
    ends = sum(run.completed for run in entries.runs) + len(entries.deaths)
    assert len(found.duplicates) == ends - len(found.completed | found.dead)
    assert sum(tally(found.duplicates).values()) == len(found.duplicates)
    assert found.problems() or not (found.lost or found.unexpected or found.belied)


@given(stories())
def test_a_fault_more_never_makes_a_problem_more(entries: Entries) -> None:
    more = Entries(entries.submissions, entries.runs, entries.deaths, [*entries.faults, Fault("y", "y", 0, 100, ALL)])
    assert set(judge(more, LIMITS).problems()) <= set(judge(entries, LIMITS).problems())


@given(stories(), TASKS)
def test_what_a_confirmed_task_left_is_missed(entries: Entries, task: str) -> None:
    without = Entries(
        [*entries.submissions, sent(task)],
        [run for run in entries.runs if run.task != task],
        [death for death in entries.deaths if death.task != task],
    )
    assert task in judge(without, LIMITS).lost


def test_done_and_dead_are_both_good_ends() -> None:
    assert (
        verdict([sent("a"), sent("b", kind="fail")], [done("a"), *tried("b", 1, 3, 11)], [Death("b", 12, "ValueError")])
        == []
    )


def test_what_is_unknown_may_be_done_or_not() -> None:
    assert verdict([sent("a", Answer.UNKNOWN), sent("b", Answer.UNKNOWN)], [done("a")]) == []


@pytest.mark.parametrize(
    ("submissions", "runs", "deaths", "says"),
    [
        ([sent("a")], [], [], "confirmed and is neither"),
        ([sent("a")], [Run("a", "w1", 10, 11)], [], "confirmed and is neither"),
        ([], [done("a")], [], "nobody has submitted"),
        ([], [], [Death("a", 1, "X")], "nobody has submitted"),
        ([sent("a", Answer.REFUSED)], [done("a")], [], "refused, and yet"),
        ([sent("a")], [done("a"), done("a", began=20)], [], "repeated in the hands of w1"),
        (
            [sent("a", kind="hopeless")],
            [*tried("a", 29, 39)],
            [Death("a", 30, "PermanentError"), Death("a", 40, "PermanentError")],
            "died twice in the hands of w1",
        ),
        ([sent("a")], [Run("a", "w1", 10), done("a", began=20)], [], "interrupted in the hands of w1"),
    ],
)
def test_what_must_not_be_is_told(
    submissions: list[Submission], runs: list[Run], deaths: list[Death], says: str
) -> None:
    (problem,) = verdict(submissions, runs, deaths)
    assert says in problem


def twice(*faults: Fault) -> list[str]:
    """A task of w1 that was done from 10 to 11, and again by w2 from 20 to 21."""
    return verdict([sent("a")], [done("a"), done("a", "w2", 20)], faults=faults)


@pytest.mark.parametrize(
    ("fault", "explains"),
    [
        (Fault("kill", "", 12, 13, frozenset({Harm.REPEATED}), frozenset({"w1"})), True),
        (Fault("kill", "", 15.9, 17, frozenset({Harm.REPEATED}), frozenset({"w1"})), True),
        (Fault("kill", "", 16.1, 17, frozenset({Harm.REPEATED}), frozenset({"w1"})), False),
        (Fault("kill", "", 12, 13, frozenset({Harm.REPEATED}), frozenset({"w2"})), False),
        (Fault("kill", "", 12, 13, frozenset({Harm.INTERRUPTED}), frozenset({"w1"})), False),
        (Fault("rollout", "", 0, 100), False),
        (Fault("cut", "", 0, 5, ALL), False),
        (Fault("cut", "", 0, 5, ALL, echo=6), True),
        (Fault("cut", "", 15.9, 30, ALL), True),
        (Fault("cut", "", 16.1, 30, ALL), False),
    ],
)
def test_only_a_fault_that_can_have_done_it_explains_a_duplicate(fault: Fault, *, explains: bool) -> None:
    assert (twice(fault) == []) is explains


def test_the_fault_that_met_the_worker_is_the_better_explanation() -> None:
    kill = Fault("kill", "", 12, 13, ALL, frozenset({"w1"}))
    cut = Fault("cut", "", 14, 15, ALL)
    (duplicate,) = judge(Entries([sent("a")], [done("a"), done("a", "w2", 20)], faults=[kill, cut]), LIMITS).duplicates
    assert duplicate.cause == kill


def test_no_fault_that_comes_after_the_second_began_explains_a_duplicate() -> None:
    runs = [done("a"), done("a", "w2", 12)]
    assert verdict([sent("a")], runs, faults=[Fault("cut", "", 11.9, 30, ALL)]) == []
    assert verdict([sent("a")], runs, faults=[Fault("cut", "", 12.1, 30, ALL)]) != []


@pytest.mark.parametrize(
    ("stood_still", "explains"),
    [
        (Fault("frozen", "", 5, 18, ALL, frozenset({"w2"}), echo=5), True),
        (Fault("frozen", "", 10.5, 18, ALL, frozenset({"w2"}), echo=5), False),  # it cannot have had the task before
        (Fault("frozen", "", 5, 14, ALL, frozenset({"w2"}), echo=5), False),  # it went on long before
        (Fault("frozen", "", 5, 18, ALL, frozenset({"w3"}), echo=5), False),
        (Fault("frozen", "", 5, 18, frozenset({Harm.DIED_TWICE}), frozenset({"w2"}), echo=5), False),
        (Fault("cut", "", 5, 9, ALL), False),
    ],
)
def test_a_worker_that_stood_still_begins_with_what_another_has_done_meanwhile(
    stood_still: Fault, *, explains: bool
) -> None:
    assert (twice(stood_still) == []) is explains


@pytest.mark.parametrize(("began", "explains"), [(9, True), (25.9, True), (26.1, False), (-9, False)], ids=str)
def test_a_letter_that_came_twice_is_explained_by_what_held_up_its_confirm_or_its_acknowledgement(
    began: float, *, explains: bool
) -> None:
    """A letter may wait 10 s for its confirm and its acknowledgement gets 5 s more."""
    runs = [*tried("a", 10), Run("a", "w2", 60, 61)]
    letters = [Death("a", 11, "PermanentError"), Death("a", 61, "PermanentError")]
    alarm = Fault("alarm", "", began, began + 12, frozenset({Harm.DIED_TWICE}))
    assert (verdict([sent("a", kind="hopeless")], runs, letters, [alarm]) == []) is explains


def test_a_letters_time_is_rounded_down_so_that_its_run_may_seem_to_come_later() -> None:
    runs = [Run("a", "w1", 10.0004, 10.0005)]
    assert verdict([sent("a", kind="hopeless")], runs, [Death("a", 10.0, "PermanentError")]) == []


KILL = Fault("handler killed", "", 30, 30.1, frozenset({Harm.INTERRUPTED}), frozenset({"w1"}))
ELSEWHERE = Fault("handler killed", "", 30, 30.1, frozenset({Harm.INTERRUPTED}), frozenset({"w2"}))
EARLIER = Fault("handler killed", "", 20, 20.1, frozenset({Harm.INTERRUPTED}), frozenset({"w1"}))
CUT = Fault("cut", "", 0, 40, ALL)


@pytest.mark.parametrize(
    ("kind", "reason", "faults", "good"),
    [
        ("fail", "ValueError", [], True),
        ("hopeless", "PermanentError", [], True),
        ("crash", "Crash", [], True),
        ("overrun", "TimeLimit", [], True),
        ("fail", "PermanentError", [], False),
        ("fail", "", [CUT], False),
        ("crash", "", [KILL], False),
        ("overrun", "delivery_limit", [KILL], False),
        ("work", "ValueError", [KILL], False),
        ("work", "TimeLimit", [KILL], False),
        ("fail", "Crash", [KILL], True),
        ("hopeless", "Crash", [KILL], True),
        ("overrun", "Crash", [KILL], True),
        ("overrun", "Crash", [], False),
        ("work", "Crash", [KILL], True),
        ("work", "Crash", [], False),
        ("work", "Crash", [ELSEWHERE], False),
        ("work", "Crash", [EARLIER], False),
        ("work", "Crash", [CUT], False),
    ],
)
def test_a_task_dies_for_a_reason_that_its_kind_may_have(
    kind: str, reason: str, faults: list[Fault], *, good: bool
) -> None:
    runs = [*tried("a", 21, 25), Run("a", "w1", 29.5, 30.2)]
    problems = verdict([sent("a", kind=kind)], runs, [Death("a", 30.3, reason)], faults)
    assert problems == ([] if good else [f"task a ({kind}) is dead because of {reason or '(no reason)'}"])


@pytest.mark.parametrize(("buried_by", "good"), [("w1", True), ("w2", False), ("", False)])
def test_of_two_runs_side_by_side_a_task_died_of_that_of_the_worker_that_buried_it(buried_by: str, good: bool) -> None:
    runs = [*tried("a", 21, 25), Run("a", "w1", 29, doomed=True), Run("a", "w2", 29.5, doomed=True)]
    problems = verdict([sent("a", kind="overrun")], runs, [Death("a", 30.3, "Crash", buried_by)], [KILL])
    assert (problems == []) is good


def test_a_task_that_no_handler_had_is_not_killed() -> None:
    problems = verdict([sent("a")], [], [Death("a", 30, "Crash")], [KILL])
    assert problems == ["task a (work) is dead because of Crash"]


@pytest.mark.parametrize(("kind", "reason", "due"), [("fail", "ValueError", 3), ("hopeless", "PermanentError", 1)])
def test_no_task_is_buried_before_its_attempts_are_used_up(kind: str, reason: str, due: int) -> None:
    letters = [Death("a", 50, reason)]
    assert verdict([sent("a", kind=kind)], tried("a", *range(due)), letters) == []
    too_few = tried("a", *range(due - 1), 51)
    (problem,) = verdict([sent("a", kind=kind)], too_few, letters)
    assert f"after {due - 1} of {due} attempts" in problem
    # A delivery that never reached a handler may have been one.
    assert verdict([sent("a", kind=kind)], too_few, letters, [CUT]) == []
    later = Fault("cut", "", 50.1, 60, ALL)
    earlier = Fault("cut", "", -10, -2, ALL, echo=1)
    passing = Fault("alarm", "", 0, 40, frozenset({Harm.DIED_TWICE}))
    assert verdict([sent("a", kind=kind)], too_few, letters, [later, earlier, passing]) == [problem]


def test_the_reasons_of_a_run_are_told_by_kind() -> None:
    entries = Entries(
        [sent("a", kind="fail"), sent("b", kind="fail"), sent("c")],
        [],
        [Death("a", 1, "ValueError"), Death("b", 1, "ValueError"), Death("c", 1, "")],
    )
    found = judge(entries, LIMITS)
    assert found.reasons == {("fail", "ValueError"): 2, ("work", ""): 1}
    assert "fail ValueError: 2, work (no reason): 1" in found.summary()


@pytest.mark.parametrize(
    ("fault", "later", "explains"),
    [
        (Fault("killed", "", 15, 15, ALL, frozenset({"w1"})), 70, True),
        (Fault("dropped", "", 15, 20, ALL), None, True),
        (Fault("dropped", "", 15, 20, ALL), 29, True),  # it was asked to go after this one, perhaps
        (Fault("dropped", "", 15, 20, ALL), 31, False),  # it went on working: its handler was not ended by that
        (Fault("dropped", "", 39, 50, ALL), None, True),
        (Fault("dropped", "", 41, 50, ALL), None, False),  # by then its own worker has ended it
        (Fault("killed", "", 41, 50, ALL, frozenset({"w1"})), None, False),
    ],
)
def test_only_a_fault_that_can_have_ended_a_run_explains_its_interruption(
    fault: Fault, later: float | None, *, explains: bool
) -> None:
    others = [] if later is None else [done("b", began=later)]
    runs = [Run("a", "w1", 10), *others, done("a", "w2", 80)]
    assert (verdict([sent("a"), sent("b", Answer.UNKNOWN)], runs, faults=[fault]) == []) is explains


def test_no_fault_that_comes_after_the_next_run_began_explains_an_interruption() -> None:
    runs = [Run("a", "w1", 10), done("a", "w2", 20)]
    assert verdict([sent("a")], runs, faults=[Fault("killed", "", 19, 19, ALL, frozenset({"w1"}))]) == []
    assert verdict([sent("a")], runs, faults=[Fault("killed", "", 21, 21, ALL, frozenset({"w1"}))]) != []


def test_what_went_wrong_with_the_run_itself_is_a_problem() -> None:
    assert judge(Entries([], [], failures=["not drained: 7 messages"]), LIMITS).problems() == [
        "not drained: 7 messages"
    ]


def shown(**changes: Any) -> list[str]:
    """Problems of a run of a minute that has shown all that it has to, but for these changes."""
    many = [sent(f"t{number}", at=float(number)) for number in range(round(CONFIRMED_A_MINUTE))]
    given: dict[str, Any] = {
        "submissions": [*many, sent("dead", at=3, kind="hopeless"), sent("end", at=60)],
        "runs": [*(done(one.id, began=one.sent) for one in many), *tried("dead", 4), done("end", began=61)],
        "deaths": [Death("dead", 5, "PermanentError")],
        "faults": [Fault("alarm", "", 1, 50)],
        **changes,
    }
    demands = Demands(frozenset({"amber"}), well=60, minutes=1, kinds=frozenset({"alarm"}))
    return judge(Entries(**given), LIMITS, demands).problems()


def test_a_run_that_shows_all_that_it_has_to_passes() -> None:
    assert shown() == []


def test_too_few_tasks_are_not_judged() -> None:
    (problem,) = shown(
        submissions=[sent("dead", kind="hopeless", at=59), sent("end", at=60)],
        runs=[*tried("dead", 4), done("end", began=61)],
    )
    assert problem.startswith("2 tasks were confirmed")


def test_a_kind_of_fault_that_never_came_is_told() -> None:
    assert shown(faults=[]) == ["alarm never came"]


def test_something_has_to_die() -> None:
    many = [sent(f"t{number}", at=float(number)) for number in range(61)]
    runs = [done(one.id, began=one.sent) for one in many]
    assert shown(submissions=many, runs=runs, deaths=[]) == ["nothing died, and some tasks are meant to"]


@pytest.mark.parametrize("answer", [Answer.REFUSED, Answer.UNKNOWN])
def test_a_queue_that_takes_nothing_at_the_end_is_told(answer: Answer) -> None:
    many = [sent(f"t{number}", at=float(number % 59)) for number in range(60)]
    dead = sent("dead", at=3, kind="hopeless")
    runs = [*(done(one.id, began=one.sent) for one in many), *tried("dead", 4)]
    problems = shown(submissions=[*many, dead, sent("end", answer, at=60)], runs=runs)
    assert problems == ["queue amber takes no task, and all is well again"]


def test_a_queue_that_does_nothing_at_the_end_is_told() -> None:
    many = [sent(f"t{number}", at=float(number % 59)) for number in range(60)]
    dead = sent("dead", at=3, kind="hopeless")
    runs = [*(done(one.id, began=one.sent) for one in many), *tried("dead", 4)]
    problems = shown(submissions=[*many, dead, sent("end", at=60)], runs=runs)
    assert "queue amber takes tasks, and none is done, and all is well again" in problems


def test_confirms_that_stay_out_for_long_are_a_problem() -> None:
    waiting = [sent(f"r{number}", Answer.REFUSED, at=float(number)) for number in range(64, 200)]
    many = [sent(f"t{number}", at=float(number)) for number in range(60)]
    dead, end = sent("dead", at=3, kind="hopeless"), sent("end", at=199)
    runs = [*(done(one.id, began=one.sent) for one in many), *tried("dead", 4), done("end", began=200)]
    problems = shown(submissions=[*many, dead, *waiting, end], runs=runs)
    assert problems == ["nothing was confirmed for 136 s: more than 120 s must not be"]
    # Nobody asked before that last one.
    assert shown(submissions=[*many, dead, end], runs=runs) == []


def test_outages_are_the_gaps_between_confirms() -> None:
    submissions = [sent("a", at=0), sent("b", at=1), sent("c", Answer.REFUSED, at=3), sent("d", at=9)]
    assert outages(submissions, 2) == [(3, 10)]  # before, nobody had anything to send
    in_hand = [sent("a", at=0), Submission("b", "amber", 0.5, Answer.REFUSED, 5), sent("c", at=9)]
    assert outages(in_hand, 2) == [(1, 10)]
    assert outages([sent("a", Answer.REFUSED, at=0), sent("b", Answer.UNKNOWN, at=9)], 2) == [(0, 9)]
    assert outages([], 2) == []


def test_time_is_covered_by_faults_that_may_harm_tasks_of_all_workers() -> None:
    found = [
        Fault("cut", "", 10, 20, frozenset({Harm.REPEATED}), echo=5),
        Fault("dropped", "", 22, 30, ALL),
        Fault("killed", "", 40, 50, ALL, frozenset({"w1"})),
        Fault("alarm", "", 60, 70, frozenset({Harm.DIED_TWICE})),
        Fault("cut", "", 95, 120, ALL),
    ]
    assert covered(found, Harm.REPEATED, 0, 100) == pytest.approx(0.25)
    assert covered(found, Harm.DIED_TWICE, 0, 100) == pytest.approx(0.23)
    assert covered([], Harm.REPEATED, 0, 100) == 0
    assert covered(found, Harm.REPEATED, 5, 5) == 0


def line(what: str, at: float, task: str = "a", pid: int = 7, *, doomed: bool = False) -> dict[str, Any]:
    return {
        "what": what,
        "task": task,
        "worker": "w1",
        "pid": pid,
        "at": at,
        "queue": "amber",
        "doomed": doomed,
        "kind": "fail",
    }


def test_lines_become_entries() -> None:
    assert read_submissions([line("sent", 1), line("confirmed", 2), line("sent", 3, "b")]) == [
        Submission("a", "amber", 1, Answer.CONFIRMED, 2, "fail"),
        Submission("b", "amber", 3, Answer.UNKNOWN, kind="fail"),
    ]
    lines = [line("start", 1), line("start", 2, pid=8), line("done", 3, pid=8), line("start", 4), line("failed", 5)]
    assert read_runs(lines) == [
        Run("a", "w1", 1),
        Run("a", "w1", 2, 3, completed=True),
        Run("a", "w1", 4, 5),
    ]
    assert read_runs([line("start", 1, doomed=True)]) == [Run("a", "w1", 1, doomed=True)]


def test_a_run_is_at_work_until_it_ends() -> None:
    lines = [line("start", 1), line("start", 2, "b", 8, doomed=True), line("done", 3), line("start", 4, "c", 9)]
    assert read_at_work(lines) == [AtWork("b", "w1", 8, 2, doomed=True), AtWork("c", "w1", 9, 4, doomed=False)]


@pytest.mark.parametrize(
    ("headers", "reason", "at"),
    [
        ({"x-warren-exception": "ValueError", "x-warren-failed-at": 1500, "x-warren-attempts": 3}, "ValueError", 1.5),
        ({"x-first-death-reason": "delivery_limit"}, "delivery_limit", 0),
        ({"x-warren-exception": "", "x-warren-failed-at": 1500}, "", 1.5),
        ({}, "", 0),
    ],
)
def test_a_letter_is_written_down_with_whose_reason_it_has(headers: dict[str, Any], reason: str, at: float) -> None:
    assert read_deaths([letter("a", headers)]) == [Death("a", at, reason)]


def test_deaths_and_faults_are_read_as_they_were_written(tmp_path: Path) -> None:
    assert deaths(tmp_path) == []
    given = [
        Fault("killed", "w1", 1, 2, ALL, frozenset({"w1"}), 5.0),
        Fault("dropped", "all", 1, 2, frozenset({Harm.REPEATED})),
        Fault("rollout", "", 1, 2),
    ]
    for fault in given:
        append(tmp_path, FAULTS, fault_line(fault))
    headers = {"x-warren-exception": "X", "x-warren-failed-at": 2000, "x-warren-worker": "w1"}
    append(tmp_path, DEATHS, letter("a", headers))
    assert faults(tmp_path) == given
    assert deaths(tmp_path) == [Death("a", 2, "X", "w1")]


def test_a_client_whose_thread_ends_by_an_error_says_so_at_its_end(capsys: pytest.CaptureFixture[str]) -> None:
    done: list[int] = []

    def fails() -> None:
        raise RuntimeError("no more")

    assert side_by_side([fails, lambda: done.append(1)]) == 1
    assert done == [1], "the others go on"
    assert "no more" in capsys.readouterr().err
    assert side_by_side([lambda: done.append(2)]) == 0


@pytest.mark.parametrize(
    ("status", "code", "expected"),
    [
        (202, "", "confirmed"),
        (503, "broker_unavailable", "refused"),
        (503, "outcome_unknown", "unknown"),
        (503, "", "unknown"),
        (0, "", "unknown"),
        (422, "invalid", "refused"),
    ],
)
def test_an_answer_is_read_as_the_documentation_says(status: int, code: str, expected: str) -> None:
    assert word(status, {"error": {"code": code}} if code else {}) == expected


def test_the_shares_of_the_mix_are_all_of_it() -> None:
    assert sum(share for _, share in Mix().shares) == pytest.approx(1)
