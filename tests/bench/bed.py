"""An installed Warren to measure on, and the loads that are played on it."""

import os
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from string import Template

from kube import Kube
from loads import Load
from recording import Recording, Task
from release import Release, connect, install, remove
from watching import broker_port, recording

HERE = Path(__file__).resolve().parent
VALUES = HERE / "values.yaml"

CLIENTS = 16
"""Submits at the same time."""


@dataclass(frozen=True, slots=True)
class Queue:
    """A queue of values.yaml that loads are played on.

    Attributes:
        name: in the broker.
        dns_name: the same as Kubernetes writes it.
        backlog_per_worker: its target, for scalers that know no other.
        max_replicas: its most workers.
    """

    name: str
    dns_name: str
    backlog_per_worker: int
    max_replicas: int = 12

    @property
    def deployment(self) -> str:
        """Its workers."""
        return f"warren-worker-{self.dns_name}"


BURST = Queue("task_queue", "task-queue", 5)
MIXED = Queue("mixed", "mixed", 1)
STEADY = Queue("steady", "steady", 5)
SINGLE = Queue("single", "single", 1, 1)
"""Scaled by hand."""

QUEUES = (BURST, MIXED, STEADY)


@dataclass(frozen=True)
class Bed:
    """What is measured on.

    Attributes:
        release: the installed Warren.
        scaler: what scales in Warren's place; empty for Warren itself.
    """

    release: Release
    scaler: str = ""


def placeholders(kube: Kube, queue: Queue, amqp_url: str) -> dict[str, str]:
    """What a scaler's manifest or program may ask for; in manifests as `${NAME}`."""
    return {
        "NAMESPACE": kube.namespace,
        "DEPLOYMENT": queue.deployment,
        "QUEUE": queue.name,
        "NAME": queue.dns_name,
        "BACKLOG_PER_WORKER": str(queue.backlog_per_worker),
        "MAX_REPLICAS": str(queue.max_replicas),
        "AMQP_URL": amqp_url,
    }


def filled(text: str, values: Mapping[str, str]) -> str:
    """A manifest with its placeholders filled in; `$$` stands for a dollar sign.

    Raises:
        ValueError: the manifest asks for something else.
    """
    try:
        return Template(text).substitute(values)
    except (KeyError, ValueError) as error:
        raise ValueError(f"the scaler's manifest: placeholder {error}: there are {', '.join(values)}") from error


@contextmanager
def bed(kube: Kube, images: Path, scaler: str = "", options: Sequence[str] = ()) -> Iterator[Bed]:
    """Install Warren into the namespace, which is removed in the end.

    Args:
        kube: the namespace.
        images: values that name the images.
        scaler: a manifest, or a Python program and its arguments, that scales in Warren's place; Warren then only
            recommends.
        options: further ones for `helm upgrade --install`.
    """
    recommend = [word for queue in QUEUES for word in ("--set", f"queues.{queue.name}.mode=Recommend")]
    remove(kube)
    try:
        install(kube, VALUES, "--values", str(images), *(recommend if scaler else ()), *options)
        # What Warren does not scale begins with the one worker that Kubernetes gives a Deployment.
        for queue in (SINGLE, *(QUEUES if scaler else ())):
            kube.kubectl("scale", f"deployment/{queue.deployment}", "--replicas=0")
        with connect(kube) as release, ExitStack() as stack:
            if scaler:
                stack.enter_context(other_scaler(kube, shlex.split(scaler)))
            yield Bed(release, scaler)
    finally:
        remove(kube)


@contextmanager
def other_scaler(kube: Kube, words: Sequence[str]) -> Iterator[None]:
    """Have something else scale all queues: a manifest is applied for each of them, a program started."""
    path = Path(words[0])
    with ExitStack() as stack:
        port, user, password = stack.enter_context(broker_port(kube))
        inside = f"amqp://{user}:{password}@warren-rabbitmq.{kube.namespace}.svc:5672/"
        outside = f"amqp://{user}:{password}@127.0.0.1:{port}/"
        for queue in QUEUES:
            if path.suffix == ".py":
                environ = {f"BENCH_{name}": value for name, value in placeholders(kube, queue, outside).items()}
                process = subprocess.Popen([sys.executable, *words], env={**os.environ, **kube.environ, **environ})
                stack.callback(process.wait, timeout=10)
                stack.callback(process.terminate)
            else:
                manifest = filled(path.read_text(), placeholders(kube, queue, inside))
                kube.kubectl("apply", "--filename", "-", stdin=manifest)
                stack.callback(
                    kube.kubectl, "delete", "--filename", "-", "--ignore-not-found", "--wait=false", stdin=manifest
                )
        yield


def play(release: Release, queue: Queue, load: Load) -> Recording:
    """Play a load from no worker until there is none again, and record it."""
    with recording(release, queue.name, queue.dns_name) as recorder:
        return recorder.complete(submit(release, queue, load))


def submit(release: Release, queue: Queue, load: Load) -> list[Task]:
    """Submit each task at its time."""
    began = time.time()

    def one(seconds: int) -> Task:
        task_id = release.submit("." * seconds, queue.name)
        return Task(task_id, float(seconds), time.time())

    with ThreadPoolExecutor(CLIENTS) as pool:
        sent: list[Future[Task]] = []
        for arrival in load.arrivals:
            time.sleep(max(0.0, began + arrival.at - time.time()))
            sent.append(pool.submit(one, arrival.seconds))
        return [future.result() for future in sent]
