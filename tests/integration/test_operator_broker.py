"""The operator's side of a real broker: topology as it is to be, what cannot be mended, readings, and events.

Each test has a virtual host of its own, and the rights that the chart gives the operator.
"""

import asyncio
import contextlib
import logging
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass, field, replace

import pika
import pika.exceptions
import pytest
from brokers import ADMIN, PASSWORD, Broker, administer
from pika.adapters.blocking_connection import BlockingChannel

from warren_contract.events import Event, QueueState, Resync, TasksSubmitted, decode, encode
from warren_contract.names import EVENTS_EXCHANGE, OPERATOR_EVENTS_PREFIX, TASKS_EXCHANGE
from warren_contract.settings import BrokerSettings
from warren_operator.broker import Broker as OperatorBroker
from warren_operator.broker import EventPublisher
from warren_operator.management import Management
from warren_operator.observation import Counts
from warren_operator.reasons import Reason
from warren_operator.resource import Key, QueueSettings
from warren_operator.settings import BUILT_IN
from warren_operator.topology import DEFAULT_POLICY, OVERRIDDEN, Topology

LIMIT = 30.0
"""Seconds for anything to happen; far beyond what it takes."""


async def eventually(check: Callable[[], Awaitable[bool] | bool], what: str) -> None:
    """Wait until a condition holds."""
    async with asyncio.timeout(LIMIT):
        while True:
            answer = check()
            if answer is True or (not isinstance(answer, bool) and await answer):
                return
            await asyncio.sleep(0.02)
    raise AssertionError(what)


@dataclass
class Site:
    """A virtual host, and the operator's parts at work in it."""

    running: Broker
    settings: BrokerSettings
    heard: list[Event] = field(default_factory=list)
    changed: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.management = Management(lambda: self.settings)
        self.broker = OperatorBroker(lambda: self.settings, "test read", self.heard.append, lambda: None)
        self.topology = Topology(
            self.broker,
            self.management,
            BUILT_IN,
            lambda name: name.startswith("warren.media."),
            self.changed.extend,
        )

    @contextlib.contextmanager
    def channel(self) -> Iterator[BlockingChannel]:
        """A channel of somebody else, an administrator."""
        connection = pika.BlockingConnection(
            pika.ConnectionParameters(
                self.running.host,
                self.running.amqp_port,
                self.settings.vhost,
                pika.PlainCredentials(ADMIN, PASSWORD),
                blocked_connection_timeout=20,
            )
        )
        try:
            yield connection.channel()
        finally:
            connection.close()

    @contextlib.asynccontextmanager
    async def connected(self, *parts: Awaitable[None]) -> AsyncIterator[None]:
        """The reading connection is up, and other parts run beside it."""
        tasks = [asyncio.ensure_future(part) for part in (self.broker.run(), *parts)]
        try:
            await eventually(lambda: not self.broker.problem, "connected")
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks, timeout=LIMIT)

    async def compare(self, *names: str, settings: QueueSettings = BUILT_IN) -> None:
        """Serve these queues, and compare once."""
        self.topology.serve({Key("media", name): (name, settings) for name in names}, may_drop=True)
        await self.topology.compare()
        assert self.topology.problem == ""

    async def counts(self, name: str) -> Counts:
        """What is counted in a queue that can be read."""
        (reading,) = await self.broker.read([name])
        assert reading.counts is not None, reading.unknown
        return reading.counts

    async def queue(self, name: str) -> dict[str, object]:
        """A queue as the broker lists it."""
        return next((queue for queue in await self.management.queues() if queue["name"] == name), {})


@contextlib.contextmanager
def made_site(broker: Broker, kind: str) -> Iterator[Site]:
    """A fresh virtual host with this default queue type."""
    vhost = f"operator-{uuid.uuid4().hex[:8]}"
    administer(broker, "PUT", f"vhosts/{vhost}", {"default_queue_type": kind})
    for user in (ADMIN, "warren-operator"):
        administer(broker, "PUT", f"permissions/{vhost}/{user}", {"configure": ".*", "write": ".*", "read": ".*"})
    settings = replace(broker.settings("warren-operator", broker.passwords["operator"]), vhost=vhost)
    yield Site(broker, settings)
    administer(broker, "DELETE", f"vhosts/{vhost}")


@pytest.fixture
def site(broker: Broker) -> Iterator[Site]:
    """A virtual host like the chart's."""
    with made_site(broker, "quorum") as made:
        yield made


@pytest.fixture
def classic_site(broker: Broker) -> Iterator[Site]:
    """A virtual host as RabbitMQ makes it by default."""
    with made_site(broker, "classic") as made:
        yield made


# -- topology ---


async def test_from_nothing_everything_is_there_and_works(site: Site) -> None:
    async with site.connected():
        await site.compare("one")
        assert site.topology.findings("one") == ()
        queue = await site.queue("one")
        assert (queue["type"], queue["durable"], queue["policy"]) == ("quorum", True, DEFAULT_POLICY)
        assert (await site.queue("one.dead"))["effective_policy_definition"] == {"delivery-limit": -1}
    with site.channel() as channel:
        channel.confirm_delivery()
        channel.basic_publish(TASKS_EXCHANGE, "one", b"work", mandatory=True)
        channel.queue_declare("one", durable=True)  # what the tutorial's programs declare fits
        method, _, body = channel.basic_get("one")
        assert body == b"work"
        assert method is not None
        channel.basic_publish("warren.dead", "one", b"dead", mandatory=True)
        channel.basic_ack(method.delivery_tag or 0)


async def test_a_second_comparison_changes_nothing(site: Site) -> None:
    async with site.connected():
        await site.compare("one", "two")
        site.changed.clear()
        await site.compare("one", "two")
        assert site.changed == []


async def test_what_is_deleted_by_hand_comes_back_with_its_binding(site: Site) -> None:
    async with site.connected():
        await site.compare("one")
        with site.channel() as channel:
            channel.queue_delete("one")
            channel.queue_delete("one.dead")
            channel.exchange_delete(TASKS_EXCHANGE)
        await site.management.delete_policy(DEFAULT_POLICY)
        (reading,) = await site.broker.read(["one"])
        assert reading.missing
        site.topology.missing("one")  # as the loop does with such a reading
        await site.compare("one")
        with site.channel() as channel:
            channel.confirm_delivery()
            channel.basic_publish(TASKS_EXCHANGE, "one", b"routed", mandatory=True)
        assert (await site.queue("one"))["policy"] == DEFAULT_POLICY


async def test_new_queues_are_declared_without_listing_all_again(site: Site) -> None:
    """Among thousands, made one by one, each would wait for a listing of all."""
    async with site.connected():
        await site.compare("one")
        listed = site.topology.statistics["one"]
        site.topology.serve({Key("media", name): (name, BUILT_IN) for name in ("one", "two", "three")}, may_drop=True)
        await site.topology.compare()
        assert site.topology.statistics["one"] is listed
        with site.channel() as channel:
            channel.confirm_delivery()
            channel.basic_publish(TASKS_EXCHANGE, "three", b"routed", mandatory=True)
        await site.compare("one", "two", "three")
        assert (await site.queue("three"))["policy"] == DEFAULT_POLICY
        assert await site.queue("three.dead")
        assert site.topology.findings("three") == ()


async def test_a_queue_with_other_arguments_is_left_alone_and_reported(site: Site) -> None:
    with site.channel() as channel:
        channel.queue_declare("odd", durable=True, arguments={"x-queue-type": "classic", "x-max-priority": 5})
        channel.basic_publish("", "odd", b"somebody's")
    async with site.connected():
        await site.compare("odd", "fine")
        (finding,) = site.topology.findings("odd")
        assert finding.reason == Reason.QUEUE_MISMATCH
        assert "type classic" in finding.message
        assert "x-max-priority=5" in finding.message
        assert site.topology.findings("fine") == (), "one bad queue spoils no other"
        assert (await site.counts("odd")).ready == 1


async def test_a_mended_queue_is_taken_in(site: Site) -> None:
    with site.channel() as channel:
        channel.queue_declare("odd", durable=True, arguments={"x-max-length": 5})
    async with site.connected():
        await site.compare("odd")
        assert "x-max-length=5" in site.topology.findings("odd")[0].message
        with site.channel() as channel:
            channel.queue_delete("odd")
        await site.compare("odd")
        assert site.topology.findings("odd") == ()


async def test_a_policy_above_ours_is_reported_until_it_goes(site: Site) -> None:
    async with site.connected():
        await site.compare("one")
        foreign = {"pattern": "^one$", "priority": 99, "apply-to": "queues", "definition": {"max-length": 3}}
        await site.management.put_policy("foreign", foreign)

        async def reported() -> bool:
            await site.compare("one")
            return any(finding.reason == OVERRIDDEN for finding in site.topology.findings("one"))

        await eventually(reported, "the override is found")
        (finding,) = site.topology.findings("one")
        assert "policy foreign of priority 99" in finding.message
        assert "max-length is 3 instead of 100000" in finding.message
        await site.management.delete_policy("foreign")

        async def gone() -> bool:
            await site.compare("one")
            return site.topology.findings("one") == ()

        await eventually(gone, "the override is gone")


async def test_a_queue_that_differs_has_its_own_policy_while_it_does(site: Site) -> None:
    short = replace(BUILT_IN, max_length=5, message_ttl=60.0)
    other = {"pattern": "^x$", "priority": 1, "apply-to": "queues", "definition": {"max-length": 3}}
    await site.management.put_policy("theirs", other)
    async with site.connected():
        await site.compare("one", settings=short)
        queue = await site.queue("one")
        assert queue["policy"] == "warren.media.one"
        effective = queue["effective_policy_definition"]
        assert isinstance(effective, dict)
        assert (effective["max-length"], effective["message-ttl"]) == (5, 60_000)
        assert effective["dead-letter-exchange"] == "warren.dead"
        await site.compare("one")
        assert (await site.queue("one"))["policy"] == DEFAULT_POLICY
        await site.compare()
        assert {policy["name"] for policy in await site.management.policies()} == {
            DEFAULT_POLICY,
            "warren-dead",
            "theirs",
        }
        assert await site.queue("one"), "a queue outlives its WorkQueue"


async def test_where_the_default_is_classic_nothing_is_declared(classic_site: Site) -> None:
    async with classic_site.connected():
        await classic_site.compare("one")
        (finding, *_) = classic_site.topology.findings("one")
        assert finding.reason == "DefaultQueueType"
        assert await classic_site.queue("one") == {}


async def test_what_the_broker_refuses_is_told_of_that_queue_and_the_others_are_declared(site: Site) -> None:
    """A limit of the virtual host, as an administrator may set one, counts all queues alike."""
    names = [f"q{number:02}" for number in range(40)]
    async with site.connected():
        await site.compare(*names[20:])
        administer(site.running, "PUT", f"vhost-limits/{site.settings.vhost}/max-queues", {"value": 61})
        await site.compare(*names)
        refused = [name for name in names if site.topology.findings(name)]
        assert refused
        assert set(refused) < set(names[:20]), "there is room for some more"
        (finding,) = site.topology.findings(refused[0])
        assert finding.reason == Reason.QUEUE_REFUSED
        assert "limit" in finding.message
        assert (await site.counts("q30")).ready == 0
        administer(site.running, "DELETE", f"vhost-limits/{site.settings.vhost}/max-queues")
        site.topology.wake()
        await site.compare(*names)
        assert not any(site.topology.findings(name) for name in names)


async def test_a_binding_that_is_refused_is_told_of_its_queue_until_it_is_made(site: Site) -> None:
    path = f"permissions/{site.settings.vhost}/{site.settings.username}"
    rights = {"configure": ".*", "write": ".*", "read": r"^(?!warren\.tasks$).*$"}
    administer(site.running, "PUT", path, rights)
    async with site.connected():
        for _ in range(2):
            await site.compare("one")
        (finding,) = site.topology.findings("one")
        assert finding.reason == Reason.BINDING_REFUSED
        assert "does not bind queue one to exchange warren.tasks: ACCESS_REFUSED" in finding.message
        assert "give the operator's user all rights" in finding.message
        assert (await site.counts("one")).ready == 0, "it is there, and read"
        administer(site.running, "PUT", path, {**rights, "read": ".*"})

        async def bound() -> bool:
            """The broker keeps what a channel may do for a while: a new one asks anew."""
            await site.compare("one")
            return site.topology.findings("one") == ()

        await eventually(bound, "it is bound")


async def test_a_management_api_that_refuses_is_told_and_counting_goes_on(site: Site) -> None:
    async with site.connected():
        await site.compare("one")
        right, site.settings = site.settings, replace(site.settings, password="wrong")
        for _ in range(3):
            await site.topology.compare()
        assert "401" in site.topology.problem
        assert (await site.counts("one")).ready == 0
        site.settings = right
        await site.topology.compare()
        assert site.topology.problem == ""


async def test_statistics_count_what_is_unacknowledged_delayed_and_dead(site: Site) -> None:
    async with site.connected():
        await site.compare("one")
        with site.channel() as channel:
            channel.confirm_delivery()
            for number in range(3):
                channel.basic_publish(TASKS_EXCHANGE, "one", str(number).encode())
            channel.basic_publish("warren.dead", "one", b"dead")
            channel.basic_get("one")
            refused, _, _ = channel.basic_get("one")
            assert refused is not None
            channel.basic_reject(refused.delivery_tag or 0)  # its retry comes after a second at least

            async def counted() -> bool:
                await site.topology.compare()
                found = site.topology.statistics["one"]
                return (found.unacked, found.dead) == (1, 1) and found.total == 3

            await eventually(counted, "the statistics have caught up")


# -- readings ---


async def test_a_reading_is_fresh_at_the_confirm(site: Site) -> None:
    async with site.connected():
        await site.compare("one")
        with site.channel() as channel:
            channel.confirm_delivery()
            for number in range(1, 21):
                channel.basic_publish(TASKS_EXCHANGE, "one", b"x", mandatory=True)
                assert (await site.counts("one")).ready == number


async def test_a_batch_is_answered_in_its_order(site: Site) -> None:
    """Each with its own count, though all are asked for at once, and with what is missing between them."""
    names = [f"q{number}" for number in range(30)]
    async with site.connected():
        await site.compare(*names)
        with site.channel() as channel:
            channel.confirm_delivery()
            for number, name in enumerate(names):
                for _ in range(number % 4):
                    channel.basic_publish(TASKS_EXCHANGE, name, b"x", mandatory=True)
        asked = [name for pair in zip(names, (f"missing{name}" for name in names), strict=True) for name in pair]
        readings = await site.broker.read(asked)
        assert [reading.missing for reading in readings] == [name.startswith("missing") for name in asked]
        assert [reading.counts.ready for reading in readings if reading.counts] == [n % 4 for n in range(30)]


async def test_batches_at_the_same_time_do_not_mix(site: Site) -> None:
    async with site.connected():
        await site.compare("one", "two")
        with site.channel() as channel:
            channel.basic_publish(TASKS_EXCHANGE, "two", b"x")
            await eventually(
                lambda: channel.queue_declare("two", passive=True).method.message_count == 1, "it is there"
            )
        batches = await asyncio.gather(*(site.broker.read(["one", "two", "gone"]) for _ in range(5)))
        for one, two, gone in batches:
            assert one.counts is not None
            assert two.counts is not None
            assert (one.counts.ready, two.counts.ready, gone.missing) == (0, 1, True)


async def test_what_cannot_be_read_says_so(site: Site) -> None:
    assert "not connected" in (await site.broker.read(["one"]))[0].unknown
    async with site.connected():
        await site.compare("one")
        user = site.settings.username
        path = f"permissions/{site.settings.vhost}/{user}"
        administer(site.running, "PUT", path, {"configure": "^amq", "write": "^amq", "read": "^amq"})

        async def refused() -> bool:
            """The broker keeps what a channel may do for a while: a new one asks anew."""
            readings = await site.broker.read(["gone", "one"])
            return all("cannot be read: " in reading.unknown for reading in readings)

        await eventually(refused, "both are refused, each with the broker's word")


async def test_readings_go_on_under_a_memory_alarm(site: Site) -> None:
    publisher = EventPublisher(lambda: site.settings, "test tell")
    async with site.connected(publisher.run()):
        await site.compare("one")
        try:
            site.running.ctl("set_vm_memory_high_watermark", "0.0000001")

            def blocked() -> bool:
                publisher.tell(queue_state(1))
                return publisher.blocked

            await eventually(blocked, "the alarm blocks those that publish")
            assert (await site.counts("one")).ready == 0
        finally:
            site.running.ctl("set_vm_memory_high_watermark", "0.6")


async def test_a_lost_connection_is_made_again(site: Site) -> None:
    async with site.connected():
        await site.compare("one")
        site.running.ctl("close_all_connections", "--vhost", site.settings.vhost, "test")
        await eventually(lambda: bool(site.broker.problem), "the loss is noticed")
        await eventually(lambda: not site.broker.problem, "connected again")
        assert (await site.counts("one")).ready == 0
        await eventually(lambda: site.broker.listening_since is not None, "listening again")


async def test_wrong_credentials_are_told(site: Site) -> None:
    site.settings = replace(site.settings, password="wrong")
    task = asyncio.ensure_future(site.broker.run())
    await asyncio.sleep(0)
    assert site.broker.problem
    assert not site.broker.ever_connected
    task.cancel()
    await asyncio.wait([task])


# -- events ---


def publish(site: Site, key: str, body: bytes) -> None:
    """An event of somebody else."""
    with site.channel() as channel:
        channel.basic_publish(EVENTS_EXCHANGE, key, body)


async def test_events_are_heard_and_rubbish_is_skipped(site: Site) -> None:
    async with site.connected():
        await eventually(lambda: site.broker.listening_since is not None, "listening")
        hint = TasksSubmitted("a.queue.with.dots", 3, 1.0)
        publish(site, hint.routing_key, b"rubbish")
        publish(site, hint.routing_key, b'{"kind": "submitted", "version": 99}')
        publish(site, hint.routing_key, encode(hint))
        publish(site, "resync", encode(Resync(2.0)))
        await eventually(lambda: len(site.heard) == 2, "both events are heard")
        assert site.heard == [hint, Resync(2.0)]


async def test_a_deleted_event_queue_is_made_again(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("warren_operator.broker.EVENTS_RETRY", 0.05)
    async with site.connected():
        await eventually(lambda: site.broker.listening_since is not None, "listening")
        before = site.broker.listening_since
        with site.channel() as channel:
            channel.exchange_delete(EVENTS_EXCHANGE)
        site.running.ctl("close_all_connections", "--vhost", site.settings.vhost, "test")
        await eventually(lambda: site.broker.listening_since not in (None, before), "listening again")


async def test_an_exchange_for_events_that_is_deleted_is_made_and_heard_again(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It takes the binding along, and nothing tells that: neither connection nor consumer notices."""
    monkeypatch.setattr("warren_contract.binding.BIND_EVERY", 0.2)
    hint = TasksSubmitted("one", 1, 1.0)
    async with site.connected():
        await eventually(lambda: site.broker.listening_since is not None, "listening")
        with site.channel() as channel:
            channel.exchange_delete(EVENTS_EXCHANGE)

        def heard() -> bool:
            with contextlib.suppress(pika.exceptions.ChannelClosedByBroker):  # while there is no exchange
                publish(site, hint.routing_key, encode(hint))
            return hint in site.heard

        await eventually(heard, "the event is heard")


async def test_an_exchange_for_events_that_another_takes_the_place_of_is_told(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("warren_contract.binding.BIND_EVERY", 0.2)
    monkeypatch.setattr("warren_operator.broker.EVENTS_RETRY", 0.05)
    async with site.connected():
        await eventually(lambda: site.broker.listening_since is not None, "listening")
        with site.channel() as channel:
            channel.exchange_delete(EVENTS_EXCHANGE)
            channel.exchange_declare(EVENTS_EXCHANGE, "direct", durable=True)
            await eventually(lambda: "delete exchange warren.events" in site.broker.events_problem, "it is told")
            await eventually(lambda: site.broker.listening_since is None, "nobody counts on hearing anything")
            assert site.broker.problem == ""
            channel.exchange_delete(EVENTS_EXCHANGE)
        await eventually(lambda: site.broker.listening_since is not None, "listening")
        await eventually(lambda: not site.broker.events_problem, "it is over")


async def test_events_that_are_refused_keep_no_queue_from_being_read(
    site: Site, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The exchange for events is there, and of another type: that has to be told, and nothing else suffers."""
    monkeypatch.setattr("warren_operator.broker.EVENTS_RETRY", 0.05)
    caplog.set_level(logging.INFO, "warren_operator.broker")
    with site.channel() as channel:
        channel.exchange_declare(EVENTS_EXCHANGE, "direct", durable=True)
    async with site.connected():
        await eventually(lambda: bool(site.broker.events_problem), "the refusal is known")
        assert "inequivalent arg 'type' for exchange 'warren.events'" in site.broker.events_problem
        assert "delete exchange warren.events" in site.broker.events_problem
        await site.compare("one")
        (finding,) = site.topology.findings("one")
        assert finding.reason == Reason.EXCHANGE_MISMATCH
        assert "exchange warren.events is of type direct" in finding.message
        for _ in range(10):
            assert (await site.counts("one")).ready == 0
            await asyncio.sleep(0.05)
        assert site.broker.problem == ""
        assert site.broker.listening_since is None
        with site.channel() as channel:
            channel.exchange_delete(EVENTS_EXCHANGE)
        await eventually(lambda: site.broker.listening_since is not None, "listening")
        await eventually(lambda: not site.broker.events_problem, "it is over")
        hint = TasksSubmitted("one", 1, 1.0)
        publish(site, hint.routing_key, encode(hint))
        await eventually(lambda: site.heard == [hint], "the event is heard")
    told = [(record.levelname, record.message) for record in caplog.records if record.name == "warren_operator.broker"]
    assert [level for level, _ in told] == ["INFO", "WARNING"], f"one connection, one warning: {told}"


async def test_a_second_operator_hears_the_same(site: Site) -> None:
    """One that stands by knows the workers when it has to act."""
    second = Site(site.running, site.settings)
    event = TasksSubmitted("one", 1, 1.0)
    async with site.connected(), second.connected():
        await eventually(lambda: site.broker.listening_since is not None, "the first listens")
        await eventually(lambda: second.broker.listening_since is not None, "the second listens")
        with site.channel() as channel:
            channel.basic_publish(EVENTS_EXCHANGE, event.routing_key, encode(event))
        await eventually(lambda: site.heard == second.heard == [event], "both hear it")


def queue_state(ready: int) -> QueueState:
    """A state to tell."""
    return QueueState("one", "media/one", 1.0, ready, 0, 0, 0, 0, 0, 10, "because")


async def test_states_are_told_on_the_exchange(site: Site) -> None:
    publisher = EventPublisher(lambda: site.settings, "test tell")
    async with site.connected(publisher.run()):
        await site.compare("one")
        with site.channel() as channel:
            channel.queue_declare("listener", exclusive=True)
            channel.queue_bind("listener", EVENTS_EXCHANGE, "queue.#")
            told: list[Event | None] = []

            def heard() -> bool:
                publisher.tell(queue_state(7))
                _, _, body = channel.basic_get("listener", auto_ack=True)
                if body is not None:
                    told.append(decode(body))
                return bool(told)

            await eventually(heard, "a state is heard")
            assert told == [queue_state(7)]


async def test_the_event_queue_is_bounded(site: Site) -> None:
    async with site.connected():
        await eventually(lambda: site.broker.listening_since is not None, "listening")
        (queue,) = [q for q in await site.management.queues() if q["name"].startswith(OPERATOR_EVENTS_PREFIX)]
        arguments = queue["arguments"]
        assert isinstance(arguments, dict)
        assert (arguments["x-max-length"], arguments["x-overflow"]) == (10_000, "drop-head")
