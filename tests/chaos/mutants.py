"""Our own worker and producer with a mistake put in, which the ledger has to find.

python mutants.py early|stale|hasty|curt|forgetful|twofold|rash
"""

import asyncio
import os
import sys
from dataclasses import replace
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


def curt() -> int:
    """A worker that buries each task at once and does not say why."""
    from warren_worker import __main__ as program  # noqa: PLC0415
    from warren_worker import intake, worker  # noqa: PLC0415
    from warren_worker.verdict import Failed  # noqa: PLC0415

    take_in = intake.take_in

    def on_take_in(*arguments: Any, **more: Any) -> Any:
        return replace(take_in(*arguments, **more), unfit=Failed("", ""))

    setattr(worker, "take_in", on_take_in)  # noqa: B010
    return program.main(os.environ)


def forgetful() -> int:
    """A worker that forgets to acknowledge what is done."""
    from warren_worker import __main__ as program  # noqa: PLC0415
    from warren_worker.consumer import Consumer  # noqa: PLC0415
    from warren_worker.verdict import Verdict  # noqa: PLC0415

    settle = Consumer.settle

    def on_settle(self: Any, delivery: Any, verdict: Any) -> bool:
        return verdict is Verdict.ACK or settle(self, delivery, verdict)

    setattr(Consumer, "settle", on_settle)  # noqa: B010
    return program.main(os.environ)


def twofold() -> int:
    """A worker that publishes each dead letter twice."""
    from warren_worker import __main__ as program  # noqa: PLC0415
    from warren_worker.dead_letters import DeadLetters  # noqa: PLC0415

    publish: Any = DeadLetters.publish

    def on_publish(self: Any, *arguments: Any) -> None:
        publish(self, *arguments[:-1], lambda _: None)
        publish(self, *arguments)

    setattr(DeadLetters, "publish", on_publish)  # noqa: B010
    return program.main(os.environ)


def rash() -> int:
    """A worker that kills its handlers whenever it loses a connection, and goes on."""
    from warren_worker import __main__ as program  # noqa: PLC0415
    from warren_worker.worker import Worker  # noqa: PLC0415

    lost = Worker.on_sessions_lost

    def on_lost(self: Any, *arguments: Any, **more: Any) -> None:
        lost(self, *arguments, **more)
        self._kill_lost()

    setattr(Worker, "on_sessions_lost", on_lost)  # noqa: B010
    return program.main(os.environ)


MUTANTS = {
    "early": early,
    "stale": stale,
    "hasty": hasty,
    "curt": curt,
    "forgetful": forgetful,
    "twofold": twofold,
    "rash": rash,
}

if __name__ == "__main__":
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    os._exit(MUTANTS[sys.argv[1]]())
