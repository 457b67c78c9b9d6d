"""The worker's connection to a broker that opens connections, and says no more after that."""

import errno
import socket
import threading
from collections.abc import Callable
from typing import Any

import pika
import pytest
from mute_broker import mute_broker
from pika.adapters.select_connection import SelectConnection

from warren_contract.backoff import Backoff
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


IPV6 = (socket.AF_INET6, socket.SOCK_STREAM, 6, "", ("2001:db8::1", 5672, 0, 0))
SCOPED = (socket.AF_INET6, socket.SOCK_STREAM, 6, "", ("fe80::1%eth0", 5672, 0, 2))


def ipv4(port: int) -> Any:
    return (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port))


class OnlyIpv4(socket.socket):
    """What a node without IPv6 has."""

    def __init__(self, family: int = -1, *rest: Any, **named: Any) -> None:
        if family == socket.AF_INET6:
            raise OSError(errno.EAFNOSUPPORT, "Address family not supported by protocol")
        super().__init__(family, *rest, **named)


class NoSocket(socket.socket):
    """What a process has that may open no more files."""

    def __init__(self, *_rest: Any, **_named: Any) -> None:
        raise OSError(errno.EMFILE, "Too many open files")


def no_thread(_self: object) -> None:
    raise RuntimeError("can't start new thread")


def no_ipv6(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(socket, "getaddrinfo", lambda *_args, **_named: [ipv4(1), IPV6])
    patch.setattr(socket, "socket", OnlyIpv4)


def no_files(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(socket, "getaddrinfo", lambda *_args, **_named: [ipv4(1)])
    patch.setattr(socket, "socket", NoSocket)


def scoped(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(socket, "getaddrinfo", lambda *_args, **_named: [SCOPED])


def no_threads(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(threading.Thread, "start", no_thread)


@pytest.mark.parametrize(
    ("fault", "sentence"),
    [
        (no_ipv6, "Connection refused"),
        (no_files, "Too many open files"),
        (scoped, "fe80::1%eth0"),
        (no_threads, "can't start new thread"),
    ],
)
def test_an_attempt_that_cannot_even_begin_is_a_failed_one(
    fault: Callable[[pytest.MonkeyPatch], None],
    sentence: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    loop = Loop()
    loop.call_later(LIMIT, loop.stop)
    parameters = pika.ConnectionParameters("broker.example", 5672, connection_attempts=1)
    attempts = 0

    def again() -> pika.ConnectionParameters:
        nonlocal attempts
        attempts += 1
        if attempts == 3:
            loop.stop()
        return parameters

    fault(monkeypatch)
    link = BrokerLink(loop, "tasks", again, Backoff(first=0.01, longest=0.01))
    link.start()
    loop.start()
    monkeypatch.undo()
    loop.close()
    told = [record.getMessage() for record in caplog.records if record.name == broker_link.__name__]
    assert len(told) == 2
    assert all("cannot connect to the broker at broker.example:5672" in line and sentence in line for line in told)


def test_an_address_that_cannot_be_tried_does_not_stand_before_the_next_one(monkeypatch: pytest.MonkeyPatch) -> None:
    loop = Loop()
    loop.call_later(LIMIT, loop.stop)
    with mute_broker() as port:
        monkeypatch.setattr(socket, "getaddrinfo", lambda *_args, **_named: [IPV6, SCOPED, ipv4(port)])
        monkeypatch.setattr(socket, "socket", OnlyIpv4)
        monkeypatch.setattr(broker_link, "DROP_LIMIT", 0.1)
        parameters = pika.ConnectionParameters("broker.example", port, connection_attempts=1)
        link = BrokerLink(loop, "tasks", lambda: parameters)
        user = User(loop, link)
        link.start(user)
        loop.start()
        loop.close()
    assert len(user.heard) == 2


class Faulty:
    """Makes a mistake in a callback of the connection's."""

    def on_connected(self, _connection: SelectConnection) -> None:
        raise ZeroDivisionError

    def on_disconnected(self, sentence: str) -> None:
        """Too late."""


def test_an_error_of_our_own_in_a_callback_of_the_connection_ends_the_loop() -> None:
    """pika itself would only give the connection up, and the worker would go on with half of what it knows."""
    loop = Loop()
    loop.call_later(LIMIT, loop.stop)
    with mute_broker() as port:
        parameters = pika.ConnectionParameters("127.0.0.1", port, connection_attempts=1)
        link = BrokerLink(loop, "tasks", lambda: parameters)
        link.start(Faulty())
        with pytest.raises(ZeroDivisionError):
            loop.start()
        loop.call_later(0, loop.stop)
        loop.start()  # the connection's own end
        loop.close()
