"""Which WorkQueue a queue and a Deployment belong to. Pure: of two that claim the same one, the older keeps it."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from warren_operator.explanation import Problem
from warren_operator.reasons import Reason
from warren_operator.resource import Key, QueueSettings, Spec, WorkQueue, queue_settings


@dataclass(frozen=True, slots=True)
class Claims:
    """What belongs to whom.

    Attributes:
        refusals: why a WorkQueue is not served, of those that are not.
        owners: WorkQueue of each queue.
        wanted: queue and settings of each WorkQueue that is served.
    """

    refusals: Mapping[Key, Problem]
    owners: Mapping[str, Key]
    wanted: Mapping[Key, tuple[str, QueueSettings]]


def settle(items: Iterable[WorkQueue], defaults: QueueSettings) -> Claims:
    """Settle who owns what, whatever the order of the WorkQueues."""
    refusals: dict[Key, Problem] = {}
    owners: dict[str, Key] = {}
    targets: dict[Key, Key] = {}
    wanted: dict[Key, tuple[str, QueueSettings]] = {}
    for item in sorted(items, key=lambda item: item.age_order):
        refusal = _refusal(item, owners, targets)
        if refusal is not None:
            refusals[item.key] = refusal
        elif item.spec is not None:
            owners[item.queue] = item.key
            targets[target_of(item.key, item.spec)] = item.key
            wanted[item.key] = (item.queue, queue_settings(item.spec, defaults))
    return Claims(refusals, owners, wanted)


def target_of(key: Key, spec: Spec) -> Key:
    """The Deployment that a WorkQueue scales."""
    return Key(key.namespace, spec.scale_target_ref.name)


def _refusal(item: WorkQueue, owners: Mapping[str, Key], targets: Mapping[Key, Key]) -> Problem | None:
    """Why a WorkQueue is not served, given what older ones claim."""
    if item.spec is None:
        return Problem(Reason.INVALID_SPEC, item.problem)
    owner = owners.get(item.queue)
    if owner is not None:
        text = f"queue {item.queue} belongs to the older WorkQueue {owner}: name another in spec.queue.name"
        return Problem(Reason.QUEUE_TAKEN, text)
    target = target_of(item.key, item.spec)
    owner = targets.get(target)
    if owner is not None:
        text = (
            f"Deployment {target.name} belongs to the older WorkQueue {owner}: name another in spec.scaleTargetRef.name"
        )
        return Problem(Reason.SCALE_TARGET_TAKEN, text)
    return None
