"""`python -m warren_worker`: read the settings, start the parts, run the loop, end with the right exit code.

Exit codes: 0 after an orderly end, 1 after any other, 2 where a setting or the handler is wrong.
"""

import logging
import os
import signal
import sys
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING

from warren_contract.logs import configure_logging
from warren_contract.settings import BrokerSettings, SettingError
from warren_worker import fork_server
from warren_worker.attempt import log_task_ids
from warren_worker.lifecycle import Signals, reap
from warren_worker.settings import WorkerSettings

if TYPE_CHECKING:
    import socket

    import pika

    from warren_worker.executor import Executor
    from warren_worker.loop import Loop
    from warren_worker.process_executor import ProcessExecutor

log = logging.getLogger("warren_worker")

EXIT_FAILED, EXIT_USAGE = 1, 2


def main(environ: Mapping[str, str]) -> int:
    """Run a worker until it is told to end; the exit code."""
    begun = time.monotonic()
    with Signals() as signals:
        try:
            settings = WorkerSettings.load(environ)
            BrokerSettings.load(environ)  # a mistake shows at once; each connect reads it again
            configure_logging(environ)
            log_task_ids()
        except SettingError as error:
            return _usage(str(error))
        # Whatever a task's sender wrote, the line about it is printed.
        sys.stdout.reconfigure(line_buffering=True, errors="backslashreplace")  # type: ignore[union-attr]  # a text stream
        server = None
        if settings.executor == "process":
            # Before pika and its like are imported, and before there is any thread or connection: see fork_server.
            server = fork_server.start(settings.handler, settings.recycling, signals.forget)
        return _run(environ, settings, signals, server, begun)


def _run(
    environ: Mapping[str, str],
    settings: WorkerSettings,
    signals: Signals,
    server: "tuple[int, socket.socket] | None",
    begun: float,
) -> int:
    # Imported here, beside the fork server that imports the handler: pika takes longer than all the rest.
    from warren_worker.lean_pika import import_pika  # noqa: PLC0415

    import_pika()
    from warren_contract.connection import connection_parameters  # noqa: PLC0415
    from warren_worker.broker_link import BrokerLink  # noqa: PLC0415
    from warren_worker.health import HealthServer  # noqa: PLC0415
    from warren_worker.loop import Loop  # noqa: PLC0415
    from warren_worker.worker import Worker  # noqa: PLC0415

    loop = Loop()

    def parameters(purpose: str) -> "pika.ConnectionParameters":
        broker = BrokerSettings.load(environ)
        # Blocked for ever is fine: consuming is never blocked, events are dropped meanwhile, and dead letters have a
        # limit. Heartbeats alone say that a broker is lost: a cut that is over sooner has no task in hand run again.
        name = f"worker {settings.name} {purpose}"
        found = connection_parameters(broker, name, blocked_timeout=None, unacknowledged_limit=None)
        if settings.heartbeat is not None:
            found.heartbeat = settings.heartbeat
        return found

    try:
        parameters("tasks")  # the certificates, too, are looked at once before all else
    except SettingError as error:
        return _usage(str(error))
    processes = None if server is None else _processes(loop, settings, server[1])
    executor = processes or _threads(loop, settings)
    worker = Worker(
        loop,
        settings,
        BrokerLink(loop, "tasks", lambda: parameters("tasks")),
        executor,
        BrokerLink(loop, "publish", lambda: parameters("publish")),
    )
    health = HealthServer(loop, {"/healthz": worker.healthz, "/readyz": worker.readyz, "/metrics": worker.metrics})
    try:
        port = health.start(settings.health_port)
    except OSError as error:
        return _usage(f"cannot listen on port WARREN_HEALTH_PORT={settings.health_port}: {error}")

    def on_signal(number: int) -> None:
        if number != signal.SIGCHLD:
            worker.drain(signal.Signals(number).name)
        elif processes is not None and server is not None and server[0] in reap():
            processes.server_ended()

    signals.attach(loop, on_signal)
    log.info(
        "worker %s starts, health on port %d, after %.0f ms", settings.name, port, 1000 * (time.monotonic() - begun)
    )
    worker.start()
    try:
        loop.start()
    except Exception:
        log.exception("the worker ends by an error of its own; the broker hands its tasks to others")
        return EXIT_FAILED
    if worker.sentence:
        return _usage(worker.sentence)
    log.info("worker %s ends with exit code %d", settings.name, worker.exit_code)
    return worker.exit_code


def _processes(loop: "Loop", settings: WorkerSettings, control: "socket.socket") -> "ProcessExecutor":
    from warren_worker.process_executor import ProcessExecutor  # noqa: PLC0415

    return ProcessExecutor(loop, control, settings.concurrency)


def _threads(loop: "Loop", settings: WorkerSettings) -> "Executor":
    from warren_worker.thread_executor import ThreadExecutor  # noqa: PLC0415

    return ThreadExecutor(loop, settings.handler, settings.concurrency)


def _usage(sentence: str) -> int:
    print(f"warren-worker: {sentence}", file=sys.stderr)
    return EXIT_USAGE


if __name__ == "__main__":
    code = EXIT_FAILED
    try:
        code = main(os.environ)
    except Exception:
        # Said here, since what follows ends the process before the interpreter could.
        log.exception("the worker cannot start")
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        # Not sys.exit: that would wait for a name lookup that hangs, or for a handler's thread that never returns.
        os._exit(code)
