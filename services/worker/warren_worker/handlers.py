"""Handlers: the work itself, found by name."""

import importlib
import logging
import os
import time
from collections.abc import Callable, Mapping
from types import MappingProxyType

from warren_contract.settings import SettingError
from warren_worker.handler_error import HandlerError
from warren_worker.task import Handler, PermanentError, Task

log = logging.getLogger(__name__)

_COROUTINE_OR_GENERATOR = 0x20 | 0x80 | 0x200
"""Flags of a code object whose call only makes a generator or coroutine (`inspect.CO_*`, without importing inspect)."""


def dots(task: Task) -> None:
    """The work of RabbitMQ's tutorial: one second for each dot in the body."""
    text = task.body[:MAX_SHOWN].decode("utf-8", "replace")
    log.info(" [x] Received %s%s", text, "…" if len(task.body) > MAX_SHOWN else "")
    time.sleep(task.body.count(b"."))
    log.info(" [x] Done")


MAX_SHOWN = 200
"""Bytes of a body that `dots` writes to the log."""


def _exec(environ: Mapping[str, str]) -> Handler:
    # Imported when asked for: what a handler of another kind needs not, costs time at each start.
    from warren_worker import exec_handler  # noqa: PLC0415

    return exec_handler.make(environ)


def _http(environ: Mapping[str, str]) -> Handler:
    from warren_worker import http_handler  # noqa: PLC0415

    return http_handler.make(environ)


BUILT_IN: Mapping[str, Callable[[Mapping[str, str]], Handler]] = MappingProxyType(
    {"dots": lambda _environ: dots, "exec": _exec, "http": _http}
)
"""Handlers with a name of their own, each made by a function that may read further settings."""


class UnknownType(PermanentError):
    """No handler goes by the task's `type`."""


def by_type(handlers: Mapping[str, Handler]) -> Handler:
    """A handler that passes each task on by its `type`; the one called `""` takes those that have none."""

    def dispatch(task: Task) -> object:
        handler = handlers.get(task.type or "")
        if handler is None:
            known = ", ".join(repr(name) for name in sorted(handlers))
            raise UnknownType(f"there is no handler for tasks of type {task.type!r}, only for {known}"[:1000])
        return handler(task)

    return dispatch


def load(spec: str, environ: Mapping[str, str] = os.environ) -> Handler:
    """The handler called `spec`: a built-in one, or `module:name` of a function or of a mapping of types to functions.

    Args:
        spec: the name.
        environ: where built-in handlers find their settings.

    Raises:
        HandlerError: there is no such handler, or its module cannot be imported.
    """
    if spec in BUILT_IN:
        try:
            return BUILT_IN[spec](environ)
        except SettingError as error:
            raise HandlerError(str(error)) from error
    module_name, colon, name = spec.partition(":")
    if not (colon and module_name and name):
        raise HandlerError(
            f"WARREN_HANDLER={spec!r} is no handler: write {', '.join(BUILT_IN)} or module:function, as in jobs:resize"
        )
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        raise HandlerError(f"WARREN_HANDLER={spec!r}: cannot import {module_name}: {error}") from error
    except (Exception, SystemExit) as error:  # a module may raise anything while it is imported
        raise HandlerError(
            f"WARREN_HANDLER={spec!r}: importing {module_name} failed: {type(error).__name__}: {error}"
        ) from error
    handler: object = module
    for part in name.split("."):
        handler = getattr(handler, part, None)
    if handler is None:
        raise HandlerError(f"WARREN_HANDLER={spec!r}: module {module_name} has no function {name}")
    if isinstance(handler, Mapping):
        if not handler or not all(isinstance(key, str) for key in handler):
            raise HandlerError(f"WARREN_HANDLER={spec!r}: {name} is not a mapping of tasks' types to functions")
        return by_type({key: _checked(spec, f"{name}[{key!r}]", value) for key, value in handler.items()})
    return _checked(spec, name, handler)


def _checked(spec: str, name: str, handler: object) -> Handler:
    if not callable(handler):
        raise HandlerError(f"WARREN_HANDLER={spec!r}: {name} cannot be called: name a function that takes one task")
    code = getattr(handler, "__code__", None)
    if code is not None and code.co_flags & _COROUTINE_OR_GENERATOR:
        raise HandlerError(f"WARREN_HANDLER={spec!r}: {name} is async or a generator: write a plain function")
    return handler
