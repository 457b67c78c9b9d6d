"""What a connection may cost the producer, whoever opens it: memory, and time of all others."""

import asyncio
import contextlib
import gc
from collections.abc import AsyncIterator

import pytest
import uvicorn
from starlette.types import Receive, Scope, Send

from warren_producer import http
from warren_producer.http import MAX_HEAD, MAX_HEADERS, BoundedProtocol

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
    """What only a search for garbage would find: that search stops all other requests."""
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


async def answer(port: int, request: bytes) -> bytes:
    """All that comes until the connection ends."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(request)
        return await asyncio.wait_for(reader.read(), LIMIT)
    finally:
        writer.close()


@pytest.mark.parametrize(
    ("head", "said"),
    [
        (b"GET / HTTP/1.1\r\n" + b"a:\r\n" * (MAX_HEADERS + 2), f"{MAX_HEADERS} headers"),
        (b"GET / HTTP/1.1\r\na: " + b"x" * MAX_HEAD + b"\r\n\r\n", f"{MAX_HEAD} bytes"),
        (b"GET /" + b"x" * MAX_HEAD + b" HTTP/1.1\r\n\r\n", f"{MAX_HEAD} bytes"),
    ],
    ids=["many", "long", "long path"],
)
async def test_a_head_that_is_too_much_is_refused_before_it_is_complete(port: int, head: bytes, said: str) -> None:
    found = await answer(port, head)
    assert found.startswith(b"HTTP/1.1 400 ")
    assert said.encode() in found


async def test_a_flood_of_headers_ends_the_connection(port: int) -> None:
    """In one piece, and far more than is read at a time: what is not read any more may cost the client the answer."""
    with contextlib.suppress(ConnectionError):
        assert b"202" not in await answer(port, b"POST / HTTP/1.1\r\n" + b"a:\r\n" * 100_000 + b"\r\n")


async def test_a_head_with_as_much_as_it_may_have_is_taken(port: int) -> None:
    lines = b"".join(b"x-%d: %s\r\n" % (number, b"y" * 100) for number in range(MAX_HEADERS - 2))
    request = b"POST / HTTP/1.1\r\nContent-Length: 5\r\nConnection: close\r\n" + lines + b"\r\nHello"
    assert (await answer(port, request)).startswith(b"HTTP/1.1 202 ")


async def test_a_connection_too_many_is_told_so_and_the_next_one_is_taken(
    port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http, "MAX_CONNECTIONS", 2)
    idle = [await asyncio.open_connection("127.0.0.1", port) for _ in range(2)]
    found = await answer(port, b"")
    assert found.startswith(b"HTTP/1.1 503 ")
    assert b"retry-after: 1" in found
    assert b"overloaded" in found
    idle[0][1].close()
    await idle[0][1].wait_closed()
    assert await idle[1][0].read(0) == b"", "the other one is still there"
    closing = REQUEST.replace(b"Host: x", b"Connection: close")
    async with asyncio.timeout(LIMIT):
        while not found.startswith(b"HTTP/1.1 202 "):  # the server may notice a moment later
            found = await answer(port, closing)
    idle[1][1].close()
