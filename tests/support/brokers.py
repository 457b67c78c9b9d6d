"""A real RabbitMQ in a container, and the topology that the operator declares in an installed Warren."""

import json
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import httpx
import pika
from chart import BrokerFiles, Values, broker_files
from pika.adapters.blocking_connection import BlockingChannel
from pika.exceptions import AMQPError
from testcontainers.core.container import DockerContainer

from warren_contract.names import DEAD_EXCHANGE, EVENTS_EXCHANGE, TASKS_EXCHANGE, dead_queue
from warren_contract.settings import BrokerSettings

IMAGES = Path(__file__).resolve().parents[2] / ".cluster" / "images.json"
"""Written by the tools: which image stands for which name on this machine."""

ADMIN = "admin"
PASSWORD = "a-password-for-one-test-run"
START_LIMIT = 120.0
"""Seconds until the broker must take connections; 4 are usual."""


@dataclass(frozen=True, slots=True)
class Broker:
    """A running broker.

    Attributes:
        host: where its ports are published.
        amqp_port: of AMQP there.
        management_port: of the management API there.
        container: name of its container.
        passwords: of the parts' users, by part: producer, worker, operator; the user is `warren-<part>`.
    """

    host: str
    amqp_port: int
    management_port: int
    container: str
    passwords: Mapping[str, str]

    def settings(self, user: str = ADMIN, password: str = PASSWORD) -> BrokerSettings:
        """Broker settings for a user; the administrator by default."""
        return BrokerSettings(
            host=self.host,
            port=self.amqp_port,
            vhost="/",
            username=user,
            password=password,
            management_url=f"http://{self.host}:{self.management_port}",
        )

    def environment(self, user: str = ADMIN, password: str = PASSWORD) -> dict[str, str]:
        """The same as variables of a part's environment."""
        settings = self.settings(user, password)
        return {
            "WARREN_BROKER_HOST": settings.host,
            "WARREN_BROKER_PORT": str(settings.port),
            "WARREN_BROKER_VHOST": settings.vhost,
            "WARREN_BROKER_USERNAME": settings.username,
            "WARREN_BROKER_PASSWORD": settings.password,
            "WARREN_BROKER_MANAGEMENT_URL": settings.management_url or "",
        }

    def ctl(self, *arguments: str) -> str:
        """Run `rabbitmqctl` in the container and return what it prints."""
        command = ["docker", "exec", self.container, "rabbitmqctl", "--quiet", *arguments]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
        assert done.returncode == 0, f"{' '.join(command)}: {done.stdout}{done.stderr}"
        return done.stdout

    def restarted(self) -> "Broker":
        """Stop the container in good order and start it on its data; the broker after that, on other ports."""
        for action in ("stop", "start"):
            subprocess.run(["docker", action, self.container], capture_output=True, timeout=120, check=True)
        broker = replace(self, amqp_port=self.published(5672), management_port=self.published(15672))
        _wait_until_open(broker)
        return broker

    def published(self, port: int) -> int:
        """Where clients reach a port of the container."""
        shown = subprocess.run(
            ["docker", "port", self.container, str(port)], capture_output=True, text=True, timeout=60, check=True
        )
        return int(shown.stdout.split()[0].rsplit(":", 1)[1])

    def write_temporary(self, name: str, content: bytes) -> None:
        """Write a file to the container's `/tmp`, which is all that can be written there."""
        command = ["docker", "exec", "--interactive", self.container, "tee", f"/tmp/{name}"]  # noqa: S108
        subprocess.run(command, input=content, capture_output=True, timeout=60, check=True)

    def ready(self, queue: str) -> int:
        """Messages that wait in `queue`."""
        with self.channel() as channel:
            return int(channel.queue_declare(queue, passive=True).method.message_count)

    def drain(self, queue: str) -> list[tuple[Any, bytes]]:
        """Properties and bodies of all messages of `queue`, taken out."""
        found: list[tuple[Any, bytes]] = []
        with self.channel() as channel:
            for method, properties, body in channel.consume(queue, auto_ack=True, inactivity_timeout=0.5):
                if method is None or properties is None or body is None:
                    return found
                found.append((properties, body))
        return found

    @contextmanager
    def channel(self, user: str = ADMIN, password: str = PASSWORD) -> Iterator[BlockingChannel]:
        """A channel on a connection of its own."""
        connection = pika.BlockingConnection(
            pika.ConnectionParameters(
                host=self.host,
                port=self.amqp_port,
                credentials=pika.PlainCredentials(user, password),
                blocked_connection_timeout=30,
                heartbeat=30,
            )
        )
        try:
            yield connection.channel()
        finally:
            if connection.is_open:
                connection.close()


def administer(broker: Broker, method: str, path: str, body: Mapping[str, object] | None = None) -> None:
    """A call to the management API, which is quicker than rabbitmqctl by a second."""
    url = f"http://{broker.host}:{broker.management_port}/api/{path}"
    httpx.request(method, url, json=body, auth=(ADMIN, PASSWORD), timeout=30).raise_for_status()


def image() -> str:
    """The RabbitMQ image of this machine: what the tools resolved, else whichever of both the engine has."""
    name = "rabbitmq:4.3-management"
    resolved = [str(json.loads(IMAGES.read_text("utf-8")).get("rabbitmq", name))] if IMAGES.is_file() else []
    for candidate in (*resolved, name, f"warren-stand-in/{name}"):
        found = subprocess.run(["docker", "image", "inspect", candidate], capture_output=True, timeout=60, check=False)
        if found.returncode == 0:
            return candidate
    return name  # Docker pulls it


@contextmanager
def running_broker(values: Values | None = None) -> Iterator[Broker]:
    """A broker on the configuration that the chart gives it, contained as its pod is, with an administrator besides.

    Args:
        values: of the chart.
    """
    files = broker_files(values)
    with tempfile.TemporaryDirectory(prefix="warren-broker-") as folder, _container(files, Path(folder)) as container:
        broker = Broker(
            host=container.get_container_host_ip(),
            amqp_port=int(container.get_exposed_port(5672)),
            management_port=int(container.get_exposed_port(15672)),
            container=str(container.get_wrapped_container().name),
            passwords=files.passwords,
        )
        _wait_until_open(broker)
        yield broker


def _container(files: BrokerFiles, folder: Path) -> DockerContainer:
    configuration, secret = files.write(folder, further_user=(ADMIN, PASSWORD))
    return (
        DockerContainer(image())
        .with_exposed_ports(5671, 5672, 15672)
        .with_env("RABBITMQ_USE_LONGNAME", "true")
        .with_volume_mapping(str(configuration), "/etc/rabbitmq", "ro")
        .with_volume_mapping(str(secret), "/etc/warren/rabbitmq", "ro")
        # The data stays where the image has its volume, so that a test can stop and start the container.
        .with_tmpfs_mount("/tmp")  # noqa: S108  inside the container
        .with_tmpfs_mount("/var/log/rabbitmq")
        .with_command(list(files.command[1:]))
        .with_kwargs(
            entrypoint=files.command[0],
            hostname="warren-rabbitmq-0.warren-rabbitmq-nodes.warren.svc.cluster.local",
            user="999:999",
            read_only=True,
            cap_drop=["ALL"],
            security_opt=["no-new-privileges"],
        )
    )


def declare_exchanges(channel: BlockingChannel) -> None:
    """Warren's three exchanges."""
    for name, kind in ((TASKS_EXCHANGE, "direct"), (DEAD_EXCHANGE, "direct"), (EVENTS_EXCHANGE, "topic")):
        channel.exchange_declare(name, kind, durable=True)


def declare_work_queue(channel: BlockingChannel, queue: str) -> None:
    """A work queue with its dead-letter queue and their bindings, exchanges included."""
    declare_exchanges(channel)
    for name, exchange in ((queue, TASKS_EXCHANGE), (dead_queue(queue), DEAD_EXCHANGE)):
        channel.queue_declare(name, durable=True)
        channel.queue_bind(name, exchange, queue)


def _wait_until_open(broker: Broker) -> None:
    deadline = time.monotonic() + START_LIMIT
    while True:
        try:
            with broker.channel():
                return
        except (AMQPError, OSError) as error:
            if time.monotonic() > deadline:
                raise TimeoutError(f"the broker did not start within {START_LIMIT:g} s") from error
            time.sleep(0.2)
