"""Fixtures of the integration tests: a real broker, and names that are nobody else's."""

import os
import uuid
from collections.abc import Iterator

import pytest
from brokers import Broker, declare_work_queue, running_broker

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
