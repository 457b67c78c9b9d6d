"""Task ids: what may be one, and fresh ones. Those are UUID version 7 (RFC 9562, section 5.7), so that they sort by the
time they were made."""

import os
import re
import time

MAX_TASK_ID = 255
"""Characters. An id travels as `message_id`, an AMQP short string (AMQP 0-9-1, section 4.2.5.3)."""

TASK_ID_PATTERN = rf"[\x21-\x7e]{{1,{MAX_TASK_ID}}}"
"""Of a whole id."""

_TASK_ID = re.compile(TASK_ID_PATTERN)

_VARIANT = {digit: "89ab"[int(digit, 16) & 3] for digit in "0123456789abcdef"}


class TaskIdError(ValueError):
    """A text cannot be a task's id; the message says what to write."""


def check_task_id(text: str) -> str:
    """Return `text` if a caller may give a task this id.

    The characters are those that a header of HTTP, a log line and a command line carry as they are.

    Raises:
        TaskIdError: it is empty, too long, or has other characters.
    """
    if not _TASK_ID.fullmatch(text):
        raise TaskIdError(f"write 1 to {MAX_TASK_ID} visible ASCII characters, without spaces")
    return text


def new_task_id() -> str:
    """A fresh UUIDv7 as text: 48 bits of Unix milliseconds, then 74 random bits.

    Put together as text: a batch makes tens of thousands a second, and the uuid module takes thrice as long.
    """
    clock = f"{time.time_ns() // 1_000_000 & 0xFFFF_FFFF_FFFF:012x}"
    random = os.urandom(10).hex()
    return f"{clock[:8]}-{clock[8:]}-7{random[:3]}-{_VARIANT[random[3]]}{random[4:7]}-{random[7:19]}"
