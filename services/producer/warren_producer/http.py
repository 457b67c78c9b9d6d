"""HTTP around the application: access log, common headers, and connections that end when they dawdle."""

import asyncio
import json
import logging
import socket
import sys
import time
import weakref
from collections.abc import Callable, Iterable
from http import HTTPStatus
from typing import Any, ClassVar, Protocol

from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

log = logging.getLogger("warren_producer.access")

HEAD_LIMIT = 10.0
"""Seconds from a connection's start, or from the first byte of its next request, until that request's headers are
complete; and for the rest of a body that nobody wants. Bodies have the limit of `body`; without this one, connections
that never finish their headers would pile up."""

KEEP_ALIVE = 620.0
"""Seconds that a connection may be idle after an answer. Load balancers keep spare ones for one minute to ten, clients
in Go for one and a half, and take one that is there for the next request: where the server is the first to end it, that
request gets no answer now and then. So it waits longest; idle connections make room where others need it."""

MAX_HEAD = 32 * 1024
"""Bytes of a request's line and headers: twice what a task may carry in them."""

MAX_HEADERS = 200
"""Headers of a request: a task's own, and what proxies add. Short ones take far more memory than they have bytes."""

MAX_CONNECTIONS = 3000
"""Connections at a time. With a head as long as it may be on each, they take 150 MiB."""

LOOKS = 32
"""Idle connections that are looked at to find one that can make room, so that a flood of new ones stays cheap."""

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

JSON = (b"content-type", b"application/json")

FRAMING = frozenset({b"content-length", b"connection"})
"""Headers of an answer that follow from what it is."""

TCP_INFO = getattr(socket, "TCP_INFO", None)
"""The kernel's figures on a connection; macOS has others."""

BYTES_ACKED = slice(120, 128)
"""Among them (`tcpi_bytes_acked` of linux/tcp.h, since Linux 4.1)."""

STATUS_LINES = {int(status): f"HTTP/1.1 {status} {status.phrase}\r\n".encode() for status in HTTPStatus}

QUIET = frozenset({"/healthz", "/readyz", "/metrics"})
"""Paths that are asked for all the time."""


class AccessLog:
    """One line for each answer: method, path, status, milliseconds. No header and no query, so that no token shows.

    Probes, and submits that went well, are logged at debug: thousands of them a second may come. And common headers: an
    answer to a client that still waits to be asked for its body is the last on its connection, since some then send the
    body and others do not, and what comes next could be either (RFC 9110, section 10.1.1).

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
        waits = any(name == b"expect" for name, _ in scope["headers"])

        async def ask() -> Message:
            nonlocal waits
            waits = False
            return await receive()

        async def watch(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message.get("headers", ()), (b"x-content-type-options", b"nosniff")]
                if waits or self._draining():
                    message["headers"].append((b"connection", b"close"))
            await send(message)

        try:
            await self._app(scope, ask if waits else receive, watch)
        finally:
            log_answer(scope["method"], scope["path"], status, started, scope.get("client"))


def log_answer(method: str, path: str, status: int, started: float, client: tuple[str, int] | None) -> None:
    """The line of one answer.

    Args:
        method: of the request.
        path: of the request.
        status: of the answer.
        started: when the request was there, by the performance counter.
        client: its address.
    """
    often = status < 400 and (path in QUIET or status == 202)
    level = logging.DEBUG if often else logging.INFO
    if log.isEnabledFor(level):
        took = (time.perf_counter() - started) * 1000
        log.log(
            level, "%s %r %d in %.1f ms for %s", method, path[:MAX_SHOWN], status, took, client[0] if client else "-"
        )


class Respond(Protocol):
    """Sends the answer to a request."""

    def __call__(self, status: int, headers: Iterable[tuple[bytes, bytes]], body: bytes, *, close: bool) -> None:
        """Send it, once; does not raise.

        Args:
            status: of the answer.
            headers: those that only this answer has; without `Content-Length`, or with the right one.
            body: of the answer.
            close: it is the last on its connection.
        """


class Shortcut(Protocol):
    """Answers requests without an ASGI application."""

    def takes(self, target: bytes) -> bool:
        """Whether it is to be asked for a POST to this target."""

    def begin(self, target: bytes, headers: list[tuple[bytes, bytes]], body: bytes, respond: Respond) -> bool:
        """Take a request that is there as a whole, and call `respond` in its time.

        Returns:
            False to leave it to the application.
        """


class BoundedProtocol(HttpToolsProtocol):
    """uvicorn's HTTP protocol, with limits on what is not part of a request in work, and answers that are true.

    uvicorn itself limits the silence between two requests, but stops that clock at the first byte of the next one, has
    no limit for the first request of a connection, takes connections, headers, trailers and pipelined requests without
    end, and waits for ever for a client that does not read. It answers 400 to bytes that are no HTTP also where a
    request before them is in work, and the client takes that for this one's answer. And it drops a client that ends its
    own side once its request is sent.

    Where there are too many connections, a new one takes the place of the one that has been idle longest: connections
    that say nothing are the cheapest to open, and a liveness probe that was refused would end a healthy process.

    Attributes:
        shortcut: is asked first, for a request that came in one piece with nothing before it in work.
        max_connections: at a time.
    """

    shortcut: Shortcut | None = None
    max_connections = MAX_CONNECTIONS

    _idle: ClassVar[dict["BoundedProtocol", None]] = {}
    """All connections without a request in work, the longest idle first."""

    _held: list[bytes] | None = None
    """The body, so far, of a request that the shortcut may take."""
    _clock: asyncio.TimerHandle | None = None
    """For what has to come; it runs on while a request is in work, and then looks again."""
    _due: float | None = None
    """When the next request has to begin or, once it has, its headers must be complete; in the loop's time. None while
    a request is in work."""
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
        """Start the clock for the first request, or answer at once that there are too many requests in work."""
        super().connection_made(transport)
        if len(self.connections) > self.max_connections and not self._make_room():
            self._deaf = True
            text = f"this server has {self.max_connections} requests in work already: try again in a moment"
            transport.write(_refusal(503, "overloaded", text, (b"retry-after", b"1")))
            transport.close()
            return
        self.flow = _Flow(transport, lambda: bool(self.pipeline))
        self.timeout_keep_alive = KEEP_ALIVE  # type: ignore[assignment]  # uvicorn has whole seconds, asyncio any
        self._rest()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop the clocks."""
        self._idle.pop(self, None)
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
        if self._held is not None:  # it came in several pieces
            self._begin_request()
        if self.transport.is_closing() or self._deaf:
            return
        if self._in_work():
            self._due = None
            self._idle.pop(self, None)
        elif self._under_way():
            self._expect_within(HEAD_LIMIT)
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
        self.transport.write(_refusal(400, "bad_request", self._refusal or msg))
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
        if self.parser.get_http_version() == "1.0":
            self.expect_100_continue = False  # a client of that version knows no answer before the answer
        if self._may_take_shortcut() and not upgrade:
            self._held = []
            return
        self._begin_request()

    def _may_take_shortcut(self) -> bool:
        return (
            self.shortcut is not None
            and self.parser.get_method() == b"POST"
            and self.shortcut.takes(self.url)
            and self.parser.get_http_version() == "1.1"
            and not self.expect_100_continue
            and not self._in_work()
            and not self.flow.write_paused
        )

    def _begin_request(self) -> None:
        """Have the application answer; what has come of the body follows."""
        super().on_headers_complete()
        cycle = self.cycle
        held, self._held = self._held, None
        upgrade = self.parser.should_upgrade()
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
        for piece in held or ():
            self.on_body(piece)

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
        if self._held is not None:
            self._held.append(body)
            return
        if self.cycle.response_complete:
            self._unread += len(body)
        super().on_body(body)

    def on_message_complete(self) -> None:
        """The request is there as a whole."""
        if self._held is not None:
            if self._take_shortcut(self._held):
                return
            self._begin_request()
        super().on_message_complete()
        if self.cycle.response_complete:  # and now, at last, its body has come
            self.cycle.more_body = False
            self._due = None
            self._expect_within(KEEP_ALIVE)

    def _take_shortcut(self, pieces: list[bytes]) -> bool:
        shortcut = self.shortcut
        if shortcut is None:
            return False
        cycle = _Short(self, keep_alive=self.parser.should_keep_alive())
        if not shortcut.begin(self.url, self.headers, b"".join(pieces), cycle.respond):
            return False
        self._held = None
        self.cycle = cycle  # type: ignore[assignment]  # all that the protocol uses of one
        return True

    def on_response_complete(self) -> None:
        """Start the clock for the next request, and for the rest of a body that nobody wants."""
        super().on_response_complete()
        self._unread = 0
        if not self._in_work():
            self._rest()
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

    def _make_room(self) -> bool:
        """Close the connection that has been idle longest; whether there is one."""
        for _ in range(min(LOOKS, len(self._idle))):
            oldest = next(iter(self._idle))
            del self._idle[oldest]
            if oldest.transport.get_write_buffer_size():
                self._idle[oldest] = None  # its client still reads the last answer
            else:
                oldest.transport.close()
                return True
        return False

    def _under_way(self) -> bool:
        """Whether a part has come of a request that is not in work: of its headers, or of a body that nobody wants."""
        cycle: Any = self.cycle
        return not self._headers_done or (cycle is not None and cycle.more_body)

    def _rest(self) -> None:
        """No request is in work."""
        self._idle.pop(self, None)
        self._idle[self] = None
        self._expect_within(HEAD_LIMIT if self._under_way() else KEEP_ALIVE)

    def _expect_within(self, seconds: float) -> None:
        """End the connection if nothing comes in so many seconds, unless it is to end sooner already."""
        due = self.loop.time() + seconds
        if self._due is not None and self._due <= due:
            return
        self._due = due
        if self._clock is not None and self._clock.when() > due:
            self._clock.cancel()
            self._clock = None
        if self._clock is None:
            self._clock = self.loop.call_at(due, self._look_at_clock)

    def _look_at_clock(self) -> None:
        """End the connection if nothing came in time."""
        self._clock = None
        if self._due is None:
            return
        if self.loop.time() >= self._due:
            self.timeout_keep_alive_handler()
        else:
            self._clock = self.loop.call_at(self._due, self._look_at_clock)

    def _start_write_clock(self) -> None:
        if self._write_clock is None:
            left = self.transport.get_write_buffer_size()
            self._write_clock = self.loop.call_later(
                WRITE_LIMIT, self._look_at_writing, left, _acknowledged(self.transport)
            )

    def _stop_write_clock(self) -> None:
        if self._write_clock is not None:
            self._write_clock.cancel()
            self._write_clock = None

    def _look_at_writing(self, before: int, acknowledged: int) -> None:
        """Drop a client that has read nothing since the last look.

        Args:
            before: bytes that were to be written then.
            acknowledged: of those written before, what had arrived then. The kernel takes more only when a good part of
                its own megabytes has gone: a slow client may read for minutes before less is left here.
        """
        self._write_clock = None
        left = self.transport.get_write_buffer_size()
        if left >= before > 0 and _acknowledged(self.transport) == acknowledged:
            self.transport.abort()
        elif left:
            self._start_write_clock()


def _acknowledged(transport: asyncio.Transport) -> int:
    """Bytes that have arrived at the other end, since the start; 0 where the kernel does not tell."""
    connection = transport.get_extra_info("socket")
    if connection is None or TCP_INFO is None:
        return 0
    try:
        told = connection.getsockopt(socket.IPPROTO_TCP, TCP_INFO, BYTES_ACKED.stop)
    except OSError:
        return 0  # such as a connection that is gone
    return int.from_bytes(told[BYTES_ACKED], sys.byteorder)


def _refusal(status: int, code: str, message: str, *headers: tuple[bytes, bytes]) -> bytes:
    """An answer that ends its connection."""
    body = json.dumps({"error": {"code": code, "message": message}}).encode()
    return _answer(status, (JSON, *headers), body, close=True)


def _answer(status: int, headers: Iterable[tuple[bytes, bytes]], body: bytes, *, close: bool) -> bytes:
    """An answer as it is sent; those of `headers` that follow from what it is are left out."""
    lines = [STATUS_LINES[status]]
    for name, value in headers:
        if name not in FRAMING:
            lines += (name, b": ", value, b"\r\n")
    lines.append(b"content-length: %d\r\nx-content-type-options: nosniff\r\n" % len(body))
    lines.append(b"connection: close\r\n\r\n" if close else b"\r\n")
    lines.append(body)
    return b"".join(lines)


class _Nobody:
    """An event that nobody waits for."""

    def set(self) -> None:
        """Nothing follows."""


NOBODY = _Nobody()


class _Short:
    """A request that took the shortcut: stands where uvicorn's protocol has the request in work.

    Args:
        protocol: of its connection.
        keep_alive: whether that stays open after the answer.
    """

    __slots__ = ("_protocol", "_started", "_target", "disconnected", "keep_alive", "response_complete")

    more_body = False
    message_event = NOBODY

    def __init__(self, protocol: BoundedProtocol, *, keep_alive: bool) -> None:
        self._protocol = protocol
        self._started = time.perf_counter()
        self._target = protocol.url
        self.keep_alive = keep_alive
        self.disconnected = False
        self.response_complete = False

    def respond(self, status: int, headers: Iterable[tuple[bytes, bytes]], body: bytes, *, close: bool) -> None:
        """Send the answer, unless the client is gone; its connection is the only one that a mistake in here ends."""
        protocol = self._protocol
        if self.disconnected:
            return
        try:
            self.keep_alive = self.keep_alive and not close
            every = (*protocol.server_state.default_headers, *headers)
            protocol.transport.write(_answer(status, every, body, close=not self.keep_alive))
            self.response_complete = True
            log_answer("POST", self._target.decode("ascii"), status, self._started, protocol.client)
            if not self.keep_alive:
                protocol.transport.close()
            protocol.on_response_complete()
        except Exception:
            log.exception("an answer could not be sent")
            protocol.transport.abort()


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
