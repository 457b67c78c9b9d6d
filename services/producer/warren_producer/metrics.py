"""Prometheus metrics of the producer. They carry queue names and counts, never anything of a task."""

from collections.abc import Callable

from prometheus_client import (
    GC_COLLECTOR,
    PLATFORM_COLLECTOR,
    PROCESS_COLLECTOR,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
)

BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
"""Seconds: from a confirm within one disk write to the deadline."""


class Metrics:
    """All metrics, in a registry of their own so that several producers fit into one test process.

    Args:
        in_flight: gives the tasks that wait for their confirm.
        publishing: tells whether tasks can be published.
        reading: tells whether queues can be read.
    """

    def __init__(
        self, in_flight: Callable[[], int], publishing: Callable[[], bool], reading: Callable[[], bool]
    ) -> None:
        self.registry = CollectorRegistry()
        for collector in (PROCESS_COLLECTOR, PLATFORM_COLLECTOR, GC_COLLECTOR):
            self.registry.register(collector)
        self.submitted = Counter(
            "warren_producer_tasks_submitted", "Tasks confirmed by the broker.", ["queue"], registry=self.registry
        )
        self.refused = Counter(
            "warren_producer_requests_refused", "Requests that ended with an error.", ["code"], registry=self.registry
        )
        self.submit_seconds = Histogram(
            "warren_producer_submit_seconds",
            "Time from a submit's last byte to the broker's confirm.",
            buckets=BUCKETS,
            registry=self.registry,
        )
        waiting = Gauge("warren_producer_tasks_in_flight", "Tasks that wait for their confirm.", registry=self.registry)
        waiting.set_function(in_flight)
        connected = Gauge(
            "warren_producer_broker_connected",
            "1 if the connection can be used, else 0.",
            ["connection"],
            registry=self.registry,
        )
        connected.labels("publish").set_function(publishing)
        connected.labels("read").set_function(reading)
