"""What is no management API, and leave to change policies."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import pytest
from aiohttp import web

from warren_contract.settings import BrokerSettings
from warren_operator.management import Management, ManagementUnavailable


@asynccontextmanager
async def answering(text: str, asked: list[str] | None = None) -> AsyncIterator[str]:
    """A server that answers everything with this text; its address. What it is asked goes into `asked`."""

    async def answer(request: web.Request) -> web.Response:
        if asked is not None:
            asked.append(f"{request.method} {request.path}")
        return web.Response(text=text, content_type="text/html")

    application = web.Application()
    application.router.add_route("*", "/{path:.*}", answer)
    runner = web.AppRunner(application)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        host, port = runner.addresses[0]
        yield f"{host}:{port}"
    finally:
        await runner.cleanup()


def settings(url: str, ca_file: Path | None = None) -> BrokerSettings:
    """Settings with this management API."""
    return BrokerSettings("broker", 5672, "/", "user", "secret", management_url=url, ca_file=ca_file)


@pytest.mark.parametrize(
    "text",
    [
        "<html>please log in</html>",
        '{"please": "log in"}',
        '"please log in"',
        "",
        '["please", "log in"]',
        '[{"please": "log in"}]',
    ],
)
async def test_what_is_no_management_api_is_told_as_what_it_is(text: str) -> None:
    async with answering(text) as address:
        management = Management(lambda: settings(f"http://{address}"))
        with pytest.raises(ManagementUnavailable, match="management-url") as caught:
            await management.queues()
    assert text[:20] in str(caught.value)
    assert "secret" not in str(caught.value)


async def test_certificates_that_cannot_be_read_are_told_by_their_file(tmp_path: Path) -> None:
    ca_file = tmp_path / "ca.crt"
    ca_file.write_text("not a certificate\n")
    for file in (ca_file, tmp_path / "none.crt"):
        management = Management(partial(settings, "https://127.0.0.1:1", file))
        with pytest.raises(ManagementUnavailable, match=file.name):
            await management.queues()


async def test_policies_are_left_alone_without_leave() -> None:
    """While the lease cannot be renewed another operator may act, and know of newer WorkQueues."""
    asked: list[str] = []
    leave = False
    async with answering("{}", asked) as address:
        management = Management(lambda: settings(f"http://{address}"), lambda: leave)
        assert not await management.put_policy("warren.jobs.a", {})
        assert not await management.delete_policy("warren.jobs.a")
        assert asked == []
        leave = True
        assert await management.put_policy("warren.jobs.a", {})
        assert await management.delete_policy("warren.jobs.a")
    assert [line.split()[0] for line in asked] == ["PUT", "DELETE"]
