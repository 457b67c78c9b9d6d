"""Wait for a condition instead of sleeping for a guess."""

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def eventually(check: Callable[[], T | None], what: str, *, limit: float = 60.0, every: float = 0.1) -> T:
    """Call `check` until it returns something true, and return that.

    An AssertionError raised by `check` counts as "not yet", and the last one is shown if the time runs out.

    Args:
        check: looks at the world.
        what: the condition in words, for the failure.
        limit: seconds; far beyond what it takes when all is well, since a slow machine is no failure.
        every: seconds between two looks.
    """
    deadline = time.monotonic() + limit
    last: object = None
    while True:
        try:
            last = value = check()
            if value:
                return value
        except AssertionError as error:
            last = error
        if time.monotonic() > deadline:
            raise AssertionError(f"{what}: not within {limit:g} s; last seen: {last!r}")
        time.sleep(every)
