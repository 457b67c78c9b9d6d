"""Which published messages the broker has not answered yet: pure bookkeeping of delivery tags.

On a channel in confirm mode the broker numbers the messages it receives from 1 and answers each number with an ack or a
nack, in any order, and several at once with `multiple` (RabbitMQ, "Publisher Confirms"). A mandatory message that no
queue takes comes back by Basic.Return *before* its ack. A Return carries no number, only the message itself.
"""

from dataclasses import dataclass
from enum import Enum
from typing import Generic, NamedTuple, TypeVar

T = TypeVar("T")


class Outcome(Enum):
    """What became of a published message."""

    CONFIRMED = "confirmed"
    """A queue has it, safely."""
    RETURNED = "returned"
    """No queue has it: the queue does not exist."""
    REFUSED = "refused"
    """No queue has it: the broker answered with a nack, as a queue at its limit does."""
    UNKNOWN = "unknown"
    """Nobody can tell: the channel or connection went away before the answer, or a Return fits several messages."""
    LATE = "late"
    """Nobody can tell yet: the broker's answer did not come in time."""

    STALLED = "stalled"
    """Nobody can tell yet: the broker stopped reading in an alarm, and takes the message or not once that is over."""

    UNSENT = "unsent"
    """No queue has it: it was never published."""


class Key(NamedTuple):
    """What a Return tells about its message."""

    queue: str
    id: str


@dataclass(slots=True)
class _Entry(Generic[T]):
    key: Key
    size: int
    ticket: T | None
    outcome: Outcome = Outcome.CONFIRMED


class Confirms(Generic[T]):
    """The outstanding messages of one channel, each with a ticket of the caller's, in the order of publishing.

    Every ticket comes back exactly once: from `settle`, `abandon` or `lose`.
    """

    def __init__(self) -> None:
        self._entries: dict[int, _Entry[T]] = {}
        self._last_tag = 0
        self._size = 0
        self._by_key: dict[Key, set[int]] | None = None
        """Tags by key, from the first return until nothing is outstanding: most channels never see a return, and one
        that sees thousands, as of a batch into a missing queue, must not look through all for each."""

    def __len__(self) -> int:
        """Messages without an answer."""
        return len(self._entries)

    @property
    def size(self) -> int:
        """Bytes of their bodies together."""
        return self._size

    def add(self, key: Key, size: int, ticket: T) -> int:
        """Note a message that is published next on the channel; returns its delivery tag."""
        self._last_tag += 1
        self._entries[self._last_tag] = _Entry(key, size, ticket)
        if self._by_key is not None:
            self._by_key.setdefault(key, set()).add(self._last_tag)
        self._size += size
        return self._last_tag

    def returned(self, key: Key) -> None:
        """The broker sent a message back.

        Where several outstanding messages fit, because a caller sends one id twice at the same time, it cannot be told
        which of them came back; to call the wrong one confirmed would lose a task, so all of them become unknown.
        """
        if self._by_key is None:
            self._by_key = {}
            for tag, entry in self._entries.items():
                self._by_key.setdefault(entry.key, set()).add(tag)
        fitting = [self._entries[tag] for tag in self._by_key.get(key, ())]
        for entry in fitting:
            entry.outcome = Outcome.RETURNED if len(fitting) == 1 else Outcome.UNKNOWN

    def settle(self, tag: int, *, multiple: bool, ack: bool) -> list[tuple[T, Outcome]]:
        """The broker's answer: the tickets that it settles, oldest first. An answer for no known tag settles none.

        Args:
            tag: the delivery tag; 0 together with `multiple` stands for all (AMQP 0-9-1).
            multiple: the answer is for all outstanding tags up to this one.
            ack: ack or nack.
        """
        if multiple:
            # Tags are in order, so that this looks at no more entries than it settles.
            tags = []
            for known in self._entries:
                if 0 < tag < known:
                    break
                tags.append(known)
        else:
            tags = [tag] if tag in self._entries else []
        settled = []
        for known in tags:
            entry = self._take(known)
            if entry.ticket is not None:
                settled.append((entry.ticket, entry.outcome if ack else Outcome.REFUSED))
        return settled

    def abandon(self) -> list[T]:
        """All tickets, oldest first: nobody waits for their answers any more, though these may still come."""
        tickets = []
        for entry in self._entries.values():
            if entry.ticket is not None:
                tickets.append(entry.ticket)
                entry.ticket = None
        return tickets

    def lose(self) -> list[T]:
        """The channel is gone: all tickets that will never be answered, oldest first. Their outcome is unknown."""
        taken = [self._take(tag) for tag in list(self._entries)]
        return [entry.ticket for entry in taken if entry.ticket is not None]

    def _take(self, tag: int) -> _Entry[T]:
        entry = self._entries.pop(tag)
        self._size -= entry.size
        if self._by_key is not None:
            tags = self._by_key[entry.key]
            tags.discard(tag)
            if not tags:
                del self._by_key[entry.key]
            if not self._entries:
                self._by_key = None
        return entry
