"""The operator as a program: its parts put together, run, and ended."""

import asyncio
import functools
import logging
import os
import signal
import sys
from collections.abc import Iterable, Mapping

from warren_contract.logs import configure_logging
from warren_contract.settings import BrokerSettings, SettingError
from warren_operator.broker import Broker, EventPublisher
from warren_operator.health import Health
from warren_operator.kube import Api, find_cluster
from warren_operator.loop import Loop
from warren_operator.management import Management
from warren_operator.settings import ALL_NAMESPACES, Settings
from warren_operator.topology import POLICY_PREFIX, Topology

log = logging.getLogger(__name__)

END_LIMIT = 1.5
"""Seconds for goodbyes to broker and API server; nothing depends on them."""


def owns_policy(namespaces: tuple[str, ...], name: str) -> bool:
    """Whether a policy was made for a WorkQueue in one of the namespaces: `warren.NAMESPACE.NAME`."""
    if not name.startswith(POLICY_PREFIX):
        return False
    namespace, dot, _ = name.removeprefix(POLICY_PREFIX).partition(".")
    return bool(dot) and (namespaces == (ALL_NAMESPACES,) or namespace in namespaces)


async def operate(environ: Mapping[str, str]) -> None:
    """Run the operator until cancelled.

    Raises:
        SettingError: a setting is missing or wrong.
    """
    settings = Settings.load(environ)
    BrokerSettings.load(environ)  # a mistake in there is told at once, not at the first connect
    load = functools.partial(BrokerSettings.load, environ)
    async with Api(find_cluster(environ)) as api:
        loop = Loop(api, settings.namespaces, settings.name, settings.defaults)
        topology: Topology

        def connected() -> None:
            topology.wake()
            loop.hint()

        def changed(queues: Iterable[str]) -> None:
            loop.hint(list(queues))

        broker = Broker(load, f"{settings.name} read", loop.heard, connected)
        topology = Topology(
            broker, Management(load), settings.defaults, functools.partial(owns_policy, settings.namespaces), changed
        )
        publisher = EventPublisher(load, f"{settings.name} tell")
        loop.connect(broker, topology, publisher)
        runner = await Health(loop, broker, topology).start(settings.health_port)
        log.info("serving", extra={"namespaces": ",".join(settings.namespaces)})
        try:
            async with asyncio.TaskGroup() as group:
                for mirror in loop.workloads.mirrors:
                    group.create_task(mirror.run())
                for part in (broker.run(), publisher.run(), topology.run(), loop.run()):
                    group.create_task(part)
        finally:
            await runner.cleanup()


async def run(environ: Mapping[str, str]) -> None:
    """Run the operator until SIGTERM or SIGINT, then end within `END_LIMIT` seconds."""
    task = asyncio.ensure_future(operate(environ))
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    asked = asyncio.ensure_future(stop.wait())
    await asyncio.wait([task, asked], return_when=asyncio.FIRST_COMPLETED)
    asked.cancel()
    if task.done():
        task.result()  # raises what ended it
        return
    log.info("ending")
    task.cancel()
    _, late = await asyncio.wait([task], timeout=END_LIMIT)
    if late:  # a peer that no longer answers is not worth waiting for
        logging.shutdown()
        os._exit(0)


def main() -> int:
    """Entry point; returns the exit code."""
    try:
        configure_logging(os.environ)
        asyncio.run(run(os.environ))
    except SettingError as error:
        sys.stderr.write(f"warren-operator: {error}\n")
        return 2
    return 0
