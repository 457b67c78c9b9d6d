"""What the API answers, as models: they check nothing, they are the OpenAPI description."""

from typing import Self

from pydantic import BaseModel, ConfigDict, Field

from warren_contract.events import QueueState, WorkerState
from warren_producer.queues import Heard


class Accepted(BaseModel):
    """A task that a queue has safely."""

    id: str = Field(description="The task's id: the Idempotency-Key, or a new UUIDv7.")
    queue: str


class ErrorDetail(BaseModel):
    """What went wrong and what to do."""

    code: str = Field(description="One of a fixed set of words; it never changes its meaning.")
    message: str
    field: str | None = Field(None, description="The header or parameter that is wrong.")
    id: str | None = Field(None, description="The task's id, where it may have been accepted in spite of the error.")


class ErrorBody(BaseModel):
    """Every answer that is no success."""

    error: ErrorDetail


class LineError(BaseModel):
    """Why a line was not accepted, or not surely."""

    code: str = Field(description="`outcome_unknown`: it may have been accepted. Any other: it was not.")
    message: str
    field: str | None = Field(None, description="Of the line, that is wrong.")
    retry_after: float | None = Field(None, description="Seconds after which it is worth sending the line again.")


class LineResult(BaseModel):
    """What became of one line."""

    id: str | None = Field(None, description="The task's id; missing where the line is no task.")
    line: int | None = Field(None, description="Its number, from 1, blank lines counted; only with an error.")
    error: LineError | None = Field(None, description="Missing where the line was accepted.")


class BatchAccepted(BaseModel):
    """A batch whose lines were all accepted: a queue has them safely."""

    queue: str
    accepted: int
    refused: int
    unknown: int
    results: list[LineResult] = Field(description="One for each line that is not blank, in their order.")


class BatchErrorBody(BaseModel):
    """A batch of which something was not accepted: the first error, and what became of each line.

    All besides `error` is missing where the request was refused before any line was read.
    """

    error: ErrorDetail
    queue: str | None = None
    accepted: int | None = Field(None, description="Lines that a queue has safely.")
    refused: int | None = Field(None, description="Lines that no queue has.")
    unknown: int | None = Field(None, description="Lines that may or may not be in the queue.")
    results: list[LineResult] | None = Field(None, description="One for each line read that is not blank, in order.")


class Running(BaseModel):
    """A task in a worker's hands."""

    id: str
    since: float = Field(description="Unix time in seconds at which its handler started.")


class Worker(BaseModel):
    """A worker's last word."""

    worker: str
    at: float = Field(description="Unix time in seconds of this word.")
    started_at: float
    concurrency: int
    running: list[Running]
    finished: int = Field(description="Tasks that ended well since the worker started.")
    failed: int = Field(description="Attempts that failed since the worker started.")
    draining: bool

    @classmethod
    def of(cls, state: WorkerState) -> "Worker":
        """From the worker's event."""
        return cls(
            worker=state.worker,
            at=state.at,
            started_at=state.started_at,
            concurrency=state.concurrency,
            running=[Running(id=task.id, since=task.since) for task in state.running],
            finished=state.finished,
            failed=state.failed,
            draining=state.draining,
        )


class Queue(BaseModel):
    """One queue: `ready` is the broker's count at this moment, the rest is the operator's last word."""

    queue: str
    exists: bool = Field(description="Whether the broker has the queue.")
    ready: int | None = Field(description="Tasks that wait; null where the queue does not exist.")
    stale: bool = Field(description="The operator has said nothing about this queue for over 30 s, or never.")
    state_age: float | None = Field(description="Seconds since the operator's last word; null if there was none.")
    resource: str | None = Field(description="namespace/name of the WorkQueue.")
    unacked: int | None = Field(description="Tasks that workers have in hand.")
    delayed: int | None = Field(description="Tasks that wait for their retry.")
    dead: int | None = Field(description="Tasks in the dead-letter queue.")
    workers: int | None
    busy: int | None = Field(description="Workers with a task in hand.")
    desired: int | None = Field(description="Workers wanted.")
    min_replicas: int | None
    max_replicas: int | None
    limited_by: str | None = Field(description="What held the decision back; empty if nothing did.")
    reason: str | None = Field(description="One sentence that explains the decision.")
    service_time: float | None = Field(description="Mean seconds of work in a task.")
    arrival_rate: float | None = Field(description="Tasks a second.")
    estimated_wait: float | None = Field(description="Seconds until a task submitted now starts.")
    problem: str | None = Field(description="Why the WorkQueue is not ready, and what to do; empty if it is.")
    worker_states: list[Worker] = Field(description="What the workers themselves said last.")

    @classmethod
    def of(cls, queue: str, ready: int | None, heard: Heard) -> Self:
        """Merge the broker's count with what events have told."""
        state = heard.state
        return cls(
            queue=queue,
            exists=ready is not None,
            ready=ready,
            stale=heard.stale,
            state_age=None if heard.age is None else round(heard.age, 3),
            worker_states=[Worker.of(worker) for worker in heard.workers],
            **{
                name: None if state is None else getattr(state, name)
                for name in cls.model_fields
                if name in _FROM_STATE
            },
        )


class Decision(BaseModel):
    """A change of replicas."""

    model_config = ConfigDict(from_attributes=True)

    at: float = Field(description="Unix time in seconds.")
    from_replicas: int
    to_replicas: int
    limited_by: str = Field(description="What held the decision back; empty if nothing did.")
    reason: str


class QueueExplained(Queue):
    """One queue with all that explains its number of workers."""

    idle: int | None = Field(description="Workers without a task.")
    asked: int | None = Field(description="Workers that the rule asks for before any bound.")
    rule: str | None = Field(
        description="The rule that asks, as in the WorkQueue's spec.target, or `learning`: see docs/scaling.md."
    )
    remedies: tuple[str, ...] | None = Field(description="What would change the decision.")
    decisions: tuple[Decision, ...] | None = Field(description="The last changes of replicas, newest first.")


class Queues(BaseModel):
    """All queues that operator or workers have told of, by name."""

    queues: list[Queue]


_FROM_STATE = QueueState.__dataclass_fields__.keys() - {"queue", "ready"}
