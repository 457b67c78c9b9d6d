"""The worker's connection to a broker that the test plays: it opens connections, and says no more after that."""

import socket
import threading
from collections.abc import Iterator

import pika
import pytest
from pika import frame, spec
from pika.adapters.select_connection import SelectConnection

from warren_worker import broker_link
from warren_worker.broker_link import BrokerLink
from warren_worker.loop import Loop

LIMIT = 30.0
"""Seconds; milliseconds are usual."""


class Mute:
    """A broker that answers nothing but the opening of a connection."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        self._clients: list[socket.socket] = []
        self._thread = threading.Thread(target=self._accept)
        self._thread.start()

    def close(self) -> None:
        """End it, and all connections."""
        self._listener.shutdown(socket.SHUT_RDWR)
        self._thread.join(LIMIT)
        for end in (self._listener, *self._clients):
            end.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            self._clients.append(client)
            client.settimeout(LIMIT)
            for answer in (
                spec.Connection.Start(0, 9, {}, "PLAIN", "en_US"),
                spec.Connection.Tune(10, 131_072, 0),
                spec.Connection.OpenOk(),
            ):
                client.recv(65_536)
                client.sendall(frame.Method(0, answer).marshal())


@pytest.fixture
def mute() -> Iterator[Mute]:
    broker = Mute()
    yield broker
    broker.close()


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


def test_a_connection_that_is_given_up_does_not_wait_for_a_mute_broker(
    mute: Mute, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(broker_link, "DROP_LIMIT", 0.1)
    loop = Loop()
    parameters = pika.ConnectionParameters("127.0.0.1", mute.port, connection_attempts=1)
    link = BrokerLink(loop, "tasks", lambda: parameters)
    user = User(loop, link)
    loop.call_later(LIMIT, loop.stop)
    link.start(user)
    loop.start()
    loop.close()
    assert user.heard == ["the broker did not answer to its end"] * 2
    assert link.losses == 2
