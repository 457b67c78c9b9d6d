"""Settings, metrics and the answers of the health server."""

import socket
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import pytest
from hypothesis import given
from hypothesis import strategies as st

from warren_contract.settings import SettingError
from warren_worker.health import CLIENT_LIMIT, MAX_CLIENTS, Answer, HealthServer, respond
from warren_worker.loop import Loop
from warren_worker.metrics import Counters, Gauges, render
from warren_worker.settings import WorkerSettings
from warren_worker.verdict import DONE, INTERRUPTED, Failed, Verdict

PAGES = {"/healthz": lambda: Answer(200, "ok\n"), "/readyz": lambda: Answer(503, "waiting\n")}


def test_the_defaults_hang_together() -> None:
    settings = WorkerSettings.load({"WARREN_QUEUE": "task_queue"})
    assert (settings.handler, settings.executor, settings.concurrency, settings.max_attempts) == (
        "dots",
        "process",
        1,
        5,
    )
    assert settings.time_limit == 25 * 60
    # The worker gives up before the pod's grace (limit + 60 s), and kills a task before the broker takes it back.
    assert settings.time_limit < settings.grace < settings.time_limit + 60
    assert settings.consumer_timeout == settings.time_limit + 300


def test_what_depends_on_the_time_limit_follows_it() -> None:
    settings = WorkerSettings.load({"WARREN_QUEUE": "q", "WARREN_TIME_LIMIT": "1h", "WARREN_GRACE": "5s"})
    assert (settings.grace, settings.consumer_timeout) == (5, 3900)


@pytest.mark.parametrize(
    "wrong",
    [
        {"WARREN_QUEUE": ""},
        {"WARREN_QUEUE": "warren.tasks"},
        {"WARREN_CONCURRENCY": "101"},
        {"WARREN_CONCURRENCY": "-1"},
        {"WARREN_MAX_ATTEMPTS": "0"},
        {"WARREN_TIME_LIMIT": "0s"},
        {"WARREN_HEALTH_PORT": "65536"},
        {"WARREN_HEARTBEAT": "2h"},
    ],
)
def test_a_mistake_names_its_setting(wrong: dict[str, str]) -> None:
    (name,) = wrong
    with pytest.raises(SettingError, match=name):
        WorkerSettings.load({"WARREN_QUEUE": "q", **wrong})


@pytest.mark.parametrize(
    ("request_line", "status"),
    [
        (b"GET /healthz HTTP/1.1\r\n\r\n", 200),
        (b"GET /healthz?verbose=1 HTTP/1.1\r\n\r\n", 200),
        (b"HEAD /readyz HTTP/1.0\r\n\r\n", 503),
        (b"GET / HTTP/1.1\r\n\r\n", 404),
        (b"POST /healthz HTTP/1.1\r\n\r\n", 405),
        (b"\xff\xfe\r\n\r\n", 400),
        (b"GET /healthz\r\n\r\n", 400),
    ],
)
def test_requests_get_their_answer(request_line: bytes, status: int) -> None:
    head, _, body = respond(request_line, PAGES).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 %d " % status)
    assert b"Content-Length: " in head
    assert (body == b"") == request_line.startswith(b"HEAD")


def test_clients_that_say_nothing_keep_no_probe_out() -> None:
    loop = Loop()
    server = HealthServer(loop, PAGES)
    port = server.start(0)
    with ExitStack() as stack:
        for _ in range(MAX_CLIENTS):
            stack.enter_context(socket.create_connection(("127.0.0.1", port)))

        def probe() -> bytes:
            try:
                with socket.create_connection(("127.0.0.1", port), timeout=CLIENT_LIMIT) as connection:
                    connection.sendall(b"GET /healthz HTTP/1.1\r\n\r\n")
                    return connection.recv(4096)
            finally:
                loop.add_callback(loop.stop)

        answered = stack.enter_context(ThreadPoolExecutor(1)).submit(probe)
        loop.start()
        assert answered.result().startswith(b"HTTP/1.1 200 ")
    server.close()
    loop.close()


@given(st.binary(max_size=500))
def test_any_bytes_get_an_answer(request_bytes: bytes) -> None:
    assert respond(request_bytes, PAGES).startswith(b"HTTP/1.1 ")


def test_metrics_count_what_became_of_the_attempts() -> None:
    counters = Counters()
    for outcome, verdict, seconds, settled in (
        (DONE, Verdict.ACK, 2.0, True),
        (DONE, Verdict.ACK, 1.0, False),
        (Failed("TimeLimit", ""), Verdict.RETRY, 3.0, True),
        (Failed("Crash", ""), Verdict.DEAD, 4.0, True),
        (INTERRUPTED, Verdict.RETURN, 50.0, True),
    ):
        counters.count(outcome, seconds)
        counters.settle(verdict, settled=settled)
    text = render(counters, Gauges("task_queue", 1, 2, connected=True, draining=False, reconnects=3, started_at=5.0))
    lines = text.splitlines()
    for line in (
        'warren_worker_tasks_total{queue="task_queue",outcome="done"} 1',
        'warren_worker_tasks_total{queue="task_queue",outcome="retried"} 1',
        'warren_worker_tasks_total{queue="task_queue",outcome="dead"} 1',
        'warren_worker_tasks_total{queue="task_queue",outcome="returned"} 1',
        'warren_worker_tasks_total{queue="task_queue",outcome="dropped"} 1',
        'warren_worker_task_seconds_sum{queue="task_queue"} 10.000000',
        'warren_worker_task_seconds_count{queue="task_queue"} 4',
        'warren_worker_timed_out_total{queue="task_queue"} 1',
        'warren_worker_crashes_total{queue="task_queue"} 1',
        'warren_worker_reconnects_total{queue="task_queue"} 3',
        'warren_worker_running{queue="task_queue"} 1',
    ):
        assert line in lines
    names = {line.split("{")[0] for line in lines if not line.startswith("#")}
    typed = {line.split()[2] for line in lines if line.startswith("# TYPE")}
    assert {name.removesuffix("_sum").removesuffix("_count") for name in names} == typed
