"""A broker that opens connections, and says no more after that."""

import socket
from collections.abc import Iterator
from contextlib import contextmanager

from listeners import Listener
from pika import frame, spec

LIMIT = 30.0
"""Seconds for a client to say its part; milliseconds are usual."""


@contextmanager
def mute_broker() -> Iterator[int]:
    """Its port on loopback, for the time of a `with` statement.

    It asks for no heartbeats: its silence is no reason to give it up.
    """
    listener = Listener(_open)
    try:
        yield listener.port
    finally:
        listener.close()


def _open(client: socket.socket) -> None:
    client.settimeout(LIMIT)
    for answer in (
        spec.Connection.Start(0, 9, {}, "PLAIN", "en_US"),
        spec.Connection.Tune(10, 131_072, 0),
        spec.Connection.OpenOk(),
    ):
        client.recv(65_536)
        client.sendall(frame.Method(0, answer).marshal())
