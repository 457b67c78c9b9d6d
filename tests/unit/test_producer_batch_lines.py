"""A batch's lines: cut from chunks of any size, and parsed from any bytes at all."""

import base64
import json
import random
from typing import Any

import pika
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from pika import frame, spec

from warren_contract.task import TaskProperties
from warren_producer.confirms import Confirms, Key, Outcome
from warren_producer.frames import PublishEncoder
from warren_producer.line import FIELDS, LineError, line_limit, parse_line
from warren_producer.ndjson import Line, Lines

MAX_BODY = 50


def cut(chunks: list[bytes], limit: int) -> list[Line]:
    lines = Lines(limit)
    found = [line for chunk in chunks for line in lines.feed(chunk)]
    assert lines.held <= limit
    return found + lines.finish()


@given(st.lists(st.sampled_from([b"\n", b"\r\n", b" ", b"ab", b"abcdefgh", b"\xff"])), st.data())
def test_where_chunks_end_does_not_matter(pieces: list[bytes], data: st.DataObject) -> None:
    text = b"".join(pieces)
    ends = sorted(data.draw(st.lists(st.integers(0, len(text)))))
    chunks = [text[start:end] for start, end in zip([0, *ends], [*ends, len(text)], strict=True)]
    whole = [
        Line(number, line if len(line) <= 6 else None)
        for number, line in enumerate(text.split(b"\n"), 1)
        if len(line) > 6 or line.strip()
    ]
    assert cut(chunks, 6) == whole


def test_memory_is_bounded_by_the_limit() -> None:
    lines = Lines(10)
    for _ in range(1000):
        assert lines.feed(b"x" * 7) == []
        assert lines.held <= 10
    assert lines.feed(b"\nok\n") == [Line(1, None), Line(2, b"ok")]


values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text()
    | st.sampled_from(["30s", "aGVsbG8=", "\ud800"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)
objects = st.dictionaries(st.sampled_from(FIELDS) | st.text(), values)


@given(st.binary() | objects.map(lambda said: json.dumps(said).encode()))
@example(b"[" * 100_000)
@example(b'{"body":"x","priority":' + b"9" * 10_000 + b"}")
@example(b'{"body":"x","headers":{"\\ud800":"x"}}')
@example(b'{"body":"x","headers":{"a":"\\ud800"}}')
@example(b'{"body":"x","type":"\\ud800"}')
@example(b'{"body":"x","\\ud800":1,"\\ud800":2}')
@example(b'{"body":"\\ud800"}')
@example(b'{"body_base64":"\xc3\xbc"}')
@example(b'{"body":"x","priority":NaN}')
def test_no_bytes_raise_anything_else_and_what_is_taken_can_be_sent(data: bytes) -> None:
    try:
        properties, body = parse_line(data, 1.0, MAX_BODY)
    except LineError as error:
        json.dumps([str(error), error.field], ensure_ascii=False).encode()
        return
    assert len(body) <= MAX_BODY
    expected = pika_frames(properties, body, 131_072)
    encoder = PublishEncoder("warren.tasks", 131_072)
    assert encoder.frames(1, "q", encoder.properties(properties), body) == expected


@pytest.mark.parametrize(
    ("said", "field"),
    [
        ({}, "body"),
        ({"body": "x", "body_base64": "eA=="}, "body"),
        ({"body": 3}, "body"),
        ({"body": "x" * (MAX_BODY + 1)}, "body"),
        ({"body": "ü" * (MAX_BODY // 2 + 1)}, "body"),
        ({"body_base64": "eA"}, "body_base64"),
        ({"body_base64": 1}, "body_base64"),
        ({"body_base64": base64.b64encode(b"x" * (MAX_BODY + 1)).decode()}, "body_base64"),
        ({"body": "x", "id": "a b"}, "id"),
        ({"body": "x", "id": ""}, "id"),
        ({"body": "x", "priority": 32}, "priority"),
        ({"body": "x", "priority": True}, "priority"),
        ({"body": "x", "priority": "3"}, "priority"),
        ({"body": "x", "expiration": "soon"}, "expiration"),
        ({"body": "x", "type": "t" * 256}, "type"),
        ({"body": "x", "typ": "t"}, "typ"),
        ({"body": "x", "headers": []}, "headers"),
        ({"body": "x", "headers": {"x-warren-a": "b"}}, "headers.x-warren-a"),
        ({"body": "x", "headers": {"A": "1", "a": "2"}}, "headers.a"),
        ({"body": "x", "headers": {"a": 1}}, "headers.a"),
        ({"body": "x", "headers": {"a": "v" * 20_000}}, "headers.a"),
        ({"body": "x", "traceparent": 1}, "traceparent"),
    ],
)
def test_each_mistake_names_its_field(said: dict[str, Any], field: str) -> None:
    with pytest.raises(LineError) as caught:
        parse_line(json.dumps(said).encode(), 1.0, MAX_BODY)
    assert caught.value.field == field
    assert str(caught.value).startswith(f"{field}: ")


def test_a_name_said_twice_is_a_mistake() -> None:
    with pytest.raises(LineError, match=r"^body: is there twice"):
        parse_line(b'{"body": "x", "body": "y"}', 1.0, MAX_BODY)


def test_everything_said_becomes_the_task() -> None:
    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    said = {
        "body_base64": base64.b64encode(bytes(range(50))).decode(), "id": "k-1", "content_type": "image/x", "type": "t",
        "priority": 0, "expiration": "1m", "correlation_id": "c", "headers": {"Tenant": "ü"}, "traceparent": trace,
        "tracestate": "a=b",
    }  # fmt: skip
    properties, body = parse_line(json.dumps(said).encode(), 1.5, MAX_BODY)
    assert body == bytes(range(50))
    assert properties == TaskProperties(
        id="k-1", submitted_at=1500, content_type="image/x", type="t", priority=0, expiration=60_000,
        correlation_id="c", headers={"tenant": "ü", "traceparent": trace, "tracestate": "a=b"},
    )  # fmt: skip


def test_the_largest_body_fits_into_a_line_in_base64() -> None:
    for size in (1, 2, 3, 1000, 1_048_576):
        data = json.dumps({"body_base64": base64.b64encode(b"x" * size).decode()}).encode()
        assert len(data) <= line_limit(size)
        assert len(parse_line(data, 1.0, size)[1]) == size


def pika_frames(properties: TaskProperties, body: bytes, frame_max: int, channel: int = 1) -> bytes:
    """What pika sends."""
    part = frame_max - 8
    frames: list[Any] = [
        frame.Method(channel, spec.Basic.Publish(exchange="warren.tasks", routing_key="q", mandatory=True)),
        frame.Header(channel, len(body), properties.to_amqp()),
        *(frame.Body(channel, body[start : start + part]) for start in range(0, len(body), part)),
    ]
    return b"".join(item.marshal() for item in frames)


texts = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=60)
tasks = st.builds(
    TaskProperties,
    id=st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), min_size=1, max_size=255),
    submitted_at=st.integers(0, 2**42),
    content_type=st.none() | texts,
    type=st.none() | texts,
    priority=st.none() | st.integers(0, 31),
    expiration=st.none() | st.integers(0, 2**32 - 1),
    correlation_id=st.none() | texts,
    headers=st.dictionaries(texts, texts, max_size=3),
)


@given(st.lists(st.tuples(tasks, st.binary(max_size=100)), max_size=4), st.integers(9, 60))
def test_the_frames_are_those_of_pika(messages: list[tuple[TaskProperties, bytes]], frame_max: int) -> None:
    encoder = PublishEncoder("warren.tasks", frame_max)
    for channel in (1, 2047):
        for properties, body in messages:
            sent = encoder.frames(channel, "q", encoder.properties(properties), body)
            assert sent == pika_frames(properties, body, frame_max, channel)
    assert pika.BasicProperties is spec.BasicProperties


@given(st.lists(st.sampled_from(["a", "b", "c"]), min_size=1, max_size=20), st.randoms(use_true_random=False))
def test_returns_find_their_messages_while_others_come_and_go(names: list[str], chance: random.Random) -> None:
    """The index that is built at the first return agrees with looking through all."""
    confirms: Confirms[int] = Confirms()
    outstanding: dict[int, tuple[str, Outcome]] = {}
    for name in names:
        tag = confirms.add(Key("q", name), 1, len(outstanding))
        outstanding[tag] = (name, Outcome.CONFIRMED)
        if chance.random() < 0.5:
            returned = chance.choice("abc")
            confirms.returned(Key("q", returned))
            fitting = [tag for tag, (name, _) in outstanding.items() if name == returned]
            for tag in fitting:
                outstanding[tag] = (returned, Outcome.RETURNED if len(fitting) == 1 else Outcome.UNKNOWN)
        if outstanding and chance.random() < 0.5:
            chosen = chance.choice(sorted(outstanding))
            [(_, outcome)] = confirms.settle(chosen, multiple=False, ack=True)
            assert outcome is outstanding.pop(chosen)[1]
    assert len(confirms) == len(outstanding) == confirms.size
