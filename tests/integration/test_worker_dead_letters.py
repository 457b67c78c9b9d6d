"""Dead letters on a real broker: the reason that they carry, and that nothing is lost where they are not taken."""

import json
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pika
import pytest
from brokers import Broker, declare_exchanges, declare_work_queue
from proxies import proxy_to
from waiting import eventually
from workers import Workers, retry_policy, workers_on

from warren_contract.dead import Reason
from warren_contract.events import WorkerState, decode
from warren_contract.names import DEAD_EXCHANGE, EVENTS_EXCHANGE
from warren_worker.envelope import address


@pytest.fixture
def workers(broker: Broker, work_queue: str, tmp_path: Path) -> Iterator[Workers]:
    with retry_policy(broker, work_queue), workers_on(broker, work_queue, tmp_path) as found:
        yield found


@pytest.mark.parametrize("executor", ["process", "thread"])
def test_a_task_that_always_fails_lies_there_with_its_reason(workers: Workers, executor: str) -> None:
    worker = workers.start("boom", WARREN_MAX_ATTEMPTS="3", WARREN_EXECUTOR=executor).ready()
    deaths: list[Any] = [{"queue": "an-older-one", "count": 1, "reason": "rejected"}]
    sent = pika.BasicProperties(
        message_id="poison",
        type="resize",
        content_type="image/png",
        content_encoding="gzip",
        correlation_id="order 7",
        priority=9,
        expiration="600000",
        reply_to="answers",
        app_id="shop",
        timestamp=1_600_000_000,
        headers={
            "mine": {"a": [1, None]},
            "CC": [f"{workers.queue}.other"],
            "x-death": deaths,
            "traceparent": "00-0-0-0",
        },
    )
    with workers.broker.channel() as channel:
        channel.basic_publish("", workers.queue, b"\xff poison", sent)
    worker.wait_for_line(rf"attempt 3 of 3 failed .* to {workers.queue}\.dead: ValueError: no such picture")
    (letter,) = workers.dead_letters(1)
    assert letter.body == b"\xff poison"
    for name in ("message_id", "type", "content_type", "content_encoding", "correlation_id", "priority", "reply_to"):
        assert getattr(letter.properties, name) == getattr(sent, name), name
    assert (letter.properties.app_id, letter.properties.timestamp) == ("shop", 1_600_000_000)
    assert (letter.properties.expiration, letter.properties.delivery_mode) == (None, 2)
    headers = letter.headers
    assert headers.pop("x-warren-failed-at") > 1_600_000_000_000
    trace = headers.pop("x-warren-traceback")
    assert trace.startswith("Traceback (most recent call last)")
    assert "in boom\n" in trace
    assert headers == {
        "mine": {"a": [1, None]},
        "x-death": deaths,
        "traceparent": "00-0-0-0",
        "x-warren-exception": "ValueError",
        "x-warren-message": "no such picture",
        "x-warren-attempts": 3,
        "x-warren-worker": worker.name,
        "x-warren-queue": workers.queue,
        "x-warren-submitted-at": 1_600_000_000_000,
        "x-warren-expiration": "600000",
    }
    assert [note.attempt for note in workers.notes("start")] == [1, 2, 3]
    workers.wait_until_empty()
    assert worker.metric('tasks_total{outcome="dead"}') == 1
    workers.publish("poison 2")  # the worker lives on
    workers.wait_for_notes("start", 4)


@pytest.mark.parametrize(
    ("handler", "body", "exception", "message"),
    [
        ("die", "segfault", "Crash", "killed by SIGSEGV"),
        ("die", "exit", "Crash", "exit code 3"),
        ("die", "killed", "Crash", "killed by SIGKILL: perhaps it needed more memory"),
        ("die", "sys.exit", "SystemExit", "0"),
        ("die", "hang", "TimeLimit", "longer than the time limit of 1 s"),
        ("boom", "x", "ValueError", "no such picture"),
    ],
)
def test_however_it_ends_the_reason_tells(
    workers: Workers, handler: str, body: str, exception: str, message: str
) -> None:
    worker = workers.start(handler, WARREN_MAX_ATTEMPTS="1", WARREN_TIME_LIMIT="1s").ready()
    workers.publish(body)
    (letter,) = workers.dead_letters(1)
    assert letter.headers["x-warren-exception"] == exception
    assert message in letter.headers["x-warren-message"]
    assert letter.headers["x-warren-attempts"] == 1
    workers.wait_until_empty()
    assert worker.process.poll() is None


def test_an_address_for_answers_that_no_publisher_may_name_keeps_no_letter_from_the_broker(workers: Workers) -> None:
    """A client of another protocol can send it; the worker would lose its channel, and the task be tried for ever."""
    sent = pika.BasicProperties(reply_to="amq.rabbitmq.reply-to")
    with workers.broker.channel() as channel:
        channel.confirm_delivery()
        with pytest.raises(pika.exceptions.ChannelClosedByBroker, match="fast reply consumer does not exist"):
            channel.basic_publish("", workers.queue, b"x", sent)
    reason = Reason("ValueError", "no such picture", "", 1, "w", workers.queue, 0)
    with workers.broker.channel() as channel:
        channel.confirm_delivery()
        channel.basic_publish(DEAD_EXCHANGE, workers.queue, b"x", address(b"".join(sent.encode()), reason, "id"))
    (letter,) = workers.dead_letters(1)
    assert letter.properties.reply_to is None
    assert letter.headers["x-warren-reply-to"] == sent.reply_to


@pytest.mark.parametrize("executor", ["process", "thread"])
def test_a_permanent_error_is_not_tried_again(workers: Workers, executor: str) -> None:
    workers.start("hopeless", WARREN_EXECUTOR=executor).ready()
    workers.publish("hopeless")
    (letter,) = workers.dead_letters(1)
    assert (letter.headers["x-warren-exception"], letter.headers["x-warren-attempts"]) == ("NoSuchPicture", 1)
    workers.wait_until_empty()
    assert len(workers.notes("start")) == 1


def test_a_dead_letter_that_is_put_back_starts_anew(workers: Workers) -> None:
    workers.start("boom", WARREN_MAX_ATTEMPTS="2").ready()
    workers.publish("stubborn")
    (first,) = workers.dead_letters(1)
    with workers.broker.channel() as channel:
        # As the broker's shovel or a careless script does it: with all that the letter carries, stale counts added.
        first.properties.headers = {**first.headers, "x-delivery-count": 7, "x-acquired-count": 99}
        channel.basic_publish("", workers.queue, first.body, first.properties)
    (second,) = workers.dead_letters(1)
    assert [note.attempt for note in workers.notes("start")] == [1, 2, 1, 2]
    assert second.headers.keys() == first.headers.keys()
    assert second.headers["x-warren-failed-at"] > first.headers["x-warren-failed-at"]


def test_a_missing_dead_letter_queue_loses_nothing_and_holds_up_nobody(workers: Workers, broker: Broker) -> None:
    worker = workers.start("gate_then_fail", WARREN_MAX_ATTEMPTS="1").ready()
    with broker.channel() as channel:
        channel.queue_delete(f"{workers.queue}.dead")
    workers.open_gate("poison")
    workers.publish("poison")
    worker.wait_for_line(f"no dead letter: there is no queue {workers.queue}.dead .*tried again task=poison", 2)
    with broker.channel() as channel:
        events = channel.queue_declare("", exclusive=True).method.queue
        channel.queue_bind(events, EVENTS_EXCHANGE, f"worker.{workers.queue}")

        def told() -> bool:
            body = channel.basic_get(events, auto_ack=True)[2]
            state = decode(body) if body is not None else None
            return isinstance(state, WorkerState) and state.letters_refused >= 2

        eventually(told, "an event tells of it")
    workers.publish("light work")
    workers.wait_for_notes("end", 1)
    assert worker.metric("dead_letters_refused_total") >= 2
    assert worker.metric('tasks_total{outcome="retried"}') >= 2
    with broker.channel() as channel:
        declare_work_queue(channel, workers.queue)
    (letter,) = workers.dead_letters(1)
    assert letter.headers["x-warren-attempts"] >= 3
    workers.wait_until_empty()


def test_a_missing_exchange_loses_nothing(workers: Workers, broker: Broker) -> None:
    worker = workers.start("gate_then_fail", WARREN_MAX_ATTEMPTS="1").ready()
    with broker.channel() as channel:
        channel.exchange_delete(DEAD_EXCHANGE)
    try:
        workers.open_gate("poison")
        workers.publish("poison")
        worker.wait_for_line("no dead letter: the broker refuses: .*404.*warren.dead", 2)
    finally:
        with broker.channel() as channel:
            declare_exchanges(channel)
            declare_work_queue(channel, workers.queue)
    workers.dead_letters(1)
    workers.wait_until_empty()
    assert worker.metric("reconnects_total") == 0


def test_a_full_dead_letter_queue_loses_nothing(workers: Workers, broker: Broker) -> None:
    dead = f"{workers.queue}.dead"
    limits = json.dumps({"max-length": 1, "overflow": "reject-publish"})
    broker.ctl("set_policy", dead, f"^{dead}$", limits, "--apply-to", "quorum_queues")
    try:
        worker = workers.start("boom", WARREN_MAX_ATTEMPTS="1").ready()
        for number in range(6):  # a quorum queue lets in a few beyond its limit
            workers.publish(f"poison {number}")
        worker.wait_for_line(f"no dead letter: queue {dead} takes no more: is it full", 3)
    finally:
        broker.ctl("clear_policy", dead)
    assert {letter.body for letter in workers.dead_letters(6)} == {b"poison %d" % number for number in range(6)}
    workers.wait_until_empty()


@contextmanager
def memory_alarm(broker: Broker) -> Iterator[None]:
    """The broker reads nothing more from connections that publish."""
    broker.ctl("set_vm_memory_high_watermark", "absolute", "1")
    try:
        yield
    finally:
        broker.ctl("set_vm_memory_high_watermark", "0.6")


def test_a_broker_that_does_not_answer_loses_nothing_and_sigterm_finds_its_way(
    workers: Workers, broker: Broker
) -> None:
    worker = workers.start("gate_then_fail", WARREN_MAX_ATTEMPTS="1", WARREN_HEARTBEAT="5s").ready()
    workers.publish("poison", "light work")
    workers.wait_for_notes("start", 1)
    with memory_alarm(broker):
        # The broker tells of the alarm once it reads something: an event, of which a quiet worker sends one in 10 s.
        # Before that a letter would be sent, lie in the broker's socket, and be taken when the alarm is over: a copy.
        worker.wait_for_line("the broker takes no events: it is short of memory")
        workers.open_gate("poison")
        worker.wait_for_line("no further attempt")
        worker.wait_for_line("no dead letter: the broker did not confirm it within 10 s: it is short of memory")
        workers.wait_for_notes("end", 1)  # meanwhile others have had their turn
        worker.wait_for_line("no further attempt", 2)
        # Now the second letter waits for its confirm.
        worker.signal(signal.SIGTERM)
        worker.wait_for_line("SIGTERM: finishing 0 tasks and 1 dead letters")
        worker.signal(signal.SIGTERM)
        assert worker.exit_code() == 0
        assert "no dead letter: the worker ends" in worker.output
        assert "lost" not in worker.output
    workers.start("gate_then_fail", WARREN_MAX_ATTEMPTS="1").ready()
    assert workers.dead_letters(1)[0].headers["x-warren-attempts"] == 3
    workers.wait_until_empty()


def test_sigterm_waits_for_the_confirm_and_death_before_it_leaves_a_copy_and_another_run(workers: Workers) -> None:
    with proxy_to(workers.broker.host, workers.broker.amqp_port) as proxy:
        for end in (signal.SIGKILL, signal.SIGTERM):
            worker = workers.start(
                "gate_then_fail",
                WARREN_MAX_ATTEMPTS="1",
                WARREN_BROKER_HOST="127.0.0.1",
                WARREN_BROKER_PORT=str(proxy.port),
            ).ready()
            workers.open_gate("first")
            workers.publish("first")  # opens the channel for dead letters
            workers.dead_letters(1)
            workers.wait_until_empty()
            body = end.name
            workers.publish(body)
            eventually(lambda body=body: body in {note.body for note in workers.notes()}, f"{body} runs")  # type: ignore[misc]
            proxy.hold()
            workers.open_gate(body)
            copy = workers.dead_letters(1)[0]  # the broker has the letter, and the worker does not know
            assert copy.body == body.encode()
            assert workers.counts() == (0, 1)
            worker.signal(end)
            if end is signal.SIGKILL:
                assert worker.exit_code() == -signal.SIGKILL
                proxy.cut()
                proxy.release()
                other = workers.start("gate_then_fail", WARREN_MAX_ATTEMPTS="1").ready()
                again = workers.dead_letters(1)[0]
                assert (again.body, again.headers["x-warren-attempts"]) == (body.encode(), 2)
                other.signal(signal.SIGTERM)
                assert other.exit_code() == 0
            else:
                worker.wait_for_line("finishing 0 tasks and 1 dead letters")
                proxy.release()
                assert worker.exit_code() == 0
            workers.wait_until_empty()
    assert [note.body for note in workers.notes("start")] == ["first", "SIGKILL", "SIGKILL", "first", "SIGTERM"]


def test_what_is_too_big_is_not_run(workers: Workers) -> None:
    worker = workers.start("light", WARREN_MAX_BODY="1000").ready()
    workers.publish("x" * 1001, "x" * 1000)
    (letter,) = workers.dead_letters(1)
    assert letter.headers["x-warren-exception"] == "BodyTooLarge"
    assert "1001 bytes" in letter.headers["x-warren-message"]
    workers.wait_until_empty()
    assert [len(note.body) for note in workers.notes("end")] == [1000]
    assert worker.metric('tasks_total{outcome="dead"}') == 1


def test_what_always_comes_back_without_failing_is_dead_in_the_end(workers: Workers) -> None:
    workers.publish("ping pong")
    with workers.broker.channel() as channel:
        deliveries = channel.consume(workers.queue)
        for _ in range(51):
            method, _properties, _body = next(deliveries)
            assert method is not None
            assert method.delivery_tag is not None
            channel.basic_nack(method.delivery_tag, requeue=True)
        channel.cancel()
    workers.start("light").ready()
    (letter,) = workers.dead_letters(1)
    assert letter.headers["x-warren-exception"] == "NeverFinished"
    workers.wait_until_empty()
    assert workers.notes() == []


def test_a_lost_delivery_alone_never_kills(workers: Workers) -> None:
    workers.publish("unlucky")
    for attempt in (1, 2, 3):
        worker = workers.start("gate", WARREN_MAX_ATTEMPTS="2").ready()
        assert workers.wait_for_notes("start", attempt)[-1].attempt == attempt
        worker.signal(signal.SIGKILL)
        worker.exit_code()
    workers.open_gate("unlucky")
    workers.start("gate", WARREN_MAX_ATTEMPTS="2").ready()
    assert workers.wait_for_notes("end", 1)[0].attempt == 4
    workers.wait_until_empty()
