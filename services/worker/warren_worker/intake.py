"""What a delivery is, and whether it can be run at all. Whatever a sender wrote, nothing here raises."""

from dataclasses import dataclass

import pika

from warren_contract.ids import new_task_id
from warren_contract.task import FIRST_DELIVERY, Deliveries, TaskProperties
from warren_worker.envelope import Envelope
from warren_worker.verdict import Failed

MAX_UNCOUNTED = 50
"""How often a task may come back without a failure being counted: handed back by workers that ended, or taken back past
the consumer timeout. Beyond that it goes in circles, and nobody would ever hear of it."""


@dataclass(frozen=True, slots=True)
class Intake:
    """A delivery, understood.

    Attributes:
        properties: the task's, what its sender left out filled in.
        deliveries: what the broker has counted of it.
        unfit: why it is not to be run; None where it is.
    """

    properties: TaskProperties
    deliveries: Deliveries
    unfit: Failed | None


def take_in(
    properties: pika.BasicProperties, body_size: int, now: float, *, redelivered: bool, max_body: int
) -> Intake:
    """Look at a delivery before it is run.

    Args:
        properties: as pika read them.
        body_size: in bytes.
        now: Unix time in seconds.
        redelivered: the delivery's flag.
        max_body: bytes that a body may have.
    """
    if type(properties) is Envelope:
        return _undecodable(properties.error, now)
    try:
        task = TaskProperties.from_amqp(properties, now)
        deliveries = Deliveries.from_amqp(properties, redelivered=redelivered)
    except Exception as error:  # noqa: BLE001  whatever it is, it must not end the worker, nor the next one
        return _undecodable(f"{type(error).__name__}: {error}", now)
    unfit = None
    if body_size > max_body:
        unfit = Failed(
            "BodyTooLarge",
            f"the body has {body_size} bytes and the worker takes {max_body} (WARREN_MAX_BODY): store it elsewhere and "
            "send its address",
        )
    elif deliveries.uncounted > MAX_UNCOUNTED:
        unfit = Failed(
            "NeverFinished",
            f"the task came back {deliveries.uncounted} times without having failed: workers ended before it did, or "
            "it outlived the consumer timeout",
        )
    return Intake(task, deliveries, unfit)


def undecodable(error: str) -> Failed:
    """The reason of a task that cannot even be handed to a handler."""
    return Failed("Undecodable", f"the task's properties cannot be read: {error}")


def _undecodable(error: str, now: float) -> Intake:
    properties = TaskProperties(id=new_task_id(), submitted_at=int(now * 1000))
    return Intake(properties, FIRST_DELIVERY, undecodable(error))
