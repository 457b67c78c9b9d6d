"""Tells `warren.events` what the worker is doing, over the connection for publishing.

Publishing has its own connection because a memory or disk alarm blocks those that publish, and consuming must go on. It
shares the IO thread: nothing here waits, and an event that cannot be sent at once is dropped (events are hints).
"""

import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pika
from pika.adapters.select_connection import SelectConnection
from pika.channel import Channel

from warren_contract.backoff import Backoff
from warren_contract.events import MAX_EVENT_SIZE, RunningTask, WorkerState, encode
from warren_contract.names import EVENTS_EXCHANGE
from warren_worker.loop import Loop, Timer
from warren_worker.pace import Pace

log = logging.getLogger(__name__)

GAP = 1.0
"""Seconds between two events of a busy worker at least, in the long run …"""

BURST = 2
"""… and so many at once after it was quiet: a task taken right after the worker said that it is idle is told, too."""

SETTLE = 0.05
"""Seconds that a change must last to be told. Between two tasks a worker is idle for milliseconds: if it said so, it
would seem idle until it may speak again."""

SIGN_OF_LIFE = 10.0
"""Seconds between two events of a quiet worker at most."""

CHANNEL_RETRY = Backoff(first=1.0, longest=30.0)
"""Delays after the broker closed the channel, as it does while the exchange does not exist yet."""


SHORT_ID = 40
"""Characters of each task's id where the event would be too long, so that nobody read it: JSON writes one in up to 12
bytes, and a hundred tasks may have ids of 255 bytes that a client of any kind has thought up."""


class Reporter:
    """Publishes WorkerStates; all methods belong to the loop's thread and never block."""

    def __init__(self, loop: Loop, state: Callable[[], WorkerState]) -> None:
        self._loop = loop
        self._state = state
        self._connection: SelectConnection | None = None
        self._channel: Channel | None = None
        self._blocked = False
        self._pace = Pace(GAP, BURST)
        self._pending: Timer | None = None
        self._pending_soon = False
        self._delays: Iterator[float] = CHANNEL_RETRY.delays()
        self._complained = False
        self._closed = False

    def start(self) -> None:
        """Begin with the signs of life."""
        self._schedule(SIGN_OF_LIFE, soon=False)

    def changed(self) -> None:
        """Something worth telling has happened: tell it as soon as it has settled and the pace allows."""
        if not self._pending_soon and not self._closed:
            self._schedule(max(SETTLE, self._pace.wait(time.monotonic())), soon=True)

    def close(self) -> None:
        """Send the last state."""
        if self._pending is not None:
            self._pending.cancel()
        self._publish()
        self._closed = True

    def on_connected(self, connection: SelectConnection) -> None:
        """The link's: a fresh connection."""
        self._connection = connection
        self._blocked = False
        connection.add_on_connection_blocked_callback(self._on_blocked)
        connection.add_on_connection_unblocked_callback(self._on_unblocked)
        self._open_channel()

    def on_disconnected(self, sentence: str) -> None:  # noqa: ARG002  the link has logged it
        """The link's: the connection is gone."""
        self._connection = self._channel = None

    def _open_channel(self) -> None:
        # There may be one already: the connection was lost and came back while the next try was still due.
        if self._connection is not None and self._connection.is_open and self._channel is None and not self._closed:
            self._connection.channel(on_open_callback=self._on_channel)

    def _on_channel(self, channel: Channel) -> None:
        self._channel = channel
        channel.add_on_close_callback(self._on_channel_closed)
        self.changed()

    def _on_channel_closed(self, _channel: object, reason: BaseException) -> None:
        self._channel = None
        if self._connection is None or not self._connection.is_open or self._closed:
            return
        if not self._complained:
            self._complained = True
            log.warning("no events until the broker takes them: %s", reason)
        self._loop.call_later(next(self._delays), self._open_channel)

    def _on_blocked(self, *_args: object) -> None:
        self._blocked = True
        log.warning("the broker takes no events: it is short of memory or disk space")

    def _on_unblocked(self, *_args: object) -> None:
        self._blocked = False
        self.changed()

    def _schedule(self, delay: float, *, soon: bool) -> None:
        if self._pending is not None:
            self._pending.cancel()
        self._pending_soon = soon
        self._pending = self._loop.call_later(delay, self._send)

    def _send(self) -> None:
        self._pace.spend(time.monotonic())
        self._publish()
        self._schedule(SIGN_OF_LIFE, soon=False)

    def _publish(self) -> None:
        channel: Any = self._channel
        if channel is None or not channel.is_open or self._blocked or self._closed:
            return
        state = self._state()
        properties = pika.BasicProperties(content_type="application/json", type=state.kind)
        body = encode(state)
        if len(body) > MAX_EVENT_SIZE:
            running = tuple(RunningTask(task.id[:SHORT_ID], task.since) for task in state.running)
            body = encode(replace(state, running=running))
        channel.basic_publish(EVENTS_EXCHANGE, state.routing_key, body, properties)
