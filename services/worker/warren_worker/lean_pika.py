"""pika without what a worker does not use of it.

`import pika` brings its adapters for asyncio and for blocking code along, and with them asyncio and all that it needs,
and it brings ssl: a third of the CPU time of a worker's start, of which a burst has a dozen at once, and 5 MiB of
memory. So their names are filled in when they are first asked for. Who does so, such as a handler in a thread of the
worker or a connection with TLS, finds all of pika.
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


SSL_CLASSES = ("SSLContext", "SSLSocket")
"""Classes of ssl that pika names in annotations, and asks of what it connects with whether it is one."""


class _OfSsl(type):
    """A stand-in for a class of ssl: before ssl is imported, nothing can be an instance of it."""

    def __instancecheck__(cls, instance: object) -> bool:
        ssl = sys.modules.get("ssl")
        return ssl is not None and isinstance(instance, vars(ssl)[cls.__name__])


def import_pika() -> None:
    """Import pika, unless it is there already, in full or not. Call this while there is only one thread."""
    if "pika" in sys.modules:
        return
    stand_ins = {path: ModuleType(path) for path in ADAPTERS.values()}
    if "ssl" not in sys.modules:
        stand_ins["ssl"] = _ssl_later()
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


def _ssl_later() -> ModuleType:
    """What pika's modules have for ssl from now on; it passes on what it is asked for."""
    stand_in = ModuleType("ssl")
    for name in SSL_CLASSES:
        setattr(stand_in, name, _OfSsl(name, (), {}))
    vars(stand_in)["__getattr__"] = lambda name: getattr(importlib.import_module("ssl"), name)
    return stand_in


def _later(package: ModuleType) -> Callable[[str], object]:
    """Python asks this for the names that a module does not have (PEP 562)."""

    def look_up(name: str) -> object:
        if name not in ADAPTERS:
            raise AttributeError(f"module {package.__name__!r} has no attribute {name!r}")
        found = getattr(importlib.import_module(ADAPTERS[name]), name)
        vars(package)[name] = found
        return found

    return look_up
