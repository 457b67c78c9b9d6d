"""The few calls to the Kubernetes API that the operator makes, through the asynchronous Kubernetes client.

Answers stay plain JSON: the operator keeps compact values of its own, and the client's models would cost more than all
the rest. The client has no rate limit of its own and repeats nothing by itself.
"""

import json
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import aiohttp
import yaml
from kubernetes.aio.client import ApiClient, Configuration
from kubernetes.aio.config import ConfigException, load_incluster_config, load_kube_config

from warren_contract.settings import SettingError

SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")

REQUEST_LIMIT = 10.0
"""Seconds for one answer. A healthy API server needs milliseconds; the watch shows what became of a slower one."""

CONNECTIONS = 64
"""Connections for calls; watches have theirs besides."""

TOKEN = "BearerToken"  # noqa: S105  the client's name for the credential, not the credential
MERGE_PATCH = "application/merge-patch+json"
JSON_PATCH = "application/json-patch+json"
JSON = "application/json"
METADATA = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"
"""Asks for a listing of names, uids and the like, without what is in the objects."""

_FAILURES = (aiohttp.ClientError, TimeoutError, OSError, ConfigException)
"""What keeps an answer from coming; the last is a token file that is empty just now."""


class KubeError(Exception):
    """The API server refused a request, or could not be reached.

    Attributes:
        code: HTTP status; 0 where there was no answer.
        reason: Kubernetes' word for it, such as `NotFound` or `Forbidden`; `Unreachable` where there was no answer.
    """

    def __init__(self, code: int, reason: str, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.reason = reason

    @property
    def gone(self) -> bool:
        """Whether the object is not there."""
        return self.code == 404

    @property
    def forbidden(self) -> bool:
        """Whether a permission is missing."""
        return self.code == 403

    @property
    def conflict(self) -> bool:
        """Whether the object is no longer as the request expected it (a failed `test` of a JSON patch is a 422)."""
        return self.code in (409, 422)


async def find_cluster(environ: Mapping[str, str]) -> Configuration:
    """The cluster this process runs in; else the current context of the kubeconfig that `KUBECONFIG` names.

    In a pod the service account's token is read again each minute, since Kubernetes renews it. The token of a
    kubeconfig, or of the login program that it names, is read once: it serves a person who tries something out.

    Raises:
        SettingError: there is neither, or the kubeconfig cannot be used.
    """
    # The client would take proxies and passwords from the environment; a proxy is named in the kubeconfig.
    found = Configuration(client_session_kwargs={"trust_env": False})
    in_pod = bool(environ.get("KUBERNETES_SERVICE_HOST")) and (SERVICE_ACCOUNT / "token").exists()
    path = environ.get("KUBECONFIG", "")
    if not in_pod and not path:
        raise SettingError("no Kubernetes cluster: run in a pod with a service account, or set KUBECONFIG")
    try:
        if in_pod:
            load_incluster_config(client_configuration=found)
        else:
            await load_kube_config(config_file=path, client_configuration=found, persist_config=False)
        async with ApiClient(found):
            pass  # reads the certificates: what is wrong with them is told now
    except (ConfigException, OSError, yaml.YAMLError, ValueError, TypeError) as error:
        where = f"the service account in {SERVICE_ACCOUNT}" if in_pod else f"KUBECONFIG={path!r}"
        raise SettingError(f"{where} cannot be used: {error}") from error
    return found


class Api:
    """A session with the API server. Use as an async context manager.

    Attributes:
        configuration: where the API server is, and how to log in.
    """

    def __init__(self, configuration: Configuration, watches: int = 0) -> None:
        """Args:
        configuration: as found.
        watches: streams that may be open at a time, besides the other calls.
        """
        self.configuration = configuration
        configuration.connection_pool_maxsize = CONNECTIONS + watches
        self._client: ApiClient | None = None

    async def __aenter__(self) -> Self:
        self._client = ApiClient(self.configuration)
        self._client.user_agent = "warren-operator"
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._client is not None:
            await self._client.close()

    async def request(
        self,
        method: str,
        path: str,
        *,
        body: object = None,
        media: str = JSON,
        params: Mapping[str, str] | None = None,
    ) -> Any:
        """Send a request and return the answer's JSON.

        Args:
            method: of HTTP.
            path: of the object or list.
            body: to send as JSON.
            media: type of the body where there is one, else of the answer that is asked for.
            params: of the query.

        Raises:
            KubeError: refused, or no answer within `REQUEST_LIMIT` seconds.
        """
        headers = {"Accept": media} if body is None else {"Accept": JSON, "Content-Type": media}
        call = _Call(method, path, params or {}, headers, body)
        try:
            async with await self._send(call, aiohttp.ClientTimeout(total=REQUEST_LIMIT)) as answer:
                content = await answer.read()
        except _FAILURES as error:
            raise _unreachable(error) from error
        return _answer(answer.status, content)

    @asynccontextmanager
    async def watch(self, path: str, params: Mapping[str, str], silence: float) -> AsyncIterator[AsyncIterator[Any]]:
        """A watch that the server has accepted: its events, until the server ends it.

        Args:
            path: of the list.
            params: of the watch.
            silence: seconds without a byte until the connection counts as dead.

        Raises:
            KubeError: refused; while reading the events: cut off, or silent for too long.
        """
        limits = aiohttp.ClientTimeout(total=None, sock_connect=REQUEST_LIMIT, sock_read=silence)
        try:
            answer = await self._send(_Call("GET", path, params, {"Accept": JSON}), limits)
            if answer.status != 200:
                _answer(answer.status, await answer.read())
        except _FAILURES as error:
            raise _unreachable(error) from error
        async with answer:
            yield _events(answer)

    async def _send(self, call: "_Call", limits: aiohttp.ClientTimeout) -> aiohttp.ClientResponse:
        if self._client is None:
            raise RuntimeError("use the API client with `async with`")
        method, url, headers, *_ = await self._client.param_serialize(
            call.method,
            call.path,
            query_params=list(call.params.items()),
            header_params=dict(call.headers),
            auth_settings=[TOKEN],
        )
        # The body is plain JSON already; looking through it for the client's models takes a quarter of a call's time.
        answer = await self._client.call_api(method, url, headers, call.body, _request_timeout=limits)
        response: aiohttp.ClientResponse = answer.response
        return response


class Changes:
    """The calls that change something. Each asks for leave right before it is sent, so that nothing that began earlier
    goes on once another operator acts."""

    def __init__(self, api: Api, allowed: Callable[[], bool]) -> None:
        """Args:
        api: session.
        allowed: whether anything may be changed right now.
        """
        self._api = api
        self._allowed = allowed

    async def request(self, method: str, path: str, *, body: object, media: str = JSON) -> None:
        """Send a request.

        Raises:
            KubeError: not allowed, refused, or no answer within `REQUEST_LIMIT` seconds.
        """
        if not self._allowed():
            raise KubeError(0, "StandingBy", "the lease could not be renewed: nothing is changed until it is")
        await self._api.request(method, path, body=body, media=media)


@dataclass(frozen=True, slots=True)
class _Call:
    method: str
    path: str
    params: Mapping[str, str]
    headers: Mapping[str, str]
    body: object = None


async def _events(answer: aiohttp.ClientResponse) -> AsyncIterator[Any]:
    """JSON objects, one a line."""
    rest = b""
    try:
        async for chunk in answer.content.iter_any():
            *lines, rest = (rest + chunk).split(b"\n")
            for line in lines:
                yield json.loads(line)
    except (*_FAILURES, ValueError) as error:
        raise _unreachable(error) from error


def _unreachable(error: BaseException) -> KubeError:
    text = str(error) or type(error).__name__
    return KubeError(0, "Unreachable", f"the Kubernetes API cannot be reached: {text}")


def _answer(code: int, content: bytes) -> Any:
    try:
        body = json.loads(content)
    except ValueError:
        body = None
    if code < 400:
        if not isinstance(body, dict) or "kind" not in body:  # of something in between, or a part of an answer
            said = content[:60].decode(errors="replace")
            raise KubeError(
                0, "Unreachable", f"what answers is not the Kubernetes API, or was cut off: it says {said!r}"
            )
        return body
    status = body if isinstance(body, dict) else {}
    message = status.get("message") or content[:300].decode(errors="replace").strip() or f"HTTP {code}"
    raise KubeError(code, str(status.get("reason") or code), message)
