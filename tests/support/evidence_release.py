"""A release whose workers write down what they do, in a folder that the test reads through the producer's pod."""

import json
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from kube import Kube
from release import Release, connect
from verdicts import Run, read_runs

HANDLER = Path(__file__).resolve().parent / "evidence.py"
FOLDER = "/evidence"
WORKERS = "warren-worker-"
"""What stands before a queue's name in the name of its Deployment."""


def values(queues: Iterable[str]) -> str:
    """Values of the chart, as YAML: these queues, each with a worker for each task, six at most.

    What the pods ask for is little, so that two cores have room for all of them.
    """
    claim = {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {"name": "evidence"},
        "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "64Mi"}}},
    }
    code = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": "evidence"},
        "data": {HANDLER.name: HANDLER.read_text("utf-8")},
    }
    volumes: list[dict[str, Any]] = [{"name": "evidence", "persistentVolumeClaim": {"claimName": "evidence"}}]
    mounts: list[dict[str, Any]] = [{"name": "evidence", "mountPath": FOLDER}]
    worker: dict[str, Any] = {
        "handler": "evidence:work",
        "env": {"WARREN_EVIDENCE": FOLDER},
        "replicas": {"min": 0, "max": 6},
        "target": {"backlogPerWorker": 1},
        "resources": {"requests": {"cpu": "5m", "memory": "32Mi"}, "limits": {"memory": "256Mi"}},
        "extraVolumes": [*volumes, {"name": "code", "configMap": {"name": "evidence"}}],
        "extraVolumeMounts": [*mounts, {"name": "code", "mountPath": "/app"}],
    }
    return yaml.safe_dump(
        {
            "queues": {"task_queue": None, **{queue: {} for queue in queues}},
            "worker": worker,
            "producer": {"extraVolumes": volumes, "extraVolumeMounts": mounts},
            "extraObjects": [claim, code],
        }
    )


@dataclass(frozen=True)
class Evidence:
    """The release, and what its workers wrote down.

    Attributes:
        release: installed.
    """

    release: Release

    @property
    def kube(self) -> Kube:
        """Its namespace."""
        return self.release.kube

    def runs(self, tasks: Collection[str]) -> list[Run]:
        """All runs of these tasks so far."""
        return [run for run in read_runs(self._in_producer(READ)) if run.task in tasks]

    def open_gate(self, name: str) -> None:
        """Let the tasks go on that wait at this gate."""
        self._in_producer(f"import pathlib; pathlib.Path('{FOLDER}/{name}').touch()")

    def submit(self, queue: str, text: str) -> str:
        """Submit a task and return its id."""
        return self.release.submit(text, queue)

    def drained(self, queues: Iterable[str]) -> bool:
        """Whether the broker holds no task of these queues."""
        return all(self.release.drained(queue) for queue in queues)

    def worker_pods(self, queue: str) -> dict[str, str]:
        """Uids of a queue's worker pods by name; with ` ending` after those that have been asked to end."""
        pods = [pod["metadata"] for pod in self.kube.get("pods", "--selector", f"warren.dev/queue={queue}")]
        return {pod["name"]: pod["uid"] + " ending" * ("deletionTimestamp" in pod) for pod in pods}

    def status(self, queue: str) -> dict[str, Any]:
        """The WorkQueue's status."""
        found = self.release.work_queue(queue).get("status", {})
        assert isinstance(found, dict)
        return found

    def condition(self, queue: str, kind: str = "Ready") -> dict[str, Any]:
        """A condition of a WorkQueue; empty while it has none."""
        rows = self.status(queue).get("conditions", [])
        return next((row for row in rows if row["type"] == kind), {})

    def _in_producer(self, program: str) -> str:
        return self.kube.kubectl("exec", "deployment/warren-producer", "--", "python", "-c", program)


READ = f"""
import pathlib
for file in pathlib.Path({json.dumps(FOLDER)}).glob("*.jsonl"):
    print(file.read_text().rpartition("\\n")[0])
"""


@contextmanager
def evidence_of(kube: Kube) -> Iterator[Evidence]:
    """A client of the installed release."""
    with connect(kube) as release:
        yield Evidence(release)
