"""toxiproxy as a process of our own, and its HTTP API: connections that are dropped, slow, silent or torn."""

import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx
from waiting import eventually

from tools.cluster.build import Cache, ensure_built
from tools.cluster.places import places
from tools.cluster.programs import TOXIPROXY
from tools.console import Console

START_LIMIT = 30.0
"""Seconds until it answers; it takes milliseconds."""


CALL_LIMIT = 10.0
"""Seconds for an answer; toxiproxy itself gives up after as many."""


class Stuck(Exception):
    """toxiproxy cannot say or change anything of a proxy any more.

    Where a connection ends while a toxic is added or taken away, each of the two may wait for the other, for good: seen
    once in an hour of faults. Only `restart` helps.
    """


@dataclass(frozen=True)
class Toxiproxy:
    """A running toxiproxy.

    Attributes:
        api: client of its API.
        start: starts its process.
        processes: the one that runs, at the end.
        proxies: name → where it listens, where it leads to.
    """

    api: httpx.Client
    start: Callable[[], "subprocess.Popen[bytes]"]
    processes: list["subprocess.Popen[bytes]"] = field(default_factory=list)
    proxies: dict[str, tuple[str, str]] = field(default_factory=dict)

    def begin(self) -> None:
        """Start it, and wait until it answers."""
        process = self.start()
        self.processes.append(process)

        def answers() -> bool:
            assert process.poll() is None, "toxiproxy has ended: see its log"
            try:
                return self.api.get("/version").is_success
            except httpx.ConnectError:
                return False

        eventually(answers, "toxiproxy answers", limit=START_LIMIT)

    def end(self) -> None:
        """End it, and all connections with it."""
        for process in self.processes:
            process.terminate()
            process.wait(10)
        self.processes.clear()

    def restart(self) -> None:
        """Start it anew with the same proxies and without any toxic; all connections end."""
        self.end()
        self.begin()
        for name, (listen, upstream) in [*self.proxies.items()]:
            self.create(name, listen, upstream)

    def create(self, name: str, listen: str, upstream: str) -> str:
        """Listen at `listen` and pass everything on to `upstream`, both `host:port`; returns where it listens."""
        answer = self._call("POST", "/proxies", {"name": name, "listen": listen, "upstream": upstream})
        found = str(answer.json()["listen"])
        self.proxies[name] = (found, upstream)
        return found

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
        try:
            answer = self.api.request(method, path, json=body)
        except httpx.TimeoutException as error:
            raise Stuck from error
        if answer.status_code == httpx.codes.SERVICE_UNAVAILABLE:
            raise Stuck
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

    def start() -> "subprocess.Popen[bytes]":
        with log.open("ab") as output:
            command = [*enter, str(program()), "-host", address, "-port", str(port)]
            return subprocess.Popen(command, stdout=output, stderr=output)

    with httpx.Client(base_url=f"http://{address}:{port}", timeout=CALL_LIMIT, trust_env=False) as api:
        toxic = Toxiproxy(api, start)
        try:
            toxic.begin()
            yield toxic
        finally:
            toxic.end()
