"""What runs in Kubernetes: Deployments, their ReplicaSets and pods, and whoever else scales them, as compact values."""

import asyncio
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from warren_operator.kube import Api
from warren_operator.mirror import Kind, Mirror
from warren_operator.resource import Key, WorkQueue
from warren_operator.work_queues import WorkQueues

DEPLOYMENTS = Kind("apis/apps/v1", "deployments")
REPLICA_SETS = Kind("apis/apps/v1", "replicasets")
PODS = Kind("api/v1", "pods")
AUTOSCALERS = Kind("apis/autoscaling/v2", "horizontalpodautoscalers")

DELETION_COST = "controller.kubernetes.io/pod-deletion-cost"

NOT_MADE = "FailedCreate"
"""Why a ReplicaSet has fewer pods than it should: the API server refuses them, as by a quota."""

CRASH_LOOP = "CrashLoopBackOff"

CRASHES = 2
"""Restarts from which on Kubernetes pauses before each further one. Between two pauses the container runs for a moment:
without this, its pod would be starting and failing by turns."""

PROVEN_AFTER = 30.0
"""Seconds of running after which a container without a readiness probe counts as up, once it has failed so often: such
a one is said to be ready from its first moment, also between two crashes."""

SOUND_FOR = 600.0
"""Seconds of running after which Kubernetes takes the next failure for the first again."""

LASTING = 5.0
"""Seconds from which on it is told that the cluster cannot be read. Until then it may be one request that was turned
away or one watch that was cut off, and to tell that of thousands of WorkQueues would be the worst answer to a busy API
server. Nobody is taken away meanwhile, either."""

FAILING_REASONS = frozenset(
    {
        CRASH_LOOP,
        "ImagePullBackOff",
        "ErrImagePull",
        "InvalidImageName",
        "ErrImageNeverPull",
        "CreateContainerConfigError",
        "CreateContainerError",
        "RunContainerError",
    }
)
"""Reasons of a waiting container that more pods of the same kind would meet as well."""


@dataclass(frozen=True, slots=True)
class Deployment:
    """A Deployment.

    Attributes:
        uid: owner of its ReplicaSets.
        replicas: asked for.
        settled: whether its controller has seen the present spec.
        refused: why pods of it cannot be made, in the API server's words; empty if they can.
    """

    uid: str
    replicas: int
    settled: bool
    refused: str = ""


@dataclass(frozen=True, slots=True)
class ReplicaSet:
    """A ReplicaSet of a Deployment.

    Attributes:
        uid: owner of its pods.
        owner: uid of the Deployment.
        replicas: asked for.
        pods: that it has, without those being deleted.
    """

    uid: str
    owner: str
    replicas: int
    pods: int


@dataclass(frozen=True, slots=True)
class Pod:
    """A pod of a ReplicaSet.

    Attributes:
        name: of the pod.
        owner: uid of the ReplicaSet.
        created: Unix time in seconds.
        running: its containers have been started.
        ready: it passes its readiness probe.
        ready_since: Unix time in seconds; None while it is not ready.
        ending: it is being deleted.
        over: it has ended for good and its ReplicaSet no longer counts it.
        failing: why it cannot start; empty if it can.
        proven_at: Unix time in seconds from which on it counts as up although it has failed; None where only being
            ready will tell, or where it has not failed.
        cost: its pod-deletion-cost, None without one.
        node: that it is on; empty until it has one.
        unready_since: Unix time in seconds since when it runs without being ready; None where that is not so.
    """

    name: str
    owner: str
    created: float
    running: bool
    ready: bool
    ready_since: float | None
    ending: bool
    over: bool
    failing: str
    cost: str | None
    node: str = ""
    proven_at: float | None = None
    unready_since: float | None = None

    def fails(self, wall: float) -> bool:
        """Whether it cannot start, at this Unix time in seconds."""
        return bool(self.failing) and (self.proven_at is None or wall < self.proven_at)


def read_deployment(body: Mapping[str, Any]) -> Deployment:
    """The compact value of a Deployment."""
    metadata, status = body["metadata"], body.get("status") or {}
    return Deployment(
        uid=metadata["uid"],
        replicas=body["spec"].get("replicas", 1),
        settled=status.get("observedGeneration", 0) >= metadata.get("generation", 0),
        refused=next(
            (
                str(item.get("message") or item["reason"])
                for item in status.get("conditions") or ()
                if item["type"] == "ReplicaFailure" and item["status"] == "True" and item.get("reason") == NOT_MADE
            ),
            "",
        ),
    )


def read_replica_set(body: Mapping[str, Any]) -> ReplicaSet | None:
    """The compact value of a ReplicaSet; None where no Deployment owns it."""
    owner = _controller(body, "Deployment")
    if owner is None:
        return None
    return ReplicaSet(
        uid=body["metadata"]["uid"],
        owner=owner,
        replicas=body["spec"].get("replicas", 1),
        pods=(body.get("status") or {}).get("replicas", 0),
    )


def read_pod(body: Mapping[str, Any]) -> Pod | None:
    """The compact value of a pod; None where no ReplicaSet owns it."""
    owner = _controller(body, "ReplicaSet")
    if owner is None:
        return None
    metadata, status = body["metadata"], body.get("status") or {}
    conditions: list[Mapping[str, Any]] = status.get("conditions") or []
    ready: Mapping[str, Any] = next((item for item in conditions if item["type"] == "Ready"), {})
    is_ready = ready.get("status") == "True"
    phase = status.get("phase", "Pending")
    spec = body.get("spec") or {}
    failing, proven_at = _failing(spec, status)
    return Pod(
        name=metadata["name"],
        owner=owner,
        created=_unix(metadata["creationTimestamp"]),
        running=phase == "Running",
        ready=is_ready,
        # Who writes a status without a kubelet, such as a virtual one, may leave the time out.
        ready_since=_unix(ready.get("lastTransitionTime") or metadata["creationTimestamp"]) if is_ready else None,
        ending="deletionTimestamp" in metadata,
        over=phase in ("Succeeded", "Failed"),
        failing=failing,
        proven_at=proven_at,
        cost=(metadata.get("annotations") or {}).get(DELETION_COST),
        node=spec.get("nodeName") or "",
        unready_since=None if is_ready else _unready_since(ready, status),
    )


def read_autoscaler(body: Mapping[str, Any]) -> str | None:
    """Name of the Deployment that a HorizontalPodAutoscaler scales; None where it scales something else."""
    target = body["spec"]["scaleTargetRef"]
    return str(target["name"]) if target.get("kind") == "Deployment" else None


def _controller(body: Mapping[str, Any], kind: str) -> str | None:
    for owner in body["metadata"].get("ownerReferences") or ():
        if owner.get("controller") and owner["kind"] == kind:
            return str(owner["uid"])
    return None


def _failing(spec: Mapping[str, Any], status: Mapping[str, Any]) -> tuple[str, float | None]:
    """Why a pod cannot start (empty if it can), and from when on it has proven that it can."""
    probed = {item["name"] for item in spec.get("containers") or () if "readinessProbe" in item}
    for group in ("initContainerStatuses", "containerStatuses"):
        for container in status.get(group) or ():
            state = container.get("state") or {}
            reason = state.get("waiting", {}).get("reason", "")
            if reason in FAILING_REASONS:
                return str(reason), None
            if not _crashes(container):
                continue
            if not container.get("ready"):
                return CRASH_LOOP, None
            began = state.get("running", {}).get("startedAt")
            if container["name"] not in probed and began:
                return CRASH_LOOP, _unix(began) + PROVEN_AFTER
    return "", None


def _unready_since(ready: Mapping[str, Any], status: Mapping[str, Any]) -> float | None:
    """Since when the containers that are not ready run; None where none does."""
    began = [
        container["state"]["running"]["startedAt"]
        for container in status.get("containerStatuses") or ()
        if not container.get("ready") and (container.get("state") or {}).get("running", {}).get("startedAt")
    ]
    told = [ready["lastTransitionTime"]] if ready.get("lastTransitionTime") else []
    return max(map(_unix, (*began, *told))) if began else None


def _crashes(container: Mapping[str, Any]) -> bool:
    """Whether a container has failed again and again before its present run."""
    ended = (container.get("lastState") or {}).get("terminated") or {}
    if container.get("restartCount", 0) < CRASHES or not ended.get("exitCode"):
        return False
    began, over = ended.get("startedAt"), ended.get("finishedAt")
    return not (began and over and _unix(over) - _unix(began) >= SOUND_FOR)


def _unix(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()


@dataclass(frozen=True, slots=True)
class TargetState:
    """The scale target of one WorkQueue.

    Attributes:
        deployment: asked for and seen by its controller.
        pods: that count (neither ended nor being deleted), oldest first.
        ending: pods that are being deleted and may still work.
        rollout: more than one ReplicaSet has pods.
        settled: pods and replicas agree, as far as the controllers have got.
    """

    deployment: Deployment
    pods: tuple[Pod, ...]
    ending: tuple[Pod, ...]
    rollout: bool
    settled: bool


class Workloads:
    """All that the operator knows of the cluster: the WorkQueues, and mirrors of the kinds that belong to workers.

    Attributes:
        queues: the WorkQueues; what kopf reports goes there.
    """

    WATCHES = 4
    """Kinds that are mirrored: so many watches are open for each namespace."""

    def __init__(self, api: Api, namespaces: tuple[str, ...], work_queue_changed: Callable[[Key], None]) -> None:
        """Args:
        api: session.
        namespaces: served; `("*",)` for all.
        work_queue_changed: called with the key of each WorkQueue that came, changed or went.
        """
        self._replica_sets: defaultdict[str, dict[Key, ReplicaSet]] = defaultdict(dict)
        self._pods: defaultdict[str, dict[Key, Pod]] = defaultdict(dict)
        self._autoscalers: defaultdict[Key, set[str]] = defaultdict(set)
        self._owners: dict[str, str] = {}  # of ReplicaSets, by uid
        self._troubled_since: float | None = None
        self._targets: dict[str, TargetState] = {}  # by the Deployment's uid, until something of it changes
        scopes: tuple[str | None, ...] = (None,) if namespaces == ("*",) else namespaces

        def notify(key: Key, before: WorkQueue | None, after: WorkQueue | None) -> None:
            if before is None or after is None or (before.uid, before.generation) != (after.uid, after.generation):
                work_queue_changed(key)

        self.queues = WorkQueues(api, scopes, notify)
        self._deployments = [
            Mirror(api, DEPLOYMENTS, scope, read_deployment, self._deployment_changed) for scope in scopes
        ]
        self._mirrors: tuple[Mirror[Any], ...] = (
            *self._deployments,
            *(Mirror(api, REPLICA_SETS, scope, read_replica_set, self._replica_set_changed) for scope in scopes),
            *(Mirror(api, PODS, scope, read_pod, self._pod_changed) for scope in scopes),
            *(Mirror(api, AUTOSCALERS, scope, read_autoscaler, self._autoscaler_changed) for scope in scopes),
        )

    async def run(self) -> None:
        """Keep all of it up to date until cancelled.

        Raises:
            ExceptionGroup: of `NotWatched` where the WorkQueues are not watched any more.
        """
        async with asyncio.TaskGroup() as group:
            group.create_task(self.queues.run())
            for mirror in self._mirrors:
                group.create_task(mirror.run())

    @property
    def synced(self) -> bool:
        """Whether everything has been listed at least once; nothing is decided before."""
        return self.queues.synced and all(mirror.synced for mirror in self._mirrors)

    @property
    def problem(self) -> str:
        """Why what is known of the cluster may be out of date; empty while it is not."""
        problems = (self.queues.problem, *(mirror.problem for mirror in self._mirrors))
        return next((problem for problem in problems if problem), "")

    def lasting_problem(self) -> str:
        """The same where it has lasted for so long that it is to be told. To be asked regularly."""
        problem, now = self.problem, asyncio.get_running_loop().time()
        if not problem:
            self._troubled_since = None
        elif self._troubled_since is None:
            self._troubled_since = min(now, *(mirror.unheard_since for mirror in self._mirrors))
        lasts = self._troubled_since is not None and now - self._troubled_since >= LASTING
        return problem if lasts else ""

    def work_queues(self) -> list[WorkQueue]:
        """All WorkQueues."""
        return list(self.queues)

    def work_queue(self, key: Key) -> WorkQueue | None:
        """One WorkQueue."""
        return self.queues.get(key)

    def autoscalers(self, deployment: Key) -> list[str]:
        """Names of the HorizontalPodAutoscalers that scale a Deployment."""
        return sorted(self._autoscalers.get(deployment, ()))

    def target(self, key: Key) -> TargetState | None:
        """The state of the Deployment `key`; None where there is none. While nothing changes it is the same object."""
        deployment = next((item for mirror in self._deployments if (item := mirror.get(key))), None)
        if deployment is None:
            return None
        known = self._targets.get(deployment.uid)
        if known is None:
            known = self._targets[deployment.uid] = self._put_together(deployment)
        return known

    def _put_together(self, deployment: Deployment) -> TargetState:
        sets = list(self._replica_sets.get(deployment.uid, {}).values())
        pods = [pod for item in sets for pod in self._pods.get(item.uid, {}).values() if not pod.over]
        active = tuple(sorted((pod for pod in pods if not pod.ending), key=lambda pod: (pod.created, pod.name)))
        asked = sum(item.replicas for item in sets)
        return TargetState(
            deployment=deployment,
            pods=active,
            ending=tuple(pod for pod in pods if pod.ending),
            rollout=sum(1 for item in sets if item.replicas or item.pods) > 1,
            settled=deployment.settled and asked == deployment.replicas and len(active) <= deployment.replicas,
        )

    def _deployment_changed(self, _key: Key, before: Deployment | None, after: Deployment | None) -> None:
        for item in (before, after):
            if item is not None:
                self._targets.pop(item.uid, None)

    def _replica_set_changed(self, key: Key, before: ReplicaSet | None, after: ReplicaSet | None) -> None:
        if before is not None:
            _take(self._replica_sets, before.owner, key)
            self._owners.pop(before.uid, None)
            self._targets.pop(before.owner, None)
        if after is not None:
            self._replica_sets[after.owner][key] = after
            self._owners[after.uid] = after.owner
            self._targets.pop(after.owner, None)

    def _pod_changed(self, key: Key, before: Pod | None, after: Pod | None) -> None:
        if before is not None:
            _take(self._pods, before.owner, key)
            self._targets.pop(self._owners.get(before.owner, ""), None)
        if after is not None:
            self._pods[after.owner][key] = after
            self._targets.pop(self._owners.get(after.owner, ""), None)

    def _autoscaler_changed(self, key: Key, before: str | None, after: str | None) -> None:
        if before is not None:
            names = self._autoscalers[Key(key.namespace, before)]
            names.discard(key.name)
            if not names:
                del self._autoscalers[Key(key.namespace, before)]
        if after is not None:
            self._autoscalers[Key(key.namespace, after)].add(key.name)


def _take(index: dict[str, dict[Key, Any]], owner: str, key: Key) -> None:
    """Remove an entry, and its owner's dictionary with the last one: owners come and go for as long as we run."""
    entries = index.get(owner, {})
    entries.pop(key, None)
    if not entries:
        index.pop(owner, None)
