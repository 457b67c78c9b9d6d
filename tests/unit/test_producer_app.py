"""The API without a broker: what it answers then, how it describes itself, and that it never hangs."""

import asyncio
import re
import time
from collections.abc import AsyncIterator, Iterable
from pathlib import Path
from typing import Any

import httpx
import pika
import pytest

from warren_contract.events import WorkerState
from warren_producer.app import QUEUES_A_TURN, create_app
from warren_producer.errors import Code
from warren_producer.http import Answer
from warren_producer.metrics import Metrics
from warren_producer.observer import Observer
from warren_producer.outbox import Outbox
from warren_producer.publisher import Cause, Publisher
from warren_producer.queues import Board
from warren_producer.services import CODES, Services
from warren_producer.tokens import TokenFiles

TOKEN = "a-token-of-the-tests"


def unused() -> pika.ConnectionParameters:
    raise AssertionError("these tests never connect")


@pytest.fixture
def services(tmp_path: Path) -> Services:
    (tmp_path / "admin").write_text(TOKEN)
    outbox, board = Outbox(), Board()
    publisher = Publisher(unused, outbox, limit=1.0)
    observer = Observer(unused, board, outbox.resync)
    return Services(
        publisher=publisher,
        observer=observer,
        board=board,
        tokens=TokenFiles(tmp_path),
        metrics=Metrics(lambda: publisher.in_flight, lambda: publisher.obstacle is None, lambda: observer.connected),
        max_body=100,
        submit_timeout=1.0,
    )


@pytest.fixture
async def client(services: Services) -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(create_app(services), raise_app_exceptions=False)
    headers = {"Authorization": f"Bearer {TOKEN}"}
    async with httpx.AsyncClient(transport=transport, base_url="http://producer", headers=headers) as opened:
        yield opened


async def test_without_a_broker_it_says_so_at_once(client: httpx.AsyncClient) -> None:
    for answer in (
        await client.post("/v1/queues/q/tasks", content=b"x"),
        await client.get("/v1/queues/q"),
    ):
        assert answer.status_code == 503
        assert answer.json()["error"]["code"] == "broker_unavailable"
        assert int(answer.headers["retry-after"]) >= 1


async def test_mistakes_are_told_before_the_state_of_the_broker(client: httpx.AsyncClient) -> None:
    answer = await client.post("/v1/queues/q/tasks", content=b"x", headers={"X-Task-Priority": "x"})
    assert answer.status_code == 422


async def test_every_refusal_is_counted(client: httpx.AsyncClient) -> None:
    await client.post("/v1/queues/q/tasks", content=b"x")
    await client.get("/nothing/here")
    text = (await client.get("/metrics")).text
    assert 'warren_producer_requests_refused_total{code="broker_unavailable"} 1.0' in text
    assert 'warren_producer_requests_refused_total{code="not_found"} 1.0' in text


async def test_readiness_waits_for_the_broker_and_liveness_does_not(
    client: httpx.AsyncClient, services: Services
) -> None:
    assert (await client.get("/healthz")).status_code == 200
    answer = await client.get("/readyz")
    assert answer.status_code == 503
    assert "broker" in answer.text
    services.draining = True
    assert (await client.get("/readyz")).text == "shutting down\n"


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/v2/queues", 404, "not_found"),
        ("DELETE", "/v1/queues", 405, "method_not_allowed"),
        ("GET", "/v1/queues/q/tasks", 405, "method_not_allowed"),
        ("POST", "/v1/queues/q/tasks/", 404, "not_found"),
    ],
)
async def test_wrong_paths_and_methods_have_the_same_kind_of_answer(
    client: httpx.AsyncClient, method: str, path: str, status: int, code: str
) -> None:
    answer = await client.request(method, path)
    assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)
    if status == 405:
        assert answer.headers["allow"]


async def test_a_list_of_many_queues_lets_other_requests_have_their_turn(
    client: httpx.AsyncClient, services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    queues = 10 * QUEUES_A_TURN

    async def counts(names: Iterable[str]) -> dict[str, int | None]:
        return dict.fromkeys(names, 1)

    monkeypatch.setattr(services.observer, "ready_of", counts)
    for number in range(queues):
        running = WorkerState(
            queue=f"q{number}", worker="w", at=1, started_at=1, concurrency=1, running=(), finished=0, failed=0,
            finished_seconds=0, running_seconds=0,
        )  # fmt: skip
        services.board.hear(running, time.monotonic())
    asked = asyncio.ensure_future(client.get("/v1/queues"))
    turns = 0
    while not asked.done():
        await asyncio.sleep(0)
        turns += 1
    answer = await asked
    assert [len(queue["worker_states"]) for queue in answer.json()["queues"]] == [1] * queues
    assert turns > 10


async def test_a_bug_is_a_500_without_details(client: httpx.AsyncClient, services: Services) -> None:
    services.board = None  # type: ignore[assignment]
    answer = await client.get("/v1/queues")
    assert (answer.status_code, answer.json()["error"]["code"]) == (500, "internal")
    assert "NoneType" not in answer.text


async def test_a_bug_in_a_submit_is_one_too(client: httpx.AsyncClient, services: Services) -> None:
    services.publisher = None  # type: ignore[assignment]
    answer = await client.post("/v1/queues/q/tasks", content=b"x")
    assert (answer.status_code, answer.json()["error"]["code"]) == (500, "internal")
    assert 'refused_total{code="internal"} 1.0' in (await client.get("/metrics")).text


class Written(asyncio.Transport):
    """What goes out, by system call."""

    def __init__(self) -> None:
        super().__init__()
        self.pieces: list[bytes] = []

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.pieces.append(bytes(data))

    def close(self) -> None:
        self.pieces.append(b"closed")


def test_head_and_body_of_an_answer_go_out_together_and_nothing_is_kept_back() -> None:
    transport = Written()
    answer = Answer(transport)
    for piece in (b"HTTP/1.1 100 Continue\r\n\r\n", b"HTTP/1.1 202 Accepted\r\n\r\n", b"body", b"more"):
        answer.write(piece)
    answer.close()
    assert transport.pieces == [
        b"HTTP/1.1 100 Continue\r\n\r\n",
        b"HTTP/1.1 202 Accepted\r\n\r\nbody",
        b"more",
        b"closed",
    ]
    broken_off = Written()
    answer = Answer(broken_off)
    answer.write(b"HTTP/1.1 200 OK\r\n\r\n")
    answer.close()
    assert broken_off.pieces == [b"HTTP/1.1 200 OK\r\n\r\n", b"closed"]


async def test_the_page_of_the_api_needs_nothing_from_elsewhere(client: httpx.AsyncClient) -> None:
    root = await client.get("/")
    assert (root.status_code, root.headers["location"]) == (307, "docs")
    page = await client.get("/docs")
    policy = page.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "http" not in policy
    links = re.findall(r'(?:src|href)="([^"]*)"', page.text)
    assert links
    for link in links:
        assert not link.startswith(("http", "//"))
        assert (await client.get(f"/{link}")).status_code == 200


async def test_the_description_fits_the_swagger_ui_and_names_every_error(client: httpx.AsyncClient) -> None:
    description = (await client.get("/openapi.json")).json()
    assert description["openapi"] == "3.0.3"
    assert set(description["paths"]) == {
        "/v1/queues/{queue}/tasks",
        "/v1/queues/{queue}/tasks:batch",
        "/v1/queues",
        "/v1/queues/{queue}",
        "/healthz",
        "/readyz",
        "/metrics",
    }
    submit = description["paths"]["/v1/queues/{queue}/tasks"]["post"]
    assert set(submit["responses"]) == {"202", "400", "401", "403", "404", "408", "413", "422", "503"}
    assert [parameter["name"] for parameter in submit["parameters"]].count("queue") == 1
    for path, item in description["paths"].items():
        for operation in item.values():
            assert ("security" in operation) == path.startswith("/v1/"), path
            for status in set(operation["responses"]) - {"200", "202"}:
                if path.startswith("/v1/"):
                    schema = operation["responses"][status]["content"]["application/json"]["schema"]
                    assert schema["$ref"] in {"#/components/schemas/ErrorBody", "#/components/schemas/BatchErrorBody"}
    assert not [node for node in nodes(description) if node == {"type": "null"}], "3.0 has no null type"
    for reference in {node["$ref"] for node in nodes(description) if "$ref" in node}:
        assert reference.rsplit("/", 1)[1] in description["components"]["schemas"], reference


def nodes(value: Any) -> list[dict[str, Any]]:
    """All objects in a JSON value."""
    if isinstance(value, list):
        return [node for item in value for node in nodes(item)]
    if isinstance(value, dict):
        return [value, *(node for item in value.values() for node in nodes(item))]
    return []


def test_each_cause_has_an_answer() -> None:
    assert set(CODES) == set(Cause)
    for code, retry_after in CODES.values():
        assert (code.status == 503) == (retry_after is not None)
    assert len({code.code for code in Code}) == len(Code)
