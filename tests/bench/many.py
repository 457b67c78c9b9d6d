"""What thousands of WorkQueues cost, and how long a first task waits for its workers among them.

Each WorkQueue has its queue in the broker and its Deployment in the cluster. The Deployments are paused: their replicas
change as ever, but there are no pods, which would measure the cluster and not the operator.
"""

import asyncio
import base64
import json
import random
import re
import statistics
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pika
from curves import Curve, Panel, draw
from kube import ROOT, Kube
from pika.adapters.blocking_connection import BlockingChannel
from release import install, remove

from warren_contract.events import TasksSubmitted, encode
from warren_contract.names import EVENTS_EXCHANGE, TASKS_EXCHANGE
from warren_operator.kube import MERGE_PATCH, Api, find_cluster
from warren_operator.mirror import Kind, Mirror
from warren_operator.resource import Key
from warren_operator.workloads import DEPLOYMENTS, read_deployment

NAMESPACE = "warren-many"
COUNTS = (1, 100, 500, 1000, 2000, 5000)
"""WorkQueues at which is measured."""

VALUES = Path(__file__).resolve().parent / "many.yaml"

WORK_QUEUES = Kind("apis/warren.dev/v1alpha1", "workqueues")

AT_ONCE = 24
"""Calls to the API server at a time while WorkQueues are made."""

SAMPLES = 30
"""First tasks for each figure, each for another queue."""

GAP = 0.11
"""Seconds between two of them; no divisor of a period of the operator's."""

STEADY = 20.0
"""Seconds over which the steady state is measured."""

SETTLING = 12.0
"""Seconds of rest before that: the regular status writes of all that is new are over by then."""

SETTLING_EACH = 0.05
"""Seconds of rest for each new WorkQueue besides: that it has been compared is written of twenty a second."""

ACTIVE = 300
"""Queues with tasks in them for the figure under work."""

RESTARTED_AT = 1000
"""WorkQueues with which the operator is restarted."""

LIMIT = 300.0
"""Seconds for anything to happen; what takes longer is a failure."""


@dataclass(frozen=True)
class Times:
    """How long the same thing took for each of many, in seconds.

    Of a reaction it is the time from the confirm of a queue's first task to the change of its Deployment's replicas.
    """

    times: tuple[float, ...]

    @property
    def median(self) -> float:
        """Half of them are shorter."""
        return statistics.median(self.times)

    @property
    def p95(self) -> float:
        """19 of 20 are shorter."""
        return statistics.quantiles(self.times, n=20, method="inclusive")[-1]


@dataclass(frozen=True)
class Point:
    """What so many WorkQueues take.

    Attributes:
        count: of WorkQueues.
        queues: of real queues in the broker, dead-letter queues among them.
        policies: in the broker.
        added: WorkQueues that were made for this point.
        making: seconds that it took to make their WorkQueues in the cluster.
        taken_in: seconds from the beginning of that until the last of them was ready, its queue declared.
        entries: for each of them the seconds from its own creation until it was ready.
        complete: seconds from the beginning until the last dead-letter queue was there as well.
        idle_cores: processor time of the operator while nothing happens, in cores.
        memory: resident bytes of the operator.
        foreign: reaction to tasks that nobody tells the operator of.
        told: reaction to tasks that come with a producer's word.
        active_cores: processor time while `ACTIVE` queues get tasks; None where there are not so many.
        beside: reaction of the other queues meanwhile, to tasks that nobody tells the operator of.
    """

    count: int
    queues: int
    policies: int
    added: int
    making: float
    taken_in: float
    entries: Times
    complete: float
    idle_cores: float
    memory: float
    foreign: Times
    told: Times
    active_cores: float | None = None
    beside: Times | None = None


@dataclass(frozen=True)
class Restart:
    """The operator's pod deleted without a grace, among so many WorkQueues.

    Attributes:
        count: of WorkQueues.
        during: reaction to tasks of the first seconds, in which there is no operator; from their confirm.
        after: reaction to tasks that come ten seconds after the deletion.
    """

    count: int
    during: Times
    after: Times


@dataclass
class Site:
    """The installed release, and the ways to it.

    Attributes:
        kube: its namespace.
        api: session with the API server.
        deployments: replicas of each Deployment, as watched.
        ready: whether each WorkQueue's status says that it is.
        ready_at: monotonic time at which each WorkQueue was seen to be ready first.
        scaled: monotonic time at which a Deployment's replicas rose from zero.
        channel: of the broker, with confirms.
        other_channel: the same on a connection of its own, for what goes on beside.
    """

    kube: Kube
    api: Api
    channel: BlockingChannel
    other_channel: BlockingChannel
    management: httpx.AsyncClient
    scaled: dict[str, float] = field(default_factory=dict)
    ready_at: dict[str, float] = field(default_factory=dict)
    made: int = 0

    def __post_init__(self) -> None:
        space = self.kube.namespace
        self.ready: Mirror[bool] = Mirror(self.api, WORK_QUEUES, space, is_ready, self._readiness_changed)
        self.deployments = Mirror(self.api, DEPLOYMENTS, space, read_deployment, self._deployment_changed)

    def _readiness_changed(self, key: Key, _before: bool | None, after: bool | None) -> None:
        if after:
            self.ready_at.setdefault(key.name, time.monotonic())

    def _deployment_changed(self, key: Key, before: Any, after: Any) -> None:
        if before is not None and after is not None and not before.replicas and after.replicas:
            self.scaled[key.name] = time.monotonic()

    def settled(self, name: str) -> bool:
        """Whether the controller of Kubernetes has seen a Deployment."""
        found = self.deployments.get(Key(self.kube.namespace, name))
        return found is not None and found.settled

    async def metrics(self) -> dict[str, float]:
        """The operator's metrics that have no labels."""
        text = await asyncio.to_thread(self._scrape)
        return {name: float(value) for name, value in re.findall(r"^(\w+) (\S+)$", text, re.MULTILINE)}

    def _scrape(self) -> str:
        with self.kube.forward("service/warren-operator", 8081) as port:
            return httpx.get(f"http://127.0.0.1:{port}/metrics", timeout=30).text

    async def cores(self, seconds: float) -> tuple[float, float]:
        """Cores that the operator uses over some seconds, and its resident bytes."""
        before, begun = await self.metrics(), time.monotonic()
        await asyncio.sleep(seconds)
        after = await self.metrics()
        used = after["process_cpu_seconds_total"] - before["process_cpu_seconds_total"]
        return used / (time.monotonic() - begun), after["process_resident_memory_bytes"]


def is_ready(body: Mapping[str, Any]) -> bool:
    """Whether a WorkQueue's condition Ready is true."""
    conditions = (body.get("status") or {}).get("conditions") or ()
    return any(item["type"] == "Ready" and item["status"] == "True" for item in conditions)


def name_of(number: int) -> str:
    """Of a WorkQueue, its queue and its Deployment."""
    return f"many-{number:05d}"


def deployment(name: str) -> dict[str, Any]:
    """A Deployment without pods, whatever its replicas."""
    labels = {"app": name}
    container = {"name": "none", "image": "none"}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": name},
        "spec": {
            "replicas": 0,
            "paused": True,
            "selector": {"matchLabels": labels},
            "template": {"metadata": {"labels": labels}, "spec": {"containers": [container]}},
        },
    }


def work_queue(name: str) -> dict[str, Any]:
    """A WorkQueue with the defaults of the release."""
    spec = {"scaleTargetRef": {"name": name}}
    return {"apiVersion": "warren.dev/v1alpha1", "kind": "WorkQueue", "metadata": {"name": name}, "spec": spec}


async def each(work: Iterable[Awaitable[Any]]) -> None:
    """Await all, `AT_ONCE` at a time."""
    limit = asyncio.Semaphore(AT_ONCE)

    async def one(item: Awaitable[Any]) -> None:
        async with limit:
            await item

    await asyncio.gather(*(one(item) for item in work))


async def until(check: Callable[[], bool], what: str) -> None:
    """Wait until a condition holds."""
    try:
        async with asyncio.timeout(LIMIT):
            while not check():  # noqa: ASYNC110  the condition is somebody else's
                await asyncio.sleep(0.02)
    except TimeoutError:
        raise AssertionError(f"{what}: not within {LIMIT:g} s") from None


@asynccontextmanager
async def connected(kube: Kube) -> AsyncIterator[Site]:
    """The ways to a release, open for the time of a block."""
    secret = kube.get("secret", "warren-broker-operator")["data"]
    user, password = (base64.b64decode(secret[key]).decode() for key in ("username", "password"))
    with kube.forward("pod/warren-rabbitmq-0", 5672) as port, kube.forward("pod/warren-rabbitmq-0", 15672) as web:
        parameters = pika.ConnectionParameters(
            "127.0.0.1", port, "/", pika.PlainCredentials(user, password), heartbeat=0
        )
        connections = [pika.BlockingConnection(parameters) for _ in range(2)]
        channels = [connection.channel() for connection in connections]
        for channel in channels:
            channel.confirm_delivery()
        url = f"http://127.0.0.1:{web}/api/"
        async with (
            Api(await find_cluster({"KUBECONFIG": str(kube.kubeconfig)}), watches=2) as api,
            httpx.AsyncClient(base_url=url, auth=(user, password), timeout=60) as management,
        ):
            site = Site(kube, api, channels[0], channels[1], management)
            watching = [asyncio.ensure_future(mirror.run()) for mirror in (site.ready, site.deployments)]
            try:
                yield site
            finally:
                for task in watching:
                    task.cancel()
                for connection in connections:
                    connection.close()


@dataclass(frozen=True)
class Added:
    """How new WorkQueues were taken in; the attributes are those of `Point`."""

    making: float
    taken_in: float
    entries: Times
    complete: float


async def add(site: Site, count: int) -> Added:
    """Have so many WorkQueues. Their Deployments are there before, and Kubernetes has done with them."""
    space = site.kube.namespace
    new = [name_of(number) for number in range(site.made, count)]
    await each(site.api.request("POST", DEPLOYMENTS.path(space), body=deployment(name)) for name in new)
    await until(lambda: all(site.settled(name) for name in new), f"{len(new)} Deployments are settled")
    created: dict[str, float] = {}

    async def create(name: str) -> None:
        await site.api.request("POST", WORK_QUEUES.path(space), body=work_queue(name))
        created[name] = time.monotonic()

    begun = time.monotonic()
    await each(create(name) for name in new)
    site.made, made = count, time.monotonic()
    await until(lambda: sum(site.ready) == count, f"{count} WorkQueues are ready")
    ready = time.monotonic()
    entries = Times(tuple(round(max(0.0, site.ready_at[name] - created[name]), 3) for name in new))
    async with asyncio.timeout(LIMIT):
        while await queues(site) < 2 * count:  # noqa: ASYNC110  the condition is somebody else's
            await asyncio.sleep(1)
    return Added(made - begun, ready - begun, entries, time.monotonic() - begun)


async def queues(site: Site) -> int:
    """Work queues and dead-letter queues in the broker."""
    found = (await site.management.get("queues?disable_stats=true&columns=name")).json()
    return sum(queue["name"].startswith("many-") for queue in found)


async def react(site: Site, names: Sequence[str], *, told: bool) -> Times:
    """One first task for each queue, and back to none."""
    site.scaled.clear()
    confirmed: dict[str, float] = {}
    for name in names:
        await asyncio.to_thread(publish, site.channel, name, told=told)
        confirmed[name] = time.monotonic()
        await asyncio.sleep(GAP)
    await until(lambda: site.scaled.keys() >= set(names), "all are scaled")
    times = tuple(round(site.scaled[name] - confirmed[name], 3) for name in names)
    await empty(site, names)
    return Times(times)


def publish(channel: BlockingChannel, name: str, *, told: bool) -> None:
    """A task, confirmed; and a producer's word of it."""
    channel.basic_publish(TASKS_EXCHANGE, name, b"x", mandatory=True)
    if told:
        event = TasksSubmitted(queue=name, count=1, at=time.time())
        channel.basic_publish(EVENTS_EXCHANGE, event.routing_key, encode(event))


def publish_all(channel: BlockingChannel, names: Sequence[str]) -> None:
    """One task for each queue, with a producer's word."""
    for name in names:
        publish(channel, name, told=True)


async def empty(site: Site, names: Sequence[str]) -> None:
    """No tasks and no replicas for these, as before."""
    for name in names:
        await asyncio.to_thread(site.channel.queue_purge, name)
    await asyncio.sleep(2)  # what the operator has read before the purge, it acts on now or never
    body = {"spec": {"replicas": 0}}
    space = site.kube.namespace
    await each(
        site.api.request("PATCH", DEPLOYMENTS.path(space, name, "scale"), body=body, media=MERGE_PATCH)
        for name in names
    )
    await asyncio.sleep(2)


async def measure(site: Site, count: int) -> Point:
    """All figures with so many WorkQueues."""
    new = count - site.made
    added = await add(site, count)
    await asyncio.sleep(SETTLING + SETTLING_EACH * new)
    idle_cores, memory = await site.cores(STEADY)
    chosen = random.Random(count).sample(range(count), min(SAMPLES, count))
    names = [name_of(number) for number in chosen]
    if count < SAMPLES:
        times = [await react(site, names, told=False) for _ in range(10)]
        foreign = Times(tuple(time for reaction in times for time in reaction.times))
        times = [await react(site, names, told=True) for _ in range(10)]
        told = Times(tuple(time for reaction in times for time in reaction.times))
    else:
        foreign = await react(site, names, told=False)
        told = await react(site, names, told=True)
    active, beside = await work(site) if count >= RESTARTED_AT else (None, None)
    policies = (await site.management.get("policies")).json()
    return Point(
        count=count,
        queues=await queues(site),
        policies=len(policies),
        added=new,
        making=added.making,
        taken_in=added.taken_in,
        entries=added.entries,
        complete=added.complete,
        idle_cores=idle_cores,
        memory=memory,
        foreign=foreign,
        told=told,
        active_cores=active,
        beside=beside,
    )


async def work(site: Site) -> tuple[float, Times]:
    """Cores that the operator uses while `ACTIVE` queues get a task each second, and the reaction of others then."""
    names = [name_of(number) for number in range(ACTIVE)]
    others = [name_of(number) for number in random.Random(9).sample(range(ACTIVE, site.made), SAMPLES)]
    ended = asyncio.Event()

    async def go_on() -> None:
        while not ended.is_set():
            begun = time.monotonic()
            await asyncio.to_thread(publish_all, site.other_channel, names)
            with suppress(TimeoutError):
                await asyncio.wait_for(ended.wait(), max(0.01, begun + 1 - time.monotonic()))

    going = asyncio.ensure_future(go_on())
    try:
        await asyncio.sleep(5)
        cores, _ = await site.cores(STEADY)
        beside = await react(site, others, told=False)
    finally:
        ended.set()
        await going
        await empty(site, names)
    return cores, beside


async def restart(site: Site) -> Restart:
    """Delete the operator's pod and see how long first tasks wait, at once and ten seconds later."""
    chosen = [name_of(number) for number in random.Random(7).sample(range(site.made), 2 * SAMPLES)]
    (pod,) = site.kube.pods("operator")
    await asyncio.to_thread(site.kube.kubectl, "delete", "pod", pod, "--force", "--grace-period=0", "--wait=false")
    deleted = time.monotonic()
    during = asyncio.ensure_future(react(site, chosen[:SAMPLES], told=False))
    await asyncio.sleep(max(0.0, deleted + 10 - time.monotonic()))
    await during
    after = await react(site, chosen[SAMPLES:], told=False)
    return Restart(site.made, during.result(), after)


async def many(kube: Kube, counts: Sequence[int] = COUNTS) -> tuple[list[Point], list[Restart]]:
    """Measure at each of these numbers of WorkQueues, in a release that is installed."""
    points: list[Point] = []
    restarts: list[Restart] = []
    async with connected(kube) as site:
        for count in counts:
            print(f"{count} WorkQueues ...", file=sys.stderr, flush=True)
            points.append(await measure(site, count))
            print(f"  {summary(points[-1])}", file=sys.stderr, flush=True)
            if count >= RESTARTED_AT:
                restarts.append(await restart(site))
                found = restarts[-1]
                print(
                    f"  restart: {found.during.median:.2f} s median, {found.during.p95:.2f} s p95 at once; "
                    f"{found.after.median:.2f} s, {found.after.p95:.2f} s ten seconds later",
                    file=sys.stderr,
                    flush=True,
                )
    return points, restarts


def summary(point: Point) -> str:
    """One line."""
    active = ""
    if point.active_cores is not None and point.beside is not None:
        active = (
            f"; with {ACTIVE} active {point.active_cores:.2f} cores, the others' reaction {point.beside.median:.2f} s "
            f"median, {point.beside.p95:.2f} s p95"
        )
    reaction = (
        f"reaction {point.foreign.median:.2f} s median, {point.foreign.p95:.2f} s p95, with the producer's word "
        f"{point.told.median:.3f} s, {point.told.p95:.3f} s"
    )
    return (
        f"{point.added} made in {point.making:.1f} s, taken in within {point.taken_in:.1f} s, "
        f"each after {point.entries.median:.1f} s (median), {point.entries.p95:.1f} s (p95), "
        f"with dead-letter queues {point.complete:.1f} s; "
        f"idle {point.idle_cores:.3f} cores, {point.memory / 2**20:.0f} MiB{active}; {reaction}; "
        f"{point.queues} queues, {point.policies} policies"
    )


def picture(points: Sequence[Point]) -> str:
    """The cost curves, as SVG."""

    def curve(name: str, pick: Callable[[Point], float]) -> Curve:
        return Curve(name, tuple((point.count, pick(point)) for point in points))

    return draw(
        "What WorkQueues cost the operator",
        "WorkQueues",
        (
            Panel("Processor time, idle (cores)", (curve("cores", lambda point: point.idle_cores),), limit=0.3),
            Panel("Resident memory (MiB)", (curve("MiB", lambda point: point.memory / 2**20),), limit=200),
            Panel(
                "First task → scale patch (s)",
                (
                    curve("p95, any client", lambda point: point.foreign.p95),
                    curve("median, any client", lambda point: point.foreign.median),
                    curve("p95, Warren's producer", lambda point: point.told.p95),
                ),
                limit=1.0,
            ),
            Panel("New WorkQueues taken in (s)", (curve("until the last is ready", lambda point: point.taken_in),)),
        ),
    )


def bench(folder: Path, counts: Sequence[int] = COUNTS) -> tuple[list[Point], list[Restart]]:
    """Install, measure, and write `many.json` and `many.svg` into the folder."""
    kube = Kube(ROOT / ".cluster" / "kubeconfig", NAMESPACE)
    remove(kube)
    install(kube, VALUES, "--values", str(ROOT / ".cluster" / "images.values.json"))
    try:
        points, restarts = asyncio.run(many(kube, counts))
    finally:
        remove(kube)
    folder.mkdir(parents=True, exist_ok=True)
    record = {"points": [asdict(point) for point in points], "restarts": [asdict(item) for item in restarts]}
    (folder / "many.json").write_text(json.dumps(record, indent=2) + "\n")
    (folder / "many.svg").write_text(picture(points))
    return points, restarts


if __name__ == "__main__":
    bench(Path(sys.argv[1]), tuple(int(count) for count in sys.argv[2:]) or COUNTS)
