"""Does what the worker program of RabbitMQ's Work Queues tutorial does, call by call, with its sleep in the callback.

A foreign client on purpose, as new_task.py beside it. It blocks its own connection while it works, as the tutorial's
does, so it is good for short tasks only.
"""

import os
import time
from typing import Any

import pika

connection = pika.BlockingConnection(
    pika.ConnectionParameters(host="localhost", port=int(os.environ.get("AMQP_PORT", "5672")))
)
channel = connection.channel()
channel.queue_declare(queue="task_queue", durable=True)
print(" [*] Waiting for messages. To exit press CTRL+C", flush=True)


def work(on: Any, delivery: Any, _properties: Any, body: bytes) -> None:
    """A second for each dot, then the acknowledgement; a worker that forgets it is the tutorial's common mistake."""
    print(f" [x] Received {body.decode()}", flush=True)
    time.sleep(body.count(b"."))
    print(" [x] Done", flush=True)
    if os.environ.get("FORGET_ACK") != "1":
        on.basic_ack(delivery_tag=delivery.delivery_tag)


channel.basic_qos(prefetch_count=1)
channel.basic_consume(queue="task_queue", on_message_callback=work)
channel.start_consuming()
