"""The ledger: what clients were told, what workers did, what died, what was done to them all; and the verdict. Pure.

It rests on what the client and the handlers wrote down and on the dead-letter queue, read by ids: on nothing that
Warren says of itself. Times are Unix seconds; all who write share one clock.
"""

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from itertools import pairwise


class Answer(Enum):
    """What a client knows of a task that it sent."""

    CONFIRMED = "confirmed"
    """202: a queue has it safely."""
    REFUSED = "refused"
    """An answer that says that no queue has it."""
    UNKNOWN = "unknown"
    """`outcome_unknown`, no answer, or a client that died: it may be done, or not."""


class Harm(Enum):
    """What a fault may do to a task that is never lost for it."""

    INTERRUPTED = "interrupted"
    """A run ends without a word of the handler; the task runs again."""
    REPEATED = "repeated"
    """A task that was done is delivered again, since its acknowledgement never reached the broker."""
    DIED_TWICE = "died twice"
    """A dead letter was published, and its task delivered again or the letter published again."""


@dataclass(frozen=True, slots=True)
class Submission:
    """A task that a client sent, once.

    Attributes:
        id: chosen by the client.
        queue: it was for.
        sent: when.
        answer: what became of it, for the client.
        answered: when; None where no answer came.
    """

    id: str
    queue: str
    sent: float
    answer: Answer
    answered: float | None = None


@dataclass(frozen=True, slots=True)
class Run:
    """One time that a handler ran a task.

    Attributes:
        task: its id.
        worker: that ran it.
        started: when.
        ended: when the handler said that it was through, well or not; None if it never did.
        completed: whether it said that the work was done.
        doomed: the task is one that its handler never ends, by intent: it overruns its time limit.
    """

    task: str
    worker: str
    started: float
    ended: float | None = None
    completed: bool = False
    doomed: bool = False


@dataclass(frozen=True, slots=True)
class Death:
    """A dead letter.

    Attributes:
        task: its id.
        at: when its last attempt failed.
        reason: the exception's name.
    """

    task: str
    at: float
    reason: str


@dataclass(frozen=True, slots=True)
class Fault:
    """Something that was done to the system.

    Attributes:
        kind: of fault.
        what: exactly, for people.
        began, ended: from the first touch until it was healed.
        harms: what it may do to tasks; nothing for what must pass without a trace, such as a rollout.
        workers: whose tasks; None for all.
        echo: seconds after its end in which it may still do that, such as two heartbeats.
    """

    kind: str
    what: str
    began: float
    ended: float
    harms: frozenset[Harm] = frozenset()
    workers: frozenset[str] | None = None
    echo: float = 0.0

    def explains(self, harm: Harm, worker: str, began: float, until: float) -> bool:
        """Whether it can have done this to a task of this worker at some time of this span."""
        return (
            harm in self.harms
            and (self.workers is None or worker in self.workers)
            and self.began <= until
            and began <= self.ended + self.echo
        )


@dataclass(frozen=True, slots=True)
class Entries:
    """Everything that was written down."""

    submissions: Sequence[Submission]
    runs: Sequence[Run]
    deaths: Sequence[Death] = ()
    faults: Sequence[Fault] = ()


@dataclass(frozen=True, slots=True)
class Surplus:
    """A task came to an end once more than it should, or had to begin anew.

    Attributes:
        task: its id.
        harm: what was done to it.
        worker: in whose hands it was.
        began, until: the span in which that happened.
        cause: the fault that explains it; None if none does.
    """

    task: str
    harm: Harm
    worker: str
    began: float
    until: float
    cause: Fault | None


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the ledger says.

    Attributes:
        confirmed, refused, unknown: tasks, by what the client was told.
        completed, dead: tasks that came to such an end, at least once.
        lost: confirmed, and neither completed nor dead.
        unexpected: completed, run or dead, and nobody has submitted them.
        belied: refused, and yet completed or dead.
        duplicates: ends of a task beyond its first.
        interruptions: runs that had to begin anew.
    """

    confirmed: frozenset[str]
    refused: frozenset[str]
    unknown: frozenset[str]
    completed: frozenset[str]
    dead: frozenset[str]
    lost: frozenset[str]
    unexpected: frozenset[str]
    belied: frozenset[str]
    duplicates: tuple[Surplus, ...]
    interruptions: tuple[Surplus, ...]

    def problems(self) -> list[str]:
        """A sentence for everything that must not be."""
        told = {
            "was confirmed and is neither completed nor dead": self.lost,
            "ran or died, and nobody has submitted it": self.unexpected,
            "was refused, and yet ran or died": self.belied,
        }
        found = [f"task {task} {what}" for what, tasks in told.items() for task in sorted(tasks)]
        found += [
            f"task {item.task} was {item.harm.value} in the hands of {item.worker} between {item.began:.3f} and "
            f"{item.until:.3f}, and no fault explains it"
            for item in (*self.duplicates, *self.interruptions)
            if item.cause is None
        ]
        return found

    def summary(self) -> str:
        """The figures in a few lines."""
        causes = tally(self.duplicates)
        return (
            f"{len(self.confirmed)} confirmed, {len(self.refused)} refused, {len(self.unknown)} unknown; "
            f"{len(self.completed)} completed, {len(self.dead)} dead\n"
            f"lost {len(self.lost)}, unexpected {len(self.unexpected)}, refused and yet done {len(self.belied)}\n"
            f"{len(self.duplicates)} duplicates ({_told(causes)}), "
            f"{len(self.interruptions)} runs interrupted ({_told(tally(self.interruptions))})"
        )


def tally(items: Iterable[Surplus]) -> dict[str, int]:
    """How many of them each kind of fault explains; `unexplained` for the rest."""
    found: dict[str, int] = defaultdict(int)
    for item in items:
        found["unexplained" if item.cause is None else item.cause.kind] += 1
    return dict(sorted(found.items()))


def _told(causes: Mapping[str, int]) -> str:
    return ", ".join(f"{kind}: {count}" for kind, count in causes.items()) or "none"


@dataclass(frozen=True, slots=True)
class _End:
    """A task's end, as far as the time is known."""

    worker: str
    began: float
    harm: Harm = field(compare=False)


def judge(entries: Entries, *, attempt_limit: float) -> Verdict:
    """Balance the ledger.

    Args:
        entries: complete: all faults healed, and the queues drained.
        attempt_limit: seconds that one attempt may take, and its dead letter: of a death, only the end is known.
    """
    answers = _answers(entries.submissions)
    by_answer = {answer: frozenset(task for task, its in answers.items() if its is answer) for answer in Answer}
    completed = frozenset(run.task for run in entries.runs if run.completed)
    dead = frozenset(death.task for death in entries.deaths)
    touched = dead | {run.task for run in entries.runs}
    return Verdict(
        confirmed=by_answer[Answer.CONFIRMED],
        refused=by_answer[Answer.REFUSED],
        unknown=by_answer[Answer.UNKNOWN],
        completed=completed,
        dead=dead,
        lost=by_answer[Answer.CONFIRMED] - completed - dead,
        unexpected=frozenset(touched - answers.keys()),
        belied=by_answer[Answer.REFUSED] & touched,
        duplicates=_duplicates(entries, attempt_limit),
        interruptions=_interruptions(entries),
    )


def owed(submissions: Iterable[Submission], runs: Iterable[Run], deaths: Iterable[Death]) -> set[str]:
    """The tasks that were confirmed and have yet to come to an end."""
    ended = {run.task for run in runs if run.completed} | {death.task for death in deaths}
    return {one.id for one in submissions if one.answer is Answer.CONFIRMED} - ended


def _answers(submissions: Iterable[Submission]) -> dict[str, Answer]:
    """What is known of each task: of several sendings, the surest counts."""
    order = (Answer.CONFIRMED, Answer.UNKNOWN, Answer.REFUSED)
    found: dict[str, Answer] = {}
    for one in submissions:
        found[one.id] = min(found.get(one.id, one.answer), one.answer, key=order.index)
    return found


def _duplicates(entries: Entries, attempt_limit: float) -> tuple[Surplus, ...]:
    ends: dict[str, list[_End]] = defaultdict(list)
    for run in entries.runs:
        if run.completed:
            ends[run.task].append(_End(run.worker, run.started, Harm.REPEATED))
    for death in entries.deaths:
        last = _last_run(entries.runs, death)
        began = death.at - attempt_limit if last is None else last.started
        ends[death.task].append(_End("" if last is None else last.worker, began, Harm.DIED_TWICE))
    found = []
    for task, its in sorted(ends.items()):
        for first, second in pairwise(sorted(its, key=lambda end: end.began)):
            # A letter that is published again belongs to the same last run: it may come as late as that is.
            until = max(second.began, first.began + attempt_limit) if first.harm is Harm.DIED_TWICE else second.began
            found.append(_surplus(task, first.harm, first.worker, (first.began, until), entries.faults))
    return tuple(found)


def _last_run(runs: Iterable[Run], death: Death) -> Run | None:
    its = [run for run in runs if run.task == death.task and run.started <= death.at]
    return max(its, key=lambda run: run.started, default=None)


def _interruptions(entries: Entries) -> tuple[Surplus, ...]:
    of: dict[str, list[Run]] = defaultdict(list)
    for run in sorted(entries.runs, key=lambda run: run.started):
        of[run.task].append(run)
    end_of_record = max((run.ended or run.started for run in entries.runs), default=0.0)
    found = []
    for task, its in of.items():
        for run, following in zip(its, [*its[1:], None], strict=True):
            if run.ended is None and not run.doomed:
                until = end_of_record if following is None else following.started
                found.append(_surplus(task, Harm.INTERRUPTED, run.worker, (run.started, until), entries.faults))
    return tuple(found)


def _surplus(task: str, harm: Harm, worker: str, span: tuple[float, float], faults: Iterable[Fault]) -> Surplus:
    """With the fault that explains it best: one that met this very worker, else the nearest to the beginning."""
    began, until = span
    fitting = [fault for fault in faults if fault.explains(harm, worker, began, until)]
    cause = max(fitting, key=lambda fault: (fault.workers is not None, -abs(fault.began - began)), default=None)
    return Surplus(task, harm, worker, began, until, cause)


def outages(submissions: Collection[Submission], shortest: float) -> list[tuple[float, float]]:
    """The spans of at least so many seconds in which clients sent tasks and none was confirmed."""
    confirms = sorted(
        one.answered for one in submissions if one.answer is Answer.CONFIRMED and one.answered is not None
    )
    sent = sorted(one.sent for one in submissions)
    if not sent:
        return []
    marks = [sent[0], *confirms, max(sent[-1], confirms[-1] if confirms else sent[0])]
    return [(before, after) for before, after in pairwise(marks) if after - before >= shortest]
