"""The operator's process against a real API server that goes away, forgets, and ends watches; without a broker.

It runs beside the cluster, through a proxy, in a namespace of its own.
"""

import asyncio
import json
import math
import os
import re
import socket
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import httpx
import pytest
from api_proxy import ApiProxy, api_proxy
from kube import ROOT, Kube
from waiting import eventually

from warren_operator import mirror
from warren_operator.kube import Api, find_cluster
from warren_operator.workloads import DEPLOYMENTS, read_deployment

CRD = ROOT / "charts" / "warren" / "crds" / "workqueues.yaml"

END_LIMIT = 30.0
"""Seconds for the process to end; a fraction of one is normal."""


@dataclass(frozen=True)
class Site:
    """A namespace, the operator that serves it, and the way between them."""

    kube: Kube
    proxy: ApiProxy
    process: "subprocess.Popen[str]"
    log: Path
    port: int

    def known(self) -> int:
        """WorkQueues that the operator knows; -1 while it does not answer."""
        try:
            text = httpx.get(f"http://127.0.0.1:{self.port}/metrics").text
        except httpx.TransportError:
            return -1
        found = re.search(r"^warren_operator_workqueues (\S+)$", text, re.MULTILINE)
        return int(float(found[1])) if found else -1

    def knows(self, count: int) -> None:
        """Wait until it knows exactly so many."""
        eventually(lambda: self.known() == count, f"{count} WorkQueues are known; log: {self.log.read_text()}")

    def make(self, name: str) -> None:
        """A WorkQueue of a Deployment that is not there."""
        spec = {"scaleTargetRef": {"name": "there-is-none"}}
        body = {"apiVersion": "warren.dev/v1alpha1", "kind": "WorkQueue", "metadata": {"name": name}, "spec": spec}
        self.kube.kubectl("create", "--filename", "-", stdin=json.dumps(body))

    def delete(self, name: str) -> None:
        """Gone from the cluster when this returns: nothing holds it back."""
        self.kube.kubectl("delete", "workqueue", name, "--timeout=20s")

    def listings(self) -> int:
        """How often WorkQueues have been listed, by kopf and by the comparison."""
        return sum(path.endswith("/workqueues") and not path.startswith("watch ") for path in self.proxy.requests)

    def watches(self) -> int:
        """How often WorkQueues have been watched."""
        return sum(path.startswith("watch ") and path.endswith("/workqueues") for path in self.proxy.requests)


@pytest.fixture
def site(cluster: Kube, tmp_path: Path) -> Iterator[Site]:
    kube = replace(cluster, namespace=f"warren-watch-{uuid.uuid4().hex[:8]}")
    if kube.run("kubectl", "get", "--filename", str(CRD), check=False).returncode:
        kube.run("kubectl", "create", "--filename", str(CRD))
        kube.run("kubectl", "wait", "--for=condition=Established", "--filename", str(CRD), "--timeout=30s")
    kube.run("kubectl", "create", "namespace", kube.namespace)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = int(listener.getsockname()[1])
    try:
        with api_proxy(kube.kubeconfig) as proxy:
            broker = {"HOST": "127.0.0.1", "PORT": "1", "VHOST": "/", "USERNAME": "u", "PASSWORD": "p"}
            environ = {
                **os.environ,
                **{f"WARREN_BROKER_{name}": value for name, value in broker.items()},
                "WARREN_BROKER_MANAGEMENT_URL": "http://127.0.0.1:1",
                "WARREN_NAMESPACES": kube.namespace,
                "WARREN_HEALTH_PORT": str(port),
                "KUBECONFIG": str(proxy.kubeconfig(tmp_path / "kubeconfig")),
            }
            log = tmp_path / "log"
            with log.open("w") as output:
                process = subprocess.Popen(
                    [sys.executable, "-m", "warren_operator"], env=environ, stdout=output, stderr=output, text=True
                )
                try:
                    yield Site(kube, proxy, process, log, port)
                finally:
                    process.kill()
                    process.wait(END_LIMIT)
    finally:
        kube.run("kubectl", "delete", "namespace", kube.namespace, "--wait=false")


def test_work_queues_come_change_and_go_and_nothing_is_put_on_them(site: Site) -> None:
    site.make("one")
    site.knows(1)
    found = eventually(
        lambda: item if (item := site.kube.get("workqueue", "one")).get("status") else None, "a status is written"
    )
    assert "finalizers" not in found["metadata"]
    assert "annotations" not in found["metadata"]
    site.delete("one")
    site.knows(0)


def test_what_vanishes_in_a_gap_is_forgotten(site: Site) -> None:
    """kopf lists again, and does not say what is not there any more."""
    site.make("stays")
    site.make("vanishes")
    site.knows(2)
    site.proxy.go_away()
    eventually(lambda: "cannot watch" in site.log.read_text(), "the operator has lost the API server")
    site.delete("vanishes")
    site.proxy.come_back(forgetful=True)
    site.knows(1)
    assert "vanishes has vanished unseen" in site.log.read_text()
    site.make("comes")
    site.knows(2)
    assert site.process.poll() is None


def test_a_gap_in_which_the_version_stays_known(site: Site) -> None:
    """The watch is taken up where it broke off, and tells of the deletion."""
    site.make("stays")
    site.make("goes")
    site.knows(2)
    site.proxy.go_away()
    eventually(lambda: "cannot watch" in site.log.read_text(), "the operator has lost the API server")
    site.delete("goes")
    site.proxy.come_back(forgetful=False)
    site.knows(1)
    assert "vanished unseen" not in site.log.read_text()


def test_watches_that_end_are_taken_up_in_silence(site: Site) -> None:
    """A quiet watch brings nothing but its end: no listing, no word, and no change missed."""
    site.proxy.watch_seconds = 1
    site.make("one")
    site.knows(1)
    listings, watches = site.listings(), site.watches()
    eventually(lambda: site.watches() >= watches + 5, "five watches have ended")
    site.make("two")
    site.knows(2)
    assert site.listings() <= listings + 2, "the first comparisons apart, nothing is listed again"
    log = site.log.read_text()
    assert "cannot watch" not in log
    assert "too old" not in log


async def test_a_watch_that_stalls_is_noticed(cluster: Kube, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not a byte, and not its end either: the connection is dead, whatever it looks like."""
    monkeypatch.setattr(mirror, "WATCH_SECONDS", 2)
    monkeypatch.setattr(mirror, "SILENCE_MARGIN", 1.0)
    with api_proxy(cluster.kubeconfig) as proxy:
        environ = {"KUBECONFIG": str(proxy.kubeconfig(tmp_path / "kubeconfig"))}
        async with Api(await find_cluster(environ)) as api:
            watched = mirror.Mirror(api, DEPLOYMENTS, "kube-system", read_deployment, lambda *_: None)
            running = asyncio.ensure_future(watched.run())
            try:
                await until(lambda: watched.synced and not watched.problem)
                proxy.silent = True
                await until(lambda: "cannot watch deployments" in watched.problem)
                assert asyncio.get_running_loop().time() - watched.unheard_since >= 3, "it is known for how long"
                proxy.silent = False
                await until(lambda: not watched.problem)
                assert watched.unheard_since == math.inf
            finally:
                running.cancel()
                await asyncio.wait([running])


async def until(check: Callable[[], bool]) -> None:
    """Wait until a condition holds."""
    async with asyncio.timeout(60):
        while True:
            if check():
                return
            await asyncio.sleep(0.05)


def test_it_ends_when_asked(site: Site) -> None:
    site.make("one")
    site.knows(1)
    site.process.terminate()
    assert site.process.wait(END_LIMIT) == 0
    assert "Traceback" not in site.log.read_text()
