"""The operator's reading connection: what takes it down and what does not, and what is told of it."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from typing import Any
from unittest.mock import MagicMock

import pytest
from pika.exceptions import ChannelClosedByBroker, ConnectionClosedByBroker, NoFreeChannels
from ports import free_port

from warren_contract.aio import BrokerUnavailable, Connection
from warren_contract.settings import BrokerSettings, SettingError
from warren_operator import broker as module
from warren_operator import reading as counting
from warren_operator.broker import Broker, EventPublisher

LIMIT = 30.0
"""Seconds for anything to happen; a fraction of one is usual."""

OTHER_TYPE = ChannelClosedByBroker(
    406, "PRECONDITION_FAILED - inequivalent arg 'type' for exchange 'warren.events' in vhost '/'"
)
NO_RIGHT = ChannelClosedByBroker(
    403, "ACCESS_REFUSED - configure access to queue 'warren.operator.x' in vhost '/' refused"
)


class FakeBroker:
    """Opens every connection, and refuses to let anybody hear events while it is told to.

    Attributes:
        refusal: with which the declarations for events are refused; None where they are not.
        refused: how often that was.
        opened: connections.
        channel_max: channels that it allows on each.
    """

    channel_max = 2047

    def __init__(self) -> None:
        self.refusal: ChannelClosedByBroker | None = None
        self.refused = 0
        self.opened: list[FakeConnection] = []

    async def open(self, _parameters: object) -> "FakeConnection":
        """As `Connection.open`."""
        connection = FakeConnection(self)
        self.opened.append(connection)
        return connection


class FakeConnection:
    """One that is open until it is told otherwise."""

    def __init__(self, broker: FakeBroker) -> None:
        self.raw = MagicMock(server_properties={"version": "4.3.6"})
        self.raw.params.channel_max = broker.channel_max
        self.closed: asyncio.Future[BaseException] = asyncio.get_running_loop().create_future()
        self._broker = broker
        self._channels: list[FakeChannel] = []

    async def channel(self) -> "FakeChannel":
        """A new one."""
        assert len(self._channels) < self._broker.channel_max
        self._channels.append(FakeChannel(self._broker))
        return self._channels[-1]

    def lose(self, reason: BaseException) -> None:
        """It is closed, and its channels with it, in pika's order."""
        for channel in self._channels:
            if not channel.closed.done():
                channel.closed.set_result(reason)
        self.closed.set_result(reason)

    async def close(self) -> None:
        """From our side."""
        if not self.closed.done():
            self.lose(RuntimeError("closed by us"))


class FakeChannel:
    """One that agrees to everything, or refuses it."""

    def __init__(self, broker: FakeBroker) -> None:
        self.raw = MagicMock()
        self.closed: asyncio.Future[BaseException] = asyncio.get_running_loop().create_future()
        self._broker = broker

    @property
    def is_open(self) -> bool:
        """Until it is closed."""
        return not self.closed.done()

    async def call(self, *_args: Any, **_more: Any) -> Any:
        """The broker's answer."""
        await asyncio.sleep(0)
        if self._broker.refusal is not None:
            self._broker.refused += 1
            self.closed.set_result(self._broker.refusal)
            raise self._broker.refusal
        return MagicMock()


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> FakeBroker:
    """In place of a broker."""
    fake = FakeBroker()
    monkeypatch.setattr(Connection, "open", fake.open)
    monkeypatch.setattr(module, "EVENTS_RETRY", 0.01)
    return fake


def settings(port: int = 5672) -> BrokerSettings:
    """Of a broker on this machine."""
    return BrokerSettings("127.0.0.1", port, "/", "operator", "do not tell")


def reading(load: Callable[[], BrokerSettings] = settings) -> Broker:
    """The part that is tested."""
    return Broker(load, "test read", lambda _event: None, lambda: None)


@contextlib.asynccontextmanager
async def running(broker: Broker) -> AsyncIterator[None]:
    """While it stays connected, or tries to."""
    task = asyncio.ensure_future(broker.run())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait([task], timeout=LIMIT)
    assert task.cancelled(), "it ends when it is told to, and not before"


async def until(check: Callable[[], bool]) -> None:
    """Wait for a condition."""
    async with asyncio.timeout(LIMIT):
        while not check():  # noqa: ASYNC110
            await asyncio.sleep(0.005)


@pytest.mark.parametrize(
    ("refusal", "advice"),
    [(OTHER_TYPE, "delete exchange warren.events"), (NO_RIGHT, "give the operator's user all rights")],
    ids=["another type", "no right"],
)
async def test_refused_events_leave_the_connection_up_and_are_told_apart(
    fake: FakeBroker, refusal: ChannelClosedByBroker, advice: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Queues are read without events: one declaration that is refused must not keep all workers from being scaled."""
    fake.refusal = refusal
    broker = reading()
    async with running(broker):
        await until(lambda: fake.refused >= 4)
        assert len(fake.opened) == 1
        assert not fake.opened[0].closed.done()
        assert broker.problem == ""
        assert broker.listening_since is None
        assert refusal.reply_text in broker.events_problem
        assert advice in broker.events_problem
        records = [record for record in caplog.records if record.name == "warren_operator.broker"]
        told = [record.message for record in records if record.levelname == "WARNING"]
        assert len(told) == 1, "once, and not at each try"
        assert broker.events_problem in told[0]
        fake.refusal = None
        await until(lambda: broker.listening_since is not None)
        assert broker.events_problem == ""


async def test_a_lost_connection_says_why_and_is_made_again(fake: FakeBroker) -> None:
    broker = reading()
    async with running(broker):
        await until(lambda: broker.listening_since is not None)
        fake.opened[0].lose(ConnectionClosedByBroker(320, "CONNECTION_FORCED - for the test"))
        await until(lambda: bool(broker.problem))
        await until(lambda: "CONNECTION_FORCED - for the test" in broker.problem)
        assert broker.listening_since is None
        await until(lambda: broker.listening_since is not None)
        assert len(fake.opened) == 2
        assert broker.problem == ""


async def test_a_connection_lost_while_events_are_refused_is_noticed_at_once(
    fake: FakeBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "EVENTS_RETRY", LIMIT)
    fake.refusal = OTHER_TYPE
    broker = reading()
    async with running(broker):
        await until(lambda: fake.refused == 1)
        fake.opened[0].lose(ConnectionClosedByBroker(320, "CONNECTION_FORCED - for the test"))
        async with asyncio.timeout(LIMIT / 3):
            await until(lambda: len(fake.opened) == 2)


async def test_why_connecting_fails_is_the_problem() -> None:
    port = free_port()
    broker = reading(lambda: settings(port))
    assert broker.problem == "not connected to the broker yet"
    async with running(broker):
        await until(lambda: f"127.0.0.1:{port}: Connection refused" in broker.problem)
        assert "do not tell" not in broker.problem
        assert not broker.ever_connected


async def test_a_mended_setting_is_no_problem_any_more_though_connecting_still_fails() -> None:
    port = free_port()
    broken = True

    def load() -> BrokerSettings:
        if broken:
            raise SettingError("the broker's password is missing")
        return settings(port)

    broker = reading(load)
    async with running(broker):
        await until(lambda: broker.problem == "the broker's password is missing")
        broken = False
        await until(lambda: "Connection refused" in broker.problem)


@pytest.mark.parametrize(("allowed", "declaring"), [(2047, 16), (10, 4), (5, 1)])
async def test_a_broker_that_allows_few_channels_is_declared_on_over_fewer(
    fake: FakeBroker, allowed: int, declaring: int
) -> None:
    """Else the operator ended with each comparison, or the queues could not be read."""
    fake.channel_max = allowed
    broker = reading()
    async with running(broker):
        await until(lambda: broker.listening_since is not None)
        before = len(fake.opened[0]._channels)
        await asyncio.gather(*(broker.declare("queue_declare", queue=str(number)) for number in range(50)))
        assert len(fake.opened[0]._channels) - before == declaring


async def test_that_no_channel_is_left_is_told_as_what_it_is() -> None:
    raw = MagicMock(is_open=True)
    raw.channel.side_effect = NoFreeChannels()
    connection = Connection(raw, asyncio.get_running_loop().create_future())
    with pytest.raises(BrokerUnavailable, match="raise channel_max"):
        await connection.channel()


async def test_settings_that_lead_to_another_virtual_host_are_followed(
    fake: FakeBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The management API is asked there from now on; a new password alone is for the next connection."""
    monkeypatch.setattr(module, "MOVED_EVERY", 0.01)
    found: BrokerSettings | None = settings()

    def load() -> BrokerSettings:
        if found is None:
            raise SettingError("the broker's host is missing")
        return found

    broker = reading(load)
    publisher = EventPublisher(load, "test tell")
    telling = asyncio.ensure_future(publisher.run())
    async with running(broker):
        await until(lambda: broker.listening_since is not None and len(fake.opened) == 2)
        for other in (replace(settings(), password="new"), None, settings()):
            found = other
            await asyncio.sleep(0.1)
            assert len(fake.opened) == 2
        found = replace(settings(), vhost="other")
        await until(lambda: len(fake.opened) == 4)
        await until(lambda: broker.listening_since is not None and not broker.problem)
        assert all(connection.closed.done() for connection in fake.opened[:2])
        await asyncio.sleep(0.1)
        assert len(fake.opened) == 4
    telling.cancel()
    await asyncio.wait([telling])


async def test_a_queue_that_may_not_be_read_is_told_with_what_to_do(fake: FakeBroker) -> None:
    broker = reading()
    async with running(broker):
        await until(lambda: broker.listening_since is not None)
        channels = fake.opened[0]._channels
        before = len(channels)
        asked = asyncio.ensure_future(broker.read(["a", "b"]))
        for number in range(2):
            await until(lambda number=number: len(channels) == before + number + 1)  # type: ignore[misc]
            channels[-1].closed.set_result(NO_RIGHT)
        readings = await asked
    for name, found in zip("ab", readings, strict=True):
        assert f"queue {name} cannot be read: ACCESS_REFUSED" in found.unknown
        assert "give the operator's user all rights" in found.unknown


async def test_a_broker_that_does_not_answer_is_told_with_what_to_do(
    fake: FakeBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(counting, "READ_LIMIT", 0.05)
    broker = reading()
    async with running(broker):
        await until(lambda: broker.listening_since is not None)
        for _ in range(2):  # once it is waited for, and then left alone for a while
            for found in await broker.read(["a", "b"]):
                assert "answer" in found.unknown
                assert "see that its nodes are up" in found.unknown
