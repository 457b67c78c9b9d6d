"""The producer's HTTP protocol within a test's own loop, and its clients."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable

import uvicorn
from starlette.types import ASGIApp

from warren_producer.http import BoundedProtocol

LIMIT = 30.0
"""Seconds for whatever is awaited."""


@contextlib.asynccontextmanager
async def served(app: ASGIApp, protocol: type[BoundedProtocol]) -> AsyncIterator[int]:
    """The port of a server that speaks as the producer does."""
    config = uvicorn.Config(app, http=protocol, lifespan="off", log_config=None, access_log=False)
    config.load()
    state = uvicorn.Server(config).server_state
    state.default_headers = [(b"date", b"today")]
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: protocol(config, state, {}), "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1]
        for connection in list(state.connections):
            connection.transport.abort()
        await until(lambda: not state.connections)


@contextlib.asynccontextmanager
async def connected(port: int) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """A connection of a client."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        yield reader, writer
    finally:
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()


async def until(reached: Callable[[], bool]) -> None:
    """The server works in the same loop: it gets its turns until this is reached."""
    async with asyncio.timeout(LIMIT):
        while not reached():  # noqa: ASYNC110  uvicorn and the kernel have no event for it
            await asyncio.sleep(0)
