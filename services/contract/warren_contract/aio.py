"""pika's asyncio connection with awaitables in place of callbacks.

pika reports everything by callback and recovers from nothing by itself. Here each request to the broker is a future
that ends with the answer, with the error that closed the channel or connection under it, or at a time limit; and
`keep_connected` builds the connection anew, with backoff, for as long as the program runs.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import pika
import pika.channel
from pika.adapters.asyncio_connection import AsyncioConnection
from pika.exceptions import AMQPConnectionError, AMQPError, ChannelClosedByBroker, NoFreeChannels

from warren_contract.addresses import innermost, try_each
from warren_contract.backoff import Backoff
from warren_contract.settings import SettingError

log = logging.getLogger(__name__)

T = TypeVar("T")

ANSWER_LIMIT = 10.0
"""Seconds to wait for the answer to one request. A healthy broker needs milliseconds; a quorum queue that is electing a
leader needs seconds; past this the connection is not worth waiting for."""

CLOSE_LIMIT = 5.0
"""Seconds for the closing handshake; the broker cleans up after a client that does not wait for it. Then the connection
is cut: pika itself would wait for ever, with its socket, for a broker that has none to send heartbeats."""


class BrokerUnavailable(Exception):
    """There is no usable connection to the broker right now; the message says why."""


class Channel:
    """One AMQP channel.

    Attributes:
        raw: pika's own channel, for what needs no answer (publish, ack) and for callbacks.
        closed: ends with the reason once the channel is closed, from whichever side; never raises when awaited.
    """

    def __init__(self, raw: pika.channel.Channel, loop: asyncio.AbstractEventLoop) -> None:
        self.raw = raw
        self.closed: asyncio.Future[BaseException] = loop.create_future()
        self._waiting: set[asyncio.Future[Any]] = set()
        raw.add_on_close_callback(self._on_close)

    @property
    def is_open(self) -> bool:
        """Whether requests can be sent."""
        return not self.closed.done() and self.raw.is_open

    async def call(self, method: Callable[..., Any], *args: Any, limit: float = ANSWER_LIMIT, **kwargs: Any) -> Any:
        """Send a request such as `channel.raw.queue_declare` and return the method frame that answers it.

        Raises:
            ChannelClosedByBroker: the broker refused the request and closed the channel (reply_code says why).
            BrokerUnavailable: the connection went away, or no answer came within `limit` seconds.
        """
        if self.closed.done():
            raise _as_error(self.closed.result())
        answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._waiting.add(answer)
        try:
            method(*args, callback=lambda frame: _resolve(answer, frame), **kwargs)
            async with asyncio.timeout(limit):
                return await answer
        except TimeoutError:
            raise BrokerUnavailable(f"the broker did not answer {method.__name__} within {limit:g} s") from None
        except ChannelClosedByBroker:
            raise
        except AMQPError as error:
            raise _as_error(error) from error
        finally:
            self._waiting.discard(answer)

    async def close(self) -> None:
        """Close the channel, if it is open, and wait until it is (for a bounded time)."""
        if self.raw.is_open:
            self.raw.close()
        await asyncio.wait([self.closed], timeout=CLOSE_LIMIT)

    def _on_close(self, _channel: object, reason: BaseException) -> None:
        _resolve(self.closed, reason)
        for answer in self._waiting:
            if not answer.done():
                answer.set_exception(_as_error(reason))


class _AsyncioConnection(AsyncioConnection):
    """pika's, but it tries all of a broker's addresses, and its end waits for nobody."""

    def abort(self, why: str) -> None:
        """End it at once; the callback on its closing follows, with the reason.

        pika has no public way: its `close` waits for the broker's answer on each channel, then on the connection.
        """
        self._terminate_stream(AMQPConnectionError(why))  # type: ignore[attr-defined]  # not in the stubs

    def _adapter_connect_stream(self) -> None:
        super()._adapter_connect_stream()  # type: ignore[misc]  # not in the stubs
        try_each(self)


class Connection:
    """One AMQP connection.

    Attributes:
        raw: pika's own connection.
        closed: ends with the reason once the connection is closed, from whichever side; never raises when awaited.
    """

    def __init__(self, raw: _AsyncioConnection, closed: asyncio.Future[BaseException]) -> None:
        self.raw = raw
        self.closed = closed

    @classmethod
    async def open(cls, parameters: pika.ConnectionParameters) -> "Connection":
        """Connect; returns when the AMQP handshake is done.

        Raises:
            BrokerUnavailable: refused, unreachable, wrong credentials or too slow.
        """
        loop = asyncio.get_running_loop()
        opened: asyncio.Future[None] = loop.create_future()
        closed: asyncio.Future[BaseException] = loop.create_future()

        def on_open(_connection: object) -> None:
            _resolve(opened, None)

        def on_error(_connection: object, error: BaseException | str) -> None:
            if not opened.done():
                opened.set_exception(BrokerUnavailable(_sentence(parameters, error)))

        def on_close(_connection: object, reason: BaseException) -> None:
            _resolve(closed, reason)

        raw = _AsyncioConnection(
            parameters,
            on_open_callback=on_open,
            on_open_error_callback=on_error,
            on_close_callback=on_close,
            custom_ioloop=loop,
        )
        try:
            # pika's own stack timeout comes first; this one is for an event that pika loses.
            async with asyncio.timeout((parameters.stack_timeout or 15) + 5):
                await opened
        except TimeoutError:
            raise BrokerUnavailable(_sentence(parameters, "no answer")) from None
        finally:
            if not opened.done() or opened.cancelled() or opened.exception() is not None:
                _abandon(raw)
        return cls(raw, closed)

    @property
    def is_open(self) -> bool:
        """Whether channels can be opened."""
        return not self.closed.done() and self.raw.is_open

    async def channel(self, limit: float = ANSWER_LIMIT) -> Channel:
        """Open a channel.

        Raises:
            BrokerUnavailable: the connection went away, no answer came within `limit` seconds, or there are as many
                channels as the broker allows.
        """
        if not self.is_open:
            raise BrokerUnavailable("the connection to the broker is closed")
        loop = asyncio.get_running_loop()
        opened: asyncio.Future[None] = loop.create_future()
        try:
            raw = self.raw.channel(on_open_callback=lambda _channel: _resolve(opened, None))
        except NoFreeChannels:
            raise BrokerUnavailable("the broker allows no more channels on one connection: raise channel_max") from None
        ends: list[asyncio.Future[Any]] = [opened, self.closed]
        await asyncio.wait(ends, timeout=limit, return_when=asyncio.FIRST_COMPLETED)
        if not opened.done():
            opened.cancel()
            raise BrokerUnavailable(f"the broker did not open a channel within {limit:g} s")
        return Channel(raw, loop)

    async def close(self) -> None:
        """Close the connection, if it is open, and wait until it is; where the broker does not answer, cut it."""
        try:
            if self.raw.is_open:
                self.raw.close()
            await asyncio.wait([self.closed], timeout=CLOSE_LIMIT)
        finally:
            if not self.closed.done():
                self.raw.abort(f"the broker did not answer to the end of the connection within {CLOSE_LIMIT:g} s")
        await self.closed


async def keep_connected(
    parameters: Callable[[], pika.ConnectionParameters],
    use: Callable[[Connection], Awaitable[None]],
    backoff: Backoff | None = None,
    failed: Callable[[str], None] | None = None,
) -> None:
    """Connect, run `use`, and do it again whenever the connection is lost or `use` ends, until cancelled.

    Args:
        parameters: called for each attempt, so that changed credentials are picked up; may raise.
        use: sets up channels and works until the connection closes. It is cancelled when the connection is lost. Broker
            errors it raises are logged and end the connection; any other error is a bug and ends `keep_connected`.
        backoff: between attempts; starts again after a connection that `use` could work with for a while.
        failed: told why an attempt failed, or a connection ended, besides the log.
    """
    backoff = backoff or Backoff()
    delays = backoff.delays()
    loop = asyncio.get_running_loop()
    while True:
        started = loop.time()
        try:
            connection = await Connection.open(parameters())
            try:
                await _use_until_closed(connection, use)
            finally:
                await connection.close()
        except (BrokerUnavailable, AMQPError, OSError, SettingError) as error:
            # A setting can be unreadable for a moment while Kubernetes swaps the files of a changed Secret.
            log.warning("broker: %s", error)
            if failed is not None:
                failed(str(error))
        if loop.time() - started > backoff.longest:
            delays = backoff.delays()
        await asyncio.sleep(next(delays))


async def _use_until_closed(connection: Connection, use: Callable[[Connection], Awaitable[None]]) -> None:
    task = asyncio.ensure_future(use(connection))
    ends: list[asyncio.Future[Any]] = [task, connection.closed]
    try:
        await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise BrokerUnavailable(f"the connection to the broker is lost: {connection.closed.result()}")
        task.result()
    finally:
        if not task.done():
            task.cancel()
            await asyncio.wait([task], timeout=CLOSE_LIMIT)
            if task.done() and not task.cancelled() and task.exception() is not None:
                log.debug("while the connection went away: %r", task.exception())


def _resolve(future: asyncio.Future[T], value: T) -> None:
    """Set a result that nobody may be waiting for any more."""
    if not future.done():
        future.set_result(value)


def _abandon(raw: AsyncioConnection) -> None:
    """Drop a connection that never opened; pika may be closing it already."""
    try:
        raw.close()
    except AMQPError:
        log.debug("a connection that never opened was closed already")


def _as_error(reason: BaseException) -> Exception:
    """A refused request keeps pika's error with its reply code; everything else is a lost connection."""
    if isinstance(reason, ChannelClosedByBroker):
        return reason
    return BrokerUnavailable(f"the connection to the broker was lost: {reason}")


def _sentence(parameters: pika.ConnectionParameters, error: BaseException | str) -> str:
    cause = innermost(error)
    text = (isinstance(cause, OSError) and cause.strerror) or (str(cause) or repr(cause))
    return f"cannot connect to the broker at {parameters.host}:{parameters.port}: {text}"
