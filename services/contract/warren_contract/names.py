"""Names in the broker, and the rules for queue names."""

import re

TASKS_EXCHANGE = "warren.tasks"
"""Direct exchange the producer writes to; the routing key is the queue's name."""

DEAD_EXCHANGE = "warren.dead"
"""Direct exchange for dead letters; the routing key is the name of the queue that the task came from."""

EVENTS_EXCHANGE = "warren.events"
"""Topic exchange for the small messages of `warren_contract.events`."""

OPERATOR_EVENTS_PREFIX = "warren.operator."
"""The operator's own, exclusive queue on the events exchange."""

PRODUCER_QUEUE_PREFIX = "warren.producer."
"""Each producer replica reads events through an exclusive queue of its own under this prefix."""

DEAD_SUFFIX = ".dead"
RESERVED_PREFIXES = ("amq.", "warren.")

QUEUE_NAME_PATTERN = r"[A-Za-z0-9][A-Za-z0-9._:-]{0,199}"
"""Of a whole name; reserved ones match, too."""

_QUEUE_NAME = re.compile(QUEUE_NAME_PATTERN)


class QueueNameError(ValueError):
    """A queue name breaks the rules; the message says which one and what to write instead."""


def check_queue_name(name: str) -> str:
    """Return `name` if a work queue may have it.

    The characters are those that need no escaping in a URL path, a file name or a topic's routing key. 200 leaves
    room for the `.dead` suffix under AMQP's limit of 255 bytes.

    Raises:
        QueueNameError: the name is reserved, too long, empty or has other characters.
    """
    if not _QUEUE_NAME.fullmatch(name):
        shown = name if len(name) <= 80 else f"{name[:80]}…"
        raise QueueNameError(
            f"queue name {shown!r} is not usable: write 1 to 200 letters, digits, '.', '_', ':' or '-', "
            "starting with a letter or digit"
        )
    for prefix in RESERVED_PREFIXES:
        if name.startswith(prefix):
            raise QueueNameError(f"queue name {name!r} is reserved: choose one that does not start with {prefix!r}")
    if name.endswith(DEAD_SUFFIX):
        raise QueueNameError(
            f"queue name {name!r} is reserved for dead letters: choose one that does not end in {DEAD_SUFFIX!r}"
        )
    return name


def dead_queue(queue: str) -> str:
    """The dead-letter queue of a work queue."""
    return queue + DEAD_SUFFIX
