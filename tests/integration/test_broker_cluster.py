"""Three brokers on the chart's own configuration: one comes, stops, dies, is cut off or lost for good, under load.

Producer and workers know one address, as in Kubernetes: that of the Service, behind which are the nodes that are ready.
"""

import itertools
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import pytest
from broker_clusters import BrokerCluster, Member, broker_cluster
from brokers import Broker, declare_work_queue
from producers import SUBMIT_TOKEN, ready_producer
from waiting import eventually
from workers import Workers, workers_on

NODES = frozenset({0, 1, 2})
QUEUE = "task_queue"
OLD = [f"light before the cluster {number}" for number in range(5)]
"""Tasks that were there when there was one broker."""

RECOVERY_LIMIT = 90.0
"""Seconds: a node that falls silent counts as lost after 20, heartbeats of a client take as long."""


@dataclass
class Load:
    """A client that submits one task after the other, and remembers those that were confirmed.

    Attributes:
        client: of the producer.
        workers: that do the tasks.
        confirmed: ids.
    """

    client: httpx.Client
    workers: Workers
    confirmed: set[str] = field(default_factory=set)
    _stopped: threading.Event = field(default_factory=threading.Event)

    def run(self) -> None:
        """Submit until stopped, about a hundred a second."""
        for number in itertools.count():
            if self._stopped.wait(0.01):
                return
            answer = self.client.post(f"/v1/queues/{QUEUE}/tasks", content=f"light {number}")
            if answer.status_code == 202:
                self.confirmed.add(answer.json()["id"])
            else:
                assert answer.status_code == 503, answer.text

    def stop(self) -> None:
        """Submit no more."""
        self._stopped.set()

    def completed(self) -> set[str]:
        """Ids of the tasks that were done."""
        return {note.id for note in self.workers.notes("end")}

    def goes_on(self) -> None:
        """Wait until a task that has yet to be submitted is confirmed and done."""
        before = set(self.confirmed)
        eventually(
            lambda: (self.confirmed - before) & self.completed(),
            f"a new task is done; {len(before)} were confirmed before",
            limit=RECOVERY_LIMIT,
        )


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
def load(broker: Broker, folder: Path) -> Iterator[Load]:
    """The load for the time of a `with` statement; at its end everything that was confirmed has been done."""
    with (
        ready_producer(broker, folder / "producer", WARREN_SUBMIT_TIMEOUT="5s") as producer,
        producer.client(SUBMIT_TOKEN) as client,
        workers_on(broker, QUEUE, folder / "workers") as workers,
    ):
        for _ in range(3):  # likely on more than one node
            workers.start("light").ready()
        load = Load(client, workers)
        thread = threading.Thread(target=load.run)
        thread.start()
        try:
            load.goes_on()
            yield load
        finally:
            load.stop()
            thread.join(30)
        assert not thread.is_alive()
        eventually(lambda: load.confirmed <= load.completed(), "all confirmed tasks are done", limit=RECOVERY_LIMIT)


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
