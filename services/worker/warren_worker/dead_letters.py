"""Publishes dead letters, each with its reason, and tells what became of them.

They go over the publishing connection, in confirm mode and mandatory: a confirm alone would also be given to what no
queue takes. Whatever is not confirmed in time counts as not taken. Then the task is tried again, and there may be a
copy of it among the dead letters already: at least once, like everything else here.
"""

import logging
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from pika.adapters.select_connection import SelectConnection
from pika.channel import Channel

from warren_contract.backoff import Backoff
from warren_contract.dead import Reason
from warren_contract.names import DEAD_EXCHANGE, dead_queue
from warren_worker.envelope import DEFAULT_FRAME_MAX, address
from warren_worker.loop import Loop, Timer

log = logging.getLogger(__name__)

LIMIT = 10.0
"""Seconds for the broker's confirm. Meanwhile the task keeps its place in the worker; a quorum queue that elects a
leader is done sooner, and past this the task is better off in its queue, where the retry policy paces it."""

RETRY = Backoff(first=0.2, longest=5.0)
"""Delays before the next channel, after the broker closed one: it does so where the exchange does not exist."""

OnResult = Callable[[str], object]
"""Called with an empty text once the broker has the letter, else with a sentence on why it has not."""


class _Letter:
    __slots__ = ("body", "limit", "on_result", "properties", "reason", "task_id")

    def __init__(self, properties: bytes, body: bytes, task_id: str, reason: Reason, on_result: OnResult) -> None:
        self.properties = properties
        self.body = body
        self.task_id = task_id
        self.reason = reason
        self.on_result = on_result
        self.limit: Timer | None = None


class DeadLetters:
    """All methods belong to the loop's thread and never block.

    Its channel is opened for the first letter: most workers never need one.

    Args:
        loop: the IO thread's.
        queue: the work queue.
    """

    def __init__(self, loop: Loop, queue: str) -> None:
        self._loop = loop
        self._queue = queue
        self._connection: SelectConnection | None = None
        self._channel: Channel | None = None
        self._opening = False
        self._blocked = False
        self._tag = 0
        self._waiting: list[_Letter] = []
        self._in_flight: dict[int, _Letter] = {}
        self._delays: Iterator[float] = RETRY.delays()
        self._retry: Timer | None = None

    @property
    def pending(self) -> int:
        """Letters whose result is still to come."""
        return len(self._waiting) + len(self._in_flight)

    def publish(self, properties: bytes, body: bytes, task_id: str, reason: Reason, on_result: OnResult) -> None:
        """Send a letter and call `on_result` exactly once, after at most `LIMIT` seconds, never from within.

        Args:
            properties: the task's, as they came over the wire.
            body: the task's.
            task_id: for the case that its properties have none.
            reason: why it is dead.
            on_result: told what became of it.
        """
        letter = _Letter(properties, body, task_id, reason, on_result)
        letter.limit = self._loop.call_later(LIMIT, partial(self._too_late, letter))
        self._waiting.append(letter)
        # Also the first step is left to the loop, so that no result comes before this returns.
        self._loop.call_later(0, self._go_on)

    def give_up(self) -> None:
        """Wait no longer: what is not confirmed counts as not taken."""
        self._fail_all([*self._waiting, *self._in_flight.values()], "the worker ends")

    def on_connected(self, connection: SelectConnection) -> None:
        """The link's: a fresh connection."""
        self._connection = connection
        self._blocked = False
        connection.add_on_connection_blocked_callback(lambda *_: self._set_blocked(True))
        connection.add_on_connection_unblocked_callback(lambda *_: self._set_blocked(False))
        self._go_on()

    def on_disconnected(self, sentence: str) -> None:
        """The link's: the connection is gone."""
        self._connection = self._channel = None
        self._opening = False
        self._fail_all(list(self._in_flight.values()), sentence)

    def _set_blocked(self, blocked: bool) -> None:
        self._blocked = blocked
        self._go_on()

    def _go_on(self) -> None:
        if not self._waiting or self._connection is None or not self._connection.is_open:
            return
        if self._channel is None:
            if not self._opening and self._retry is None:
                self._opening = True
                self._connection.channel(on_open_callback=self._on_channel)
            return
        if self._channel.is_open and not self._blocked:
            for letter in list(self._waiting):
                self._send(self._channel, letter)

    def _send(self, channel: Channel, letter: _Letter) -> None:
        frame_max = getattr(channel.connection.params, "frame_max", DEFAULT_FRAME_MAX)
        envelope = address(letter.properties, letter.reason, letter.task_id, frame_max)
        self._tag += 1
        self._in_flight[self._tag] = letter
        self._waiting.remove(letter)
        channel.basic_publish(DEAD_EXCHANGE, self._queue, letter.body, envelope, mandatory=True)

    def _on_channel(self, channel: Channel) -> None:
        channel.add_on_close_callback(self._on_channel_closed)
        channel.add_on_return_callback(self._on_return)
        channel.confirm_delivery(self._on_confirm, callback=partial(self._on_confirm_mode, channel))

    def _on_confirm_mode(self, channel: Channel, _frame: object) -> None:
        self._opening = False
        self._channel = channel
        self._tag = 0
        self._go_on()

    def _on_channel_closed(self, channel: object, reason: BaseException) -> None:
        if self._connection is None or not self._connection.is_open:
            return  # the whole connection is going down, and `on_disconnected` follows
        if self._channel is None or channel is self._channel:
            self._opening = False
            self._channel = None
            self._retry = self._loop.call_later(next(self._delays), self._try_again)
            self._fail_all(list(self._in_flight.values()), f"the broker refuses: {reason}")

    def _try_again(self) -> None:
        self._retry = None
        self._go_on()

    def _on_return(self, _channel: object, method: Any, _properties: object, _body: object) -> None:
        # A return does not say which letter it is about. They all went the same way, so all count as returned: the
        # worst of that is a copy too many.
        sentence = f"there is no queue {dead_queue(self._queue)} ({method.reply_text})"
        self._fail_all(list(self._in_flight.values()), sentence)

    def _on_confirm(self, frame: Any) -> None:
        method = frame.method
        taken = method.NAME == "Basic.Ack"
        tags = (
            [tag for tag in self._in_flight if tag <= method.delivery_tag] if method.multiple else [method.delivery_tag]
        )
        letters = [self._in_flight[tag] for tag in tags if tag in self._in_flight]
        if taken:
            self._delays = RETRY.delays()
            for letter in letters:
                self._finish(letter, "")
        else:
            self._fail_all(letters, f"queue {dead_queue(self._queue)} takes no more: is it full?")

    def _too_late(self, letter: _Letter) -> None:
        why = ": it is short of memory or disk space" if self._blocked else ""
        self._finish(letter, f"the broker did not confirm it within {LIMIT:g} s{why}")

    def _fail_all(self, letters: list[_Letter], sentence: str) -> None:
        for letter in letters:
            self._finish(letter, sentence)

    def _finish(self, letter: _Letter, sentence: str) -> None:
        if letter in self._waiting:
            self._waiting.remove(letter)
        else:
            tag = next((tag for tag, other in self._in_flight.items() if other is letter), None)
            if tag is None:
                return
            del self._in_flight[tag]
        if letter.limit is not None:
            letter.limit.cancel()
        letter.on_result(sentence)
