"""HTTP around the application: access log, common headers, and connections that end when they dawdle."""

import asyncio
import logging
import time
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

log = logging.getLogger("warren_producer.access")

HEAD_LIMIT = 10.0
"""Seconds from a connection's start, or from the last answer on it, until the next request's headers are complete.
Bodies have the limit of `body`; without this one, connections that never finish their headers would pile up."""

MAX_HEAD = 64 * 1024
"""Bytes of a request's line and headers."""

MAX_UNREAD = 16 * 1024 * 1024
"""Bytes of a body that are dropped after an early answer. A client whose connection is cut while it sends sees that in
place of the answer, so that it gets the chance to finish."""

QUIET = frozenset({"/healthz", "/readyz", "/metrics"})
"""Paths that are asked for all the time."""


class AccessLog:
    """One line for each answer: method, path, status, milliseconds. No header and no query, so that no token shows.

    Probes, and submits that went well, are logged at debug: thousands of them a second may come.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

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
                    scope["path"],
                    status,
                    (time.perf_counter() - started) * 1000,
                    client[0] if client else "-",
                )


class BoundedProtocol(HttpToolsProtocol):
    """uvicorn's HTTP protocol, with limits on what is not part of a request in work.

    uvicorn itself limits the silence between two requests, but stops that clock at the first byte of the next one, has
    no limit for the first request of a connection, and collects headers without end.
    """

    _clock: asyncio.TimerHandle | None = None
    _unhandled = 0
    """Bytes since the connection's start or the last answer that belong to no request in work."""
    _allowed = MAX_HEAD

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Start the clock for the first request."""
        super().connection_made(transport)
        self._start_clock()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop the clock."""
        self._stop_clock()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Stop the clock once a request is in work; end a connection that sends too much before it is."""
        super().data_received(data)
        if self._in_work():
            self._stop_clock()
            self._unhandled = 0
            return
        self._unhandled += len(data)
        if self._unhandled > self._allowed and not self.transport.is_closing():
            self.send_400_response(f"The headers of a request may have {MAX_HEAD} bytes.")

    def on_response_complete(self) -> None:
        """Start the clock for the next request, and for the rest of a body that nobody wants."""
        unread = self.cycle.more_body
        super().on_response_complete()
        if not self._in_work():
            self._allowed = MAX_UNREAD if unread else MAX_HEAD
            self._start_clock()

    def _in_work(self) -> bool:
        cycle: Any = self.cycle  # None before the first request, whatever uvicorn's annotation says
        return cycle is not None and not cycle.response_complete

    def _start_clock(self) -> None:
        self._stop_clock()
        self._clock = self.loop.call_later(HEAD_LIMIT, self.timeout_keep_alive_handler)

    def _stop_clock(self) -> None:
        if self._clock is not None:
            self._clock.cancel()
            self._clock = None
