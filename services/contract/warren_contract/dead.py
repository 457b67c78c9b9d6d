"""Dead letters: what a worker writes on a task that it gives up.

The task itself stays as it was, so that it can be sent again. What is added are headers under the reserved prefix; a
task that is sent again loses them on its way in.
"""

from dataclasses import dataclass

from warren_contract.task import RESERVED_HEADER_PREFIX, SUBMITTED_AT_HEADER

EXCEPTION_HEADER = RESERVED_HEADER_PREFIX + "exception"
MESSAGE_HEADER = RESERVED_HEADER_PREFIX + "message"
TRACEBACK_HEADER = RESERVED_HEADER_PREFIX + "traceback"
ATTEMPTS_HEADER = RESERVED_HEADER_PREFIX + "attempts"
WORKER_HEADER = RESERVED_HEADER_PREFIX + "worker"
QUEUE_HEADER = RESERVED_HEADER_PREFIX + "queue"
FAILED_AT_HEADER = RESERVED_HEADER_PREFIX + "failed-at"

MAX_ADDED = 16_384
"""Bytes that all headers of a dead letter's reason may take together, as they are encoded."""

MIN_ADDED = 4_096
"""Bytes that are enough for all of them but the traceback."""

MAX_MESSAGE = 2_048
MAX_NAME = 256
"""Bytes of an exception's message, and of its type, the worker's and the queue's name."""

_AROUND_TEXT = 6
_AROUND_NUMBER = 10
"""Bytes that an AMQP table needs besides the name and the text: the name's length and the value's type, then the text's
length, or the number itself (AMQP 0-9-1, section 4.2.5.5)."""


@dataclass(frozen=True, slots=True)
class Reason:
    """Why a task is dead.

    Attributes:
        exception: type of the exception, or `TimeLimit`, `Crash` and the like where the worker itself saw the end.
        message: one line for people.
        traceback: Python's, a program's last words or the start of a response; empty where there is none.
        attempts: how often the task was tried.
        worker: name of the worker that gave it up.
        queue: name of the queue it came from.
        failed_at: Unix time in milliseconds.
        submitted_at: Unix time in milliseconds; None where the sender did not say.
    """

    exception: str
    message: str
    traceback: str
    attempts: int
    worker: str
    queue: str
    failed_at: int
    submitted_at: int | None = None

    def headers(self, limit: int = MAX_ADDED) -> dict[str, str | int]:
        """The reason as headers that take at most `limit` bytes in an AMQP table, `limit` being `MIN_ADDED` or more.

        A long message loses its end, a long traceback its beginning: what was raised stands at its end.
        """
        headers: dict[str, str | int] = {
            EXCEPTION_HEADER: shorten(self.exception, MAX_NAME),
            MESSAGE_HEADER: shorten(self.message, MAX_MESSAGE),
            ATTEMPTS_HEADER: self.attempts,
            WORKER_HEADER: shorten(self.worker, MAX_NAME),
            QUEUE_HEADER: shorten(self.queue, MAX_NAME),
            FAILED_AT_HEADER: self.failed_at,
        }
        if self.submitted_at is not None:
            headers[SUBMITTED_AT_HEADER] = self.submitted_at
        if self.traceback:
            left = limit - encoded_size(headers) - _AROUND_TEXT - len(TRACEBACK_HEADER)
            headers[TRACEBACK_HEADER] = shorten(self.traceback, max(0, left), keep_end=True)
        return headers


def encoded_size(headers: dict[str, str | int]) -> int:
    """Bytes of the entries in an AMQP table, numbers counted at their longest."""
    return sum(
        len(name) + (_AROUND_NUMBER if isinstance(value, int) else _AROUND_TEXT + len(to_bytes(value)))
        for name, value in headers.items()
    )


def to_bytes(text: str) -> bytes:
    """UTF-8, with halves of surrogate pairs written out: file names and other people's decoders bring such."""
    return text.encode("utf-8", "backslashreplace")


def shorten(text: str, limit: int, *, keep_end: bool = False) -> str:
    """At most `limit` bytes of UTF-8, whole characters only, with `…` for what is left out."""
    data = to_bytes(text)
    if len(data) <= limit:
        return data.decode()
    room = limit - len("…".encode())
    if room <= 0:
        return ""
    kept = (data[-room:] if keep_end else data[:room]).decode("utf-8", "ignore")
    return f"…{kept}" if keep_end else f"{kept}…"
