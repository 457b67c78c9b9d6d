"""The ledger: what clients were told, what workers did, what died, what was done to them all; and the verdict. Pure.

It rests on what the client and the handlers wrote down and on the dead-letter queue, read by ids: on nothing that
Warren says of itself. Times are Unix seconds; all who write share one clock.
"""

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum
from itertools import pairwise

ACK_LIMIT = 5.0
"""Seconds after the end of a run in which its acknowledgement may still be lost. It goes out in the same turn of the
worker's loop, and a connection that is slow by intent needs less than two seconds for it; the rest is for a busy
machine. What a fault does later it does to a task that the broker has forgotten. In an hour of faults each of the
true duplicates was explained with no second at all."""

ROUNDING = 0.01
"""Seconds: a dead letter's time is in whole milliseconds, rounded down, so that its run may seem to begin after it."""

LONGEST_OUTAGE = 120.0
"""Seconds that clients may go without any confirm. Heavy faults come one at a time and none holds for longer than 50 s;
the longest outage in an hour of them was 45 s."""

CONFIRMED_A_MINUTE = 60.0
"""Tasks that have to be confirmed to make a run worth judging: an eighth of what a busy machine had in an hour."""

OWN_REASONS: Mapping[str, frozenset[str]] = {
    "fail": frozenset({"ValueError"}),
    "hopeless": frozenset({"PermanentError"}),
    "crash": frozenset({"Crash"}),
    "overrun": frozenset({"TimeLimit"}),
}
"""Why a task of each kind may be dead by its own doing; all other kinds are meant to be done."""

KILLED = "Crash"
"""The reason of a task of any kind whose handler was killed at its last attempt."""

AT_ONCE = frozenset({"hopeless"})
"""Kinds whose handlers say that another attempt is of no use."""


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
        kind: what it does, the first word of its body.
    """

    id: str
    queue: str
    sent: float
    answer: Answer
    answered: float | None = None
    kind: str = "work"


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
        reason: the exception's name; empty where the letter does not say.
        worker: that buried it, as the letter says: of several runs side by side, which one it died of.
    """

    task: str
    at: float
    reason: str
    worker: str = ""


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
    """Everything that was written down.

    Attributes:
        submissions, runs, deaths, faults: all of them.
        failures: a sentence for whatever went wrong with the run itself: queues that were never empty, a client that
            ended by an error.
    """

    submissions: Sequence[Submission]
    runs: Sequence[Run]
    deaths: Sequence[Death] = ()
    faults: Sequence[Fault] = ()
    failures: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class Limits:
    """What workers are set to.

    Attributes:
        task: seconds for one run of a task.
        letter: seconds that a worker waits for the confirm of a dead letter.
        attempts: failures after which a task is dead.
    """

    task: float
    letter: float
    attempts: int = 3


@dataclass(frozen=True, slots=True)
class Demands:
    """What a run has to show, so that a system in which nothing happens does not pass.

    Attributes:
        queues: each must take a task and do it when all is well again.
        well: since when all is well again.
        minutes: of faults that were asked for.
        kinds: of faults that must have come.
    """

    queues: frozenset[str]
    well: float
    minutes: float
    kinds: frozenset[str]


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
        burials: a sentence for each dead letter that should not be there, or not yet, or not with that reason.
        failures: a sentence for whatever else must not be: a run that did not drain, or in which too little happened.
        reasons: of dead letters, by kind of task and reason.
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
    burials: tuple[str, ...] = ()
    failures: tuple[str, ...] = ()
    reasons: Mapping[tuple[str, str], int] = field(default_factory=dict)

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
        return [*found, *self.burials, *self.failures]

    def summary(self) -> str:
        """The figures in a few lines."""
        causes = tally(self.duplicates)
        return (
            f"{len(self.confirmed)} confirmed, {len(self.refused)} refused, {len(self.unknown)} unknown; "
            f"{len(self.completed)} completed, {len(self.dead)} dead\n"
            f"lost {len(self.lost)}, unexpected {len(self.unexpected)}, refused and yet done {len(self.belied)}\n"
            f"{len(self.duplicates)} duplicates ({_told(causes)}), "
            f"{len(self.interruptions)} runs interrupted ({_told(tally(self.interruptions))})\n"
            f"dead letters by kind of task and reason: "
            f"{_told({f'{kind} {reason or NO_REASON}': count for (kind, reason), count in self.reasons.items()})}"
        )


NO_REASON = "(no reason)"


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
    """A task's end.

    Attributes:
        worker: in whose hands it was; empty where that is not known.
        began: when the run that led to it did.
        over: when it can be undone no more: the broker has heard of it, or never will.
        harm: that undoes it.
    """

    worker: str
    began: float
    over: float = field(compare=False)
    harm: Harm = field(compare=False)


def judge(entries: Entries, limits: Limits, demands: Demands | None = None) -> Verdict:
    """Balance the ledger.

    Args:
        entries: complete: all faults healed, and the queues drained.
        limits: of the workers.
        demands: what the run has to show; None where it is a scene of a few tasks.
    """
    answers = _answers(entries.submissions)
    by_answer = {answer: frozenset(task for task, its in answers.items() if its is answer) for answer in Answer}
    completed = frozenset(run.task for run in entries.runs if run.completed)
    dead = frozenset(death.task for death in entries.deaths)
    touched = dead | {run.task for run in entries.runs}
    runs = _by_task(entries.runs)
    return Verdict(
        confirmed=by_answer[Answer.CONFIRMED],
        refused=by_answer[Answer.REFUSED],
        unknown=by_answer[Answer.UNKNOWN],
        completed=completed,
        dead=dead,
        lost=by_answer[Answer.CONFIRMED] - completed - dead,
        unexpected=frozenset(touched - answers.keys()),
        belied=by_answer[Answer.REFUSED] & touched,
        duplicates=_duplicates(entries, runs, limits),
        interruptions=_interruptions(entries, runs, limits),
        burials=tuple(_burials(entries, runs, limits)),
        failures=(*entries.failures, *(_shortcomings(entries, demands) if demands is not None else ())),
        reasons=_reasons(entries),
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


def _by_task(runs: Iterable[Run]) -> dict[str, list[Run]]:
    """Each task's runs, in the order of their beginnings."""
    found: dict[str, list[Run]] = defaultdict(list)
    for run in sorted(runs, key=lambda run: run.started):
        found[run.task].append(run)
    return found


def _duplicates(entries: Entries, runs: Mapping[str, Sequence[Run]], limits: Limits) -> tuple[Surplus, ...]:
    ends: dict[str, list[_End]] = defaultdict(list)
    for run in entries.runs:
        if run.completed:
            over = (run.started if run.ended is None else run.ended) + ACK_LIMIT
            ends[run.task].append(_End(run.worker, run.started, over, Harm.REPEATED))
    for death in entries.deaths:
        last = _last_run(runs, death)
        began = death.at - limits.task if last is None else last.started
        # The letter is published just after its time, its confirm is waited for, and then the task is acknowledged.
        over = death.at + limits.letter + ACK_LIMIT
        ends[death.task].append(_End("" if last is None else last.worker, began, over, Harm.DIED_TWICE))
    found = []
    for task, its in sorted(ends.items()):
        for first, second in pairwise(sorted(its, key=lambda end: end.began)):
            # A letter that is published again may belong to the same last run: then only the limit is known.
            until = min(second.began, first.over) if second.began > first.began else first.over
            surplus = _surplus(task, first.harm, first.worker, (first.began, until), entries.faults)
            if surplus.cause is None:
                surplus = replace(surplus, cause=_held_up(first, second, entries.faults))
            found.append(surplus)
    return tuple(found)


def _held_up(first: _End, second: _End, faults: Iterable[Fault]) -> Fault | None:
    """What held up the worker that was the second to begin: it had the task before the first was given it.

    A worker that stands still is given up, and another does its tasks. When it goes on, it begins with what it finds in
    its socket, before it learns that its connection is gone.
    """
    for fault in faults:
        is_its_own = fault.workers is not None and second.worker in fault.workers and first.harm in fault.harms
        if is_its_own and fault.began <= first.began and second.began <= fault.ended + fault.echo:
            return fault
    return None


def _last_run(runs: Mapping[str, Sequence[Run]], death: Death) -> Run | None:
    """The run that a task died of: the last of the worker that buried it."""
    its = _runs_until(runs, death)
    own = [run for run in its if run.worker == death.worker]
    return max(own or its, key=lambda run: run.started, default=None)


def _runs_until(runs: Mapping[str, Sequence[Run]], death: Death) -> list[Run]:
    return [run for run in runs.get(death.task, ()) if run.started <= death.at + ROUNDING]


def _interruptions(entries: Entries, runs: Mapping[str, Sequence[Run]], limits: Limits) -> tuple[Surplus, ...]:
    last_start: dict[str, float] = {}
    for run in entries.runs:
        last_start[run.worker] = max(run.started, last_start.get(run.worker, run.started))
    found = []
    for task, its in runs.items():
        for run, following in zip(its, [*its[1:], None], strict=True):
            if run.ended is None and not run.doomed:
                # Past its limits a run has been ended by its own worker.
                until = run.started + limits.task + limits.letter
                if following is not None:
                    until = min(until, following.started)
                # A lost connection alone ends a run only in a worker that is asked to go, and that takes no other task.
                went_on = last_start[run.worker] > run.started + limits.task
                faults = [fault for fault in entries.faults if fault.workers is not None or not went_on]
                found.append(_surplus(task, Harm.INTERRUPTED, run.worker, (run.started, until), faults))
    return tuple(found)


def _burials(entries: Entries, runs: Mapping[str, Sequence[Run]], limits: Limits) -> Iterable[str]:
    """What is wrong with dead letters: why their tasks died, and how soon."""
    sent = {one.id: one for one in reversed(entries.submissions)}
    for death in entries.deaths:
        task = sent.get(death.task)
        if task is None:
            continue  # told of already: nobody has submitted it
        its = _runs_until(runs, death)
        if death.reason not in OWN_REASONS.get(task.kind, ()):
            last = _last_run(runs, death)
            if death.reason != KILLED or last is None or not _was_hit(last, death, entries.faults):
                yield f"task {death.task} ({task.kind}) is dead because of {death.reason or NO_REASON}"
        due = 1 if task.kind in AT_ONCE else limits.attempts
        # A delivery that is lost before its handler begins counts as an attempt, too; whose it was nobody knows.
        if len(its) < due and not any(
            Harm.INTERRUPTED in fault.harms and fault.began <= death.at and task.sent <= fault.ended + fault.echo
            for fault in entries.faults
        ):
            so_far = f"after {len(its)} of {due} attempts"
            yield f"task {death.task} ({task.kind}) was buried {so_far}, and no fault explains it"


def _was_hit(run: Run, death: Death, faults: Iterable[Fault]) -> bool:
    """Whether something that kills handlers hit this very worker between the beginning of the run and the death."""
    return any(
        fault.workers is not None and fault.explains(Harm.INTERRUPTED, run.worker, run.started, death.at)
        for fault in faults
    )


def _reasons(entries: Entries) -> dict[tuple[str, str], int]:
    kinds = {one.id: one.kind for one in entries.submissions}
    counts = Counter((kinds.get(death.task, "unknown"), death.reason) for death in entries.deaths)
    return dict(sorted(counts.items()))


def _shortcomings(entries: Entries, demands: Demands) -> Iterable[str]:
    """A sentence for all that a run would have to show and does not."""
    completed = {run.task for run in entries.runs if run.completed}
    confirmed = [one for one in entries.submissions if one.answer is Answer.CONFIRMED]
    for queue in sorted(demands.queues):
        tasks = [one.id for one in confirmed if one.queue == queue and one.sent >= demands.well]
        if not tasks:
            yield f"queue {queue} takes no task, and all is well again"
        elif not completed.intersection(tasks):
            yield f"queue {queue} takes tasks, and none is done, and all is well again"
    for before, after in outages(entries.submissions, LONGEST_OUTAGE):
        yield f"nothing was confirmed for {after - before:.0f} s: more than {LONGEST_OUTAGE:.0f} s must not be"
    least = CONFIRMED_A_MINUTE * demands.minutes
    if len(confirmed) < least:
        yield f"{len(confirmed)} tasks were confirmed, and less than {least:.0f} are too few to judge by"
    if not entries.deaths:
        yield "nothing died, and some tasks are meant to"
    yield from (f"{kind} never came" for kind in sorted(demands.kinds - {fault.kind for fault in entries.faults}))


def _surplus(task: str, harm: Harm, worker: str, span: tuple[float, float], faults: Iterable[Fault]) -> Surplus:
    """With the fault that explains it best: one that met this very worker, else the nearest to the beginning."""
    began, until = span
    fitting = [fault for fault in faults if fault.explains(harm, worker, began, until)]
    cause = max(fitting, key=lambda fault: (fault.workers is not None, -abs(fault.began - began)), default=None)
    return Surplus(task, harm, worker, began, until, cause)


def outages(submissions: Collection[Submission], shortest: float) -> list[tuple[float, float]]:
    """The spans of at least so many seconds in which clients had tasks to send and none was confirmed."""
    confirms = sorted(
        one.answered for one in submissions if one.answer is Answer.CONFIRMED and one.answered is not None
    )
    if not submissions:
        return []
    first, last = min(one.sent for one in submissions), max(one.sent for one in submissions)
    marks = [first, *confirms, max(last, confirms[-1] if confirms else first)]
    found = []
    for before, after in pairwise(marks):
        if after - before < shortest:
            continue
        # Where nobody asks, nobody goes without: an outage begins with the first task that waited in it.
        waiting = (one for one in submissions if one.sent >= before or (one.answered or 0) > before)
        waited = min((one.sent for one in waiting), default=before)
        began = max(before, waited)
        if after - began >= shortest:
            found.append((began, after))
    return found


def covered(faults: Iterable[Fault], harm: Harm, began: float, ended: float) -> float:
    """The share of this span in which some fault may do this to the tasks of all workers, and so explains it in any."""
    spans = sorted(
        (max(fault.began, began), min(fault.ended + fault.echo, ended))
        for fault in faults
        if fault.workers is None and harm in fault.harms
    )
    total, reached = 0.0, began
    for start, end in spans:
        total += max(0.0, end - max(start, reached))
        reached = max(reached, end)
    return total / (ended - began) if ended > began else 0.0
