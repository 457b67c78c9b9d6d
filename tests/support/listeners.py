"""A TCP server on loopback, for tests that play a part themselves."""

import contextlib
import socket
import threading
from collections.abc import Callable


class Listener:
    """Takes connections, and hands each to `serve` in a thread of its own, until it is closed.

    Args:
        serve: talks to one client. The connection is still there when it returns, and an OSError of it is no news.
    """

    def __init__(self, serve: Callable[[socket.socket], None]) -> None:
        self._serve = serve
        self._server = socket.create_server(("127.0.0.1", 0))
        self._taken: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def port(self) -> int:
        """Where clients connect."""
        return int(self._server.getsockname()[1])

    def cut(self) -> None:
        """End all connections that were taken so far."""
        taken, self._taken = self._taken, []
        for client in taken:
            end(client)

    def close(self) -> None:
        """End it all."""
        end(self._server)
        self.cut()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._server.accept()
            except OSError:
                return
            self._taken.append(client)
            threading.Thread(target=self._run, args=(client,), daemon=True).start()

    def _run(self, client: socket.socket) -> None:
        with contextlib.suppress(OSError):
            self._serve(client)


def end(sock: socket.socket) -> None:
    """Close a socket, also for a thread that waits for it: closing alone would leave it open for as long."""
    with contextlib.suppress(OSError):
        sock.shutdown(socket.SHUT_RDWR)
    sock.close()
