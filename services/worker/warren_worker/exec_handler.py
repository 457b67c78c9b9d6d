"""The handler `exec`: a program for each task. The payload on its stdin, all else in its environment; its exit code
decides.

0 is success, 65 (`EX_DATAERR` of sysexits.h: the input was wrong) a failure that no further attempt can mend, anything
else, death by a signal included, a failure that may be tried again.
"""

import json
import logging
import os
import select
import shlex
import signal
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from functools import partial
from typing import IO, Any

from warren_contract.settings import setting
from warren_worker.attempt import Explained, TimeLimit
from warren_worker.handler_error import HandlerError
from warren_worker.lifecycle import reap
from warren_worker.processes import adopt_orphans, die_with, kill_descendants, kill_family, kill_group
from warren_worker.task import Handler, PermanentError, Task

log = logging.getLogger(__name__)

COMMAND = "WARREN_EXEC_COMMAND"

PERMANENT_EXIT = 65
"""`EX_DATAERR`."""

MARGIN = 0.5
"""Seconds before the task's deadline at which the program is killed, so that its last words are still told. The
worker's own time limit follows at the deadline, whatever happens here."""

MAX_LOGGED = 65_536
"""Bytes of a program's output that are logged for one task; the rest is read, counted and dropped."""

TAIL = 8_192
"""Bytes of its stderr, the last ones, that a dead letter carries."""

MAX_HEADERS = 65_536
"""Bytes of the task's headers as JSON; Linux takes at most 131,072 in one variable."""

READ_SIZE = 65_536

LONGEST_WAIT = 3600.0
"""Seconds between two looks at the clock: poll(2) cannot count to the longest time limit, a year."""


class ProgramFailed(Explained):
    """The program ended with another exit code than 0."""


class ProgramRefused(ProgramFailed, PermanentError):
    """The program ended with the exit code that says: never again."""


def make(environ: Mapping[str, str]) -> Handler:
    """The handler for the command in `WARREN_EXEC_COMMAND`.

    Raises:
        SettingError: the command is missing or is no command.
        HandlerError: the program is not there.
    """
    command = setting(environ, COMMAND, parse_command)
    path = environ.get("PATH", os.defpath)
    if not any(map(_may_be_run, _candidates(command[0], path))):
        raise HandlerError(
            f"{COMMAND}: there is no program {command[0]!r} that may be run: is it in the image and on PATH?"
        )
    inherited = {name: value for name, value in environ.items() if not name.startswith("WARREN_")}
    queue = environ.get("WARREN_QUEUE", "")

    def run(task: Task) -> None:
        _Run(command, {**inherited, **variables(task, queue)}, task).finish()

    return run


def parse_command(text: str) -> list[str]:
    """`["convert", "-", "png:-"]` as JSON, or words as in a shell; there is no shell.

    Raises:
        ValueError: it is neither.
    """
    if text.lstrip().startswith("["):
        try:
            read = json.loads(text)
        except ValueError as error:
            raise ValueError(f"it begins like a JSON array and is none: {error}") from error
        words = [word for word in read if isinstance(word, str)]
        if words != read:
            raise ValueError('write a JSON array of texts, such as ["convert", "-", "png:-"]')
    else:
        words = shlex.split(text)
    if not words or not words[0] or any("\0" in word for word in words):
        raise ValueError('write a program and its arguments, such as ["convert", "-", "png:-"]')
    return words


def variables(task: Task, queue: str) -> dict[str, str]:
    """What a program is told about its task besides the payload.

    Raises:
        PermanentError: the headers are too long for the environment.
    """
    headers = json.dumps({name: plain(value) for name, value in task.headers.items()}, ensure_ascii=False)
    if len(headers.encode("utf-8", "replace")) > MAX_HEADERS:
        raise PermanentError(f"the task's headers are longer than the {MAX_HEADERS} bytes that a program can be given")
    told = {
        "ID": task.id,
        "ATTEMPT": str(task.attempt),
        "DEADLINE": f"{task.deadline:.3f}",
        "QUEUE": queue,
        "TYPE": task.type,
        "CONTENT_TYPE": task.content_type,
        "CORRELATION_ID": task.correlation_id,
        "SUBMITTED_AT": str(task.submitted_at),
        "HEADERS": headers,
    }
    return {
        f"WARREN_TASK_{name}": value.replace("\0", "\N{REPLACEMENT CHARACTER}").encode("utf-8", "replace").decode()
        for name, value in told.items()
        if value is not None
    }


def plain(value: Any) -> Any:
    """A header's value as JSON knows it: bytes as text, dates in ISO 8601, other things as their text."""
    if isinstance(value, dict):
        return {name if isinstance(name, str) else str(plain(name)): plain(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [plain(inner) for inner in value]
    if isinstance(value, bytes):
        return value.decode("utf-8", "backslashreplace")
    return value if value is None or isinstance(value, str | bool | int) else str(value)


def _candidates(program: str, path: str) -> list[str]:
    return [program] if "/" in program else [os.path.join(folder, program) for folder in path.split(os.pathsep)]  # noqa: PTH118  the kernel's own rule


def _may_be_run(path: str) -> bool:
    return os.path.isfile(path) and os.access(path, os.X_OK)  # noqa: PTH113  Path's raises where nobody may look


class _Run:
    """One run of the program, in a process group of its own.

    It ends when the program does: a process that it left behind is killed, and does not keep the task by holding its
    pipes open. In a process of the handler's own that is so whatever sessions there are and whoever has become an
    orphan. In a thread only the program's group is sure to be found, and at the time limit all that descends from it.
    Should this process die first, the program does, too, and the fork server ends all else of its session.
    """

    def __init__(self, command: Sequence[str], environment: Mapping[str, str], task: Task) -> None:
        self._task = task
        self._alone = _alone()
        if self._alone:
            adopt_orphans()
        left = max(0.0, task.deadline - time.time())
        # From here on by a clock that is never set: no program is killed because the time was put right.
        self._limit = time.monotonic() + left - min(MARGIN, left / 10)
        self._tail = b""
        self._logged = 0
        self._dropped = 0
        self._lines: dict[int, bytes] = {}
        # A file that has no name: the program reads at its own pace, or not at all, and nobody waits for it.
        with os.fdopen(os.memfd_create("payload"), "w+b") as payload:
            payload.write(task.body)
            payload.seek(0)
            self._process = subprocess.Popen(
                command,
                env=environment,
                stdin=payload,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                process_group=0,
                # Nothing but this thread runs here, and the library was loaded before: the fork is safe.
                preexec_fn=partial(die_with, os.getpid()),  # noqa: PLW1509
                bufsize=0,
            )

    def finish(self) -> None:
        """Read its output until it ends.

        Raises:
            ProgramFailed, TimeLimit: it did not end well.
        """
        process = self._process
        assert process.stdout is not None  # noqa: S101  for the type checker: both are pipes
        assert process.stderr is not None  # noqa: S101
        ended_itself = False
        try:
            ended_itself = self._read_until_the_end(process.stdout, process.stderr)
        finally:
            # Before it is reaped its number cannot belong to anybody else: end what it left running.
            if self._alone:
                kill_descendants(os.getpid())
                kill_group(process.pid)
            else:
                kill_family(process.pid)
            code = process.wait()
            if self._alone:
                reap()
            for pipe in (process.stdout, process.stderr):
                self._read(pipe, pipe is process.stderr)
                self._log(self._lines.pop(pipe.fileno(), b""))
                pipe.close()
            if self._dropped:
                log.warning("%d bytes more of its output are left out", self._dropped)
        tail = self._tail.decode("utf-8", "replace")
        if not ended_itself:
            raise TimeLimit("the program did not end within the time limit and was killed", tail)
        if code == PERMANENT_EXIT:
            raise ProgramRefused(f"the program ended with exit code {code}: not to be tried again", tail)
        if code:
            raise ProgramFailed(describe(code), tail)

    def _read_until_the_end(self, out: IO[bytes], err: IO[bytes]) -> bool:
        """Whether it ended by itself."""
        poll = select.poll()
        ended = os.pidfd_open(self._process.pid)
        try:
            poll.register(ended, select.POLLIN)
            for pipe in (out, err):
                os.set_blocking(pipe.fileno(), False)
                poll.register(pipe, select.POLLIN)
            while True:
                left = self._limit - time.monotonic()
                ready = poll.poll(min(LONGEST_WAIT, max(0.0, left)) * 1000)
                for fd, _events in ready:
                    if fd == ended:
                        return True
                    if not self._read(err if fd == err.fileno() else out, fd == err.fileno()):
                        poll.unregister(fd)
                if left <= 0:
                    return False
        finally:
            os.close(ended)

    def _read(self, pipe: IO[bytes], is_error: bool) -> bool:
        """Read what is there, at most a pipe's worth; False at the end."""
        try:
            data = pipe.read(READ_SIZE)
        except OSError:
            return False
        if not data:
            return data is None
        if is_error:
            self._tail = (self._tail + data)[-TAIL:]
        whole, newline, rest = (self._lines.pop(pipe.fileno(), b"") + data).rpartition(b"\n")
        if newline:
            for line in whole.split(b"\n"):
                self._log(line)
        if len(rest) > MAX_LOGGED:  # a line without end
            self._log(rest)
            rest = b""
        self._lines[pipe.fileno()] = rest
        return True

    def _log(self, line: bytes) -> None:
        if not line:
            return
        room = MAX_LOGGED - self._logged
        if room > 0:
            self._logged += len(line[:room])
            log.info("%s", line[:room].decode("utf-8", "replace"))
        self._dropped += max(0, len(line) - max(0, room))


def _alone() -> bool:
    """Whether this is a handler's process, in which nothing but this run has started anything.

    Those lead sessions of their own. So may a worker, as a container's first process, but handlers run in its threads.
    """
    return os.getsid(0) == os.getpid() and threading.current_thread() is threading.main_thread()


def describe(code: int) -> str:
    """A program's end for people; negative numbers are signals, as `subprocess` gives them."""
    if code > 0:
        return f"the program ended with exit code {code}"
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = f"signal {-code}"
    hint = ": perhaps it needed more memory than it may use" if -code == signal.SIGKILL else ""
    return f"the program was killed by {name}{hint}"
