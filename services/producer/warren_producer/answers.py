"""Answers that are made as fast as their client reads them."""

import asyncio
import logging
from collections.abc import Callable, Iterable, Mapping

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

log = logging.getLogger(__name__)


class InPieces(Response):
    """An answer in pieces: the next one is made when most of those before it have been written to the client.

    Args:
        status: of HTTP.
        headers: that only this answer has.
        size: bytes of its body.
        pieces: of its body, asked for one by one.
        limit: seconds that the client has to read all of it.
        done: is called once it is written, or the client has gone, or took too long.
    """

    media_type = "application/json"

    def __init__(  # noqa: PLR0913  what an answer consists of
        self,
        status: int,
        headers: Mapping[str, str],
        *,
        size: int,
        pieces: Iterable[bytes],
        limit: float,
        done: Callable[[], None],
    ) -> None:
        super().__init__(None, status, {**headers, "content-length": str(size)})
        self._pieces = pieces
        self._limit = limit
        self._done = done

    async def __call__(self, _scope: Scope, _receive: Receive, send: Send) -> None:
        """The ASGI application."""
        try:
            async with asyncio.timeout(self._limit):
                await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
                for number, piece in enumerate(self._pieces):
                    if number:
                        await asyncio.sleep(0)  # others have their turn
                    await send({"type": "http.response.body", "body": piece, "more_body": True})
                # Waits as well: only a little of the last piece is left to write after this.
                await send({"type": "http.response.body", "body": b"", "more_body": False})
        except TimeoutError:
            # The server ends the connection, since the answer is not complete.
            log.warning("a client did not read its answer within %g s", self._limit)
        finally:
            self._done()
