"""A message's properties as bytes: kept as they came, and given back as they were with a dead letter's reason added.

pika's own values will not do for this: it reads a floating-point number as a whole one, fails on not-a-number, on dates
that Python does not know and on deep nesting, and cannot write again all that it reads. So properties are passed on
without being understood; only the top level of the headers is looked at, without recursion.
Layout: AMQP 0-9-1, sections 4.2.5 and 4.2.6.1, with RabbitMQ's types of values.
"""

from collections.abc import Iterator, Mapping
from types import MappingProxyType

import pika
from pika import data as amqp

from warren_contract.dead import MAX_ADDED, MIN_ADDED, Reason, encoded_size
from warren_contract.task import ACQUIRED_COUNT_HEADER, DELIVERY_COUNT_HEADER, RESERVED_HEADER_PREFIX

SHORT, TABLE, OCTET, LONG = -1, -2, 1, 8

FIELDS = (
    ("content_type", SHORT),
    ("content_encoding", SHORT),
    ("headers", TABLE),
    ("delivery_mode", OCTET),
    ("priority", OCTET),
    ("correlation_id", SHORT),
    ("reply_to", SHORT),
    ("expiration", SHORT),
    ("message_id", SHORT),
    ("timestamp", LONG),
    ("type", SHORT),
    ("user_id", SHORT),
    ("app_id", SHORT),
    ("cluster_id", SHORT),
)
"""The properties in their order on the wire; the first has the highest flag, bit 15."""

SIZES: Mapping[int, int] = MappingProxyType(
    {
        ord(kind): size
        for kind, size in zip("tbBsuUIiflLdTDV", (1, 1, 1, 2, 2, 2, 4, 4, 4, 8, 8, 8, 8, 5, 0), strict=True)
    }
)
"""Bytes of the values of fixed size, by their type."""

SIZED = frozenset(b"SxAF")
"""Types whose value begins with its length in four bytes."""

PERSISTENT = b"\x02"

NOT_COPIED = frozenset({b"CC", b"BCC", DELIVERY_COUNT_HEADER.encode(), ACQUIRED_COUNT_HEADER.encode()})
"""Headers that a dead letter must not have: the broker would send copies to other queues (RabbitMQ leaves these two out
as well when it dead-letters), or let the old counts through when the letter is put back."""

UNFIT = ("expiration", "user_id")
"""Properties that a dead letter cannot have: it would expire, and the broker takes a user's name from that user only.
Their values go into headers."""

REPLY_PSEUDO_QUEUE = b"amq.rabbitmq.reply-to"
"""A `reply_to` that a dead letter cannot have either: the broker closes the channel of a publisher that writes this and
does not consume from it. Where an AMQP 0-9-1 client asks for an answer so, the broker makes it an address, with more
behind the name, which may stay; others can send the name as it is."""

FRAME_OVERHEAD = 20
"""Bytes of a header frame around its properties: 7 before, 12 for class, weight and body size, 1 after."""

DEFAULT_FRAME_MAX = 131_072

LEFT_OUT_HEADER = RESERVED_HEADER_PREFIX + "headers-left-out"
_FOR_LEFT_OUT = 64
"""Bytes of that header at most."""


class EnvelopeError(ValueError):
    """The bytes are no properties."""


class Envelope(pika.BasicProperties):
    """Properties that pika sends as they are.

    Args:
        raw: the encoded properties.
        error: what was wrong with them, where pika could not read them; else empty.
    """

    def __init__(self, raw: bytes, error: str = "") -> None:
        super().__init__()
        self.raw = raw
        self.error = error

    def encode(self) -> list[bytes]:
        """The bytes as they are."""
        return [self.raw]


def split(raw: bytes) -> dict[str, bytes]:
    """The encoded value of each property that is there.

    Raises:
        EnvelopeError: the bytes are no properties.
    """
    if len(raw) < 2:
        raise EnvelopeError("no flags")
    flags = int.from_bytes(raw[:2], "big")
    offset = 2
    fields = {}
    for bit, (name, kind) in enumerate(FIELDS):
        if not flags & 0x8000 >> bit:
            continue
        if kind == SHORT:
            size = 1 + int.from_bytes(raw[offset : offset + 1], "big")
        elif kind == TABLE:
            size = 4 + int.from_bytes(raw[offset : offset + 4], "big")
        else:
            size = kind
        fields[name] = raw[offset : offset + size]
        if len(fields[name]) < size or not size:
            raise EnvelopeError(f"{name} is cut off")
        offset += size
    return fields


def join(fields: Mapping[str, bytes]) -> bytes:
    """The inverse of `split`."""
    flags = sum(0x8000 >> bit for bit, (name, _kind) in enumerate(FIELDS) if name in fields)
    return flags.to_bytes(2, "big") + b"".join(fields[name] for name, _kind in FIELDS if name in fields)


def entries(table: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Name and whole encoded entry of each header in an encoded table.

    Raises:
        EnvelopeError: the bytes are no table.
    """
    offset = 4
    while offset < len(table):
        value = offset + 2 + table[offset]
        kind = table[value - 1] if value <= len(table) else 0
        if kind in SIZED:
            end = value + 4 + int.from_bytes(table[value : value + 4], "big")
        elif kind in SIZES:
            end = value + SIZES[kind]
        else:
            raise EnvelopeError(f"a header's value has the unknown type {kind:#x}")
        if end > len(table):
            raise EnvelopeError("a header is cut off")
        yield table[offset + 1 : value - 1], table[offset:end]
        offset = end


def address(raw: bytes, reason: Reason, task_id: str, frame_max: int = DEFAULT_FRAME_MAX) -> Envelope:
    """A dead letter's properties: the task's own, and the reason.

    The broker closes the connection over a header frame above `frame_max`, so the reason is kept shorter where the task
    brings long headers, and as many of these are left out, from the last on, as the shortest reason needs room.

    Args:
        raw: the task's properties as they came.
        reason: why it is dead.
        task_id: its id, for the case that it brought none.
        frame_max: of the connection, in bytes; 0 where it has no limit.
    """
    try:
        fields = split(raw)
        found = list(entries(fields.pop("headers", b"")))
    except EnvelopeError:
        fields, found = {}, []  # cannot happen with what the broker let in; body and reason are what counts
    reserved = RESERVED_HEADER_PREFIX.encode()
    theirs = [entry for name, entry in found if name not in NOT_COPIED and not name.startswith(reserved)]
    unfit = [name for name in UNFIT if name in fields]
    if fields.get("reply_to", b"")[1:] == REPLY_PSEUDO_QUEUE:
        unfit.append("reply_to")
    moved: dict[str, str | int] = {
        f"{RESERVED_HEADER_PREFIX}{name.replace('_', '-')}": fields.pop(name)[1:].decode("utf-8", "replace")
        for name in unfit
    }
    fields["delivery_mode"] = PERSISTENT
    fields.setdefault("message_id", _short(task_id))
    room = (frame_max or DEFAULT_FRAME_MAX) - FRAME_OVERHEAD - len(join(fields)) - 4 - encoded_size(moved)
    limit = min(MAX_ADDED - encoded_size(moved), room - sum(map(len, theirs)))
    if limit < MIN_ADDED:
        limit = MIN_ADDED
        left_out = _leave_out(theirs, room - limit - _FOR_LEFT_OUT)
        if left_out:
            moved[LEFT_OUT_HEADER] = left_out
    pieces: list[bytes] = []
    amqp.encode_table(pieces, {**moved, **reason.headers(limit)})
    table = b"".join([*pieces[1:], *theirs])
    fields["headers"] = len(table).to_bytes(4, "big") + table
    return Envelope(join(fields))


def _leave_out(theirs: list[bytes], room: int) -> int:
    left_out = 0
    size = sum(map(len, theirs))
    while theirs and size > room:
        size -= len(theirs.pop())
        left_out += 1
    return left_out


def _short(text: str) -> bytes:
    data = text.encode("utf-8", "backslashreplace")[:255]
    return bytes([len(data)]) + data
