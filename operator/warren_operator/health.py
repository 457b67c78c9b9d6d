"""`/healthz`, `/readyz` and `/metrics` of the operator."""

import time
from collections.abc import Iterable

from aiohttp import web
from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.registry import Collector

from warren_operator.broker import Broker
from warren_operator.loop import Loop
from warren_operator.topology import Topology

STALLED_AFTER = 30.0
"""Seconds without a turn of the loop after which the operator counts as dead. The longest turn waits for one reading, a
few seconds."""


class Health:
    """Answers the probes from the state of the loop itself, so that a loop that hangs cannot look alive."""

    def __init__(self, loop: Loop, broker: Broker, topology: Topology) -> None:
        self._loop = loop
        self._broker = broker
        self._ready = False
        self._registry = CollectorRegistry()
        self._registry.register(_Metrics(loop, broker, topology))

    async def start(self, port: int) -> web.AppRunner:
        """Listen; the caller cleans the runner up."""
        app = web.Application()
        app.add_routes(
            [
                web.get("/healthz", self._healthz),
                web.get("/readyz", self._readyz),
                web.get("/metrics", self._metrics),
            ]
        )
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.5)
        await runner.setup()
        await web.TCPSite(runner, port=port).start()
        return runner

    async def _healthz(self, _request: web.Request) -> web.Response:
        age = time.monotonic() - self._loop.tick_at
        good = age < STALLED_AFTER
        text = f"the loop turned {age:.1f} s ago\n"
        return web.Response(status=200 if good else 503, text=text)

    async def _readyz(self, _request: web.Request) -> web.Response:
        """Ready once both sides have been reached; a broker that fails later is no reason to restart or to stop."""
        missing = []
        if not self._loop.workloads.synced:
            missing.append(self._loop.workloads.problem or "the cluster has not been listed yet")
        if not self._broker.ever_connected:
            missing.append(self._broker.problem)
        self._ready = self._ready or not missing
        return web.Response(status=200 if self._ready else 503, text="; ".join(missing or ["ok"]) + "\n")

    async def _metrics(self, _request: web.Request) -> web.Response:
        return web.Response(body=generate_latest(self._registry), headers={"Content-Type": CONTENT_TYPE_LATEST})


_LABELS = ("namespace", "name", "queue")


class _Metrics(Collector):
    """Reads the loop's entries at each scrape, so that a WorkQueue that is gone leaves nothing behind."""

    def __init__(self, loop: Loop, broker: Broker, topology: Topology) -> None:
        self._loop = loop
        self._broker = broker
        self._topology = topology

    def collect(self) -> Iterable[Metric]:
        """All metrics."""
        yield from self._operator()
        yield from self._queues()

    def _operator(self) -> Iterable[Metric]:
        loop, broker = self._loop, self._broker
        changes = CounterMetricFamily(
            "warren_operator_scalings", "Changes of replicas that were carried out.", labels=["direction"]
        )
        for direction, count in loop.actor.decisions.items():
            changes.add_metric([direction], count)
        yield changes
        yield CounterMetricFamily(
            "warren_operator_failed_readings", "Readings of queues that failed.", loop.looker.failures
        )
        yield GaugeMetricFamily("warren_operator_broker_connected", "1 while connected.", float(not broker.problem))
        yield GaugeMetricFamily(
            "warren_operator_synced", "1 while the cluster is watched.", float(not loop.workloads.problem)
        )
        yield GaugeMetricFamily(
            "warren_operator_topology_known",
            "1 while queues and policies can be compared.",
            float(not self._topology.problem),
        )
        yield GaugeMetricFamily(
            "warren_operator_loop_age_seconds", "Time since the loop last turned.", time.monotonic() - loop.tick_at
        )
        yield GaugeMetricFamily("warren_operator_workqueues", "WorkQueues that exist.", len(loop.entries))

    def _queues(self) -> Iterable[Metric]:
        families = {
            name: GaugeMetricFamily(f"warren_queue_{name}", text, labels=_LABELS)
            for name, text in (
                ("ready", "Tasks that wait."),
                ("unacked", "Tasks delivered and not acknowledged."),
                ("delayed", "Tasks that wait for their retry."),
                ("dead", "Tasks in the dead-letter queue."),
                ("workers", "Pods of the workers that are not being deleted."),
                ("workers_busy", "Workers with a task in hand."),
                ("replicas", "Replicas that the workers' Deployment asks for."),
                ("desired_replicas", "Workers wanted."),
                ("healthy", "1 while the WorkQueue's condition Ready is true."),
                ("service_time_seconds", "Mean time of one task."),
            )
        }
        limits = GaugeMetricFamily("warren_queue_limited", "What holds scaling back.", labels=(*_LABELS, "limit"))
        for entry in list(self._loop.entries.values()):
            told = entry.told
            if told is None:
                continue
            labels = (*entry.item.key, entry.item.queue)
            values: dict[str, float | None] = {"healthy": float(told.problem is None)}
            if told.view is not None:
                seen = told.view.seen
                values |= {
                    "ready": seen.backlog.ready if seen.backlog else None,
                    "unacked": seen.backlog.unacked if seen.backlog else None,
                    "delayed": told.view.delayed,
                    "dead": told.view.dead,
                    "workers": len(seen.workers),
                    "workers_busy": told.view.busy,
                    "replicas": seen.replicas,
                    "service_time_seconds": told.view.seen.service_time,
                }
            if told.decision is not None:
                values["desired_replicas"] = told.decision.replicas
                if told.decision.limit:
                    limits.add_metric((*labels, told.decision.limit.value), 1)
            for name, value in values.items():
                if value is not None:
                    families[name].add_metric(labels, value)
        yield from families.values()
        yield limits
