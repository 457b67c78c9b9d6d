"""pika without what a worker does not use of it.

`import pika` brings its adapters for asyncio and for blocking code along, and with them asyncio and all that it needs:
a fifth of the CPU time of a worker's start, of which a burst has a dozen at once. So their names are filled in when
they are first asked for. Who does so, such as a handler in a thread of the worker, finds all of pika.
"""

import importlib
import sys
from collections.abc import Callable, Mapping
from types import MappingProxyType, ModuleType

ADAPTERS: Mapping[str, str] = MappingProxyType(
    {
        "AsyncioConnection": "pika.adapters.asyncio_connection",
        "BlockingConnection": "pika.adapters.blocking_connection",
    }
)
"""The adapters that are left out, and where they are."""


def import_pika() -> None:
    """Import pika, unless it is there already, in full or not. Call this while there is only one thread."""
    if "pika" in sys.modules:
        return
    stand_ins = {path: ModuleType(path) for path in ADAPTERS.values()}
    for name, path in ADAPTERS.items():
        setattr(stand_ins[path], name, None)
    sys.modules.update(stand_ins)
    try:
        packages = [importlib.import_module(package) for package in ("pika", "pika.adapters")]
    finally:
        for path in stand_ins:
            del sys.modules[path]
    for package in packages:
        for name in ADAPTERS:
            vars(package).pop(name, None)
        vars(package)["__getattr__"] = _later(package)


def _later(package: ModuleType) -> Callable[[str], object]:
    """Python asks this for the names that a module does not have (PEP 562)."""

    def look_up(name: str) -> object:
        if name not in ADAPTERS:
            raise AttributeError(f"module {package.__name__!r} has no attribute {name!r}")
        found = getattr(importlib.import_module(ADAPTERS[name]), name)
        vars(package)[name] = found
        return found

    return look_up
