"""The release under faults: three brokers on three nodes, workers that write down what they do, clients, toxiproxy.

Everything that happens stays in the network namespaces of the local cluster. Its further nodes take no other pods
meanwhile. Between all parts and the broker stands toxiproxy: the broker's Service leads to it, and it to the brokers.
"""

import json
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import httpx
import pika
import records
import yaml
from kube import ROOT, Kube
from ledger import Answer, Entries, Fault, Limits, owed
from pods import Process, processes
from release import install, remove, token
from toxiproxy import Toxiproxy, toxiproxy
from waiting import eventually

from tools.cluster import netns
from tools.cluster.layout import API_ADDRESS, layout
from tools.cluster.node import nodes_there
from tools.cluster.places import places

T = TypeVar("T")

HERE = Path(__file__).resolve().parent
STEADY = ("amber", "birch")
"""Queues with steady traffic: one task at once in a worker, and three."""
STORMY = "cedar"
"""A queue without workers until a burst comes."""
QUEUES = (*STEADY, STORMY)

NODES = 3
TIME_LIMIT = 30
"""Seconds for one task: six times the longest that is meant to end, so that a busy machine breaks none off."""
LETTER_LIMIT = 10
"""Seconds that a worker waits for the confirm of a dead letter."""
ATTEMPTS = 3
LIMITS = Limits(TIME_LIMIT, LETTER_LIMIT, ATTEMPTS)

WELL_LIMIT = 300.0
"""Seconds for brokers and nodes to be well again after a fault. Two idle cores take 20 for a broker; a node that was
lost tells of itself within 10, and a replica that was cut off has to catch up."""
CONSUMER_TIMEOUT = TIME_LIMIT + 300.0
"""Seconds after which a broker takes back what it gave out, whatever it believes of the consumer."""
DRAIN_LIMIT = CONSUMER_TIMEOUT + 150.0
"""Seconds, after the last fault, for everything that was confirmed to come to its end: what a broker that was cut off
had given out may come back that late, a task that overruns its limit takes three times that, and the rest is worked
off."""
LOOK = 2.0
"""Seconds between two looks at what is left."""
DRAINED_LOOKS = 3
"""Looks in a row at which all queues have to be empty."""
STATISTICS_INTERVAL = 5.0
"""Seconds after which the management API counts a queue's messages anew: one look may tell of what was before."""
ASK_LIMIT = 60.0
"""Seconds for a queue to take a task again once all brokers are well: producers connect anew within 10."""
UP_LIMIT = 900.0
"""Seconds for two nodes more: containerd, kubelet and the images of each."""

REPORTS = ROOT / "build" / "chaos"
"""Where reports go, and the evidence of runs that failed."""

TAINT = "warren.dev/chaos"
PORTS = {"amqp": (5672, 35672), "management": (15672, 35673), "prometheus": (15692, 35674)}
"""Ports of the broker, and those where toxiproxy listens for them on the first node's address."""
API_PORT = 38474
"""toxiproxy's own."""


def values(folder: Path, images: Path) -> dict[str, Any]:
    """Values of the chart. What the pods ask for is little, so that two cores have room for all of them."""
    tolerations = [{"key": TAINT, "operator": "Exists"}]
    quick = [
        {"key": f"node.kubernetes.io/{state}", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 5}
        for state in ("not-ready", "unreachable")
    ]
    small = {"requests": {"cpu": "5m", "memory": "32Mi"}, "limits": {"memory": "256Mi"}}
    code = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": "chaos"},
        "data": {"chaos_work.py": (HERE / "chaos_work.py").read_text("utf-8")},
    }
    brokers = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "chaos-brokers"},
        "spec": {
            "selector": {"app.kubernetes.io/instance": "warren", "app.kubernetes.io/component": "rabbitmq"},
            "ports": [{"name": name, "port": port, "targetPort": name} for name, (port, _) in PORTS.items()],
        },
    }
    spread = [
        {
            "maxSkew": 1,
            "topologyKey": "kubernetes.io/hostname",
            "whenUnsatisfiable": "DoNotSchedule",
            "labelSelector": {"matchLabels": {"app.kubernetes.io/component": "rabbitmq"}},
        }
    ]
    assert images.exists()
    return {
        "queues": {
            "task_queue": None,
            "amber": {"replicas": {"min": 1, "max": 5}},
            "birch": {"replicas": {"min": 1, "max": 3}, "concurrency": 3, "recycle": {"maxTasks": 40}},
            "cedar": {"replicas": {"min": 0, "max": 6}},
        },
        "worker": {
            "handler": "chaos_work:work",
            "env": {"WARREN_EVIDENCE": "/evidence"},
            "target": {"backlogPerWorker": 3},
            "retry": {"maxAttempts": ATTEMPTS, "minDelay": "1s", "maxDelay": "3s"},
            "timeLimit": f"{TIME_LIMIT}s",
            "resources": small,
            "tolerations": tolerations,
            "extraVolumes": [
                {"name": "evidence", "hostPath": {"path": str(folder), "type": "Directory"}},
                {"name": "code", "configMap": {"name": "chaos"}},
            ],
            "extraVolumeMounts": [
                {"name": "evidence", "mountPath": "/evidence"},
                {"name": "code", "mountPath": "/app"},
            ],
        },
        "producer": {
            "replicas": 2,
            "submitTimeout": "5s",
            "resources": {"requests": {"cpu": "20m", "memory": "96Mi"}},
            "tolerations": [*tolerations, *quick],
        },
        "operator": {
            "replicas": 2,
            "resources": {"requests": {"cpu": "20m", "memory": "96Mi"}},
            "tolerations": [*tolerations, *quick],
        },
        "broker": {
            "replicas": 3,
            "resources": {"requests": {"cpu": "20m", "memory": "128Mi"}},
            "tolerations": tolerations,
            "topologySpreadConstraints": spread,
        },
        "extraObjects": [code, brokers],
    }


@dataclass(frozen=True, slots=True)
class Pod:
    """A pod, as Kubernetes has it.

    Attributes:
        name, uid, node, address: its own.
        well: whether it runs, is ready and is not ending.
    """

    name: str
    uid: str
    node: str
    address: str
    well: bool


@dataclass
class Stage:
    """The release, and all that is done to it.

    Attributes:
        kube: its namespace.
        folder: where clients and handlers write.
        toxic: toxiproxy, between all parts and the brokers.
        seed: of the run.
        samples: (time, worker pods that are well, worker pods that there are) now and then.
        failures: a sentence for whatever went wrong with the run itself.
    """

    kube: Kube
    folder: Path
    toxic: Toxiproxy
    seed: int
    samples: list[tuple[float, int, int]] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)

    def inside(self, call: Callable[[], T]) -> T:
        """Call a function whose sockets belong to the first node: from there, services' addresses lead somewhere."""
        return netns.inside(layout().control_plane.netns, call)

    def pods(self, component: str) -> list[Pod]:
        """A component's pods, by name."""
        found = []
        for pod in self.kube.get("pods", "--selector", f"app.kubernetes.io/component={component}"):
            meta, status = pod["metadata"], pod["status"]
            ready = any(one["type"] == "Ready" and one["status"] == "True" for one in status.get("conditions", ()))
            well = ready and "deletionTimestamp" not in meta
            node, address = pod["spec"].get("nodeName", ""), status.get("podIP", "")
            found.append(Pod(meta["name"], meta["uid"], node, address, well))
        return sorted(found, key=lambda pod: pod.name)

    def processes(self, pod: Pod) -> list[Process]:
        """The pod's processes."""
        return processes(pod.uid)

    def spare_nodes(self) -> list[str]:
        """The further nodes that have pods of this release alone, by name."""
        taken = {
            pod["spec"].get("nodeName")
            for pod in self.kube.get("pods", "--all-namespaces")
            if pod["metadata"]["namespace"] != self.kube.namespace
        }
        return [node.name for node in layout(NODES).nodes[1:] if node.name not in taken]

    def entries(self) -> Entries:
        """The ledger so far."""
        return Entries(
            records.submissions(self.folder),
            records.runs(self.folder),
            records.deaths(self.folder),
            records.faults(self.folder),
            tuple(self.failures),
        )

    def write_fault(self, fault: Fault) -> None:
        """Keep what was done."""
        records.append(self.folder, records.FAULTS, records.fault_line(fault))

    def broker_address(self) -> str:
        """Of the service that leads to the brokers past toxiproxy."""
        return str(self.kube.get("service", "chaos-brokers")["spec"]["clusterIP"])

    def queues(self) -> dict[str, dict[str, Any]]:
        """What a broker says of its queues, by name."""
        secret = self.kube.secret("warren-broker-operator")
        url = f"http://{self.broker_address()}:{PORTS['management'][0]}/api/queues"

        def ask() -> list[dict[str, Any]]:
            answer = httpx.get(url, auth=(secret["username"], secret["password"]), timeout=10, trust_env=False)
            assert answer.status_code == 200, answer.text
            found = answer.json()
            assert isinstance(found, list)
            return found

        try:
            return {row["name"]: row for row in self.inside(ask)}
        except (httpx.HTTPError, ValueError) as error:
            raise AssertionError(f"no broker tells of its queues: {error!r}") from error

    def wait_until_brokers_are_well(self) -> None:
        """Until there are three, and each queue has a replica that keeps up on each."""

        def look() -> bool:
            assert [pod.well for pod in self.pods("rabbitmq")] == [True] * 3, "not all brokers are ready"
            found = self.queues()
            for queue in QUEUES:
                for name in (queue, f"{queue}.dead"):
                    row = found.get(name, {})
                    assert len(row.get("members", ())) == len(row.get("online", ())) == 3, (name, row.get("online"))
            return True

        eventually(look, "all queues are on three brokers", limit=WELL_LIMIT, every=1)

    def wait_until_nodes_are_well(self) -> None:
        """Until all nodes are ready."""

        def look() -> bool:
            return all(
                any(one["type"] == "Ready" and one["status"] == "True" for one in node["status"]["conditions"])
                for node in self.kube.get("nodes")
            )

        eventually(look, "all nodes are ready", limit=WELL_LIMIT, every=1)

    def keep_evidence(self, folder: Path, problems: Sequence[str]) -> None:
        """For a run that failed: everything that was written down, and what pods have printed, before it all goes."""
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "problems.txt").write_text("".join(f"{problem}\n" for problem in problems), "utf-8")
        for path in self.folder.glob("*.jsonl"):
            shutil.copy(path, folder)
        describe = self.kube.run(
            "kubectl", "--namespace", self.kube.namespace, "get", "pods,events", "-o", "wide", check=False
        )
        (folder / "pods.txt").write_text(describe.stdout, "utf-8")
        for component in ("rabbitmq", "producer", "operator", "worker"):
            for pod in self.pods(component):
                for previous in ((), ("--previous",)):
                    words = ("kubectl", "--namespace", self.kube.namespace, "logs", pod.name, *previous)
                    said = self.kube.run(*words, check=False)
                    if said.returncode == 0:
                        (folder / f"{pod.name}{''.join(previous)}.log").write_text(said.stdout, "utf-8")

    def client(self, name: str, *arguments: str) -> "subprocess.Popen[bytes]":
        """Start a client on the first node."""
        address = self.kube.get("service", "warren-producer")["spec"]["clusterIP"]
        command = [
            *enter(),
            *(sys.executable, str(HERE / "submitting.py"), f"http://{address}:8080", token(self.kube)),
            *(str(self.folder), name, str(self.seed), *arguments),
        ]
        return subprocess.Popen(command)

    def read_dead_letters(self) -> None:
        """Take what the dead-letter queues have, and write it down before it is acknowledged."""
        secret = self.kube.secret("warren-broker-operator")
        parameters = pika.ConnectionParameters(
            host=self.broker_address(),
            port=PORTS["amqp"][0],
            credentials=pika.PlainCredentials(secret["username"], secret["password"]),
            socket_timeout=10,
            blocked_connection_timeout=30,
        )

        def read() -> None:
            connection = pika.BlockingConnection(parameters)
            channel = connection.channel()
            for queue in QUEUES:
                while True:
                    method, properties, _ = channel.basic_get(f"{queue}.dead")
                    if method is None or properties is None:
                        break
                    line = records.letter(properties.message_id or "", properties.headers or {})
                    records.append(self.folder, records.DEATHS, line)
                    channel.basic_ack(method.delivery_tag or 0)
            connection.close()

        self.inside(read)

    def ask_all_queues(self) -> None:
        """Give each queue one task more, now that all is well; the ledger says what became of it.

        A task that is refused is followed by another, for a while: producers connect anew.
        """
        for queue in QUEUES:
            since = time.time()
            turn = 0

            def taken(queue: str = queue, since: float = since) -> bool:
                nonlocal turn
                turn += 1
                code = self.client(f"end-{queue}-{turn}", queue, "--count", "1").wait(60)
                if code:
                    self.failures.append(f"the client that asked {queue} at the end had exit code {code}")
                return any(
                    (one.queue, one.answer) == (queue, Answer.CONFIRMED) and one.sent >= since
                    for one in records.submissions(self.folder)
                )

            try:
                eventually(taken, f"{queue} takes a task", limit=ASK_LIMIT, every=1)
            except AssertionError as error:
                print(f"NOT TAKEN: {error}")  # a problem of the verdict

    def drain(self) -> None:
        """Wait until everything that was confirmed has come to its end and all queues are empty.

        If that does not come, it is a failure of the run.
        """
        calm = Calm()

        def look() -> bool:
            self.read_dead_letters()
            entries = self.entries()
            left = owed(entries.submissions, entries.runs, entries.deaths)
            held = self.held()
            empty = calm.look(held, time.monotonic())
            assert not left, f"{len(left)} tasks are owed, such as {sorted(left)[:5]}; messages: {held}"
            assert empty, f"messages: {held}"
            return True

        try:
            eventually(look, "everything that was confirmed is done or dead", limit=DRAIN_LIMIT, every=LOOK)
        except AssertionError as error:
            self.failures.append(f"not drained: {error}")
        self.read_dead_letters()

    def held(self) -> dict[str, int | None]:
        """Messages of each queue; None where the broker does not say, as of a queue without a leader."""
        rows = self.queues()
        return {name: rows.get(name, {}).get("messages") for queue in QUEUES for name in (queue, f"{queue}.dead")}


@dataclass
class Calm:
    """Whether all queues stay empty: some looks in a row that span more than one interval of the statistics."""

    looks: int = 0
    since: float = 0.0

    def look(self, held: Mapping[str, int | None], now: float) -> bool:
        """Take in one look at a time of the monotonic clock; True once it is certain.

        Args:
            held: messages of each queue; what nobody knows is not empty.
            now: the time.
        """
        if not held or any(count != 0 for count in held.values()):
            self.looks = 0
            return False
        if not self.looks:
            self.since = now
        self.looks += 1
        return self.looks >= DRAINED_LOOKS and now - self.since > STATISTICS_INTERVAL


def enter() -> tuple[str, ...]:
    """Put before a command line, to run it on the cluster's first node."""
    return ("nsenter", f"--net={netns.path(layout().control_plane.netns)}")


def cluster(*words: str) -> None:
    """`python -m tools.cluster …`, which has to work."""
    done = subprocess.run(
        [sys.executable, "-m", "tools.cluster", *words],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=UP_LIMIT,
        check=False,
    )
    assert done.returncode == 0, f"tools.cluster {' '.join(words)}: {done.stdout}{done.stderr}"


@contextmanager
def three_nodes(kube: Kube) -> Iterator[None]:
    """Two nodes beside the first, for pods of this run alone; gone afterwards if they were not there before."""
    assert places().state.exists(), (
        "these tests lose nodes and kill processes, which takes a cluster that runs on this machine itself: "
        "make down, then make cluster with WARREN_CLUSTER=node"
    )
    before = nodes_there(places())
    if before < NODES:
        cluster("up", "--nodes", str(NODES))
    further = [node.name for node in layout(max(before, NODES)).nodes[1:]]
    try:
        for node in further:
            kube.kubectl("taint", "node", node, f"{TAINT}={kube.namespace}:NoSchedule", "--overwrite")
        yield
    finally:
        if before < NODES:
            cluster("up", "--nodes", str(max(1, before)))
        else:
            for node in further:
                kube.kubectl("taint", "node", node, f"{TAINT}-")


@contextmanager
def stage(kube: Kube, images: Path, seed: int) -> Iterator[Stage]:
    """The release, ready to be hurt."""
    with ExitStack() as stack:
        folder = Path(tempfile.mkdtemp(prefix="warren-chaos-", dir="/var/tmp"))
        stack.callback(shutil.rmtree, folder)
        folder.chmod(0o777)
        stack.enter_context(three_nodes(kube))
        remove(kube)
        stack.callback(remove, kube)
        given = folder / "values.yaml"
        given.write_text(yaml.safe_dump(values(folder, images)), "utf-8")
        install(kube, given, "--values", str(images))
        toxic = stack.enter_context(toxiproxy(API_ADDRESS, API_PORT, folder / "toxiproxy.log", enter()))
        found = Stage(kube, folder, toxic, seed)
        _stand_between(found)
        found.wait_until_brokers_are_well()
        yield found


def _stand_between(stage: Stage) -> None:
    """Let the broker's Service lead to toxiproxy, and end the connections that were made before."""
    node = layout().control_plane.address
    upstream = stage.broker_address()
    for name, (port, listen) in PORTS.items():
        stage.toxic.create(name, f"{node}:{listen}", f"{upstream}:{port}")
    slice_ = {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {"name": "chaos", "labels": {"kubernetes.io/service-name": "warren-rabbitmq"}},
        "addressType": "IPv4",
        "endpoints": [{"addresses": [node], "conditions": {"ready": True}}],
        "ports": [{"name": name, "port": listen} for name, (_, listen) in PORTS.items()],
    }
    # A selector that fits nothing: Kubernetes then takes its own endpoints away, and leaves ours.
    stage.kube.patch("service/warren-rabbitmq", {"spec": {"selector": {TAINT: "between"}}})
    stage.kube.kubectl("apply", "--filename", "-", stdin=json.dumps(slice_))
    eventually(
        lambda: (
            [
                row["metadata"]["name"]
                for row in stage.kube.get("endpointslices", "--selector", "kubernetes.io/service-name=warren-rabbitmq")
                if row.get("endpoints")
            ]
            == ["chaos"]
        ),
        "the Service leads to toxiproxy alone",
    )
    stage.kube.rabbitmqctl("close_all_connections", "chaos")


@contextmanager
def load(stage: Stage) -> Iterator[None]:
    """Clients at work for the time of a `with` statement."""
    client = stage.client("steady", *STEADY)
    try:
        eventually(lambda: records.runs(stage.folder), "the first task runs", limit=WELL_LIMIT)
        yield
    finally:
        client.send_signal(signal.SIGTERM)
        if code := client.wait(60):  # in good order it waits for its last answer, for 15 s
            stage.failures.append(f"the client ended with exit code {code}: it was not at work all the time")
