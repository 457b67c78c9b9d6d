"""A producer as its own process, as in its pod."""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
from brokers import Broker
from ports import free_port
from waiting import eventually

SUBMIT_TOKEN = "submit-token-of-the-tests"
READ_TOKEN = "read-token-of-the-tests"
ADMIN_TOKEN = "admin-token-of-the-tests"

PYTHON_PATH = os.pathsep.join(path for path in sys.path if path)
"""So that a process runs the code that the tests import, whichever working copy is installed."""

LIMITS = httpx.Limits(max_connections=1000, max_keepalive_connections=1000)
"""More than any test has threads: where the library closes a spare one, a thread may just have been given it."""


@dataclass(frozen=True, slots=True)
class Producer:
    """A running producer.

    Attributes:
        url: of its API.
        tokens: folder with its token files.
        process: its process.
        log: file with what it prints.
    """

    url: str
    tokens: Path
    process: "subprocess.Popen[bytes]"
    log: Path

    def client(self, token: str | None = ADMIN_TOKEN) -> httpx.Client:
        """A client with this token."""
        headers = {} if token is None else {"Authorization": f"Bearer {token}"}
        return httpx.Client(base_url=self.url, headers=headers, timeout=30, trust_env=False, limits=LIMITS)

    def connect(self) -> socket.socket:
        """A bare connection, for what no HTTP library would send."""
        address = httpx.URL(self.url)
        return socket.create_connection((address.host, address.port or 80), timeout=30)

    def memory(self) -> int:
        """Bytes of its memory that are in use (Linux: VmRSS)."""
        status = Path(f"/proc/{self.process.pid}/status").read_text("ascii")
        return int(next(line for line in status.splitlines() if line.startswith("VmRSS:")).split()[1]) * 1024

    def wait_until_ready(self) -> None:
        """Until it can publish."""
        with self.client(None) as client:
            eventually(lambda: client.get("/readyz").text == "ready\n", "the producer is ready to publish")

    def stop(self, limit: float = 30.0) -> int:
        """SIGTERM, as Kubernetes sends it; returns the exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(limit)


def write_tokens(folder: Path) -> Path:
    """The three token files."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, token in (("submit", SUBMIT_TOKEN), ("read", READ_TOKEN), ("admin", ADMIN_TOKEN)):
        (folder / name).write_text(token + "\n")
    return folder


@contextmanager
def running_producer(
    broker: Mapping[str, str], folder: Path, *, program: Sequence[str] = ("-m", "warren_producer"), **settings: str
) -> Iterator[Producer]:
    """A producer that answers HTTP; whether it has found its broker is another matter.

    Args:
        broker: environment that names the broker.
        folder: for its tokens and its log.
        program: what Python runs.
        settings: further environment.
    """
    port = free_port()
    tokens = write_tokens(folder / "tokens")
    environ = {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": PYTHON_PATH,
        "WARREN_HTTP_PORT": str(port),
        "WARREN_TOKEN_DIR": str(tokens),
        "PYTHONUNBUFFERED": "1",
        **broker,
        **settings,
    }
    log = folder / "producer.log"
    with log.open("wb") as output:
        process = subprocess.Popen([sys.executable, *program], env=environ, stdout=output, stderr=output)
    producer = Producer(f"http://127.0.0.1:{port}", tokens, process, log)
    try:
        with producer.client(None) as client:
            eventually(lambda: _answers(client, process), f"the producer answers; its log: {log}")
        yield producer
    finally:
        if process.poll() is None:
            process.kill()
        process.wait(30)


@contextmanager
def ready_producer(broker: Broker, folder: Path, **settings: str) -> Iterator[Producer]:
    """A producer as its own broker user, once it can publish. The exchanges must be there."""
    with running_producer(producer_environment(broker), folder, **settings) as producer:
        producer.wait_until_ready()
        yield producer


def producer_environment(broker: Broker) -> dict[str, str]:
    """What names the broker and the producer's own user there."""
    return broker.environment("warren-producer", broker.passwords["producer"])


def submit_head(queue: str, more: str = "", *, batch: bool = False) -> bytes:
    """The head of a submit with a good token; `more` are further header lines, each with its end."""
    what = "tasks:batch" if batch else "tasks"
    return (
        f"POST /v1/queues/{queue}/{what} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {SUBMIT_TOKEN}\r\n{more}\r\n"
    ).encode()


def _answers(client: httpx.Client, process: "subprocess.Popen[bytes]") -> bool:
    assert process.poll() is None, f"the producer ended with code {process.returncode}"
    try:
        return client.get("/healthz").status_code == 200
    except httpx.ConnectError:
        return False
