"""A TCP proxy on loopback that can hold back what a server says, and cut connections."""

import contextlib
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from listeners import Listener, end


class Proxy:
    """Forwards bytes between clients of `port` and a server.

    Args:
        host, port: of the server. A client that meets none there is ended.

    Attributes:
        accepted: connections so far.
    """

    def __init__(self, host: str, port: int) -> None:
        self._server = (host, port)
        self._speaks = threading.Event()
        self._speaks.set()
        self.accepted = 0
        self._refusing = False
        self._listener = Listener(self._forward)

    @property
    def port(self) -> int:
        """Where clients connect."""
        return self._listener.port

    def hold(self) -> None:
        """Keep back everything the server says from now on; what clients say still goes through."""
        self._speaks.clear()

    def release(self) -> None:
        """Let through what was kept back, and what comes."""
        self._speaks.set()

    def refuse(self) -> None:
        """End all connections, and each new one at once."""
        self._refusing = True
        self.cut()

    def accept(self) -> None:
        """Take connections again."""
        self._refusing = False

    def cut(self) -> None:
        """End all connections without delivering what was kept back."""
        self._listener.cut()

    def close(self) -> None:
        """End it all."""
        self._listener.close()
        self.release()

    def _forward(self, client: socket.socket) -> None:
        try:
            if self._refusing:
                return
            with socket.create_connection(self._server, timeout=10) as server:
                server.settimeout(None)
                self.accepted += 1
                back = threading.Thread(target=self._pump, args=(server, client, self._speaks), daemon=True)
                back.start()
                self._pump(client, server, None)
                back.join()
        finally:
            end(client)

    @staticmethod
    def _pump(source: socket.socket, target: socket.socket, gate: threading.Event | None) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                if gate is not None:
                    gate.wait()
                target.sendall(data)
        for side in (source, target):
            with contextlib.suppress(OSError):
                side.shutdown(socket.SHUT_RDWR)


@contextmanager
def proxy_to(host: str, port: int) -> Iterator[Proxy]:
    """A proxy for the time of a `with` statement."""
    proxy = Proxy(host, port)
    try:
        yield proxy
    finally:
        proxy.close()
