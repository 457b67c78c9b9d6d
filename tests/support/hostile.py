"""Messages that no well-meaning client sends, as bytes, from a seed. RabbitMQ refuses some and lets in the rest."""

import random
import struct
from dataclasses import dataclass

import pika

from warren_worker.envelope import FIELDS, LONG, OCTET, SHORT, join

BROKERS_HEADERS = (
    b"x-delivery-count",
    b"x-acquired-count",
    b"x-death",
    b"x-first-death-queue",
    b"x-warren-submitted-at",
    b"x-warren-exception",
    b"x-match",
    b"BCC",
)
"""Names that mean something to the broker or to us."""


@dataclass(frozen=True, slots=True)
class Message:
    """Properties as they go over the wire, and a body."""

    properties: bytes
    body: bytes


class Raw(pika.BasicProperties):
    """Properties that pika sends as they are."""

    def __init__(self, raw: bytes) -> None:
        super().__init__()
        self._raw = raw

    def encode(self) -> list[bytes]:
        """The bytes."""
        return [self._raw]


def message(rng: random.Random, body: bytes) -> Message:
    """Any message."""
    fields: dict[str, bytes] = {}
    for name, kind in FIELDS:
        if rng.random() < 0.5:
            continue
        if name == "expiration":
            text = rng.choice([b"0", b"1", b"60000", b"4294967295", b"99999999999", b"soon", b"-1", b""])
            fields[name] = bytes([len(text)]) + text
        elif name == "user_id":
            if rng.random() < 0.2:
                fields[name] = rng.choice([b"\x05admin", b"\x05guest"])
        elif kind == SHORT:
            fields[name] = _short(rng)
        elif kind in {OCTET, LONG}:
            fields[name] = rng.choice([bytes(kind), b"\xff" * kind, rng.randbytes(kind)])
        else:
            fields[name] = _sized(table(rng))
    return Message(join(fields), body)


def table(rng: random.Random) -> bytes:
    """The entries of a table of headers."""
    kind = rng.random()
    if kind < 0.05:
        return b"\x01aF" + nested(rng.choice([10, 300, 500, 3000, 15_000]))
    if kind < 0.1:  # near the largest frame
        return b"\x03bigS" + _sized(b"\xc3" * rng.randrange(100_000, 131_072))
    return b"".join(_name(rng) + value(rng) for _ in range(rng.randrange(12)))


def _name(rng: random.Random) -> bytes:
    name = rng.choice([rng.choice(BROKERS_HEADERS), b"", b"mine", b"\xff\xfe", rng.randbytes(rng.randrange(128))])
    return bytes([len(name)]) + name


def value(rng: random.Random, depth: int = 0) -> bytes:
    """A header's value of any type, the type before it; `depth` tells how deep it lies in others."""
    kind = rng.choice(b"tbBsuIilfdDTSxVAF" if depth < 4 else b"tVSx")
    size = {"t": 1, "b": 1, "B": 1, "s": 2, "u": 2, "I": 4, "i": 4, "l": 8, "f": 4, "d": 8, "D": 5, "T": 8, "V": 0}
    tag = bytes([kind])
    letter = chr(kind)
    if letter == "d":
        return tag + struct.pack(">d", rng.choice([float("nan"), float("inf"), -float("inf"), 1e308, 0.5, -0.0]))
    if letter in size:
        count = size[letter]
        return (
            tag
            + rng.choice([bytes(count), b"\xff" * count, b"\x7f" + b"\xff" * (count - 1), rng.randbytes(count)])[:count]
        )
    if letter == "A":
        return tag + _sized(b"".join(value(rng, depth + 1) for _ in range(rng.randrange(4))))
    if letter == "F":
        return tag + _sized(b"".join(_name(rng) + value(rng, depth + 1) for _ in range(rng.randrange(4))))
    return tag + _sized(rng.randbytes(rng.choice([0, 1, 10, 1000])))


def nested(depth: int) -> bytes:
    """A table in a table in a table …, with its length."""
    table = _sized(b"")
    for _ in range(depth):
        table = _sized(b"\x01aF" + table)
    return table


def _short(rng: random.Random) -> bytes:
    text = rng.choice([b"", b"\xff\xfe", b"\0", b"line\nbreak\r\n", "ä€🐇".encode(), rng.randbytes(rng.randrange(256))])
    return bytes([len(text)]) + text


def _sized(data: bytes) -> bytes:
    return len(data).to_bytes(4, "big") + data
