"""The worker's settings, read once at start."""

import platform
from collections.abc import Mapping
from dataclasses import dataclass

from warren_contract.names import check_queue_name
from warren_contract.settings import SettingError, duration, memory, one_of, setting, whole_number
from warren_worker.recycling import Recycling

CONSUMER_TIMEOUT_MARGIN = 300.0
"""Seconds between a task's hard limit and the broker's consumer timeout: the worker must be the first to act."""

GRACE_MARGIN = 30.0
"""Seconds the last task gets beyond its hard limit when draining; the pod's own grace is longer by as much again."""

MAX_CONCURRENCY = 100
"""Tasks at once in one worker; a process for each. Beyond that, more workers are the better answer."""

MAX_ATTEMPTS = 1_000_000

DEFAULT_MAX_BODY = 16_777_216
"""RabbitMQ's own default for the largest message."""

MAX_MESSAGE = 536_870_912
"""Bytes; RabbitMQ takes no longer message, whatever it is told."""

LONGEST_HEARTBEAT = 3600.0

MAX_NAME = 253
"""Characters; a pod's name has no more. The broker takes no connection whose name is thousands of them long."""


@dataclass(frozen=True, slots=True)
class WorkerSettings:
    """What a worker needs to know besides its broker.

    Attributes:
        queue: it consumes.
        handler: `dots`, `exec`, `http` or `module:function`.
        concurrency: tasks at once, and the prefetch.
        executor: `process` or `thread`.
        time_limit: hard limit of one task, in seconds.
        max_attempts: failures until dead letter.
        name: its name in events and in the broker's list of connections.
        health_port: TCP port of `/healthz`, `/readyz`, `/metrics`; 0 lets the system choose, and a log line tells.
        max_body: bytes that a task's body may have; a longer one becomes a dead letter unrun.
        recycling: when a handler's process makes way for a fresh one.
        grace: seconds that a draining worker gives its tasks.
        consumer_timeout: seconds after which the broker takes back a task that was not acknowledged.
        heartbeat: seconds between AMQP heartbeats; None leaves it to the contract.
    """

    queue: str
    handler: str
    concurrency: int
    executor: str
    time_limit: float
    max_attempts: int
    max_body: int
    name: str
    health_port: int
    recycling: Recycling
    grace: float
    consumer_timeout: float
    heartbeat: int | None = None

    @classmethod
    def load(cls, environ: Mapping[str, str]) -> "WorkerSettings":
        """Read the `WARREN_…` variables.

        Raises:
            SettingError: a setting is missing or wrong.
        """
        time_limit = setting(environ, "WARREN_TIME_LIMIT", duration, 25 * 60.0)
        heartbeat = setting(environ, "WARREN_HEARTBEAT", _heartbeat, 0)
        handler = setting(environ, "WARREN_HANDLER", str, "dots")
        executor = setting(environ, "WARREN_EXECUTOR", one_of("process", "thread"), "process")
        if handler == "exec" and executor != "process":
            raise SettingError("WARREN_EXECUTOR=thread cannot end a program: use process with WARREN_HANDLER=exec")
        return cls(
            queue=setting(environ, "WARREN_QUEUE", check_queue_name),
            handler=handler,
            concurrency=setting(environ, "WARREN_CONCURRENCY", whole_number(1, MAX_CONCURRENCY), 1),
            executor=executor,
            time_limit=time_limit,
            max_attempts=setting(environ, "WARREN_MAX_ATTEMPTS", whole_number(1, MAX_ATTEMPTS), 5),
            max_body=setting(environ, "WARREN_MAX_BODY", whole_number(1, MAX_MESSAGE), DEFAULT_MAX_BODY),
            name=setting(environ, "WARREN_WORKER_NAME", _name, platform.node() or "worker"),
            health_port=setting(environ, "WARREN_HEALTH_PORT", whole_number(0, 65535), 8081),
            recycling=Recycling(
                max_tasks=setting(environ, "WARREN_MAX_TASKS_PER_CHILD", whole_number(0, 2**31), 0),
                max_memory=setting(environ, "WARREN_MAX_MEMORY_PER_CHILD", memory, 0),
            ),
            grace=setting(environ, "WARREN_GRACE", duration, time_limit + GRACE_MARGIN),
            consumer_timeout=setting(
                environ, "WARREN_CONSUMER_TIMEOUT", duration, time_limit + CONSUMER_TIMEOUT_MARGIN
            ),
            heartbeat=heartbeat or None,
        )


def _name(text: str) -> str:
    if len(text) > MAX_NAME or not text.isprintable():
        raise ValueError(f"write 1 to {MAX_NAME} printable characters, such as the pod's name")
    return text


def _heartbeat(text: str) -> int:
    seconds = duration(text)
    if seconds != int(seconds) or seconds > LONGEST_HEARTBEAT:
        raise ValueError("write whole seconds up to 1h, such as 30s")
    return int(seconds)
