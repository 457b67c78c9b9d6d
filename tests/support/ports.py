"""Ports for programs that have to be told one before they start."""

import contextlib
import itertools
import os
import random
import socket

_numbers = itertools.count(random.randrange(1_000))


def free_port() -> int:
    """A port where nobody listens, and which nobody else is given before a program of ours takes it.

    It lies below those that the system gives out, to clients and containers too, and each process that shares the
    tests has a thousand of its own.
    """
    process = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    while True:
        port = 20_000 + process % 10 * 1_000 + next(_numbers) % 1_000
        with contextlib.suppress(OSError), socket.socket() as probe:
            probe.bind(("127.0.0.1", port))
            return port
