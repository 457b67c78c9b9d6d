"""The ledger's arithmetic: nothing that is lost, made up or done twice goes unseen, whatever else happened."""

from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ledger import Answer, Death, Entries, Fault, Harm, Run, Submission, judge, outages, owed, tally
from records import read_runs, read_submissions
from submitting import Mix, word

LIMIT = 20.0
ALL = frozenset(Harm)

TASKS = st.sampled_from([f"t{number}" for number in range(6)])
TIMES = st.floats(0, 100)


def sent(task: str, answer: Answer = Answer.CONFIRMED, at: float = 0.0) -> Submission:
    return Submission(task, "amber", at, answer, at + 1)


def done(task: str, worker: str = "w1", began: float = 10.0) -> Run:
    return Run(task, worker, began, began + 1, completed=True)


def verdict(
    submissions: Iterable[Submission],
    runs: Iterable[Run] = (),
    deaths: Iterable[Death] = (),
    faults: Iterable[Fault] = (),
) -> list[str]:
    return judge(Entries([*submissions], [*runs], [*deaths], [*faults]), attempt_limit=LIMIT).problems()


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
    found = judge(entries, attempt_limit=LIMIT)
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
    assert set(judge(more, attempt_limit=LIMIT).problems()) <= set(judge(entries, attempt_limit=LIMIT).problems())


@given(stories(), TASKS)
def test_what_a_confirmed_task_left_is_missed(entries: Entries, task: str) -> None:
    without = Entries(
        [*entries.submissions, sent(task)],
        [run for run in entries.runs if run.task != task],
        [death for death in entries.deaths if death.task != task],
    )
    assert task in judge(without, attempt_limit=LIMIT).lost


def test_done_and_dead_are_both_good_ends() -> None:
    assert verdict([sent("a"), sent("b")], [done("a")], [Death("b", 12, "ValueError")]) == []


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
        ([sent("a")], [done("a")], [Death("a", 30, "X")], "repeated in the hands of w1"),
        ([sent("a")], [], [Death("a", 30, "X"), Death("a", 40, "X")], "died twice"),
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
        (Fault("kill", "", 12, 13, frozenset({Harm.REPEATED}), frozenset({"w2"})), False),
        (Fault("kill", "", 12, 13, frozenset({Harm.INTERRUPTED}), frozenset({"w1"})), False),
        (Fault("rollout", "", 0, 100), False),
        (Fault("cut", "", 0, 5, ALL), False),
        (Fault("cut", "", 0, 5, ALL, echo=6), True),
        (Fault("cut", "", 19.9, 30, ALL), True),
        (Fault("cut", "", 20.1, 30, ALL), False),
    ],
)
def test_only_a_fault_that_can_have_done_it_explains_a_duplicate(fault: Fault, *, explains: bool) -> None:
    assert (twice(fault) == []) is explains


def test_the_fault_that_met_the_worker_is_the_better_explanation() -> None:
    kill = Fault("kill", "", 12, 13, ALL, frozenset({"w1"}))
    cut = Fault("cut", "", 14, 15, ALL)
    (duplicate,) = judge(
        Entries([sent("a")], [done("a"), done("a", "w2", 20)], faults=[kill, cut]), attempt_limit=LIMIT
    ).duplicates
    assert duplicate.cause == kill


def test_a_letter_that_waited_for_its_confirm_is_explained_by_what_held_it_up() -> None:
    run = Run("a", "w1", 10, 11)
    again = Run("a", "w2", 22, 23)
    alarm = Fault("alarm", "", 9, 21, frozenset({Harm.DIED_TWICE}))
    assert verdict([sent("a")], [run, again], [Death("a", 11, "X"), Death("a", 23, "X")], [alarm]) == []


def test_outages_are_the_gaps_between_confirms() -> None:
    submissions = [sent("a", at=0), sent("b", at=1), sent("c", Answer.REFUSED, at=3), sent("d", at=9)]
    assert outages(submissions, 2) == [(2, 10)]
    assert outages([sent("a", Answer.REFUSED, at=0), sent("b", Answer.UNKNOWN, at=9)], 2) == [(0, 9)]
    assert outages([], 2) == []


def line(what: str, at: float, task: str = "a", pid: int = 7, *, doomed: bool = False) -> dict[str, object]:
    return {"what": what, "task": task, "worker": "w1", "pid": pid, "at": at, "queue": "amber", "doomed": doomed}


def test_lines_become_entries() -> None:
    assert read_submissions([line("sent", 1), line("confirmed", 2), line("sent", 3, "b")]) == [
        Submission("a", "amber", 1, Answer.CONFIRMED, 2),
        Submission("b", "amber", 3, Answer.UNKNOWN),
    ]
    lines = [line("start", 1), line("start", 2, pid=8), line("done", 3, pid=8), line("start", 4), line("failed", 5)]
    assert read_runs(lines) == [
        Run("a", "w1", 1),
        Run("a", "w1", 2, 3, completed=True),
        Run("a", "w1", 4, 5),
    ]
    assert read_runs([line("start", 1, doomed=True)]) == [Run("a", "w1", 1, doomed=True)]


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
