"""Dramatiq at the same work as a Warren worker: no-op tasks from a quorum queue.

`dramatiq dramatiq_rival …` consumes; `python dramatiq_rival.py THREADS COUNT` submits, and prints tasks a second and
the CPU of each; `python dramatiq_rival.py latency COUNT` prints the median seconds until a task starts.
"""

import os
import sys
from typing import Any

import dramatiq
import publishing
import stamps
from dramatiq.brokers.rabbitmq import RabbitmqBroker


class QuorumBroker(RabbitmqBroker):
    """Declares what Warren uses: quorum queues in place of its own classic ones."""

    def _build_queue_arguments(self, queue_name: str) -> dict[str, Any]:
        return {**super()._build_queue_arguments(queue_name), "x-queue-type": "quorum"}


broker = QuorumBroker(url=os.environ["RIVAL_URL"], confirm_delivery=os.environ.get("RIVAL_CONFIRMS") == "1")
dramatiq.set_broker(broker)


@dramatiq.actor(queue_name=os.environ["RIVAL_QUEUE"])
def work(_body: str) -> None:
    """Nothing."""


@dramatiq.actor(queue_name=os.environ["RIVAL_QUEUE"])
def stamped(path: str) -> None:
    """Says when it began."""
    stamps.stamp(path)


def latency(count: int) -> float:
    """Median seconds from submitting to the start."""
    return stamps.latency(stamped.send, count)


if __name__ == "__main__":
    if sys.argv[1] == "latency":
        print(latency(int(sys.argv[2])))
        sys.exit()
    print(publishing.by_threads(work.send, int(sys.argv[1]), int(sys.argv[2])))
