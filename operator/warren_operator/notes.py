"""Kubernetes Events: what is told, and as the API server takes it. All pure."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from warren_operator.policy import Decision
from warren_operator.resource import API_VERSION, KIND, WorkQueue, timestamp

COMPONENT = "warren-operator"


@dataclass(frozen=True, slots=True)
class Note:
    """A Kubernetes Event to be.

    Attributes:
        reason: one word.
        message: a sentence or two.
        warning: whether something is wrong.
    """

    reason: str
    message: str
    warning: bool = False


def scaled(decision: Decision, text: str) -> Note:
    """The Event for a change of replicas that was carried out."""
    word = "ScaledUp" if decision.replicas > decision.current else "ScaledDown"
    return Note(word, f"{decision.current} → {decision.replicas} workers: {text}")


def event_body(item: WorkQueue, note: Note, instance: str, now: datetime) -> dict[str, Any]:
    """The Event as the API server takes it."""
    at = timestamp(now)
    return {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {"generateName": f"{item.key.name[:200]}.", "namespace": item.key.namespace},
        "involvedObject": {
            "apiVersion": API_VERSION,
            "kind": KIND,
            "namespace": item.key.namespace,
            "name": item.key.name,
            "uid": item.uid,
        },
        "reason": note.reason,
        "message": note.message[:1024],
        "type": "Warning" if note.warning else "Normal",
        "firstTimestamp": at,
        "lastTimestamp": at,
        "count": 1,
        "source": {"component": COMPONENT},
        "reportingComponent": COMPONENT,
        "reportingInstance": instance[:128],
    }
