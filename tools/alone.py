"""Keeping two commands from doing the same thing to this machine at once."""

import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager

from tools.console import Console
from tools.shell import ToolError


@contextmanager
def alone(what: str, console: Console, limit: float = 900.0) -> Iterator[None]:
    """Hold the lock `what` of this machine; another holder is waited for at most `limit` seconds.

    The lock is an abstract socket: the kernel frees it when its holder ends, however it ends, and no file is left.

    Raises:
        ToolError: the other command is still at it.
    """
    with socket.socket(socket.AF_UNIX) as lock:
        deadline = time.monotonic() + limit
        told = False
        while True:
            try:
                lock.bind(f"\0warren-{what}")
                break
            except OSError:
                if not told:
                    console.say(f"Another command is busy with the {what}; waiting for it ...")
                    told = True
                if time.monotonic() > deadline:
                    raise ToolError(
                        f"Another command has been busy with the {what} for {limit:g} s. "
                        "End it (ps aux | grep tools), then try again."
                    ) from None
                time.sleep(0.2)
        yield
