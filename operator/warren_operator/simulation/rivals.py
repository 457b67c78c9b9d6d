"""The usual way to scale queue workers, on the model: Kubernetes' HorizontalPodAutoscaler, alone or driven by KEDA."""

import math
from dataclasses import dataclass

from warren_operator.simulation.model import Pod, World


@dataclass(frozen=True)
class HpaRule:
    """A HorizontalPodAutoscaler with one external metric and a target of the kind AverageValue.

    Attributes:
        target: tasks for each pod.
        min_replicas: at least 1, since it does not scale to zero by itself.
        max_replicas: most pods.
        sync: seconds between two looks (`--horizontal-pod-autoscaler-sync-period`).
        tolerance: relative deviation from the target that changes nothing.
        stabilization: seconds; pods stay that were recommended at some moment within it.
        step_pods, step_share: at most so many pods, or so large a share of them, are added within `step_period`
            seconds, whichever is more; None for no limit.
        step_period: seconds.
    """

    target: float
    min_replicas: int
    max_replicas: int
    sync: float = 15.0
    tolerance: float = 0.1
    stabilization: float = 300.0
    step_pods: int | None = 4
    step_share: float = 1.0
    step_period: float = 15.0


def hpa_answer(rule: HpaRule, backlog: float, pods: int) -> int:
    """Replicas that the formula recommends, before all limits.

    Source: `GetExternalPerPodMetricReplicas` in Kubernetes' pkg/controller/podautoscaler/replica_calculator.go.
    """
    if pods and 1 - rule.tolerance <= backlog / (rule.target * pods) <= 1 + rule.tolerance:
        return pods
    return math.ceil(backlog / rule.target)


class Hpa:
    """One HorizontalPodAutoscaler with what it remembers. Fast steps down are not limited: 100 % is the default."""

    def __init__(self, rule: HpaRule) -> None:
        self._rule = rule
        self._recommended: list[tuple[float, int]] = []
        self._added: list[tuple[float, int]] = []
        self._removed: list[tuple[float, int]] = []

    def sync(self, now: float, backlog: float, replicas: int, pods: int) -> int:
        """Replicas after a look at `now`, from those asked for and the pods that are there.

        Source: `normalizeDesiredReplicasWithBehaviors` in Kubernetes' pkg/controller/podautoscaler/horizontal.go.
        """
        rule = self._rule
        if replicas == 0:
            return 0  # it is switched off then
        wanted = min(max(hpa_answer(rule, backlog, pods), rule.min_replicas), rule.max_replicas)
        if not self._recommended:
            self._recommended.append((now, replicas))
        self._recommended = [item for item in self._recommended if now - item[0] <= rule.stabilization]
        wanted_before = max((number for _, number in self._recommended), default=0)
        self._recommended.append((now, wanted))
        if wanted < replicas:
            wanted = min(replicas, max(wanted, wanted_before))
        if wanted > replicas:
            wanted = min(wanted, max(replicas, self._ceiling(now, replicas)))
            self._added.append((now, wanted - replicas))
        elif wanted < replicas:
            self._removed.append((now, replicas - wanted))
        return wanted

    def _ceiling(self, now: float, replicas: int) -> int:
        rule = self._rule
        if rule.step_pods is None:
            return rule.max_replicas
        self._added = [item for item in self._added if now - item[0] < rule.step_period]
        self._removed = [item for item in self._removed if now - item[0] < rule.step_period]
        at_start = replicas - sum(number for _, number in self._added) + sum(number for _, number in self._removed)
        return max(at_start + rule.step_pods, math.ceil(at_start * (1 + rule.step_share)))


@dataclass(frozen=True)
class RivalRule:
    """An HPA, and KEDA where it brings the pods to zero and back.

    Attributes:
        hpa: its HorizontalPodAutoscaler.
        keda: whether there is KEDA, and `min_replicas` may be zero.
        min_replicas: fewest pods.
        polling: seconds between two looks of KEDA.
        cooldown: seconds without a task until KEDA takes the last pods away.
        unacked: whether tasks in hand count (they do when the trigger reads by HTTP, they do not by AMQP).
        grace: seconds that a pod has to end.
    """

    hpa: HpaRule
    keda: bool = True
    min_replicas: int = 0
    polling: float = 30.0
    cooldown: float = 300.0
    unacked: bool = True
    grace: float = 30.0


class Rival:
    """Scales by a `RivalRule`. The moments of the first looks are left to chance, as they are on a cluster."""

    def __init__(self, rule: RivalRule) -> None:
        self.rest = rule.min_replicas
        self.grace = rule.grace
        self._rule = rule
        self._hpa = Hpa(rule.hpa)
        self._active_at = 0.0

    def begin(self, world: World) -> None:
        """The scaler's."""
        rule = self._rule
        if rule.keda:
            world.at(world.rng.random() * rule.polling, self._poll, world)
        world.at(world.rng.random() * rule.hpa.sync, self._sync, world)

    def submitted(self, now: float) -> None:
        """The scaler's: nobody tells them."""

    def changed(self, pod: Pod, now: float) -> None:
        """The scaler's: nobody tells them."""

    def _backlog(self, world: World) -> int:
        return len(world.waiting) + (world.unacked if self._rule.unacked else 0)

    def _poll(self, world: World) -> None:
        """KEDA's part: from zero, and to zero.

        Source: `RequestScale` in KEDA's pkg/scaling/executor/scale_scaledobjects.go.
        """
        rule = self._rule
        if self._backlog(world):
            self._active_at = world.now
            if world.replicas == 0:
                world.scale(max(1, rule.min_replicas))
        elif rule.min_replicas == 0 and world.replicas and world.now - self._active_at >= rule.cooldown:
            world.scale(0)
        world.at(world.now + rule.polling, self._poll, world)

    def _sync(self, world: World) -> None:
        wanted = self._hpa.sync(world.now, self._backlog(world), world.replicas, len(world.pods))
        if wanted != world.replicas:
            world.scale(wanted)
        world.at(world.now + self._rule.hpa.sync, self._sync, world)
