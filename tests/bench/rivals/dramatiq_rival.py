"""Dramatiq at the same work as a Warren worker: no-op tasks from a quorum queue.

`dramatiq dramatiq_rival …` consumes; `python dramatiq_rival.py THREADS COUNT` submits, and prints its rate;
`python dramatiq_rival.py latency COUNT` prints the median seconds until a task starts.
"""

import os
import sys
import threading
import time
from typing import Any

import dramatiq
import stamps
from dramatiq.brokers.rabbitmq import RabbitmqBroker

BODY = "x" * 256


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


def submit(count: int) -> None:
    """So many tasks, one after the other."""
    for _ in range(count):
        work.send(BODY)


def latency(count: int) -> float:
    """Median seconds from submitting to the start."""
    return stamps.latency(stamped.send, count)


if __name__ == "__main__":
    if sys.argv[1] == "latency":
        print(latency(int(sys.argv[2])))
        sys.exit()
    threads, total = int(sys.argv[1]), int(sys.argv[2])
    work.send(BODY)  # connected, and the queue is there
    began = time.perf_counter()
    workers = [threading.Thread(target=submit, args=(total // threads,)) for _ in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    print(total / (time.perf_counter() - began))
