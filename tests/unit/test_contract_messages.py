"""The contract's messages: tasks' properties, events, log lines, connection parameters."""

import contextlib
import json
import logging
import math
from pathlib import Path
from typing import Any

import pika
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pika.compat import long

from warren_contract.connection import connection_parameters
from warren_contract.events import (
    MAX_EVENT_SIZE,
    Event,
    EventError,
    PastDecision,
    QueueState,
    Resync,
    RunningTask,
    TasksSubmitted,
    WorkerState,
    decode,
    encode,
)
from warren_contract.logs import JsonFormatter, TextFormatter, configure_logging
from warren_contract.settings import BrokerSettings, SettingError
from warren_contract.task import LATEST_TIMESTAMP, Deliveries, TaskProperties, submitted_at

words = st.text(min_size=1, max_size=20)
counts = st.integers(min_value=0, max_value=10**9)
times = st.floats(min_value=0, max_value=1e12, allow_nan=False)

tasks = st.builds(
    TaskProperties,
    id=words,
    submitted_at=st.integers(min_value=1, max_value=LATEST_TIMESTAMP * 1000),
    content_type=st.none() | words,
    type=st.none() | words,
    priority=st.none() | st.integers(0, 31),
    expiration=st.none() | st.integers(0, 2**32 - 1),
    correlation_id=st.none() | words,
    headers=st.dictionaries(words.filter(lambda name: not name.startswith("x-warren-")), words, max_size=4),
)
events = st.one_of(
    st.builds(TasksSubmitted, queue=words, count=counts, at=times),
    st.builds(Resync, at=times),
    st.builds(
        WorkerState,
        queue=words,
        worker=words,
        at=times,
        started_at=times,
        concurrency=counts,
        running=st.lists(st.builds(RunningTask, id=words, since=times), max_size=3).map(tuple),
        finished=counts,
        failed=counts,
        finished_seconds=times,
        running_seconds=times,
        draining=st.booleans(),
    ),
    st.builds(
        QueueState,
        queue=words,
        resource=words,
        at=times,
        ready=st.none() | counts,
        unacked=st.none() | counts,
        workers=st.none() | counts,
        busy=st.none() | counts,
        desired=st.none() | counts,
        min_replicas=counts,
        max_replicas=counts,
        reason=words,
        limited_by=words,
        delayed=st.none() | counts,
        dead=st.none() | counts,
        service_time=st.none() | times,
        arrival_rate=st.none() | times,
        estimated_wait=st.none() | times,
        problem=words,
        idle=st.none() | counts,
        asked=st.none() | counts,
        rule=words,
        remedies=st.lists(words, max_size=3).map(tuple),
        decisions=st.lists(
            st.builds(PastDecision, at=times, from_replicas=counts, to_replicas=counts, limited_by=words, reason=words),
            max_size=3,
        ).map(tuple),
    ),
)


@given(tasks)
def test_a_task_survives_its_way_through_amqp(task: TaskProperties) -> None:
    amqp = task.to_amqp()
    assert amqp.delivery_mode == 2
    # Through the bytes of the wire, not only through our two functions.
    received = pika.BasicProperties()
    received.decode(b"".join(amqp.encode()))
    assert TaskProperties.from_amqp(received) == task


def test_a_bare_message_is_a_valid_task() -> None:
    task = TaskProperties.from_amqp(pika.BasicProperties(delivery_mode=2), now=1_700_000_000.5)
    assert task.id
    assert task.submitted_at == 1_700_000_000_500
    assert (task.type, task.priority, task.expiration, dict(task.headers)) == (None, None, None, {})


def test_a_foreign_timestamp_stands_for_the_time_of_submission() -> None:
    assert TaskProperties.from_amqp(pika.BasicProperties(timestamp=1_600_000_000)).submitted_at == 1_600_000_000_000


@pytest.mark.parametrize("submitted", [True, "yesterday", None, 1.5, [1], 0, -1, 2**63 - 1, int(1e308)])
def test_nonsense_in_foreign_headers_raises_nothing(submitted: Any) -> None:
    properties = pika.BasicProperties(
        headers={"x-warren-submitted-at": submitted, "x-warren-other": 1, "mine": 2}, expiration="soon"
    )
    task = TaskProperties.from_amqp(properties, now=5)
    assert (task.submitted_at, task.expiration, dict(task.headers)) == (5000, None, {"mine": 2})


@pytest.mark.parametrize("wrong", [b"\xff", "late", 5])
def test_texts_that_are_none_are_made_some(wrong: Any) -> None:
    properties = pika.BasicProperties(message_id=wrong, type=wrong, correlation_id=wrong, content_type=wrong)
    headers: Any = {b"\xff": 1, "mine": b"\xff"}
    properties.headers = headers
    task = TaskProperties.from_amqp(properties)
    assert isinstance(task.id, str)
    assert task.id
    assert all(isinstance(text, str | None) for text in (task.type, task.correlation_id, task.content_type))
    assert task.headers == {"\\xff": 1, "mine": b"\xff"}


def test_the_time_of_submission_is_only_told_where_the_sender_did() -> None:
    assert submitted_at(pika.BasicProperties()) is None
    assert submitted_at(pika.BasicProperties(timestamp=5)) == 5000
    assert submitted_at(pika.BasicProperties(timestamp=5, headers={"x-warren-submitted-at": 5001})) == 5001
    large = submitted_at(pika.BasicProperties(headers={"x-warren-submitted-at": long(5001)}))
    assert (large, type(large)) == (5001, int)
    assert submitted_at(pika.BasicProperties(timestamp=5, headers={"x-warren-submitted-at": int(1e308)})) == 5000


@pytest.mark.parametrize(
    ("headers", "redelivered", "attempt", "uncounted"),
    [
        (None, False, 1, 0),
        (None, True, 1, 0),
        ({"x-acquired-count": 1}, True, 1, 1),
        ({"x-acquired-count": 3, "x-delivery-count": 3}, True, 4, 0),
        ({"x-acquired-count": 53, "x-delivery-count": 2}, True, 3, 51),
        # What a sender wrote under the broker's names: on a first delivery, and after it was handed back once.
        ({"x-acquired-count": 99, "x-delivery-count": 7}, False, 1, 0),
        ({"x-acquired-count": 1, "x-delivery-count": 7}, True, 1, 1),
        ({"x-acquired-count": "3", "x-delivery-count": [3]}, True, 1, 0),
        ({"x-acquired-count": True, "x-delivery-count": -3}, True, 1, 0),
        ({"x-delivery-count": 3}, True, 4, 0),  # a broker before 4.3
        ({"x-delivery-count": 2**63 - 1}, True, 1, 0),
        ({"x-acquired-count": int(1e308), "x-delivery-count": int(1e308)}, True, 1, 0),
    ],
)
def test_deliveries_are_counted_as_the_broker_counts(
    headers: dict[str, Any] | None, redelivered: bool, attempt: int, uncounted: int
) -> None:
    properties = pika.BasicProperties(headers=headers)
    assert Deliveries.from_amqp(properties, redelivered=redelivered) == Deliveries(attempt, uncounted)


@given(events)
def test_an_event_survives_its_way(event: Event) -> None:
    assert decode(encode(event)) == event


def test_routing_keys_tell_kind_and_queue() -> None:
    assert TasksSubmitted(queue="a.b", count=1, at=0).routing_key == "submitted.a.b"
    assert Resync(at=0).routing_key == "resync"


@pytest.mark.parametrize("change", [{"kind": "horoscope"}, {"version": 2}])
def test_kinds_and_versions_of_other_releases_are_skipped(change: dict[str, Any]) -> None:
    assert decode(json.dumps({"kind": "resync", "version": 1, "at": 1, **change}).encode()) is None


def test_fields_of_later_releases_are_skipped_and_whole_numbers_are_times() -> None:
    assert decode(b'{"kind": "resync", "version": 1, "at": 1, "mood": "good"}') == Resync(at=1.0)


OLDEST = (
    b'{"kind": "queue", "version": 1, "queue": "q", "resource": "n/q", "at": 1, "ready": 2, "unacked": 0, "workers": 1,'
    b'"busy": 1, "desired": 1, "min_replicas": 0, "max_replicas": 10, "reason": "so"'
)


def test_a_queue_state_of_an_older_operator_is_understood() -> None:
    state = decode(OLDEST + b"}")
    assert isinstance(state, QueueState)
    assert (state.ready, state.rule, state.remedies, state.decisions) == (2, "", (), ())


@pytest.mark.parametrize("wrong", [b'"remedies": "x"', b'"remedies": [1]', b'"decisions": [{}]', b'"decisions": [1]'])
def test_a_wrong_list_in_a_queue_state_is_named(wrong: bytes) -> None:
    with pytest.raises(EventError, match=r"QueueState\.(remedies|decisions)|PastDecision\.at is missing"):
        decode(OLDEST + b", " + wrong + b"}")


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\xff",
        b"[]",
        b"1",
        b"[" * 60_000,
        b"{}",
        b'{"kind": "resync"}',
        b'{"kind": "resync", "version": true, "at": 1}',
        b'{"kind": ["resync"], "version": 1}',
        b'{"kind": "resync", "version": 1}',
        b'{"kind": "resync", "version": 1, "at": "now"}',
        b'{"kind": "resync", "version": 1, "at": true}',
        b'{"kind": "submitted", "version": 1, "queue": 1, "count": 1, "at": 1}',
        b'{"kind": "submitted", "version": 1, "queue": "q", "count": 1.5, "at": 1}',
        b'{"kind": "worker", "version": 1, "queue": "q", "worker": "w", "at": 1, "started_at": 1, "running": [1]}',
        b" " * (MAX_EVENT_SIZE + 1),
    ],
)
def test_what_is_no_event_is_one_kind_of_error(body: bytes) -> None:
    with pytest.raises(EventError):
        decode(body)


@pytest.mark.parametrize("number", ["1" + 400 * "0", "-1" + 30 * "0", "1e999", "1e300", "NaN", "Infinity", "-Infinity"])
@pytest.mark.parametrize("name", ["at", "count"])
def test_a_number_that_is_no_time_and_no_count_is_no_event(name: str, number: str) -> None:
    other = "count" if name == "at" else "at"
    body = f'{{"kind": "submitted", "version": 1, "queue": "q", "{name}": {number}, "{other}": 1}}'
    with pytest.raises(EventError):
        decode(body.encode())


@given(st.floats() | st.integers())
def test_each_number_is_finite_or_an_error(number: float) -> None:
    event = None
    with contextlib.suppress(EventError):
        event = decode(json.dumps({"kind": "resync", "version": 1, "at": number}).encode())
    assert event is None or math.isfinite(event.at)


@given(st.binary(max_size=200))
def test_no_bytes_raise_anything_else(body: bytes) -> None:
    with contextlib.suppress(EventError):
        assert decode(body) is None


def record(**extra: Any) -> logging.LogRecord:
    return logging.makeLogRecord({"name": "part", "levelname": "INFO", "msg": "did %s", "args": ("it",), **extra})


def test_a_json_line_has_the_extras_of_the_call() -> None:
    entry = json.loads(JsonFormatter().format(record(task="t-1", path=Path("/x"))))
    assert (entry["message"], entry["level"], entry["logger"]) == ("did it", "info", "part")
    assert (entry["task"], entry["path"]) == ("t-1", "/x")


def test_a_text_line_has_them_too_and_leaves_the_record_as_it_was() -> None:
    line = record(task="t-1")
    before = set(vars(line))
    assert TextFormatter().format(line).endswith("info    part: did it task=t-1")
    vars(line)["task"] = "t-1\n12:00:00.000 info    part: forged ä"
    assert "\n" not in TextFormatter().format(line)
    vars(line)["task"] = "Köln"
    assert TextFormatter().format(line).endswith("task=Köln")
    assert set(vars(line)) - before <= {"message", "asctime"}


@pytest.mark.parametrize("environ", [{"WARREN_LOG_FORMAT": "yaml"}, {"WARREN_LOG_LEVEL": "loud"}])
def test_a_wrong_log_setting_is_named(environ: dict[str, str]) -> None:
    with pytest.raises(SettingError, match=next(iter(environ))):
        configure_logging(environ)


def test_connection_parameters_tell_the_broker_who_we_are() -> None:
    settings = BrokerSettings(host="mq", port=5672, vhost="/", username="me", password="x")
    parameters = connection_parameters(settings, "producer-1 publish")
    assert (parameters.client_properties or {})["connection_name"] == "producer-1 publish"
    assert isinstance(parameters.heartbeat, int)
    assert 5 <= parameters.heartbeat <= 20  # what RabbitMQ recommends
    assert parameters.blocked_connection_timeout == 30
    reader = connection_parameters(settings, "reader", blocked_timeout=None, unacknowledged_limit=None)
    assert (reader.blocked_connection_timeout, reader.tcp_options) == (None, None)
