"""Bare pika submits, persistent, mandatory and confirmed.

`python bare_submit.py pipelined COUNT` prints tasks a second and the CPU of each, with a window of unconfirmed ones:
the best that one Python process can do. `python bare_submit.py latency COUNT` prints the median seconds until a task
starts.
"""

import os
import sys

import pika
import pika.frame
import pika.spec
import publishing
import stamps
from pika.adapters.select_connection import SelectConnection
from pika.channel import Channel

WINDOW = 1000
"""Tasks without their confirm at most."""

PROPERTIES = pika.BasicProperties(delivery_mode=2, message_id="0" * 36)


class Pipeline:
    """Publishes so many tasks over one connection as fast as they are confirmed."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._sent = self._confirmed = 0
        self._since = (0.0, 0.0)
        self._connection = SelectConnection(
            pika.URLParameters(os.environ["RIVAL_URL"]),
            on_open_callback=lambda connection: connection.channel(on_open_callback=self._on_channel),
            on_close_callback=lambda connection, _reason: connection.ioloop.stop(),
        )
        self.told = ""

    def run(self) -> str:
        """Do it; what `publishing.told` tells."""
        self._connection.ioloop.start()
        assert self.told, "the connection was closed"
        return self.told

    def _on_channel(self, channel: Channel) -> None:
        self._channel = channel
        channel.confirm_delivery(self._on_confirm, callback=self._start)

    def _start(self, _frame: object) -> None:
        self._since = publishing.clocks()
        self._fill()

    def _fill(self) -> None:
        while self._sent < self._count and self._sent - self._confirmed < WINDOW:
            self._channel.basic_publish(
                "", os.environ["RIVAL_QUEUE"], publishing.BODY.encode(), PROPERTIES, mandatory=True
            )
            self._sent += 1

    def _on_confirm(self, frame: "pika.frame.Method[pika.spec.Basic.Ack | pika.spec.Basic.Nack]") -> None:
        assert isinstance(frame.method, pika.spec.Basic.Ack)
        # Quorum queues confirm in order, so that a tag stands for all before it.
        self._confirmed = max(self._confirmed, int(frame.method.delivery_tag))
        if self._confirmed == self._count:
            self.told = publishing.told(self._count, self._since)
            self._connection.close()
        self._fill()


def latency(count: int) -> float:
    """One task after the other, each confirmed."""
    connection = pika.BlockingConnection(pika.URLParameters(os.environ["RIVAL_URL"]))
    channel = connection.channel()
    channel.confirm_delivery()

    def send(path: str) -> None:
        channel.basic_publish("", os.environ["RIVAL_QUEUE"], path.encode(), PROPERTIES, mandatory=True)

    median = stamps.latency(send, count)
    connection.close()
    return median


if __name__ == "__main__":
    what, number = sys.argv[1], int(sys.argv[2])
    print(latency(number) if what == "latency" else Pipeline(number).run())
