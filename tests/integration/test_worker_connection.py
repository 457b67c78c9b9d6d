"""What happens between worker and broker: restarts, cancels, queues that come and go, heartbeats."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from brokers import Broker, declare_work_queue, running_broker
from workers import Workers, workers_on


@pytest.fixture
def workers(broker: Broker, work_queue: str, tmp_path: Path) -> Iterator[Workers]:
    with workers_on(broker, work_queue, tmp_path) as found:
        yield found


def test_a_broker_restart_is_survived_idle_and_busy(queue_name: str, tmp_path: Path) -> None:
    with running_broker() as broker:
        with broker.channel() as channel:
            declare_work_queue(channel, queue_name)
        with workers_on(broker, queue_name, tmp_path) as workers:
            busy = workers.start("gate_each_run", "busy").ready()
            workers.publish("long one", "next one")
            workers.wait_for_notes("start", 1)
            idle = workers.start("gate_each_run", "idle", WARREN_QUEUE="elsewhere")
            idle.wait_for_line("waiting for queue elsewhere: the operator has not declared it")
            restarted = broker.restarted()
            workers.point_at(restarted)
            busy.wait_for_line("connection to the broker lost.*trying again")
            # The task goes on meanwhile; its place is taken, so nothing is delivered before it ends.
            assert len(workers.notes("start")) == 1
            assert busy.get("/readyz")[0] == 200
            workers.open_gate("long one-1")
            busy.wait_for_line("result dropped .* task=long one")
            for gate in ("long one-2", "next one-1", "next one-2"):
                workers.open_gate(gate)
            busy.wait_for_line("consuming queue .* again")
            ends = workers.wait_for_notes("end", 3)
            assert sorted(note.body for note in ends) == ["long one", "long one", "next one"]
            assert all(note.worker == "busy" for note in ends)
            with restarted.channel() as channel:
                declare_work_queue(channel, "elsewhere")
            idle.ready()
            assert restarted.container == broker.container
            workers.wait_until_empty()
            assert busy.metric("reconnects_total") >= 1


@pytest.mark.parametrize("concurrency", ["1", "2"])
def test_the_consumer_timeout_is_survived_twice_on_fresh_channels(workers: Workers, concurrency: str) -> None:
    worker = workers.start("gate_each_run", WARREN_CONSUMER_TIMEOUT="1s", WARREN_CONCURRENCY=concurrency).ready()
    workers.publish("slow")
    for round_ in (1, 2):
        # With a second place the task comes back while its first run is still going on.
        worker.wait_for_line("the broker has cancelled the consumer while this task was running.*task=slow", round_)
        workers.open_gate(f"slow-{round_}")
        worker.wait_for_line("result dropped .*task=slow", round_)
        worker.wait_for_line("consuming queue .* again", round_)
    workers.open_gate("slow-3")
    workers.open_gate("slow-4")
    workers.wait_until_empty()
    workers.publish("next")
    workers.open_gate("next-1")
    workers.wait_until_empty()
    assert {note.attempt for note in workers.notes()} == {1}, "the consumer timeout does not count as an attempt"
    assert worker.metric("consumer_cancels_total") >= 2
    assert worker.metric("reconnects_total") == 0
    assert worker.metric('tasks_total{outcome="done"}') == 2


def test_a_queue_that_is_deleted_and_declared_again_is_consumed_again(workers: Workers, broker: Broker) -> None:
    worker = workers.start("light").ready()
    for round_ in (1, 2):
        with broker.channel() as channel:
            channel.queue_delete(workers.queue)
        worker.wait_for_line("the broker has cancelled the consumer: was queue", round_)
        worker.wait_for_line(f"waiting for queue {workers.queue}: the operator has not declared it", round_)
        assert worker.get("/readyz")[0] == 200
        with broker.channel() as channel:
            declare_work_queue(channel, workers.queue)
        worker.wait_for_line("consuming queue .* again", round_)
        workers.publish(f"after {round_}")
        workers.wait_for_notes("end", round_)
    workers.wait_until_empty()
    assert worker.metric("reconnects_total") == 0


def test_a_queue_deleted_under_a_task_drops_its_result(workers: Workers, broker: Broker) -> None:
    worker = workers.start("gate").ready()
    workers.publish("lost cause")
    workers.wait_for_notes("start", 1)
    with broker.channel() as channel:
        channel.queue_delete(workers.queue)
    worker.wait_for_line("cancelled the consumer while this task was running")
    workers.open_gate("lost cause")
    worker.wait_for_line("result dropped .* task=lost cause")
    with broker.channel() as channel:
        declare_work_queue(channel, workers.queue)
    worker.wait_for_line("consuming queue .* again")
    workers.publish("light work")
    workers.wait_for_notes("end", 2)
    workers.wait_until_empty()


def test_a_missing_queue_is_waited_for_and_readiness_tells(broker: Broker, queue_name: str, tmp_path: Path) -> None:
    with workers_on(broker, queue_name, tmp_path) as workers:
        worker = workers.start("light")
        worker.wait_for_line(f"waiting for queue {queue_name}: the operator has not declared it", 2)
        assert worker.get("/healthz")[0] == 200
        assert worker.get("/readyz") == (503, f"waiting for queue {queue_name}\n")
        with broker.channel() as channel:
            declare_work_queue(channel, queue_name)
        worker.ready()
        assert worker.get("/readyz")[0] == 200
        workers.publish("one")
        workers.wait_for_notes("end", 1)
        workers.wait_until_empty()


@pytest.mark.parametrize("executor", ["process", "thread"])
def test_heartbeats_stay_alive_during_a_long_task_and_during_drain(workers: Workers, executor: str) -> None:
    worker = workers.start("sleep_3", WARREN_HEARTBEAT="1s", WARREN_EXECUTOR=executor).ready()
    workers.publish("one", "two")
    workers.wait_for_notes("start", 2)
    worker.process.terminate()
    assert worker.exit_code() == 0
    assert [(note.what, note.body) for note in workers.notes()] == [
        ("start", "one"),
        ("end", "one"),
        ("start", "two"),
        ("end", "two"),
    ]
    assert "lost" not in worker.output
    assert workers.counts() == (0, 0)


def test_wrong_credentials_are_told_and_mended_without_a_restart(workers: Workers, broker: Broker) -> None:
    (workers.folder / "broker" / "password").write_text("guessed-password", "utf-8")
    worker = workers.start("light")
    worker.wait_for_line("cannot connect to the broker.*(ACCESS_REFUSED|authentication|Authentication)")
    workers.point_at(broker)
    worker.ready()
    assert "guessed-password" not in worker.output
