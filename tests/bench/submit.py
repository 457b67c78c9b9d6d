"""Submitting against bare pika: the same broker, the same quorum queue, persistent tasks of 256 bytes, in one run.

Bare is the best that one Python process can do with confirms: a window of outstanding messages over one connection,
without HTTP, tokens or checks. Everything shares the machine's cores, so that the ratios count, not the rates.
"""

import asyncio
import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import httpx
import pika
import pika.frame
import pika.spec
from brokers import Broker, declare_work_queue, running_broker
from producers import SUBMIT_TOKEN, Producer, ready_producer
from recording import Figure

from warren_contract.aio import Connection
from warren_contract.connection import connection_parameters
from warren_contract.names import TASKS_EXCHANGE

BODY = b"x" * 256
WINDOW = 1000
"""Bare pika's outstanding messages."""

BATCH = 20_000
SINGLE = 5_000
CONCURRENT = (16, 64, 256)
QUEUE = "bench"


@dataclass(frozen=True)
class SubmitResult:
    """Tasks a second of one round.

    Attributes:
        bare: pika with pipelined confirms.
        batch: one request with all tasks.
        single: (concurrent clients, rate) of one request a task.
    """

    bare: float
    batch: float
    single: tuple[tuple[int, float], ...]

    @property
    def batch_ratio(self) -> float:
        """Of bare pika's rate."""
        return self.batch / self.bare

    def single_ratio(self, concurrent: int) -> float:
        """Of bare pika's rate, with so many clients."""
        return dict(self.single)[concurrent] / self.bare


async def bare(broker: Broker, count: int) -> float:
    """Tasks a second of bare pika: published, persistent and mandatory, with at most WINDOW unconfirmed."""
    connection = await Connection.open(connection_parameters(broker.settings(), "bench"))
    try:
        channel = await connection.channel()
        done = asyncio.get_running_loop().create_future()
        sent = confirmed = 0
        properties = pika.BasicProperties(delivery_mode=2, message_id="0" * 36)

        def fill() -> None:
            nonlocal sent
            while sent < count and sent - confirmed < WINDOW:
                channel.raw.basic_publish(TASKS_EXCHANGE, QUEUE, BODY, properties, mandatory=True)
                sent += 1

        def on_confirm(frame: "pika.frame.Method[pika.spec.Basic.Ack | pika.spec.Basic.Nack]") -> None:
            nonlocal confirmed
            assert isinstance(frame.method, pika.spec.Basic.Ack)
            # Quorum queues confirm in order, so that a tag stands for all before it.
            confirmed = max(confirmed, int(frame.method.delivery_tag))
            if confirmed == count:
                done.set_result(None)
            fill()

        await channel.call(channel.raw.confirm_delivery, on_confirm)
        started = time.perf_counter()
        fill()
        async with asyncio.timeout(120):
            await done
        return count / (time.perf_counter() - started)
    finally:
        await connection.close()


def batch(producer: Producer, count: int) -> float:
    """Tasks a second of one batch, from the first byte to the answer."""
    content = json.dumps({"body": BODY.decode()}).encode() + b"\n"
    with producer.client(SUBMIT_TOKEN) as client:
        client.get("/healthz")
        started = time.perf_counter()
        answer = client.post(f"/v1/queues/{QUEUE}/tasks:batch", content=content * count, timeout=120)
        took = time.perf_counter() - started
    assert answer.status_code == 202, answer.text[:500]
    assert answer.json()["accepted"] == count
    return count / took


async def single(producer: Producer, count: int, concurrent: int) -> float:
    """Tasks a second of so many clients, each with a connection of its own that sends one task after the other.

    The requests are written by hand: an HTTP library needs more of the shared cores than the producer itself.
    """
    url = httpx.URL(producer.url)
    head = (
        f"POST /v1/queues/{QUEUE}/tasks HTTP/1.1\r\nHost: bench\r\nAuthorization: Bearer {SUBMIT_TOKEN}\r\n"
        f"Content-Length: {len(BODY)}\r\n\r\n"
    ).encode()
    left = count

    async def client() -> None:
        nonlocal left
        reader, writer = await asyncio.open_connection(url.host, url.port)
        while left > 0:
            left -= 1
            writer.write(head + BODY)
            answer = await reader.readuntil(b"\r\n\r\n")
            assert answer.startswith(b"HTTP/1.1 202 "), answer
            lengths = [line for line in answer.lower().split(b"\r\n") if line.startswith(b"content-length:")]
            await reader.readexactly(int(lengths[0].partition(b":")[2]))
        writer.close()

    started = time.perf_counter()
    async with asyncio.timeout(120), asyncio.TaskGroup() as clients:
        for _ in range(concurrent):
            clients.create_task(client())
    return count / (time.perf_counter() - started)


@contextmanager
def bench_bed() -> Iterator[tuple[Broker, Producer]]:
    """A broker and a producer for the rounds."""
    with running_broker() as broker, tempfile.TemporaryDirectory(prefix="warren-bench-") as folder:
        with broker.channel() as channel:
            declare_work_queue(channel, QUEUE)
        with ready_producer(broker, Path(folder)) as producer:
            yield broker, producer


def submit_round(broker: Broker, producer: Producer) -> SubmitResult:
    """One round; the queue is emptied between the parts, so that each starts alike."""

    def emptied() -> None:
        with broker.channel() as channel:
            channel.queue_purge(QUEUE)

    emptied()
    bare_rate = asyncio.run(bare(broker, BATCH))
    emptied()
    batch_rate = batch(producer, BATCH)
    singles = []
    for concurrent in CONCURRENT:
        emptied()
        singles.append((concurrent, asyncio.run(single(producer, SINGLE, concurrent))))
    emptied()
    return SubmitResult(bare=bare_rate, batch=batch_rate, single=tuple(singles))


def submit_figures(repeats: int) -> list[Figure]:
    """Submitting against bare pika on a broker of its own, several times."""
    with bench_bed() as (broker, producer):
        submit_round(broker, producer)  # the first one pays for caches and the broker's first segments
        results = []
        for number in range(repeats):
            print(f"submit, {number + 1} of {repeats} ...", file=sys.stderr, flush=True)
            results.append(submit_round(broker, producer))
            print(f"  {asdict(results[-1])}", file=sys.stderr, flush=True)

    def of(pick: Callable[[SubmitResult], float]) -> tuple[float, ...]:
        return tuple(round(pick(result), 3) for result in results)

    return [
        Figure("submit: batch ÷ bare pipelined pika (over)", of(lambda result: result.batch_ratio), floor=0.7),
        *(
            Figure(
                f"submit: single, {count} clients ÷ bare pipelined pika",
                of(lambda result, count=count: result.single_ratio(count)),  # type: ignore[misc]  # bound now
            )
            for count in CONCURRENT
        ),
    ]
