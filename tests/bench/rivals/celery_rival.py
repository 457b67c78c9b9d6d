"""Celery at the same work as a Warren worker: no-op tasks from a quorum queue, acknowledged late.

`celery --app celery_rival worker …` consumes; `python celery_rival.py THREADS COUNT` submits, and prints tasks a second
and the CPU of each; `python celery_rival.py latency COUNT` prints the median seconds until a task starts.
"""

import os
import sys

import publishing
import stamps
from celery import Celery

app = Celery("rival", broker=os.environ["RIVAL_URL"])
app.conf.update(
    broker_transport_options={"confirm_publish": os.environ.get("RIVAL_CONFIRMS") == "1"},
    task_default_queue=os.environ["RIVAL_QUEUE"],
    task_default_queue_type="quorum",
    task_ignore_result=True,
    task_acks_late=True,
    task_reject_on_worker_lost=True,
    worker_prefetch_multiplier=int(os.environ.get("RIVAL_PREFETCH", "1")),
    worker_detect_quorum_queues=True,
)


# By their names: the worker imports this module, and who submits runs it, so that what Celery derives would differ.
@app.task(name="work")
def work(_body: str) -> None:
    """Nothing."""


@app.task(name="stamped")
def stamped(path: str) -> None:
    """Says when it began."""
    stamps.stamp(path)


def latency(count: int) -> float:
    """Median seconds from submitting to the start."""
    return stamps.latency(lambda path: stamped.apply_async((path,)), count)


if __name__ == "__main__":
    if sys.argv[1] == "latency":
        print(latency(int(sys.argv[2])))
        sys.exit()
    print(publishing.by_threads(lambda body: work.apply_async((body,)), int(sys.argv[1]), int(sys.argv[2])))
