"""Watches a release while something runs on it: pods and replicas through kubectl, tasks through the workers' reports.

Whoever scales, Warren or something else: what is recorded is the same.
"""

import json
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, Self

import pika
from kube import Kube
from recording import Delivery, Pod, Recording, Task
from release import Release
from waiting import eventually

from warren_contract.events import WorkerState, decode
from warren_contract.names import EVENTS_EXCHANGE

READ_EVERY = 0.25
"""Seconds between two readings of the backlog."""

QUIET_LIMIT = 900.0
"""Seconds for the tasks to be done and the workers to be gone; a scaler with long periods needs minutes."""


@dataclass
class Watch:
    """Follows `kubectl get --watch` of one kind.

    Attributes:
        pods: by name, for pods.
        replicas: (Unix time, spec.replicas) of each change, for Deployments.
    """

    kube: Kube
    kind: str
    selector: str
    pods: dict[str, Pod] = field(default_factory=dict)
    replicas: list[tuple[float, int]] = field(default_factory=list)

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(
            [
                *("kubectl", "--namespace", self.kube.namespace, "get", self.kind, "--selector", self.selector),
                *("--watch", "--output-watch-events", "--output", "json"),
            ],
            env=self.kube.environ,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.wait(timeout=10)
        self._thread.join(timeout=10)

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            event = json.loads(line)  # one event a line
            self.note(event["type"], event["object"], time.time())

    def note(self, kind: str, found: dict[str, Any], now: float) -> None:
        """Take in one event of the watch."""
        if "replicas" in (spec := found.get("spec", {})):
            if not self.replicas or self.replicas[-1][1] != spec["replicas"]:
                self.replicas.append((now, int(spec["replicas"])))
            return
        meta = found["metadata"]
        pod = self.pods.get(meta["name"]) or Pod(meta["name"], now)
        conditions = found.get("status", {}).get("conditions", [])
        if pod.ready is None and any(item["type"] == "Ready" and item["status"] == "True" for item in conditions):
            pod = replace(pod, ready=now)
        if pod.ending is None and meta.get("deletionTimestamp"):
            pod = replace(pod, ending=now)
        if kind == "DELETED" and pod.gone is None:
            pod = replace(pod, gone=now)
        self.pods[pod.name] = pod


class Tap:
    """Listens to what the workers of a queue report, and reads its backlog, on a connection of its own.

    Attributes:
        deliveries: all that were told.
        states: worker → its latest report.
        ready: (Unix time, tasks that wait).
        listening: set once nothing can be missed any more.
    """

    def __init__(self, port: int, username: str, password: str, queue: str) -> None:
        credentials = pika.PlainCredentials(username, password)
        self._parameters = pika.ConnectionParameters("127.0.0.1", port, credentials=credentials, heartbeat=60)
        self._queue = queue
        self._stop = threading.Event()
        self.listening = threading.Event()
        self.deliveries: set[Delivery] = set()
        self.states: dict[str, WorkerState] = {}
        self.ready: list[tuple[float, int]] = []

    def __enter__(self) -> Self:
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        assert self.listening.wait(30), "the broker is not reached through its port-forward"
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(timeout=10)

    @property
    def finished(self) -> int:
        """Tasks that the workers have done."""
        return sum(state.finished for state in list(self.states.values()))

    def _run(self) -> None:
        connection = pika.BlockingConnection(self._parameters)
        try:
            channel = connection.channel()
            events = channel.queue_declare("", exclusive=True).method.queue
            channel.queue_bind(events, EVENTS_EXCHANGE, f"worker.{self._queue}")
            channel.basic_consume(events, self._heard, auto_ack=True)
            while not self._stop.is_set():
                count = channel.queue_declare(self._queue, passive=True).method.message_count
                self.ready.append((time.time(), count))
                self.listening.set()
                connection.process_data_events(READ_EVERY)
        finally:
            connection.close()

    def _heard(self, _channel: object, _method: object, _properties: object, body: bytes) -> None:
        state = decode(body)
        if isinstance(state, WorkerState):
            known = self.states.get(state.worker)
            if known is None or known.at <= state.at:
                self.states[state.worker] = state
            self.deliveries |= {Delivery(task.id, state.worker, task.since) for task in state.running}


@dataclass(frozen=True)
class Recorder:
    """Records one run.

    Attributes:
        pods, deployments: watches.
        tap: on the broker.
    """

    pods: Watch
    deployments: Watch
    tap: Tap

    def complete(self, tasks: list[Task]) -> Recording:
        """Wait until all of these tasks are done and all workers are gone; what was seen."""
        names = {task.id for task in tasks}
        tap = self.tap
        eventually(lambda: tap.finished >= len(names) and not tap.ready[-1][1], "all tasks are done", limit=QUIET_LIMIT)
        eventually(
            lambda: self.pods.pods and all(pod.gone for pod in list(self.pods.pods.values())),
            "all workers are gone",
            limit=QUIET_LIMIT,
            every=0.2,
        )
        return Recording(
            tasks=tuple(sorted(tasks, key=lambda task: task.confirmed)),
            deliveries=frozenset(item for item in tap.deliveries if item.task in names),
            pods=tuple(self.pods.pods.values()),
            replicas=tuple(self.deployments.replicas),
            ready=tuple(tap.ready),
            finished=tap.finished,
        )


@contextmanager
def broker_port(kube: Kube) -> Iterator[tuple[int, str, str]]:
    """A local port that leads to the release's broker, and who may read everything there: port, user, password."""
    secret = kube.kubectl(
        *("get", "secret", "warren-broker-operator", "--output"),
        "go-template={{.data.username | base64decode}} {{.data.password | base64decode}}",
    )
    user, _, password = secret.partition(" ")
    with kube.forward("service/warren-rabbitmq", 5672) as port:
        yield port, user, password


@contextmanager
def recording(release: Release, queue: str, name: str) -> Iterator[Recorder]:
    """Record what the workers of a queue do, beginning with none of them there.

    Args:
        release: the installed Warren.
        queue: its name in the broker.
        name: the same as Kubernetes writes it.
    """
    selector = f"warren.dev/queue={name}"
    eventually(
        lambda: not release.kube.get("pods", "--selector", selector), "no worker is there", limit=QUIET_LIMIT, every=0.5
    )
    with ExitStack() as stack:
        port, user, password = stack.enter_context(broker_port(release.kube))
        tap = stack.enter_context(Tap(port, user, password, queue))
        pods = stack.enter_context(Watch(release.kube, "pods", selector))
        deployments = stack.enter_context(Watch(release.kube, "deployments", selector))
        eventually(lambda: deployments.replicas, "the watch runs")
        yield Recorder(pods, deployments, tap)
