"""Handlers: the work itself, found by name."""

import importlib
import logging
import time
from collections.abc import Callable, Mapping
from types import MappingProxyType

from warren_worker.task import Handler, Task

log = logging.getLogger(__name__)

_COROUTINE_OR_GENERATOR = 0x20 | 0x80 | 0x200
"""Flags of a code object whose call only makes a generator or coroutine (`inspect.CO_*`, without importing inspect)."""


class HandlerError(Exception):
    """A handler cannot be used; the message names it and says why."""


def dots(task: Task) -> None:
    """The work of RabbitMQ's tutorial: one second for each dot in the body."""
    text = task.body[:MAX_SHOWN].decode("utf-8", "replace")
    log.info(" [x] Received %s%s", text, "…" if len(task.body) > MAX_SHOWN else "")
    time.sleep(task.body.count(b"."))
    log.info(" [x] Done")


MAX_SHOWN = 200
"""Bytes of a body that `dots` writes to the log."""

BUILT_IN: Mapping[str, Callable[[], Handler]] = MappingProxyType({"dots": lambda: dots})
"""Handlers with a name of their own, each made by a function that may read further settings."""


def load(spec: str) -> Handler:
    """The handler called `spec`: a built-in one, or `module:function`.

    Raises:
        HandlerError: there is no such handler, or its module cannot be imported.
    """
    if spec in BUILT_IN:
        return BUILT_IN[spec]()
    module_name, colon, name = spec.partition(":")
    if not (colon and module_name and name):
        raise HandlerError(
            f"WARREN_HANDLER={spec!r} is no handler: write {', '.join(BUILT_IN)} or module:function, as in jobs:resize"
        )
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        raise HandlerError(f"WARREN_HANDLER={spec!r}: cannot import {module_name}: {error}") from error
    except Exception as error:  # a module may raise anything while it is imported
        raise HandlerError(
            f"WARREN_HANDLER={spec!r}: importing {module_name} failed: {type(error).__name__}: {error}"
        ) from error
    handler: object = module
    for part in name.split("."):
        handler = getattr(handler, part, None)
    if handler is None:
        raise HandlerError(f"WARREN_HANDLER={spec!r}: module {module_name} has no function {name}")
    if not callable(handler):
        raise HandlerError(f"WARREN_HANDLER={spec!r}: {name} cannot be called: name a function that takes one task")
    code = getattr(handler, "__code__", None)
    if code is not None and code.co_flags & _COROUTINE_OR_GENERATOR:
        raise HandlerError(f"WARREN_HANDLER={spec!r}: {name} is async or a generator: write a plain function")
    return handler
