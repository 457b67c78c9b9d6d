"""Event messages on `warren.events`: small JSON objects with a kind and a version.

Events are hints. Losing one never breaks anything; the broker's own counts are the truth. A reader skips kinds and
versions it does not know (`decode` returns None), so that parts of different releases can run side by side.
"""

import dataclasses
import functools
import json
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, TypeVar

MAX_EVENT_SIZE = 65_536
"""Bytes; a longer event is not ours."""

MAX_NUMBER = 2**63 - 1
"""No count and no time is larger. What is, or is no number at all (NaN), would stay in a reader's sums for ever."""


class EventError(ValueError):
    """A message on the events exchange is not what its kind and version promise."""


@dataclass(frozen=True, slots=True)
class RunningTask:
    """A task that a worker has in hand.

    Attributes:
        id: the task's id.
        since: Unix time in seconds at which its handler started.
    """

    id: str
    since: float


@dataclass(frozen=True, slots=True)
class WorkerState:
    """What a worker is doing; sent at each change of busy/idle, at most once a second when busy with short tasks, and
    every 10 s when nothing changes.

    Attributes:
        queue: it consumes.
        worker: its name, which is its pod's name in Kubernetes.
        at: Unix time in seconds of this state. Of two states of one run (`started_at`), the later one never has the
            lower time: the worker's clock counts from its start on, whenever the machine's is set. So do `since`s.
        started_at: Unix time in seconds at which the worker started; a new value means that the sums start again.
        concurrency: tasks it takes at once.
        running: tasks in hand.
        finished: tasks that ended well since `started_at`.
        failed: attempts that failed since `started_at`.
        finished_seconds: sum of the run times of both.
        running_seconds: sum of the times that the tasks in hand have been running at `at`.
        draining: it takes no more tasks and ends when it has none.
        dead: tasks that it put into the dead-letter queue since `started_at`.
        letters_refused: dead letters that the broker did not take since then, so that their tasks are tried again: the
            dead-letter queue is missing, full or slow.
    """

    kind: ClassVar[str] = "worker"
    version: ClassVar[int] = 1

    queue: str
    worker: str
    at: float
    started_at: float
    concurrency: int
    running: tuple[RunningTask, ...]
    finished: int
    failed: int
    finished_seconds: float
    running_seconds: float
    draining: bool = False
    dead: int = 0
    letters_refused: int = 0

    @property
    def busy(self) -> bool:
        """Whether it has a task in hand."""
        return bool(self.running)

    @property
    def routing_key(self) -> str:
        """`worker.<queue>`."""
        return f"worker.{self.queue}"


@dataclass(frozen=True, slots=True)
class TasksSubmitted:
    """A producer had tasks confirmed; sent at most once a second for each queue, the first one at once.

    Attributes:
        queue: they went into.
        count: tasks confirmed since the last event of this producer for this queue.
        at: Unix time in seconds.
    """

    kind: ClassVar[str] = "submitted"
    version: ClassVar[int] = 1

    queue: str
    count: int
    at: float

    @property
    def routing_key(self) -> str:
        """`submitted.<queue>`."""
        return f"submitted.{self.queue}"


@dataclass(frozen=True, slots=True)
class Resync:
    """A reader that just started asks the operator to send the state of each queue.

    Attributes:
        at: Unix time in seconds.
    """

    kind: ClassVar[str] = "resync"
    version: ClassVar[int] = 1

    at: float

    @property
    def routing_key(self) -> str:
        """`resync`."""
        return "resync"


@dataclass(frozen=True, slots=True)
class PastDecision:
    """A change of replicas that the operator made.

    Attributes:
        at: Unix time in seconds.
        from_replicas, to_replicas: asked for before and after.
        limited_by: what held the decision back, `""` if nothing did.
        reason: the sentence that explained it.
    """

    at: float
    from_replicas: int
    to_replicas: int
    limited_by: str
    reason: str


@dataclass(frozen=True, slots=True)
class QueueState:
    """What the operator sees, wants and why, for one queue. None stands for "not known".

    Attributes:
        queue: its name in the broker.
        resource: `namespace/name` of its WorkQueue.
        at: Unix time in seconds of the observation.
        ready: tasks that wait.
        unacked: tasks delivered and not yet acknowledged.
        delayed: tasks that wait for their retry.
        dead: tasks in the dead-letter queue.
        workers: pods of the scale target that are not terminating.
        busy, idle: workers with a task in hand and without one, as they report.
        desired: replicas wanted.
        min_replicas, max_replicas: bounds in force.
        limited_by: what held the decision back, `""` if nothing did.
        reason: one sentence that explains the decision.
        service_time: mean seconds of work in a task.
        arrival_rate: tasks a second.
        estimated_wait: seconds until a task submitted now starts.
        problem: why the WorkQueue is not ready, and what to do; `""` if it is.
        asked: workers that the rule asks for before any bound.
        rule: the rule that asks, in the words of the WorkQueue's `target`, or `learning` for backlogPerWorker until the
            service time is known; `""` where none does.
        remedies: sentences that say what would change the decision.
        decisions: the last changes of replicas, newest first.
    """

    kind: ClassVar[str] = "queue"
    version: ClassVar[int] = 1

    queue: str
    resource: str
    at: float
    ready: int | None
    unacked: int | None
    workers: int | None
    busy: int | None
    desired: int | None
    min_replicas: int
    max_replicas: int
    reason: str
    limited_by: str = ""
    delayed: int | None = None
    dead: int | None = None
    service_time: float | None = None
    arrival_rate: float | None = None
    estimated_wait: float | None = None
    problem: str = ""
    idle: int | None = None
    asked: int | None = None
    rule: str = ""
    remedies: tuple[str, ...] = ()
    decisions: tuple[PastDecision, ...] = ()

    @property
    def routing_key(self) -> str:
        """`queue.<queue>`."""
        return f"queue.{self.queue}"


Event = WorkerState | TasksSubmitted | Resync | QueueState

_KINDS: Mapping[tuple[str, int], type[Event]] = types.MappingProxyType(
    {(event.kind, event.version): event for event in (WorkerState, TasksSubmitted, Resync, QueueState)}
)


def encode(event: Event) -> bytes:
    """The event as a message body."""
    body = {"kind": event.kind, "version": event.version, **_plain(event)}
    return json.dumps(body, default=_plain, separators=(",", ":")).encode()


def _plain(value: Any) -> dict[str, Any]:
    """A dataclass's fields; those of the dataclasses in it are left to `json`, which asks for them."""
    return {name: getattr(value, name) for name in type(value).__slots__}


def decode(body: bytes) -> Event | None:
    """Read a message body; None for a kind or version that this release does not know.

    Fields this release does not know are skipped.

    Raises:
        EventError: the body is no event at all, or a field is missing or of the wrong type.
    """
    if len(body) > MAX_EVENT_SIZE:
        raise EventError(f"an event of {len(body)} bytes is too long: {MAX_EVENT_SIZE} is the most")
    try:
        data = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise EventError(f"an event is not JSON: {error}") from error
    if not isinstance(data, dict) or not isinstance(data.get("kind"), str) or type(data.get("version")) is not int:
        raise EventError("an event needs the fields kind and version")
    event = _KINDS.get((data["kind"], data["version"]))
    return None if event is None else _build(event, data)


D = TypeVar("D")


@functools.cache
def _fields(cls: type[Any]) -> tuple[tuple[str, Any, bool], ...]:
    """Name, type and whether it must be there, for each field. Found when needed: a worker reads none."""
    hints = typing.get_type_hints(cls)
    return tuple((item.name, hints[item.name], item.default is dataclasses.MISSING) for item in dataclasses.fields(cls))


def _build(cls: type[D], data: Mapping[str, Any]) -> D:
    values = {}
    for name, hint, required in _fields(cls):  # type: ignore[arg-type]  # a class is hashable
        if name in data:
            values[name] = _value(f"{cls.__name__}.{name}", hint, data[name])
        elif required:
            raise EventError(f"{cls.__name__}.{name} is missing")
    return cls(**values)


def _value(where: str, hint: Any, value: Any) -> Any:
    if typing.get_origin(hint) is tuple:
        (entry, _) = typing.get_args(hint)
        if not isinstance(value, list):
            raise EventError(f"{where} is {value!r}, not a list")
        return tuple(_value(f"{where}[{number}]", entry, each) for number, each in enumerate(value))
    if dataclasses.is_dataclass(hint):
        if not isinstance(value, dict):
            raise EventError(f"{where} is {value!r}, not an object")
        return _build(typing.cast("type[Any]", hint), value)
    wanted = typing.get_args(hint) or (hint,)
    if isinstance(value, int | float) and not -MAX_NUMBER <= value <= MAX_NUMBER:  # NaN neither
        raise EventError(f"{where} is a number that nothing here can be")
    if float in wanted and type(value) is int:
        return float(value)
    if type(value) not in wanted:
        raise EventError(f"{where} is {value!r}, not {hint}")
    return value
