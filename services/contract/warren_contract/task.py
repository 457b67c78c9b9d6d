"""A task's properties as they travel in AMQP: plain properties, so that any client in any language can take part."""

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import pika

from warren_contract.ids import new_task_id

RESERVED_HEADER_PREFIX = "x-warren-"
SUBMITTED_AT_HEADER = "x-warren-submitted-at"
DELIVERY_COUNT_HEADER = "x-delivery-count"
"""Set by quorum queues: how often the task came back by reject or a lost consumer; absent while that never happened."""

ACQUIRED_COUNT_HEADER = "x-acquired-count"
"""Set by quorum queues from 4.3 on: how often the task was delivered before, for whatever reason it came back."""

DEFAULT_MAX_BODY = 1_048_576
"""Bytes in a task's body that the producer takes unless told otherwise."""

MAX_PRIORITY = 31
"""Quorum queues know 0 to 31 without any queue argument; none counts as 4 (RabbitMQ 4.3)."""


LATEST_TIMESTAMP = 253_402_300_799
"""Unix time in seconds of the end of the year 9999; a `timestamp` beyond is none."""


@dataclass(frozen=True, slots=True)
class TaskProperties:
    """What a task carries besides its body, which stays untouched.

    Attributes:
        id: UUIDv7, or the caller's Idempotency-Key; AMQP `message_id`.
        submitted_at: Unix time in milliseconds; header `x-warren-submitted-at`, and `timestamp` in whole seconds.
        content_type: of the body; None if the caller did not say.
        type: name of the handler where one queue serves several.
        priority: 0 to 31.
        expiration: milliseconds until the broker dead-letters the task unworked.
        correlation_id: the caller's own.
        headers: the caller's own; without the reserved `x-warren-*`.
    """

    id: str
    submitted_at: int
    content_type: str | None = None
    type: str | None = None
    priority: int | None = None
    expiration: int | None = None
    correlation_id: str | None = None
    headers: Mapping[str, Any] = field(default_factory=dict)

    def to_amqp(self) -> pika.BasicProperties:
        """As AMQP properties, persistent."""
        return pika.BasicProperties(
            message_id=self.id,
            timestamp=self.submitted_at // 1000,
            content_type=self.content_type,
            type=self.type,
            priority=self.priority,
            expiration=None if self.expiration is None else str(self.expiration),
            correlation_id=self.correlation_id,
            delivery_mode=pika.DeliveryMode.Persistent.value,
            headers={**self.headers, SUBMITTED_AT_HEADER: self.submitted_at},
        )

    @classmethod
    def from_amqp(cls, properties: pika.BasicProperties, now: float | None = None) -> "TaskProperties":
        """Read a delivery's properties and fill in what a foreign client left out.

        A bare message, such as the tutorial's new_task.py sends, is a valid task: it gets a fresh id, and the time it
        was first seen stands for the time it was submitted. Nothing that a foreign client may have written raises.

        Args:
            properties: of the delivery.
            now: Unix time in seconds; the clock's by default.
        """
        headers = properties.headers or {}
        if any(type(name) is not str for name in headers):
            headers = {_text(name) or "": value for name, value in headers.items()}
        submitted = submitted_at(properties)
        if submitted is None:
            submitted = int((time.time() if now is None else now) * 1000)
        return cls(
            id=_text(properties.message_id) or new_task_id(),
            submitted_at=submitted,
            content_type=_text(properties.content_type),
            type=_text(properties.type),
            priority=properties.priority,
            expiration=_expiration(properties.expiration),
            correlation_id=_text(properties.correlation_id),
            headers={name: value for name, value in headers.items() if not name.startswith(RESERVED_HEADER_PREFIX)},
        )


def submitted_at(properties: pika.BasicProperties) -> int | None:
    """Unix time in milliseconds at which a task was submitted; None where its sender did not say.

    A number beyond the year 9999 says nothing either. pika reads a floating-point header as a whole number of up to 309
    digits, which no message can carry on: writing it into a dead letter would fail.
    """
    submitted = (properties.headers or {}).get(SUBMITTED_AT_HEADER)
    if isinstance(submitted, int) and not isinstance(submitted, bool) and 0 < submitted <= LATEST_TIMESTAMP * 1000:
        return int(submitted)  # pika's own type for numbers of 64 bits behaves like one, and carries pika along
    timestamp: Any = properties.timestamp
    return timestamp * 1000 if isinstance(timestamp, int) and 0 < timestamp <= LATEST_TIMESTAMP else None


@dataclass(frozen=True, slots=True)
class Deliveries:
    """What the broker has counted of a task.

    Attributes:
        attempt: which attempt a delivery is, from 1: the broker's count of failed deliveries, plus this one.
        uncounted: how often the task came back before without counting: handed back, or past the consumer timeout.
    """

    attempt: int
    uncounted: int

    @classmethod
    def from_amqp(cls, properties: pika.BasicProperties, *, redelivered: bool) -> "Deliveries":
        """Read a delivery's counts.

        The broker writes them only once there is something to count, and lets through what the sender wrote under the
        same names before that (seen on 4.3.6), for instance in a dead letter that somebody put back. So they mean
        nothing on a first delivery, and more failed deliveries than deliveries mean nothing either.

        Args:
            properties: of the delivery.
            redelivered: the delivery's own flag, which is always the broker's.
        """
        if not redelivered:
            return FIRST_DELIVERY
        headers = properties.headers or {}
        acquired = _count(headers.get(ACQUIRED_COUNT_HEADER))
        failed = _count(headers.get(DELIVERY_COUNT_HEADER))
        if ACQUIRED_COUNT_HEADER not in headers:  # not a quorum queue of 4.3
            return cls(failed + 1, 0)
        if failed > acquired:
            failed = 0
        return cls(failed + 1, acquired - failed)


FIRST_DELIVERY = Deliveries(1, 0)

MAX_COUNT = 2**31 - 1
"""Deliveries that a count can name; more is a sender's invention, and one more than a number's largest would not fit
into a dead letter."""


def _count(value: Any) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 < value <= MAX_COUNT else 0


def _text(value: Any) -> str | None:
    """pika gives bytes where a text is not UTF-8, and the property's raw value where the sender broke the rules."""
    if isinstance(value, bytes):
        return value.decode("utf-8", "backslashreplace")
    return value if isinstance(value, str) else None


def _expiration(text: Any) -> int | None:
    return int(text) if isinstance(text, str) and text.isascii() and text.isdigit() else None
