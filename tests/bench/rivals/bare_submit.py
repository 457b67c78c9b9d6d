"""Bare pika submits: `python bare_submit.py latency COUNT` prints the median seconds until a task starts."""

import os
import sys

import pika
import stamps


def main() -> None:
    """One task after the other, each confirmed."""
    connection = pika.BlockingConnection(pika.URLParameters(os.environ["RIVAL_URL"]))
    channel = connection.channel()
    channel.confirm_delivery()
    properties = pika.BasicProperties(delivery_mode=2)

    def send(path: str) -> None:
        channel.basic_publish("", os.environ["RIVAL_QUEUE"], path.encode(), properties, mandatory=True)

    print(stamps.latency(send, int(sys.argv[2])))
    connection.close()


if __name__ == "__main__":
    main()
