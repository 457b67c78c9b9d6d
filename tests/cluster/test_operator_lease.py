"""Two operators, of which one acts: processes beside the cluster, each behind a proxy of its own, without a broker."""

import json
import os
import signal
import socket
import subprocess
import sys
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest
from api_proxy import ApiProxy, api_proxy
from kube import ROOT, Kube
from waiting import eventually

from warren_operator.lease import ACTS_FOR

CRD = ROOT / "charts" / "warren" / "crds" / "workqueues.yaml"
LEASE = "warren-operator"
END_LIMIT = 30.0


@dataclass(frozen=True)
class Operator:
    """One of the operators.

    Attributes:
        process: itself.
        proxy: its way to the API server.
        port: of its health endpoints.
        log: what it has printed.
    """

    process: "subprocess.Popen[str]"
    proxy: ApiProxy
    port: int
    log: Path

    def page(self, name: str) -> httpx.Response | None:
        """A page of its health endpoints; None while it does not answer."""
        try:
            return httpx.get(f"http://127.0.0.1:{self.port}/{name}")
        except httpx.TransportError:
            return None

    def leads(self) -> bool:
        """Whether it says that it acts."""
        page = self.page("metrics")
        return page is not None and "\nwarren_operator_leads 1.0\n" in page.text

    def wrote(self) -> int:
        """Statuses and Events that it has written, or tried to."""
        return sum(path.endswith(("/status", "/events")) for path in self.proxy.requests)


@dataclass(frozen=True)
class Site:
    """A namespace with a WorkQueue, and what is needed to start operators for it."""

    kube: Kube
    folder: Path
    stack: ExitStack

    def start(self) -> Operator:
        """One more operator."""
        name = f"operator-{uuid.uuid4().hex[:4]}"
        proxy = self.stack.enter_context(api_proxy(self.kube.kubeconfig))
        with socket.create_server(("127.0.0.1", 0)) as listener:
            port = int(listener.getsockname()[1])
        broker = {"HOST": "127.0.0.1", "PORT": "1", "VHOST": "/", "USERNAME": "u", "PASSWORD": "p"}
        environ = {
            **os.environ,
            **{f"WARREN_BROKER_{key}": value for key, value in broker.items()},
            "WARREN_BROKER_MANAGEMENT_URL": "http://127.0.0.1:1",
            "WARREN_NAMESPACES": self.kube.namespace,
            "WARREN_LEASE": f"{self.kube.namespace}/{LEASE}",
            "WARREN_HEALTH_PORT": str(port),
            "HOSTNAME": name,
            "KUBECONFIG": str(proxy.kubeconfig(self.folder / name)),
        }
        log = self.folder / f"{name}.log"
        return self.stack.enter_context(running(environ, proxy, port, log))

    def lease(self) -> dict[str, Any]:
        """The spec of the lease."""
        spec = self.kube.get("lease", LEASE)["spec"]
        assert isinstance(spec, dict)
        return spec

    def told(self, generation: int) -> bool:
        """Whether the status is for this generation of the WorkQueue."""
        return bool(self.kube.get("workqueue", "one").get("status", {}).get("observedGeneration") == generation)

    def change(self, replicas: int) -> None:
        """Something for an operator to do: the status has to be brought up to date."""
        self.kube.patch("workqueue/one", {"spec": {"maxReplicas": replicas}})


@contextmanager
def running(environ: dict[str, str], proxy: ApiProxy, port: int, log: Path) -> Iterator[Operator]:
    """An operator's process for the time of a block."""
    with log.open("w") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "warren_operator"], env=environ, stdout=output, stderr=output, text=True
        )
        try:
            yield Operator(process, proxy, port, log)
        finally:
            process.kill()
            process.wait(END_LIMIT)


@pytest.fixture
def site(cluster: Kube, tmp_path: Path) -> Iterator[Site]:
    kube = replace(cluster, namespace=f"warren-lease-{uuid.uuid4().hex[:8]}")
    if kube.run("kubectl", "get", "--filename", str(CRD), check=False).returncode:
        kube.run("kubectl", "create", "--filename", str(CRD))
        kube.run("kubectl", "wait", "--for=condition=Established", "--filename", str(CRD), "--timeout=30s")
    kube.run("kubectl", "create", "namespace", kube.namespace)
    spec = {"scaleTargetRef": {"name": "there-is-none"}}
    body = {"apiVersion": "warren.dev/v1alpha1", "kind": "WorkQueue", "metadata": {"name": "one"}, "spec": spec}
    kube.kubectl("create", "--filename", "-", stdin=json.dumps(body))
    try:
        with ExitStack() as stack:
            yield Site(kube, tmp_path, stack)
    finally:
        kube.run("kubectl", "delete", "namespace", kube.namespace, "--wait=false")


def two(site: Site) -> tuple[Operator, Operator]:
    """One that acts, and one that stands by and knows it."""
    first = site.start()
    eventually(first.leads, "the first one acts")
    second = site.start()
    eventually(lambda: (page := second.page("readyz")) and "standing by" in page.text, "the second one stands by")
    eventually(lambda: site.told(1), "the WorkQueue has been seen to")
    return first, second


@pytest.mark.parametrize("goodbye", [True, False])
def test_the_second_one_takes_over(site: Site, *, goodbye: bool) -> None:
    """Once the first is asked to end, or is killed without a word; before that, it changes nothing."""
    first, second = two(site)
    holder = site.lease()["holderIdentity"]
    site.change(7)
    eventually(lambda: site.told(2), "the first one goes on")
    assert not second.leads()
    assert second.wrote() == 0
    health = second.page("healthz")
    assert health is not None
    assert health.status_code == 200
    first.process.send_signal(signal.SIGTERM if goodbye else signal.SIGKILL)
    first.process.wait(END_LIMIT)
    if goodbye:
        assert site.lease()["holderIdentity"] != holder, "it gave the lease back"
    site.change(8)
    eventually(lambda: site.told(3), "the second one goes on")
    assert second.leads()
    assert site.lease()["holderIdentity"] != holder


def test_one_that_is_cut_off_stops_before_the_other_begins(site: Site) -> None:
    """It cannot know who acts: it changes nothing, lives on, and stands by once it sees the cluster again."""
    first, second = two(site)
    first.proxy.go_away()
    eventually(second.leads, "the second one takes over")
    first.proxy.requests.clear()
    first.proxy.come_back(forgetful=False)
    eventually(lambda: "standing by" in first.log.read_text(), "the first one stands by")
    site.change(9)
    eventually(lambda: site.told(2), "the second one goes on")
    assert first.wrote() == 0, first.log.read_text()
    assert first.process.poll() is None


def test_an_api_server_that_was_away_is_no_reason_to_die(site: Site) -> None:
    """A single operator loses its lease for a while, and has it again, without a start."""
    first = site.start()
    eventually(lambda: site.told(1), "it acts")
    before = site.lease()["leaseTransitions"]
    first.proxy.go_away()
    eventually(lambda: "the Kubernetes API" in first.log.read_text(), "it says that it cannot reach it")
    renewed = site.lease()["renewTime"]
    eventually(lambda: age(renewed) > ACTS_FOR + 1, "longer than it may act")
    first.proxy.come_back(forgetful=True)
    eventually(lambda: site.lease()["renewTime"] != renewed, "it renews")
    site.change(9)
    eventually(lambda: site.told(2), "it acts again")
    assert site.lease()["leaseTransitions"] == before
    assert first.process.poll() is None


def age(renewed: str) -> float:
    """Seconds since a lease was renewed."""
    return (datetime.now(UTC) - datetime.fromisoformat(renewed)).total_seconds()
