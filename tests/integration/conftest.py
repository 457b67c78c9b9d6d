"""Fixtures of the integration tests: a real broker, and names that are nobody else's."""

import os
import uuid
from collections.abc import Iterator

import httpx
import pytest
from brokers import Broker, declare_exchanges, declare_work_queue, running_broker
from producers import SUBMIT_TOKEN, Producer, ready_producer

os.environ.setdefault("TESTCONTAINERS_RYUK_DISABLED", "true")  # each fixture removes its own container


@pytest.fixture(scope="session")
def broker() -> Iterator[Broker]:
    """One broker for all tests; each works on queues of its own, and mends what it breaks."""
    with running_broker() as running:
        yield running


@pytest.fixture
def queue_name(request: pytest.FixtureRequest) -> str:
    """A queue name that no other test has, which tells where it comes from."""
    return f"{request.node.originalname[:60]}-{uuid.uuid4().hex[:8]}"


@pytest.fixture
def work_queue(broker: Broker, queue_name: str) -> Iterator[str]:
    """A work queue as the operator declares it, gone after the test."""
    with broker.channel() as channel:
        declare_work_queue(channel, queue_name)
    yield queue_name
    with broker.channel() as channel:
        channel.queue_delete(queue_name)
        channel.queue_delete(f"{queue_name}.dead")


@pytest.fixture(scope="module")
def producer_settings() -> dict[str, str]:
    """Environment of the module's producer; a module that wants another one has a fixture of this name."""
    return {}


@pytest.fixture(scope="module")
def producer(
    broker: Broker, producer_settings: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Producer]:
    """A producer for the tests of a module, ready to publish."""
    with broker.channel() as channel:
        declare_exchanges(channel)
    with ready_producer(broker, tmp_path_factory.mktemp("producer"), **producer_settings) as running:
        yield running


@pytest.fixture
def client(producer: Producer) -> Iterator[httpx.Client]:
    """A client of that producer that may submit."""
    with producer.client(SUBMIT_TOKEN) as opened:
        yield opened
