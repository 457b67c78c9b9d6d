"""The consuming side of the broker: deliveries in, verdicts out, on the channel that delivered and on no other."""

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import pika
from pika.adapters.select_connection import SelectConnection
from pika.channel import Channel

from warren_contract.backoff import Backoff
from warren_worker.broker_link import BrokerLink
from warren_worker.loop import Loop, Timer
from warren_worker.verdict import Verdict

log = logging.getLogger(__name__)

SETUP_LIMIT = 30.0
"""Seconds for opening a channel and consuming. A quorum queue that elects a leader needs seconds; past this, the
connection is not worth waiting for."""

RETRY = Backoff(first=0.2, longest=5.0)
"""Delays while the queue cannot be consumed: short, since the operator declares it about when it starts workers."""


class Session:
    """One channel and the consumers on it. What it delivered can be settled on it alone, and only while it lives.

    Attributes:
        number: counts the channels of this worker, for log lines.
        channel: pika's channel.
        alive: False once the broker has cancelled a consumer, or the channel or connection is gone.
        capacity: sum of the prefetch of its consumers.
        consuming: whether the broker has agreed to deliver.
        unsettled: delivery tags that the broker waits for, in the order of their delivery.
        done: those of them that are to be acknowledged at the end of the turn.
        tags: its consumers'.
    """

    __slots__ = ("alive", "capacity", "channel", "consuming", "done", "number", "tags", "unsettled")

    def __init__(self, number: int, channel: Channel) -> None:
        self.number = number
        self.channel = channel
        self.alive = True
        self.capacity = 0
        self.consuming = False
        self.tags: set[str] = set()
        self.unsettled: dict[int, None] = {}
        self.done: set[int] = set()


@dataclass(frozen=True, slots=True)
class Delivery:
    """A task as the broker handed it over.

    Attributes:
        session: whose channel delivered it.
        tag: the delivery tag, valid on that channel.
        redelivered: whether somebody has had it before.
        properties: AMQP's.
        body: the payload.
    """

    session: Session
    tag: int
    redelivered: bool
    properties: pika.BasicProperties
    body: bytes


class ConsumerUser(Protocol):
    """What the worker does with deliveries."""

    def on_delivery(self, delivery: Delivery) -> None:
        """A task has arrived; there is a free place for it."""

    def on_consuming(self) -> None:
        """The broker has agreed to deliver, at least once from now on."""

    def on_session_lost(self, sentence: str, *, cancelled: bool) -> None:
        """Nothing that is in hand can be settled any more; `cancelled`: by the broker, the connection is intact."""


class Consumer:
    """Consumes one queue over one connection, with never more unsettled deliveries than the worker has free places.

    Tasks whose channel was lost go on running and keep their place, so a fresh channel starts with fewer; a further
    consumer is added on it as each of them ends (the prefetch of a consumer cannot be changed).

    Args:
        loop: the IO thread's.
        link: the connection, for consuming alone.
        queue: the queue's name.
        consumer_timeout: seconds that the broker waits for a verdict.
        places: how many tasks at once a channel may count on: those of the worker, less the ones held by tasks of lost
            channels.
    """

    def __init__(
        self, loop: Loop, link: BrokerLink, queue: str, consumer_timeout: float, places: Callable[[], int]
    ) -> None:
        self._loop = loop
        self._link = link
        self._queue = queue
        self._arguments = {"x-consumer-timeout": round(consumer_timeout * 1000)}
        self._places = places
        self._user: ConsumerUser | None = None
        self._connection: SelectConnection | None = None
        self._session: Session | None = None
        self._sessions = 0
        self._adding = False
        self._cancelling: Callable[[], object] | None = None
        self._delays: Iterator[float] = RETRY.delays()
        self._limit: Timer | None = None
        self._retry: Timer | None = None

    def start(self, user: ConsumerUser) -> None:
        """Connect and consume, and go on doing so."""
        self._user = user
        self._link.start(self)

    def places_changed(self) -> None:
        """A place is free that no consumer counts on, because its task's channel was lost."""
        session = self._session
        if session is not None and session.alive and not self._adding and self._cancelling is None:
            self._add_consumer(session)

    def settle(self, delivery: Delivery, verdict: Verdict) -> bool:
        """Tell the broker; False where the channel that delivered is gone, and the broker has the task already."""
        session = delivery.session
        if not session.alive or not session.channel.is_open:
            return False
        if verdict is Verdict.ACK:
            if not session.done:
                self._loop.at_end_of_turn(partial(self._acknowledge, session))
            session.done.add(delivery.tag)
            return True
        del session.unsettled[delivery.tag]
        match verdict:
            case Verdict.RETRY:
                session.channel.basic_reject(delivery.tag, requeue=True)
            case Verdict.DEAD:
                session.channel.basic_reject(delivery.tag, requeue=False)
            case Verdict.RETURN:
                session.channel.basic_nack(delivery.tag, requeue=True)
        return True

    def flush(self) -> None:
        """Send what waits for the end of the turn; to be called before the connection is closed."""
        if self._session is not None:
            self._acknowledge(self._session)

    def _acknowledge(self, session: Session) -> None:
        """Acknowledge all that was done in this turn, in as few frames as that takes.

        `multiple` covers every older delivery of the channel, so it is used only where all of those are done as well.
        """
        if not session.alive or not session.channel.is_open:
            return
        covered = 0
        last = 0
        for tag in session.unsettled:
            if tag not in session.done:
                break
            covered += 1
            last = tag
        if covered:
            session.channel.basic_ack(last, multiple=covered > 1)
        for tag in session.done:
            del session.unsettled[tag]
            if tag > last:
                session.channel.basic_ack(tag)
        session.done.clear()

    def cancel(self, on_cancelled: Callable[[], object]) -> None:
        """Ask the broker to deliver no more and call `on_cancelled` when it has agreed (or is gone), perhaps at once.

        What it delivers in between is handed back uncounted.
        """
        if self._retry is not None:
            self._retry.cancel()
        self._cancelling = on_cancelled
        session = self._session
        if session is None or not session.alive or not session.channel.is_open or not session.tags:
            self._cancelled()
            return
        for tag in sorted(session.tags):
            session.channel.basic_cancel(tag, callback=partial(self._on_cancel_ok, session, tag))
            # pika answers a delivery that crosses the cancel with a reject, which counts as a failed attempt. Without
            # this mark it reaches `_on_message` instead, where it is nacked.
            getattr(session.channel, "_cancelled").discard(tag)  # noqa: B009  private, and the only way

    def on_connected(self, connection: SelectConnection) -> None:
        """The link's: a fresh connection."""
        self._connection = connection
        self._open_channel()

    def on_disconnected(self, sentence: str) -> None:
        """The link's: the connection is gone."""
        self._connection = None
        self._lose_session(sentence, cancelled=False)

    def _open_channel(self) -> None:
        self._retry = None
        if self._connection is None or not self._connection.is_open or self._cancelling is not None:
            return
        self._start_limit()
        self._connection.channel(on_open_callback=self._on_channel)

    def _on_channel(self, channel: Channel) -> None:
        self._sessions += 1
        session = Session(self._sessions, channel)
        self._session = session
        channel.add_on_close_callback(partial(self._on_channel_closed, session))
        channel.add_on_cancel_callback(partial(self._on_broker_cancel, session))
        self._stop_limit()
        if self._cancelling is None:
            self._add_consumer(session)

    def _add_consumer(self, session: Session) -> None:
        free = self._places() - session.capacity
        if free <= 0:
            return
        self._adding = True
        self._start_limit()
        session.channel.basic_qos(prefetch_count=free)
        session.capacity += free
        tag = session.channel.basic_consume(
            self._queue,
            partial(self._on_message, session),
            arguments=self._arguments,
            callback=partial(self._on_consume_ok, session),
        )
        session.tags.add(tag)

    def _on_consume_ok(self, session: Session, _frame: object) -> None:
        self._adding = False
        self._stop_limit()
        if not session.alive or self._user is None:
            return
        session.consuming = True
        self._delays = RETRY.delays()
        self._user.on_consuming()
        self.places_changed()

    def _on_message(
        self, session: Session, _channel: object, method: Any, properties: pika.BasicProperties, body: bytes
    ) -> None:
        delivery = Delivery(session, method.delivery_tag, method.redelivered, properties, body)
        session.unsettled[delivery.tag] = None
        if self._cancelling is not None:
            self.settle(delivery, Verdict.RETURN)
        elif session.alive and self._user is not None:
            self._user.on_delivery(delivery)
        # else: the broker has cancelled this consumer, and whatever it delivered is going to somebody else.

    def _on_cancel_ok(self, session: Session, tag: str, _frame: object) -> None:
        session.tags.discard(tag)
        if not session.tags:
            self._cancelled()

    def _cancelled(self) -> None:
        if self._cancelling is not None:
            done, self._cancelling = self._cancelling, _nothing
            done()

    def _on_broker_cancel(self, session: Session, _frame: object) -> None:
        """The queue was deleted, or a task in hand outlived the consumer timeout.

        pika would go on as if nothing had happened, deliver to nobody and stumble over the next cancel. Acknowledging
        here is as wrong: the broker has given the task to somebody else. Only a fresh channel is sound.
        """
        if session is not self._session or not session.alive:
            return
        self._lose_session("the broker has cancelled the consumer", cancelled=True)
        if session.channel.is_open:
            self._start_limit()
            session.channel.close()

    def _on_channel_closed(self, session: Session, _channel: object, reason: BaseException) -> None:
        self._stop_limit()
        code = getattr(reason, "reply_code", None)
        if session is not self._session:
            return
        by_broker = session.alive
        self._lose_session(str(reason), cancelled=False)
        self._session = None
        if self._connection is None or not self._connection.is_open:
            return  # the link reconnects
        if not by_broker:  # we closed it after a cancel: there is nothing to wait for
            self._open_channel()
            return
        delay = next(self._delays)
        if code == 404:
            log.warning("waiting for queue %s: the operator has not declared it yet, or it was deleted", self._queue)
        else:
            log.warning("waiting for queue %s: the broker refuses: %s", self._queue, reason)
        self._retry = self._loop.call_later(delay, self._open_channel)

    def _lose_session(self, sentence: str, *, cancelled: bool) -> None:
        session = self._session
        self._adding = False
        self._stop_limit()
        if session is not None and session.alive:
            session.alive = False
            if self._user is not None and session.consuming:
                self._user.on_session_lost(sentence, cancelled=cancelled)
        self._cancelled()

    def _start_limit(self) -> None:
        self._stop_limit()
        self._limit = self._loop.call_later(SETUP_LIMIT, self._too_slow)

    def _stop_limit(self) -> None:
        if self._limit is not None:
            self._limit.cancel()
            self._limit = None

    def _too_slow(self) -> None:
        log.warning("the broker did not answer within %.0f s: connecting again", SETUP_LIMIT)
        self._link.drop()


def _nothing() -> None:
    """Stands for a cancel that has been reported."""
