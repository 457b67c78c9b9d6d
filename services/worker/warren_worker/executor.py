"""What the worker asks of whoever runs the handlers, and what it gets back."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from warren_worker.verdict import Outcome


@dataclass(frozen=True, slots=True)
class Job:
    """A task on its way to its handler.

    Attributes:
        ticket: the worker's own number for this attempt, never used twice.
        body, id, attempt, deadline, type, content_type, correlation_id, submitted_at, headers: as in `Task`.
    """

    ticket: int
    body: bytes
    id: str
    attempt: int
    deadline: float
    type: str | None = None
    content_type: str | None = None
    correlation_id: str | None = None
    submitted_at: int = 0
    headers: Mapping[str, Any] = field(default_factory=dict)


class Reports(Protocol):
    """What an executor tells the worker, always in the loop's thread."""

    def on_ready(self) -> None:
        """The handler is loaded; jobs may be submitted."""

    def on_end(self, ticket: int, outcome: Outcome) -> None:
        """An attempt has ended, and its place is free. Called exactly once for each submitted job."""

    def on_progress(self, ticket: int, done: float, note: str) -> None:
        """A handler reported how far it has come."""

    def on_broken(self, sentence: str, *, at_start: bool) -> None:
        """The executor cannot go on; `at_start` where the handler could not be loaded."""


class Executor(Protocol):
    """Runs handlers beside the IO thread. Its methods belong to the loop's thread and never block."""

    def start(self, reports: Reports) -> None:
        """Load the handler, then report `on_ready` or `on_broken`."""

    def submit(self, job: Job) -> None:
        """Run a job; the caller never has more than `concurrency` of them in hand."""

    def kill(self, ticket: int, outcome: Outcome) -> bool:
        """End an attempt by force and report `outcome` for it; False where that is impossible (a thread)."""

    def close(self) -> None:
        """End everything that is still running, without reports."""


ExecutorFactory = Callable[[], Executor]
