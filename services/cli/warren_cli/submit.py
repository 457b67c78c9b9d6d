"""`warren submit`: tasks from words, a file or standard input, many in one request."""

import argparse
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain, repeat
from pathlib import Path
from typing import BinaryIO, NamedTuple

from warren_cli.client import BATCH_BYTES, BATCH_TASKS, Abandoned, Client, TaskOptions, WarrenError

TEXT = "text/plain; charset=utf-8"
BYTES = "application/octet-stream"

FEW = 20
"""Tasks, or runs of them with the same error, that are named one by one."""


class UsageError(WarrenError):
    """The command line asks for something that does not fit together."""


class Interrupted(WarrenError):
    """Submitting ended before the last task; the message says why and how far it came.

    Attributes:
        details: lines on single tasks, and on where to go on.
        by_user: nothing went wrong: the user ended it.
    """

    def __init__(self, message: str, details: Sequence[str] = (), *, by_user: bool = False) -> None:
        super().__init__(message)
        self.details = tuple(details)
        self.by_user = by_user


class Unwritable(Interrupted):
    """The ids of tasks that were submitted could not be shown: whoever read them has gone, or the disk is full."""


class _Task(NamedTuple):
    """One of several tasks, and where it stands in the input: its line from 1; None where it is no line of one."""

    body: bytes
    line: int | None = None


class _Place(NamedTuple):
    """A task's number, from 1, blank lines not counted, and its line, blank lines counted."""

    number: int
    line: int | None


def submit(
    args: argparse.Namespace, client: Client, stdin: BinaryIO, *, terminal: bool, show: Callable[[str], None]
) -> int:
    """Submit what the command line says and return the number of tasks.

    Args:
        args: of the command line.
        client: of the producer.
        stdin: standard input.
        terminal: standard input is a terminal, where nobody expects to be read from.
        show: prints an id, in the order of the tasks.

    Raises:
        WarrenError: as it is from `Client.submit`; of several tasks, those whose ids were shown are submitted.
        Interrupted: not all of several tasks were accepted, or the user ended it while some were on their way.
        Unwritable: `show` raised OSError.
    """
    tasks, several, content_type = _tasks(args, stdin, terminal=terminal)
    if args.id is not None and several:
        raise UsageError("--id names one task: leave it out to submit several")
    options = TaskOptions(
        id=args.id,
        content_type=args.content_type or content_type,
        type=args.type,
        priority=args.priority,
        expiration=args.expiration,
        correlation_id=args.correlation_id,
        headers=dict(args.header),
    )
    try:
        options.http_headers("check")
    except ValueError as error:
        raise UsageError(f"--header: {error}") from error
    if several:
        return _submit_all(tasks, client, args.queue, options, show)
    try:
        task_id = client.submit(next(tasks).body, args.queue, options)
    except Abandoned as error:
        if not error.ids:
            raise
        stopped = Interrupted("interrupted: the task may have been accepted", by_user=True)
        (stopped.id,) = error.ids
        raise stopped from error
    try:
        show(task_id)
    except OSError as error:
        raise Unwritable(
            f"the task was submitted, but its id {task_id} could not be shown: {error.strerror}"
        ) from error
    return 1


def _submit_all(
    tasks: Iterator[_Task], client: Client, queue: str, options: TaskOptions, show: Callable[[str], None]
) -> int:
    """In batches, shown in order; the first error ends it, once its batch has its answers."""
    done = 0
    last: _Place | None = None
    """Of those that were tried."""
    untold: deque[_Place] = deque()
    """Those of the batch whose outcome is not known here yet."""
    failures: list[tuple[_Place, WarrenError]] = []
    in_doubt: list[tuple[_Place, str]] = []
    hidden: tuple[_Place, OSError] | None = None
    """From which on no id could be shown, and why."""
    try:
        for several in _at_hand(tasks):
            first = 1 if last is None else last.number + 1
            untold.extend(_Place(number, task.line) for number, task in enumerate(several, first))
            last = untold[-1]
            for submitted in client.submit_many((task.body for task in several), queue, options):
                place = untold[0]
                if submitted.error is None:
                    done += 1
                    hidden = hidden or _show(submitted.id, place, show)
                elif submitted.error.id is not None:
                    in_doubt.append((place, submitted.id))
                if submitted.error is not None:
                    failures.append((place, submitted.error))
                untold.popleft()
            if failures or hidden is not None:
                break
    except KeyboardInterrupt as error:
        if last is None:
            raise
        ids = error.ids if isinstance(error, Abandoned) else None
        details = [*_refused(failures, skip=0), *_doubts(in_doubt), *_on_their_way(untold, ids), _nothing_after(last)]
        raise Interrupted(f"interrupted ({_submitted(done)})", details, by_user=True) from error
    if last is None or not (failures or hidden):
        return done
    if hidden is not None:
        place, unwritable = hidden
        details = [*_refused(failures, skip=0), *_doubts(in_doubt), _nothing_after(last)]
        raise Unwritable(
            f"no id could be shown from {_named([place])} on: {unwritable.strerror} ({done} tasks were submitted)",
            details,
        ) from unwritable
    (places, cause), *_ = _runs(failures)
    details = [*_refused(failures, skip=len(places)), *_doubts(in_doubt), _nothing_after(last)]
    raise Interrupted(f"{_named(places)}: {cause} ({_submitted(done)})", details) from cause


def _show(task_id: str, place: _Place, show: Callable[[str], None]) -> tuple[_Place, OSError] | None:
    """Show the id of a task; if that cannot be done, the task's place, and why."""
    try:
        show(task_id)
    except OSError as error:
        return place, error
    return None


def _runs(failures: Iterable[tuple[_Place, WarrenError]]) -> list[tuple[list[_Place], WarrenError]]:
    """Failures together that follow on each other for the same reason: of a batch that nobody took, all of them."""
    runs: list[tuple[list[_Place], WarrenError]] = []
    for place, error in failures:
        if runs and str(runs[-1][1]) == str(error) and runs[-1][0][-1].number == place.number - 1:
            runs[-1][0].append(place)
        else:
            runs.append(([place], error))
    return runs


def _refused(failures: Sequence[tuple[_Place, WarrenError]], *, skip: int) -> Iterator[str]:
    """What to say of those that were surely not accepted, after the first `skip` ones."""
    runs = _runs((place, error) for place, error in failures[skip:] if error.id is None)
    for places, error in runs[:FEW]:
        yield f"  {_named(places)}: {error}"
    if rest := sum(len(places) for places, _ in runs[FEW:]):
        yield f"  … and {rest} tasks more were not accepted"


def _doubts(in_doubt: Sequence[tuple[_Place, str]]) -> Iterator[str]:
    """What to say of those that may have been accepted."""
    if in_doubt:
        yield "These may have been accepted; to submit one of them again, do it under its id:"
        for place, task_id in in_doubt:
            yield f"  {_named([place])}: --id {task_id}"


def _on_their_way(untold: Sequence[_Place], ids: Sequence[str] | None) -> Iterator[str]:
    """What to say of those whose outcome was not known when the user ended it.

    Args:
        untold: all of them.
        ids: of those that may have been accepted; None where nobody knows.
    """
    if not untold or (ids is not None and not ids):
        return
    which = _named(untold)
    if ids is None:
        yield f"May have been accepted: {which}"
    elif len(ids) > FEW:
        yield f"May have been accepted: {len(ids)} of {which}, the first with the id {ids[0]}, the last {ids[-1]}"
    elif len(ids) == len(untold):
        yield from _doubts(list(zip(untold, ids, strict=True)))
    else:
        yield f"May have been accepted: of {which} those with the ids {', '.join(ids)}"


def _nothing_after(last: _Place) -> str:
    where = "" if last.line is None else f" (line {last.line} of the input)"
    return f"Nothing after task {last.number}{where} was tried."


def _submitted(count: int) -> str:
    return f"{count} tasks were submitted; their ids are above"


def _named(places: Sequence[_Place]) -> str:
    """Tasks that follow on each other, with their lines where these have other numbers."""
    first, last = places[0], places[-1]
    several = len(places) > 1
    text = f"tasks {first.number} to {last.number}" if several else f"task {first.number}"
    if last.line is None or (first.line, last.line) == (first.number, last.number):
        return text
    return f"{text} (lines {first.line} to {last.line})" if several else f"{text} (line {first.line})"


class _Ahead:
    """Tasks that were read and are not taken yet: few, and no more bytes than a batch, unless one alone has more."""

    def __init__(self) -> None:
        self._items: deque[_Task | BaseException | None] = deque()
        self._size = 0
        self._changed = threading.Condition()

    def put(self, item: _Task | BaseException | None) -> None:
        """Add a task, what ended the reading, or None at its end; waits for room."""
        size = _size(item)
        with self._changed:
            while self._items and (len(self._items) >= BATCH_TASKS or self._size + size > BATCH_BYTES):
                self._changed.wait()
            self._items.append(item)
            self._size += size
            self._changed.notify_all()

    def get(self) -> _Task | BaseException | None:
        """The oldest; waits for one."""
        with self._changed:
            while not self._items:
                self._changed.wait()
            item = self._items.popleft()
            self._size -= _size(item)
            self._changed.notify_all()
            return item

    def empty(self) -> bool:
        """Whether the next one would be waited for."""
        return not self._items


def _size(item: _Task | BaseException | None) -> int:
    return len(item.body) if isinstance(item, _Task) else 0


def _at_hand(tasks: Iterator[_Task]) -> Iterator[list[_Task]]:
    """The tasks in lists of what is there already, so that those of a slow pipe are submitted as they come."""
    ahead = _Ahead()

    def read() -> None:
        try:
            for task in tasks:
                ahead.put(task)
        except BaseException as error:  # noqa: BLE001  raised again by whoever waits for the tasks
            ahead.put(error)
        else:
            ahead.put(None)

    # A daemon: it may wait for a pipe, or for room, that never comes.
    threading.Thread(target=read, name="read", daemon=True).start()
    while True:
        several: list[_Task] = []
        size = 0
        item = ahead.get()
        while isinstance(item, _Task):
            several.append(item)
            size += len(item.body)
            if len(several) == BATCH_TASKS or size >= BATCH_BYTES or ahead.empty():
                break
            item = ahead.get()
        if several:
            yield several
        if isinstance(item, BaseException):
            raise item
        if item is None:
            return


def _tasks(args: argparse.Namespace, stdin: BinaryIO, *, terminal: bool) -> tuple[Iterator[_Task], bool, str]:
    """The tasks, whether they may be several, and their content type."""
    if args.text and args.file is not None:
        raise UsageError("give the task as words or with --file, not both")
    if args.text and args.lines:
        raise UsageError("--lines reads a file or standard input: leave the words out")
    if args.text:
        body = " ".join(args.text).encode("utf-8", "surrogateescape")
        return repeat(_Task(body), args.repeat), args.repeat > 1, TEXT
    if args.file is None and terminal:
        raise UsageError('say what to submit: warren submit "Hello...", or --file F, or pipe it in')
    source = None if args.file in {None, "-"} else Path(args.file)
    if args.lines:
        if args.repeat > 1 and source is None:
            raise UsageError("standard input can be read once only: --repeat needs --file F")
        return chain.from_iterable(_lines(source, stdin) for _ in range(args.repeat)), True, TEXT
    body = _read(source, stdin)
    return repeat(_Task(body), args.repeat), args.repeat > 1, TEXT if source is None else BYTES


def _read(source: Path | None, stdin: BinaryIO) -> bytes:
    if source is None:
        return stdin.read()
    try:
        return source.read_bytes()
    except OSError as error:
        raise UsageError(f"cannot read {source}: {error.strerror}") from error


def _lines(source: Path | None, stdin: BinaryIO) -> Iterator[_Task]:
    """The lines without their ends, as they come."""
    try:
        with stdin if source is None else source.open("rb") as file:
            for number, line in enumerate(file, 1):
                if line.strip():
                    yield _Task(line.rstrip(b"\r\n"), number)
    except OSError as error:
        raise UsageError(f"cannot read {source}: {error.strerror}") from error
