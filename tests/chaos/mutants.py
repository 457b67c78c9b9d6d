"""Our own worker and producer with a mistake put in, which the ledger has to find.

python mutants.py early|stale|hasty
"""

import asyncio
import os
import sys
from typing import Any


def early() -> int:
    """A worker that acknowledges a task when it arrives."""
    from warren_worker import __main__ as program  # noqa: PLC0415  after its environment is known to be right
    from warren_worker.consumer import Consumer  # noqa: PLC0415

    deliver = Consumer._on_message

    def on_message(self: Any, session: Any, channel: Any, method: Any, *rest: Any) -> None:
        channel.basic_ack(method.delivery_tag)
        deliver(self, session, channel, method, *rest)

    setattr(Consumer, "_on_message", on_message)  # noqa: B010  mypy knows what should stand there
    setattr(Consumer, "settle", lambda *_: True)  # noqa: B010  there is nothing left to say
    return program.main(os.environ)


def stale() -> int:
    """A worker that acknowledges what a lost channel delivered on the channel that took its place."""
    from warren_worker import __main__ as program  # noqa: PLC0415
    from warren_worker.consumer import Consumer  # noqa: PLC0415

    deliver, settle = Consumer._on_message, Consumer.settle
    late: list[int] = []

    def on_settle(self: Any, delivery: Any, verdict: Any) -> bool:
        if not delivery.session.alive:
            late.append(delivery.tag)
        return settle(self, delivery, verdict)

    def on_message(self: Any, session: Any, channel: Any, *rest: Any) -> None:
        deliver(self, session, channel, *rest)
        while late:
            channel.basic_ack(late.pop())

    setattr(Consumer, "settle", on_settle)  # noqa: B010
    setattr(Consumer, "_on_message", on_message)  # noqa: B010  mypy knows what should stand there
    return program.main(os.environ)


def hasty() -> int:
    """A producer that does not wait for the broker's confirm."""
    from warren_producer import __main__ as program  # noqa: PLC0415
    from warren_producer import publisher  # noqa: PLC0415
    from warren_producer.confirms import Outcome  # noqa: PLC0415

    published = publisher._Submit.published

    def on_published(self: Any) -> None:
        published(self)
        asyncio.get_running_loop().call_soon(self.settle, Outcome.CONFIRMED)

    setattr(publisher._Submit, "published", on_published)  # noqa: B010
    return program.main()


if __name__ == "__main__":
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    os._exit({"early": early, "stale": stale, "hasty": hasty}[sys.argv[1]]())
