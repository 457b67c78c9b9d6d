"""The loop against an API server and a broker that answer what a test wants them to: what trouble changes, and what is
told of it."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any, cast

import pytest

from warren_contract.events import RunningTask, TasksSubmitted, WorkerState
from warren_operator import looking, telling, workloads
from warren_operator.kube import KubeError
from warren_operator.loop import Loop
from warren_operator.observation import Counts, Reading, Statistics
from warren_operator.policy import Limit, Memory
from warren_operator.resource import Condition, Key
from warren_operator.settings import BUILT_IN, Settings
from warren_operator.topology import Finding
from warren_operator.workloads import Deployment, Pod, ReplicaSet

if TYPE_CHECKING:
    from warren_operator.broker import Broker, EventPublisher
    from warren_operator.kube import Api
    from warren_operator.topology import Topology

NAMESPACE = "jobs"
LIMIT = 30.0


class Server:
    """Answers every call, or refuses to change replicas.

    Attributes:
        refusal: of a change of replicas; None to take it.
        asked: the Deployments and the replicas that were asked for, one after the other.
        statuses: those that were written.
        answers: set while writes of a status are answered.
        away: no status is taken.
    """

    away = False

    def __init__(self) -> None:
        self.refusal: KubeError | None = None
        self.asked: list[tuple[str, int]] = []
        self.statuses: list[dict[str, Any]] = []
        self.answers = asyncio.Event()
        self.answers.set()

    async def request(self, _method: str, path: str, **more: Any) -> dict[str, Any]:
        """One call."""
        if path.endswith("/status") and self.away:
            raise KubeError(0, "Unreachable", "the Kubernetes API cannot be reached")
        if path.endswith("/status"):
            self.statuses.append(more["body"]["status"])
            await self.answers.wait()
        if path.endswith("/scale"):
            self.asked.append((path.split("/")[-2], more["body"][-1]["value"]))
            if self.refusal is not None:
                raise self.refusal
        return {}


class Queues:
    """A broker in which every queue has so many tasks, and the topology in it.

    Attributes:
        ready: tasks in each.
        answer: set while the broker answers readings of a slow queue.
        took: seconds that it says an answer took.
        slow: a reading of a slow queue waits for its answer.
        served: what was last to be there, and whether other policies might be dropped.
        compared: whether it is known what is wrong.
        found: what is wrong with each.
    """

    problem = events_problem = ""
    too_old = declaring = False
    compared = True
    listening_since = 0.0

    def __init__(self) -> None:
        self.ready = 0
        self.took = 0.0
        self.answer = asyncio.Event()
        self.slow = False
        self.served: tuple[frozenset[Key], bool] | None = None
        self.statistics: Mapping[str, Statistics] = {}
        self.found: tuple[Finding, ...] = ()

    async def read(self, queues: list[str], *, aside: bool = False) -> list[Reading]:
        """Count."""
        if aside:
            self.slow = True
            await self.answer.wait()
        now = asyncio.get_running_loop().time()
        return [Reading(Counts(self.ready, 0, now, self.took)) for _ in queues]

    def serve(self, queues: Mapping[Key, Any], *, may_drop: bool) -> None:
        """Note."""
        self.served = (frozenset(queues), may_drop)

    def absent(self, _queue: str) -> bool:
        """None is."""
        return False

    def findings(self, _queue: str) -> tuple[Finding, ...]:
        """What is wrong with each."""
        return self.found

    def tell(self, _state: object) -> None:
        """Told."""


class Bed:
    """A loop, and what it works on.

    Attributes:
        generation: of a WorkQueue that is made or edited.
        written: the status that an operator before this one has written.
    """

    generation = 1

    def __init__(self, budgets: Mapping[str, int] | None = None) -> None:
        self.written: Mapping[str, Any] = {}
        self.server, self.queues = Server(), Queues()
        settings = Settings((NAMESPACE,), 0, BUILT_IN, "operator", budgets=budgets or {})
        self.loop = Loop(
            cast("Api", self.server),
            settings,
            cast("Broker", self.queues),
            cast("Topology", self.queues),
            cast("EventPublisher", self.queues),
        )
        self.workloads = self.loop.workloads

    def sync(self) -> None:
        """Everything has been listed."""
        self.workloads.queues.synced = True
        for mirror in self.workloads._mirrors:
            mirror.synced = True

    def pods(self, name: str, *pods: Pod) -> None:
        """The Deployment's pods, by its one ReplicaSet."""
        _, sets, found, _ = self.workloads._mirrors
        sets._copy.set(Key(NAMESPACE, name), ReplicaSet(f"set of {name}", f"uid of {name}", len(pods), len(pods)))
        for pod in pods:
            found._copy.set(Key(NAMESPACE, pod.name), replace(pod, owner=f"set of {name}"))

    def autoscaler(self, target: str | None) -> None:
        """There is a HorizontalPodAutoscaler for this Deployment; None where it is gone."""
        self.workloads._mirrors[3]._copy.set(Key(NAMESPACE, "hpa"), target)

    def deployment(self, name: str, replicas: int | None) -> None:
        """There is a Deployment with so many replicas; None where it is gone."""
        found = None if replicas is None else Deployment(f"uid of {name}", replicas, settled=True)
        self.workloads._deployments[0]._copy.set(Key(NAMESPACE, name), found)

    def work_queue(self, name: str, number: int = 1, **spec: Any) -> Key:
        """There is a WorkQueue, made as the `number`-th."""
        self.workloads.queues.take(
            None,
            {
                "metadata": {
                    "namespace": NAMESPACE,
                    "name": name,
                    "uid": f"uid of {name}",
                    "generation": self.generation,
                    "creationTimestamp": f"2026-01-01T00:00:0{number}Z",
                },
                "spec": {"scaleTargetRef": {"name": name}, "maxReplicas": 10, **spec},
                "status": self.written,
            },
        )
        return Key(NAMESPACE, name)

    def delete(self, name: str) -> None:
        """Somebody deletes a WorkQueue."""
        self.workloads.queues.take(
            "DELETED", {"metadata": {"namespace": NAMESPACE, "name": name, "uid": f"uid of {name}"}}
        )

    def ready(self, key: Key) -> Condition:
        """The condition Ready as it was last written."""
        written = self.loop.entries[key].written
        assert written is not None, "nothing is written yet"
        return next(item for item in written.conditions if item.type == "Ready")

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """In this block the loop turns."""
        task = asyncio.create_task(self.loop.run())
        try:
            yield
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


def refused(why: KubeError) -> tuple[Bed, Key]:
    """A WorkQueue that needs workers, and an API server that refuses to change its replicas."""
    bed = Bed()
    bed.sync()
    bed.deployment("a", 0)
    bed.queues.ready = 50
    bed.server.refusal = why
    return bed, bed.work_queue("a")


def budget_of(bed: Bed, key: Key) -> int | None:
    """What a WorkQueue may have of its budget, as of the latest look."""
    told = bed.loop.entries[key].told
    assert told is not None, "nothing is told yet"
    return None if told.scaling is None else told.scaling.budget


def limit_of(bed: Bed, key: Key) -> Limit | None:
    """What held back the latest decision; None before the first."""
    told = bed.loop.entries[key].told
    return None if told is None or told.decision is None else told.decision.limit


async def until(what: str, check: Any) -> None:
    """Wait until `check` returns something true."""
    last: object = None
    try:
        async with asyncio.timeout(LIMIT):
            while True:
                try:
                    if check():
                        return
                    last = None
                except (AssertionError, KeyError) as error:
                    last = error
                await asyncio.sleep(0.01)
    except TimeoutError:
        raise AssertionError(f"{what}: not within {LIMIT:g} s; {last!r}") from None


async def test_no_policy_is_dropped_before_all_work_queues_are_known() -> None:
    """An operator that starts while Deployments cannot be listed tells of it on the WorkQueues that it knows; that it
    knows no other yet does not mean that there are none."""
    bed = Bed()
    bed.workloads._mirrors[0].problem = "cannot watch deployments: the Kubernetes API cannot be reached"
    async with bed.running():
        await until("the WorkQueues are taken in", lambda: bed.queues.served is not None)
        assert bed.queues.served == (frozenset(), False)
        key = bed.work_queue("a")
        bed.sync()
        await until("all are known", lambda: bed.queues.served == (frozenset({key}), True))


async def test_a_work_queue_that_is_refused_takes_nothing_of_a_budget() -> None:
    bed = Bed({"gpu": 8})
    bed.sync()
    bed.deployment("a", 6)
    budget = {"budget": {"name": "gpu"}, "target": {"backlogPerWorker": 1}}
    bed.queues.ready = 8
    first = bed.work_queue("a", 1, **budget)
    second = bed.work_queue("b", 2, **budget, scaleTargetRef={"name": "a"})
    async with bed.running():
        await until("the second is refused", lambda: bed.loop.entries[second].refusal)
        await until("the first has the whole budget", lambda: budget_of(bed, first) == 8)


async def test_what_a_work_queue_had_of_a_budget_is_free_once_its_deployment_is_gone() -> None:
    bed = Bed({"gpu": 8})
    bed.sync()
    budget = {"budget": {"name": "gpu"}, "target": {"backlogPerWorker": 1}}
    bed.deployment("a", 8)
    bed.deployment("b", 0)
    bed.queues.ready = 8
    bed.work_queue("a", 1, **budget)
    async with bed.running():
        other = bed.work_queue("b", 2, **budget)
        await until("the first has all of it", lambda: budget_of(bed, other) == 0)
        bed.deployment("a", None)
        await until("the other has it", lambda: budget_of(bed, other) == 8)


@pytest.mark.parametrize("code", [409, 422])
async def test_a_change_that_is_refused_time_and_again_is_told_in_the_api_server_s_words(code: int) -> None:
    bed, key = refused(KubeError(code, "Invalid", 'ValidatingAdmissionPolicy "most" denied request: at most 3'))
    async with bed.running():
        await until("it is told", lambda: bed.ready(key).reason == "ScalingRefused")
        assert "at most 3" in bed.ready(key).message
        before = len(bed.server.asked)
        assert before < 10, "it is not tried without a pause"
        bed.server.refusal = None
        await until("it is tried again", lambda: len(bed.server.asked) > before)
        bed.deployment("a", 10)
        await until("all is well", lambda: bed.ready(key).status == "True")


@pytest.mark.parametrize(
    ("said", "advised"),
    [
        (
            'deployments.apps "a" is forbidden: User "x" cannot patch resource "deployments/scale" in API group "apps"',
            True,
        ),
        ('admission webhook "most" denied the request: at most 3', False),
    ],
    ids=["RBAC", "a webhook"],
)
async def test_a_permission_is_asked_for_only_where_one_is_missing(said: str, *, advised: bool) -> None:
    bed, key = refused(KubeError(403, "Forbidden", said))
    async with bed.running():
        await until("it is told", lambda: bed.ready(key).reason == "ScalingRefused")
        assert said in bed.ready(key).message
        assert ("permission missing" in bed.ready(key).message) is advised


async def test_one_edit_by_somebody_else_is_no_trouble() -> None:
    bed, key = refused(KubeError(422, "Invalid", "the test failed"))
    async with bed.running():
        await until("the change meets other replicas", lambda: len(bed.server.asked))
        bed.server.refusal = None
        await until("it is made", lambda: len(bed.server.asked) > 1)
        assert bed.loop.entries[key].trouble is None


async def test_a_refused_change_is_forgotten_once_it_is_not_wanted_any_more() -> None:
    bed, key = refused(KubeError(0, "Unreachable", "no answer within 10 s"))
    async with bed.running():
        await until("it is told", lambda: bed.ready(key).reason == "ScalingRefused")
        bed.queues.ready = 0
        await until("all is well", lambda: bed.ready(key).status == "True")


async def test_a_refused_change_is_forgotten_once_changes_are_only_recommended() -> None:
    bed, key = refused(KubeError(403, "Forbidden", 'User "w" cannot patch resource "deployments/scale"'))
    async with bed.running():
        await until("it is told", lambda: bed.ready(key).reason == "ScalingRefused")
        message = bed.ready(key).message
        assert message.startswith("replicas of Deployment a could not be changed: permission missing: allow"), message
        bed.generation = 2
        bed.work_queue("a", mode="Recommend")
        await until("all is well", lambda: bed.ready(key).status == "True")


async def test_that_a_queue_cannot_be_read_is_told_also_while_it_is_paused() -> None:
    bed = Bed()
    bed.sync()
    bed.deployment("a", 0)
    bed.queues.answer.set()
    key = bed.work_queue("a", paused=True)
    async with bed.running():
        await until("it is served", lambda: bed.ready(key).status == "True")
        bed.queues.took = 1.0
        await until("the zeros are doubted", lambda: bed.ready(key).reason == "QueueUnavailable")


async def test_one_slow_answer_is_not_told() -> None:
    """Among thousands of queues some are late all the time: to tell of each costs more than to read them all."""
    bed = Bed()
    bed.sync()
    bed.deployment("a", 0)
    bed.queues.answer.set()
    key = bed.work_queue("a")
    async with bed.running():
        await until("it is served", lambda: bed.ready(key).status == "True")
        entry = bed.loop.entries[key]
        bed.queues.took = 1.0
        await until("a zero is doubted", lambda: entry.memory.failures == 1)
        bed.queues.took, told = 0.0, entry.told
        await until("it is read again", lambda: entry.memory.failures == 0)
        assert told is not None
        assert told.decision is not None
        assert (told.decision.limit, len(bed.server.statuses)) == (Limit.NONE, 1)


async def test_that_a_queue_cannot_be_read_is_told_truly_where_a_fallback_adds_workers() -> None:
    bed = Bed()
    bed.sync()
    bed.deployment("a", 0)
    bed.queues.answer.set()
    key = bed.work_queue("a", fallback={"afterFailures": 1, "replicas": 4})
    async with bed.running():
        await until("it is served", lambda: bed.ready(key).status == "True")
        bed.queues.took = 1.0
        await until("the fallback is asked for", lambda: bed.server.asked == [("a", 4)])
        bed.deployment("a", 4)
        await until("it is told", lambda: bed.ready(key).reason == "QueueUnavailable")
        assert bed.ready(key).message.endswith("; no worker is taken away meanwhile")


async def test_tasks_of_a_queue_whose_workers_are_only_recommended_wait_for_no_reaction() -> None:
    """Else the time until somebody sets mode to Enforce would be measured as one."""
    bed = Bed()
    bed.sync()
    bed.deployment("a", 0)
    bed.queues.ready = 50
    key = bed.work_queue("a", mode="Recommend")
    async with bed.running():
        await until("it is looked at", lambda: limit_of(bed, key) is not None)
        bed.loop.heard(TasksSubmitted("a", 50, time.time()))
        await until("it is looked at again", lambda: bed.loop.entries[key].hinted_at is None)


async def test_a_refusal_that_is_over_is_not_told_any_longer() -> None:
    """Nothing else is new since the WorkQueue was last decided on."""
    bed = Bed()
    bed.sync()
    bed.deployment("b", 0)
    key = bed.work_queue("b", 2, queue={"name": "q"})
    async with bed.running():
        await until("it is served", lambda: bed.ready(key).status == "True")
        bed.work_queue("a", 1, queue={"name": "q"})
        await until("an older one has its queue", lambda: bed.ready(key).reason == "QueueTaken")
        bed.delete("a")
        await until("it is served again", lambda: bed.ready(key).status == "True")


async def test_what_was_taken_in_before_all_was_listed_uses_its_budget_all_the_same() -> None:
    """Nobody knew then that the second one has eight workers of the ten."""
    bed = Bed({"gpu": 10})
    bed.queues.ready = 10
    more = {
        "budget": {"name": "gpu"},
        "target": {"backlogPerWorker": 1},
        "behavior": {"scaleUp": {"maxStep": 100}},
    }
    first, second = bed.work_queue("a", 1, **more), bed.work_queue("b", 2, **more)
    bed.workloads._mirrors[0].problem = "cannot watch deployments: the Kubernetes API cannot be reached"
    async with bed.running():
        await until("they are taken in", lambda: bed.loop.entries[second].told)
        bed.workloads._mirrors[0].problem = ""
        bed.deployment("a", 0)
        bed.deployment("b", 8)
        bed.sync()
        await until("workers are asked for", lambda: bed.server.asked)
    assert bed.server.asked[0] == ("a", 2)
    assert budget_of(bed, first) == 2


async def test_a_work_queue_that_goes_while_its_slow_queue_is_read_is_not_scaled() -> None:
    """And what it had of a budget stays free."""
    bed = Bed({"gpu": 8})
    bed.sync()
    bed.deployment("a", 0)
    bed.queues.took = 1.0
    more = {"budget": {"name": "gpu"}, "target": {"backlogPerWorker": 1}}
    first = bed.work_queue("a", 1, **more)
    async with bed.running():
        await until("its queue is read aside", lambda: bed.queues.slow)
        bed.queues.ready = 8
        bed.delete("a")
        await until("it is gone", lambda: first not in bed.loop.entries)
        bed.deployment("b", 0)
        second = bed.work_queue("b", 2, **more)
        bed.queues.answer.set()
        await until("the other one has the whole budget", lambda: budget_of(bed, second) == 8)
    assert {name for name, _ in bed.server.asked} == {"b"}


async def test_what_was_seen_before_a_gap_is_not_remembered_after_it() -> None:
    """Zeros of before an autoscaler came would count as zeros of now: one reading would be enough for a scale-in."""
    bed = Bed()
    bed.sync()
    bed.deployment("a", 0)
    key = bed.work_queue("a")
    async with bed.running():
        await until("the queue is known to be empty", lambda: bed.loop.entries[key].memory.zeros)
        bed.autoscaler("a")
        await until("somebody else scales it", lambda: bed.ready(key).reason == "AutoscalerConflict")
        assert bed.loop.entries[key].memory == Memory()
        bed.autoscaler(None)
        await until("it is ours again", lambda: bed.loop.entries[key].memory.zeros)
        bed.deployment("a", None)
        await until("its Deployment is gone", lambda: bed.ready(key).reason == "ScaleTargetMissing")
        assert bed.loop.entries[key].memory == Memory()


async def test_workers_that_report_for_another_queue_are_not_taken_for_idle() -> None:
    """A WorkQueue that has got another queue, over a Deployment whose workers are still busy with the one before."""
    bed = Bed()
    bed.sync()
    bed.queues.listening_since = -1000.0
    bed.deployment("a", 1)
    since = time.time() - 600
    bed.pods("a", Pod("a-1", "", since, True, True, since, False, False, "", None))
    state = WorkerState("before", "a-1", since + 600, since, 1, (RunningTask("long", since),), 0, 0, 0.0, 600.0)
    bed.loop.heard(state)
    key = bed.work_queue("a", queue={"name": "after"}, behavior={"scaleDown": {"stabilization": "0s"}})
    entry = bed.loop.entries
    async with bed.running():
        await until("it is looked at", lambda: entry[key].told)
        now = asyncio.get_running_loop().time()
        # Empty for longer than anybody could be late in telling otherwise.
        bed.queues.statistics = {"after": Statistics(0, 0, 0, available=True, dead=0, at=now)}
        entry[key].memory = replace(entry[key].memory, zeros=3, zero_since=now - 60, quiet_since=now - 60)
        bed.loop.hint()
        await until("the worker stays", lambda: limit_of(bed, key) is Limit.BUSY)
    assert bed.server.asked == []


async def test_a_new_operator_writes_no_status_again_that_still_holds() -> None:
    """Nor because it has no statistics yet: a thousand writes, and then a thousand back, would hold up all else."""

    def counted() -> Mapping[str, Statistics]:
        return {"a": Statistics(0, 0, 0, available=True, dead=0, at=asyncio.get_running_loop().time())}

    before = Bed()
    before.sync()
    before.deployment("a", 0)
    before.queues.statistics = counted()
    before.work_queue("a")
    async with before.running():
        await until("the status is written", lambda: before.server.statuses)
    (written,) = before.server.statuses
    assert {item["type"]: item["status"] for item in written["conditions"]}["PolicyOverridden"] == "False"

    bed = Bed()
    bed.sync()
    bed.deployment("a", 0)
    bed.written = written
    key = bed.work_queue("a")

    def told() -> Any:
        entry = bed.loop.entries[key]
        return entry.told is not None and entry.told.view is not None and not entry.writing and entry.told.view

    async with bed.running():
        await until("it has looked", lambda: not told().seen.counted)
        bed.queues.statistics = counted()
        await until("it has looked again", lambda: told().seen.counted)
    assert bed.server.statuses == []


async def test_a_decision_that_stands_is_made_anew_for_whatever_it_is_made_of() -> None:
    """A queue in which nothing happens is decided on each half minute, unless something is new."""
    bed = Bed()
    bed.sync()
    bed.deployment("a", 0)
    key = bed.work_queue("a")
    entry = bed.loop.entries

    def edited() -> None:
        bed.generation = 2
        bed.work_queue("a", mode="Recommend")

    def heard() -> None:
        bed.loop.heard(WorkerState("a", "elsewhere", time.time(), time.time(), 1, (), 0, 0, 0.0, 0.0))

    def counted() -> None:
        now = asyncio.get_running_loop().time()
        bed.queues.statistics = {"a": Statistics(0, 0, 0, available=True, dead=3, at=now)}

    def found() -> None:
        bed.queues.findings = lambda _queue: (Finding("ExchangeMismatch", "of another type"),)  # type: ignore[method-assign]

    def refusing() -> None:
        refused = Deployment("uid of a", 0, settled=True, refused="exceeded quota")
        bed.workloads._deployments[0]._copy.set(key, refused)

    changes = {
        "the WorkQueue": edited,
        "a worker's report": heard,
        "the statistics": counted,
        "what is wrong with the queue": found,
        "that events are not heard": lambda: setattr(bed.queues, "events_problem", "nothing is heard"),
        "the Deployment": refusing,
        "what is known of the cluster": lambda: setattr(bed.workloads._mirrors[0], "problem", "out of date"),
        "an autoscaler": lambda: bed.autoscaler("a"),
    }

    async def renewed(what: str, change: Callable[[], object]) -> None:
        await until("it stands", lambda: entry[key].valid_until > asyncio.get_running_loop().time() + 3)
        before = entry[key].told
        change()
        await until(f"{what} has it made anew", lambda: entry[key].told is not before)

    async with bed.running():
        for what, change in changes.items():
            await renewed(what, change)


def status_of(reason: str, message: str) -> dict[str, Any]:
    """What an operator has written of a WorkQueue that is not ready."""
    rows = (
        ("Ready", "False", reason, message),
        ("PolicyOverridden", "Unknown", "NotCompared", "It is not known."),
        ("Active", "Unknown", "BacklogUnknown", "The backlog is not known."),
    )
    names = ("type", "status", "reason", "message")
    more = {"observedGeneration": 1, "lastTransitionTime": "2026-01-01T00:00:00Z"}
    return {"observedGeneration": 1, "conditions": [{**dict(zip(names, row, strict=True)), **more} for row in rows]}


def readiness(bed: Bed) -> list[tuple[str, str]]:
    """Status and reason of each condition Ready that was written."""
    rows = (row for written in bed.server.statuses for row in written["conditions"] if row["type"] == "Ready")
    return [(row["status"], row["reason"]) for row in rows]


@pytest.mark.parametrize("mended", [False, True])
async def test_what_was_wrong_with_a_queue_stays_wrong_over_a_restart_until_it_is_compared(*, mended: bool) -> None:
    """A new operator counted the tasks of a queue of another kind, scaled by them, and said that all was well."""
    mismatch = Finding("QueueMismatch", "queue a exists with type classic")
    bed = Bed()
    bed.sync()
    bed.deployment("a", 0)
    bed.queues.ready = 50
    bed.queues.compared = False
    bed.written = status_of(mismatch.reason, mismatch.message)
    key = bed.work_queue("a")
    async with bed.running():
        await until("it is looked at", lambda: bed.loop.entries[key].memory.failures > 2)
        assert bed.server.asked == []
        bed.queues.compared = True
        bed.queues.found = () if mended else (mismatch,)
        if mended:
            await until("it is scaled", lambda: bed.server.asked)
        else:
            await until("it is looked at again", lambda: bed.loop.entries[key].memory.failures > 4)
            assert bed.server.asked == []
    assert mended or ("True", "Working") not in readiness(bed)


async def test_that_a_queue_cannot_be_read_is_not_taken_back_by_a_restart() -> None:
    bed = Bed()
    bed.sync()
    bed.deployment("a", 0)
    bed.queues.answer.set()
    bed.queues.took = 1.0
    bed.written = status_of("QueueUnavailable", "the queue's leader did not answer in time")
    key = bed.work_queue("a")
    async with bed.running():
        await until("the zeros are doubted", lambda: bed.loop.entries[key].memory.failures > 3)
        assert ("True", "Working") not in readiness(bed)
        bed.queues.took = 0.0
        await until("all is well", lambda: bed.ready(key).status == "True")


async def test_a_request_that_is_turned_away_once_is_told_of_no_work_queue(monkeypatch: pytest.MonkeyPatch) -> None:
    """A status and an Event for each of a thousand, and then as many that all is well, would be no help to an API
    server that has too much to do."""
    monkeypatch.setattr(workloads, "LASTING", 1.0)
    bed = Bed()
    bed.sync()
    bed.deployment("a", 0)
    key = bed.work_queue("a")
    pods = bed.workloads._mirrors[2]
    async with bed.running():
        await until("it is served", lambda: bed.ready(key).status == "True")
        pods.problem = "cannot watch pods: too many requests"
        await asyncio.sleep(0.8)
        pods.problem = ""
        bed.loop.hint()
        await asyncio.sleep(1.0)
        assert set(readiness(bed)) == {("True", "Working")}
        pods.problem = "cannot watch pods: too many requests"
        await until("what lasts is told", lambda: bed.ready(key).reason == "ClusterUnreadable")
        pods.problem = ""
        await until("all is well", lambda: bed.ready(key).status == "True")


async def test_what_somebody_writes_over_a_status_does_not_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the API server is slow, a call of the operator that acted before may come late, and nothing else is new."""
    monkeypatch.setattr(telling, "STATUS_EVERY", 0.5)
    monkeypatch.setattr(looking, "DECIDED_AT_REST_EVERY", 0.5)
    bed = Bed()
    bed.sync()
    bed.deployment("a", 0)
    key = bed.work_queue("a")
    async with bed.running():
        await until("all is well", lambda: bed.ready(key).status == "True")
        bed.written = bed.server.statuses[-1]
        bed.work_queue("a")  # it comes back by the watch
        await until("nothing is in the air", lambda: not bed.loop.entries[key].writing)
        before = len(bed.server.statuses)
        await asyncio.sleep(2.0)
        assert len(bed.server.statuses) == before, "what stands is not written again"
        bed.written = status_of("ClusterUnreadable", "cannot watch pods")
        bed.work_queue("a")
        await until("it is written anew", lambda: len(bed.server.statuses) > before)
    assert readiness(bed)[-1] == ("True", "Working")


async def test_a_status_that_had_to_wait_says_how_things_are_when_it_is_written(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """After an API server that answered nobody for a minute, each WorkQueue was told the troubles of that minute."""
    monkeypatch.setattr(telling, "WRITES", 1)
    bed = Bed()
    bed.sync()
    for name in ("a", "b"):
        bed.deployment(name, 0)
        bed.work_queue(name)
    bed.server.answers.clear()
    entries = bed.loop.entries
    async with bed.running():
        await until("both are to be written", lambda: len(entries) == 2 and all(e.writing for e in entries.values()))
        bed.queues.found = (Finding("QueueMismatch", "the queue exists with type classic"),)
        bed.loop.hint()
        await until("that is seen", lambda: all(e.told and e.told.problem for e in entries.values()))
        bed.server.answers.set()
        await until("both are written", lambda: len(bed.server.statuses) >= 3)
    assert readiness(bed)[:3] == [("True", "Working"), ("False", "QueueMismatch"), ("False", "QueueMismatch")]


async def test_a_status_that_could_not_be_written_is_written_as_soon_as_it_can_be() -> None:
    """What is decided on a queue at rest stands for a minute, and what is told of it waited for as long."""
    bed = Bed()
    bed.sync()
    bed.deployment("a", 0)
    key = bed.work_queue("a")
    entries = bed.loop.entries
    async with bed.running():
        await until("all is well", lambda: bed.ready(key).status == "True")
        bed.server.away = True
        bed.autoscaler("a")
        await until("it is not written", lambda: entries[key].written is None)
        bed.autoscaler(None)
        await until("all would be well", lambda: (told := entries[key].told) and not told.problem)
        await asyncio.sleep(3.0)
        bed.server.away = False
        async with asyncio.timeout(telling.RETRY_LATER + 5.0):
            await until("it is written", lambda: bed.ready(key).status == "True")


async def test_what_can_wait_is_written_one_after_the_other_and_what_presses_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """That thousands of queues have been compared is no reason to keep an API server from its work."""
    monkeypatch.setattr(telling, "UNHURRIED", 2.0)
    bed = Bed()
    bed.sync()
    names = [f"q{number}" for number in range(6)]
    for name in names:
        bed.deployment(name, 0)
    keys = [bed.work_queue(name) for name in names]

    def policies() -> list[str]:
        written = [bed.loop.entries[key].written for key in keys]
        return [item.reason for one in written if one for item in one.conditions if item.type == "PolicyOverridden"]

    async with bed.running():
        await until("all are served", lambda: policies() == ["NotCompared"] * 6)
        now = asyncio.get_running_loop().time()
        bed.queues.statistics = {name: Statistics(0, 0, 0, available=True, dead=0, at=now) for name in names}
        await until("one after the other is compared", lambda: 0 < policies().count("InForce") < 6)
        hurried = keys[policies().index("NotCompared")]
        bed.deployment(hurried.name, None)
        await until("what is wrong is told", lambda: bed.ready(hurried).reason == "ScaleTargetMissing")
        assert "NotCompared" in policies(), "nothing had to wait"
        bed.deployment(hurried.name, 0)
        await until("all are compared", lambda: policies() == ["InForce"] * 6)
