"""The consuming side of the broker: deliveries in, verdicts out, on the channel that delivered and on no other."""

import logging
import time
from collections.abc import Callable, Collection, Iterator
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

STRAGGLERS = 3.0
"""Times as long as the broker took to answer a cancel is waited after the answer: a quorum queue's members may still be
sending what they gave to this consumer before, and what the channel has not delivered when it closes counts as a failed
attempt. The answer comes when a majority of the members has agreed, so it takes longer than what it overtakes …"""

SHORTEST_STRAGGLE, LONGEST_STRAGGLE = 0.03, 0.25
"""… and these are the bounds, in seconds. A worker that goes does nothing for that long."""

RETRY = Backoff(first=0.2, longest=5.0)
"""Delays while the queue cannot be consumed: short, since the operator declares it about when it starts workers."""

QUIET = 20.0
"""Seconds without a task after which an idle consumer looks whether tasks wait all the same …"""

SECOND_LOOK = 2.0
"""… and again after this many, before it believes that the broker has forgotten it: tasks pass by at all times."""


class Session:
    """One channel with one consumer on it. What it delivered can be settled on it alone, and only while it lives.

    Attributes:
        channel: pika's channel.
        capacity: its prefetch, in tasks.
        tag: the consumer's.
        alive: False once the broker has cancelled the consumer, or the channel or connection is gone.
        consuming: whether the broker has agreed to deliver.
        unsettled: delivery tags that the broker waits for, in the order of their delivery.
        done: those of them that are to be acknowledged at the end of the turn.
        delivered: how many tasks it has delivered so far.
    """

    __slots__ = ("alive", "capacity", "channel", "consuming", "delivered", "done", "tag", "unsettled")

    def __init__(self, channel: Channel, capacity: int) -> None:
        self.channel = channel
        self.capacity = capacity
        self.tag = ""
        self.alive = True
        self.consuming = False
        self.unsettled: dict[int, None] = {}
        self.done: set[int] = set()
        self.delivered = 0


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
        """The broker has agreed to deliver."""

    def on_sessions_lost(self, lost: Collection[Session], sentence: str, *, cancelled: bool) -> None:
        """What these delivered can be settled no more. `cancelled`: by the broker, the connection is intact."""


class Consumer:
    """Consumes one queue over one connection, with never more unsettled deliveries than the worker has free places.

    Tasks whose channel was lost go on running and keep their place, so a fresh channel starts with fewer; as each of
    them ends, a further channel takes its place (the prefetch of a consumer cannot be changed, and a channel for each
    consumer keeps what one of them loses apart from the others).

    Args:
        loop: the IO thread's.
        link: the connection, for consuming alone.
        queue: the queue's name.
        consumer_timeout: seconds that the broker waits for a verdict.
        places: how many tasks at once the channels may count on: those of the worker, less the ones held by tasks of
            lost channels.
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
        self._sessions: list[Session] = []
        self._setting_up = False
        self._cancelling: Callable[[], object] | None = None
        self._cancel_sent = 0.0
        self._delays: Iterator[float] = RETRY.delays()
        self._limit: Timer | None = None
        self._retry: Timer | None = None

    def start(self, user: ConsumerUser) -> None:
        """Connect and consume, and go on doing so."""
        self._user = user
        self._link.start(self)

    def places_changed(self) -> None:
        """Open a further channel if there are places that no consumer counts on."""
        if (
            self._connection is not None
            and self._connection.is_open
            and self._cancelling is None
            and not self._setting_up
            and self._retry is None
            and self._uncovered() > 0
        ):
            self._begin_setup()
            self._connection.channel(on_open_callback=self._on_channel)

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
            case Verdict.RETURN:
                session.channel.basic_nack(delivery.tag, requeue=True)
            case Verdict.DEAD:
                # Never a reject without requeue: under a policy of somebody else's the broker would drop the task.
                raise ValueError("a dead task is settled once its letter is published")
        return True

    def hand_back(self) -> None:
        """Acknowledge what is done and hand back the rest, uncounted; to be called before the connection closes."""
        for session in self._sessions:
            self._acknowledge(session)
            _nack_all(session)

    def cancel(self, on_cancelled: Callable[[], object]) -> None:
        """Ask the broker to deliver no more and call `on_cancelled` when it has agreed (or is gone), perhaps at once.

        What it delivers in between is the user's like any other task.
        """
        if self._retry is not None:
            self._retry.cancel()
        self._cancelling = on_cancelled
        self._cancel_sent = time.monotonic()
        for session in self._sessions:
            if not session.channel.is_open:
                continue
            session.channel.basic_cancel(session.tag, callback=partial(self._on_cancel_ok, session))
            # pika answers a delivery that crosses the cancel with a reject, which counts as a failed attempt. Without
            # this mark it reaches `_on_message` instead.
            getattr(session.channel, "_cancelled").discard(session.tag)  # noqa: B009  private, and the only way
        self._report_cancelled()

    def on_connected(self, connection: SelectConnection) -> None:
        """The link's: a fresh connection."""
        self._connection = connection
        self.places_changed()

    def on_disconnected(self, sentence: str) -> None:
        """The link's: the connection is gone."""
        self._connection = None
        self._end_setup()
        if self._retry is not None:
            self._retry.cancel()
            self._retry = None
        self._lose(list(self._sessions), sentence, cancelled=False)

    def _on_channel(self, channel: Channel) -> None:
        capacity = self._uncovered()
        if self._cancelling is not None or capacity <= 0:
            self._end_setup()
            channel.close()
            return
        session = Session(channel, capacity)
        self._sessions.append(session)
        channel.add_on_close_callback(partial(self._on_channel_closed, session))
        channel.add_on_cancel_callback(partial(self._on_broker_cancel, session))
        channel.basic_qos(prefetch_count=capacity)
        session.tag = channel.basic_consume(
            self._queue,
            partial(self._on_message, session),
            arguments=self._arguments,
            callback=partial(self._on_consume_ok, session),
        )

    def _on_consume_ok(self, session: Session, _frame: object) -> None:
        self._end_setup()
        self._delays = RETRY.delays()
        if session.alive and self._user is not None:
            session.consuming = True
            self._loop.call_later(QUIET, partial(self._look, session, 0, suspected=False))
            self._user.on_consuming()
            self.places_changed()

    def _on_message(
        self, session: Session, _channel: object, method: Any, properties: pika.BasicProperties, body: bytes
    ) -> None:
        delivery = Delivery(session, method.delivery_tag, method.redelivered, properties, body)
        session.unsettled[delivery.tag] = None
        session.delivered += 1
        if self._cancelling is _nothing:  # it comes after the end of all that was waited for
            self.settle(delivery, Verdict.RETURN)
        elif session.alive and self._user is not None:
            self._user.on_delivery(delivery)

    def _look(self, session: Session, delivered: int, *, suspected: bool) -> None:
        """Ask how many tasks wait, if this consumer has not got any for a while although it has room.

        A quorum queue may forget a consumer whose broker it has lost sight of for a while: the connection stands, both
        are well again, and nothing comes (RabbitMQ 4.3.6; docs/adr/0007). Nobody but the consumer can notice.

        Args:
            session: that is looked at.
            delivered: how much it had delivered when it was last looked at.
            suspected: whether tasks waited then, too.
        """
        if not session.alive or not session.channel.is_open or self._cancelling is not None:
            return
        if session.unsettled or session.delivered > delivered:
            self._loop.call_later(QUIET, partial(self._look, session, session.delivered, suspected=False))
            return
        session.channel.queue_declare(
            self._queue, passive=True, callback=partial(self._on_looked, session, delivered, suspected=suspected)
        )

    def _on_looked(self, session: Session, delivered: int, frame: Any, *, suspected: bool) -> None:
        if not session.alive or not session.channel.is_open or self._cancelling is not None:
            return
        idle = session.delivered == delivered
        waiting = frame.method.message_count
        if idle and waiting and suspected:
            sentence = f"{waiting} tasks wait, and the broker gives none to this worker"
            log.warning("queue %s: %s: consuming anew", self._queue, sentence)
            _nack_all(session)
            session.channel.close()
            self._lose([session], sentence, cancelled=False)
            self.places_changed()
            return
        again = SECOND_LOOK if idle and waiting else QUIET
        self._loop.call_later(again, partial(self._look, session, session.delivered, suspected=idle and waiting > 0))

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

    def _on_cancel_ok(self, session: Session, _frame: object) -> None:
        session.tag = ""
        took = time.monotonic() - self._cancel_sent
        self._loop.call_later(min(LONGEST_STRAGGLE, max(SHORTEST_STRAGGLE, STRAGGLERS * took)), self._report_cancelled)

    def _report_cancelled(self) -> None:
        if self._cancelling is not None and not any(session.tag for session in self._sessions):
            done, self._cancelling = self._cancelling, _nothing
            done()

    def _on_broker_cancel(self, session: Session, _frame: object) -> None:
        """The queue was deleted, or a task in hand outlived the consumer timeout.

        pika would go on as if nothing had happened, deliver to nobody and stumble over the next cancel. Acknowledging
        here is as wrong: the broker has given the task to somebody else. Only a fresh channel is sound. What else this
        one delivered is handed back first, uncounted; closing alone would count as a failed attempt of each.
        """
        if not session.alive:
            return
        if session.channel.is_open:
            _nack_all(session)
            session.channel.close()
        self._lose([session], "the broker has cancelled the consumer", cancelled=True)
        # Not at once: consuming a queue that is just being deleted makes the broker close the whole connection (541).
        self._retry_later()

    def _on_channel_closed(self, session: Session, _channel: object, reason: BaseException) -> None:
        if not session.alive or self._connection is None or not self._connection.is_open:
            return  # we closed it, or the whole connection is going down and the link reconnects
        if not session.consuming:
            self._end_setup()
        self._lose([session], str(reason), cancelled=False)
        if self._cancelling is not None:
            return
        if getattr(reason, "reply_code", None) == 404:
            log.warning("waiting for queue %s: the operator has not declared it yet, or it was deleted", self._queue)
        else:
            log.warning("waiting for queue %s: the broker refuses: %s", self._queue, reason)
        self._retry_later()

    def _retry_later(self) -> None:
        if self._retry is None and self._cancelling is None:
            self._retry = self._loop.call_later(next(self._delays), self._try_again)

    def _try_again(self) -> None:
        self._retry = None
        self.places_changed()

    def _lose(self, lost: list[Session], sentence: str, *, cancelled: bool) -> None:
        for session in lost:
            session.alive = False
            self._sessions.remove(session)
        lost = [session for session in lost if session.consuming]
        if lost and self._user is not None:
            self._user.on_sessions_lost(lost, sentence, cancelled=cancelled)
        self._report_cancelled()

    def _uncovered(self) -> int:
        return self._places() - sum(session.capacity for session in self._sessions)

    def _begin_setup(self) -> None:
        self._setting_up = True
        self._limit = self._loop.call_later(SETUP_LIMIT, self._too_slow)

    def _end_setup(self) -> None:
        self._setting_up = False
        if self._limit is not None:
            self._limit.cancel()
            self._limit = None

    def _too_slow(self) -> None:
        log.warning("the broker did not answer within %.0f s: connecting again", SETUP_LIMIT)
        self._link.drop()


def _nack_all(session: Session) -> None:
    """Hand back whatever the broker has delivered on a channel and was not told about, uncounted.

    Also what we have never seen: a quorum queue's deliveries may follow the answer to our cancel, and pika drops those.
    Closing the channel would hand them back too, but as failed attempts. Tag 0 stands for all (AMQP 0-9-1, basic.nack).
    """
    if session.channel.is_open:
        session.channel.basic_nack(0, multiple=True, requeue=True)


def _nothing() -> None:
    """Stands for a cancel that has been reported."""
