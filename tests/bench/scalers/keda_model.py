"""A MODEL of KEDA and the HPA behind it, for clusters where KEDA itself cannot be installed. It is not KEDA.

It asks the broker, as KEDA's rabbitmq trigger does over AMQP (a passive declare: ready tasks alone), and sets the
replicas with kubectl. Rules and periods as documented:

* KEDA's operator looks every `pollingInterval`: something waits → from zero to one; nothing has waited for
  `cooldownPeriod` → to zero.
* Between one and the maximum the HPA rules, every 15 s: ceil(waiting ÷ target), unless that is within a tenth of what
  is there; up by at most the larger of 100 % and 4 pods in 15 s; down to the largest answer of its window.

Flattering to KEDA: it costs the cluster nothing, and its metric is never stale.
"""

import argparse
import math
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

import pika

SYNC = 15.0
"""Seconds between two decisions of the HPA (kube-controller-manager's default)."""

TOLERANCE = 0.1
"""Share by which the metric may be off before the HPA acts (its default)."""

KUBECTL_LIMIT = 30.0


@dataclass(frozen=True, slots=True)
class Settings:
    """How a ScaledObject is set.

    Attributes:
        polling: seconds between two looks of KEDA's operator.
        cooldown: seconds without anything waiting before it goes to zero.
        stabilization: seconds of the HPA's window on the way down.
        free: whether the HPA may go up by any number at once.
        target: tasks for each worker.
        most: workers.
    """

    polling: float = 30.0
    cooldown: float = 300.0
    stabilization: float = 300.0
    free: bool = False
    target: int = 5
    most: int = 12


TUNED = Settings(polling=1.0, cooldown=1.0, stabilization=0.0, free=True)


@dataclass(frozen=True, slots=True)
class Memory:
    """What the next decision needs to know.

    Attributes:
        active_at: when something last waited, as KEDA's operator saw it.
        answers: (time, answer) of the HPA within its window.
    """

    active_at: float = float("-inf")
    answers: tuple[tuple[float, int], ...] = ()


def activation(waiting: int, replicas: int, memory: Memory, settings: Settings, now: float) -> tuple[int, Memory]:
    """KEDA's operator: from and to zero; the replicas to have."""
    if waiting:
        memory = Memory(now, memory.answers)
        return max(1, replicas), memory
    return (0 if now - memory.active_at >= settings.cooldown else replicas), memory


def horizontal(waiting: int, replicas: int, memory: Memory, settings: Settings, now: float) -> tuple[int, Memory]:
    """The HPA's decision; the replicas to have."""
    if replicas == 0:  # it is off
        return 0, Memory(memory.active_at)
    ratio = waiting / (settings.target * replicas)
    answer = replicas if abs(ratio - 1) <= TOLERANCE else math.ceil(waiting / settings.target)
    answer = min(max(1, answer), settings.most)
    answers = (*((at, value) for at, value in memory.answers if now - at <= settings.stabilization), (now, answer))
    if answer > replicas and not settings.free:
        answer = min(answer, max(2 * replicas, replicas + 4))
    elif answer < replicas:
        answer = min(replicas, max(value for _, value in answers))
    return answer, Memory(memory.active_at, answers)


def main(arguments: Sequence[str]) -> None:
    """Scale until terminated."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tuned", action="store_true", help="looks every second, shrinks at once")
    settings = TUNED if parser.parse_args(arguments).tuned else Settings()
    queue, deployment = os.environ["BENCH_QUEUE"], os.environ["BENCH_DEPLOYMENT"]
    target, most = int(os.environ["BENCH_BACKLOG_PER_WORKER"]), int(os.environ["BENCH_MAX_REPLICAS"])
    settings = replace(settings, target=target, most=most)
    kubectl = ("kubectl", "--namespace", os.environ["BENCH_NAMESPACE"])
    channel = pika.BlockingConnection(pika.URLParameters(os.environ["BENCH_AMQP_URL"])).channel()
    replicas, memory = 0, Memory()
    begun = time.monotonic()
    looks = synced = 0
    while True:
        now = time.monotonic() - begun
        waiting = channel.queue_declare(queue, passive=True).method.message_count
        before = replicas
        if now >= looks * settings.polling:
            looks += 1
            replicas, memory = activation(waiting, replicas, memory, settings, now)
        if now >= synced * SYNC:
            synced += 1
            replicas, memory = horizontal(waiting, replicas, memory, settings, now)
        if replicas != before:
            words = (*kubectl, "scale", f"deployment/{deployment}", f"--replicas={replicas}")
            subprocess.run(words, check=True, timeout=KUBECTL_LIMIT, stdout=subprocess.DEVNULL)
        channel.connection.process_data_events(max(0.05, min(looks * settings.polling, synced * SYNC) - now))


if __name__ == "__main__":
    main(sys.argv[1:])
