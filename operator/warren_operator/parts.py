"""The operator's parts put together: started and ended as one, and ended for good where one of them fails."""

import asyncio
import functools
import logging
import os
from collections.abc import Iterable, Mapping

from kubernetes.aio.client import Configuration

from warren_contract.events import Event
from warren_contract.settings import BrokerSettings
from warren_operator.broker import Broker, EventPublisher
from warren_operator.health import Health
from warren_operator.kube import Api
from warren_operator.loop import Loop
from warren_operator.management import Management
from warren_operator.settings import ALL_NAMESPACES, Settings
from warren_operator.topology import POLICY_PREFIX, Topology
from warren_operator.work_queues import until_others
from warren_operator.workloads import Workloads

log = logging.getLogger(__name__)

END_LIMIT = 1.5
"""Seconds for goodbyes to broker and API server; nothing depends on them."""


def owns_policy(namespaces: tuple[str, ...], name: str) -> bool:
    """Whether a policy was made for a WorkQueue in one of the namespaces: `warren.NAMESPACE.NAME`."""
    if not name.startswith(POLICY_PREFIX):
        return False
    namespace, dot, _ = name.removeprefix(POLICY_PREFIX).partition(".")
    return bool(dot) and (namespaces == (ALL_NAMESPACES,) or namespace in namespaces)


class Parts:
    """All that runs beside kopf's watch.

    Attributes:
        settings: of the operator.
        cluster: where the API server is, and how to log in.
        stopped: set when the parts have ended, of themselves or because one failed.
        failure: what ended them; None where nothing did.
    """

    def __init__(
        self, environ: Mapping[str, str], settings: Settings, cluster: Configuration, wanted: tuple[str, ...] = ()
    ) -> None:
        """Args:
        environ: where the broker's settings are, read anew for each connection.
        settings: of the operator.
        cluster: as found.
        wanted: the namespaces to serve, where these are not all: some may not be watched at present.
        """
        self.settings = settings
        self.cluster = cluster
        self.stopped = asyncio.Event()
        self.failure: Exception | None = None
        self._wanted = wanted or settings.namespaces
        load = functools.partial(BrokerSettings.load, environ)
        owned = functools.partial(owns_policy, settings.namespaces)
        self._api = Api(cluster, watches=len(settings.namespaces) * Workloads.WATCHES)
        self._broker = Broker(load, f"{settings.name} read", self._heard, self._connected)
        management = Management(load, lambda: self._loop.lease.acts)
        self._topology = Topology(self._broker, management, settings.defaults, owned, self._queues_changed)
        self._publisher = EventPublisher(load, f"{settings.name} tell")
        self._loop = Loop(self._api, settings, self._broker, self._topology, self._publisher)
        self.queues = self._loop.workloads.queues
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Start everything, and wait until the API server has said which WorkQueues there are.

        Where the definition is not there yet, or the API server cannot be reached, that takes as long as it takes:
        `/readyz`, the log and the metrics tell meanwhile. kopf looks for the definition once, after this.

        Raises:
            Exception: what made the parts fail.
        """
        self._task = asyncio.create_task(self._run(), name="parts")
        answered = asyncio.create_task(self.queues.answered.wait(), name="first answer")
        try:
            await asyncio.wait([self._task, answered], return_when=asyncio.FIRST_COMPLETED)
        except asyncio.CancelledError:
            await self.end()  # kopf runs no cleanup where it is ended before the start is over
            raise
        finally:
            answered.cancel()
        if self.failure is not None:
            raise self.failure

    async def end(self) -> None:
        """End everything within `END_LIMIT` seconds; does nothing where there is nothing to end."""
        if self._task is None or self._task.done():
            return
        log.info("ending")
        self._task.cancel()
        _, late = await asyncio.wait([self._task], timeout=END_LIMIT)
        if late:  # a peer that no longer answers is not worth waiting for
            logging.shutdown()
            os._exit(1 if self.failure else 0)

    async def _run(self) -> None:
        try:
            await self._operate()
        except* Exception as group:  # noqa: BLE001  whatever it is, it ends the process and is told there
            self.failure = _first(group)
        finally:
            self.stopped.set()

    async def _operate(self) -> None:
        loop = self._loop
        async with self._api:
            runner = await Health(loop, self._broker, self._topology).start(self.settings.health_port)
            log.info("serving", extra={"namespaces": ",".join(self.settings.namespaces)})
            parts = (
                loop.lease.run(),
                loop.workloads.run(),
                self._broker.run(),
                self._publisher.run(),
                self._topology.run(),
                loop.run(),
            )
            try:
                async with asyncio.TaskGroup() as group:
                    for part in parts:
                        group.create_task(part)
                    if len(self._wanted) > 1:
                        served = self.settings.namespaces
                        group.create_task(until_others(self._api, self._wanted, served))
            finally:
                await runner.cleanup()

    def _heard(self, event: Event) -> None:
        self._loop.heard(event)

    def _connected(self) -> None:
        self._topology.wake()
        self._loop.hint()

    def _queues_changed(self, queues: Iterable[str]) -> None:
        self._loop.hint(list(queues))


def _first(group: BaseExceptionGroup[Exception]) -> Exception:
    """What failed first; whatever failed besides, did so on the way out."""
    error = group.exceptions[0]
    return _first(error) if isinstance(error, BaseExceptionGroup) else error
