"""Hostile messages straight into the queue: each that the broker lets in is completed or a dead letter, and no worker
ends."""

import contextlib
import random
import struct
from collections.abc import Iterator, Sequence
from pathlib import Path

import pika
import pytest
from brokers import Broker
from hostile import Message, Raw, message, nested
from pika.exceptions import AMQPError
from waiting import eventually
from workers import Workers, retry_policy, workers_on

COUNT = 250


@pytest.fixture
def workers(broker: Broker, work_queue: str, tmp_path: Path) -> Iterator[Workers]:
    with retry_policy(broker, work_queue), workers_on(broker, work_queue, tmp_path) as found:
        yield found


def publish(workers: Workers, messages: Sequence[Message]) -> set[bytes]:
    """Send them one by one; the bodies of those that the broker took."""
    taken = set()
    with contextlib.ExitStack() as stack:
        channel = None
        for one in messages:
            if channel is None or not channel.is_open:
                stack.close()
                channel = stack.enter_context(workers.broker.channel())
                channel.confirm_delivery()
            try:
                channel.basic_publish("", workers.queue, one.body, Raw(one.properties), mandatory=True)
            except AMQPError:
                channel = None
            else:
                taken.add(one.body)
    return taken


def dead(workers: Workers) -> dict[bytes, bytes]:
    """Bodies and the bytes of the properties of all dead letters; pika could not read them all."""
    letters = {}
    seen: list[bytes] = []
    original = pika.BasicProperties.decode

    def decode(self: pika.BasicProperties, encoded: bytes, offset: int = 0) -> pika.BasicProperties:
        seen.append(encoded[offset:])
        return self

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pika.BasicProperties, "decode", decode)
        with workers.broker.channel() as channel:
            while True:
                method, _properties, body = channel.basic_get(f"{workers.queue}.dead", auto_ack=True)
                if method is None or body is None:
                    break
                letters[body] = seen[-1]
    assert pika.BasicProperties.decode is original
    return letters


@pytest.mark.parametrize(("executor", "concurrency"), [("process", "1"), ("process", "10"), ("thread", "10")])
def test_whatever_the_broker_lets_in_is_done_or_dead(
    workers: Workers, executor: str, concurrency: str, capsys: pytest.CaptureFixture[str]
) -> None:
    seed = random.SystemRandom().randrange(2**32)
    print(f"seed {seed}")  # shown where the test fails
    rng = random.Random(seed)
    bodies = [
        b"%s %d %s" % (rng.choice([b"light", b"bad"]), number, b"\xff" * rng.choice([0, 0, 0, 5000]))
        for number in range(COUNT)
    ]
    worker = workers.start(
        "fail_if_bad",
        WARREN_EXECUTOR=executor,
        WARREN_CONCURRENCY=concurrency,
        WARREN_MAX_ATTEMPTS="2",
        WARREN_MAX_BODY="4000",
    ).ready()
    taken = publish(workers, [message(rng, body) for body in bodies])
    assert len(taken) > COUNT / 4, "hardly any was let in: this tests nothing"
    workers.wait_until_empty()
    letters = dead(workers)
    completed = {
        body for body in taken if body.split()[1] in {note.body.encode().split()[1] for note in workers.notes("end")}
    }
    assert completed | letters.keys() == taken
    assert {body for body in taken if len(body) > 4000} <= letters.keys()
    assert {body for body in taken if body.startswith(b"bad")} <= letters.keys()
    for body, raw in letters.items():
        assert b"x-warren-exception" in raw or b"x-first-death-reason" in raw, body
    for reason in (b"Undecodable", b"BodyTooLarge", b"ValueError"):
        assert any(reason in raw for raw in letters.values()), f"nothing was {reason!r}: this tests too little"
    assert worker.process.poll() is None
    assert worker.metric("reconnects_total") == 0
    assert worker.metric("crashes_total") == 0
    assert worker.metric("dead_letters_refused_total") == 0
    # And it works on.
    workers.publish("light again")
    eventually(lambda: "light again" in {note.body for note in workers.notes("end")}, "a further task is done")


@pytest.mark.parametrize(
    ("headers", "reason"),
    [
        (b"\x01aF" + nested(3000), b"Undecodable"),
        (b"\x01aF" + nested(480), b"ValueError"),
        (b"\x01aT" + b"\xff" * 8, b"Undecodable"),
        (b"\x01as\xff\xff\x01bd" + struct.pack(">d", 0.5) + b"\x01cF\x00\x00\x00\x00", b"ValueError"),
        (b"\x15x-warren-submitted-atd" + struct.pack(">d", 1e308), b"ValueError"),
        (b"\x03bigS" + (130_900).to_bytes(4, "big") + b"x" * 130_900, b"ValueError"),
    ],
)
def test_each_of_these_would_have_ended_a_worker(workers: Workers, headers: bytes, reason: bytes) -> None:
    worker = workers.start("boom", WARREN_MAX_ATTEMPTS="2").ready()
    raw = b"\x20\x00" + len(headers).to_bytes(4, "big") + headers
    assert publish(workers, [Message(raw, b"one")]) == {b"one"}
    workers.wait_until_empty()
    (letter,) = dead(workers).values()
    assert reason in letter
    passed_on = len(headers) < 100_000 and b"x-warren-" not in headers
    assert (headers in letter) == passed_on
    assert worker.process.poll() is None
