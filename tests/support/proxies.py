"""A TCP proxy on loopback that can hold back what a server says, and cut connections."""

import contextlib
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager


class Proxy:
    """Forwards bytes between clients of `port` and a server.

    Args:
        host, port: of the server.

    Attributes:
        accepted: connections so far.
    """

    def __init__(self, host: str, port: int) -> None:
        self._server = (host, port)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._speaks = threading.Event()
        self._speaks.set()
        self.accepted = 0
        self._refusing = False
        self._sockets: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def port(self) -> int:
        """Where clients connect."""
        return int(self._listener.getsockname()[1])

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
        for end in self._sockets:
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()
        self._sockets.clear()

    def close(self) -> None:
        """End it all."""
        with contextlib.suppress(OSError):  # closed before
            self._listener.shutdown(socket.SHUT_RDWR)  # closing alone would leave it open as long as a thread accepts
        self._listener.close()
        self.cut()
        self.release()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
                if self._refusing:
                    client.close()
                    continue
                server = socket.create_connection(self._server, timeout=10)
                self.accepted += 1
            except OSError:
                return
            server.settimeout(None)
            self._sockets += [client, server]
            for source, target, gate in ((client, server, None), (server, client, self._speaks)):
                threading.Thread(target=_pump, args=(source, target, gate), daemon=True).start()


def _pump(source: socket.socket, target: socket.socket, gate: threading.Event | None) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(65536):
            if gate is not None:
                gate.wait()
            target.sendall(data)
    for end in (source, target):
        with contextlib.suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)


@contextmanager
def proxy_to(host: str, port: int) -> Iterator[Proxy]:
    """A proxy for the time of a `with` statement."""
    proxy = Proxy(host, port)
    try:
        yield proxy
    finally:
        proxy.close()
