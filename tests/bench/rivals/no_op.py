"""The handler of the comparison."""

from typing import Protocol

import stamps


class Task(Protocol):
    """What of a task is needed here."""

    @property
    def body(self) -> bytes:
        """The payload."""


def handle(task: Task) -> None:
    """Nothing; where the body is a path, say there when it began."""
    if task.body.startswith(b"/"):
        stamps.stamp(task.body.decode())
