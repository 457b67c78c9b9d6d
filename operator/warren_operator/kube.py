"""The few calls to the Kubernetes API that the operator makes, over one HTTP session.

A narrow client of our own: it has no client-side rate limit, keeps answers as plain JSON, and spares the image the
100 MB of the full client library.
"""

import asyncio
import base64
import json
import ssl
import tempfile
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import aiohttp
import yaml

from warren_contract.settings import SettingError

SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")

REQUEST_LIMIT = 10.0
"""Seconds for one answer. A healthy API server needs milliseconds; the watch shows what became of a slower one."""

SILENCE_LIMIT = 75.0
"""Seconds without a byte on a watch until it counts as dead. The API server sends a bookmark each 60 s or so."""

TOKEN_AGE = 60.0
"""Seconds a service account's token is used before it is read again; Kubernetes renews it well before it expires."""

MERGE_PATCH = "application/merge-patch+json"
JSON_PATCH = "application/json-patch+json"


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
    def conflict(self) -> bool:
        """Whether the object is no longer as the request expected it (a failed `test` of a JSON patch is a 422)."""
        return self.code in (409, 422)


@dataclass(frozen=True, slots=True)
class ClusterAccess:
    """How to reach the API server.

    Attributes:
        server: base URL.
        tls: trust, and the client's certificate where there is one.
        token_file: holds a bearer token, and is read again as it is renewed.
        token: a bearer token that does not change.
    """

    server: str
    tls: ssl.SSLContext
    token_file: Path | None = None
    token: str = field(default="", repr=False)


def find_cluster(environ: Mapping[str, str]) -> ClusterAccess:
    """The cluster this process runs in; else the current context of the kubeconfig that `KUBECONFIG` names.

    Raises:
        SettingError: there is neither, or the kubeconfig needs a program to log in.
    """
    host, port = environ.get("KUBERNETES_SERVICE_HOST", ""), environ.get("KUBERNETES_SERVICE_PORT", "443")
    if host and (SERVICE_ACCOUNT / "token").exists():
        address = f"[{host}]" if ":" in host else host
        tls = ssl.create_default_context(cafile=str(SERVICE_ACCOUNT / "ca.crt"))
        return ClusterAccess(f"https://{address}:{port}", tls, token_file=SERVICE_ACCOUNT / "token")
    path = environ.get("KUBECONFIG", "")
    if not path:
        raise SettingError("no Kubernetes cluster: run in a pod with a service account, or set KUBECONFIG")
    try:
        return _from_kubeconfig(yaml.safe_load(Path(path).read_text("utf-8")), Path(path).parent)
    except (OSError, yaml.YAMLError, KeyError, TypeError, ValueError) as error:
        raise SettingError(f"KUBECONFIG={path!r} cannot be used: {error!r}") from error


def _from_kubeconfig(config: Mapping[str, Any], folder: Path) -> ClusterAccess:
    context = _named(config["contexts"], config["current-context"])["context"]
    cluster = _named(config["clusters"], context["cluster"])["cluster"]
    user = _named(config["users"], context["user"])["user"]
    if "exec" in user or "auth-provider" in user:
        raise ValueError("its user logs in through a program; use a token or a client certificate")
    authority = _pem(cluster, "certificate-authority", folder)
    tls = ssl.create_default_context(cadata=authority or None)
    if cluster.get("insecure-skip-tls-verify"):
        tls.check_hostname = False
        tls.verify_mode = ssl.CERT_NONE
    certificate, key = _pem(user, "client-certificate", folder), _pem(user, "client-key", folder)
    if certificate and key:
        with tempfile.NamedTemporaryFile("w", suffix=".pem") as pair:  # ssl takes a client certificate from a file only
            pair.write(f"{certificate}\n{key}\n")
            pair.flush()
            tls.load_cert_chain(pair.name)
    token_file = user.get("tokenFile")
    return ClusterAccess(
        cluster["server"].rstrip("/"), tls, Path(token_file) if token_file else None, user.get("token", "")
    )


def _named(entries: list[Mapping[str, Any]], name: str) -> Mapping[str, Any]:
    for entry in entries:
        if entry["name"] == name:
            return entry
    raise KeyError(name)


def _pem(section: Mapping[str, Any], key: str, folder: Path) -> str:
    if f"{key}-data" in section:
        return base64.b64decode(section[f"{key}-data"]).decode()
    return (folder / section[key]).read_text("utf-8") if key in section else ""


class Api:
    """A session with the API server. Use as an async context manager."""

    def __init__(self, access: ClusterAccess) -> None:
        self._access = access
        self._session: aiohttp.ClientSession | None = None
        self._token = access.token
        self._token_read_at = float("-inf")

    async def __aenter__(self) -> Self:
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(ssl=self._access.tls, limit=64),
            headers={"User-Agent": "warren-operator", "Accept": "application/json"},
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._session is not None:
            await self._session.close()

    async def request(
        self,
        method: str,
        path: str,
        *,
        body: object = None,
        content_type: str = "application/json",
        params: Mapping[str, str] | None = None,
    ) -> Any:
        """Send a request and return the answer's JSON.

        Raises:
            KubeError: refused, or no answer within `REQUEST_LIMIT` seconds.
        """
        data = None if body is None else json.dumps(body).encode()
        headers = {**self._authorization(), "Content-Type": content_type}
        timeout = aiohttp.ClientTimeout(total=REQUEST_LIMIT)
        try:
            async with self._open.request(
                method, self._access.server + path, data=data, params=params, headers=headers, timeout=timeout
            ) as answer:
                content = await answer.read()
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise _unreachable(error) from error
        return _answer(answer.status, content)

    async def stream(self, path: str, params: Mapping[str, str]) -> AsyncIterator[Any]:
        """The JSON objects of a watch, one a line, until the server ends it.

        Raises:
            KubeError: refused, cut off, or silent for `SILENCE_LIMIT` seconds.
        """
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=REQUEST_LIMIT, sock_read=SILENCE_LIMIT)
        try:
            async with self._open.get(
                self._access.server + path, params=params, headers=self._authorization(), timeout=timeout
            ) as answer:
                if answer.status != 200:
                    _answer(answer.status, await answer.read())
                rest = b""
                async for chunk in answer.content.iter_any():
                    *lines, rest = (rest + chunk).split(b"\n")
                    for line in lines:
                        yield json.loads(line)
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
            raise _unreachable(error) from error

    @property
    def _open(self) -> aiohttp.ClientSession:
        if self._session is None:
            raise RuntimeError("use the API client with `async with`")
        return self._session

    def _authorization(self) -> dict[str, str]:
        now = asyncio.get_running_loop().time()
        if self._access.token_file is not None and now - self._token_read_at > TOKEN_AGE:
            try:
                self._token = self._access.token_file.read_text("utf-8").strip()
            except OSError as error:
                raise KubeError(0, "Unreachable", f"cannot read the service account's token: {error}") from error
            self._token_read_at = now
        return {"Authorization": f"Bearer {self._token}"} if self._token else {}


def _unreachable(error: BaseException) -> KubeError:
    text = str(error) or type(error).__name__
    return KubeError(0, "Unreachable", f"the Kubernetes API cannot be reached: {text}")


def _answer(code: int, content: bytes) -> Any:
    try:
        body = json.loads(content) if content else {}
    except ValueError:
        body = {}
    if code < 400:
        return body
    status = body if isinstance(body, dict) else {}
    message = status.get("message") or content[:300].decode(errors="replace") or f"HTTP {code}"
    raise KubeError(code, str(status.get("reason") or code), message)
