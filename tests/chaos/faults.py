"""What is done to the system: one class for each kind of fault, with what it may do to tasks.

A fault that must pass without a trace has no harms: a duplicate that only it could explain is an error of Warren's.
"""

import random
import time
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import ledger
import records
from ledger import Harm
from pods import Process
from schedule import Kind, Lane
from stage import NODES, QUEUES, STEADY, STORMY, WELL_LIMIT, Pod, Stage, cluster
from toxiproxy import Stuck
from waiting import eventually

from tools.cluster import netns
from tools.cluster.layout import layout
from tools.shell import run

ALL = frozenset(Harm)
LOST_CONNECTIONS = frozenset({Harm.REPEATED, Harm.DIED_TWICE, Harm.INTERRUPTED})
"""A worker that is asked to end, by a rollout for instance, ends at once what it has in hand from a lost connection:
the result would be dropped."""

HEARTBEATS = 25.0
"""Seconds after which a silent connection counts as lost: two heartbeats of 10 s, and some to make another."""

VICTIM_LIMIT = 30.0
"""Seconds to wait for something to hit, such as a handler at work; then the fault comes later."""

PREFERENCE = 0.75
"""Share of the faults that look for a run that would end well. Tasks that overrun are at work for half a minute each:
chance alone would meet little else, and a run that was to be killed anyway tells little."""
PREFERENCE_LIMIT = 10.0
"""Seconds to wait for such a run; then any will do."""
YOUNG = 1.5
"""Seconds since the beginning of a run that is young: much of a long one is still to come, and one that goes on for
longer than it is meant to has died already, perhaps."""


class NoVictim(Exception):
    """There is nothing to hit just now."""


@dataclass(frozen=True, slots=True)
class Hit:
    """What was hit.

    Attributes:
        what: in words.
        workers: whose tasks it may harm; None for all.
        met: whether it met what it was meant for; if not, it may have done harm, and yet does not count.
    """

    what: str
    workers: frozenset[str] | None = None
    met: bool = True


@dataclass(frozen=True, slots=True)
class Victim:
    """A worker with a task in hand.

    Attributes:
        pod: the worker's.
        run: the task's.
        pid: its handler's process on this machine.
    """

    pod: Pod
    run: records.AtWork
    pid: int


def promising(run: records.AtWork, now: float) -> bool:
    """Whether a run would come to a good end, and not just now."""
    return not run.doomed and now - run.started <= YOUNG


class Fault(ABC):
    """One fault.

    Args:
        stage: what is hurt.
        draw: for everything that is left to chance.
    """

    kind: ClassVar[str]
    harms: ClassVar[frozenset[Harm]] = frozenset()
    echo: ClassVar[float] = 0.0
    hold: ClassVar[tuple[float, float]] = (0.0, 0.0)

    def __init__(self, stage: Stage, draw: random.Random) -> None:
        self.stage = stage
        self.draw = draw

    @abstractmethod
    def inject(self) -> Hit:
        """Do it.

        Raises:
            NoVictim: there is nothing to do it to.
        """

    def heal(self) -> None:  # noqa: B027  what happens in a moment has nothing to undo
        """Undo it, and wait until all is well. Called once after `inject`, also where that has failed half way."""

    def choose(self, pods: Iterable[Pod]) -> Pod:
        """One of these pods that is well."""
        found = [pod for pod in pods if pod.well]
        if not found:
            raise NoVictim
        return self.draw.choice(found)

    def at_work(self) -> Victim:
        """A worker's pod that has a task in hand: mostly one that has just begun and would come to a good end."""
        began = time.monotonic()
        choosy = self.draw.random() < PREFERENCE
        while (gone := time.monotonic() - began) < VICTIM_LIMIT:
            pods = {pod.name: pod for pod in self.stage.pods("worker") if pod.well}
            busy = [run for run in records.at_work(self.stage.folder) if run.worker in pods]
            if choosy and gone < PREFERENCE_LIMIT:
                busy = [run for run in busy if promising(run, time.time())]
            for one in self.draw.sample(busy, len(busy)):
                for process in self.stage.processes(pods[one.worker]):
                    if process.inner == one.pid:
                        return Victim(pods[one.worker], one, process.pid)
            time.sleep(0.2)
        raise NoVictim

    def struck(self, victim: Victim, what: str) -> Hit:
        """What was done to this victim just now, and whether its run had not ended before."""
        met = victim.run in records.at_work(self.stage.folder)
        return Hit(what, frozenset({victim.pod.name}), met)


class WorkerKilled(Fault):
    """kill -9 to a worker with a task in hand; its container starts again."""

    kind = "worker killed"
    harms = ALL
    echo = 5.0

    def inject(self) -> Hit:
        victim = self.at_work()
        for process in self.stage.processes(victim.pod):
            if process.own and process.kill():
                return self.struck(victim, f"{victim.pod.name} with {victim.run.task}")
        raise NoVictim


class Standstill(Fault):
    """Processes stand still (SIGSTOP) and then go on: to others they look as if they were only slow."""

    def freeze(self, processes: Iterable[Process]) -> None:
        """Stop these.

        Raises:
            NoVictim: none of them is there any more.
        """
        self._frozen = [process for process in processes if process.stop()]
        if not self._frozen:
            raise NoVictim

    def heal(self) -> None:
        for process in self._frozen:
            process.go_on()

    _frozen: Sequence[Process] = ()


class WorkerFrozen(Standstill):
    """A worker stands still while its handlers work on, for longer than its connection bears."""

    kind = "worker frozen"
    harms = ALL
    echo = HEARTBEATS
    hold = (10.0, 40.0)

    def inject(self) -> Hit:
        victim = self.at_work()
        self.freeze(process for process in self.stage.processes(victim.pod) if process.own)
        return self.struck(victim, f"{victim.pod.name} with {victim.run.task}")


class WorkerDeleted(Fault):
    """A worker's pod is deleted in good order: it finishes what it has in hand."""

    kind = "worker deleted"
    flags: ClassVar[tuple[str, ...]] = ()

    def inject(self) -> Hit:
        victim = self.at_work()
        self.stage.kube.kubectl("delete", "pod", victim.pod.name, "--wait=false", *self.flags)
        return self.struck(victim, f"{victim.pod.name} with {victim.run.task}")


class WorkerForced(WorkerDeleted):
    """A worker's pod is deleted without grace."""

    kind = "worker deleted by force"
    harms = ALL
    echo = 120.0
    """The pod is gone from the list at once, its processes when its node hears of it: a lost one, when it is back."""
    flags = ("--force", "--grace-period=0")


class HandlerKilled(Fault):
    """kill -9 to a handler's process, as the kernel does where memory runs out: a failed attempt."""

    kind = "handler killed"
    harms = frozenset({Harm.INTERRUPTED, Harm.REPEATED})
    echo = 2.0

    def inject(self) -> Hit:
        victim = self.at_work()
        for process in self.stage.processes(victim.pod):
            if process.pid == victim.pid and process.kill():
                return self.struck(victim, f"{victim.run.task} in {victim.pod.name}")
        raise NoVictim


class OperatorRestarted(Fault):
    """One of the operators dies, or its pod goes."""

    kind = "operator restarted"

    def inject(self) -> Hit:
        return _end(self, "operator")


class ProducerRestarted(Fault):
    """One of the producers dies, or its pod goes: clients are left without an answer."""

    kind = "producer restarted"

    def inject(self) -> Hit:
        return _end(self, "producer")


def _end(fault: Fault, component: str) -> Hit:
    pod = fault.choose(fault.stage.pods(component))
    how = fault.draw.choice(("killed", "deleted", "deleted by force"))
    if how == "killed":
        if not any(process.own and process.kill() for process in fault.stage.processes(pod)):
            raise NoVictim
    else:
        grace = () if how == "deleted" else ("--force", "--grace-period=0")
        fault.stage.kube.kubectl("delete", "pod", pod.name, "--wait=false", *grace)
    return Hit(f"{pod.name} {how}")


class ScaleStorm(Fault):
    """A burst into a queue without workers, while its bounds are patched up and down."""

    kind = "scale storm"

    def inject(self) -> Hit:
        count = self.draw.randint(30, 60)
        client = self.stage.client(f"storm-{time.time():.0f}", STORMY, "--count", str(count))
        bounds = []
        for _ in range(self.draw.randint(2, 4)):
            low = self.draw.randint(0, 3)
            high = self.draw.randint(max(1, low), 6)
            self.stage.kube.patch(f"workqueue/{STORMY}", {"spec": {"minReplicas": low, "maxReplicas": high}})
            bounds.append(f"{low}-{high}")
            time.sleep(self.draw.uniform(1, 3))  # the storm's own rhythm
        assert client.wait(60) == 0
        return Hit(f"{count} tasks at once, workers {', '.join(bounds)}")

    def heal(self) -> None:
        self.stage.kube.patch(f"workqueue/{STORMY}", {"spec": {"minReplicas": 0, "maxReplicas": 6}})


class Rollout(Fault):
    """All workers of a queue are replaced."""

    kind = "rollout"

    def inject(self) -> Hit:
        queue = self.draw.choice(STEADY)
        self.stage.kube.kubectl("rollout", "restart", f"deployment/warren-worker-{queue}")
        return Hit(f"workers of {queue}")


class BrokerKilled(Fault):
    """kill -9 to a broker, or its pod deleted without grace."""

    kind = "broker killed"
    harms = LOST_CONNECTIONS
    echo = 5.0

    def inject(self) -> Hit:
        pod = self.choose(self.stage.pods("rabbitmq"))
        how = self.draw.choice(("killed", "deleted by force"))
        if how == "killed":
            victims = [process for process in self.stage.processes(pod) if "beam.smp" in process.command]
            if not any(process.kill() for process in victims):
                raise NoVictim
        else:
            self.stage.kube.kubectl("delete", "pod", pod.name, "--force", "--grace-period=0", "--wait=false")
        return Hit(f"{pod.name} {how}")

    def heal(self) -> None:
        self.stage.wait_until_brokers_are_well()


class BrokerFrozen(Standstill):
    """A broker stands still with all its connections, which its node's kernel goes on taking bytes for."""

    kind = "broker frozen"
    harms = LOST_CONNECTIONS
    echo = HEARTBEATS
    hold = (15.0, 30.0)

    def inject(self) -> Hit:
        pod = self.choose(self.stage.pods("rabbitmq"))
        self.freeze(process for process in self.stage.processes(pod) if "beam.smp" in process.command)
        return Hit(pod.name)

    def heal(self) -> None:
        super().heal()
        self.stage.wait_until_brokers_are_well()


class LeadersMoved(Fault):
    """The queues' leaders give way to others, as for a rebalance or before a broker is taken out of service."""

    kind = "leaders moved"

    def inject(self) -> Hit:
        moved = []
        for name, row in self.stage.queues().items():
            others = sorted({*row.get("members", ())} - {row.get("leader")})
            if name not in QUEUES or not others:
                continue
            to = self.draw.choice(others)
            queue = f'{{resource, <<"/">>, queue, <<"{name}">>}}'
            said = self.stage.kube.rabbitmqctl(
                "eval",
                f"{{ok, Q}} = rabbit_amqqueue:lookup({queue}), rabbit_quorum_queue:transfer_leadership(Q, '{to}').",
            )
            if not has_moved(said, to):
                continue
            moved.append(f"{name} to {to.partition('.')[0].removeprefix('rabbit@')}")
        if not moved:
            raise NoVictim
        return Hit(", ".join(moved))


def has_moved(answer: str, to: str) -> bool:
    """Whether a leader gave way to this node, as RabbitMQ 4.3's `transfer_leadership` answers.

    >>> has_moved("{ok,'rabbit@two'}", "rabbit@two"), has_moved("{ok,'rabbit@one'}", "rabbit@two")
    (True, False)
    >>> has_moved("{error,timeout}", "rabbit@two")
    False
    """
    return answer.strip().replace("'", "") == f"{{ok,{to}}}"


class BrokerCut(Fault):
    """A broker is cut off from the other two, or from all other pods: packets vanish."""

    kind = "broker cut off"
    harms = LOST_CONNECTIONS
    echo = HEARTBEATS
    hold = (25.0, 35.0)

    def inject(self) -> Hit:
        brokers = self.stage.pods("rabbitmq")
        pod = self.choose(brokers)
        alone = self.draw.random() < 0.5
        self._pairs = (
            [(pod.address, None)] if alone else [(pod.address, one.address) for one in brokers if one.name != pod.name]
        )
        self._rules("-I")
        return Hit(f"{pod.name} from {'all other pods' if alone else 'the other brokers'}")

    def heal(self) -> None:
        self._rules("-D")
        self._pairs = []
        self.stage.wait_until_brokers_are_well()

    _pairs: Sequence[tuple[str, str | None]] = ()

    def _rules(self, verb: str) -> None:
        """Pods' traffic passes FORWARD on each node that it crosses."""
        program = iptables()
        for node in layout(NODES).nodes:
            for one, other in self._pairs:
                for words in (
                    ("-s", one, *(() if other is None else ("-d", other))),
                    ("-d", one, *(() if other is None else ("-s", other))),
                ):
                    command = ["nsenter", f"--net={netns.path(node.netns)}", program, "-w", "10", verb, "FORWARD"]
                    run([*command, *words, "-j", "DROP"], limit=30, check=verb == "-I")


def iptables() -> str:
    """The flavour that this machine's kernel has."""
    for program in ("iptables", "iptables-legacy", "iptables-nft"):
        command = [
            "nsenter",
            f"--net={netns.path(layout().control_plane.netns)}",
            program,
            "-w",
            "10",
            "-t",
            "nat",
            "-S",
        ]
        done = run(command, limit=30, check=False)
        if done.code == 0 and "KUBE-SERVICES" in done.stdout:  # the one that kube-proxy writes with
            return program
    raise AssertionError("no iptables has kube-proxy's rules")


class NodeLost(Fault):
    """A node is cut off from all the others while it runs on, with its broker, workers and the rest."""

    kind = "node lost"
    harms = LOST_CONNECTIONS
    echo = HEARTBEATS
    hold = (35.0, 50.0)

    def inject(self) -> Hit:
        spare = self.stage.spare_nodes()
        if not spare:
            raise NoVictim
        self._node = self.draw.choice(spare)
        pods = [
            pod.name
            for component in ("rabbitmq", "producer", "operator", "worker")
            for pod in self.stage.pods(component)
            if pod.node == self._node
        ]
        cluster("cut", self._node)
        return Hit(f"{self._node} with {', '.join(pods) or 'nothing'}")

    def heal(self) -> None:
        if self._node:
            cluster("mend", self._node)
        self.stage.wait_until_nodes_are_well()
        self.stage.wait_until_brokers_are_well()

    _node: str = ""


class Alarm(Fault):
    """A broker is short of memory or of disk space: no broker takes tasks or dead letters."""

    kind = "alarm"
    harms = frozenset({Harm.DIED_TWICE})
    echo = 15.0
    hold = (8.0, 14.0)

    def inject(self) -> Hit:
        self._pod = self.choose(self.stage.pods("rabbitmq")).name
        self._short_of = self.draw.choice(("memory", "disk"))
        self._control(*LIMITS[self._short_of].alarming)
        return Hit(f"{self._pod} short of {self._short_of}")

    def heal(self) -> None:
        if self._pod:
            self._control(*LIMITS[self._short_of].usual)

    _pod: str = ""
    _short_of: str = ""

    def _control(self, *words: str) -> None:
        command = ("exec", self._pod, "--", "rabbitmqctl", "--quiet", *words)
        eventually(lambda: (self.stage.kube.kubectl(*command),), "the limit is set", limit=WELL_LIMIT, every=1)


@dataclass(frozen=True, slots=True)
class Limits:
    """Words for rabbitmqctl.

    Attributes:
        alarming: a limit that is passed at once.
        usual: the chart's.
    """

    alarming: tuple[str, str]
    usual: tuple[str, str]


LIMITS = {
    "memory": Limits(("set_vm_memory_high_watermark", "0.00001"), ("set_vm_memory_high_watermark", "0.6")),
    "disk": Limits(("set_disk_free_limit", "900000GB"), ("set_disk_free_limit", "512MB")),
}


class ConnectionsDropped(Fault):
    """All connections to the broker end, are reset, or fall silent."""

    kind = "connections dropped"
    harms = LOST_CONNECTIONS
    echo = HEARTBEATS
    hold = (4.0, 24.0)

    def inject(self) -> Hit:
        how = self.draw.choice(("refused", "reset", "silent", "half silent"))
        try:
            self._drop(how)
        except Stuck:
            return Hit("all, by an end of toxiproxy")  # to heal it takes that
        return Hit(f"all {how}")

    def _drop(self, how: str) -> None:
        toxic = self.stage.toxic
        match how:
            case "refused":
                toxic.enable("amqp", on=False)
            case "reset":
                toxic.poison("amqp", "reset_peer", "downstream", timeout=self.draw.randint(0, 2000))
            case "silent":
                toxic.poison("amqp", "timeout", "downstream", timeout=0)
                toxic.poison("amqp", "timeout", "upstream", timeout=0)
            case _:
                toxic.poison("amqp", "timeout", self.draw.choice(("upstream", "downstream")), timeout=0)

    def heal(self) -> None:
        # What a silent connection has swallowed is gone, so that it can only be ended.
        toxic = self.stage.toxic
        try:
            toxic.enable("amqp", on=False)
            toxic.cure("amqp")
            toxic.enable("amqp", on=True)
        except Stuck:
            toxic.restart()


class ConnectionsSlow(Fault):
    """Connections to the broker are slow: late, narrow or in small pieces."""

    kind = "connections slow"
    hold = (10.0, 18.0)

    def inject(self) -> Hit:
        how = self.draw.choice(("late", "narrow", "in pieces"))
        try:
            self._slow_down(how)
        except Stuck as error:
            raise NoVictim from error
        return Hit(f"all {how}")

    def _slow_down(self, how: str) -> None:
        toxic, draw = self.stage.toxic, self.draw
        for stream in ("upstream", "downstream"):
            match how:
                case "late":
                    toxic.poison("amqp", "latency", stream, latency=draw.randint(200, 800), jitter=draw.randint(0, 200))
                case "narrow":
                    toxic.poison("amqp", "bandwidth", stream, rate=draw.randint(10, 40))
                case _:
                    toxic.poison(
                        "amqp", "slicer", stream, average_size=40, size_variation=20, delay=draw.randint(100, 900)
                    )

    def heal(self) -> None:
        began = time.time()
        try:
            self.stage.toxic.cure("amqp")
        except Stuck:
            # Slow connections explain nothing, but that they end does.
            self.stage.toxic.restart()
            what = "all, by an end of toxiproxy"
            ended = ConnectionsDropped
            self.stage.write_fault(ledger.Fault(ended.kind, what, began, time.time(), ended.harms, None, ended.echo))


HEAVY: tuple[type[Fault], ...] = (
    BrokerKilled,
    BrokerFrozen,
    BrokerCut,
    NodeLost,
    LeadersMoved,
    Alarm,
    ConnectionsDropped,
    ConnectionsSlow,
)
"""One at a time: what three brokers bear."""

LIGHT: tuple[type[Fault], ...] = (
    WorkerKilled,
    WorkerFrozen,
    WorkerDeleted,
    WorkerForced,
    HandlerKilled,
    OperatorRestarted,
    ProducerRestarted,
    ScaleStorm,
    Rollout,
)

KINDS = {fault.kind: fault for fault in (*HEAVY, *LIGHT)}


def lane(name: str, faults: Sequence[type[Fault]], pause: tuple[float, float]) -> Lane:
    """These faults as a lane of the schedule."""
    return Lane(name, [Kind(fault.kind, fault.hold) for fault in faults], pause)


LANES = (lane("brokers and connections", HEAVY, (3.0, 7.0)), lane("workers and the rest", LIGHT, (4.0, 10.0)))
