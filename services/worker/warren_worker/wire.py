"""How the worker and its handler processes talk: frames over a Unix stream socket.

To a child: a length and a pickled tuple of plain values, a task at a time. From a child: a kind, a length and JSON; the
worker never unpickles what a handler's process wrote. To and from the fork server: JSON lines, and descriptors beside.
"""

import json
import pickle
import struct
from dataclasses import dataclass
from typing import Any

from warren_worker.executor import Job
from warren_worker.task import Progress, Task
from warren_worker.verdict import DONE, Done, Failed

_JOB_HEAD = struct.Struct("!I")
_ANSWER_HEAD = struct.Struct("!BI")

KIND_DONE, KIND_FAILED, KIND_PROGRESS, KIND_LEAVING = 0, 1, 2, 3

MAX_ANSWER = 262_144
"""Bytes in an answer: exception, message and traceback have 14,200 characters at most (see `attempt`), each up to 12
bytes as JSON writes it in ASCII; what claims to be longer is not ours."""

DONE_FRAME = _ANSWER_HEAD.pack(KIND_DONE, 0)

LEAVING_FRAME = _ANSWER_HEAD.pack(KIND_LEAVING, 0)
"""Sent ahead of a process's last answer: it takes no further task."""


class WireError(Exception):
    """A frame is not one of ours: something else wrote to the socket."""


@dataclass(frozen=True, slots=True)
class ProgressReport:
    """What a handler gave to `Task.progress`."""

    done: float
    note: str


@dataclass(frozen=True, slots=True)
class Leaving:
    """The answer that follows is the last one of its process."""


LEAVING = Leaving()


def encode_job(job: Job) -> bytes:
    """A job as a frame; headers hold only what AMQP can carry, and pickle knows all of that.

    pika's own type for large numbers arrives as `int`, which is `process_executor`'s doing: nothing here knows pika.
    """
    payload = pickle.dumps(
        (
            job.body,
            job.id,
            job.attempt,
            job.deadline,
            job.type,
            job.content_type,
            job.correlation_id,
            job.submitted_at,
            job.headers,
        ),
        pickle.HIGHEST_PROTOCOL,
    )
    return _JOB_HEAD.pack(len(payload)) + payload


def job_size(data: bytes | bytearray) -> int | None:
    """Bytes of the whole frame that starts `data`; None until that can be told."""
    return _JOB_HEAD.size + int(_JOB_HEAD.unpack_from(data)[0]) if len(data) >= _JOB_HEAD.size else None


def decode_job(frame: bytes | bytearray, report: Progress) -> Task:
    """The task in a frame that our own worker process made."""
    body, id_, attempt, deadline, type_, content_type, correlation_id, submitted_at, headers = pickle.loads(  # noqa: S301
        memoryview(frame)[_JOB_HEAD.size :]  # from our parent, not from the network
    )
    return Task(body, id_, attempt, deadline, type_, content_type, correlation_id, submitted_at, headers, report)


def encode_answer(outcome: Done | Failed) -> bytes:
    """An outcome as a frame."""
    if isinstance(outcome, Done):
        return DONE_FRAME
    return _frame(KIND_FAILED, [outcome.exception, outcome.message, outcome.traceback, outcome.permanent])


def encode_progress(done: float, note: str) -> bytes:
    """A progress report as a frame."""
    return _frame(KIND_PROGRESS, [done, note])


def decode_answer(data: bytearray) -> Done | Failed | ProgressReport | Leaving | None:
    """Take the first whole frame off `data`; None where there is none yet.

    Raises:
        WireError: this is no frame of ours.
    """
    if len(data) < _ANSWER_HEAD.size:
        return None
    kind, size = _ANSWER_HEAD.unpack_from(data)
    if size > MAX_ANSWER or kind > KIND_LEAVING:
        raise WireError(f"a frame of kind {kind} and {size} bytes is not ours")
    end = _ANSWER_HEAD.size + size
    if len(data) < end:
        return None
    payload = bytes(data[_ANSWER_HEAD.size : end])
    del data[:end]
    if kind == KIND_DONE:
        return DONE
    if kind == KIND_LEAVING:
        return LEAVING
    try:
        values = json.loads(payload)
        if kind == KIND_FAILED:
            exception, message, trace, permanent = values
            return Failed(str(exception), str(message), str(trace), permanent is True)
        done, note = values
        return ProgressReport(float(done), str(note))
    except (ValueError, TypeError, OverflowError, RecursionError) as error:
        raise WireError(f"a frame of kind {kind} cannot be read: {error}") from error


def _frame(kind: int, values: list[Any]) -> bytes:
    payload = json.dumps(values).encode("ascii")
    return _ANSWER_HEAD.pack(kind, len(payload)) + payload
