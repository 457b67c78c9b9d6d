"""The beginning of an asyncio connection, and its end with a broker that says no more."""

import asyncio
import errno
import socket
from typing import Any

import pika
import pytest
from mute_broker import mute_broker

from warren_contract import aio
from warren_contract.aio import BrokerUnavailable, Connection

LIMIT = 30.0
"""Seconds; a fraction of one is usual."""


@pytest.fixture(autouse=True)
def close_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(aio, "CLOSE_LIMIT", 0.1)


@pytest.mark.parametrize("with_channel", [False, True], ids=["bare", "with a channel that never opened"])
async def test_a_broker_that_does_not_answer_is_not_waited_for(*, with_channel: bool) -> None:
    with mute_broker() as port:
        connection = await Connection.open(pika.ConnectionParameters("127.0.0.1", port, connection_attempts=1))
        if with_channel:  # pika's own close waits for its end first
            with pytest.raises(BrokerUnavailable, match="did not open a channel"):
                await connection.channel(limit=0.05)
        async with asyncio.timeout(LIMIT):
            await connection.close()
        assert connection.raw.is_closed, "its socket is gone"
        assert "did not answer to the end of the connection" in str(connection.closed.result())
        async with asyncio.timeout(LIMIT):
            await connection.close()  # once more does no harm


async def test_who_cannot_wait_for_the_end_leaves_no_connection_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(aio, "CLOSE_LIMIT", LIMIT)
    with mute_broker() as port:
        connection = await Connection.open(pika.ConnectionParameters("127.0.0.1", port, connection_attempts=1))
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await connection.close()
        async with asyncio.timeout(LIMIT / 2):
            await connection.closed


class OnlyIpv4(socket.socket):
    """What a node without IPv6 has."""

    def __init__(self, family: int = -1, *rest: Any, **named: Any) -> None:
        if family == socket.AF_INET6:
            raise OSError(errno.EAFNOSUPPORT, "Address family not supported by protocol")
        super().__init__(family, *rest, **named)


async def test_addresses_that_cannot_be_tried_are_failed_tries(monkeypatch: pytest.MonkeyPatch) -> None:
    found: list[Any] = [(socket.AF_INET6, socket.SOCK_STREAM, 6, "", ("2001:db8::1", 5672, 0, 0))]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_args, **_named: found)
    monkeypatch.setattr(socket, "socket", OnlyIpv4)
    parameters = pika.ConnectionParameters("broker.example", 5672, connection_attempts=1)
    async with asyncio.timeout(LIMIT):
        with pytest.raises(BrokerUnavailable, match=r"broker\.example:5672: Address family not supported"):
            await Connection.open(parameters)
        with mute_broker() as port:
            found.append((socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port)))
            connection = await Connection.open(parameters)
            await connection.close()
