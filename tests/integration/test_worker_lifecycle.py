"""How workers start and end: signals, grace, exit codes, health, events, on a real broker."""

import os
import signal
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from brokers import Broker, declare_exchanges
from waiting import eventually
from workers import PYTHON_PATH, Worker, Workers, workers_on

from warren_contract.events import WorkerState, decode
from warren_contract.names import EVENTS_EXCHANGE


@pytest.fixture
def workers(broker: Broker, work_queue: str, tmp_path: Path) -> Iterator[Workers]:
    with workers_on(broker, work_queue, tmp_path) as found:
        yield found


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("executor", ["process", "thread"])
def test_a_busy_worker_finishes_and_nothing_is_delivered_twice(
    workers: Workers, number: signal.Signals, executor: str
) -> None:
    worker = workers.start("gate", WARREN_EXECUTOR=executor).ready()
    workers.publish("in hand", "waiting")
    workers.wait_for_notes("start", 1)
    worker.signal(number)
    worker.wait_for_line(f"{number.name}: finishing 1 tasks")
    eventually(lambda: workers.consumers() == 0, "the worker has stopped consuming")
    assert worker.process.poll() is None
    workers.open_gate("in hand")
    assert worker.exit_code() == 0
    assert workers.counts() == (1, 0)
    assert [(note.what, note.body) for note in workers.notes()] == [("start", "in hand"), ("end", "in hand")]
    workers.open_gate("waiting")
    workers.start("gate").ready()
    assert workers.wait_for_notes("end", 2)[1].attempt == 1
    workers.wait_until_empty()


def test_an_idle_worker_ends_at_once(workers: Workers) -> None:
    worker = workers.start().ready()
    worker.signal(signal.SIGTERM)
    assert worker.exit_code() == 0


def test_a_worker_that_connects_ends_at_once(workers: Workers) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:  # takes the connection and says nothing
        worker = workers.start(WARREN_BROKER_HOST="127.0.0.1", WARREN_BROKER_PORT=str(silent.getsockname()[1]))
        silent.settimeout(30)
        connection, _address = silent.accept()
        with connection:
            worker.signal(signal.SIGTERM)
            assert worker.exit_code() == 0


def test_a_worker_without_a_broker_ends_at_once(workers: Workers) -> None:
    with socket.socket() as taken:  # bound, so that nobody else listens there, but not listening
        taken.bind(("127.0.0.1", 0))
        worker = workers.start(WARREN_BROKER_HOST="127.0.0.1", WARREN_BROKER_PORT=str(taken.getsockname()[1]))
        worker.wait_for_line("cannot connect to the broker at 127.0.0.1.*refused.*trying again", count=3)
        worker.signal(signal.SIGTERM)
        assert worker.exit_code() == 0


def test_a_worker_that_is_told_to_end_before_its_handler_is_loaded_ends(workers: Workers, tmp_path: Path) -> None:
    (tmp_path / "slow_import.py").write_text("import time\nprint('importing', flush=True)\ntime.sleep(100)\n", "utf-8")
    worker = workers.start("slow_import:work", PYTHONPATH=f"{tmp_path}:{PYTHON_PATH}")
    worker.wait_for_line("importing")
    worker.signal(signal.SIGTERM)
    assert worker.exit_code() == 0


@pytest.mark.parametrize("executor", ["process", "thread"])
def test_a_second_signal_hands_the_task_back_uncounted(workers: Workers, executor: str) -> None:
    worker = workers.start("gate", WARREN_EXECUTOR=executor).ready()
    workers.publish("long one")
    first = workers.wait_for_notes("start", 1)[0]
    worker.signal(signal.SIGTERM)
    worker.wait_for_line("SIGTERM: finishing 1 tasks")
    worker.signal(signal.SIGTERM)
    assert worker.exit_code() == 0
    assert workers.counts() == (1, 0)
    assert not Path(f"/proc/{first.pid}").exists()
    workers.open_gate("long one")
    workers.start("gate").ready()
    assert [note.attempt for note in workers.wait_for_notes("end", 1)] == [1]
    workers.wait_until_empty()


def test_what_outlives_the_grace_period_is_handed_back_uncounted(workers: Workers) -> None:
    worker = workers.start("gate", WARREN_GRACE="500ms", WARREN_CONCURRENCY="2").ready()
    workers.publish("quick one", "long one")
    workers.wait_for_notes("start", 2)
    worker.signal(signal.SIGTERM)
    worker.wait_for_line("SIGTERM: finishing 2 tasks")
    workers.open_gate("quick one")
    assert worker.exit_code() == 0
    assert "the grace period is over: handing 1 tasks back" in worker.output
    workers.open_gate("long one")
    workers.start("gate").ready()
    ends = workers.wait_for_notes("end", 2)
    assert [(note.body, note.attempt) for note in ends] == [("quick one", 1), ("long one", 1)]
    workers.wait_until_empty()


def test_deliveries_that_cross_the_cancel_are_not_counted_as_attempts(workers: Workers, broker: Broker) -> None:
    """pika rejects them by itself, which counts; the worker must not let it."""
    with broker.channel() as channel:
        for _ in range(20_000):
            channel.basic_publish("", workers.queue, b"Hello")
    for _ in range(5):  # each end is in the middle of the flow
        worker = workers.start("quiet_at_first", WARREN_CONCURRENCY="50", WARREN_EXECUTOR="thread").ready()
        wait_until_at_work(worker)
        worker.signal(signal.SIGTERM)
        assert worker.exit_code() == 0
    left, in_work = workers.counts()
    assert left > 0, "the queue ran empty: nothing can have crossed"
    assert in_work == 0
    counted = 0
    with broker.channel() as channel:
        for _method, properties, _body in channel.consume(workers.queue, auto_ack=True, inactivity_timeout=30):
            if properties is None:
                break
            counted += "x-delivery-count" in (properties.headers or {})
            left -= 1
            if left == 0:
                break
    assert (left, counted) == (0, 0)
    assert workers.notes("again") == []  # what was handed back comes first in the next round


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"WARREN_HANDLER": "no_such_module:work"}, "cannot import no_such_module"),
        ({"WARREN_HANDLER": "no_such_module:work", "WARREN_EXECUTOR": "thread"}, "cannot import no_such_module"),
        ({"WARREN_HANDLER": "worker_jobs:missing"}, "module worker_jobs has no function missing"),
        ({"WARREN_HANDLER": "worker_jobs:NOT_CALLABLE"}, "NOT_CALLABLE cannot be called"),
        ({"WARREN_HANDLER": "worker_jobs:asynchronous"}, "write a plain function"),
        ({"WARREN_HANDLER": "dotz"}, "write dots, exec, http or module:function"),
        ({"WARREN_HANDLER": "worker_jobs:WRONG_TYPES"}, "WRONG_TYPES['b'] is async or a generator"),
        ({"WARREN_HANDLER": "exec"}, "WARREN_EXEC_COMMAND is not set"),
        ({"WARREN_HANDLER": "exec", "WARREN_EXEC_COMMAND": "no-such-program -v"}, "is it in the image and on PATH"),
        ({"WARREN_HANDLER": "exec", "WARREN_EXEC_COMMAND": '["cat"'}, "it begins like a JSON array and is none"),
        ({"WARREN_HANDLER": "exec", "WARREN_EXEC_COMMAND": "cat 'x"}, "WARREN_EXEC_COMMAND="),
        ({"WARREN_HANDLER": "exec", "WARREN_EXECUTOR": "thread"}, "WARREN_EXECUTOR=thread cannot end a program"),
        ({"WARREN_HANDLER": "http"}, "WARREN_HTTP_URL is not set"),
        ({"WARREN_HANDLER": "http", "WARREN_HTTP_URL": "localhost:80"}, "write an address such as http://"),
        ({"WARREN_HANDLER": "http", "WARREN_HTTP_URL": "http://a:b@c/"}, "leave user and password out"),
        ({"WARREN_HANDLER": "http", "WARREN_HTTP_URL": "http://[::1"}, "WARREN_HTTP_URL="),
        ({"WARREN_MAX_TASKS_PER_CHILD": "-1"}, "write a whole number from 0"),
        ({"WARREN_MAX_MEMORY_PER_CHILD": "512MB"}, "write bytes, or a number with k, M, G"),
        ({"WARREN_MAX_BODY": "1Mi"}, "write a whole number from 1"),
        ({"WARREN_QUEUE": ""}, "WARREN_QUEUE is not set"),
        ({"WARREN_QUEUE": "tasks.dead"}, "is reserved for dead letters"),
        ({"WARREN_CONCURRENCY": "0"}, "write a whole number from 1 to 100"),
        ({"WARREN_TIME_LIMIT": "25"}, "write a number and a unit"),
        ({"WARREN_EXECUTOR": "fibre"}, "write one of process, thread"),
        ({"WARREN_HEARTBEAT": "500ms"}, "write whole seconds"),
        ({"WARREN_CONSUMER_TIMEOUT": "9" * 400 + "h"}, "WARREN_CONSUMER_TIMEOUT='999"),
        ({"WARREN_WORKER_NAME": "n" * 254}, "write 1 to 253 printable characters"),
        ({"WARREN_BROKER_TLS": "true", "WARREN_BROKER_CA_FILE": __file__}, "has no certificate in PEM form"),
        ({"WARREN_BROKER_DIR": ""}, "the broker's host is missing"),
        ({"WARREN_LOG_FORMAT": "xml"}, "write one of text, json"),
    ],
)
def test_a_mistake_ends_with_one_sentence_and_code_2(workers: Workers, settings: dict[str, str], sentence: str) -> None:
    worker = workers.start("dots", **settings)
    assert worker.exit_code() == 2
    said = [line for line in worker.output.splitlines() if line.startswith("warren-worker: ")]
    assert len(said) == 1, worker.output
    assert sentence in said[0]
    assert "Traceback" not in worker.output


def test_an_error_of_our_own_at_the_start_is_told(workers: Workers, tmp_path: Path) -> None:
    (tmp_path / "pika.py").write_text("raise RuntimeError('half an image')\n", "utf-8")
    worker = workers.start(PYTHONPATH=f"{tmp_path}:{PYTHON_PATH}")
    assert worker.exit_code() == 1
    assert "the worker cannot start" in worker.output
    assert "RuntimeError: half an image" in worker.output


def test_a_health_port_that_is_taken_is_named(workers: Workers) -> None:
    with socket.create_server(("", 0), family=socket.AF_INET6, dualstack_ipv6=True) as taken:
        port = taken.getsockname()[1]
        worker = workers.start(WARREN_HEALTH_PORT=str(port))
        assert worker.exit_code() == 2
    assert f"cannot listen on port WARREN_HEALTH_PORT={port}" in worker.output


def test_the_fork_server_gone_is_an_abnormal_end_that_hands_back(workers: Workers) -> None:
    worker = workers.start("gate").ready()
    workers.publish("precious")
    workers.wait_for_notes("start", 1)
    fork_server = children(worker)[0]
    os.kill(fork_server, signal.SIGKILL)
    assert worker.exit_code() == 1
    assert "the fork server has ended" in worker.output
    workers.open_gate("precious")
    workers.start("gate").ready()
    assert workers.wait_for_notes("end", 1)[0].attempt == 1
    workers.wait_until_empty()


def test_health_and_metrics(workers: Workers) -> None:
    worker = workers.start("gate").ready()
    assert worker.get("/healthz") == (200, "ok\n")
    assert worker.get("/readyz") == (200, "ok\n")
    assert worker.get("/")[0] == 404
    workers.publish("one")
    workers.wait_for_notes("start", 1)
    assert worker.metric("running") == 1
    workers.open_gate("one")
    eventually(lambda: worker.metric('tasks_total{outcome="done"}') == 1, "the task is counted")
    assert worker.metric("running") == 0
    assert worker.metric("task_seconds_count") == 1


def test_events_tell_busy_idle_and_the_end(workers: Workers, broker: Broker) -> None:
    with broker.channel() as channel:
        declare_exchanges(channel)
        queue = channel.queue_declare("", exclusive=True).method.queue
        channel.queue_bind(queue, EVENTS_EXCHANGE, f"worker.{workers.queue}")
        seen: list[WorkerState] = []

        def wait_for(what: str) -> None:
            def look() -> bool:
                _method, _properties, body = channel.basic_get(queue, auto_ack=True)
                if body is not None:
                    state = decode(body)
                    assert isinstance(state, WorkerState)
                    seen.append(state)
                wanted: dict[str, Callable[[WorkerState], bool]] = {
                    "idle": lambda state: not state.busy and not state.draining and state.finished == 0,
                    "busy": lambda state: [task.id for task in state.running] == ["one"] and state.running_seconds >= 0,
                    "done": lambda state: not state.busy and state.finished == 1 and state.finished_seconds > 0,
                    "draining": lambda state: state.draining,
                }
                return any(wanted[what](state) for state in seen)

            eventually(look, f"the event {what}", every=0.02)

        worker = workers.start("gate", "the-pod").ready()
        wait_for("idle")
        workers.publish("one")
        wait_for("busy")
        workers.open_gate("one")
        wait_for("done")
        worker.signal(signal.SIGTERM)
        wait_for("draining")
        assert worker.exit_code() == 0
    assert {(state.queue, state.worker, state.concurrency) for state in seen} == {(workers.queue, "the-pod", 1)}
    assert len({state.started_at for state in seen}) == 1


def test_without_the_events_exchange_work_goes_on_and_events_follow(workers: Workers, broker: Broker) -> None:
    with broker.channel() as channel:
        channel.exchange_delete(EVENTS_EXCHANGE)
    try:
        worker = workers.start("light").ready()
        worker.wait_for_line("no events until the broker takes them")
        workers.publish("one")
        workers.wait_for_notes("end", 1)
    finally:
        with broker.channel() as channel:
            declare_exchanges(channel)
    with broker.channel() as channel:
        queue = channel.queue_declare("", exclusive=True).method.queue
        channel.queue_bind(queue, EVENTS_EXCHANGE, f"worker.{workers.queue}")

        def event() -> WorkerState | None:
            body = channel.basic_get(queue, auto_ack=True)[2]
            state = decode(body) if body is not None else None
            return state if isinstance(state, WorkerState) else None

        assert eventually(event, "an event once the exchange is there").finished == 1
    worker.signal(signal.SIGTERM)
    assert worker.exit_code() == 0


def test_json_logs_carry_the_task(workers: Workers) -> None:
    worker = workers.start("dots", WARREN_LOG_FORMAT="json").ready()
    workers.publish("Hello")
    worker.wait_for_line(r'"message": " \[x\] Done", "task": "Hello"')


def children(worker: Worker) -> list[int]:
    path = Path(f"/proc/{worker.process.pid}/task/{worker.process.pid}/children")
    return [int(pid) for pid in path.read_text("utf-8").split()]


def wait_until_at_work(worker: Worker) -> None:
    eventually(lambda: worker.metric('tasks_total{outcome="done"}') > 50, "it is at work", every=0.01)
