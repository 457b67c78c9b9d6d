"""What may be wrong with a WorkQueue, in a word each. docs/conditions.md says of each what it means and what to do."""

from enum import StrEnum


class Reason(StrEnum):
    """Why a WorkQueue is not ready. Of several the first one here is told: causes stand before their consequences, and
    what stops the workers before what only makes them late."""

    INVALID_SPEC = "InvalidSpec"
    QUEUE_TAKEN = "QueueTaken"
    SCALE_TARGET_TAKEN = "ScaleTargetTaken"
    SCALE_TARGET_MISSING = "ScaleTargetMissing"
    AUTOSCALER_CONFLICT = "AutoscalerConflict"
    BUDGET_UNKNOWN = "BudgetUnknown"
    CLUSTER_UNREADABLE = "ClusterUnreadable"
    BROKER_UNAVAILABLE = "BrokerUnavailable"
    BROKER_TOO_OLD = "BrokerTooOld"
    TOPOLOGY_UNKNOWN = "TopologyUnknown"
    DEFAULT_QUEUE_TYPE = "DefaultQueueType"
    QUEUE_REFUSED = "QueueRefused"
    QUEUE_MISMATCH = "QueueMismatch"
    QUEUE_UNAVAILABLE = "QueueUnavailable"
    SCALING_REFUSED = "ScalingRefused"
    WORKERS_FAILING = "WorkersFailing"
    WORKERS_PENDING = "WorkersPending"
    WORKERS_UNREADY = "WorkersUnready"
    PODS_REFUSED = "PodsRefused"
    BINDING_REFUSED = "BindingRefused"
    EXCHANGE_MISMATCH = "ExchangeMismatch"
    EVENTS_UNHEARD = "EventsUnheard"

    @property
    def rank(self) -> int:
        """Place in the order in which they are told."""
        return _ORDER.index(self)


_ORDER = tuple(Reason)


OF_THE_QUEUE = frozenset({Reason.QUEUE_MISMATCH, Reason.QUEUE_REFUSED, Reason.DEFAULT_QUEUE_TYPE})
"""With these the queue is none that Warren could count on. Under the others its tasks are counted."""
