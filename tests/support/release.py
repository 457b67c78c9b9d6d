"""An installed Warren, as its users meet it: HTTP through a port-forward, kubectl, AMQP for foreign clients."""

import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from kube import Kube
from waiting import eventually

TUTORIAL = Path(__file__).resolve().parent / "tutorial"

ROLLOUT_LIMIT = 300.0
"""Seconds for all of Warren to become ready, its brokers included; 20 are normal for one on two idle cores."""


@dataclass(frozen=True)
class Release:
    """A release of the chart named `warren`.

    Attributes:
        kube: its namespace.
        http: client of its producer, with the admin token.
    """

    kube: Kube
    http: httpx.Client

    def submit(self, text: str, queue: str = "task_queue") -> str:
        """Submit a task and return its id; the producer's word is that it is confirmed."""
        answer = self.http.post(f"/v1/queues/{queue}/tasks", content=text)
        assert answer.status_code == 202, f"{answer.status_code} {answer.text}"
        task_id = answer.json()["id"]
        assert isinstance(task_id, str)
        return task_id

    def queue(self, queue: str = "task_queue") -> dict[str, Any]:
        """The producer's view of a queue."""
        answer = self.http.get(f"/v1/queues/{queue}")
        assert answer.status_code == 200, f"{answer.status_code} {answer.text}"
        state = answer.json()
        assert isinstance(state, dict)
        return state

    def work_queue(self, name: str = "task-queue") -> dict[str, Any]:
        """The WorkQueue object."""
        found = self.kube.get("workqueue", name)
        assert isinstance(found, dict)
        return found

    def replicas(self, name: str = "task-queue") -> int:
        """Replicas that the Deployment of a queue's workers asks for."""
        return int(self.kube.get("deployment", f"warren-worker-{name}")["spec"]["replicas"])

    def workers(self, name: str = "task-queue") -> list[str]:
        """Names of a queue's worker pods that run and are not ending."""
        return sorted(
            pod["metadata"]["name"]
            for pod in self.kube.get("pods", "--selector", f"warren.dev/queue={name}")
            if pod["status"].get("phase") == "Running" and "deletionTimestamp" not in pod["metadata"]
        )

    def drained(self, queue: str = "task_queue") -> bool:
        """Whether the broker holds no task of the queue any more, in whatever state."""
        state = self.queue(queue)
        return not state["ready"] and not state["unacked"] and not state["delayed"]

    def wait_until_drained(self, queue: str = "task_queue", limit: float = 120.0) -> None:
        """Wait until the queue is empty; dead letters are another matter."""
        eventually(lambda: self.drained(queue), f"{queue} is drained", limit=limit, every=0.5)

    def wait_for_workers(self, count: int, name: str = "task-queue", limit: float = 120.0) -> list[str]:
        """Wait until exactly so many worker pods run, and return their names."""
        return eventually(
            lambda: (pods,) if len(pods := self.workers(name)) == count else None,
            f"{count} workers of {name}",
            limit=limit,
        )[0]

    def wait_until_nobody_works(self, name: str = "task-queue") -> None:
        """Wait until no worker pod is left, also none that is ending: until then it may still take a task."""
        eventually(
            lambda: not self.kube.get("pods", "--selector", f"warren.dev/queue={name}"), f"no pod works on {name}"
        )

    def log(self, pod: str) -> str:
        """What a pod has printed so far."""
        return self.kube.kubectl("logs", pod)


GONE_LIMIT = 300
"""Seconds for a namespace to go: its workers have their grace, and after an hour of faults a node may be slow."""


def install(kube: Kube, values: Path, *options: str) -> None:
    """`helm upgrade --install` the chart and wait until its parts are ready.

    Without Helm's own `--wait`: that would also wait for workers, of which there may rightly be none.
    """
    chart = Path(__file__).resolve().parent.parent.parent / "charts" / "warren"
    kube.run(
        *("helm", "upgrade", "--install", "warren", str(chart), "--namespace", kube.namespace, "--create-namespace"),
        *("--values", str(values), *options),
    )
    wait_until_ready(kube)


def remove(kube: Kube) -> None:
    """Uninstall, and delete the namespace with what is in it."""
    kube.run("helm", "uninstall", "warren", "--namespace", kube.namespace, "--ignore-not-found", "--wait")
    words = ("kubectl", "delete", "namespace", kube.namespace, "--ignore-not-found", f"--timeout={GONE_LIMIT}s")
    kube.run(*words, limit=GONE_LIMIT + 30)


def wait_until_ready(kube: Kube) -> None:
    """Wait until broker, producer and operator have rolled out."""
    for part in ("statefulset/warren-rabbitmq", "deployment/warren-producer", "deployment/warren-operator"):
        kube.kubectl("rollout", "status", part, f"--timeout={ROLLOUT_LIMIT:g}s", limit=ROLLOUT_LIMIT + 10)


def token(kube: Kube) -> str:
    """The admin token that the chart made."""
    return kube.kubectl("get", "secret", "warren-tokens", "--output", "go-template={{.data.admin | base64decode}}")


@contextmanager
def connect(kube: Kube) -> Iterator[Release]:
    """A client of the installed release."""
    with (
        kube.forward("service/warren-producer", 8080) as port,
        httpx.Client(
            base_url=f"http://127.0.0.1:{port}",
            headers={"Authorization": f"Bearer {token(kube)}"},
            timeout=30,
            transport=httpx.HTTPTransport(retries=6),  # of connecting: a port-forward may start again
        ) as http,
    ):
        yield Release(kube, http)


@dataclass
class Foreign:
    """One of the tutorial's programs at work.

    Attributes:
        process: the program.
        output: what it has printed so far.
    """

    process: "subprocess.Popen[str]"
    output: str = ""

    def wait_for(self, text: str) -> None:
        """Wait until it has printed a text."""
        eventually(lambda: text in self.output, f"the tutorial's program prints {text!r}", limit=30)

    def follow(self) -> None:
        """Read what it prints, until it ends."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.output += line


@contextmanager
def foreign(program: str, port: int, *arguments: str, **environ: str) -> Iterator[Foreign]:
    """Run one of the tutorial's programs against the broker behind a local port; it is ended with the block."""
    process = subprocess.Popen(
        [sys.executable, "-u", str(TUTORIAL / program), *arguments],
        env={"AMQP_PORT": str(port), **environ},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    running = Foreign(process)
    reader = threading.Thread(target=running.follow, daemon=True)
    reader.start()
    try:
        yield running
    finally:
        process.kill()
        reader.join(timeout=10)
        process.communicate(timeout=10)
