"""The frames between the worker and its handler processes."""

import datetime as dt
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from warren_worker import wire
from warren_worker.executor import Job
from warren_worker.verdict import DONE, Done, Failed

leaves = (
    st.none() | st.booleans() | st.integers() | st.text() | st.binary() | st.datetimes() | st.decimals(allow_nan=False)
)
headers = st.dictionaries(
    st.text(), st.recursive(leaves, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner))
)
jobs = st.builds(
    Job,
    ticket=st.integers(1),
    body=st.binary(),
    id=st.text(),
    attempt=st.integers(1),
    deadline=st.floats(allow_nan=False),
    type=st.none() | st.text(),
    content_type=st.none() | st.text(),
    correlation_id=st.none() | st.text(),
    submitted_at=st.integers(),
    headers=headers,
)
outcomes = st.just(DONE) | st.builds(Failed, st.text(), st.text(max_size=2000), st.text(max_size=2000), st.booleans())


@given(jobs)
def test_a_job_arrives_as_it_was_sent(job: Job) -> None:
    frame = wire.encode_job(job)
    assert wire.job_size(frame) == len(frame)
    task = wire.decode_job(frame, lambda _done, _note: None)
    for name in (
        "body",
        "id",
        "attempt",
        "deadline",
        "type",
        "content_type",
        "correlation_id",
        "submitted_at",
        "headers",
    ):
        assert getattr(task, name) == getattr(job, name), name


def test_every_type_that_amqp_headers_have_gets_across() -> None:
    values = {
        "at": dt.datetime.now(dt.UTC),
        "price": Decimal("1.5"),
        "raw": b"\xff",
        "deep": [{"a": [None]}],
    }
    frame = wire.encode_job(Job(ticket=1, body=b"", id="i", attempt=1, deadline=0.0, headers=values))
    assert wire.decode_job(frame, lambda _done, _note: None).headers == values


@given(st.lists(outcomes, max_size=5), st.integers(1, 50))
def test_answers_arrive_whole_however_they_are_cut(sent: list[Done | Failed], size: int) -> None:
    stream = b"".join(wire.encode_progress(0.25, "a quarter") + wire.encode_answer(outcome) for outcome in sent)
    buffer = bytearray()
    received = []
    for start in range(0, len(stream), size):
        buffer += stream[start : start + size]
        while (answer := wire.decode_answer(buffer)) is not None:
            received.append(answer)
    assert not buffer
    assert received[1::2] == sent
    assert received[::2] == [wire.ProgressReport(0.25, "a quarter")] * len(sent)


@given(st.binary(min_size=5, max_size=200))
def test_garbage_is_refused_or_waits_but_never_runs(garbage: bytes) -> None:
    buffer = bytearray(garbage)
    try:
        while wire.decode_answer(buffer) is not None:
            pass
    except wire.WireError as error:
        assert "frame of kind" in str(error)  # noqa: PT017  both ends are right


HUGE = b"\x02\x00\x00\x01\x96[1" + 400 * b"0" + b',""]'
"""A progress that no floating-point number can be."""


@pytest.mark.parametrize(
    "data", [b"hello, world", b"\x01\xff\xff\xff\xff", b"\x01\x00\x00\x00\x02[]", b"\x02\x00\x00\x00\x01x", HUGE]
)
def test_what_is_no_frame_of_ours_is_an_error(data: bytes) -> None:
    with pytest.raises(wire.WireError):
        wire.decode_answer(bytearray(data))


def test_a_process_that_leaves_says_so_before_its_last_answer() -> None:
    buffer = bytearray(wire.LEAVING_FRAME + wire.encode_answer(DONE))
    assert [wire.decode_answer(buffer) for _ in range(3)] == [wire.LEAVING, DONE, None]
