"""What a handler gets."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

Progress = Callable[[float, str], None]


class PermanentError(Exception):
    """Raise this, or a subclass of it, where no further attempt can help: the task becomes a dead letter at once."""


def _no_progress(_done: float, _note: str) -> None:
    """Nobody listens."""


@dataclass(frozen=True, slots=True)
class Task:
    """One task, as a handler sees it. Returning from the handler is success; raising anything is failure.

    Attributes:
        body: the payload, untouched.
        id: the task's id; made up where the sender gave none, and then another one at each attempt.
        attempt: from 1; how often this task has been tried, this time included.
        deadline: Unix time in seconds at which the worker ends the handler.
        type: name of the handler where one queue serves several; None if the sender did not say.
        content_type: of the body; None if the sender did not say.
        correlation_id: the sender's own.
        submitted_at: Unix time in milliseconds.
        headers: the sender's own, and the broker's (`x-…`).
        report: takes what `progress` reports.
    """

    body: bytes
    id: str
    attempt: int
    deadline: float
    type: str | None = None
    content_type: str | None = None
    correlation_id: str | None = None
    submitted_at: int = 0
    headers: Mapping[str, Any] = field(default_factory=dict)
    report: Progress = field(default=_no_progress, repr=False, compare=False)

    def progress(self, done: float, note: str = "") -> None:
        """Tell how far the work has come; the worker logs it with the task's id.

        Args:
            done: from 0 to 1.
            note: a few words for people.
        """
        self.report(min(1.0, max(0.0, float(done))), str(note)[:MAX_NOTE])


MAX_NOTE = 200
"""Characters of a progress note that are passed on."""

Handler = Callable[[Task], object]
