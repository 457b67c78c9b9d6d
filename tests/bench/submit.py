"""Submitting: Warren's HTTP API against bare pika, Celery and Dramatiq.

One broker, one run, quorum queues, persistent tasks with the same 256 bytes, and one process that publishes. For Warren
that is the producer, with its clients besides; for the others it is the program that submits, which calls what their
users call (`apply_async`, `send`) in as many threads as serve it best. Bare is the best that one Python process can do
with confirms: a window of outstanding messages over one connection, without HTTP, tokens or checks. Everything shares
the machine's cores, so that the ratios count, not the rates.
"""

import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import httpx
from brokers import Broker, declare_work_queue, running_broker
from http_clients import submit_all
from producers import SUBMIT_TOKEN, Producer, ready_producer, submit_head
from recording import Figure
from rival_venv import Speed, environ, run_script, used

BODY = b"x" * 256

BULK = 20_000
"""Tasks of a batch, and of bare pika."""

SINGLE = 8_000
"""Tasks one by one over HTTP: two seconds' work and more."""

CONCURRENT = (16, 64, 256)
"""HTTP clients at once."""

THREADS: Mapping[int, int] = {1: 2_000, 4: 4_000, 16: 4_000}
"""Threads → tasks, of those who submit by a blocking call. Where each waits for its confirm, several threads share the
broker's disk writes; where none does, they only get into each other's way."""

LAST_ONES = 10.0
"""Seconds without one more task in the queue until the rest counts as lost; the broker is at work on them for one."""

QUEUE = "bench"
BARE = "bare pika, confirms pipelined"
BATCH = "batch"
LIBRARIES = {
    f"{name} {how}": (script, confirms)
    for name, script in (("Celery", "celery_rival.py"), ("Dramatiq", "dramatiq_rival.py"))
    for how, confirms in (("with confirms", "1"), ("as it comes, without confirms", "0"))
}
"""Name → script, and whether it waits for confirms."""


def single(clients: int) -> str:
    """The name of one request a task."""
    return f"single, {clients} clients"


def batch(producer: Producer) -> float:
    """Seconds of one batch, from the first byte to the answer."""
    content = json.dumps({"body": BODY.decode()}).encode() + b"\n"
    with producer.client(SUBMIT_TOKEN) as client:
        client.get("/healthz")
        started = time.perf_counter()
        answer = client.post(f"/v1/queues/{QUEUE}/tasks:batch", content=content * BULK, timeout=120)
        took = time.perf_counter() - started
    assert answer.status_code == 202, answer.text[:500]
    assert answer.json()["accepted"] == BULK
    return took


def over_http(producer: Producer, count: int, submit: Callable[[], float]) -> Speed:
    """Speed of the producer, whose clients are `submit`, which returns how long they took."""
    before = used(producer.process.pid)
    took = submit()
    return Speed(count / took, (used(producer.process.pid) - before) / count * 1e6)


def rival(broker: Broker, script: str, confirms: str) -> Speed:
    """Speed of a rival, with the number of threads that is best for it."""
    speeds = []
    for threads, count in THREADS.items():
        queue = f"bench-{threads}"
        variables = environ(broker, queue, RIVAL_CONFIRMS=confirms)
        speeds.append(Speed.told(run_script(script, str(threads), str(count), variables=variables)))
        lost = threads + count - arrived(broker, queue, threads + count)
        if lost:
            assert confirms == "0", f"{script}: {lost} confirmed tasks of {count} are not in the queue"
            print(f"  {script} without confirms: {lost} tasks of {count} got lost", file=sys.stderr, flush=True)
        with broker.channel() as channel:
            channel.queue_delete(queue)
    return max(speeds, key=lambda speed: speed.rate)


def arrived(broker: Broker, queue: str, count: int) -> int:
    """Tasks in a queue once all have come, or for a while no more do: what nobody confirmed may have been lost."""
    seen, since = -1, time.monotonic()
    while seen < count and time.monotonic() < since + LAST_ONES:
        now = broker.ready(queue)
        if now != seen:
            seen, since = now, time.monotonic()
        time.sleep(0.1)
    return seen


@contextmanager
def bench_bed() -> Iterator[tuple[Broker, Producer]]:
    """A broker and a producer for the rounds."""
    with running_broker() as broker, tempfile.TemporaryDirectory(prefix="warren-bench-") as folder:
        with broker.channel() as channel:
            declare_work_queue(channel, QUEUE)
        with ready_producer(broker, Path(folder)) as producer:
            yield broker, producer


def submit_round(broker: Broker, producer: Producer) -> dict[str, Speed]:
    """The speed of each contender; the queue is emptied between them, so that each starts alike."""
    speeds: dict[str, Speed] = {}

    def note(name: str, speed: Speed) -> None:
        speeds[name] = speed
        print(f"  {name}: {speed.rate:.0f}/s, {speed.cpu:.0f} µs", file=sys.stderr, flush=True)
        with broker.channel() as channel:
            channel.queue_purge(QUEUE)

    bare = run_script("bare_submit.py", "pipelined", str(BULK), variables=environ(broker, QUEUE))
    note(BARE, Speed.told(bare))
    note(BATCH, over_http(producer, BULK, lambda: batch(producer)))
    url = httpx.URL(producer.url)
    request = submit_head(QUEUE, f"Content-Length: {len(BODY)}\r\n") + BODY
    for clients in CONCURRENT:
        note(
            single(clients),
            over_http(
                producer,
                SINGLE,
                lambda: submit_all((url.host, url.port or 80), request, SINGLE, clients),  # noqa: B023  called at once
            ),
        )
    for name, (script, confirms) in LIBRARIES.items():
        note(name, rival(broker, script, confirms))
    return speeds


def submit_figures(repeats: int) -> list[Figure]:
    """All of them, several times."""
    with bench_bed() as (broker, producer):
        rounds = []
        for number in range(repeats + 1):
            print(f"submit, {number} of {repeats} ...", file=sys.stderr, flush=True)
            rounds.append(submit_round(broker, producer))
    return figures(rounds[1:])  # the first one pays for caches and the broker's first segments


def figures(rounds: list[dict[str, Speed]]) -> list[Figure]:
    """Ratios of the rates of one round, then rates and CPU."""

    def ratio(name: str, other: str, floor: float | None) -> Figure:
        values = tuple(round(speeds[name].rate / speeds[other].rate, 3) for speeds in rounds)
        return Figure(f"submit: {name} ÷ {other} (over)" if floor else f"submit: {name} ÷ {other}", values, floor=floor)

    ratios = [ratio(BATCH, BARE, 0.7)]
    for clients in CONCURRENT:
        ratios.append(ratio(single(clients), BARE, None))
        ratios += [
            ratio(single(clients), name, 1.0 if confirms == "1" else None) for name, (_, confirms) in LIBRARIES.items()
        ]
    names = list(rounds[0])
    return [
        *ratios,
        *(Figure(f"submit: {name}", tuple(speeds[name].rate for speeds in rounds), unit="/s") for name in names),
        *(
            Figure(f"submit: {name}, CPU a task", tuple(speeds[name].cpu for speeds in rounds), unit="µs")
            for name in names
        ),
    ]


if __name__ == "__main__":
    for figure in submit_figures(int(sys.argv[1]) if sys.argv[1:] else 1):
        print(f"{figure.median:10.2f} {figure.unit:3} {figure.name}")
