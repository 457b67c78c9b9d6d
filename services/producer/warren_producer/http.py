"""HTTP around the application: access log, common headers, and connections that end when they dawdle."""

import asyncio
import json
import logging
import time
import weakref
from collections.abc import Callable
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

log = logging.getLogger("warren_producer.access")

HEAD_LIMIT = 10.0
"""Seconds from a connection's start, or from the last answer on it, until the next request's headers are complete.
Bodies have the limit of `body`; without this one, connections that never finish their headers would pile up."""

MAX_HEAD = 32 * 1024
"""Bytes of a request's line and headers: twice what a task may carry in them."""

MAX_HEADERS = 200
"""Headers of a request: a task's own, and what proxies add. Short ones take far more memory than they have bytes."""

MAX_CONNECTIONS = 3000
"""Connections at a time. With a head as long as it may be on each, they take 150 MiB."""

MAX_UNREAD = 16 * 1024 * 1024
"""Bytes of a body that are dropped after an early answer. A client whose connection is cut while it sends sees that in
place of the answer, so that it gets the chance to finish."""

WRITE_LIMIT = 10.0
"""Seconds in which a client has to read something of an answer that lies ready for it."""

MAX_PIPELINED = 100
"""Requests that a client may send ahead of the answers on one connection."""

MAX_SHOWN = 200
"""Characters of a path in the log; one may have as many as a request's head."""

CONTINUE = b"HTTP/1.1 100 "
"""How the word that the client shall send its body begins."""

VERSIONS = frozenset({"1.0", "1.1"})
BODY_HEADERS = frozenset({b"content-length", b"transfer-encoding"})

QUIET = frozenset({"/healthz", "/readyz", "/metrics"})
"""Paths that are asked for all the time."""


class AccessLog:
    """One line for each answer: method, path, status, milliseconds. No header and no query, so that no token shows.

    Probes, and submits that went well, are logged at debug: thousands of them a second may come.

    Args:
        app: that answers.
        draining: tells whether the program is about to end; then each answer is the last on its connection, so that its
            client sends the next request elsewhere.
    """

    def __init__(self, app: ASGIApp, draining: Callable[[], bool]) -> None:
        self._app = app
        self._draining = draining

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The ASGI application."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = time.perf_counter()
        status = 500

        async def watch(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message.get("headers", ()), (b"x-content-type-options", b"nosniff")]
                if self._draining():
                    message["headers"].append((b"connection", b"close"))
            await send(message)

        try:
            await self._app(scope, receive, watch)
        finally:
            often = status < 400 and (scope["path"] in QUIET or status == 202)
            level = logging.DEBUG if often else logging.INFO
            if log.isEnabledFor(level):
                client = scope.get("client")
                log.log(
                    level,
                    "%s %r %d in %.1f ms for %s",
                    scope["method"],
                    scope["path"][:MAX_SHOWN],
                    status,
                    (time.perf_counter() - started) * 1000,
                    client[0] if client else "-",
                )


class BoundedProtocol(HttpToolsProtocol):
    """uvicorn's HTTP protocol, with limits on what is not part of a request in work, and answers that are true.

    uvicorn itself limits the silence between two requests, but stops that clock at the first byte of the next one, has
    no limit for the first request of a connection, takes connections, headers, trailers and pipelined requests without
    end, and waits for ever for a client that does not read. It answers 400 to bytes that are no HTTP also where a
    request before them is in work, and the client takes that for this one's answer. And it drops a client that ends its
    own side once its request is sent.
    """

    _clock: asyncio.TimerHandle | None = None
    """For the next request's headers; it runs on while a request is in work, and then looks again."""
    _headers_due: float | None = None
    """When these have to be complete, in the loop's time; None while a request is in work."""
    _write_clock: asyncio.TimerHandle | None = None
    """For the client to read what is written."""
    _fruitless = 0
    """Bytes since the last ones that any request gained from: the end of its headers, or a piece of its body."""
    _gained = False
    _unread = 0
    """Bytes of a body that came after the answer."""
    _deaf = False
    """Nothing more is read: the connection ends with the answers to what came before."""
    _headers_done = False
    """Of the last request; what comes as a header after that is a trailer."""
    _head = 0
    """Bytes of the last request's line and headers so far."""
    _refusal = ""
    """Why the request that begins cannot be taken."""
    _broken: RequestResponseCycle | None = None
    """The request whose body will never be complete."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Start the clock for the first request, or answer at once that there are too many connections."""
        super().connection_made(transport)
        if len(self.connections) > MAX_CONNECTIONS:
            self._deaf = True
            text = f"this server has {MAX_CONNECTIONS} connections already: try again in a moment"
            transport.write(_answer("503 Service Unavailable", "overloaded", text, "retry-after: 1\r\n"))
            transport.close()
            return
        self.flow = _Flow(transport, lambda: bool(self.pipeline))
        self._start_clock()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop the clocks."""
        if self._clock is not None:
            self._clock.cancel()
        self._stop_write_clock()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Stop the clock once a request is in work; end a connection that sends too much in vain."""
        if self._deaf:
            return
        self._gained = False
        super().data_received(data)
        if self.transport.is_closing() or self._deaf:
            return
        if self._in_work():
            self._headers_due = None
        self._fruitless = 0 if self._gained else self._fruitless + len(data)
        if self._fruitless > MAX_HEAD:
            self.send_400_response(f"the headers of a request may have {MAX_HEAD} bytes: send less")
        elif self._unread > MAX_UNREAD:
            self.transport.close()

    def eof_received(self) -> bool:  # type: ignore[override]
        """The client sends nothing more; it gets the answers to what it sent before.

        Returns:
            whether the connection stays open for them.
        """
        self._deaf = True
        if not self._in_work():
            return False
        if self.cycle.more_body:
            self._break_off()
        self.cycle.keep_alive = False
        return True

    def send_400_response(self, msg: str) -> None:
        """What came is no HTTP: say so, but after the answers to the requests before it."""
        self._deaf = True
        if self._in_work():
            self.cycle.keep_alive = False
            if self.cycle.more_body:
                self._break_off()
            return
        self.transport.write(_answer("400 Bad Request", "bad_request", self._refusal or msg))
        self.transport.close()
        self._start_write_clock()

    def on_headers_complete(self) -> None:
        """A request has begun, if there is room for it."""
        self._gained = True
        self._headers_done = True
        upgrade = self.parser.should_upgrade()
        if self.parser.get_http_version() not in VERSIONS:
            self._refusal = "this server speaks HTTP/1.1: send the version with the request"
        elif upgrade and any(name in BODY_HEADERS for name, _ in self.headers):
            # The parser takes what follows for another protocol, so that the body would be empty.
            self._refusal = "this server knows no other protocol: leave the header Upgrade out"
        elif len(self.pipeline) >= MAX_PIPELINED:
            self._refusal = f"{MAX_PIPELINED} requests wait on this connection already"
        if self._refusal:
            raise ValueError(self._refusal)
        super().on_headers_complete()
        cycle = self.cycle
        if upgrade:
            cycle.keep_alive = False
            self._deaf = True

        # Weakly, since the request holds what is here: in a circle, it would all lie about until garbage is looked for.
        this = weakref.ref(cycle)

        async def receive() -> Any:
            asked = this()
            if asked is None or asked is self._broken:
                return {"type": "http.disconnect"}
            return await type(asked).receive(asked)

        cycle.receive = receive  # type: ignore[method-assign]
        if self.scope["method"] != "HEAD":
            cycle.transport = Answer(self.transport)  # type: ignore[assignment]  # all that a cycle uses of one

    def on_message_begin(self) -> None:
        """Headers follow."""
        self._headers_done = False
        self._head = 0
        super().on_message_begin()

    def on_url(self, url: bytes) -> None:
        """A piece of the request's line."""
        self._count_head(len(url))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        """A header; what comes after the body is dropped, lest it looks as if it had come before."""
        if self._headers_done:
            return
        self._count_head(len(name) + len(value))
        if len(self.headers) >= MAX_HEADERS:
            self._refusal = f"a request may have {MAX_HEADERS} headers: send fewer"
            raise ValueError(self._refusal)
        super().on_header(name, value)

    def on_body(self, body: bytes) -> None:
        """A piece of a body."""
        self._gained = True
        if self.cycle.response_complete:
            self._unread += len(body)
        super().on_body(body)

    def on_response_complete(self) -> None:
        """Start the clock for the next request, and for the rest of a body that nobody wants."""
        super().on_response_complete()
        self._unread = 0
        if not self._in_work():
            self._start_clock()
        if self.transport.get_write_buffer_size():
            self._start_write_clock()

    def pause_writing(self) -> None:
        """The client reads slower than it is answered."""
        super().pause_writing()
        self._start_write_clock()

    def timeout_keep_alive_handler(self) -> None:
        """Nothing came in time."""
        super().timeout_keep_alive_handler()
        self._start_write_clock()

    def _count_head(self, size: int) -> None:
        self._head += size
        if self._head > MAX_HEAD:
            self._refusal = f"the headers of a request may have {MAX_HEAD} bytes: send less"
            raise ValueError(self._refusal)

    def _in_work(self) -> bool:
        cycle: Any = self.cycle  # None before the first request, whatever uvicorn's annotation says
        return cycle is not None and not cycle.response_complete

    def _break_off(self) -> None:
        self._broken = self.cycle
        self.cycle.message_event.set()

    def _start_clock(self) -> None:
        self._headers_due = self.loop.time() + HEAD_LIMIT
        if self._clock is None:
            self._clock = self.loop.call_at(self._headers_due, self._look_at_headers)

    def _look_at_headers(self) -> None:
        """End the connection if nothing came in time."""
        self._clock = None
        if self._headers_due is None:
            return
        if self.loop.time() >= self._headers_due:
            self.timeout_keep_alive_handler()
        else:
            self._clock = self.loop.call_at(self._headers_due, self._look_at_headers)

    def _start_write_clock(self) -> None:
        if self._write_clock is None:
            left = self.transport.get_write_buffer_size()
            self._write_clock = self.loop.call_later(WRITE_LIMIT, self._look_at_writing, left)

    def _stop_write_clock(self) -> None:
        if self._write_clock is not None:
            self._write_clock.cancel()
            self._write_clock = None

    def _look_at_writing(self, before: int) -> None:
        """Drop a client that has read nothing since the last look."""
        self._write_clock = None
        left = self.transport.get_write_buffer_size()
        if left >= before > 0:
            self.transport.abort()
        elif left:
            self._start_write_clock()


def _answer(status: str, code: str, message: str, more: str = "") -> bytes:
    """An answer that ends its connection; `more` are further header lines, each with its end."""
    body = json.dumps({"error": {"code": code, "message": message}}).encode()
    head = (
        f"HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n"
        f"x-content-type-options: nosniff\r\n{more}connection: close\r\n\r\n"
    )
    return head.encode() + body


class Answer:
    """Where an answer is written: its head waits for the first piece of its body, and both go out in one segment.

    uvicorn writes them by a system call each. Every answer has a body, be it empty, except to HEAD.
    """

    __slots__ = ("_head", "_transport", "is_closing")

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self._head: bytes | None = None
        """None before it is there; empty once it is written."""
        self.is_closing = transport.is_closing

    def write(self, data: bytes) -> None:
        """Write a piece, or keep the head."""
        if self._head is None and not data.startswith(CONTINUE):
            self._head = data
            return
        if self._head:
            data, self._head = self._head + data, b""
        self._transport.write(data)

    def close(self) -> None:
        """End the connection after what was written."""
        if self._head:
            self.write(b"")
        self._transport.close()


class _Flow(FlowControl):
    """Reads nothing more from a client whose requests already wait for their turn."""

    def __init__(self, transport: asyncio.Transport, crowded: Callable[[], bool]) -> None:
        super().__init__(transport)
        self._crowded = crowded

    def resume_reading(self) -> None:
        """Read on, if nothing waits."""
        if not self._crowded():
            super().resume_reading()
