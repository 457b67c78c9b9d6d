"""What comes in: properties that cannot be read, bodies that are too long, tasks that go in circles."""

import random
import struct
from typing import Any

import pika
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pika.exceptions import InvalidFrameError

from warren_worker.connection import Connection, raw_properties
from warren_worker.envelope import Envelope, join
from warren_worker.intake import MAX_UNCOUNTED, Intake, take_in


def took(properties: pika.BasicProperties, size: int = 5, *, redelivered: bool = False) -> Intake:
    return take_in(properties, size, 1_700_000_000.0, redelivered=redelivered, max_body=10)


@pytest.mark.parametrize(
    ("headers", "size", "reason"),
    [
        (None, 5, None),
        (None, 10, None),
        (None, 11, "BodyTooLarge"),
        ({"x-acquired-count": MAX_UNCOUNTED}, 5, None),
        ({"x-acquired-count": MAX_UNCOUNTED + 1}, 5, "NeverFinished"),
        ({"x-acquired-count": 900, "x-delivery-count": 899}, 5, None),  # failures are counted by `maxAttempts`
    ],
)
def test_what_is_not_to_be_run_says_why(headers: dict[str, Any] | None, size: int, reason: str | None) -> None:
    taken = took(pika.BasicProperties(headers=headers), size, redelivered=True)
    assert (taken.unfit.exception if taken.unfit else None) == reason


def test_properties_that_could_not_be_read_are_not_run() -> None:
    taken = took(Envelope(b"", "ValueError: year 99999 is out of range"))
    assert taken.unfit is not None
    assert taken.unfit.exception == "Undecodable"
    assert "year 99999" in taken.unfit.message
    assert taken.properties.id


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary() | st.dates(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text() | st.binary(), inner, max_size=3),
    max_leaves=5,
)


@given(
    st.fixed_dictionaries({}, optional={name: anything for name in vars(pika.BasicProperties()) if name != "headers"}),
    anything,
    st.booleans(),
)
def test_whatever_the_properties_are_nothing_raises(values: dict[str, Any], headers: Any, redelivered: bool) -> None:
    properties = pika.BasicProperties()
    for name, value in {**values, "headers": headers}.items():
        setattr(properties, name, value)
    taken = took(properties, redelivered=redelivered)
    assert isinstance(taken.properties.id, str)
    assert taken.properties.id
    assert taken.deliveries.attempt >= 1


class Feed(Connection):
    """Only what reads frames."""

    def __init__(self, data: bytes) -> None:
        self._frame_buffer = data

    def next(self) -> tuple[int, Any]:
        return self._read_frame()


def header_frame(properties: bytes, body_size: int = 7) -> bytes:
    payload = struct.pack(">HHQ", 60, 0, body_size) + properties
    return struct.pack(">BHL", 2, 3, len(payload)) + payload + b"\xce"


def nested(depth: int) -> bytes:
    table = b""
    for _ in range(depth):
        table = b"\x01aF" + struct.pack(">I", len(table)) + table
    return struct.pack(">I", len(table)) + table


@pytest.mark.parametrize(
    ("headers", "error"),
    [
        (b"\x00\x00\x00\x0b\x01ad" + struct.pack(">d", float("inf")), "OverflowError"),
        (b"\x00\x00\x00\x0b\x01ad" + struct.pack(">d", float("nan")), "ValueError"),
        (b"\x00\x00\x00\x0b\x01aT" + b"\xff" * 8, "OverflowError|ValueError|OSError"),
        (b"\x00\x00\x00\x04\x01aZ\x00", "InvalidFieldTypeException"),
        (nested(5000), "RecursionError"),
    ],
)
def test_a_header_frame_that_pika_cannot_read_still_arrives(headers: bytes, error: str) -> None:
    raw = join({"headers": headers, "message_id": b"\x02id"})
    frame = header_frame(raw)
    size, value = Feed(frame + b"more").next()
    assert size == len(frame)
    assert (value.channel_number, value.body_size, value.properties.raw) == (3, 7, raw)
    assert value.properties.error.split(":")[0] in error.split("|")


def test_the_bytes_of_readable_properties_are_kept_and_parts_of_frames_waited_for() -> None:
    raw = b"".join(pika.BasicProperties(message_id="id", headers={"a": 1}).encode())
    frame = header_frame(raw)
    for cut in range(len(frame)):
        assert Feed(frame[:cut]).next() == (0, None)
    size, value = Feed(frame).next()
    assert (size, value.properties.message_id, raw_properties(value.properties)) == (len(frame), "id", raw)
    assert raw_properties(pika.BasicProperties(message_id="id", headers={"a": 1})) == raw


@given(st.binary(max_size=60), st.integers(0, 2**32))
def test_only_header_frames_are_forgiven(garbage: bytes, seed: int) -> None:
    frame = bytearray(header_frame(garbage))
    assert Feed(bytes(frame)).next()[0] == len(frame)
    frame[-1] = random.Random(seed).choice([value for value in range(256) if value != 0xCE])
    with pytest.raises(InvalidFrameError):
        Feed(bytes(frame)).next()
