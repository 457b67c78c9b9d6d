"""What a dead letter carries: the task as it came, and the reason, within what a frame holds."""

import datetime as dt
import random
import struct
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import hostile
import pika
import pytest
from hypothesis import given
from hypothesis import strategies as st

from warren_contract.dead import (
    MAX_ADDED,
    MESSAGE_HEADER,
    MIN_ADDED,
    TRACEBACK_HEADER,
    Reason,
    encoded_size,
    shorten,
    to_bytes,
)
from warren_contract.task import ACQUIRED_COUNT_HEADER, DELIVERY_COUNT_HEADER, SUBMITTED_AT_HEADER, submitted_at
from warren_worker import dead_letters, envelope
from warren_worker.envelope import EnvelopeError, address, entries, join, split
from warren_worker.intake import take_in
from warren_worker.loop import Loop

any_text = st.text(st.characters(exclude_categories=()))  # lone surrogates too
long_text = st.text("aä€🐇\ud800", min_size=1, max_size=20).map(lambda text: text * 2000)
reasons = st.builds(
    Reason,
    exception=any_text,
    message=any_text | long_text,
    traceback=any_text | long_text,
    attempts=st.integers(1, 1_000_000),
    worker=any_text,
    queue=st.just("task_queue"),
    failed_at=st.integers(0, 2**42),
    submitted_at=st.none() | st.integers(-(2**63), 2**63 - 1),
)
REASON = Reason("ValueError", "no such picture", "Traceback: …", 5, "worker-1", "task_queue", 1_700_000_000_000, 7)


def read(raw: bytes) -> pika.BasicProperties:
    properties = pika.BasicProperties()
    properties.decode(raw)
    return properties


def write(**values: Any) -> bytes:
    return b"".join(pika.BasicProperties(**values).encode())


def own_size(raw: bytes) -> int:
    """Bytes of the entries under our prefix."""
    return sum(len(entry) for name, entry in entries(split(raw)["headers"]) if name.startswith(b"x-warren-"))


@given(any_text, st.integers(0, 300), st.booleans())
def test_a_shortened_text_fits_and_is_whole_characters(text: str, limit: int, keep_end: bool) -> None:
    short = shorten(text, limit, keep_end=keep_end)
    assert len(short.encode()) <= limit
    whole = to_bytes(text).decode()
    if len(whole.encode()) <= limit:
        assert short == whole
    elif short:
        kept = short.strip("…") if short != "…" else ""
        assert whole.endswith(kept) if keep_end else whole.startswith(kept)
        assert len(short.encode()) > limit - 4, "no more is left out than has to be"


@given(reasons, st.integers(MIN_ADDED, MAX_ADDED))
def test_a_reason_fits_into_its_limit_as_it_is_encoded(reason: Reason, limit: int) -> None:
    headers = reason.headers(limit)
    assert encoded_size(headers) <= limit
    encoded = b"".join(pika.BasicProperties(headers=headers).encode())
    assert len(encoded) - 2 - 4 <= encoded_size(headers)
    assert read(encoded).headers == headers


def test_a_long_message_keeps_its_beginning_and_a_long_traceback_its_end() -> None:
    headers = Reason("E", "begin" + "x" * 9000, "x" * 90_000 + "end", 1, "w", "q", 0).headers()
    message, trace = headers[MESSAGE_HEADER], headers[TRACEBACK_HEADER]
    assert isinstance(message, str)
    assert isinstance(trace, str)
    assert message.startswith("begin")
    assert trace.endswith("end")
    assert MAX_ADDED - 4 < encoded_size(headers) <= MAX_ADDED


properties = st.fixed_dictionaries(
    {},
    optional={
        "content_type": st.text(max_size=20),
        "content_encoding": st.text(max_size=20),
        "headers": st.dictionaries(
            st.text(max_size=20),
            st.none()
            | st.booleans()
            | st.integers(-(2**63), 2**63 - 1)
            | st.text()
            | st.binary()
            | st.lists(st.text()),
        ),
        "delivery_mode": st.sampled_from([1, 2]),
        "priority": st.integers(0, 255),
        "correlation_id": st.text(max_size=20),
        "reply_to": st.text(max_size=20),
        "expiration": st.sampled_from(["0", "60000"]),
        "message_id": st.text(max_size=20),
        "timestamp": st.integers(0, 2**62),
        "type": st.text(max_size=20),
        "user_id": st.text(max_size=20),
        "app_id": st.text(max_size=20),
        "cluster_id": st.text(max_size=20),
    },
)


@given(properties)
def test_properties_taken_apart_and_put_together_are_the_same_bytes(values: dict[str, Any]) -> None:
    raw = write(**values)
    fields = split(raw)
    assert join(fields) == raw
    headers = fields.get("headers")
    if headers is not None:
        assert b"".join(entry for _name, entry in entries(headers)) == headers[4:]
        assert [name.decode() for name, _entry in entries(headers)] == list(values["headers"])


@given(properties, reasons)
def test_a_dead_letter_is_the_task_and_the_reason(values: dict[str, Any], reason: Reason) -> None:
    letter = address(write(**values), reason, "the-id")
    (raw,) = letter.encode()
    got = read(raw)
    for name in ("content_type", "content_encoding", "priority", "correlation_id", "reply_to", "timestamp", "type"):
        assert getattr(got, name) == values.get(name), name
    assert got.message_id == values.get("message_id", "the-id")
    assert (got.delivery_mode, got.expiration, got.user_id) == (2, None, None)
    headers = dict(got.headers or {})
    assert headers.get("x-warren-expiration") == values.get("expiration")
    assert headers.get("x-warren-user-id") == values.get("user_id")
    theirs = {name: value for name, value in headers.items() if not str(name).startswith("x-warren-")}
    assert theirs == {name: value for name, value in values.get("headers", {}).items() if name not in {"CC", "BCC"}}
    assert headers["x-warren-attempts"] == reason.attempts
    assert own_size(raw) <= MAX_ADDED


@pytest.mark.parametrize(
    ("reply_to", "kept"),
    [("amq.rabbitmq.reply-to", False), ("amq.rabbitmq.reply-to.g1h2.abc==", True), ("answers", True)],
)
def test_an_address_for_answers_that_closes_our_channel_becomes_a_header(reply_to: str, kept: bool) -> None:
    letter = read(address(write(reply_to=reply_to), REASON, "i").raw)
    headers: dict[str, Any] = dict(letter.headers or {})
    assert letter.reply_to == (reply_to if kept else None)
    assert headers.get("x-warren-reply-to") == (None if kept else reply_to)
    assert headers["x-warren-exception"] == REASON.exception


def test_what_would_mislead_the_broker_or_the_reader_is_not_copied() -> None:
    raw = write(
        headers={
            "CC": ["elsewhere"],
            "BCC": ["elsewhere"],
            "x-delivery-count": 4,
            "x-acquired-count": 9,
            "x-warren-exception": "of an earlier death",
            "x-warren-traceback": "of an earlier death",
            "x-death": [{"queue": "q", "count": 1}],
            "mine": 1,
        }
    )
    reason = Reason("ValueError", "now", "", 1, "w", "q", 5)
    headers = read(address(raw, reason, "i").raw).headers
    assert headers == {**reason.headers(), "x-death": [{"queue": "q", "count": 1}], "mine": 1}


def nested(depth: int) -> bytes:
    """An encoded table in a table in a table …"""
    table = b""
    for _ in range(depth):
        table = b"\x01aF" + struct.pack(">I", len(table)) + table
    return struct.pack(">I", len(table)) + table


@pytest.mark.parametrize(
    "table",
    [
        nested(15_000),
        b"\x00\x00\x00\x0b\x01ad" + struct.pack(">d", float("nan")),
        b"\x00\x00\x00\x0b\x01aT" + b"\xff" * 8,
        b"\x00\x00\x00\x08\x02\xff\xfet\x01\x01bV",
    ],
)
def test_headers_that_nobody_can_read_are_passed_on_as_they_are(table: bytes) -> None:
    table = struct.pack(">I", len(table) - 4) + table[4:]
    raw = join({"headers": table})
    passed = b"".join(
        entry for name, entry in entries(split(address(raw, REASON, "i").raw)["headers"]) if name[:9] != b"x-warren-"
    )
    assert passed == table[4:]


@pytest.mark.parametrize("size", [100_000, 115_000, 125_000, 130_900])
@pytest.mark.parametrize("frame_max", [0, 131_072])
def test_a_dead_letter_never_outgrows_the_frame(size: int, frame_max: int) -> None:
    reason = Reason("ValueError", "m" * 5000, "t" * 50_000, 5, "w", "q", 1)
    raw = write(headers={f"h{number}": "x" * 1000 for number in range(size // 1008)}, message_id="i")
    letter = address(raw, reason, "i", frame_max)
    frame = pika.frame.Header(1, 5, letter).marshal()
    assert len(frame) <= 131_072
    headers: dict[str, Any] = dict(read(letter.raw).headers or {})
    left_out = headers.get("x-warren-headers-left-out", 0)
    assert headers["x-warren-exception"] == "ValueError"
    assert sum(name.startswith("h") for name in headers) == size // 1008 - left_out
    assert (left_out == 0) == (size < 126_000)
    assert len(frame) > 110_000


@pytest.mark.parametrize("raw", [b"", b"\x80", b"\x80\x00\x05ab", b"\x20\x00\x00\x00\x00\x09\x01a", b"\x20\x00\xff"])
def test_bytes_that_are_no_properties_are_told_and_the_reason_still_gets_through(raw: bytes) -> None:
    with pytest.raises(EnvelopeError):
        list(entries(split(raw).get("headers", b"")))
    assert read(address(raw, REASON, "the-id").raw).headers == REASON.headers()


@given(st.binary(max_size=200))
def test_whatever_the_bytes_there_is_a_letter(raw: bytes) -> None:
    got = split(address(raw, REASON, "the-id").raw)
    assert b"x-warren-exception" in got["headers"]


@given(st.randoms(use_true_random=False), st.booleans())
def test_whatever_a_sender_wrote_about_a_task_its_dead_letter_can_be_written(rng: random.Random, again: bool) -> None:
    """pika reads some numbers that it cannot write, a floating-point one above all; the reason must have none."""
    headers = b"".join(
        bytes([len(name)]) + name.encode() + hostile.value(rng)
        for name in (DELIVERY_COUNT_HEADER, ACQUIRED_COUNT_HEADER, SUBMITTED_AT_HEADER)
    )
    raw = join({"headers": len(headers).to_bytes(4, "big") + headers, "timestamp": rng.randbytes(8)})
    try:
        properties = read(raw)
    except Exception:  # noqa: BLE001  of any type; the worker takes these letters for undecodable
        return
    taken = take_in(properties, 0, 1.0, redelivered=again, max_body=1)
    reason = replace(REASON, attempts=taken.deliveries.attempt, submitted_at=submitted_at(properties))
    assert b"x-warren-exception" in split(address(raw, reason, "the-id").raw)["headers"]


def test_every_type_that_pika_writes_has_its_size() -> None:
    values = {"n": None, "b": True, "i": 1, "l": 2**40, "t": dt.datetime.now(dt.UTC), "f": {"a": [1, "x"]}, "x": b"1"}
    table = split(write(headers=values))["headers"]
    assert [name.decode() for name, _ in entries(table)] == list(values)
    assert len(envelope.SIZES) == 15


def test_a_letter_that_cannot_be_written_takes_no_other_with_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dead_letters, "LIMIT", 0.05)
    loop = Loop()
    loop.call_later(5.0, loop.stop)
    letters: Any = dead_letters.DeadLetters(loop, "q")
    letters._connection = SimpleNamespace(is_open=True)
    letters._channel = SimpleNamespace(is_open=True, connection=SimpleNamespace(params=None))

    def fail(*_args: object) -> bytes:
        raise MemoryError

    monkeypatch.setattr(dead_letters, "address", fail)
    heard: list[str] = []
    for _ in range(2):
        letters.publish(b"", b"", "id", REASON, heard.append)
    for _ in range(2):  # two first steps
        with pytest.raises(MemoryError):
            loop.start()
    assert letters.pending == 2
    loop.call_later(0.1, loop.stop)
    loop.start()
    loop.close()
    assert len(heard) == 2, "each has its limit still"
