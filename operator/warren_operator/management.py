"""The few calls to RabbitMQ's management API that the operator makes: listings, and policies."""

import json
import ssl
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import quote

import aiohttp

from warren_contract.settings import BrokerSettings, SettingError

ANSWER_LIMIT = 20.0
"""Seconds. The largest listing, 10,000 queues, took over 10 while two cores were declaring them."""

CONNECT_LIMIT = 5.0
"""Seconds until a connection stands: an address that leads nowhere is told sooner."""


class ManagementUnavailable(Exception):
    """The management API cannot be used; the message says why and what to do."""


class Management:
    """Calls for one virtual host; each opens a session of its own, because idle ones get dropped and calls are rare."""

    def __init__(self, load: Callable[[], BrokerSettings], allowed: Callable[[], bool] = lambda: True) -> None:
        """Args:
        load: reads the broker's settings.
        allowed: whether policies may be changed right now. Not while another operator may have taken over, whose list
            of WorkQueues is newer. (Declaring needs no such leave: an old list makes at most a queue too many.)
        """
        self._load = load
        self._allowed = allowed

    async def queues(self) -> list[dict[str, Any]]:
        """Each queue with its type, arguments, effective policy and totals, by the cheap variant of the listing.

        Raises:
            ManagementUnavailable: it cannot be had.
        """
        return await self._get("queues/{vhost}?disable_stats=true&enable_queue_totals=true", "name")

    async def exchanges(self) -> list[dict[str, Any]]:
        """Each exchange with its type."""
        return await self._get("exchanges/{vhost}", "name", "type")

    async def bindings(self, exchange: str) -> list[dict[str, Any]]:
        """The bindings from an exchange."""
        path = f"exchanges/{{vhost}}/{quote(exchange, safe='')}/bindings/source"
        return await self._get(path, "destination", "routing_key")

    async def policies(self) -> list[dict[str, Any]]:
        """The user policies of the virtual host."""
        return await self._get("policies/{vhost}", "name", "pattern")

    async def default_queue_type(self) -> str:
        """What a queue becomes that is declared without a type.

        Taken from the list of all virtual hosts, because one alone is shown to administrators only.
        """
        vhost = self._settings().vhost
        found = next((body for body in await self._get("vhosts", "name") if body["name"] == vhost), {})
        return str(found.get("default_queue_type", "classic"))

    async def put_policy(self, name: str, body: Mapping[str, Any]) -> bool:
        """Make or replace a policy; returns whether that was allowed."""
        return await self._change("PUT", name, body)

    async def delete_policy(self, name: str) -> bool:
        """Delete a policy; returns whether that was allowed."""
        return await self._change("DELETE", name)

    async def _change(self, method: str, policy: str, body: Mapping[str, Any] | None = None) -> bool:
        if not self._allowed():
            return False
        await self._request(method, f"policies/{{vhost}}/{quote(policy, safe='')}", body)
        return True

    def _settings(self) -> BrokerSettings:
        try:
            return self._load()
        except SettingError as error:
            raise ManagementUnavailable(str(error)) from error

    async def _get(self, path: str, *keys: str) -> list[dict[str, Any]]:
        """A listing whose items have these keys at least.

        Raises:
            ManagementUnavailable: it cannot be had, or what answers is no management API.
        """
        content = await self._request("GET", path)
        try:
            listing = json.loads(content)
        except ValueError:
            listing = None
        if isinstance(listing, list) and all(
            isinstance(item, dict) and all(key in item for key in keys) for item in listing
        ):
            return listing
        raise ManagementUnavailable(
            f"what answers at {self._settings().management_url} is not RabbitMQ's management API: it says "
            f"{content[:60].decode(errors='replace')!r}; see that management-url in the operator's Secret leads to it, "
            "and that nothing in between asks for a login"
        )

    async def _request(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> bytes:
        settings = self._settings()
        if settings.management_url is None:
            raise ManagementUnavailable("the broker's management API is not known: set management-url in its Secret")
        url = f"{settings.management_url}/api/{path.format(vhost=quote(settings.vhost, safe=''))}"
        try:
            tls = _tls(settings) if url.startswith("https") else True
            async with (
                aiohttp.ClientSession(
                    connector=aiohttp.TCPConnector(ssl=tls),
                    timeout=aiohttp.ClientTimeout(total=ANSWER_LIMIT, sock_connect=CONNECT_LIMIT),
                ) as session,
                session.request(
                    method,
                    url,
                    data=None if body is None else json.dumps(body).encode(),
                    headers={
                        "Authorization": aiohttp.encode_basic_auth(settings.username, settings.password),
                        "Content-Type": "application/json",
                    },
                ) as answer,
            ):
                content = await answer.read()
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            late = f"no answer within {ANSWER_LIMIT:g} s" if isinstance(error, TimeoutError) else type(error).__name__
            text = str(error) or late
            raise ManagementUnavailable(
                f"the broker's management API cannot be reached: {text}; see that the plugin rabbitmq_management is on "
                "and that management-url in the operator's Secret leads to it; until then no worker is taken away"
            ) from error
        if answer.status == 404 and method == "DELETE":
            return b""
        if answer.status >= 400:
            said = f"{answer.status} {content[:200].decode(errors='replace')}{_advice(answer.status)}"
            raise ManagementUnavailable(f"the broker's management API refused {method} {url}: {said}")
        return content


def _tls(settings: BrokerSettings) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=None if settings.ca_file is None else str(settings.ca_file))
    except (OSError, ValueError) as error:  # SSLError is an OSError
        raise ManagementUnavailable(
            f"the certificates in {settings.ca_file} cannot be read: {error}; put the broker's CA in PEM there"
        ) from error


def _advice(code: int) -> str:
    if code == 401:
        return " (give the operator's user its right password and the tags policymaker and monitoring)"
    if code == 403:
        return " (give the operator's user the tags policymaker and monitoring, and all rights in the virtual host)"
    return ""
