"""Reading request bodies: bounded in bytes and in time, whatever the client does."""

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Self

from starlette.types import Receive

from warren_producer.errors import ApiError, Code

MAX_READING = 64 * 1024 * 1024
"""Bytes of all bodies that are being read or submitted at once: they lie in this process's memory."""

MAX_DRAIN = 8 * 1024 * 1024
"""Bytes of a body that is too large that are still read and dropped: a client that is cut off while it sends sees a
broken connection in place of the answer."""


RawHeaders = Iterable[tuple[bytes, bytes]]
"""As ASGI has them: names in lower case, in the order of the request."""


@dataclass(slots=True)
class Budget:
    """Bytes that may be held at once.

    Attributes:
        limit: all of them.
        used: those taken.
    """

    limit: int = MAX_READING
    used: int = 0

    def take(self, count: int) -> bool:
        """Take `count` bytes if they are left."""
        if self.used + count > self.limit:
            return False
        self.used += count
        return True


class Body:
    """One request's body. Use it in a `with` statement, which gives its bytes back to the budget.

    Args:
        headers: of the request.
        receive: the request's, of ASGI.
        limit: bytes it may have.
        budget: of all requests together.
    """

    def __init__(self, headers: RawHeaders, receive: Receive, limit: int, budget: Budget) -> None:
        self._headers = headers
        self._receive = receive
        self._limit = limit
        self._budget = budget
        self._taken = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._budget.used -= self._taken

    async def read(self, timeout: float) -> bytes:  # noqa: ASYNC109  the deadline is part of the answer
        """The whole body.

        Args:
            timeout: seconds that the client has to send it.

        Raises:
            ApiError: too large (413), too slow (408), given up by the client (400), or too much at once (503).
        """
        # Where the client waits to be asked for its body, or the end of it is far, the answer need not wait either.
        drain = MAX_DRAIN if header(self._headers, b"expect") is None else 0
        if _announced(self._headers) > self._limit + drain:
            raise self._too_large(close=True)
        try:
            async with asyncio.timeout(timeout):
                return await self._read()
        except TimeoutError:
            raise ApiError(
                Code.BODY_TOO_SLOW, f"the body did not arrive within {timeout:g} s: send it faster", close=True
            ) from None

    async def _read(self) -> bytes:
        chunks: list[bytes] = []
        size = 0
        more = True
        while more:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                raise ApiError(
                    Code.BAD_REQUEST,
                    "the request broke off before its end, or went on with what is no HTTP: nothing was accepted; send "
                    "it again as a whole",
                    close=True,
                )
            more = message.get("more_body", False)
            chunk = message.get("body", b"")
            size += len(chunk)
            if size > self._limit:
                chunks.clear()
                if size > self._limit + MAX_DRAIN:
                    raise self._too_large(close=True)
                continue
            if chunk:
                self._take(len(chunk))
                chunks.append(chunk)
        if size > self._limit:
            raise self._too_large(close=False)
        return chunks[0] if len(chunks) == 1 else b"".join(chunks)

    def _take(self, count: int) -> None:
        if not self._budget.take(count):
            raise ApiError(
                Code.OVERLOADED,
                "too many bodies are being received at once: try again in a moment",
                retry_after=1,
                close=True,
            )
        self._taken += count

    def _too_large(self, *, close: bool) -> ApiError:
        return ApiError(
            Code.BODY_TOO_LARGE,
            f"a task's body may have {self._limit} bytes in this queue: store more elsewhere and send its address",
            close=close,
        )


def header(headers: RawHeaders, name: bytes) -> str | None:
    """The first value of a request header, whose name is in lower case; None where it was not sent."""
    for found, value in headers:
        if found == name:
            return value.decode("latin-1")
    return None


def _announced(headers: RawHeaders) -> int:
    """Bytes that the client says it sends; 0 if it does not say."""
    text = header(headers, b"content-length") or ""
    return int(text) if text.isascii() and text.isdigit() and len(text) < 20 else 0
