"""What a connection may cost the producer, whoever opens it: memory, and time of all others."""

import asyncio
import contextlib
import gc
from collections.abc import AsyncIterator, Iterator
from functools import partial

import pytest
from serving import LIMIT, connected, served, until
from starlette.types import Receive, Scope, Send

from warren_producer import http
from warren_producer.body import RawHeaders
from warren_producer.http import MAX_HEAD, MAX_HEADERS, AccessLog, BoundedProtocol, Respond, _acknowledged

REQUESTS = 100
REQUEST = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nHello"


async def app(_scope: Scope, receive: Receive, send: Send) -> None:
    """Reads the body and sends it back."""
    body, more = b"", True
    while more:
        message = await receive()
        body += message["body"]
        more = message["more_body"]
    headers = [(b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": 202, "headers": headers})
    await send({"type": "http.response.body", "body": body})


@pytest.fixture
async def port() -> AsyncIterator[int]:
    """Of such a server without a shortcut."""
    async with served(app, BoundedProtocol) as port:
        yield port


class Upper:
    """A shortcut for requests to `/short`: answers their body in capitals a little later, but refuses an empty one."""

    def __init__(self) -> None:
        self.taken = 0
        self.began = asyncio.Event()

    def takes(self, target: bytes) -> bool:
        return target == b"/short"

    def begin(self, _target: bytes, headers: RawHeaders, body: bytes, respond: Respond) -> bool:
        if not body:
            return False
        assert dict(headers)[b"host"] == b"x"
        self.taken += 1
        self.began.set()
        more = [(b"x-more", b"yes"), (b"content-length", b"5")]
        asyncio.get_running_loop().call_later(0.01, partial(respond, 202, more, body.upper(), close=body == b"close"))
        return True


@pytest.fixture
async def shortcut() -> AsyncIterator[tuple[int, Upper]]:
    """The port of a server with a shortcut, and that."""
    upper = Upper()

    class WithShortcut(BoundedProtocol):
        shortcut = upper

    async with served(app, WithShortcut) as port:
        yield port, upper


@contextlib.contextmanager
def no_circles() -> Iterator[None]:
    """In this block `REQUESTS` are answered, and leave nothing that only a search for garbage finds."""
    gc.collect()
    gc.disable()
    try:
        yield
        assert gc.collect() < REQUESTS / 2, "less than one thing for each"
    finally:
        gc.enable()


async def bodies(reader: asyncio.StreamReader, count: int) -> list[bytes]:
    """Of so many answers."""
    found = []
    for _ in range(count):
        head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), LIMIT)
        assert head.startswith(b"HTTP/1.1 202 Accepted\r\n")
        assert head.count(b"content-length: 5\r\n") == 1
        assert head.count(b"date: ") == 1
        found.append(await asyncio.wait_for(reader.readexactly(5), LIMIT))
    return found


SHORT = REQUEST.replace(b"POST /", b"POST /short")


async def test_a_whole_request_takes_the_shortcut_and_its_connection_goes_on(shortcut: tuple[int, Upper]) -> None:
    port, upper = shortcut
    async with connected(port) as (reader, writer):
        for taken in (1, 2, 3):
            writer.write(SHORT)
            assert await bodies(reader, 1) == [b"HELLO"]
            assert upper.taken == taken
        writer.write(SHORT.replace(b"Hello", b"close"))
        last = await asyncio.wait_for(reader.read(), LIMIT)
    assert b"connection: close\r\n" in last
    assert last.endswith(b"CLOSE")


async def test_answers_come_in_the_order_of_the_requests_whichever_way_these_go(shortcut: tuple[int, Upper]) -> None:
    port, upper = shortcut
    async with connected(port) as (reader, writer):
        writer.write(SHORT + SHORT + REQUEST + SHORT)
        found = await bodies(reader, 4)
        assert found == [b"HELLO", b"Hello", b"Hello", b"Hello"], "only the first found nothing in work"
        writer.write(REQUEST)
        assert await bodies(reader, 1) == [b"Hello"]
        writer.write(SHORT)
        assert await bodies(reader, 1) == [b"HELLO"]
    assert upper.taken == 2


@pytest.mark.parametrize("cut", range(1, len(SHORT)))
async def test_a_request_in_pieces_goes_the_ordinary_way_as_a_whole(shortcut: tuple[int, Upper], cut: int) -> None:
    port, upper = shortcut
    async with connected(port) as (reader, writer):
        writer.write(SHORT[:cut])
        await writer.drain()
        # The server has read the first piece by itself once it answers a request that came after it elsewhere.
        async with connected(port) as (other, to_other):
            to_other.write(REQUEST)
            await bodies(other, 1)
        writer.write(SHORT[cut:])
        whole = cut < SHORT.index(b"Hello")  # the second piece has the end of the head, and all of the body
        assert await bodies(reader, 1) == [b"HELLO" if whole else b"Hello"]
    assert upper.taken == whole


async def test_what_the_shortcut_refuses_the_application_answers(shortcut: tuple[int, Upper]) -> None:
    port, upper = shortcut
    async with connected(port) as (reader, writer):
        writer.write(SHORT.replace(b"Content-Length: 5", b"Content-Length: 0").removesuffix(b"Hello"))
        head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), LIMIT)
    assert head.startswith(b"HTTP/1.1 202 ")
    assert upper.taken == 0


@pytest.mark.parametrize(
    "other",
    [
        SHORT.replace(b"POST", b"PUT"),
        SHORT.replace(b"/short", b"/other"),
        SHORT.replace(b"HTTP/1.1", b"HTTP/1.0"),
        SHORT.replace(b"Host: x", b"Host: x\r\nExpect: 100-continue"),
    ],
    ids=["method", "target", "version", "expect"],
)
async def test_no_other_request_takes_the_shortcut(shortcut: tuple[int, Upper], other: bytes) -> None:
    port, upper = shortcut
    async with connected(port) as (reader, writer):
        writer.write(other)
        assert await asyncio.wait_for(reader.readuntil(b"Hello"), LIMIT)
    assert upper.taken == 0


async def test_a_client_that_is_gone_before_the_answer_harms_nobody(shortcut: tuple[int, Upper]) -> None:
    port, upper = shortcut
    async with connected(port) as (_, hasty):
        hasty.write(SHORT)
        async with asyncio.timeout(LIMIT):
            await upper.began.wait()
        hasty.transport.abort()
    async with connected(port) as (reader, writer):
        for _ in range(3):
            writer.write(SHORT)
            assert await bodies(reader, 1) == [b"HELLO"]
    assert upper.taken == 4


async def test_the_shortcut_leaves_no_circles(shortcut: tuple[int, Upper]) -> None:
    port, _ = shortcut
    async with connected(port) as (reader, writer):
        for _ in range(10):
            writer.write(SHORT)
            await bodies(reader, 1)
        with no_circles():
            for _ in range(REQUESTS):
                writer.write(SHORT)
                await bodies(reader, 1)


async def refusing(scope: Scope, receive: Receive, send: Send) -> None:
    """Answers requests to `/no` without a look at their body."""
    if scope["path"] != "/no":
        await app(scope, receive, send)
        return
    await send({"type": "http.response.start", "status": 401, "headers": [(b"content-length", b"0")]})
    await send({"type": "http.response.body", "body": b""})


EXPECTING = REQUEST.replace(b"\r\n\r\nHello", b"\r\nExpect: 100-continue\r\n\r\n")


async def test_a_client_that_waits_to_be_asked_for_its_body_gets_no_other_answer_in_its_place() -> None:
    """It need not send the body after an answer; then the next request would be taken for that."""
    async with served(AccessLog(refusing, draining=lambda: False), BoundedProtocol) as port:
        async with connected(port) as (reader, writer):
            writer.write(EXPECTING.replace(b"POST /", b"POST /no"))
            answer = await asyncio.wait_for(reader.read(), LIMIT)  # up to the end of the connection
            assert answer.startswith(b"HTTP/1.1 401 Unauthorized\r\n")
            assert b"\r\nconnection: close\r\n" in answer
        async with connected(port) as (reader, writer):
            for _ in range(2):
                writer.write(EXPECTING)
                asked = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), LIMIT)
                assert asked == b"HTTP/1.1 100 Continue\r\n\r\n"
                writer.write(b"Hello")
                assert await bodies(reader, 1) == [b"Hello"]


async def test_a_client_of_http_1_0_is_not_asked_for_its_body(port: int) -> None:
    async with connected(port) as (reader, writer):
        writer.write(EXPECTING.replace(b"HTTP/1.1", b"HTTP/1.0") + b"Hello")
        assert await bodies(reader, 1) == [b"Hello"]


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
    with no_circles():
        await ask(REQUESTS // at_once)
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


BRIEF = 0.3
"""Seconds in place of a limit that is awaited. A busy machine has to have answered within it."""


async def silence_ends(port: int) -> None:
    """Wait until a connection that says nothing has ended: so long, all others have had the limit for heads as well."""
    assert await answer(port, b"") == b""


@pytest.mark.parametrize("between", [b"", b"\r\n"], ids=["nothing", "a stray line end"])
async def test_a_connection_may_be_idle_for_longer_than_a_head_may_take(
    port: int, monkeypatch: pytest.MonkeyPatch, between: bytes
) -> None:
    monkeypatch.setattr(http, "HEAD_LIMIT", BRIEF)
    async with connected(port) as (reader, writer):
        for _ in range(3):
            writer.write(REQUEST)
            assert await bodies(reader, 1) == [b"Hello"]
            writer.write(between)
            await silence_ends(port)


@pytest.mark.parametrize("between", [b"", b"\r\n"], ids=["nothing", "a stray line end"])
async def test_an_idle_connection_ends_in_the_end(port: int, monkeypatch: pytest.MonkeyPatch, between: bytes) -> None:
    monkeypatch.setattr(http, "KEEP_ALIVE", BRIEF)
    assert (await answer(port, REQUEST + between)).endswith(b"Hello")


@pytest.mark.parametrize("at_once", [True, False], ids=["with the request before", "after the answer"])
@pytest.mark.parametrize("begun", [b"P", b"POST / HTTP/1.1\r\na: b", REQUEST.partition(b"\r\n\r\n")[0]])
async def test_a_head_that_has_begun_has_to_be_complete_soon(
    port: int, monkeypatch: pytest.MonkeyPatch, begun: bytes, *, at_once: bool
) -> None:
    monkeypatch.setattr(http, "HEAD_LIMIT", BRIEF)
    async with connected(port) as (reader, writer):
        writer.write(REQUEST + begun if at_once else REQUEST)
        assert await bodies(reader, 1) == [b"Hello"]
        writer.write(b"" if at_once else begun)
        assert await asyncio.wait_for(reader.read(), LIMIT) == b""


async def test_a_body_that_nobody_wants_has_to_come_soon_and_then_the_connection_goes_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def at_once(_scope: Scope, _receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 202, "headers": [(b"content-length", b"5")]})
        await send({"type": "http.response.body", "body": b"Never"})

    monkeypatch.setattr(http, "HEAD_LIMIT", BRIEF)
    async with served(at_once, BoundedProtocol) as port:
        assert (await answer(port, REQUEST[:-1])).endswith(b"Never")
        async with connected(port) as (reader, writer):
            for _ in range(3):
                writer.write(REQUEST[:-1])
                assert await bodies(reader, 1) == [b"Never"]
                writer.write(REQUEST[-1:])
                await silence_ends(port)


CLOSING = REQUEST.replace(b"Host: x", b"Connection: close")


async def test_a_new_connection_takes_the_place_of_the_longest_idle_one(
    port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether that never said anything, has half said it, or was served before."""
    monkeypatch.setattr(BoundedProtocol, "max_connections", 2)

    async def served_in_place_of(longest_idle: asyncio.StreamReader) -> None:
        assert (await answer(port, CLOSING)).startswith(b"HTTP/1.1 202 ")
        assert await asyncio.wait_for(longest_idle.read(), LIMIT) == b""
        await until(lambda: len(BoundedProtocol._idle) == 1)

    async with connected(port) as (silent, _), connected(port) as (used, to_used):
        to_used.write(REQUEST)
        await bodies(used, 1)
        await served_in_place_of(silent)
        async with connected(port) as (half, to_half):
            to_half.write(REQUEST[:20])
            to_used.write(REQUEST)
            await bodies(used, 1)
            await served_in_place_of(half)
        async with connected(port) as (fresh, to_fresh):
            to_fresh.write(REQUEST)
            await bodies(fresh, 1)
            await served_in_place_of(used)


async def test_where_all_have_a_request_in_work_a_new_one_is_told_so(
    port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(BoundedProtocol, "max_connections", 2)
    async with connected(port) as (first, to_first), connected(port) as (second, to_second):
        for writer in (to_first, to_second):
            writer.write(REQUEST[:-1])
        await until(lambda: not BoundedProtocol._idle)
        found = await answer(port, b"")
        assert found.startswith(b"HTTP/1.1 503 ")
        assert b"retry-after: 1" in found
        assert b"overloaded" in found
        for reader, writer in ((first, to_first), (second, to_second)):
            writer.write(REQUEST[-1:])
            assert await bodies(reader, 1) == [b"Hello"]
        assert (await answer(port, CLOSING)).startswith(b"HTTP/1.1 202 "), "both are idle now"


BULK = 16 * 1024 * 1024
"""Bytes of an answer: more than the kernel's buffers hold."""


@contextlib.asynccontextmanager
async def with_much_to_read(
    port: int,
) -> AsyncIterator[tuple[asyncio.StreamReader, BoundedProtocol]]:
    """A client that has such an answer before it, and the server's end of its connection."""
    async with connected(port) as (reader, writer):
        head = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % BULK
        await until(lambda: bool(BoundedProtocol._idle))
        (protocol,) = BoundedProtocol._idle
        writer.write(head + bytes(BULK))
        await until(lambda: protocol.transport.get_write_buffer_size() > 0)
        yield reader, protocol


async def test_a_connection_whose_answer_is_still_read_makes_room_for_nobody(
    port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(BoundedProtocol, "max_connections", 1)
    async with with_much_to_read(port) as (reader, protocol):
        assert protocol in BoundedProtocol._idle
        assert (await answer(port, CLOSING)).startswith(b"HTTP/1.1 503 ")
        assert len(await asyncio.wait_for(reader.readexactly(BULK), LIMIT)) == BULK


async def test_a_client_that_reads_anything_is_waited_for_and_one_that_does_not_is_dropped(port: int) -> None:
    """Also while the kernel's own buffer is so full that nothing more is taken from ours."""
    async with with_much_to_read(port) as (reader, protocol):
        transport = protocol.transport

        def look(before: int) -> None:
            """As the clock does, when there is as much to write as `before`."""
            protocol._look_at_writing(transport.get_write_buffer_size(), before)

        for _ in range(3):
            before = _acknowledged(transport)
            await asyncio.wait_for(reader.readexactly(256 * 1024), LIMIT)
            await until(lambda: _acknowledged(transport) > before)  # noqa: B023  awaited right here
            look(before)
            assert not transport.is_closing()

        def dropped() -> bool:
            look(_acknowledged(transport))
            return transport.is_closing()

        await until(dropped)


async def test_where_the_kernel_tells_nothing_what_is_left_here_counts(
    port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http, "TCP_INFO", None)
    async with with_much_to_read(port) as (_, protocol):
        left = protocol.transport.get_write_buffer_size()
        protocol._look_at_writing(left + 1, 0)
        assert not protocol.transport.is_closing()
        protocol._look_at_writing(protocol.transport.get_write_buffer_size(), 0)
        assert protocol.transport.is_closing()
