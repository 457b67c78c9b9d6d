"""A request must leave nothing behind that only a search for garbage would find: that search stops all other ones."""

import asyncio
import gc
from collections.abc import AsyncIterator

import pytest
import uvicorn
from starlette.types import Receive, Scope, Send

from warren_producer.http import BoundedProtocol

REQUESTS = 100
REQUEST = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nHello"
LIMIT = 30.0


async def app(_scope: Scope, receive: Receive, send: Send) -> None:
    """Reads the body and sends it back."""
    message = await receive()
    await send({"type": "http.response.start", "status": 202, "headers": [(b"content-length", b"5")]})
    await send({"type": "http.response.body", "body": message["body"]})


@pytest.fixture
async def port() -> AsyncIterator[int]:
    """Of a server that speaks as the producer does."""
    config = uvicorn.Config(app, http=BoundedProtocol, lifespan="off", log_config=None, access_log=False)
    config.load()
    state = uvicorn.Server(config).server_state
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: BoundedProtocol(config, state, {}), "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1]


@pytest.mark.parametrize("at_once", [1, 10], ids=["one by one", "pipelined"])
async def test_requests_leave_no_circles(port: int, at_once: int) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)

    async def ask(times: int) -> None:
        for _ in range(times):
            writer.write(REQUEST * at_once)
            for _ in range(at_once):
                head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), LIMIT)
                assert head.startswith(b"HTTP/1.1 202 ")
                assert await reader.readexactly(5) == b"Hello"

    await ask(10)  # what is made once is there then
    gc.collect()
    gc.disable()
    try:
        await ask(REQUESTS // at_once)
        assert gc.collect() < REQUESTS / 2, "less than one thing for each"
    finally:
        gc.enable()
        writer.close()
        await writer.wait_closed()
