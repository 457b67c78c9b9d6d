"""`/healthz`, `/readyz` and `/metrics` over HTTP, served by the IO loop itself.

That an answer comes at all is the proof of life: a loop that is wedged answers nobody, and the kubelet's probe fails by
its own time limit. Bounded in every direction, since anybody in the cluster may connect: where there are too many
clients, a new one takes the place of the one that has been there longest.
"""

import logging
import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from warren_worker.loop import READ, WRITE, Loop, Timer, remove

log = logging.getLogger(__name__)

MAX_CLIENTS = 32
MAX_REQUEST = 8192
"""Bytes of a request's head."""

CLIENT_LIMIT = 5.0
"""Seconds for one request and its answer."""

_PHRASES = {200: "OK", 400: "Bad Request", 404: "Not Found", 405: "Method Not Allowed", 503: "Service Unavailable"}


@dataclass(frozen=True, slots=True)
class Answer:
    """A status and a text."""

    status: int
    text: str


Pages = Mapping[str, Callable[[], Answer]]


class _Client:
    __slots__ = ("limit", "outbox", "request", "sock")

    def __init__(self, sock: socket.socket, limit: Timer) -> None:
        self.sock = sock
        self.limit = limit
        self.request = bytearray()
        self.outbox = b""


class HealthServer:
    """Answers GET and HEAD for a few pages, one request to a connection."""

    def __init__(self, loop: Loop, pages: Pages) -> None:
        self._loop = loop
        self._pages = pages
        self._clients: dict[int, _Client] = {}
        self._listener: socket.socket | None = None

    def start(self, port: int) -> int:
        """Listen on all addresses of the pod; the port, which the system chooses where `port` is 0.

        Raises:
            OSError: the port is in use, or not ours to use.
        """
        dual = socket.has_dualstack_ipv6()
        listener = socket.create_server(
            ("", port), family=socket.AF_INET6 if dual else socket.AF_INET, dualstack_ipv6=dual, backlog=MAX_CLIENTS
        )
        listener.setblocking(False)
        self._listener = listener
        self._loop.add_handler(listener.fileno(), self._on_accept, READ)
        return int(listener.getsockname()[1])

    def close(self) -> None:
        """Stop listening and drop who is connected."""
        for client in list(self._clients.values()):
            self._drop(client)
        if self._listener is not None:
            remove(self._loop, self._listener)
            self._listener = None

    def _on_accept(self, _fd: int, _events: int) -> None:
        if self._listener is None:
            return
        try:
            sock, _address = self._listener.accept()
        except OSError:  # the client is gone already, or we are out of descriptors
            return
        if len(self._clients) >= MAX_CLIENTS:
            self._drop(next(iter(self._clients.values())))
        sock.setblocking(False)
        client = _Client(sock, self._loop.call_later(CLIENT_LIMIT, lambda: self._drop(client)))
        self._clients[sock.fileno()] = client
        self._loop.add_handler(sock.fileno(), self._on_client, READ)

    def _on_client(self, fd: int, _events: int) -> None:
        client = self._clients[fd]
        try:
            if client.outbox:
                self._write(client)
                return
            data = client.sock.recv(MAX_REQUEST)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._drop(client)
            return
        client.request += data
        if b"\r\n\r\n" in client.request or b"\n\n" in client.request:
            client.outbox = respond(bytes(client.request), self._pages)
        elif len(client.request) > MAX_REQUEST:
            client.outbox = _encode(Answer(400, "the request is too long\n"))
        if client.outbox:
            # As a change from reading to reading and writing, the loop tries the write before it waits.
            self._loop.update_handler(fd, READ | WRITE)

    def _write(self, client: _Client) -> None:
        client.outbox = client.outbox[client.sock.send(client.outbox) :]
        if not client.outbox:
            self._drop(client)

    def _drop(self, client: _Client) -> None:
        if client.sock.fileno() in self._clients:
            client.limit.cancel()
            del self._clients[client.sock.fileno()]
            remove(self._loop, client.sock)


def respond(request: bytes, pages: Pages) -> bytes:
    """The answer to a request's head, as bytes for the socket."""
    parts = request.split(b"\n", 1)[0].split()
    if len(parts) != 3 or not parts[2].startswith(b"HTTP/"):
        return _encode(Answer(400, "this is no HTTP request\n"))
    method = parts[0].decode("latin-1")
    if method not in {"GET", "HEAD"}:
        return _encode(Answer(405, "only GET and HEAD\n"))
    page = pages.get(parts[1].split(b"?", 1)[0].decode("latin-1"))
    answer = Answer(404, f"there is only {', '.join(pages)}\n") if page is None else page()
    return _encode(answer, head_only=method == "HEAD")


def _encode(answer: Answer, *, head_only: bool = False) -> bytes:
    body = answer.text.encode()
    head = (
        f"HTTP/1.1 {answer.status} {_PHRASES[answer.status]}\r\n"
        "Content-Type: text/plain; version=0.0.4; charset=utf-8\r\n"
        f"Content-Length: {len(body)}\r\n"
        "Connection: close\r\n\r\n"
    ).encode("ascii")
    return head if head_only else head + body
