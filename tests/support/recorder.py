"""What happens to a namespace's pods, ReplicaSets and Deployments, as the API server tells it, with the times."""

import json
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from kube import Kube
from verdicts import Removal, Step
from waiting import eventually

WATCHED = {"pods": "api/v1", "replicasets": "apis/apps/v1", "deployments": "apis/apps/v1"}

WATCH_SECONDS = 1800
"""For which the API server keeps a watch open: longer than any test."""


@dataclass(frozen=True, slots=True)
class Happened:
    """One event of a watch.

    Attributes:
        kind: plural.
        what: ADDED, MODIFIED or DELETED.
        body: of the object.
        at: Unix time in seconds at which it was told.
    """

    kind: str
    what: str
    body: dict[str, Any]
    at: float

    @property
    def name(self) -> str:
        """Of the object."""
        return str(self.body["metadata"]["name"])


class Recorder:
    """Records until it is stopped; use `recording`."""

    def __init__(self, kube: Kube) -> None:
        self._kube = kube
        self._events: list[Happened] = []
        self._watches: list[tuple[subprocess.Popen[str], threading.Thread]] = []

    def start(self) -> None:
        """Begin to watch, and wait until what is there has been told."""
        for kind, api in WATCHED.items():
            path = f"/{api}/namespaces/{self._kube.namespace}/{kind}?watch=1&timeoutSeconds={WATCH_SECONDS}"
            process = subprocess.Popen(
                ["kubectl", "get", "--raw", path], env=self._kube.environ, stdout=subprocess.PIPE, text=True
            )
            thread = threading.Thread(target=self._read, args=(kind, process), daemon=True)
            thread.start()
            self._watches.append((process, thread))
        eventually(lambda: {event.kind for event in self.events()} == {*WATCHED}, "all kinds are watched")

    def stop(self) -> None:
        """End the watches."""
        for process, thread in self._watches:
            process.terminate()
            thread.join(10)
            process.communicate(timeout=10)

    def events(self) -> list[Happened]:
        """All so far."""
        return list(self._events)

    def removals(self) -> list[Removal]:
        """When each worker's pod that was asked to end was so, as far as that is known: not later than told here."""
        found: dict[str, Removal] = {}
        for event in self.events():
            metadata = event.body["metadata"]
            if event.kind != "pods" or event.name in found or "warren.dev/queue" not in metadata.get("labels", {}):
                continue
            asked = metadata.get("deletionTimestamp")
            if asked is not None:
                # It says when the grace is over, in whole seconds.
                grace = metadata.get("deletionGracePeriodSeconds", 0)
                latest = datetime.fromisoformat(asked).timestamp() - grace + 1
                found[event.name] = Removal(event.name, min(event.at, latest))
            elif event.what == "DELETED":
                found[event.name] = Removal(event.name, event.at)
        return list(found.values())

    def steps(self) -> list[Step]:
        """The changes of the Deployments' replicas."""
        known: dict[str, int] = {}
        found = []
        for event in self.events():
            if event.kind != "deployments" or event.what == "DELETED":
                continue
            replicas = int(event.body["spec"].get("replicas", 1))
            before = known.get(event.name, replicas)
            if before != replicas:
                found.append(Step(event.name, before, replicas, event.at))
            known[event.name] = replicas
        return found

    def rollouts(self, deployment: str) -> list[tuple[float, float]]:
        """The spans of time in which more than one ReplicaSet of a Deployment had pods."""
        having: set[str] = set()
        spans: list[tuple[float, float]] = []
        since: float | None = None
        for event in self.events():
            owners = event.body["metadata"].get("ownerReferences") or ()
            if event.kind != "replicasets" or deployment not in [owner["name"] for owner in owners]:
                continue
            status = event.body.get("status") or {}
            if event.what != "DELETED" and (status.get("replicas") or event.body["spec"].get("replicas")):
                having.add(event.name)
            else:
                having.discard(event.name)
            if len(having) > 1 and since is None:
                since = event.at
            elif len(having) < 2 and since is not None:
                spans.append((since, event.at))
                since = None
        return spans if since is None else [*spans, (since, time.time())]

    def _read(self, kind: str, process: "subprocess.Popen[str]") -> None:
        assert process.stdout is not None
        for line in process.stdout:
            event = json.loads(line)
            self._events.append(Happened(kind, event["type"], event["object"], time.time()))


@contextmanager
def recording(kube: Kube) -> Iterator[Recorder]:
    """A recorder for the time of a block."""
    recorder = Recorder(kube)
    try:
        recorder.start()
        yield recorder
    finally:
        recorder.stop()
