"""`/metrics`: what the operator sees, decides and does, for Prometheus.

Everything about a queue is read from the loop's entries at each scrape, so that a WorkQueue that is gone leaves nothing
behind. These lines are written here and not by prometheus_client, which would stop the loop for a third of a second at
a thousand queues; the loop gets its turn in between.
"""

import asyncio
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import generate_latest
from prometheus_client.registry import Collector

from warren_operator.broker import Broker
from warren_operator.conditions import verdicts
from warren_operator.entry import Entry
from warren_operator.loop import Loop
from warren_operator.observation import View
from warren_operator.policy import Phase
from warren_operator.topology import Topology

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

ENTRIES_AT_ONCE = 200
"""WorkQueues whose values are written before the loop gets its turn: a millisecond of one family."""

Sample = tuple[str, float | None]
"""Further labels as Prometheus writes them (empty for none), and the value; None where it is not known."""


@dataclass(frozen=True, slots=True)
class Family:
    """A metric that each WorkQueue has.

    Attributes:
        name: of the metric, as Prometheus stores it.
        kind: gauge or counter.
        text: what it means.
        labels: those besides namespace, name and queue, for the documentation.
        read: its samples of one WorkQueue; bounded in number.
    """

    name: str
    kind: str
    text: str
    labels: tuple[str, ...]
    read: Callable[[Entry], Iterable[Sample]]


def _seen(read: Callable[[View], float | None]) -> Callable[[Entry], Iterable[Sample]]:
    """One sample, where something is seen of the queue."""
    return lambda entry: () if entry.told is None or entry.told.view is None else (("", read(entry.told.view)),)


def _ready(view: View) -> float | None:
    return None if view.seen.backlog is None else view.seen.backlog.ready


def _unacked(view: View) -> float | None:
    return None if view.seen.backlog is None else view.seen.backlog.unacked


def _workers(entry: Entry) -> Iterator[Sample]:
    told = entry.told
    if told is None or told.view is None:
        return
    counts = dict.fromkeys(("busy", "idle", "unheard", "starting", "pending", "failing"), 0)
    for worker in told.view.seen.workers:
        if worker.phase is Phase.READY:
            counts["unheard" if worker.busy is None else "busy" if worker.busy else "idle"] += 1
        else:
            counts[worker.phase.value] += 1
    for state, count in counts.items():
        yield f'state="{state}"', count


def _bound(number: int) -> Callable[[Entry], Iterable[Sample]]:
    def read(entry: Entry) -> Iterable[Sample]:
        scaling = entry.told.scaling if entry.told else None
        return () if scaling is None else (("", scaling.bounds[number]),)

    return read


def _desired(entry: Entry) -> Iterable[Sample]:
    decision = entry.told.decision if entry.told else None
    return () if decision is None else (("", decision.replicas),)


def _asked(entry: Entry) -> Iterable[Sample]:
    decision = entry.told.decision if entry.told else None
    return () if decision is None or decision.asked is None else ((f'rule="{decision.rule.value}"', decision.asked),)


def _limit(entry: Entry) -> Iterable[Sample]:
    decision = entry.told.decision if entry.told else None
    return () if decision is None else ((f'limit="{decision.limit.value or "none"}"', 1),)


def _conditions(entry: Entry) -> Iterable[Sample]:
    return (
        ()
        if entry.told is None
        else (
            (f'type="{verdict.type}",status="{verdict.status.value}",reason="{verdict.reason}"', 1)
            for verdict in verdicts(entry.told)
        )
    )


def _scalings(entry: Entry) -> Iterable[Sample]:
    return (
        (f'direction="{direction}",limit="{limit or "none"}"', count)
        for (direction, limit), count in entry.scalings.items()
    )


FAMILIES: tuple[Family, ...] = (
    Family("warren_queue_ready", "gauge", "Tasks that wait for a worker.", (), _seen(_ready)),
    Family("warren_queue_unacked", "gauge", "Tasks that workers have in hand.", (), _seen(_unacked)),
    Family(
        "warren_queue_delayed",
        "gauge",
        "Tasks that wait for their retry after a failure.",
        (),
        _seen(lambda view: view.delayed),
    ),
    Family(
        "warren_queue_dead",
        "gauge",
        "Tasks in the dead-letter queue, given up on or expired.",
        (),
        _seen(lambda view: view.dead),
    ),
    Family(
        "warren_queue_workers",
        "gauge",
        "Worker pods that are not being deleted, by what they do: busy and idle report to be so, unheard are ready and "
        "report nothing, starting, pending and failing are not ready.",
        ("state",),
        _workers,
    ),
    Family(
        "warren_queue_replicas",
        "gauge",
        "Replicas that the workers' Deployment has in its spec.",
        (),
        _seen(lambda view: view.seen.replicas),
    ),
    Family("warren_queue_desired_replicas", "gauge", "Workers that the operator wants now.", (), _desired),
    Family(
        "warren_queue_asked_replicas",
        "gauge",
        "Workers that the rule asks for before bounds and limits, with the rule.",
        ("rule",),
        _asked,
    ),
    Family("warren_queue_min_replicas", "gauge", "Fewest workers, as bounds and schedule say now.", (), _bound(0)),
    Family("warren_queue_max_replicas", "gauge", "Most workers, as bounds and schedule say now.", (), _bound(1)),
    Family(
        "warren_queue_limit",
        "gauge",
        "1 for what holds the number of workers where it is: limit is as in status.decision.limitedBy, or none.",
        ("limit",),
        _limit,
    ),
    Family(
        "warren_queue_service_time_seconds",
        "gauge",
        "Mean time of work in one task; missing until five tasks have ended.",
        (),
        _seen(lambda view: view.seen.service_time),
    ),
    Family(
        "warren_queue_arrival_rate",
        "gauge",
        "Tasks a second that come in, redeliveries included; missing until known.",
        (),
        _seen(lambda view: view.seen.arrival_rate),
    ),
    Family(
        "warren_queue_estimated_wait_seconds",
        "gauge",
        "Time until a task that is submitted now starts, with the workers that run; missing where unknown.",
        (),
        _seen(lambda view: view.estimated_wait),
    ),
    Family(
        "warren_queue_scalings_total",
        "counter",
        "Changes of replicas that were carried out since the operator started, by direction (up, down) and limit.",
        ("direction", "limit"),
        _scalings,
    ),
    Family(
        "warren_queue_failed_readings_total",
        "counter",
        "Readings of the queue that failed since the operator started; nothing is decided on a failed one.",
        (),
        lambda entry: (("", entry.failures),),
    ),
    Family(
        "warren_queue_condition",
        "gauge",
        "1 for each condition of the WorkQueue, with its present status and reason.",
        ("type", "status", "reason"),
        _conditions,
    ),
)


class Metrics:
    """All metrics of the operator."""

    def __init__(self, loop: Loop, broker: Broker, topology: Topology) -> None:
        self._loop = loop
        self._registry = CollectorRegistry()
        ProcessCollector(registry=self._registry)
        self._registry.register(_Operator(loop, broker, topology))
        self._registry.register(loop.actor.reactions)

    async def text(self) -> bytes:
        """In Prometheus' text format, version 0.0.4."""
        parts = [generate_latest(self._registry)]
        entries = list(self._loop.entries.values())
        labels = [_labels(entry) for entry in entries]
        for family in FAMILIES:
            parts.append(f"# HELP {family.name} {family.text}\n# TYPE {family.name} {family.kind}\n".encode())
            for start in range(0, len(entries), ENTRIES_AT_ONCE):
                span = slice(start, start + ENTRIES_AT_ONCE)
                parts.append("".join(_lines(family, entries[span], labels[span])).encode())
                await asyncio.sleep(0)
        return b"".join(parts)


def _lines(family: Family, entries: Sequence[Entry], labels: Sequence[str]) -> Iterator[str]:
    for entry, base in zip(entries, labels, strict=True):
        for further, value in family.read(entry):
            if value is not None:
                yield f"{family.name}{{{base}{',' if further else ''}{further}}} {value}\n"


def _labels(entry: Entry) -> str:
    """Names of Kubernetes and of queues have nothing in them that Prometheus would want escaped."""
    key = entry.item.key
    return f'namespace="{key.namespace}",name="{key.name}",queue="{entry.item.queue}"'


class _Operator(Collector):
    """The operator itself."""

    def __init__(self, loop: Loop, broker: Broker, topology: Topology) -> None:
        self._loop = loop
        self._broker = broker
        self._topology = topology

    def collect(self) -> Iterable[Metric]:
        loop = self._loop
        changes = CounterMetricFamily(
            "warren_operator_scalings",
            "Changes of replicas that were carried out, by direction (up, down) and by what limited them.",
            labels=["direction", "limit"],
        )
        for (direction, limit), count in loop.actor.scalings.items():
            changes.add_metric([direction, limit or "none"], count)
        yield changes
        for name, text, value in (
            ("leads", "1 while this operator acts, 0 while it stands by.", loop.lease.ours),
            ("broker_connected", "1 while the broker answers.", not self._broker.problem),
            ("synced", "1 while everything needed of the cluster is watched.", not loop.workloads.problem),
            ("topology_known", "1 while queues and policies can be compared.", not self._topology.problem),
            ("loop_age_seconds", "Time since the loop last turned.", time.monotonic() - loop.tick_at),
            ("workqueues", "WorkQueues that exist.", len(loop.entries)),
            ("look_stretch", "Times as long as usual that queues wait for their next regular look.", loop.pace.stretch),
        ):
            yield GaugeMetricFamily(f"warren_operator_{name}", text, float(value))
        yield CounterMetricFamily(
            "warren_operator_failed_readings", "Readings of queues that failed.", loop.looker.failures
        )
