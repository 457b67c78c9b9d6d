"""Does what the new_task program of RabbitMQ's Work Queues tutorial does, call by call: declare, publish, close.

A foreign client on purpose: it knows nothing of Warren, takes pika's defaults (guest on vhost /), declares the queue
without arguments and publishes to the default exchange. AMQP_PORT stands for the port that the tutorial takes as 5672.
"""

import os
import sys

import pika

text = " ".join(sys.argv[1:]) or "Hello World!"

connection = pika.BlockingConnection(
    pika.ConnectionParameters(host="localhost", port=int(os.environ.get("AMQP_PORT", "5672")))
)
channel = connection.channel()
channel.queue_declare(queue="task_queue", durable=True)
channel.basic_publish(
    exchange="",
    routing_key="task_queue",
    body=text.encode(),
    properties=pika.BasicProperties(delivery_mode=pika.DeliveryMode.Persistent),
)
print(f" [x] Sent {text}")
connection.close()
