"""Task ids: UUID version 7 (RFC 9562, section 5.7), so that ids sort by the time they were made."""

import os
import time

_VARIANT = {digit: "89ab"[int(digit, 16) & 3] for digit in "0123456789abcdef"}


def new_task_id() -> str:
    """A fresh UUIDv7 as text: 48 bits of Unix milliseconds, then 74 random bits.

    Put together as text: a batch makes tens of thousands a second, and the uuid module takes thrice as long.
    """
    clock = f"{time.time_ns() // 1_000_000 & 0xFFFF_FFFF_FFFF:012x}"
    random = os.urandom(10).hex()
    return f"{clock[:8]}-{clock[8:]}-7{random[:3]}-{_VARIANT[random[3]]}{random[4:7]}-{random[7:19]}"
