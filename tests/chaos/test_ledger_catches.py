"""That the ledger can fail: our own parts with a mistake put in, against a broker in a container, are caught.

Each scenario runs with the sound part, too, and then the ledger balances.
"""

import itertools
import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import records
from brokers import Broker, declare_work_queue, running_broker
from ledger import Answer, Entries, Fault, Harm, Limits, Verdict, judge
from ports import free_port
from producers import SUBMIT_TOKEN, producer_environment, ready_producer, running_producer
from proxies import Proxy, proxy_to
from submitting import Client, Record
from toxiproxy import toxiproxy
from waiting import eventually
from workers import PYTHON_PATH, Worker, Workers, workers_on

os.environ.setdefault("TESTCONTAINERS_RYUK_DISABLED", "true")  # the fixture removes its own container

HERE = Path(__file__).resolve().parent
QUEUE = "task_queue"
ATTEMPT = 30.0
"""Seconds that an attempt takes at most, by far."""
LIMITS = Limits(task=ATTEMPT, letter=ATTEMPT)


@dataclass
class Scene:
    """A queue, its workers, and everything that is written down.

    Attributes:
        workers: on the queue.
        folder: where clients and handlers write.
        faults: that were done.
    """

    workers: Workers
    folder: Path
    faults: list[Fault] = field(default_factory=list)

    def start(self, name: str, mutant: str = "") -> Worker:
        """Start a worker, and wait until it consumes."""
        return self.workers.start(
            "chaos_work:work",
            name,
            program=(str(HERE / "mutants.py"), mutant) if mutant else ("-m", "warren_worker"),
            PYTHONPATH=os.pathsep.join((PYTHON_PATH, str(HERE))),
            WARREN_EVIDENCE=str(self.folder),
        ).ready()

    def start_behind(self, proxy: Proxy, name: str, mutant: str = "") -> Worker:
        """Start a worker whose connections go through a proxy; all later ones go to the broker itself again."""
        direct = self.workers.broker
        self.workers.point_at(
            Broker("127.0.0.1", proxy.port, direct.management_port, direct.container, direct.passwords)
        )
        worker = self.start(name, mutant)
        self.workers.point_at(direct)
        return worker

    def kill(self, worker: Worker) -> None:
        """kill -9."""
        at = max(run.started for run in records.runs(self.folder))
        worker.signal(signal.SIGKILL)
        worker.exit_code()
        harms = frozenset({Harm.INTERRUPTED, Harm.REPEATED})
        self.faults.append(Fault("worker killed", worker.name, at, at + ATTEMPT, harms, frozenset({worker.name})))

    def wait_for_run(self, task: str, worker: str) -> None:
        """Wait until a worker has begun with a task."""
        eventually(
            lambda: any((run.task, run.worker) == (task, worker) for run in records.runs(self.folder)),
            f"{worker} runs {task}",
        )

    def open_gates(self, *names: str) -> None:
        """Let tasks go on."""
        for name in names:
            (self.folder / name).touch()

    def judge(self, limits: Limits = LIMITS) -> Verdict:
        """Once the queue is empty."""
        self.workers.wait_until_empty()
        letters = [
            records.letter(properties.message_id or "", properties.headers or {})
            for properties, _ in self.workers.broker.drain(f"{QUEUE}.dead")
        ]
        found = records.submissions(self.folder), records.runs(self.folder)
        return judge(Entries(*found, records.read_deaths(letters), self.faults), limits)


@pytest.fixture(scope="module")
def broker() -> Iterator[Broker]:
    with running_broker() as running:
        yield running


@pytest.fixture
def scene(broker: Broker, tmp_path: Path) -> Iterator[Scene]:
    with broker.channel() as channel:
        declare_work_queue(channel, QUEUE)
        channel.queue_purge(QUEUE)
    folder = tmp_path / "evidence"
    folder.mkdir()
    (tmp_path / "workers").mkdir()
    with workers_on(broker, QUEUE, tmp_path / "workers") as workers:
        yield Scene(workers, folder)


@contextmanager
def client_of(url: str, scene: Scene) -> Iterator[Client]:
    record = Record(scene.folder / "client-one.jsonl")
    client = Client(url, SUBMIT_TOKEN, record)
    try:
        yield client
    finally:  # a file left open by a test that fails would fail another one, whenever Python notices
        client.close()
        record.close()


@pytest.fixture
def client(broker: Broker, scene: Scene, tmp_path: Path) -> Iterator[Client]:
    with ready_producer(broker, tmp_path / "producer") as producer, client_of(producer.url, scene) as client:
        yield client


@pytest.mark.parametrize("mutant", ["", "early"])
def test_a_worker_that_acknowledges_early(scene: Scene, client: Client, mutant: str) -> None:
    first = scene.start("first", mutant)
    client.submit(QUEUE, {"a": "gate a"})
    scene.wait_for_run("a", "first")
    if mutant:
        scene.workers.wait_until_empty()  # the broker has forgotten the task that is just being worked on
    scene.kill(first)
    scene.start("second")
    scene.open_gates("a-second")
    verdict = scene.judge()
    assert verdict.confirmed == {"a"}
    assert verdict.lost == ({"a"} if mutant else set()), verdict.summary()
    assert bool(verdict.problems()) is bool(mutant)


@pytest.fixture
def proxy(broker: Broker) -> Iterator[Proxy]:
    with proxy_to(broker.host, broker.amqp_port) as opened:
        yield opened


@pytest.mark.parametrize("mutant", ["", "stale"])
def test_a_worker_that_acknowledges_on_another_channel(scene: Scene, client: Client, proxy: Proxy, mutant: str) -> None:
    """It loses its connection with task a in hand, and acknowledges b, which it just begins, when a is done."""
    first = scene.start_behind(proxy, "first", mutant)
    client.submit(QUEUE, {"a": "gate a"})
    scene.wait_for_run("a", "first")
    second = scene.start("second")
    cut = records.runs(scene.folder)[-1].started
    proxy.cut()
    scene.wait_for_run("a", "second")
    scene.faults.append(Fault("connection dropped", "first's", cut, cut + ATTEMPT, frozenset({Harm.REPEATED})))
    client.submit(QUEUE, {"b": "gate b"})
    scene.open_gates("a-first")
    scene.wait_for_run("b", "first")
    if mutant:
        eventually(lambda: scene.workers.counts() == (0, 1), "the broker believes that b is done")
    scene.kill(first)
    scene.open_gates("a-second", "b-second")
    verdict = scene.judge()
    assert second.process.poll() is None
    assert verdict.lost == ({"b"} if mutant else set()), verdict.summary()
    assert [item.task for item in verdict.duplicates] == ["a"]
    assert bool(verdict.problems()) is bool(mutant)


@pytest.mark.parametrize("mutant", ["", "rash"])
def test_a_worker_that_kills_its_handler_while_connections_drop(
    scene: Scene, client: Client, proxy: Proxy, mutant: str
) -> None:
    """The fault may interrupt runs of all workers that are asked to end; this one goes on with b."""
    scene.start_behind(proxy, "first", mutant)
    client.submit(QUEUE, {"a": "gate a"})
    scene.wait_for_run("a", "first")
    (run,) = records.runs(scene.folder)
    scene.start("second")
    proxy.cut()
    scene.wait_for_run("a", "second")
    harms = frozenset({Harm.INTERRUPTED, Harm.REPEATED})
    scene.faults.append(Fault("connections dropped", "all", run.started, time.time(), harms))
    scene.open_gates("a-first")
    client.submit(QUEUE, {"b": "gate b"})
    scene.wait_for_run("b", "first")
    scene.open_gates("a-second", "b-first")
    verdict = scene.judge(Limits(task=BRIEF, letter=ATTEMPT))
    assert verdict.lost == set()
    assert [item.task for item in verdict.interruptions] == (["a"] if mutant else [])
    assert [item.task for item in verdict.duplicates] == ([] if mutant else ["a"])
    assert len(verdict.problems()) == bool(mutant), verdict.problems()


BRIEF = 0.2
"""Seconds that pass in any case while another worker starts."""


@pytest.mark.parametrize("mutant", ["", "curt"])
def test_a_worker_that_buries_at_once_and_without_a_reason(scene: Scene, client: Client, mutant: str) -> None:
    client.submit(QUEUE, {"good": "work 0", "bad": "fail"})
    scene.start("first", mutant)
    verdict = scene.judge()
    assert verdict.lost == set()
    assert verdict.dead == ({"good", "bad"} if mutant else {"bad"})
    assert verdict.reasons == ({("fail", ""): 1, ("work", ""): 1} if mutant else {("fail", "ValueError"): 1}), (
        verdict.summary()
    )
    assert len(verdict.problems()) == (4 if mutant else 0), verdict.problems()


@pytest.mark.parametrize("mutant", ["", "forgetful"])
def test_a_worker_that_forgets_to_acknowledge(scene: Scene, client: Client, mutant: str) -> None:
    first = scene.start("first", mutant)
    client.submit(QUEUE, {"a": "work 0"})
    eventually(lambda: any(run.completed for run in records.runs(scene.folder)), "a is done")
    first.signal(signal.SIGTERM)
    first.exit_code()
    # A fault that comes later cannot have kept the acknowledgement from the broker.
    now = time.time() + ATTEMPT
    scene.faults.append(Fault("connections dropped", "all", now, now + ATTEMPT, frozenset({Harm.REPEATED})))
    scene.start("second")
    verdict = scene.judge()
    assert [item.task for item in verdict.duplicates] == (["a"] if mutant else [])
    assert len(verdict.problems()) == bool(mutant), verdict.problems()


@pytest.mark.parametrize("mutant", ["", "twofold"])
def test_a_worker_that_buries_twice(scene: Scene, client: Client, mutant: str) -> None:
    client.submit(QUEUE, {"a": "hopeless"})
    scene.start("first", mutant)
    verdict = scene.judge()
    assert verdict.lost == set()
    assert verdict.dead == {"a"}
    assert len(verdict.problems()) == bool(mutant), verdict.problems()


@pytest.mark.parametrize("mutant", ["", "hasty"])
def test_a_producer_that_does_not_wait_for_confirms(scene: Scene, tmp_path: Path, mutant: str) -> None:
    """What it sends is swallowed on the way to the broker."""
    broker = scene.workers.broker
    with toxiproxy("127.0.0.1", free_port(), tmp_path / "toxiproxy.log") as toxic:
        port = toxic.create("broker", "127.0.0.1:0", f"{broker.host}:{broker.amqp_port}").rpartition(":")[2]
        environment = {**producer_environment(broker), "WARREN_BROKER_HOST": "127.0.0.1", "WARREN_BROKER_PORT": port}
        program = (str(HERE / "mutants.py"), mutant) if mutant else ("-m", "warren_producer")
        with (
            running_producer(
                environment, tmp_path / "producer", program=program, WARREN_SUBMIT_TIMEOUT="3s"
            ) as producer,
            client_of(producer.url, scene) as client,
        ):
            producer.wait_until_ready()
            client.submit(QUEUE, {"before": "work 0"})
            toxic.poison("broker", "timeout", "upstream", timeout=0)
            client.submit(QUEUE, {"swallowed": "work 0"})
            toxic.enable("broker", on=False)
            toxic.cure("broker")
            toxic.enable("broker", on=True)
            numbers = itertools.count()

            def publishes() -> bool:
                client.submit(QUEUE, {f"after-{next(numbers)}": "work 0"})
                return records.submissions(scene.folder)[-1].answer is Answer.CONFIRMED

            eventually(publishes, "it publishes again", every=0.5)
    scene.start("first")
    verdict = scene.judge()
    assert "before" in verdict.completed
    assert ("swallowed" in verdict.lost) is bool(mutant), verdict.summary()
    assert bool(verdict.problems()) is bool(mutant), verdict.problems()
