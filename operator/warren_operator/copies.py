"""Compact values of objects by key, which report their changes."""

from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

from warren_operator.resource import Key

T = TypeVar("T")


class Copy(Generic[T]):
    """The values of one kind of object."""

    def __init__(self, changed: Callable[[Key, T | None, T | None], None]) -> None:
        """Args:
        changed: called with the key, the value before and the value after (None: not there) at each change.
        """
        self._changed = changed
        self._values: dict[Key, T] = {}

    def get(self, key: Key) -> T | None:
        """The value of an object; None where there is none."""
        return self._values.get(key)

    def set(self, key: Key, value: T | None) -> None:
        """Note what an object is now; None takes it away."""
        before = self._values.get(key)
        if before == value:
            return
        if value is None:
            del self._values[key]
        else:
            self._values[key] = value
        self._changed(key, before, value)

    def known(self) -> list[Key]:
        """All keys there are now."""
        return list(self._values)

    def __iter__(self) -> Iterator[T]:
        return iter(self._values.values())

    def __len__(self) -> int:
        return len(self._values)
