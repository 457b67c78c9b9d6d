"""Three brokers on the chart's own configuration: one comes, stops, dies, is cut off or lost for good, under load.

Producer and workers know one address, as in Kubernetes: that of the Service, behind which are the nodes that are ready.
"""

import json
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from broker_clusters import BrokerCluster, Member, Service, broker_cluster
from brokers import Broker, declare_work_queue
from producers import SUBMIT_TOKEN, ready_producer
from steady_load import SteadyLoad
from waiting import eventually
from workers import Worker, Workers, workers_on, write_broker_files

from warren_operator.settings import BUILT_IN
from warren_operator.topology import definition

NODES = frozenset({0, 1, 2})
QUEUE = "task_queue"
OLD = [f"light before the cluster {number}" for number in range(5)]
"""Tasks that were there when there was one broker."""

RECOVERY_LIMIT = 90.0
"""Seconds: a node that falls silent counts as lost after 20, heartbeats of a client take as long."""


HELD = "held"
"""A queue under the operator's own policy."""

LOST = 2
"""The node that a worker loses."""


@pytest.fixture(scope="module")
def nodes() -> Iterator[tuple[BrokerCluster, Broker]]:
    with broker_cluster() as found:
        yield found


@pytest.fixture(scope="module")
def three(nodes: tuple[BrokerCluster, Broker]) -> tuple[BrokerCluster, Broker]:
    """One node with a queue and tasks becomes a cluster of three."""
    cluster, broker = nodes
    with broker.channel() as channel:
        declare_work_queue(channel, QUEUE)
        channel.confirm_delivery()
        for body in OLD:
            channel.basic_publish("", QUEUE, body.encode(), mandatory=True)
    assert cluster.member(QUEUE).members == {0}
    cluster.create(1)
    cluster.create(2)
    cluster.wait_for(1, 2)
    return cluster, broker


@contextmanager
def load(broker: Broker, folder: Path) -> Iterator[SteadyLoad]:
    """Light tasks, about a hundred a second; at the end everything that was confirmed has been done."""
    with (
        ready_producer(broker, folder / "producer", WARREN_SUBMIT_TIMEOUT="5s") as producer,
        producer.client(SUBMIT_TOKEN) as client,
        workers_on(broker, QUEUE, folder / "workers") as workers,
    ):
        for _ in range(3):  # likely on more than one node
            workers.start("light").ready()
        load = SteadyLoad(
            client=client,
            queue=QUEUE,
            body="light {}".format,
            completed=lambda tasks: tasks & {note.id for note in workers.notes("end")},
            pause=0.01,
            every=0.1,
            limit=RECOVERY_LIMIT,
        )
        with load.running():
            yield load


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("producer", "workers"):
        (tmp_path / name).mkdir()
    return tmp_path


def everywhere(cluster: BrokerCluster, queue: str = QUEUE) -> Member:
    """Wait until the queue has a replica that keeps up on each of the three nodes."""

    def look() -> Member:
        found = cluster.member(queue)
        assert found.members == found.online == NODES, found
        return found

    return eventually(look, f"{queue} is on three nodes", limit=RECOVERY_LIMIT, every=0.5)


def leader_after(cluster: BrokerCluster, gone: int) -> int:
    """Wait until another node leads the queue than the one that has gone."""

    def look() -> tuple[int] | None:
        leader = cluster.member(QUEUE).leader
        return None if leader in (None, gone) else (leader,)

    return eventually(look, f"the queue has a leader other than {gone}", limit=RECOVERY_LIMIT, every=0.5)[0]


def test_queues_that_are_there_grow_onto_the_new_nodes(three: tuple[BrokerCluster, Broker]) -> None:
    cluster, broker = three
    assert cluster.running(0) == NODES
    for queue in (QUEUE, f"{QUEUE}.dead"):
        everywhere(cluster, queue)
    assert broker.ready(QUEUE) == len(OLD)
    with broker.channel() as channel:
        declare_work_queue(channel, "new")
    assert cluster.member("new").members == NODES


@pytest.mark.parametrize("fault", ["killed", "stopped in good order", "cut off"])
def test_the_loss_of_the_leader_s_node_loses_no_task(
    three: tuple[BrokerCluster, Broker], folder: Path, fault: str
) -> None:
    cluster, broker = three
    leader = everywhere(cluster).leader
    assert leader is not None
    with load(broker, folder) as running:
        match fault:
            case "killed":
                cluster.kill(leader)
            case "cut off":
                cluster.cut(leader)
            case _:
                cluster.stop(leader)
        leader_after(cluster, leader)
        running.goes_on()
        if fault == "cut off":
            cluster.mend(leader)
        else:
            cluster.start(leader)
        everywhere(cluster)
        running.goes_on()
    assert cluster.running(leader) == NODES


SILENT_LIMIT = 17.0
"""Seconds in which a producer must notice that its broker is gone without a word: what it sends next, a heartbeat
within five of them, stays unacknowledged for ten. By its heartbeats alone it notices after 20 to 30."""


def test_a_producer_is_soon_done_with_a_broker_that_was_cut_off(
    three: tuple[BrokerCluster, Broker], tmp_path: Path
) -> None:
    cluster, broker = three
    everywhere(cluster)
    at = replace(broker, host=cluster.addresses[LOST], amqp_port=5672)
    with ready_producer(at, tmp_path) as producer, producer.client(None) as client:
        cluster.cut(LOST)
        begun = time.monotonic()
        eventually(lambda: "but: " in client.get("/readyz").text, "it has noticed", limit=SILENT_LIMIT)
        assert time.monotonic() - begun > 1, "it was told, which is no silence"
        cluster.mend(LOST)
    everywhere(cluster)


@pytest.fixture
def held(three: tuple[BrokerCluster, Broker], folder: Path) -> Iterator[Workers]:
    """Workers on a queue that is led by a node which none of them loses."""
    cluster, broker = three
    with broker.channel() as channel:
        declare_work_queue(channel, HELD)
    broker.ctl("set_policy", HELD, f"^{HELD}$", json.dumps(definition(BUILT_IN)), "--apply-to", "quorum_queues")
    everywhere(cluster, HELD)
    cluster.lead(HELD, 0)
    with workers_on(broker, HELD, folder / "workers") as workers:
        yield workers
    broker.ctl("purge_queue", HELD)


def start_at(workers: Workers, name: str, host: str, port: int) -> Worker:
    """A worker that knows one address, of one node or of a service."""
    folder = workers.folder / name
    write_broker_files(folder, replace(workers.broker, host=host, amqp_port=port))
    return workers.start("gate_each_run", name, WARREN_BROKER_DIR=str(folder)).ready()


@dataclass(frozen=True, slots=True)
class Loss:
    """How a worker loses its broker.

    Attributes:
        fault: in words.
        limit: seconds in which the task must come back; some more than docs/adr/0007 reckons out.
        attempt: that it is then.
    """

    fault: str
    limit: float
    attempt: int


LOSSES = (
    Loss("killed", 20.0, 1),
    Loss("cut off from the other brokers", 20.0, 1),
    Loss("cut off", 45.0, 1),
    Loss("cut off from clients", 45.0, 2),
)


@pytest.mark.parametrize("leads", [False, True], ids=["follower", "leader"])
@pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: loss.fault)
def test_a_task_in_hand_comes_back_soon_where_its_broker_is_lost(
    three: tuple[BrokerCluster, Broker], held: Workers, loss: Loss, leads: bool
) -> None:
    """RabbitMQ by itself takes a minute more. It is no failed attempt, but where a broker gives up its client."""
    cluster, _ = three
    if leads:
        cluster.lead(HELD, LOST)
    with closing(Service(lambda: [at for number, at in cluster.addresses.items() if number == LOST], 5672)) as service:
        start_at(held, "loses", "127.0.0.1", service.port)
        held.publish("task")
        held.wait_for_notes("start", 1)
        start_at(held, "finds", cluster.addresses[1], 5672)
        match loss.fault:
            case "killed":
                cluster.kill(LOST)
            case "cut off":
                cluster.cut(LOST)
            case "cut off from clients":
                service.silence()
            case _:
                cluster.part(LOST)
        again = eventually(
            lambda: [note for note in held.notes("start") if note.worker == "finds"], "it comes back", limit=loss.limit
        )
    assert [note.attempt for note in again] == [loss.attempt]
    match loss.fault:
        case "killed":
            cluster.start(LOST)
        case "cut off":
            cluster.mend(LOST)
        case "cut off from clients":
            pass
        case _:
            cluster.join(LOST)
    held.open_gate("task-1")
    held.open_gate("task-2")
    held.wait_until_empty()
    everywhere(cluster, HELD)


def test_a_worker_that_its_queue_has_forgotten_consumes_anew(
    three: tuple[BrokerCluster, Broker], held: Workers
) -> None:
    """Its broker was out of the others' sight while the queue's leader changed. Its connection stands all the time."""
    cluster, _ = three
    worker = start_at(held, "forgotten", cluster.addresses[LOST], 5672)
    cluster.part(LOST)
    eventually(
        lambda: [one for one in cluster.consumers(HELD, asked=0) if one.status == "suspected_down" and not one.active],
        "the queue has lost sight of the consumer",
    )
    cluster.lead(HELD, 1)
    eventually(
        lambda: [one for one in cluster.consumers(HELD, asked=0) if one.status == "suspected_down" and one.active],
        "the new leader has lost sight of it, too, and says that it were active",
    )
    cluster.join(LOST)
    everywhere(cluster, HELD)
    assert [one.status for one in cluster.consumers(HELD, asked=0)] == ["suspected_down"], "RabbitMQ has mended it"
    held.publish("light one", "light two")
    worker.wait_for_line("2 tasks wait, and the broker gives none to this worker: consuming anew")
    held.wait_until_empty()
    assert [(note.body, note.attempt) for note in held.notes("end")] == [("light one", 1), ("light two", 1)]
    assert worker.metric("reconnects_total") == 0


def test_the_first_node_with_an_empty_volume_joins_the_others(
    three: tuple[BrokerCluster, Broker], folder: Path
) -> None:
    """It is the one that a node without data looks for to join; by itself it would begin a second cluster.

    Or so it does where the others do not find it at once; else their Raft leader takes it for the member that it was.
    """
    cluster, broker = three
    everywhere(cluster)
    with load(broker, folder) as running:
        cluster.lose(0)
        cluster.create(0, named=False)
        running.goes_on()
        cluster.wait_for(0)
        for queue in (QUEUE, f"{QUEUE}.dead"):
            everywhere(cluster, queue)
        running.goes_on()
    assert [cluster.running(number) for number in (0, 1, 2)] == [NODES] * 3
