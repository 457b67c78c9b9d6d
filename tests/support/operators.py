"""The operator of an installed release, run beside the cluster: through proxies, and as a process of the test's own.

It has the rights of the release's operator, in Kubernetes and in the broker. The release's own one sleeps meanwhile.
"""

import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import httpx
import yaml
from api_proxy import ApiProxy, api_proxy
from kube import Kube
from proxies import Proxy, proxy_to
from waiting import eventually

HERE = Path(__file__).resolve().parent

END_LIMIT = 30.0
"""Seconds for the process to end; a fraction of one is normal."""

TOKEN_SECONDS = 3600


class LocalOperator:
    """The process, and the ways between it and the rest.

    Attributes:
        api: to the API server.
        amqp, management: to the broker.
        log: what it prints.
    """

    def __init__(self, api: ApiProxy, amqp: Proxy, management: Proxy, environ: dict[str, str], log: Path) -> None:
        self.api = api
        self.amqp = amqp
        self.management = management
        self.log = log
        self._environ = environ
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it, as Kubernetes would after its death."""
        with self.log.open("ab") as output:
            self._process = subprocess.Popen(
                [sys.executable, str(HERE / "hurried_operator.py")], env=self._environ, stdout=output, stderr=output
            )

    def kill(self) -> None:
        """End it at once (SIGKILL); nothing where there is none."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(END_LIMIT)
            self._process = None

    def freeze(self) -> None:
        """Stop it where it is, connections and all: as when its node has gone, for all that the others can see."""
        self._running().send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let it go on."""
        self._running().send_signal(signal.SIGCONT)

    def exit_code(self) -> int | None:
        """None while it runs."""
        return self._running().poll()

    def metric(self, name: str) -> float | None:
        """One without labels; None while the process does not answer."""
        try:
            text = httpx.get(f"http://127.0.0.1:{self._environ['WARREN_HEALTH_PORT']}/metrics", timeout=2).text
        except httpx.TransportError:
            return None
        found = re.search(rf"^warren_operator_{name} (\S+)$", text, re.MULTILINE)
        return None if found is None else float(found[1])

    def wait_until_it_serves(self) -> None:
        """Wait until it knows both sides, statistics included."""
        before = self.management.accepted

        def serves() -> bool:
            known = self.metric("broker_connected") == self.metric("topology_known") == self.metric("synced") == 1
            return known and self.management.accepted > before + 1

        eventually(serves, f"the operator serves; log: {self.log}")

    def _running(self) -> "subprocess.Popen[bytes]":
        assert self._process is not None
        return self._process


def service_account(kube: Kube, name: str, path: Path) -> Path:
    """Write a kubeconfig with a service account's own rights."""
    config = yaml.safe_load(kube.kubeconfig.read_text("utf-8"))
    token = kube.kubectl("create", "token", name, f"--duration={TOKEN_SECONDS}s").strip()
    config["users"] = [{"name": user["name"], "user": {"token": token}} for user in config["users"]]
    path.write_text(json.dumps(config), "utf-8")
    path.chmod(0o600)
    return path


@contextmanager
def operator_beside(kube: Kube, folder: Path) -> Iterator[LocalOperator]:
    """Put the release's operator to sleep and run one here; the other way round at the end."""
    kube.kubectl("scale", "deployment/warren-operator", "--replicas=0")
    eventually(lambda: not kube.pods("operator", running=False), "the release's operator has ended")
    try:
        with ExitStack() as stack:
            yield stack.enter_context(_operator(kube, folder, stack))
    finally:
        kube.kubectl("scale", "deployment/warren-operator", "--replicas=1")
        kube.kubectl("rollout", "status", "deployment/warren-operator", "--timeout=60s")


@contextmanager
def _operator(kube: Kube, folder: Path, stack: ExitStack) -> Iterator[LocalOperator]:
    api = stack.enter_context(api_proxy(service_account(kube, "warren-operator", folder / "account")))
    broker = {
        port: stack.enter_context(
            proxy_to("127.0.0.1", stack.enter_context(kube.forward("pod/warren-rabbitmq-0", port)))
        )
        for port in (5672, 15672)
    }
    with socket.create_server(("127.0.0.1", 0)) as listener:
        health = int(listener.getsockname()[1])
    defaults = folder / "defaults.yaml"
    defaults.write_text(kube.get("configmap", "warren-operator")["data"]["defaults.yaml"], "utf-8")
    settings = kube.secret("warren-broker-operator")
    environ = {
        **{name: value for name, value in os.environ.items() if not name.startswith("WARREN_")},
        "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
        "WARREN_BROKER_HOST": "127.0.0.1",
        "WARREN_BROKER_PORT": str(broker[5672].port),
        "WARREN_BROKER_VHOST": settings["vhost"],
        "WARREN_BROKER_USERNAME": settings["username"],
        "WARREN_BROKER_PASSWORD": settings["password"],
        "WARREN_BROKER_MANAGEMENT_URL": f"http://127.0.0.1:{broker[15672].port}",
        "WARREN_NAMESPACES": kube.namespace,
        "WARREN_HEALTH_PORT": str(health),
        "WARREN_DEFAULTS_FILE": str(defaults),
        "KUBECONFIG": str(api.kubeconfig(folder / "kubeconfig")),
        "HOSTNAME": "beside",
    }
    operator = LocalOperator(api, broker[5672], broker[15672], environ, folder / "log")
    operator.start()
    try:
        operator.wait_until_it_serves()
        yield operator
    finally:
        operator.kill()
