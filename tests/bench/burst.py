"""The burst from zero: 60 tasks of two seconds, twelve workers at most, nobody there at the start.

Ideal is the work spread over all workers from the first moment: 60 × 2 s / 12 = 10 s. What comes on top is reaction,
pod start and an uneven end.
"""

import json
import subprocess
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Self

from kube import Kube
from release import Release
from waiting import eventually

TASKS = 60
SECONDS_EACH = 2
MAX_WORKERS = 12
IDEAL = TASKS * SECONDS_EACH / MAX_WORKERS


@dataclass(frozen=True)
class BurstResult:
    """What one burst took.

    Attributes:
        first_patch: seconds from the first confirm until the Deployment asked for workers.
        first_ready: seconds from the first confirm until a worker was ready.
        done: seconds from the first confirm until no task was left.
        zero: seconds from the end of the last task until the last pod was gone.
        pod_seconds: sum over all workers from their creation to their end.
        peak: most workers asked for.
    """

    first_patch: float
    first_ready: float
    done: float
    zero: float
    pod_seconds: float
    peak: int

    @property
    def done_ratio(self) -> float:
        """Time to the end, against the ideal."""
        return self.done / IDEAL

    @property
    def pod_seconds_ratio(self) -> float:
        """Pod-seconds for each second of work."""
        return self.pod_seconds / (TASKS * SECONDS_EACH)


@dataclass
class Watch:
    """Follows `kubectl get --watch` of one kind and keeps when each object was first and last seen.

    Attributes:
        born: name → Unix time at which it was first seen: within milliseconds of its creation, where the API server's
            own stamp has whole seconds.
        ready: name → Unix time at which it was first seen ready.
        gone: name → Unix time at which it was seen deleted.
        replicas: (Unix time, spec.replicas) of each change, for Deployments.
    """

    kube: Kube
    kind: str
    selector: str
    born: dict[str, float] = field(default_factory=dict)
    ready: dict[str, float] = field(default_factory=dict)
    gone: dict[str, float] = field(default_factory=dict)
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
            self._note(event["type"], event["object"], time.time())

    def _note(self, kind: str, found: dict[str, object], now: float) -> None:
        meta, status, spec = (found.get(part) or {} for part in ("metadata", "status", "spec"))
        assert isinstance(meta, dict)
        assert isinstance(status, dict)
        assert isinstance(spec, dict)
        name = meta["name"]
        self.born.setdefault(name, now)
        if kind == "DELETED":
            self.gone.setdefault(name, now)
        if any(entry["type"] == "Ready" and entry["status"] == "True" for entry in status.get("conditions", [])):
            self.ready.setdefault(name, now)
        if "replicas" in spec and (not self.replicas or self.replicas[-1][1] != spec["replicas"]):
            self.replicas.append((now, int(spec["replicas"])))


def burst(release: Release, queue: str = "task_queue", name: str = "task-queue") -> BurstResult:
    """Run one burst against workers that are at zero, and wait until they are at zero again."""
    selector = f"warren.dev/queue={name}"
    release.wait_until_drained(queue)
    eventually(lambda: not release.kube.get("pods", "--selector", selector), "no worker is there", limit=180, every=0.5)
    with Watch(release.kube, "pods", selector) as pods, Watch(release.kube, "deployments", selector) as deployments:
        eventually(lambda: deployments.replicas, "the watch runs")
        before = len(deployments.replicas)
        with ThreadPoolExecutor(16) as pool:
            first = pool.submit(release.submit, "burst" + "." * SECONDS_EACH, queue)
            first.result()
            confirmed = time.time()
            for rest in [pool.submit(release.submit, "burst" + "." * SECONDS_EACH, queue) for _ in range(TASKS - 1)]:
                rest.result()
        eventually(lambda: release.drained(queue), "all tasks are done", limit=300, every=0.05)
        done = time.time()
        eventually(lambda: pods.born and set(pods.gone) == set(pods.born), "all workers are gone", limit=300)
    changes = deployments.replicas[before:]
    return BurstResult(
        first_patch=changes[0][0] - confirmed,
        first_ready=min(pods.ready.values()) - confirmed,
        done=done - confirmed,
        zero=max(pods.gone.values()) - done,
        pod_seconds=sum(pods.gone[name] - pods.born[name] for name in pods.born),
        peak=max(count for _, count in changes),
    )
