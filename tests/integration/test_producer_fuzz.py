"""The HTTP API fuzzed from its own description, against a real broker: it is true, and nothing is half done."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
import schemathesis
from brokers import Broker, declare_work_queue
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from pika.adapters.blocking_connection import BlockingChannel
from producers import ADMIN_TOKEN, READ_TOKEN, Producer
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

QUEUE = "fuzzed"
CHECKS: list[Any] = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
]
EXPECTED = {
    ("POST", "/v1/queues/{queue}/tasks"): {202, 401, 403, 404, 422},
    ("POST", "/v1/queues/{queue}/tasks:batch"): {202, 401, 403, 422},
    ("GET", "/v1/queues"): {200, 401},
    ("GET", "/v1/queues/{queue}"): {200, 401, 404, 422},
    ("GET", "/healthz"): {200},
    ("GET", "/readyz"): {200},
    ("GET", "/metrics"): {200},
}
"""Statuses that every run meets, for each operation."""


PLAIN: dict[tuple[str, str], dict[str, Any]] = {
    ("POST", "/v1/queues/{queue}/tasks"): {"body": b"x", "media_type": "application/octet-stream"},
    ("POST", "/v1/queues/{queue}/tasks:batch"): {"body": {"body": "x"}, "media_type": "application/x-ndjson"},
}
"""What is accepted with the right token."""


@schemathesis.serializer("application/x-ndjson")
def lines(_context: object, value: Any) -> bytes:
    """A batch of three lines, of which the description describes one.

    Only one has its id: of several with one id in a queue that is not there, nobody can tell which came back, and the
    answer is 503.
    """
    line = value if isinstance(value, bytes) else json.dumps(value).encode()
    more = json.dumps({key: value[key] for key in value if key != "id"}).encode() if isinstance(value, dict) else line
    return line + b"\n\n" + more + b"\n" + more


@pytest.fixture(scope="module")
def api(producer: Producer) -> Any:
    return schemathesis.openapi.from_url(f"{producer.url}/openapi.json")


@pytest.fixture(scope="module")
def channel(broker: Broker) -> Iterator[BlockingChannel]:
    with broker.channel() as opened:
        declare_work_queue(opened, QUEUE)
        yield opened
        opened.queue_delete(QUEUE)
        opened.queue_delete(f"{QUEUE}.dead")


def test_every_operation_is_fuzzed(api: Any) -> None:
    assert {(found.ok().method.upper(), found.ok().path) for found in api.get_all_operations()} == EXPECTED.keys()


@pytest.mark.parametrize(("method", "path"), EXPECTED)
def test_answers_are_as_described_and_what_is_accepted_is_in_the_queue(
    api: Any, producer: Producer, channel: BlockingChannel, method: str, path: str
) -> None:
    operation = api[path][method]
    mine = {"path_parameters": {"queue": QUEUE}} if "{queue}" in path else {}
    seen: set[int] = set()
    kinds = [operation.as_strategy(generation_mode=mode, **own) for mode in GenerationMode for own in ({}, mine)]
    # Of those that are drawn, now and then none is right in everything.
    plain = operation.Case(**PLAIN.get((method, path), {}), **mine)

    @settings(max_examples=120, deadline=None, suppress_health_check=list(HealthCheck), database=None)
    @example(case=plain, token=ADMIN_TOKEN)
    @example(case=plain, token=READ_TOKEN)
    @given(case=st.one_of(*kinds), token=st.sampled_from([ADMIN_TOKEN] * 6 + [READ_TOKEN, "not-a-token-at-all", ""]))
    def one(case: Any, token: str) -> None:
        response = case.call(headers={"Authorization": f"Bearer {token}"} if token else {}, timeout=30)
        case.validate_response(response, checks=CHECKS)
        seen.add(response.status_code)
        accepted = 0
        if method == "POST" and response.content.startswith(b"{"):
            accepted = int(response.json().get("accepted") or response.status_code == 202)
        assert channel.queue_purge(QUEUE).method.message_count == accepted

    one()
    assert seen >= EXPECTED[method, path], "most of what it can answer was met"
    said = producer.log.read_text()
    assert "Traceback" not in said
    assert ADMIN_TOKEN not in said
