"""toxiproxy as a process of our own, and its HTTP API: connections that are dropped, slow, silent or torn."""

import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
from waiting import eventually

from tools.cluster.build import Cache, ensure_built
from tools.cluster.places import places
from tools.cluster.programs import TOXIPROXY
from tools.console import Console

START_LIMIT = 30.0
"""Seconds until it answers; it takes milliseconds."""

ANSWER_LIMIT = 120.0
"""Seconds for an answer of its API. To take a toxic away it passes on first what the toxic still holds, and all of the
API waits meanwhile: for as long as whoever is to get it is frozen or cut off, which is up to 45 s."""


@dataclass(frozen=True)
class Toxiproxy:
    """A running toxiproxy.

    Attributes:
        api: client of its API.
    """

    api: httpx.Client

    def create(self, name: str, listen: str, upstream: str) -> str:
        """Listen at `listen` and pass everything on to `upstream`, both `host:port`; returns where it listens."""
        answer = self._call("POST", "/proxies", {"name": name, "listen": listen, "upstream": upstream})
        return str(answer.json()["listen"])

    def enable(self, name: str, *, on: bool) -> None:
        """Off: end all connections and take no more."""
        self._call("POST", f"/proxies/{name}", {"enabled": on})

    def poison(self, name: str, toxic: str, stream: str = "downstream", **attributes: int) -> None:
        """Add a toxic to all connections of a proxy, those that are there included.

        Args:
            name: of the proxy.
            toxic: its type: latency, bandwidth, timeout, reset_peer, slicer …
            stream: `upstream` is from client to server.
            attributes: of the toxic, as in toxiproxy's own documentation.
        """
        body = {"name": f"{toxic}-{stream}", "type": toxic, "stream": stream, "attributes": attributes}
        self._call("POST", f"/proxies/{name}/toxics", body)

    def cure(self, name: str) -> None:
        """Take all toxics away; connections live on."""
        for toxic in self._call("GET", f"/proxies/{name}/toxics").json():
            self._call("DELETE", f"/proxies/{name}/toxics/{toxic['name']}")

    def _call(self, method: str, path: str, body: Mapping[str, object] | None = None) -> httpx.Response:
        answer = self.api.request(method, path, json=body)
        assert answer.is_success, f"{method} {path}: {answer.status_code} {answer.text}"
        return answer


def program() -> Path:
    """The program, built if need be."""
    cache = Cache(places().cache)
    ensure_built((TOXIPROXY,), cache, Console())
    return cache.program(TOXIPROXY, TOXIPROXY.programs[0])


@contextmanager
def toxiproxy(address: str, port: int, log: Path, enter: Sequence[str] = ()) -> Iterator[Toxiproxy]:
    """toxiproxy for the time of a `with` statement.

    Args:
        address, port: where its API listens.
        log: for what it prints.
        enter: put before its command line, to start it in a network namespace.
    """
    with log.open("wb") as output:
        process = subprocess.Popen(
            [*enter, str(program()), "-host", address, "-port", str(port)], stdout=output, stderr=output
        )
    try:
        with httpx.Client(base_url=f"http://{address}:{port}", timeout=ANSWER_LIMIT, trust_env=False) as api:

            def answers() -> bool:
                assert process.poll() is None, log.read_text("utf-8")
                try:
                    return api.get("/version").is_success
                except httpx.TransportError:
                    return False

            eventually(answers, "toxiproxy answers", limit=START_LIMIT)
            yield Toxiproxy(api)
    finally:
        process.terminate()
        process.wait(10)
