"""HTTP headers become a task's properties, or an error that names the header."""

import pika
import pytest
from hypothesis import given
from hypothesis import strategies as st

from warren_contract.task import TaskProperties
from warren_producer.metadata import MAX_METADATA, MetadataError, task_properties

NOW = 1_700_000_000.25
TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


def read(*headers: tuple[str, str]) -> TaskProperties:
    return task_properties([(name.lower().encode(), value.encode()) for name, value in headers], NOW)


def test_without_headers_a_task_gets_an_id_and_the_time() -> None:
    task = read(("Host", "x"), ("Accept", "*/*"))
    assert task == TaskProperties(id=task.id, submitted_at=1_700_000_000_250)
    assert len(task.id) == 36


def test_every_header_finds_its_place() -> None:
    task = read(
        ("Idempotency-Key", "order-17"),
        ("Content-Type", "application/json"),
        ("X-Task-Type", "thumbnail"),
        ("X-Task-Priority", "31"),
        ("X-Task-Expiration", "1h30m"),
        ("X-Task-Correlation-Id", "c-1"),
        ("X-Task-Header-Tenant", "büro"),
        ("traceparent", TRACE),
        ("tracestate", "a=1"),
        ("tracestate", "b=2"),
    )
    assert task == TaskProperties(
        id="order-17",
        submitted_at=1_700_000_000_250,
        content_type="application/json",
        type="thumbnail",
        priority=31,
        expiration=5_400_000,
        correlation_id="c-1",
        headers={"tenant": "büro", "traceparent": TRACE, "tracestate": "a=1,b=2"},
    )


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("Idempotency-Key", ""),
        ("Idempotency-Key", "a b"),
        ("Idempotency-Key", "ü"),
        ("Idempotency-Key", "x" * 256),
        ("Content-Type", "x" * 256),
        ("X-Task-Type", "t" * 256),
        ("X-Task-Type", "a\x01b"),
        ("X-Task-Priority", "32"),
        ("X-Task-Priority", "-1"),
        ("X-Task-Priority", ""),
        ("X-Task-Priority", "9" * 5000),
        ("X-Task-Priority", "high"),
        ("X-Task-Expiration", "soon"),
        ("X-Task-Expiration", "0s"),
        ("X-Task-Expiration", "0.4ms"),
        ("X-Task-Expiration", "1194h"),
        ("X-Task-Expiration", "9" * 400 + "h"),
        ("X-Task-Correlation-Id", "ü" * 128),
        ("X-Task-Header-X-Warren-Submitted-At", "1"),
        ("X-Task-Header-X-Death", "1"),
        ("X-Task-Header-X-Delivery-Count", "7"),
        ("X-Task-Header-CC", "other"),
        ("X-Task-Header-Traceparent", TRACE),
        ("X-Task-Header-", "nameless"),
        ("X-Task-Header-" + "n" * 129, "v"),
        ("X-Task-Prio", "3"),
        ("Content-Encoding", "gzip"),
    ],
)
def test_a_wrong_header_is_named(name: str, value: str) -> None:
    with pytest.raises(MetadataError) as caught:
        read((name, value))
    assert caught.value.field.lower() == name.lower()
    assert str(caught.value).startswith(caught.value.field)


@pytest.mark.parametrize("name", ["Idempotency-Key", "Content-Type", "X-Task-Priority", "X-Task-Header-A"])
def test_a_header_sent_twice_is_refused(name: str) -> None:
    with pytest.raises(MetadataError, match="sent twice"):
        read((name, "1"), (name, "1"))


def test_bytes_that_are_no_text_are_refused() -> None:
    with pytest.raises(MetadataError, match="UTF-8"):
        task_properties([(b"x-task-header-a", b"\xff\xfe")], NOW)


@pytest.mark.parametrize("parent", ["", "nonsense", TRACE.upper(), "00-" + "0" * 600])
def test_a_broken_trace_context_is_dropped(parent: str) -> None:
    assert read(("traceparent", parent), ("tracestate", "a=1")).headers == {}


def test_two_trace_parents_are_none() -> None:
    assert read(("traceparent", TRACE), ("traceparent", TRACE)).headers == {}


def test_the_longest_header_is_named_when_they_are_too_long_together() -> None:
    with pytest.raises(MetadataError) as caught:
        read(("X-Task-Header-A", "a" * 7000), ("X-Task-Header-B", "b" * 9500))
    assert caught.value.field == "X-Task-Header-b"


names = st.from_regex(r"[a-z0-9!#$%&'*+.^_`|~-]{1,128}", fullmatch=True)
values = st.binary(max_size=3000)


@given(
    st.lists(
        st.tuples(
            st.one_of(
                names,
                names.map("x-task-header-{}".format),
                st.sampled_from(
                    [
                        "idempotency-key",
                        "content-type",
                        "x-task-type",
                        "x-task-priority",
                        "x-task-expiration",
                        "x-task-correlation-id",
                    ]
                ),
            ),
            values,
        ),
        max_size=12,
    )
)
def test_whatever_comes_is_refused_or_fits_into_one_frame(headers: list[tuple[str, bytes]]) -> None:
    try:
        task = task_properties([(name.encode(), value) for name, value in headers], NOW)
    except MetadataError:
        return
    encoded = b"".join(task.to_amqp().encode())  # raises where a string is too long for AMQP
    assert len(encoded) <= MAX_METADATA + 200
    received = pika.BasicProperties()
    received.decode(encoded)
    assert TaskProperties.from_amqp(received) == task
