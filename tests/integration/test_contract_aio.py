"""pika's callbacks as awaitables, against a real broker."""

import asyncio
import dataclasses
from collections.abc import AsyncIterator

import pytest
from brokers import Broker
from pika.exceptions import ChannelClosedByBroker
from ports import free_port
from proxies import proxy_to

from warren_contract.aio import BrokerUnavailable, Connection, keep_connected
from warren_contract.backoff import Backoff
from warren_contract.connection import connection_parameters
from warren_contract.settings import SettingError


@pytest.fixture
async def connection(broker: Broker) -> AsyncIterator[Connection]:
    opened = await Connection.open(connection_parameters(broker.settings(), "test"))
    yield opened
    await opened.close()


async def test_a_request_ends_with_its_answer(connection: Connection, work_queue: str) -> None:
    channel = await connection.channel()
    frame = await channel.call(channel.raw.queue_declare, work_queue, passive=True)
    assert frame.method.message_count == 0
    assert channel.is_open


async def test_a_refused_request_ends_with_the_reply_code_and_spares_the_connection(connection: Connection) -> None:
    channel = await connection.channel()
    with pytest.raises(ChannelClosedByBroker) as caught:
        await channel.call(channel.raw.queue_declare, "there-is-no-such-queue", passive=True)
    assert caught.value.reply_code == 404
    assert not channel.is_open
    with pytest.raises(ChannelClosedByBroker):
        await channel.call(channel.raw.queue_declare, "x", passive=True)
    assert (await connection.channel()).is_open


async def test_a_closed_channel_and_connection_say_so(connection: Connection) -> None:
    channel = await connection.channel()
    await channel.close()
    assert channel.closed.done()
    assert connection.is_open
    other = await connection.channel()
    await connection.close()
    await asyncio.wait_for(other.closed, 5)
    with pytest.raises(BrokerUnavailable):
        await other.call(other.raw.queue_declare, "x", passive=True)
    with pytest.raises(BrokerUnavailable):
        await connection.channel()


async def test_wrong_credentials_are_told_in_one_sentence(broker: Broker) -> None:
    parameters = connection_parameters(broker.settings(password="wrong"), "test")
    with pytest.raises(BrokerUnavailable, match=r"cannot connect .*ACCESS_REFUSED") as caught:
        await Connection.open(parameters)
    assert "\n" not in str(caught.value)


async def test_nobody_there_is_told_in_one_sentence(broker: Broker) -> None:
    port = free_port()
    settings = dataclasses.replace(broker.settings(), host="127.0.0.1", port=port)
    with pytest.raises(BrokerUnavailable, match=rf"127\.0\.0\.1:{port}: Connection refused$"):
        await Connection.open(connection_parameters(settings, "test"))


async def test_a_lost_connection_ends_every_request(broker: Broker) -> None:
    settings = broker.settings()
    with proxy_to(settings.host, settings.port) as proxy:
        via = dataclasses.replace(settings, host="127.0.0.1", port=proxy.port)
        connection = await Connection.open(connection_parameters(via, "test"))
        channel = await connection.channel()
        proxy.hold()
        answer = asyncio.create_task(channel.call(channel.raw.queue_declare, "x", passive=True))
        await asyncio.sleep(0)
        proxy.cut()
        with pytest.raises(BrokerUnavailable, match="lost"):
            await asyncio.wait_for(answer, 10)
        assert connection.closed.done()


async def test_an_answer_that_stays_out_ends_at_its_limit(broker: Broker) -> None:
    settings = broker.settings()
    with proxy_to(settings.host, settings.port) as proxy:
        via = dataclasses.replace(settings, host="127.0.0.1", port=proxy.port)
        connection = await Connection.open(connection_parameters(via, "test"))
        channel = await connection.channel()
        proxy.hold()
        with pytest.raises(BrokerUnavailable, match=r"did not answer queue_declare within 0\.2 s"):
            await channel.call(channel.raw.queue_declare, "x", passive=True, limit=0.2)
        with pytest.raises(BrokerUnavailable, match="did not open a channel"):
            await connection.channel(limit=0.2)
        proxy.cut()
        await asyncio.wait_for(connection.closed, 10)


async def test_a_connection_is_built_anew_until_cancelled(broker: Broker) -> None:
    settings = broker.settings()
    uses: asyncio.Queue[Connection] = asyncio.Queue()
    attempts = 0

    async def use(connection: Connection) -> None:
        await uses.put(connection)
        await asyncio.Event().wait()

    with proxy_to(settings.host, settings.port) as proxy:
        via = dataclasses.replace(settings, host="127.0.0.1", port=proxy.port)

        def parameters() -> object:
            nonlocal attempts
            attempts += 1
            if attempts == 2:
                raise SettingError("the Secret is being swapped")
            return connection_parameters(via, "test")

        keeper = asyncio.create_task(keep_connected(parameters, use, Backoff(first=0.01, longest=0.05)))  # type: ignore[arg-type]
        first = await asyncio.wait_for(uses.get(), 10)
        proxy.cut()
        second = await asyncio.wait_for(uses.get(), 10)
        assert second is not first
        assert first.closed.done()
        assert attempts >= 3
        keeper.cancel()
        with pytest.raises(asyncio.CancelledError):
            await keeper
        assert second.closed.done()


async def test_a_bug_in_the_use_is_not_retried(broker: Broker) -> None:
    async def use(_connection: Connection) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await keep_connected(lambda: connection_parameters(broker.settings(), "test"), use)
