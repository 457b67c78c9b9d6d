"""An HTTP proxy on loopback in front of a real API server, which can be away and can hurry watches."""

import asyncio
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import aiohttp
import yaml
from aiohttp import web
from kubernetes.aio.client import ApiClient, Configuration
from kubernetes.aio.config import load_kube_config

START_LIMIT = 30.0

EXPIRED = {
    "kind": "Status",
    "status": "Failure",
    "code": 410,
    "reason": "Expired",
    "message": "too old resource version",
}
"""What an API server says to a watch from a version that it no longer has, for instance after it was restarted."""


class ApiProxy:
    """Passes requests on as the user of a kubeconfig.

    Attributes:
        silent: while set, watches bring nothing, not even their end.
        watch_seconds: after which the server ends each watch; None for as long as the client asks.
        requests: paths asked for, with `watch ` before those of watches.
    """

    def __init__(self, kubeconfig: Path) -> None:
        self.requests: list[str] = []
        self.watch_seconds: int | None = None
        self.silent = False
        self.port = 0
        self._kubeconfig = kubeconfig
        self._away = False
        self._forgetful = False
        self._forgotten: set[str] = set()
        self._open: set[asyncio.Transport] = set()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()))

    def start(self) -> None:
        """Listen."""
        self._thread.start()
        assert self._ready.wait(START_LIMIT), "the proxy does not start"

    def stop(self) -> None:
        """End it all."""
        self._loop.call_soon_threadsafe(self._ended.set)
        self._thread.join(START_LIMIT)

    def go_away(self) -> None:
        """Cut all connections, and refuse new ones."""
        self._away = True
        self._loop.call_soon_threadsafe(self._cut)

    def come_back(self, *, forgetful: bool) -> None:
        """Answer again.

        Args:
            forgetful: the first watch of each path is told that its version is too old, as after a restart.
        """
        self._forgetful = forgetful
        self._forgotten.clear()
        self._away = False

    def kubeconfig(self, path: Path) -> Path:
        """Write a kubeconfig that leads here."""
        context = {"name": "proxy", "context": {"cluster": "proxy", "user": "proxy"}}
        cluster = {"name": "proxy", "cluster": {"server": f"http://127.0.0.1:{self.port}"}}
        config = {
            "current-context": "proxy",
            "contexts": [context],
            "clusters": [cluster],
            "users": [{"name": "proxy", "user": {"token": "the proxy has its own"}}],
        }
        path.write_text(yaml.safe_dump(config))
        return path

    def _cut(self) -> None:
        for transport in self._open:
            transport.abort()

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._ended = asyncio.Event()
        configuration = Configuration()
        await load_kube_config(config_file=str(self._kubeconfig), client_configuration=configuration)
        async with ApiClient(configuration) as client:
            self._client = client
            application = web.Application()
            application.router.add_route("*", "/{path:.*}", self._pass_on)
            runner = web.AppRunner(application, access_log=None, shutdown_timeout=0.1, handler_cancellation=True)
            await runner.setup()
            site = web.TCPSite(runner, "127.0.0.1", 0)
            await site.start()
            self.port = runner.addresses[0][1]
            self._ready.set()
            await self._ended.wait()
            self._cut()
            await runner.cleanup()
        await asyncio.sleep(0.25)  # the client's TLS connections need some turns of the loop to close

    async def _hush(self, watch: bool) -> None:
        while watch and self.silent:  # noqa: ASYNC110  set from the thread of a test
            await asyncio.sleep(0.05)

    async def _pass_on(self, request: web.Request) -> web.StreamResponse:
        watch = "watch" in request.query
        self.requests.append(f"watch {request.path}" if watch else request.path)
        transport = request.transport
        assert isinstance(transport, asyncio.Transport)
        if self._away:
            transport.abort()
            return web.Response()
        if watch and self._forgetful and request.path not in self._forgotten:
            self._forgotten.add(request.path)
            return web.Response(text=json.dumps({"type": "ERROR", "object": EXPIRED}) + "\n")
        query = dict(request.query)
        if watch and self.watch_seconds is not None:
            query["timeoutSeconds"] = str(self.watch_seconds)
        headers = {name: request.headers[name] for name in ("Accept", "Content-Type") if name in request.headers}
        body = await request.json() if request.can_read_body else None
        call = await self._client.param_serialize(
            request.method,
            request.path,
            query_params=list(query.items()),
            header_params=headers,
            body=body,
            auth_settings=["BearerToken"],
        )
        self._open.add(transport)
        try:
            answer = (await self._client.call_api(*call, _request_timeout=aiohttp.ClientTimeout(total=None))).response
            async with answer:
                response = web.StreamResponse(status=answer.status, headers={"Content-Type": answer.content_type})
                await response.prepare(request)
                await self._hush(watch)
                async for chunk in answer.content.iter_any():
                    await response.write(chunk)
                    await self._hush(watch)
                await self._hush(watch)
                await response.write_eof()
            return response
        finally:
            self._open.discard(transport)


@contextmanager
def api_proxy(kubeconfig: Path) -> Iterator[ApiProxy]:
    """A proxy for the time of a `with` statement."""
    proxy = ApiProxy(kubeconfig)
    proxy.start()
    try:
        yield proxy
    finally:
        proxy.stop()
