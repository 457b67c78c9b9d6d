"""Bare pika at the same work as a Warren worker: one thread for the connection, one for the handler, acks go back.

`python bare_worker.py PREFETCH` consumes until it is ended: the least that keeps heartbeats alive during a task.
"""

import os
import queue
import sys
import threading
from functools import partial

import pika
import stamps
from pika.adapters.blocking_connection import BlockingChannel


def work(tasks: "queue.SimpleQueue[tuple[int | None, bytes]]", channel: BlockingChannel) -> None:
    """Do nothing for each task, and have it acknowledged by the thread that owns the connection.

    Where the body is a path, say there when it began.
    """
    while True:
        tag, body = tasks.get()
        if body.startswith(b"/"):
            stamps.stamp(body.decode())
        channel.connection.add_callback_threadsafe(partial(channel.basic_ack, tag or 0))


def main() -> None:
    """Consume."""
    connection = pika.BlockingConnection(pika.URLParameters(os.environ["RIVAL_URL"]))
    channel = connection.channel()
    tasks: queue.SimpleQueue[tuple[int | None, bytes]] = queue.SimpleQueue()
    threading.Thread(target=work, args=(tasks, channel), daemon=True).start()
    channel.basic_qos(prefetch_count=int(sys.argv[1]))
    channel.basic_consume(
        os.environ["RIVAL_QUEUE"],
        lambda _channel, method, _properties, body: tasks.put((method.delivery_tag, body)),
    )
    channel.start_consuming()


if __name__ == "__main__":
    main()
