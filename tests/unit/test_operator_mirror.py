"""The copy of a kind of object, and an API server in whose place something else answers."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from aiohttp import web
from kubernetes.aio.client import Configuration

from warren_operator.kube import Api, KubeError
from warren_operator.mirror import Mirror, advice
from warren_operator.workloads import PODS, read_pod

LIMIT = 30.0

NO_PODS = '{"kind": "PodList", "metadata": {"resourceVersion": "1"}, "items": []}'


class Answers:
    """A server that answers every listing with a text, and brings nothing by a watch."""

    def __init__(self, text: str) -> None:
        self.text = text

    async def answer(self, request: web.Request) -> web.StreamResponse:
        """One call."""
        if "watch" not in request.query:
            return web.Response(text=self.text, content_type="text/html")
        stream = web.StreamResponse()
        await stream.prepare(request)
        await asyncio.sleep(LIMIT)
        return stream

    @asynccontextmanager
    async def api(self) -> AsyncIterator[Api]:
        """A session with it."""
        application = web.Application()
        application.router.add_route("*", "/{path:.*}", self.answer)
        runner = web.AppRunner(application, shutdown_timeout=0.1)
        await runner.setup()
        try:
            await web.TCPSite(runner, "127.0.0.1", 0).start()
            host, port = runner.addresses[0]
            configuration = Configuration()
            configuration.host = f"http://{host}:{port}"
            async with Api(configuration) as api:
                yield api
        finally:
            await runner.cleanup()


@pytest.mark.parametrize("text", ["<html>We will be back soon</html>", NO_PODS[:40], "", "null", '{"status": "off"}'])
async def test_what_is_no_api_server_is_told_until_there_is_one(text: str) -> None:
    """Such as the page of a load balancer between two API servers."""
    answers = Answers(text)
    async with answers.api() as api:
        mirror = Mirror(api, PODS, "jobs", read_pod, lambda _key, _before, _after: None)
        task = asyncio.create_task(mirror.run())
        try:
            async with asyncio.timeout(LIMIT):
                while not mirror.problem and not task.done():  # noqa: ASYNC110
                    await asyncio.sleep(0.01)
                assert "is not the Kubernetes API" in mirror.problem
                assert not mirror.synced
                answers.text = NO_PODS
                while mirror.problem:  # noqa: ASYNC110
                    await asyncio.sleep(0.01)
            assert mirror.synced
        finally:
            task.cancel()
            await asyncio.wait([task])


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (KubeError(401, "Unauthorized", "Unauthorized"), "see that the operator's service account is there"),
        (KubeError(429, "TooManyRequests", "too many requests"), "see what keeps the API server from answering"),
        (KubeError(500, "InternalError", "etcdserver: no leader"), "see what keeps the API server from answering"),
    ],
)
def test_each_refusal_says_what_to_do(error: KubeError, says: str) -> None:
    assert says in advice(error, PODS)
    assert str(error) in advice(error, PODS)
