"""No queue can use up the connection's credit, or its channels, whatever becomes of it: the producer's lanes against
RabbitMQ's rules.

The rules are those of 4.3.6: `credit_flow`, whose grants wait while the channel is blocked, and `rabbit_fifo_client`,
which blocks it while the queue is behind.
"""

import asyncio
import itertools
import re
from collections.abc import Callable
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pika.exceptions import NoFreeChannels
from pika.spec import Basic

from warren_contract.task import TaskProperties
from warren_producer.confirms import Outcome
from warren_producer.lanes import RESERVED, SPARE, Lanes, Message, Ticket

if TYPE_CHECKING:
    from warren_contract.aio import Connection

CREDIT, MORE = 400, 200
"""RabbitMQ's `credit_flow_default_credit`."""
SOFT_LIMIT = 32
"""RabbitMQ's `quorum_commands_soft_limit`."""


class BrokerChannel:
    """A channel's process and its quorum queue.

    Attributes:
        credit: messages that the connection may still send it.
        lowest: of that so far.
        unread: messages that it has not looked at.
        pending: messages that its queue has not answered.
    """

    def __init__(self) -> None:
        self.credit = self.lowest = CREDIT
        self.unread = self.pending = self.confirmed = 0
        self._until_more = MORE
        self._deferred = 0
        self._blocked = False

    def send(self, count: int) -> None:
        """The connection has read so many messages for it."""
        self.unread += count
        self.credit -= count
        self.lowest = min(self.lowest, self.credit)

    def read(self, count: int) -> None:
        """It hands so many to its queue."""
        for _ in range(min(count, self.unread)):
            self.unread -= 1
            self._until_more -= 1
            if not self._until_more:
                self._until_more = MORE
                if self._blocked:
                    self._deferred += MORE
                else:
                    self.credit += MORE
            self.pending += 1
            self._blocked = self._blocked or self.pending >= SOFT_LIMIT

    def answer(self, count: int) -> int:
        """Its queue has so many safely; returns the number of the last one."""
        count = min(count, self.pending)
        self.pending -= count
        self.confirmed += count
        if self.pending < SOFT_LIMIT:
            self._blocked = False
            self.credit, self._deferred = self.credit + self._deferred, 0
        return self.confirmed


class Channel:
    """In place of the contract's, with what the lanes use of it."""

    is_open = True

    def __init__(self, close: Callable[[], None] = lambda: None) -> None:
        self.broker = BrokerChannel()
        self.closed: asyncio.Future[BaseException] = asyncio.get_running_loop().create_future()
        self.raw = SimpleNamespace(
            channel_number=1,
            is_open=True,
            add_on_return_callback=lambda _callback: None,
            close=close,
            confirm_delivery=None,
            connection=SimpleNamespace(_output_marshaled_frames=self._written),
        )
        self.confirm: Callable[[Any], None] = lambda _frame: None

    def _written(self, frames: list[bytes]) -> None:
        self.broker.send(len(re.findall(rb"\bwarren\.tasks", b"".join(frames))))

    async def call(self, _method: object, confirm: Callable[[Any], None]) -> None:
        """confirm.select."""
        self.confirm = confirm


class One(Ticket):
    """Who waits for one task."""

    wanted = True

    def __init__(self) -> None:
        self.outcome: Outcome | None = None

    def published(self) -> None:
        """It is on its way."""

    def settle(self, outcome: Outcome) -> None:
        """It has an answer."""
        self.outcome = outcome


async def play(steps: list[tuple[str, int]]) -> None:
    """Submit, let the channel read, let the queue answer, in this order; then everything that is left."""
    channels: list[Channel] = []

    async def channel() -> Channel:
        channels.append(Channel())
        return channels[-1]

    parameters = SimpleNamespace(frame_max=131072, channel_max=100)
    connection = SimpleNamespace(raw=SimpleNamespace(params=parameters), channel=channel)
    lanes = Lanes(cast("Connection", connection), lambda _queue, ticket, outcome: ticket.settle(outcome), lambda: None)
    await lanes.start(cast("Any", Channel()))
    (used,) = channels
    tickets: list[One] = []

    def submit(count: int) -> None:
        new = [One() for _ in range(count)]
        numbers = range(len(tickets), len(tickets) + count)
        tickets.extend(new)
        messages = [
            Message(TaskProperties(id=str(number), submitted_at=1), b"x", ticket)
            for number, ticket in zip(numbers, new, strict=True)
        ]
        lanes.send("busy", messages)

    def answer(count: int) -> None:
        before, last = used.broker.confirmed, used.broker.answer(count)
        if last > before:
            used.confirm(SimpleNamespace(method=Basic.Ack(last, multiple=True)))

    for what, count in steps:
        {"submit": submit, "read": used.broker.read, "answer": answer}[what](count)
        assert used.broker.credit > 0, "the connection reads nothing more, for no queue"
    while lanes.count:
        used.broker.read(CREDIT)
        answer(CREDIT)
    assert {ticket.outcome for ticket in tickets} <= {Outcome.CONFIRMED}


STEPS = st.lists(st.tuples(st.sampled_from(["submit", "read", "read", "answer"]), st.integers(1, 250)), max_size=60)


@given(STEPS)
def test_no_queue_uses_up_the_connection_s_credit(steps: list[tuple[str, int]]) -> None:
    asyncio.run(play(steps))


def test_a_queue_that_is_behind_all_the_time_leaves_credit_when_it_stops() -> None:
    """It answers as many as come in, but never all: the credit for them is never given back."""
    busy = [("submit", 1000), ("read", 200), *[("answer", 20), ("read", 20)] * 40]
    asyncio.run(play(busy))


class Broker:
    """A connection's channels, with pika's rule: one that is closing has its number until the broker has answered.

    Attributes:
        open: that have a number.
        closing: of these, those whose end was asked for.
    """

    def __init__(self, channel_max: int) -> None:
        self.raw = SimpleNamespace(params=SimpleNamespace(frame_max=131072, channel_max=channel_max))
        self.open: list[Channel] = []
        self.closing: list[Channel] = []

    async def channel(self) -> Channel:
        """One more."""
        if len(self.open) >= self.raw.params.channel_max:
            raise NoFreeChannels
        made = Channel(lambda: self.closing.append(made))
        self.open.append(made)
        await asyncio.sleep(0)
        return made

    def answer(self) -> None:
        """All that were to be closed are."""
        for channel in self.closing:
            channel.closed.set_result(RuntimeError("closed by us"))
            self.open.remove(channel)
        self.closing.clear()


@pytest.mark.parametrize("channel_max", [100, 300])
async def test_a_burst_over_many_queues_leaves_numbers_for_those_after_it(channel_max: int) -> None:
    """Also where the broker is slow to close the burst's channels: no queue may cost all others the connection."""
    broker = Broker(channel_max)
    await broker.channel()  # the events'
    lanes = Lanes(cast("Connection", broker), lambda _queue, ticket, outcome: ticket.settle(outcome), lambda: None)
    await lanes.start(cast("Any", await broker.channel()))
    names = itertools.count()

    async def burst() -> int:
        """To so many queues as have a lane."""
        tickets: list[One] = []
        while lanes.has_lane(queue := f"q{next(names)}"):
            tickets.append(One())
            lanes.send(queue, [Message(TaskProperties(id="t", submitted_at=1), b"x", tickets[-1])])
        for _ in range(10):  # channels open, and their tasks go out
            await asyncio.sleep(0)
        for channel in broker.open:
            if channel.broker.unread:
                channel.broker.read(CREDIT)
                channel.confirm(SimpleNamespace(method=Basic.Ack(channel.broker.answer(CREDIT), multiple=True)))
        await lanes.wait(0)  # raises if one could not be opened
        assert [ticket.outcome for ticket in tickets] == [Outcome.CONFIRMED] * len(tickets)
        return len(tickets)

    all_but_the_probe_s = channel_max - RESERVED - 1
    assert await burst() >= all_but_the_probe_s
    assert len(broker.closing) > channel_max / 2
    assert await burst() == SPARE, "the burst's channels have not got their answer yet"
    broker.answer()
    await asyncio.sleep(0)
    assert await burst() == all_but_the_probe_s
