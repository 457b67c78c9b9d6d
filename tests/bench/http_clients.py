"""Clients of the HTTP API that need as little of the shared cores as they can: one loop over bare sockets.

An HTTP library, or asyncio's streams, would need more CPU for a request than the producer does for its answer, and the
figure would be the client's.
"""

import select
import socket
import time

LIMIT = 120.0
"""Seconds for all requests; the slowest round needs five."""

READ_SIZE = 65_536


class _Client:
    """One connection that sends a request when it has the answer to the one before."""

    def __init__(self, address: tuple[str, int]) -> None:
        self.sock = socket.create_connection(address, timeout=30)
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._answer = b""

    def answered(self) -> bool:
        """Read what is there; whether the answer is complete now."""
        data = self.sock.recv(READ_SIZE)
        assert data, f"the connection was closed after {self._answer!r}"
        self._answer += data
        head, found, body = self._answer.partition(b"\r\n\r\n")
        if not found:
            return False
        assert head.startswith(b"HTTP/1.1 202 "), self._answer
        length = int(head.lower().partition(b"content-length:")[2].partition(b"\r\n")[0])
        if len(body) < length:
            return False
        self._answer = b""
        return True


def submit_all(address: tuple[str, int], request: bytes, count: int, concurrent: int) -> float:
    """Seconds until `count` requests are answered, all with 202, by so many clients that are connected already.

    Args:
        address: the producer's.
        request: head and body, the same for all.
        count: of requests.
        concurrent: clients, each with a connection of its own and one request at a time.
    """
    clients = {client.sock.fileno(): client for client in (_Client(address) for _ in range(concurrent))}
    ready = select.epoll()
    for fd in clients:
        ready.register(fd, select.EPOLLIN)
    started = time.perf_counter()
    for client in clients.values():
        client.sock.sendall(request)
    sent, answered = len(clients), 0
    while answered < count:
        assert time.perf_counter() < started + LIMIT, f"{answered} of {count} requests were answered"
        for fd, _event in ready.poll(1):
            if not clients[fd].answered():
                continue
            answered += 1
            if sent < count:
                clients[fd].sock.sendall(request)
                sent += 1
    took = time.perf_counter() - started
    ready.close()
    for client in clients.values():
        client.sock.close()
    return took
