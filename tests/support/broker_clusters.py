"""A cluster of RabbitMQ nodes in containers, on the files that the chart gives each pod, behind one address."""

import contextlib
import json
import socket
import subprocess
import tempfile
import threading
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from brokers import ADMIN, PASSWORD, Broker, image
from chart import BrokerFiles, broker_files
from listeners import Listener, end
from waiting import eventually

DOMAIN = "warren-rabbitmq-nodes.warren.svc.cluster.local"
"""Where a release `warren` in the namespace `warren` has its pods."""

START_LIMIT = 120.0
"""Seconds until a node must take connections; 6 are usual."""


@dataclass(frozen=True, slots=True)
class Member:
    """One queue's replicas, by the number of their node."""

    leader: int | None
    members: frozenset[int]
    online: frozenset[int]


@dataclass(frozen=True, slots=True)
class Consumer:
    """A consumer, as its queue sees it.

    Attributes:
        active: whether the queue says that it gives it tasks.
        status: in RabbitMQ's words: `up`, `suspected_down`, …
    """

    active: bool
    status: str


class Service:
    """Stands for the broker's Service: each new connection goes to a node that takes one.

    As with kube-proxy, a connection stays with its node, and nobody ends it where the node falls silent.
    """

    def __init__(self, addresses: Callable[[], Sequence[str]], port: int) -> None:
        """`addresses` of the nodes that are ready at a time, `port` of theirs."""
        self._addresses = addresses
        self._target = port
        self._turn = 0
        self._silent = False
        self._servers: list[socket.socket] = []
        self._listener = Listener(self._forward)

    @property
    def port(self) -> int:
        """Where clients connect."""
        return self._listener.port

    def silence(self) -> None:
        """Pass nothing on from now on, in either direction; no connection ends by that."""
        self._silent = True

    def close(self) -> None:
        """End it all."""
        self._listener.close()
        for server in self._servers:
            end(server)

    def _forward(self, client: socket.socket) -> None:
        server = self._connect()
        if server is None:
            end(client)
            return
        self._servers.append(server)
        for source, target in ((client, server), (server, client)):
            threading.Thread(target=self._pump, args=(source, target), daemon=True).start()

    def _connect(self) -> socket.socket | None:
        addresses = self._addresses()
        for _ in addresses:
            self._turn += 1
            with contextlib.suppress(OSError):
                server = socket.create_connection((addresses[self._turn % len(addresses)], self._target), timeout=1)
                server.settimeout(None)
                return server
        return None

    def _pump(self, source: socket.socket, target: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                if not self._silent:
                    target.sendall(data)
        if not self._silent:
            for side in (source, target):
                with contextlib.suppress(OSError):
                    side.shutdown(socket.SHUT_RDWR)


@dataclass
class BrokerCluster:
    """Nodes by their numbers in the StatefulSet.

    Attributes:
        network: of Docker, which they share with nobody.
        files: that the chart gives each of them.
        folders: with these files: configuration, credentials.
        addresses: of the nodes that can be reached.
    """

    network: str
    files: BrokerFiles
    folders: tuple[Path, Path]
    addresses: dict[int, str]

    def container(self, number: int) -> str:
        """Name of a node's container."""
        return f"{self.network}-{number}"

    def ready_addresses(self) -> list[str]:
        """Addresses of the nodes that are there."""
        return list(self.addresses.values())

    def create(self, number: int, *, named: bool = True) -> None:
        """Start a node that has no data; `wait_for` it afterwards.

        Args:
            number: of the node.
            named: whether the others find it by its name; in Kubernetes they may not, for half a minute.
        """
        configuration, secret = self.folders
        host = _host(number)
        docker(
            *("run", "--detach", "--name", self.container(number), "--hostname", host),
            *(
                "--network",
                self.network,
                *(("--network-alias", host) if named else ()),
                "--env",
                "RABBITMQ_USE_LONGNAME=true",
            ),
            *("--volume", f"{configuration}:/etc/rabbitmq:ro", "--volume", f"{secret}:/etc/warren/rabbitmq:ro"),
            *("--tmpfs", "/tmp", "--tmpfs", "/var/log/rabbitmq", "--user", "999:999", "--read-only"),  # noqa: S108
            *("--cap-drop", "ALL", "--security-opt", "no-new-privileges", "--entrypoint", self.files.command[0]),
            *(image(), *self.files.command[1:]),
        )

    def wait_for(self, *numbers: int) -> None:
        """Until these nodes take connections."""
        for number in numbers:
            seen = json.loads(docker("inspect", self.container(number)))[0]
            address = str(seen["NetworkSettings"]["Networks"][self.network]["IPAddress"])
            eventually(partial(_open, address), f"node {number} takes connections", limit=START_LIMIT)
            self.addresses[number] = address

    def kill(self, number: int) -> None:
        """End a node as a loss of power does."""
        docker("kill", self.container(number))
        self.addresses.pop(number)

    def stop(self, number: int) -> None:
        """End a node as Kubernetes ends its pod: no new connections, the preStop hook, then SIGTERM."""
        self.addresses.pop(number)
        docker("exec", self.container(number), *self.files.stop_command)
        docker("stop", "--time", "60", self.container(number))

    def start(self, number: int) -> None:
        """Start a node again on its data."""
        docker("start", self.container(number))
        self.wait_for(number)

    def cut(self, number: int) -> None:
        """Cut a node off from everybody; it runs on."""
        self.addresses.pop(number)
        docker("network", "disconnect", self.network, self.container(number))

    def mend(self, number: int) -> None:
        """End the cut."""
        docker("network", "connect", "--alias", _host(number), self.network, self.container(number))
        self.wait_for(number)

    def part(self, number: int) -> None:
        """Cut a node off from the other nodes, at once and noticed by all of them; its clients stay."""
        self._eval(number, "[{erlang:set_cookie(N, parted), erlang:disconnect_node(N)} || N <- nodes()].")

    def join(self, number: int) -> None:
        """End that."""
        others = ", ".join(f"'{_node(other)}'" for other in range(3) if other != number)
        self._eval(
            number, f"[{{erlang:set_cookie(N, erlang:get_cookie()), net_kernel:connect_node(N)}} || N <- [{others}]]."
        )

    def lead(self, queue: str, number: int) -> None:
        """Have a node lead a queue, and wait until it does."""
        there = min(set(self.addresses) - {number})
        said = ""

        def look() -> bool:
            nonlocal said
            leader = self.member(queue).leader
            assert leader is not None, "no leader"
            if leader != number:
                to = f"{{'%2F_{queue}', '{_node(number)}'}}"
                said = self._eval(there, f"ra:transfer_leadership({{'%2F_{queue}', '{_node(leader)}'}}, {to}).")
            assert leader == number, f"node {leader} leads; asked to hand over, it said {said}"
            return True

        eventually(look, f"node {number} leads {queue}", every=0.3)

    def consumers(self, queue: str, *, asked: int) -> list[Consumer]:
        """A queue's consumers, as the queue tells a node that has its leader or a way to it."""
        columns = ("queue_name", "active", "activity_status")
        rows = json.loads(self.ctl(asked, "rabbitmqctl", "list_consumers", "--formatter", "json", *columns))
        return [Consumer(row["active"], row["activity_status"]) for row in rows if row["queue_name"] == queue]

    def lose(self, number: int) -> None:
        """End a node together with its volume."""
        docker("rm", "--force", "--volumes", self.container(number))
        self.addresses.pop(number)

    def running(self, asked: int) -> set[int]:
        """The nodes of the cluster that run, as one of them sees it."""
        seen = json.loads(self.ctl(asked, "rabbitmqctl", "cluster_status", "--formatter", "json"))
        return {_number(name) for name in seen["running_nodes"]}

    def member(self, queue: str) -> Member:
        """Where a queue lives."""
        name = f'rabbit_misc:r(<<"/">>, queue, <<"{queue}">>)'
        program = (
            f"{{ok, Q}} = rabbit_amqqueue:lookup({name}), I = rabbit_quorum_queue:info(Q, [leader, members, online]), "
            "S = fun(A) when is_atom(A) -> atom_to_binary(A); (L) -> [atom_to_binary(E) || E <- L] end, "
            "iolist_to_binary(json:encode(maps:from_list([{K, S(V)} || {K, V} <- I])))."
        )
        printed = self.ctl(min(self.addresses), "rabbitmqctl", "eval", program).strip()
        said = json.loads(json.loads(printed.removeprefix("<<").removesuffix(">>")))
        members, online = (frozenset(map(_number, said[key])) for key in ("members", "online"))
        return Member(_number(said["leader"]) if "@" in said["leader"] else None, members, online)

    def _eval(self, number: int, program: str) -> str:
        return self.ctl(number, "rabbitmqctl", "eval", program).strip()

    def ctl(self, number: int, *command: str) -> str:
        """What one of RabbitMQ's own commands says on a node."""
        return docker("exec", self.container(number), command[0], "--quiet", *command[1:])


def _host(number: int) -> str:
    return f"warren-rabbitmq-{number}.{DOMAIN}"


def _node(number: int) -> str:
    return f"rabbit@{_host(number)}"


def _number(node: str) -> int:
    return int(node.split(".", maxsplit=1)[0].rsplit("-", 1)[1])


def _open(address: str) -> bool:
    with contextlib.suppress(OSError), socket.create_connection((address, 5672), timeout=1):
        return True
    return False


def docker(*arguments: str) -> str:
    """What a Docker command prints."""
    done = subprocess.run(["docker", *arguments], capture_output=True, text=True, timeout=150, check=False)
    assert done.returncode == 0, f"docker {' '.join(arguments)}: {done.stdout}{done.stderr}"
    return done.stdout


@contextmanager
def broker_cluster() -> Iterator[tuple[BrokerCluster, Broker]]:
    """A cluster that has node 0 for a start, and the one address by which every part reaches it."""
    files = broker_files({"broker": {"replicas": 3}})
    network = f"warren-test-{uuid.uuid4().hex[:8]}"
    with tempfile.TemporaryDirectory(prefix="warren-brokers-") as folder:
        cluster = BrokerCluster(network, files, files.write(Path(folder), further_user=(ADMIN, PASSWORD)), {})
        docker("network", "create", network)
        amqp, management = Service(cluster.ready_addresses, 5672), Service(cluster.ready_addresses, 15672)
        try:
            cluster.create(0)
            cluster.wait_for(0)
            yield cluster, Broker("127.0.0.1", amqp.port, management.port, cluster.container(0), files.passwords)
        finally:
            amqp.close()
            management.close()
            for number in range(3):
                subprocess.run(
                    ["docker", "rm", "--force", "--volumes", cluster.container(number)],
                    capture_output=True,
                    timeout=60,
                    check=False,
                )
            docker("network", "rm", network)
