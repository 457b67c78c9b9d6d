"""Run a program with a limit, and say clearly what went wrong when it fails."""

import os
import shlex
import signal
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

TAIL_LINES = 25
"""Lines of a failed program's output that its error shows: enough for a stack trace or a build error."""


class ToolError(Exception):
    """Something a person has to know; its text says what happened, to what, and what to do.

    The commands print it without a traceback.
    """


class CommandError(ToolError):
    """A program could not be started, failed, or took longer than it was given."""


@dataclass(frozen=True)
class Result:
    """What a program left behind."""

    code: int
    stdout: str
    stderr: str


def line(argv: Sequence[str | Path]) -> str:
    """The command as it would be typed."""
    return shlex.join(str(part) for part in argv)


def run(  # noqa: PLR0913 - the options of a program's run, by name only
    argv: Sequence[str | Path],
    *,
    limit: float,
    check: bool = True,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    stdin: str | None = None,
    hint: str = "",
) -> Result:
    """Run a program and wait for it at most `limit` seconds; then it and its children are killed.

    `env` is added to the environment, not put in its place. `hint` ends the error's text: what to do.

    Raises:
        CommandError: it is not there, was too slow, or (with `check`) ended with a code other than 0.
    """
    words = [str(part) for part in argv]
    try:
        # Its own session: the limit then reaches its children too, and Ctrl-C is ours to pass on.
        process = subprocess.Popen(
            words,
            stdin=subprocess.PIPE if stdin is not None else subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=cwd,
            env={**os.environ, **env} if env is not None else None,
            text=True,
            errors="replace",
            start_new_session=True,
        )
    except OSError as error:
        raise CommandError(_sentence(f"`{line(argv)}` could not be started: {error}", "", hint)) from error
    with process:
        try:
            stdout, stderr = process.communicate(stdin, timeout=limit)
        except subprocess.TimeoutExpired:
            stdout, stderr = _kill(process)
            happened = f"`{line(argv)}` did not end within {limit:g} s and was stopped"
            raise CommandError(_sentence(happened, stderr or stdout, hint)) from None
        except BaseException:
            _kill(process)
            raise
    if check and process.returncode != 0:
        happened = f"`{line(argv)}` ended with code {process.returncode}"
        raise CommandError(_sentence(happened, stderr or stdout, hint))
    return Result(process.returncode, stdout, stderr)


def _kill(process: subprocess.Popen[str]) -> tuple[str, str]:
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    try:
        # A child that left the session may hold the pipes open: do not wait for it for ever.
        return process.communicate(timeout=5)
    except subprocess.TimeoutExpired:
        return "", ""


def _sentence(happened: str, output: str, hint: str) -> str:
    tail = output.strip().splitlines()[-TAIL_LINES:]
    shown = "".join(f"\n    {text}" for text in tail)
    return happened + (":" + shown if shown else "") + (f"\n{hint}" if hint else "")
