"""What is wanted of one queue at this moment: its spec, the open windows of its schedule, its share of a budget."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

from warren_operator.budgets import Demand, allocate
from warren_operator.policy import USUAL_BACKLOG_PER_WORKER, FallbackRule, Memory, Observation, Scaling, fails, wanted
from warren_operator.resource import Key, Mode, Spec, seconds
from warren_operator.schedule import Bounds, bounds_at


def scaling_of(spec: Spec, bounds: Bounds | None = None) -> Scaling:
    """The part of a spec that the policy decides by.

    Args:
        spec: of the WorkQueue.
        bounds: that hold now; None for those of the spec.
    """
    fallback, target = spec.fallback, spec.target
    per_worker = target.backlog_per_worker
    if per_worker is None and target.max_wait is None:
        per_worker = USUAL_BACKLOG_PER_WORKER
    return Scaling(
        max_replicas=spec.max_replicas if bounds is None else bounds.max_replicas,
        min_replicas=spec.min_replicas if bounds is None else bounds.min_replicas,
        backlog_per_worker=per_worker,
        max_wait=None if target.max_wait is None else seconds(target.max_wait),
        concurrency=spec.concurrency,
        max_step=spec.behavior.scale_up.max_step,
        stabilization=seconds(spec.behavior.scale_down.stabilization),
        fallback=None if fallback is None else FallbackRule(fallback.after_failures, fallback.replicas),
        paused=spec.paused,
        suspended=spec.suspend,
        min_scheduled=bounds.min_scheduled if bounds else "",
        max_scheduled=bounds.max_scheduled if bounds else "",
    )


@dataclass(slots=True)
class _Usual:
    """A queue's scaling without its budget, for one spec, and from when it was found until its schedule changes it. A
    clock that is set back has it found anew."""

    spec: Spec
    scaling: Scaling
    since: float
    until: float


@dataclass(slots=True)
class _Shared:
    """A budget: what is demanded of it, and what has been granted."""

    demands: dict[Key, Demand] = field(default_factory=dict)
    grants: dict[Key, int] = field(default_factory=dict)


class Wants:
    """What is wanted of each queue.

    Attributes:
        budgets: workers in each budget, by its name.
    """

    def __init__(self, budgets: Mapping[str, int], changed: Callable[[Key], None]) -> None:
        """Args:
        budgets: workers in each.
        changed: is called with each other queue whose share of a budget has changed.
        """
        self.budgets = budgets
        self._changed = changed
        self._usual: dict[Key, _Usual] = {}
        self._shared = {name: _Shared() for name in budgets}

    def usual(self, key: Key, spec: Spec, wall: float) -> Scaling:
        """What is wanted by the spec and its schedule at the Unix time `wall` in seconds, whatever the budget."""
        known = self._usual.get(key)
        if known is not None and known.spec is spec and known.since <= wall < known.until:
            return known.scaling
        bounds = None
        if spec.schedule:
            windows = [item.window for item in spec.schedule]
            bounds = bounds_at(windows, spec.min_replicas, spec.max_replicas, wall)
        until = float("inf") if bounds is None or bounds.until is None else bounds.until
        scaling = scaling_of(spec, bounds)
        self._usual[key] = _Usual(spec, scaling, wall, until)
        self._leave(key, spec.budget.name if spec.budget else None)
        return scaling

    def now(self, key: Key, spec: Spec, seen: Observation, memory: Memory, wall: float) -> Scaling:
        """What is wanted now, the budget included.

        Args:
            key: of the WorkQueue.
            spec: of the WorkQueue, whose budget is known.
            seen: the observation that is to be decided on.
            memory: of the previous decision.
            wall: Unix time in seconds.
        """
        scaling = self.usual(key, spec, wall)
        if spec.budget is None:
            return scaling
        demand = Demand(
            wanted=wanted(scaling, seen, memory),
            least=scaling.bounds[0],
            replicas=seen.replicas,
            pods=len(seen.workers),
            ending=seen.ending,
            priority=spec.budget.priority,
        )
        name = spec.budget.name
        if spec.mode is Mode.ENFORCE and not (demand.wanted > seen.replicas and fails(seen)):
            return replace(scaling, budget=self._grant(key, name, demand))
        # What is only recommended, or could not start, takes nothing from others.
        self._grant(key, name, replace(demand, wanted=seen.replicas))
        granted = allocate({**self._shared[name].demands, key: demand}, self.budgets[name])[key]
        return replace(scaling, budget=granted)

    def expect(self, key: Key, spec: Spec, replicas: int, pods: int) -> None:
        """A WorkQueue that has not been looked at yet uses this much of its budget: others must not be given it.

        Args:
            key: of the WorkQueue.
            spec: of the WorkQueue.
            replicas: that its scale target asks for.
            pods: of its scale target, those that are ending included.
        """
        shared = self._shared.get(spec.budget.name) if spec.budget else None
        if shared is not None and key not in shared.demands:
            shared.demands[key] = Demand(wanted=replicas, replicas=replicas, pods=pods)

    def occupy(self, key: Key, spec: Spec, replicas: int, pods: int) -> None:
        """A WorkQueue that Warren leaves alone uses this much of its budget, no more and no less.

        Args: as of `expect`.
        """
        shared = self._shared.get(spec.budget.name) if spec.budget else None
        demand = Demand(wanted=replicas, replicas=replicas, pods=pods)
        if spec.budget is not None and shared is not None and shared.demands.get(key) != demand:
            shared.demands[key] = demand
            self._divide(spec.budget.name, key)

    def forget(self, key: Key) -> None:
        """A WorkQueue is gone, or not served: what it had of a budget is free."""
        self._usual.pop(key, None)
        self._leave(key, None)

    def _leave(self, key: Key, stays: str | None) -> None:
        for name, shared in self._shared.items():
            if name != stays and shared.demands.pop(key, None) is not None:
                self._divide(name, key)

    def _grant(self, key: Key, name: str, demand: Demand) -> int:
        shared = self._shared[name]
        if shared.demands.get(key) != demand or key not in shared.grants:  # it may be just as was expected of it
            shared.demands[key] = demand
            self._divide(name, key)
        grant = shared.grants[key]
        if demand.replicas < min(grant, demand.wanted):
            # What is given is used from now on, although the cluster shows it a moment later.
            shared.demands[key] = replace(demand, replicas=min(grant, demand.wanted))
            self._divide(name, key)
        return grant

    def _divide(self, name: str, asking: Key) -> None:
        shared = self._shared[name]
        before, shared.grants = shared.grants, allocate(shared.demands, self.budgets[name])
        for key, grant in shared.grants.items():
            if key != asking and grant != before.get(key):
                self._changed(key)
