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
"""Set by quorum queues: how often the task came back by reject or a lost consumer; absent on the first delivery."""

DEFAULT_MAX_BODY = 1_048_576
"""Bytes in a task's body that the producer takes unless told otherwise."""

MAX_PRIORITY = 31
"""Quorum queues know 0 to 31 without any queue argument; none counts as 4 (RabbitMQ 4.3)."""


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
        headers = dict(properties.headers or {})
        submitted = headers.pop(SUBMITTED_AT_HEADER, None)
        if not isinstance(submitted, int) or isinstance(submitted, bool):
            submitted = _milliseconds(properties.timestamp, time.time() if now is None else now)
        return cls(
            id=properties.message_id or new_task_id(),
            submitted_at=submitted,
            content_type=properties.content_type,
            type=properties.type,
            priority=properties.priority,
            expiration=_expiration(properties.expiration),
            correlation_id=properties.correlation_id,
            headers={name: value for name, value in headers.items() if not name.startswith(RESERVED_HEADER_PREFIX)},
        )


def attempt_number(properties: pika.BasicProperties) -> int:
    """Which attempt a delivery is, from 1: the broker's count of failed deliveries, plus this one."""
    count = (properties.headers or {}).get(DELIVERY_COUNT_HEADER, 0)
    return (count if isinstance(count, int) and count > 0 else 0) + 1


def _milliseconds(timestamp: Any, now: float) -> int:
    return int(timestamp) * 1000 if isinstance(timestamp, int) and timestamp > 0 else int(now * 1000)


def _expiration(text: Any) -> int | None:
    return int(text) if isinstance(text, str) and text.isascii() and text.isdigit() else None
