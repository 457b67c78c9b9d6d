"""Carrying a decision out: mark the pods that are to go, then change the replicas in one patch.

Dying anywhere in here is harmless: marks without a patch take nobody away, and the next run of this code takes them off
pods that are to stay.
"""

import asyncio
import itertools
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from warren_operator.kube import JSON_PATCH, MERGE_PATCH, Changes, KubeError
from warren_operator.resource import Key
from warren_operator.workloads import DELETION_COST, DEPLOYMENTS, PODS, TargetState

log = logging.getLogger(__name__)

VICTIM_COST = "-1000"
"""Pods without the annotation count as 0; the ReplicaSet deletes the cheapest of the ready ones first."""

FIRST_RANK = -900
"""Cost of the pod that will probably be free first, long before it is; each further one costs one more."""

RANKED = 50
"""Pods that get such a cost, at most: each is a call, and those that come late in a scale-in are marked as they go."""

SEEN_LIMIT = 1.0
"""Seconds to wait until the marks come back by our own watch, and so reach ReplicaSets, too."""

SEEN_EVERY = 0.01
"""Seconds between two looks. A mark comes back within a few milliseconds."""


class Outdated(Exception):
    """The world is no longer as the decision saw it; the next one is due at once."""


class Contested(Outdated):
    """The same, or so it seems: where it happens time and again, somebody is against the change."""


@dataclass(frozen=True, slots=True)
class ScaleIn:
    """A decision to have fewer workers.

    Attributes:
        target: the Deployment.
        current: its replicas.
        wanted: replicas to have.
        victims: pods that are to go.
    """

    target: Key
    current: int
    wanted: int
    victims: tuple[str, ...]


class Actuator:
    """Changes the replicas of Deployments."""

    def __init__(self, api: Changes) -> None:
        self._api = api

    async def scale(self, target: Key, current: int, wanted: int) -> None:
        """Set the replicas of a Deployment through its scale subresource, provided that they still are `current`.

        Raises:
            Contested: somebody else changed them in between, or an admission rule answers as if that were so.
            KubeError: refused, or not reachable.
        """
        path = DEPLOYMENTS.path(target.namespace, target.name, "scale")
        # Kubernetes leaves a zero out of the object.
        before = {"path": "/spec/replicas", "value": current} if current else {"path": "/spec", "value": {}}
        body = [{"op": "test", **before}, {"op": "add", "path": "/spec/replicas", "value": wanted}]
        try:
            await self._api.request("PATCH", path, body=body, media=JSON_PATCH)
        except KubeError as error:
            if error.conflict:
                raise Contested(f"the replicas are no longer {current}, or must not be changed: {error}") from error
            raise

    async def scale_in(
        self,
        order: ScaleIn,
        look: Callable[[], TargetState | None],
        still_free: Callable[[tuple[str, ...]], bool],
    ) -> None:
        """Take exactly the victims away, by one patch.

        Args:
            order: what to do.
            look: the target as it is known now.
            still_free: whether none of the victims has been given a task since.

        Raises:
            Outdated: a victim is gone or has a task, the pods changed, or a rollout has begun.
            Contested: the replicas changed, or the marks do not stay.
            KubeError: refused, or not reachable.
        """
        target, victims = order.target, order.victims
        state = look()
        if state is None:
            raise Outdated(f"Deployment {target} is gone")
        wanted_marks = marks(state, order)
        await self.mark(target.namespace, wanted_marks)
        await self._until_seen(wanted_marks, look)
        state = look()
        if state is None or not {pod.name for pod in state.pods}.issuperset(victims):
            raise Outdated(f"pods of {target} changed while they were being marked")
        if order.wanted and (state.rollout or not state.settled):
            # The patch would be divided between two ReplicaSets, and take others than the victims.
            raise Outdated(f"a rollout of {target} began while pods were being marked")
        if not still_free(victims):
            raise Outdated(f"a worker of {target} took a task while it was being marked")
        await self.scale(target, order.current, order.wanted)

    async def mark(self, namespace: str, marks: Mapping[str, str | None]) -> None:
        """Give pods these costs; None takes a cost off.

        Raises:
            Outdated: a pod is gone.
            KubeError: refused, or not reachable.
        """
        results = await asyncio.gather(
            *(self._set_cost(Key(namespace, name), cost) for name, cost in marks.items()), return_exceptions=True
        )
        for result in results:
            if isinstance(result, KubeError) and result.gone:
                raise Outdated(f"a pod is gone: {result}") from result
            if isinstance(result, BaseException):
                raise result

    async def _set_cost(self, pod: Key, cost: str | None) -> None:
        await self._api.request(
            "PATCH",
            PODS.path(pod.namespace, pod.name),
            body={"metadata": {"annotations": {DELETION_COST: cost}}},
            media=MERGE_PATCH,
        )

    @staticmethod
    async def _until_seen(marks: Mapping[str, str | None], look: Callable[[], TargetState | None]) -> None:
        try:
            async with asyncio.timeout(SEEN_LIMIT):
                while marks:
                    state = look()
                    costs = {pod.name: pod.cost for pod in state.pods} if state else {}
                    if all(costs.get(name, cost) == cost for name, cost in marks.items()):
                        return
                    await asyncio.sleep(SEEN_EVERY)
        except TimeoutError:
            raise Contested("the marks on the pods that are to go do not come back by the watch") from None


def marks(state: TargetState, order: ScaleIn) -> dict[str, str | None]:
    """Costs to set (None: to take off), so that the victims are the cheapest; what is right is left out.

    None at all where no worker is to stay, since there is nothing to choose: a kubelet that has just seen its pod
    change heeds the deletion only after its next look at the containers, which is up to a second later.
    """
    if not order.wanted:
        return {}
    staying = [pod for pod in state.pods if pod.name not in order.victims]
    least = min((_worth(pod.cost) for pod in staying), default=0)
    found: dict[str, str | None] = {
        pod.name: VICTIM_COST
        for pod in state.pods
        if pod.name in order.victims and pod.cost != VICTIM_COST and _worth(pod.cost) >= least
    }
    # Left over from a scale-in that did not happen.
    found |= {pod.name: None for pod in staying if pod.cost == VICTIM_COST}
    return found


def ranks(state: TargetState, order: Sequence[str]) -> dict[str, str]:
    """Costs to set, so that pods are the cheaper the sooner they come in `order`; none where that is so already.

    A pod that somebody else gave a cost keeps it.
    """
    costs = {pod.name: _worth(pod.cost) for pod in state.pods if pod.cost is None or _is_ours(pod.cost)}
    ordered = [name for name in order if name in costs][:RANKED]
    if all(costs[one] < costs[other] < 0 for one, other in itertools.pairwise(ordered)):
        return {}
    wanted = {name: FIRST_RANK + place for place, name in enumerate(ordered)}
    return {name: str(cost) for name, cost in wanted.items() if costs[name] != cost}


def _worth(cost: str | None) -> int:
    """A pod's cost as a ReplicaSet reads it."""
    try:
        return int(cost or "0")
    except ValueError:
        return 0


def _is_ours(cost: str) -> bool:
    return cost == VICTIM_COST or FIRST_RANK <= _worth(cost) < FIRST_RANK + RANKED
