"""One attempt: call the handler and turn however it ends into a value."""

import logging
import traceback
from contextvars import ContextVar
from types import AsyncGeneratorType, GeneratorType

from warren_worker.task import Handler, PermanentError, Task
from warren_worker.verdict import DONE, Done, Failed

MAX_TYPE = 200
MAX_MESSAGE = 2_000
MAX_TRACEBACK = 12_000
"""Characters kept of an exception's type, message and traceback: about as much as a dead letter has room for."""


class Explained(Exception):
    """A failure of a handler of ours, whose Python traceback would tell nobody anything.

    Args:
        message: one line for people.
        detail: what there is besides, such as a program's last words.
    """

    def __init__(self, message: str, detail: str = "") -> None:
        super().__init__(message)
        self.detail = detail


class TimeLimit(Explained):
    """A handler of ours saw the time limit come and ended what it had begun."""


current_task: ContextVar[str | None] = ContextVar("current_task", default=None)


def run(handler: Handler, task: Task) -> Done | Failed:
    """Call the handler. Nothing it raises gets out, not even SystemExit: the worker outlives its tasks."""
    token = current_task.set(task.id)
    try:
        result = handler(task)
    except BaseException as error:  # noqa: BLE001  whatever it is, it failed
        return failure(error)
    finally:
        current_task.reset(token)
    kind = type(result)
    if hasattr(kind, "__await__"):  # as await itself looks; an instance may answer to any name, or raise
        return Failed("TypeError", "the handler returned an awaitable: write a plain function, nobody awaits it here")
    if issubclass(kind, GeneratorType | AsyncGeneratorType):  # what it would do has not even begun
        return Failed("TypeError", "the handler returned a generator: write a plain function, nobody iterates over it")
    return DONE


def failure(error: BaseException) -> Failed:
    """An exception as a value; an exception that cannot even be shown is still a failure."""
    try:
        message = str(error)
    except Exception:  # noqa: BLE001  somebody else's __str__
        message = "(its message cannot be shown)"
    trace = error.detail if isinstance(error, Explained) else _traceback(error)
    return Failed(
        exception=type(error).__name__[:MAX_TYPE],
        message=message[:MAX_MESSAGE],
        traceback=trace[-MAX_TRACEBACK:],
        permanent=isinstance(error, PermanentError),
    )


def _traceback(error: BaseException) -> str:
    try:
        # The first frame is our own call of the handler.
        inner = error.__traceback__.tb_next if error.__traceback__ is not None else None
        return "".join(traceback.format_exception(type(error), error, inner or error.__traceback__))
    except Exception:  # noqa: BLE001  as above
        return ""


class TaskIdFilter(logging.Filter):
    """Adds the id of the task that is being handled to each log record, the handler's own included."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Never drops a record."""
        task = current_task.get()
        if task is not None and not hasattr(record, "task"):
            record.task = task
        return True


def log_task_ids() -> None:
    """Add the filter to the handlers that write log lines."""
    for handler in logging.getLogger().handlers:
        handler.addFilter(TaskIdFilter())
