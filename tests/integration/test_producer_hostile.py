"""Hostile bytes on the producer's socket: it survives, its memory stays bounded, and what it says of a task is true."""

import json
import re
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import httpx
import pytest
from brokers import Broker, declare_work_queue
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pika.adapters.blocking_connection import BlockingChannel
from producers import (
    SUBMIT_TOKEN,
    Producer,
    producer_environment,
    ready_producer,
    running_producer,
    submit_head,
)
from waiting import eventually

QUEUE = "hostile"
TOKEN = f"Authorization: Bearer {SUBMIT_TOKEN}\r\n".encode()
SUBMIT = f"POST /v1/queues/{QUEUE}/tasks HTTP/1.1\r\nHost: x\r\n".encode() + TOKEN
CHUNKED = b"Transfer-Encoding: chunked\r\n\r\n"
BATCH = SUBMIT.replace(b"/tasks ", b"/tasks:batch ")
MEMORY = 64 * 1024 * 1024
"""Bytes that an attack may add to the producer's memory: far less than what it sends."""

_STATUS = re.compile(rb"HTTP/1\.1 (\d\d\d) ")


@pytest.fixture(scope="module", autouse=True)
def queue(broker: Broker) -> None:
    with broker.channel() as channel:
        declare_work_queue(channel, QUEUE)


@pytest.fixture(scope="module")
def producer_settings() -> dict[str, str]:
    return {"WARREN_SUBMIT_TIMEOUT": "2s"}


@pytest.fixture
def channel(broker: Broker) -> Iterator[BlockingChannel]:
    with broker.channel() as opened:
        yield opened


@pytest.fixture(autouse=True)
def it_survives(broker: Broker, producer: Producer) -> Iterator[None]:
    """After each test: no traceback, no token in the log, and it still works."""
    with broker.channel() as channel:
        channel.queue_purge(QUEUE)
    yield
    said = producer.log.read_text()
    assert "Traceback" not in said, said[-5000:]
    assert SUBMIT_TOKEN not in said
    with producer.client() as client:
        assert client.post(f"/v1/queues/{QUEUE}/tasks", content=b"still there").status_code == 202


def exchange(producer: Producer, data: bytes) -> bytes:
    """Everything that the producer answers to these bytes and the end of the client's side."""
    with producer.connect() as connection:
        with suppress(ConnectionError):
            connection.sendall(data)
            connection.shutdown(socket.SHUT_WR)
        return read_all(connection)


def read_all(connection: socket.socket) -> bytes:
    answer = b""
    with suppress(ConnectionError):
        while piece := connection.recv(65_536):
            answer += piece
    return answer


def statuses(answer: bytes) -> list[int]:
    return [int(status) for status in _STATUS.findall(answer)]


@pytest.mark.parametrize(
    "data",
    [
        b"\x00\x01\x02\xff\xfe\r\n\r\n",
        b"GET /healthz\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(500),
        b"GET /healthz HTTP/9.9\r\nHost: x\r\n\r\n",
        b"BREW /healthz HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET /\xff HTTP/1.1\r\nHost: x\r\n\r\n",
        b"CONNECT x:1 HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET /healthz HTTP/1.1\r\nHost x\r\n\r\n",
        b"GET /healthz HTTP/1.1\r\nBad Name: x\r\n\r\n",
        b"GET /healthz HTTP/1.1\r\nX: a\x00b\r\n\r\n",
        b"GET /healthz HTTP/1.1\r\n: x\r\n\r\n",
        SUBMIT + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        SUBMIT + b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n",
        SUBMIT + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\nHello!",
        SUBMIT + b"Content-Length: 5, 5\r\n\r\nHello",
        SUBMIT + b"Content-Length: -1\r\n\r\n",
        SUBMIT + b"Content-Length: 0x5\r\n\r\nHello",
        SUBMIT + b"Content-Length: 99999999999999999999999999\r\n\r\n",
        SUBMIT + b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
        SUBMIT + b"Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n",
        SUBMIT + b"Transfer-Encoding: chunked\r\n\r\nzz\r\nHello\r\n0\r\n\r\n",
        SUBMIT + b"Transfer-Encoding: chunked\r\n\r\n-5\r\nHello\r\n0\r\n\r\n",
        SUBMIT + b"Transfer-Encoding: chunked\r\n\r\n4\r\nHello\r\n0\r\n\r\n",
        SUBMIT + b"Transfer-Encoding: chunked\r\n\r\nffffffffffffffffff\r\nHello\r\n0\r\n\r\n",
        SUBMIT + b"Transfer-Encoding: chunked\r\n\r\n5\r\nHello\r\n",
        SUBMIT + b"Content-Length: 50\r\n\r\nHello",
        SUBMIT + b"Content-Length: 5\r\n Transfer-Encoding: chunked\r\n\r\nHello",
        SUBMIT + b"Content-Length\x00: 5\r\n\r\nHello",
    ],
    ids=lambda data: repr(data.replace(SUBMIT, b""))[2:50],
)
def test_what_is_no_http_is_400_and_leaves_nothing(broker: Broker, producer: Producer, data: bytes) -> None:
    answer = exchange(producer, data)
    assert statuses(answer) == [400], answer
    assert json.loads(answer.partition(b"\r\n\r\n")[2])["error"]["code"] == "bad_request"
    assert b"connection: close" in answer.lower()
    assert broker.ready(QUEUE) == 0


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/v1/queues/%ff%fe", 422),
        ("/v1/queues/a%00b", 422),
        ("/v1/queues/a%0d%0aX-Injected:%20yes", 422),
        ("/v1/queues/%E2%80%AE", 422),
        ("/v1/queues/%", 422),
        ("/v1/queues/%zz", 422),
        ("/v1/queues/" + "a" * 30_000, 422),
        ("/v1/queues/" + "%41" * 10_000, 422),
        ("/v1/queues/..%2f..%2fetc%2fpasswd", 404),
        ("/v1/queues/../../etc/passwd", 404),
        ("/docs/..%2f..%2fapp.py", 404),
        ("/docs/%2e%2e/app.py", 404),
        ("//v1/queues", 404),
        ("/V1/queues", 404),
        ("/v1/queues/a/tasks?token=x", 405),
        ("/v1/queues?" + "a=%ff&" * 5000, 200),
        ("http://elsewhere/v1/queues", 200),
    ],
    ids=lambda value: str(value)[:40],
)
def test_tricks_with_paths_are_answered_as_any_other(producer: Producer, path: str, status: int) -> None:
    answer = exchange(producer, f"GET {path} HTTP/1.1\r\nHost: x\r\n".encode() + TOKEN + b"\r\n")
    assert statuses(answer) == [status], answer[:500]
    assert b"x-injected: yes" not in answer.lower().partition(b"\r\n\r\n")[0]
    assert len(answer) < 4096, "what was sent is not sent back at length"
    assert max(len(line) for line in producer.log.read_text().splitlines()) < 1000


@pytest.mark.parametrize("text", [b"\xff\xfe", b"a\x00b", b"\xc0\x80", "\u202e".encode(), b"a" * 5000, b"\x1b[2J"])
@pytest.mark.parametrize("header", [b"Idempotency-Key", b"X-Task-Priority", b"Authorization", b"Content-Encoding"])
def test_hostile_headers_are_refused_by_name(broker: Broker, producer: Producer, header: bytes, text: bytes) -> None:
    token = b"" if header == b"Authorization" else TOKEN
    head = SUBMIT.replace(TOKEN, token) + header + b": " + text + b"\r\nContent-Length: 1\r\n\r\nx"
    [status] = statuses(exchange(producer, head))
    assert status in ({400, 401} if header == b"Authorization" else {400, 422})
    assert broker.ready(QUEUE) == 0


def test_what_follows_a_submit_does_not_change_its_answer(broker: Broker, producer: Producer) -> None:
    """A client that counts wrong has its task accepted, and must not read that it was refused."""
    answer = exchange(producer, SUBMIT + b"Content-Length: 5\r\n\r\nHello World, and more\r\n\r\n")
    assert statuses(answer) == [202]
    assert b"connection: close" in answer.lower()
    assert [body for _, body in broker.drain(QUEUE)] == [b"Hello"]


def test_a_batch_that_turns_into_nonsense_tells_what_was_accepted(broker: Broker, producer: Producer) -> None:
    line = b'{"body": "x", "id": "one"}\n'
    with producer.connect() as connection:
        connection.sendall(BATCH + CHUNKED + b"%x\r\n%s\r\n" % (len(line), line))
        eventually(lambda: broker.ready(QUEUE) == 1, "the line is published before the request ends")
        connection.sendall(b"nonsense\r\n")
        answer = read_all(connection)
    assert statuses(answer) == [400]
    said = json.loads(answer.partition(b"\r\n\r\n")[2])
    assert (said["error"]["code"], said["accepted"], said["results"]) == ("bad_request", 1, [{"id": "one"}])
    assert broker.ready(QUEUE) == 1


def test_a_client_that_ends_its_side_gets_its_answers(broker: Broker, producer: Producer) -> None:
    one = SUBMIT + b"Content-Length: 1\r\n\r\n"
    assert statuses(exchange(producer, one + b"a" + one + b"b" + one)) == [202, 202, 400]
    assert [body for _, body in broker.drain(QUEUE)] == [b"a", b"b"]


def test_an_upgrade_is_declined_and_no_body_is_lost(broker: Broker, producer: Producer) -> None:
    """`curl --http2 --data …` asks for one; the parser would take the body for the other protocol."""
    more = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n"
    answer = exchange(producer, SUBMIT + more + b"Content-Length: 5\r\n\r\nHello")
    assert statuses(answer) == [400]
    assert b"leave the header Upgrade out" in answer
    assert statuses(exchange(producer, SUBMIT + more + CHUNKED + b"1\r\nx\r\n0\r\n\r\n")) == [400]
    assert broker.ready(QUEUE) == 0
    get = b"GET /healthz HTTP/1.1\r\nHost: x\r\n"
    assert statuses(exchange(producer, get + more + b"\r\n" + get + b"\r\n")) == [200]


def test_a_trailer_is_no_header(broker: Broker, producer: Producer) -> None:
    head = SUBMIT.replace(TOKEN, b"") + b"Transfer-Encoding: chunked\r\nTrailer: Authorization\r\n\r\n"
    assert statuses(exchange(producer, head + b"1\r\nx\r\n0\r\n" + TOKEN + b"\r\n")) == [401]
    head = SUBMIT + b"Transfer-Encoding: chunked\r\n\r\n"
    assert statuses(exchange(producer, head + b"1\r\nx\r\n0\r\nX-Task-Type: smuggled\r\n\r\n")) == [202]
    [(properties, _)] = broker.drain(QUEUE)
    assert properties.type is None


def test_nothing_is_done_after_connection_close(broker: Broker, producer: Producer) -> None:
    one = SUBMIT + b"Content-Length: 1\r\n"
    assert statuses(exchange(producer, one + b"Connection: close\r\n\r\na" + one + b"\r\nb")) == [202]
    assert [body for _, body in broker.drain(QUEUE)] == [b"a"]


GOOD = (
    SUBMIT + b"Content-Length: 5\r\n\r\nHello",
    SUBMIT + b"Transfer-Encoding: chunked\r\n\r\n5\r\nHello\r\n3;x=y\r\n...\r\n0\r\n\r\n",
    SUBMIT + b"X-Task-Header-A: b\r\nIdempotency-Key: k\r\nX-Task-Expiration: 1h\r\nContent-Length: 0\r\n\r\n",
    BATCH + b'Content-Length: 52\r\n\r\n{"body": "a"}\n{"body_base64": "AAEC", "priority": 9}\n',
    b"GET /v1/queues/hostile HTTP/1.1\r\nHost: x\r\n" + TOKEN + b"\r\n",
)
PIECES = (
    b"\r\n",
    b"\n",
    b"\r",
    b"\x00",
    b"\xff",
    b"0\r\n\r\n",
    b"Content-Length: 3\r\n",
    b"Transfer-Encoding: chunked\r\n",
)


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    """Some good requests, one after the other, with some bytes changed, cut, doubled or put in."""
    data = b"".join(draw(st.lists(st.sampled_from(GOOD), min_size=1, max_size=3)))
    for _ in range(draw(st.integers(0, 3))):
        start = draw(st.integers(0, len(data)))
        end = min(len(data), start + draw(st.integers(0, 20)))
        new = draw(st.one_of(st.binary(max_size=8), st.sampled_from(PIECES), st.just(data[start:end] * 2)))
        data = data[:start] + new + data[end:]
    return data


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.one_of(mutated(), st.binary(max_size=200)))
def test_of_any_bytes_what_is_accepted_is_in_the_queue_and_nothing_else(
    channel: BlockingChannel, producer: Producer, data: bytes
) -> None:
    answer = exchange(producer, data)
    assert all(status < 500 for status in statuses(answer)), answer
    accepted = 0
    for one in re.split(rb"(?=HTTP/1\.1 \d\d\d )", answer):
        head, _, body = one.partition(b"\r\n\r\n")
        if b'"accepted"' in body:
            accepted += int(json.loads(body)["accepted"])
        elif statuses(head) == [202]:
            accepted += 1
    assert channel.queue_purge(QUEUE).method.message_count == accepted, answer


def flood(producer: Producer, start: bytes, piece: bytes, total: int = 256 * 1024 * 1024, limit: float = 3.0) -> bytes:
    """Send `piece` again and again until cut off, at `total` bytes or `limit` seconds; returns the answer."""
    deadline = time.monotonic() + limit
    with producer.connect() as connection:
        connection.settimeout(15)
        with suppress(ConnectionError, TimeoutError):
            connection.sendall(start)
            sent = 0
            while sent < total and time.monotonic() < deadline:
                connection.sendall(piece)
                sent += len(piece)
        with suppress(OSError):
            connection.shutdown(socket.SHUT_WR)
        with suppress(TimeoutError):
            return read_all(connection)
    return b""


@pytest.mark.parametrize(
    ("start", "piece"),
    [
        (b"GET /healthz HTTP/1.1\r\n", b"X-Header: v\r\n" * 5000),
        (b"GET /healthz HTTP/1.1\r\nX-Header: ", b"v" * 65_536),
        (b"GET /healthz HTTP/1.1\r\n", b"X" * 65_536),
        (b"GET /", b"a" * 65_536),
        (b"", b"\r\n" * 32_768),
        (SUBMIT + CHUNKED, b"1000000\r\n" + b"x" * 65_536),
        (SUBMIT + CHUNKED, b"1\r\nx\r\n" * 10_000),
        (SUBMIT + CHUNKED + b"1\r\nx\r\n0\r\n", b"X-Trailer: v\r\n" * 5000),
        (SUBMIT + CHUNKED + b"1\r\nx\r\n0\r\nX-Trailer: ", b"v" * 65_536),
        (SUBMIT + CHUNKED + b"1;", b"extension" * 7000),
        (SUBMIT.replace(TOKEN, b"") + CHUNKED, b"10000\r\n" + b"x" * 65_536 + b"\r\n"),
        (SUBMIT + b"Content-Length: 99999999999\r\n\r\n", b"x" * 65_536),
        (b"", b"GET /v1/queues HTTP/1.1\r\n\r\n" * 2500),
        (b"", (SUBMIT + b"Content-Length: 60000\r\n\r\n" + b"x" * 60_000) * 5),
        (BATCH + CHUNKED, b"10000\r\n" + b'{"body": "' + b"x" * 65_526 + b"\r\n"),
        (BATCH + CHUNKED, b"10000\r\n" + b"\n" * 65_536 + b"\r\n"),
        (BATCH + CHUNKED, b"10000\r\n" + b"[]\n" * 21_845 + b"\n\r\n"),
    ],
    ids=[
        "headers", "header value", "header name", "path", "blank lines", "one chunk", "tiny chunks", "trailers",
        "trailer value", "chunk extension", "without a token", "length", "pipelined", "pipelined bodies", "batch line",
        "blank batch lines", "bad batch lines",
    ],
)  # fmt: skip
def test_a_flood_is_cut_off_and_memory_stays_bounded(producer: Producer, start: bytes, piece: bytes) -> None:
    before = producer.memory()
    flood(producer, start, piece)
    assert producer.memory() - before < MEMORY


def test_clients_that_do_not_read_are_dropped_and_memory_stays_bounded(producer: Producer) -> None:
    before = producer.memory()
    one = b"GET /openapi.json HTTP/1.1\r\nHost: x\r\n\r\n"
    with ExitStack() as stack:
        connections = [stack.enter_context(producer.connect()) for _ in range(20)]
        for connection in connections:
            connection.setblocking(False)
        for _ in range(200):
            for connection in connections:
                with suppress(BlockingIOError, ConnectionError):
                    connection.send(one * 50)
        assert producer.memory() - before < MEMORY
        eventually(lambda: open_sockets(producer) < 15, "they are dropped")


def test_a_client_that_does_not_read_its_answer_is_dropped(producer: Producer) -> None:
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.settimeout(30)
        address = httpx.URL(producer.url)
        connection.connect((address.host, address.port))
        # An answer that is read: the connection waits for nobody to accept it, as it would on a busy machine.
        connection.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
        assert statuses(connection.recv(4096)) == [200]
        port = connection.getsockname()[1]
        assert has_client(producer, port)
        # Then more than any socket's buffers hold: 40 MB, where Linux' default is 4 to 6.
        connection.sendall(b"GET /docs/swagger-ui-bundle.js HTTP/1.1\r\nHost: x\r\n\r\n" * 40)
        eventually(lambda: not has_client(producer, port), "it is dropped")


def has_client(producer: Producer, port: int) -> bool:
    """Whether the producer has a connection open with this port at the other end (proc_net(5), proc_pid_fd(5))."""
    wanted = f":{port:04X}"
    inodes = set()
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/{producer.process.pid}/net/{table}").read_text("ascii").splitlines()[1:]:
            fields = line.split()
            if fields[2].endswith(wanted):
                inodes.add(f"socket:[{fields[9]}]")
    return not inodes.isdisjoint(sockets(producer))


def open_sockets(producer: Producer) -> int:
    return len(sockets(producer))


def sockets(producer: Producer) -> list[str]:
    """What its descriptors lead to, such as `socket:[4711]`."""
    found = []
    for entry in Path(f"/proc/{producer.process.pid}/fd").iterdir():
        with suppress(OSError):
            found.append(str(entry.readlink()))
    return [target for target in found if target.startswith("socket:")]


def test_a_thousand_idle_connections_cost_little_and_end(broker: Broker, producer: Producer) -> None:
    """Silent from the start, in the middle of their headers, and in the middle of a body."""
    before = producer.memory()
    starts = [b"", b"POST /v1/queues/hostile/tasks HTTP/1.1\r\nX: ", SUBMIT + b"Content-Length: 9\r\n\r\nHello"]
    with ExitStack() as stack:
        connections = []
        for number in range(1000):
            connection = stack.enter_context(producer.connect())
            connection.sendall(starts[number % 3])
            connections.append(connection)
        with producer.client(SUBMIT_TOKEN) as client:
            assert client.post(f"/v1/queues/{QUEUE}/tasks", content=b"in between").status_code == 202
        assert producer.memory() - before < MEMORY
        answers = [read_all(connection) for connection in connections]
    assert [statuses(answer) for answer in answers] == [[], [], [408]] * 333 + [[]]
    assert [body for _, body in broker.drain(QUEUE)] == [b"in between"]


FEW_FILES = """
import resource, runpy
resource.setrlimit(resource.RLIMIT_NOFILE, (128, 200))
runpy.run_module("warren_producer", run_name="__main__")
"""


def test_with_few_open_files_idle_connections_take_none_from_anybody(broker: Broker, tmp_path: Path) -> None:
    """The broker's connection has its own, and each new one is answered."""
    with running_producer(producer_environment(broker), tmp_path, program=("-c", FEW_FILES)) as producer:
        producer.wait_until_ready()
        with ExitStack() as stack:
            for _ in range(400):
                stack.enter_context(producer.connect())
            with producer.client(SUBMIT_TOKEN) as client:
                assert client.post(f"/v1/queues/{QUEUE}/tasks", content=b"in between").status_code == 202
        said = producer.log.read_text()
    assert said.count("only 200 files may be open here") == 1
    assert "out of system resource" not in said
    assert [body for _, body in broker.drain(QUEUE)] == [b"in between"]


def test_headers_that_trickle_are_cut_off(producer: Producer) -> None:
    with producer.connect() as connection:

        def cut_off() -> bool:
            try:
                connection.sendall(b"v")
            except ConnectionError:
                return True
            return False

        connection.sendall(b"GET /healthz HTTP/1.1\r\nX-Slow: ")
        eventually(cut_off, "the deadline counts from the first byte on")


def test_bodies_at_once_are_bounded_and_the_rest_is_told_to_come_again(broker: Broker, tmp_path: Path) -> None:
    size = 1024 * 1024
    with ready_producer(broker, tmp_path, WARREN_SUBMIT_TIMEOUT="10s") as producer, ExitStack() as stack:
        before = producer.memory()
        connections = [stack.enter_context(producer.connect()) for _ in range(150)]
        head = submit_head(QUEUE, f"Content-Length: {size}\r\n")
        for connection in connections:
            connection.settimeout(30)
            with suppress(ConnectionError):
                connection.sendall(head + b"x" * (size - 1))
        assert producer.memory() - before < 2.5 * MEMORY
        for connection in connections:
            with suppress(ConnectionError):
                connection.sendall(b"x")
        found = [status for connection in connections for status in statuses(connection.recv(65_536))]
        assert set(found) <= {202, 503}
        assert found.count(503) > 0
        with broker.channel() as channel:
            there = channel.queue_declare(QUEUE, passive=True).method.message_count
            assert there == found.count(202) > 10
            channel.queue_purge(QUEUE)
        with producer.client() as client:
            assert client.get("/healthz").status_code == 200
            assert isinstance(client.get("/v1/queues"), httpx.Response)
