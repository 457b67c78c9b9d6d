"""pika as a worker imports it: what it does not use is there for others, and costs nothing until then."""

import subprocess
import sys

PROGRAM = """
import sys
{first}
from warren_worker.lean_pika import import_pika
import_pika()
import pika
assert "asyncio" not in sys.modules, "asyncio is imported"
assert ("ssl" in sys.modules) == ("import ssl" in {first!r}), "ssl is imported"
from pika.adapters.select_connection import SelectConnection
assert "asyncio" not in sys.modules, "asyncio is imported"
assert pika.SelectConnection is SelectConnection
{asked}
import_pika()
from pika.adapters.blocking_connection import BlockingConnection
from pika.adapters.asyncio_connection import AsyncioConnection
assert pika.BlockingConnection is pika.adapters.BlockingConnection is BlockingConnection
assert pika.adapters.AsyncioConnection is AsyncioConnection
try:
    pika.NoSuchThing
except AttributeError as error:
    assert "'pika'" in str(error) and "NoSuchThing" in str(error)
else:
    raise AssertionError("pika has everything")
try:
    pika.SSLOptions("no context")
except TypeError:
    pass
else:
    raise AssertionError("anything is a context")
import ssl
pika.SSLOptions(ssl.create_default_context(), "broker")
assert pika.connection.ssl.SSLError is ssl.SSLError
"""


def run(asked: str, first: str = "") -> None:
    found = subprocess.run(
        [sys.executable, "-c", PROGRAM.format(asked=asked, first=first)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert found.returncode == 0, found.stderr


def test_the_adapters_that_a_worker_leaves_out_are_there_for_a_handler() -> None:
    run("")


def test_they_are_there_by_import_of_their_names_too() -> None:
    run("from pika import BlockingConnection; from pika.adapters import AsyncioConnection")


def test_a_program_that_has_imported_ssl_before_is_served_as_well() -> None:
    run("", first="import ssl")
