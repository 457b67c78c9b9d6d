"""Newline-delimited JSON as it comes off the network: chunks in, lines out. Pure; where chunks end does not matter."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Line:
    """One line that is not blank.

    Attributes:
        number: from 1, blank lines counted too, so that it is the one that an editor shows.
        data: its bytes without the line's end; None if it was longer than the limit.
    """

    number: int
    data: bytes | None


class Lines:
    """Cuts a stream into lines at each line feed; blank lines (spaces, tabs, carriage returns) are skipped.

    Args:
        limit: bytes in a line. What is longer is dropped up to its end, so that memory stays bounded.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._number = 0
        self._rest: list[bytes] = []
        self._size = 0
        """Bytes of the line that has not ended yet, the dropped ones included."""

    @property
    def held(self) -> int:
        """Bytes in memory."""
        return min(self._size, self._limit)

    def feed(self, chunk: bytes) -> list[Line]:
        """The lines that end in this chunk."""
        *ends, rest = chunk.split(b"\n")
        found: list[Line] = []
        for piece in ends:
            self._keep(piece)
            self._end(found)
        self._keep(rest)
        return found

    def finish(self) -> list[Line]:
        """The last line, where no line feed ends it."""
        found: list[Line] = []
        if self._size:
            self._end(found)
        return found

    def _keep(self, piece: bytes) -> None:
        if not piece:
            return
        self._size += len(piece)
        if self._size > self._limit:
            self._rest.clear()
        else:
            self._rest.append(piece)

    def _end(self, found: list[Line]) -> None:
        self._number += 1
        if self._size > self._limit:
            found.append(Line(self._number, None))
        elif self._size:
            data = self._rest[0] if len(self._rest) == 1 else b"".join(self._rest)
            if not data.isspace():
                found.append(Line(self._number, data))
        self._rest.clear()
        self._size = 0
