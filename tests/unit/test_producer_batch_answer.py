"""What a batch answers, and what that takes of the memory that all requests share."""

import asyncio
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pika
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from serving import LIMIT, connected, served, until

from warren_producer.answers import InPieces
from warren_producer.app import create_app
from warren_producer.batch import LINE_COST, PIECE, Batch, Limits
from warren_producer.body import Budget
from warren_producer.confirms import Outcome
from warren_producer.http import BoundedProtocol
from warren_producer.lanes import Message
from warren_producer.metrics import Metrics
from warren_producer.observer import Observer
from warren_producer.outbox import Outbox
from warren_producer.publisher import NotAccepted, Publisher
from warren_producer.queues import Board
from warren_producer.services import CODES, Services
from warren_producer.tokens import TokenFiles

TOKEN = "a-token-of-the-tests"


def unused() -> pika.ConnectionParameters:
    raise AssertionError("these tests never connect")


class Played(Publisher):
    """Answers for the broker: each task has the next outcome, and the last one's again from then on.

    One without an outcome is never answered.
    """

    def __init__(self, outcomes: Sequence[Outcome | None]) -> None:
        super().__init__(unused, Outbox(), limit=0.01)
        self._outcomes = list(outcomes)

    @property
    def obstacle(self) -> NotAccepted | None:
        return None

    async def wait_for_room(self, queue: str, limit: float) -> None:
        """There is always room."""

    def publish(self, _queue: str, messages: Sequence[Message]) -> None:
        for message in messages:
            message.ticket.published()
            outcome = self._outcomes.pop(0) if len(self._outcomes) > 1 else self._outcomes[0]
            if outcome is not None:
                asyncio.get_running_loop().call_soon(message.ticket.settle, outcome)


def batch(publisher: Publisher, budget: Budget | None = None) -> Batch:
    return Batch(
        publisher, "q", Limits(100, 0.01), codes=CODES, budget=budget or Budget(), draining=lambda: False
    )  # fmt: skip


async def run(submitted: Batch, lines: Sequence[bytes]) -> None:
    """All lines in one piece."""

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"\n".join(lines), "more_body": False}

    await submitted.run(receive)


OUTCOMES = (Outcome.CONFIRMED, Outcome.CONFIRMED, Outcome.REFUSED, Outcome.RETURNED, Outcome.UNKNOWN, None)
IDS = st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), min_size=1, max_size=9)
LINES = st.lists(
    st.one_of(
        st.tuples(IDS, st.sampled_from(OUTCOMES)),
        st.sampled_from([b"nonsense", b"[]", b'{"body":"x","\\ud800":1}', '{"body":"x","ü":1}'.encode()]),
    ),
    min_size=1,
    max_size=20,
)


async def check(lines: Sequence[tuple[str, Outcome | None] | bytes], repeat: int) -> None:
    """The answer to such lines, so many times, is JSON of the length that it says, with an entry for each."""
    lines = [*lines] * repeat
    good = [line for line in lines if isinstance(line, tuple)]
    sent = [line if isinstance(line, bytes) else json.dumps({"body": "x", "id": line[0]}).encode() for line in lines]
    with batch(Played([outcome for _, outcome in good] or [None])) as submitted:
        await run(submitted, sent)
        reply = await submitted.answer()
        content = b"".join(reply.pieces)
    assert reply.size == len(content)
    data = json.loads(content)
    assert len(data["results"]) == len(lines)
    for number, (line, result) in enumerate(zip(lines, data["results"], strict=True), 1):
        if isinstance(line, bytes):
            assert result == {"line": number, "error": result["error"]}
            assert result["error"]["code"] == "invalid"
        elif line[1] is Outcome.CONFIRMED:
            assert result == {"id": line[0]}
        else:
            assert result == {"line": number, "id": line[0], "error": result["error"]}
            assert result["error"]["retry_after" if line[1] is not Outcome.RETURNED else "message"]
    accepted = sum(outcome is Outcome.CONFIRMED for _, outcome in good)
    unknown = sum(outcome in {Outcome.UNKNOWN, None} for _, outcome in good)
    assert (data["accepted"], data["unknown"]) == (accepted, unknown)
    assert data["refused"] == len(lines) - accepted - unknown
    assert ("error" in data) == (reply.status != 202) == (accepted < len(lines))


@given(LINES)
@settings(deadline=None)
def test_the_answer_has_an_entry_for_each_line_and_the_length_that_it_says(lines: Any) -> None:
    asyncio.run(check(lines, 1))


@pytest.mark.parametrize("count", [PIECE - 1, PIECE, PIECE + 1, 2 * PIECE, 3 * PIECE + 7])
async def test_pieces_of_an_answer_fit_together(count: int) -> None:
    lines: list[tuple[str, Outcome | None] | bytes] = [("a", Outcome.CONFIRMED), ("b", Outcome.REFUSED), b"[]"]
    await check((lines * count)[:count], 1)


@pytest.mark.parametrize("outcome", [Outcome.REFUSED, Outcome.RETURNED, Outcome.UNKNOWN, None])
async def test_what_befell_many_lines_is_there_once(outcome: Outcome | None) -> None:
    with batch(Played([outcome])) as submitted:
        await run(submitted, [b'{"body":"x"}'] * 300 + [b"[]"] * 300)
        await submitted.answer()
        assert len(submitted._problems) == 600
        assert len({id(problem) for problem in submitted._problems}) == 2


async def test_a_batch_pays_for_its_lines_until_it_is_left() -> None:
    budget = Budget()
    with batch(Played([Outcome.REFUSED]), budget) as submitted:
        await run(submitted, [b'{"body":"x"}'] * 1000)
        await submitted.answer()
        assert budget.used >= 1000 * LINE_COST
    assert budget.used == 0


@pytest.fixture
def services(tmp_path: Path) -> Services:
    (tmp_path / "admin").write_text(TOKEN)
    board = Board()
    return Services(
        publisher=Played([Outcome.REFUSED]),
        observer=Observer(unused, board, lambda: None),
        board=board,
        tokens=TokenFiles(tmp_path),
        metrics=Metrics(lambda: 0, lambda: True, lambda: True),
        max_body=100,
        submit_timeout=1.0,
    )


@pytest.mark.parametrize("reads", [True, False], ids=["reads", "goes"])
async def test_an_answer_is_made_as_fast_as_it_is_read_and_pays_until_then(services: Services, reads: bool) -> None:
    """As a whole it would be many times as large as what it is made of."""
    count = 40_000
    body = b'{"body":""}\n' * count
    head = f"POST /v1/queues/{'q' * 150}/tasks:batch HTTP/1.1\r\nAuthorization: Bearer {TOKEN}\r\n"
    head += f"Content-Length: {len(body)}\r\n\r\n"
    async with served(create_app(services), BoundedProtocol) as port, connected(port) as (reader, writer):
        await until(lambda: bool(BoundedProtocol._idle))
        (protocol,) = BoundedProtocol._idle
        writer.write(head.encode() + body)
        await until(lambda: protocol.flow.write_paused)
        assert protocol.transport.get_write_buffer_size() < 1024 * 1024
        assert services.budget.used >= count * LINE_COST
        if reads:
            told = (await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), LIMIT)).lower()
            size = int(told.partition(b"content-length: ")[2].split()[0])
            assert size > count * 300
            data = json.loads(await asyncio.wait_for(reader.readexactly(size), LIMIT))
            assert len(data["results"]) == data["refused"] == count
        else:
            writer.transport.abort()
        await until(lambda: services.budget.used == 0)


async def test_a_client_that_takes_too_long_to_read_gives_back_what_its_answer_holds() -> None:
    done = asyncio.Event()
    for_ever = asyncio.Event()

    async def send(_message: Any) -> None:
        await for_ever.wait()

    async def receive() -> Any:
        raise AssertionError("there is nothing to read")

    answer = InPieces(202, {}, size=1, pieces=[b"x"], limit=0.01, done=done.set)
    await answer({"type": "http"}, receive, send)
    assert done.is_set()
