"""`warren submit`: tasks from words, a file or standard input, many in one request."""

import argparse
import itertools
import threading
from collections.abc import Callable, Iterator, Sequence
from itertools import chain, repeat
from pathlib import Path
from queue import Queue
from typing import BinaryIO

from warren_cli.client import BATCH_BYTES, BATCH_TASKS, Client, TaskOptions, WarrenError

TEXT = "text/plain; charset=utf-8"
BYTES = "application/octet-stream"


class UsageError(WarrenError):
    """The command line asks for something that does not fit together."""


class Interrupted(WarrenError):
    """Submitting many tasks ended before the last one; the message says how far it came.

    Attributes:
        in_doubt: number, from 1, and id of each task that may have been accepted, and was not shown.
    """

    def __init__(self, message: str, in_doubt: Sequence[tuple[int, str]]) -> None:
        super().__init__(message)
        self.in_doubt = tuple(in_doubt)


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
    """
    bodies, several, content_type = _bodies(args, stdin, terminal=terminal)
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
    if not several:
        for body in bodies:
            show(client.submit(body, args.queue, options))
        return 1
    return _submit_all(bodies, client, args.queue, options, show)


def _submit_all(
    bodies: Iterator[bytes], client: Client, queue: str, options: TaskOptions, show: Callable[[str], None]
) -> int:
    """In batches, shown in order; the first error ends it, once its batch has its answers."""
    done = 0
    failure: WarrenError | None = None
    in_doubt: list[tuple[int, str]] = []
    number = itertools.count(1)
    for several in _at_hand(bodies):
        for submitted in client.submit_many(several, queue, options):
            place = next(number)
            if submitted.error is None:
                show(submitted.id)
                done += 1
                continue
            failure = failure or submitted.error
            if submitted.error.id is not None:
                in_doubt.append((place, submitted.id))
        if failure is not None:
            message = f"{failure} ({done} tasks were submitted; their ids are above)"
            raise Interrupted(message, in_doubt) from failure
    return done


def _at_hand(bodies: Iterator[bytes]) -> Iterator[list[bytes]]:
    """The tasks in lists of what is there already, so that those of a slow pipe are submitted as they come."""
    ahead: Queue[bytes | BaseException | None] = Queue(BATCH_TASKS)

    def read() -> None:
        try:
            for body in bodies:
                ahead.put(body)
        except BaseException as error:  # noqa: BLE001  raised again by whoever waits for the tasks
            ahead.put(error)
        else:
            ahead.put(None)

    # A daemon: it may wait for a pipe, or for room, that never comes.
    threading.Thread(target=read, name="read", daemon=True).start()
    while True:
        several: list[bytes] = []
        size = 0
        item = ahead.get()
        while isinstance(item, bytes):
            several.append(item)
            size += len(item)
            if len(several) == BATCH_TASKS or size >= BATCH_BYTES or ahead.empty():
                break
            item = ahead.get()
        if several:
            yield several
        if isinstance(item, BaseException):
            raise item
        if item is None:
            return


def _bodies(args: argparse.Namespace, stdin: BinaryIO, *, terminal: bool) -> tuple[Iterator[bytes], bool, str]:
    """The tasks, whether they may be several, and their content type."""
    if args.text and args.file is not None:
        raise UsageError("give the task as words or with --file, not both")
    if args.text and args.lines:
        raise UsageError("--lines reads a file or standard input: leave the words out")
    if args.text:
        body = " ".join(args.text).encode("utf-8", "surrogateescape")
        return repeat(body, args.repeat), args.repeat > 1, TEXT
    if args.file is None and terminal:
        raise UsageError('say what to submit: warren submit "Hello...", or --file F, or pipe it in')
    source = None if args.file in {None, "-"} else Path(args.file)
    if args.lines:
        if args.repeat > 1 and source is None:
            raise UsageError("standard input can be read once only: --repeat needs --file F")
        return chain.from_iterable(_lines(source, stdin) for _ in range(args.repeat)), True, TEXT
    body = _read(source, stdin)
    return repeat(body, args.repeat), args.repeat > 1, TEXT if source is None else BYTES


def _read(source: Path | None, stdin: BinaryIO) -> bytes:
    if source is None:
        return stdin.read()
    try:
        return source.read_bytes()
    except OSError as error:
        raise UsageError(f"cannot read {source}: {error.strerror}") from error


def _lines(source: Path | None, stdin: BinaryIO) -> Iterator[bytes]:
    """The lines without their ends, as they come."""
    try:
        with stdin if source is None else source.open("rb") as file:
            for line in file:
                if line.strip():
                    yield line.rstrip(b"\r\n")
    except OSError as error:
        raise UsageError(f"cannot read {source}: {error.strerror}") from error
