"""`/healthz`, `/readyz` and `/metrics` of the operator."""

import time

from aiohttp import web

from warren_operator.broker import Broker
from warren_operator.loop import Loop
from warren_operator.metrics import CONTENT_TYPE, Metrics
from warren_operator.topology import Topology

STALLED_AFTER = 30.0
"""Seconds without a turn of the loop after which the operator counts as dead. The longest turn waits for one reading, a
few seconds."""


class Health:
    """Answers the probes from the state of the loop itself, so that a loop that hangs cannot look alive."""

    def __init__(self, loop: Loop, broker: Broker, topology: Topology) -> None:
        self._loop = loop
        self._broker = broker
        self._ready = False
        self._all = Metrics(loop, broker, topology)

    async def start(self, port: int) -> web.AppRunner:
        """Listen; the caller cleans the runner up."""
        app = web.Application()
        app.add_routes(
            [
                web.get("/healthz", self._healthz),
                web.get("/readyz", self._readyz),
                web.get("/metrics", self._metrics),
            ]
        )
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.5)
        await runner.setup()
        await web.TCPSite(runner, port=port).start()
        return runner

    async def _healthz(self, _request: web.Request) -> web.Response:
        age = time.monotonic() - self._loop.tick_at
        good = age < STALLED_AFTER
        text = f"the loop turned {age:.1f} s ago\n"
        return web.Response(status=200 if good else 503, text=text)

    async def _readyz(self, _request: web.Request) -> web.Response:
        """Ready once both sides have been reached, also where another operator acts.

        A broker that fails later is no reason to restart or to stop.
        """
        missing = []
        if not self._loop.workloads.synced:
            missing.append(self._loop.workloads.problem or "the cluster has not been listed yet")
        if not self._broker.ever_connected:
            missing.append(self._broker.problem)
        lease = self._loop.lease
        if not lease.ours and not lease.holder:
            missing.append(lease.problem or "it is not known yet whether another operator acts")
        self._ready = self._ready or not missing
        part = [f"standing by: {lease.holder} acts"] if lease.holder and not lease.ours else []
        return web.Response(status=200 if self._ready else 503, text="; ".join(missing + part or ["ok"]) + "\n")

    async def _metrics(self, _request: web.Request) -> web.Response:
        return web.Response(body=await self._all.text(), headers={"Content-Type": CONTENT_TYPE})
