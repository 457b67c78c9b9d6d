"""The events that the producer sends: hints on `warren.events`, never worth failing a submit for.

They go over the publishing connection, on a channel of their own. Not over the reading one, since a broker under an
alarm blocks whatever connection has published, and even a passive declare stalls there. Not over the tasks' channel,
since publishing to an exchange that does not exist closes the channel.
"""

import asyncio
import logging
import time

import pika
from pika.exceptions import ChannelClosed

from warren_contract.aio import Channel, Connection
from warren_contract.backoff import Backoff
from warren_contract.events import Event, Resync, TasksSubmitted, encode
from warren_contract.names import EVENTS_EXCHANGE

log = logging.getLogger(__name__)

INTERVAL = 1.0
"""Seconds between two TasksSubmitted of one queue."""

RETRY = Backoff(first=0.5, longest=5.0)

_PROPERTIES = pika.BasicProperties(content_type="application/json", delivery_mode=pika.DeliveryMode.Transient.value)


class Outbox:
    """Counts confirmed tasks and tells of them at most once a second for each queue, the first at once.

    Attributes:
        blocked: the broker reads nothing from the connection; events are dropped, lest they pile up in memory.
    """

    def __init__(self) -> None:
        self.blocked = False
        self._channel: Channel | None = None
        self._counts: dict[str, int] = {}
        """Confirmed tasks not told of yet, for each queue that was told of within the last second."""
        self._resync = False

    def submitted(self, queue: str) -> None:
        """A task in `queue` was confirmed."""
        if queue in self._counts:
            self._counts[queue] += 1
        else:
            self._counts[queue] = 1
            self._tell(queue)

    def resync(self) -> None:
        """Ask the operator for the state of every queue, as soon as there is a channel."""
        self._resync = not self._send(Resync(at=time.time()))

    async def serve(self, connection: Connection) -> None:
        """Keep a channel for events on `connection`, until cancelled.

        Raises:
            BrokerUnavailable: the connection is lost.
        """
        delays = RETRY.delays()
        while True:
            channel = await connection.channel()
            try:
                await channel.call(channel.raw.exchange_declare, EVENTS_EXCHANGE, passive=True)
                self._channel = channel
                if self._resync:
                    self.resync()
                await channel.closed
            except ChannelClosed as error:
                log.debug("no events yet: %s", error)
            finally:
                self._channel = None
            await asyncio.sleep(next(delays))

    def _tell(self, queue: str) -> None:
        """Send what has been counted, and come back in a second; forget the queue when nothing happened meanwhile."""
        count = self._counts[queue]
        if count == 0:
            del self._counts[queue]
            return
        self._counts[queue] = 0
        self._send(TasksSubmitted(queue=queue, count=count, at=time.time()))
        asyncio.get_running_loop().call_later(INTERVAL, self._tell, queue)

    def _send(self, event: Event) -> bool:
        """Whether the event went out; a lost one is no loss."""
        if self._channel is None or not self._channel.is_open or self.blocked:
            return False
        self._channel.raw.basic_publish(EVENTS_EXCHANGE, event.routing_key, encode(event), _PROPERTIES)
        return True
