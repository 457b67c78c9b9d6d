"""One connection to the broker that is always there or on its way: connect, notice the end, wait, connect again."""

import logging
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Protocol, cast

import pika
from pika.adapters.select_connection import SelectConnection
from pika.exceptions import AMQPError

from warren_contract.addresses import innermost
from warren_contract.backoff import Backoff
from warren_contract.settings import SettingError
from warren_worker.connection import Connection, Services
from warren_worker.loop import Loop, Timer

if TYPE_CHECKING:
    from pika.adapters.utils.selector_ioloop_adapter import AbstractSelectorIOLoop

log = logging.getLogger(__name__)

STEADY = 10.0
"""Seconds after which a connection counts as good: the next loss starts again with a short delay."""


DROP_LIMIT = 5.0
"""Seconds for the closing handshake of a connection that is given up. What makes the broker too slow to answer, such as
a queue whose leader hangs, makes it too slow for this as well."""


class LinkUser(Protocol):
    """What happens on the connection is its user's business."""

    def on_connected(self, connection: SelectConnection) -> None:
        """The connection is open."""

    def on_disconnected(self, sentence: str) -> None:
        """The connection that was open is gone; the next attempt is scheduled."""


class BrokerLink:
    """Keeps one connection. All its methods belong to the loop's thread."""

    def __init__(
        self, loop: Loop, name: str, parameters: Callable[[], pika.ConnectionParameters], backoff: Backoff | None = None
    ) -> None:
        self._loop = loop
        self._name = name
        self._parameters = parameters
        self._backoff = backoff or Backoff()
        self._delays: Iterator[float] = self._backoff.delays()
        self._connection: Connection | None = None
        self._address = ""
        self._is_open = False
        self._steady: Timer | None = None
        self._retry: Timer | None = None
        self._users: tuple[LinkUser, ...] = ()
        self._on_closed: Callable[[bool], object] | None = None
        self.losses = 0
        """How often an open connection was lost."""

    @property
    def is_open(self) -> bool:
        """Whether the connection is open and not on its way down."""
        return self._is_open and self._connection is not None and self._connection.is_open

    def start(self, *users: LinkUser) -> None:
        """Begin to connect; `users` are told in this order."""
        self._users = users
        self._connect()

    def drop(self) -> None:
        """Give this connection up; another one follows."""
        connection = self._connection
        if self.is_open and connection is not None:
            connection.close(320, "starting again")
            self._loop.call_later(DROP_LIMIT, lambda: self._abort(connection))

    def close(self, on_closed: Callable[[bool], object]) -> None:
        """Close for good and call `on_closed(whether the broker has confirmed it)`, perhaps at once.

        The broker's answer says that it has read all that was sent before, each acknowledgement included.
        """
        if self._retry is not None:
            self._retry.cancel()
        if not self.is_open or self._connection is None:
            # Nobody waits for what is only half open: its callbacks find that they are not wanted any more.
            self._connection = None
            on_closed(False)
            return
        self._on_closed = on_closed
        self._connection.close()

    def _abort(self, connection: Connection) -> None:
        if connection is self._connection:
            connection.abort("the broker did not answer to its end")

    def _connect(self) -> None:
        self._retry = None
        try:
            parameters = self._parameters()
        except (SettingError, OSError) as error:  # OSError: the CA file
            self._again(str(error))
            return
        self._address = f"{parameters.host}:{parameters.port}"
        self._connection = Connection(
            parameters,
            on_open_callback=self._opened,
            on_open_error_callback=self._failed,
            on_close_callback=self._closed,
            custom_ioloop=Services(cast("AbstractSelectorIOLoop[object]", self._loop)),  # its timers are our own type
        )

    def _opened(self, connection: SelectConnection) -> None:
        if connection is not self._connection:
            connection.close()
            return
        self._is_open = True
        self._steady = self._loop.call_later(STEADY, self._become_steady)
        for user in self._users:
            user.on_connected(connection)

    def _failed(self, connection: Any, error: BaseException | str) -> None:
        if connection is self._connection:
            self._again(f"cannot connect to the broker at {self._address}: {_told(error)}")

    def _closed(self, connection: Any, reason: BaseException) -> None:
        if connection is not self._connection:
            return
        self._connection = None
        self._is_open = False
        if self._steady is not None:
            self._steady.cancel()
        if self._on_closed is not None:
            clean = isinstance(reason, pika.exceptions.ConnectionClosedByClient)
            self._on_closed(clean)
            return
        self.losses += 1
        self._again(f"connection to the broker lost: {_told(reason)}")
        for user in self._users:
            user.on_disconnected(str(reason))

    def _again(self, sentence: str) -> None:
        self._connection = None
        delay = next(self._delays)
        log.warning("%s: %s; trying again in %.1f s", self._name, sentence, delay)
        self._retry = self._loop.call_later(delay, self._connect)

    def _become_steady(self) -> None:
        self._delays = self._backoff.delays()


def _told(error: BaseException | str) -> str:
    """What befell the connection, with the kind of error where the text alone might not say."""
    cause = innermost(error)
    if isinstance(cause, AMQPError | OSError):
        return f"{type(cause).__name__}: {cause}" if str(cause) else repr(cause)
    return str(cause) or repr(cause)
