"""The worker's connection to a broker that opens connections, and says no more after that."""

import pika
import pytest
from mute_broker import mute_broker
from pika.adapters.select_connection import SelectConnection

from warren_worker import broker_link
from warren_worker.broker_link import BrokerLink
from warren_worker.loop import Loop

LIMIT = 30.0
"""Seconds; milliseconds are usual."""


class User:
    """Gives each connection up, with a channel that the broker has not opened; it stops with the loss of the second."""

    def __init__(self, loop: Loop, link: BrokerLink) -> None:
        self._loop = loop
        self._link = link
        self.heard: list[str] = []

    def on_connected(self, connection: SelectConnection) -> None:
        connection.channel(on_open_callback=lambda _channel: None)
        self._link.drop()

    def on_disconnected(self, sentence: str) -> None:
        self.heard.append(sentence)
        if len(self.heard) == 2:
            self._loop.stop()


def test_a_connection_that_is_given_up_does_not_wait_for_a_mute_broker(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(broker_link, "DROP_LIMIT", 0.1)
    loop = Loop()
    loop.call_later(LIMIT, loop.stop)
    with mute_broker() as port:
        parameters = pika.ConnectionParameters("127.0.0.1", port, connection_attempts=1)
        link = BrokerLink(loop, "tasks", lambda: parameters)
        user = User(loop, link)
        link.start(user)
        loop.start()
        loop.close()
    assert user.heard == ["the broker did not answer to its end"] * 2
    assert link.losses == 2
