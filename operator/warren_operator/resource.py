"""The WorkQueue resource: its typed spec and status, and how a raw object becomes one.

The models here are the only source of the CRD (`crd.py` writes it). The API server checks an object against the CRD
before the operator sees it; the operator checks it again with the same models, since an object may be older
than the CRD.
"""

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any, NamedTuple

import pydantic
from pydantic import ConfigDict, Field, JsonValue
from pydantic.alias_generators import to_camel

from warren_contract.durations import DurationError, parse_duration
from warren_contract.names import QueueNameError, check_queue_name
from warren_operator.schedule import ScheduleError, Window, check_window

GROUP = "warren.dev"
VERSION = "v1alpha1"
PLURAL = "workqueues"
KIND = "WorkQueue"
API_VERSION = f"{GROUP}/{VERSION}"

MAX_REPLICAS = 10_000
"""More workers than that for one queue is a typing error: a quorum queue cannot feed them."""

DECISIONS_KEPT = 10
"""Changes of replicas that the status remembers."""

LONGEST_DURATION = 30 * 24 * 3600
"""Seconds. Nothing in a WorkQueue is sensibly longer than a month; milliseconds stay in the broker's range."""


class ResourceError(ValueError):
    """A WorkQueue cannot be used; the message says what to write instead."""


class Key(NamedTuple):
    """Namespace and name of an object in Kubernetes."""

    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}"


def rule(expression: str, message: str) -> JsonValue:
    """A CEL rule for the API server, with the sentence it answers when the rule is broken."""
    return {"rule": expression, "message": message}


RENAMED = rule(
    "(has(self.spec.queue) && has(self.spec.queue.name) ? self.spec.queue.name : self.metadata.name) == "
    "(has(oldSelf.spec.queue) && has(oldSelf.spec.queue.name) ? oldSelf.spec.queue.name : oldSelf.metadata.name)",
    "a queue cannot be renamed: make another WorkQueue for the other queue",
)
"""A rule for the whole object: a rule of the name alone is not asked where the name comes or goes."""


def _check_duration(text: str) -> str:
    try:
        value = parse_duration(text)
    except DurationError as error:
        raise ValueError(str(error)) from error
    if value > LONGEST_DURATION:
        raise ValueError(f"{text!r} is too long: write at most 720h")
    return text


DURATION_RULES = (
    rule(
        r"self.matches('^([0-9]+(\\.[0-9]+)?(ms|s|m|h))+$')",
        "write a duration as number and unit, such as 500ms, 30s, 25m or 1h30m",
    ),
)

Duration = Annotated[
    str,
    pydantic.AfterValidator(_check_duration),
    Field(
        max_length=24,
        json_schema_extra={"x-kubernetes-validations": [*DURATION_RULES]},
    ),
]
"""A duration as written in Kubernetes; `seconds` reads it."""


def _longer_than_zero(sentence: str) -> pydantic.AfterValidator:
    def check(text: str) -> str:
        if seconds(text) <= 0:
            raise ValueError(sentence)
        return text

    return pydantic.AfterValidator(check)


def _not_zero(sentence: str) -> dict[str, JsonValue]:
    """The rules of a duration that `_longer_than_zero` checks, for the API server."""
    return {
        "x-kubernetes-validations": [*DURATION_RULES, rule(r"!self.matches('^(0+(\\.0+)?(ms|s|m|h))+$')", sentence)]
    }


NO_TIME_LIMIT = "timeLimit is zero: write how long one task may take, such as 25m"
NO_WAIT = "maxWait is zero: write how long a task may wait, such as 30s"
NO_TTL = "messageTTL is zero: write how long a task may wait, such as 24h, or leave it out if it may wait for ever"

TimeLimit = Annotated[Duration, _longer_than_zero(NO_TIME_LIMIT), Field(json_schema_extra=_not_zero(NO_TIME_LIMIT))]
MaxWait = Annotated[Duration, _longer_than_zero(NO_WAIT), Field(json_schema_extra=_not_zero(NO_WAIT))]
# RabbitMQ itself would take zero, and dead-letter each task that no worker waits for at that very moment.
MessageTtl = Annotated[Duration, _longer_than_zero(NO_TTL), Field(json_schema_extra=_not_zero(NO_TTL))]


def seconds(duration: str) -> float:
    """Seconds in a duration that has been checked."""
    return parse_duration(duration)


class Model(pydantic.BaseModel):
    """Strict and frozen: a typing error is refused, not guessed at; fields are camelCase outside."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, alias_generator=to_camel, validate_by_name=True)


class QueueSpec(Model):
    """The queue in the broker."""

    name: Annotated[
        str | None,
        Field(
            min_length=1,
            max_length=200,
            description="Name in the broker. Default: the name of the WorkQueue.",
            json_schema_extra={
                "x-kubernetes-validations": [
                    rule(
                        "self.matches('^[A-Za-z0-9][A-Za-z0-9._:-]*$')",
                        "write letters, digits, '.', '_', ':' or '-', starting with a letter or digit",
                    ),
                    rule(
                        "!self.startsWith('amq.') && !self.startsWith('warren.') && !self.endsWith('.dead')",
                        "names that start with 'amq.' or 'warren.' or end in '.dead' are reserved: choose another",
                    ),
                ]
            },
        ),
    ] = None
    max_length: Annotated[
        int | None,
        Field(ge=1, le=1_000_000_000, description="Tasks that may wait; more are refused. Default: the release's."),
    ] = None
    message_ttl: Annotated[
        MessageTtl | None,
        Field(
            alias="messageTTL",
            description="A task that waits longer than this is dead-lettered. Default: the release's, else never.",
        ),
    ] = None


class Retry(Model):
    """What happens to a task whose handler fails. What is not said is as in the release's defaults."""

    model_config = ConfigDict(
        json_schema_extra={
            "x-kubernetes-validations": [
                rule(
                    "!has(self.minDelay) || !has(self.maxDelay) || duration(self.minDelay) <= duration(self.maxDelay)",
                    "minDelay is longer than maxDelay: write a minDelay of at most maxDelay",
                )
            ]
        }
    )

    max_attempts: Annotated[int | None, Field(ge=1, le=1000, description="Failures until a task is a dead letter.")] = (
        None
    )
    min_delay: Annotated[
        Duration | None, Field(description="Time until the first retry; the delay grows by as much with each delivery.")
    ] = None
    max_delay: Annotated[Duration | None, Field(description="Longest time until a retry.")] = None

    @pydantic.model_validator(mode="after")
    def _ordered(self) -> "Retry":
        if self.min_delay and self.max_delay and seconds(self.min_delay) > seconds(self.max_delay):
            raise ValueError("minDelay is longer than maxDelay: write a minDelay of at most maxDelay")
        return self


class ScaleTargetKind(StrEnum):
    """Kinds whose replicas a WorkQueue can drive."""

    DEPLOYMENT = "Deployment"


class ScaleTargetApi(StrEnum):
    """API groups of the kinds in `ScaleTargetKind`."""

    APPS = "apps/v1"


class ScaleTargetRef(Model):
    """The Deployment of the workers, in the namespace of the WorkQueue. Its replicas belong to the operator."""

    api_version: ScaleTargetApi = Field(default=ScaleTargetApi.APPS, strict=False)
    kind: ScaleTargetKind = Field(default=ScaleTargetKind.DEPLOYMENT, strict=False)
    name: Annotated[str, Field(min_length=1, max_length=253, description="Name of the Deployment.")]


class Target(Model):
    """How many workers a backlog asks for. Of two answers the larger one counts; without any, backlogPerWorker is 5."""

    backlog_per_worker: Annotated[
        int | None,
        Field(
            ge=1,
            le=1_000_000,
            description="One worker for as many tasks, ready or unacknowledged: ceil((ready + unacked) / this).",
        ),
    ] = None
    max_wait: Annotated[
        MaxWait | None,
        Field(
            description="As many workers as start a task within this time: ceil((arrival rate + ready / this) × "
            "service time). Until five tasks have ended, backlogPerWorker rules, 5 if it is not given."
        ),
    ] = None


class ScaleUp(Model):
    """How workers are added."""

    max_step: Annotated[
        int | None,
        Field(
            ge=1,
            le=MAX_REPLICAS,
            description="Workers that may be starting at once. Default: 3 on each node that has any, or half as many "
            "as are up where that is more; those that have been starting for 3s do not count.",
        ),
    ] = None


class ScaleDown(Model):
    """How workers are taken away."""

    stabilization: Annotated[
        Duration,
        Field(description="Workers stay as long as they were wanted at some moment within this time. Default: 0s."),
    ] = "0s"


class Behavior(Model):
    """Limits on how fast the number of workers changes."""

    scale_up: ScaleUp = ScaleUp()
    scale_down: ScaleDown = ScaleDown()


class Fallback(Model):
    """Workers to have while the backlog cannot be read. It only ever adds workers."""

    after_failures: Annotated[
        int, Field(ge=1, le=10_000, description="Readings that must fail in a row, one a second. Default: 3.")
    ] = 3
    replicas: Annotated[int, Field(ge=0, le=MAX_REPLICAS, description="Workers to have at least, within maxReplicas.")]


class ScheduleWindow(Model):
    """A time in which other bounds hold: open from each start until the next end."""

    model_config = ConfigDict(
        json_schema_extra={
            "x-kubernetes-validations": [
                rule(
                    "has(self.minReplicas) || has(self.maxReplicas)",
                    "the window changes nothing: write minReplicas, maxReplicas or both",
                ),
                rule(
                    "!has(self.minReplicas) || !has(self.maxReplicas) || self.minReplicas <= self.maxReplicas",
                    "minReplicas is larger than maxReplicas: write a minReplicas of at most maxReplicas",
                ),
            ]
        }
    )

    start: Annotated[str, Field(max_length=100, description='Cron expression of five fields, such as "0 8 * * 1-5".')]
    end: Annotated[str, Field(max_length=100, description='Cron expression of five fields, such as "0 18 * * 1-5".')]
    time_zone: Annotated[
        str, Field(max_length=64, description="In which both are meant, such as Europe/Berlin. Default: UTC.")
    ] = "UTC"
    min_replicas: Annotated[int | None, Field(ge=0, le=MAX_REPLICAS, description="Fewest workers meanwhile.")] = None
    max_replicas: Annotated[int | None, Field(ge=0, le=MAX_REPLICAS, description="Most workers meanwhile.")] = None

    @property
    def window(self) -> Window:
        """The same for `schedule.bounds_at`."""
        return Window(self.start, self.end, self.time_zone, self.min_replicas, self.max_replicas)

    @pydantic.model_validator(mode="after")
    def _usable(self) -> "ScheduleWindow":
        if self.min_replicas is None and self.max_replicas is None:
            raise ValueError("the window changes nothing: write minReplicas, maxReplicas or both")
        if self.min_replicas is not None and self.max_replicas is not None and self.min_replicas > self.max_replicas:
            raise ValueError("minReplicas is larger than maxReplicas: write a minReplicas of at most maxReplicas")
        try:
            check_window(self.window)
        except ScheduleError as error:
            raise ValueError(str(error)) from error
        return self


class Budget(Model):
    """A number of workers that several WorkQueues share; how many, the operator's settings say."""

    name: Annotated[str, Field(min_length=1, max_length=63, description="Of the budget, as in the chart's budgets.")]
    priority: Annotated[
        int,
        Field(
            ge=-1_000_000,
            le=1_000_000,
            description="Each queue with tasks gets one worker first; of the rest, the larger priority gets all it "
            "wants, and equals share evenly.",
        ),
    ] = 0


class Mode(StrEnum):
    """Whether decisions are carried out."""

    ENFORCE = "Enforce"
    RECOMMEND = "Recommend"


class Spec(Model):
    """What the user wants of one work queue."""

    model_config = ConfigDict(
        json_schema_extra={
            "x-kubernetes-validations": [
                rule(
                    "self.minReplicas <= self.maxReplicas",
                    "minReplicas is larger than maxReplicas: write a minReplicas of at most maxReplicas",
                )
            ]
        }
    )

    queue: QueueSpec = QueueSpec()
    retry: Retry = Retry()
    time_limit: Annotated[
        TimeLimit | None,
        Field(
            description="Hard limit of one task; the broker takes a task back after this and five minutes more. "
            "Default: the release's."
        ),
    ] = None
    scale_target_ref: ScaleTargetRef
    concurrency: Annotated[
        int, Field(ge=1, le=10_000, description="Tasks that one worker takes at once; its WARREN_CONCURRENCY.")
    ] = 1
    min_replicas: Annotated[int, Field(ge=0, le=MAX_REPLICAS, description="Fewest workers.")] = 0
    max_replicas: Annotated[int, Field(ge=0, le=MAX_REPLICAS, description="Most workers.")] = 10
    target: Target = Target()
    behavior: Behavior = Behavior()
    fallback: Fallback | None = None
    schedule: Annotated[
        tuple[ScheduleWindow, ...],
        Field(
            strict=False,  # a list, outside
            max_length=20,
            description="Times with other bounds. Of several open windows, the last one that names a bound decides it.",
        ),
    ] = ()
    budget: Budget | None = None
    mode: Annotated[
        Mode, Field(strict=False, description="Recommend decides and explains, and changes no replicas.")
    ] = Mode.ENFORCE
    paused: Annotated[bool, Field(description="Scaling stands still; tasks go on.")] = False
    suspend: Annotated[bool, Field(description="No workers; tasks wait.")] = False

    @pydantic.model_validator(mode="after")
    def _consistent(self) -> "Spec":
        if self.min_replicas > self.max_replicas:
            raise ValueError("minReplicas is larger than maxReplicas: write a minReplicas of at most maxReplicas")
        return self


class BacklogStatus(Model):
    """Tasks in the broker."""

    ready: Annotated[int | None, Field(description="Tasks that wait.")] = None
    unacked: Annotated[int | None, Field(description="Tasks delivered and not yet acknowledged.")] = None
    delayed: Annotated[int | None, Field(description="Tasks that wait for their retry.")] = None
    dead: Annotated[int | None, Field(description="Tasks in the dead-letter queue.")] = None


class WorkersStatus(Model):
    """Pods of the scale target that are not being deleted."""

    total: int = 0
    busy: Annotated[int, Field(description="With a task in hand, as they report.")] = 0
    idle: Annotated[int, Field(description="Ready and without a task, as they report.")] = 0


class DecisionStatus(Model):
    """The latest decision."""

    at: Annotated[str, Field(json_schema_extra={"format": "date-time"})]
    from_: Annotated[int, Field(alias="from", description="Replicas before.")]
    to: Annotated[int, Field(description="Replicas wanted.")]
    limited_by: Annotated[str, Field(description="What held the decision back; empty if nothing did.")] = ""
    rule: Annotated[str, Field(description="Which target asked for as many.")] = ""
    reason: Annotated[str, Field(description="One sentence that explains the decision.")]
    remedy: Annotated[str, Field(description="What would change the decision.")] = ""


class PastDecisionStatus(Model):
    """A change of replicas that was carried out."""

    at: Annotated[str, Field(json_schema_extra={"format": "date-time"})]
    from_: Annotated[int, Field(alias="from", description="Replicas before.")]
    to: Annotated[int, Field(description="Replicas after.")]
    limited_by: Annotated[str, Field(description="What held the decision back; empty if nothing did.")] = ""
    reason: Annotated[str, Field(description="The sentence that explained it.")]


class ConditionStatus(StrEnum):
    """Kubernetes' three values of a condition."""

    TRUE = "True"
    FALSE = "False"
    UNKNOWN = "Unknown"


class Condition(Model):
    """A condition in Kubernetes' usual form."""

    type: str
    status: ConditionStatus = Field(strict=False)
    reason: str
    message: str
    observed_generation: int
    last_transition_time: Annotated[str, Field(json_schema_extra={"format": "date-time"})]


class Status(Model):
    """What the operator sees, wants and why."""

    observed_generation: int | None = None
    backlog: BacklogStatus | None = None
    workers: WorkersStatus | None = None
    desired_replicas: int | None = None
    service_time: Annotated[
        str | None, Field(description="Mean time of one task, failed ones included; unset until five have ended.")
    ] = None
    arrival_rate: Annotated[
        str | None,
        Field(description="Tasks that come in steadily, redeliveries included, such as 3.5/s; unset where none do."),
    ] = None
    estimated_wait: Annotated[
        str | None, Field(description="Time until a task submitted now starts, at the present number of workers.")
    ] = None
    decision: DecisionStatus | None = None
    decisions: Annotated[
        tuple[PastDecisionStatus, ...],
        Field(max_length=DECISIONS_KEPT, description="The last changes of replicas, newest first."),
    ] = ()
    conditions: Annotated[
        tuple[Condition, ...],
        Field(json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["type"]}),
    ] = ()


@dataclass(frozen=True, slots=True)
class WorkQueue:
    """One WorkQueue as it is in the API server.

    Attributes:
        key: namespace and name.
        uid: tells it from an earlier one of the same name.
        created: RFC 3339; the older of two claimants of one queue keeps it.
        generation: of the spec.
        spec: None where it is unusable.
        problem: why it is unusable, and what to write; empty if it is not.
        status: as it was last read, for what must survive a restart (times of conditions).
    """

    key: Key
    uid: str
    created: str
    generation: int
    spec: Spec | None
    problem: str
    status: Mapping[str, Any]

    @property
    def queue(self) -> str:
        """Name of its queue in the broker."""
        return (self.spec.queue.name if self.spec else None) or self.key.name

    @property
    def age_order(self) -> tuple[str, Key]:
        """Sorts the older of two first; the name decides between two of the same second."""
        return (self.created, self.key)


@dataclass(frozen=True, slots=True)
class QueueSettings:
    """What the broker is to hold one queue to.

    Attributes:
        max_length: tasks that may wait; more are refused.
        max_attempts: failures until a task is a dead letter.
        min_delay: seconds until the first retry.
        max_delay: seconds until a retry at most.
        time_limit: seconds that one task may take.
        message_ttl: seconds until a waiting task is dead-lettered; None for never.
    """

    max_length: int
    max_attempts: int
    min_delay: float
    max_delay: float
    time_limit: float
    message_ttl: float | None = None

    def refined(
        self, *, max_length: int | None, message_ttl: str | None, retry: Retry, time_limit: str | None
    ) -> "QueueSettings":
        """These settings, with what is given in place of what is not None.

        A minimal delay above the maximal one that it meets here raises that one: somebody meant to wait so long.
        """
        min_delay = self.min_delay if retry.min_delay is None else seconds(retry.min_delay)
        max_delay = self.max_delay if retry.max_delay is None else seconds(retry.max_delay)
        return QueueSettings(
            max_length=max_length or self.max_length,
            max_attempts=retry.max_attempts or self.max_attempts,
            min_delay=min(min_delay, max_delay) if retry.min_delay is None else min_delay,
            max_delay=max(min_delay, max_delay) if retry.max_delay is None else max_delay,
            time_limit=self.time_limit if time_limit is None else seconds(time_limit),
            message_ttl=self.message_ttl if message_ttl is None else seconds(message_ttl),
        )


def queue_settings(spec: Spec, defaults: QueueSettings) -> QueueSettings:
    """What a WorkQueue asks of the broker, in full."""
    return defaults.refined(
        max_length=spec.queue.max_length,
        message_ttl=spec.queue.message_ttl,
        retry=spec.retry,
        time_limit=spec.time_limit,
    )


def read_work_queue(body: Mapping[str, Any]) -> WorkQueue:
    """A WorkQueue from its raw object; a spec that cannot be used becomes `problem`, never an exception."""
    metadata = body["metadata"]
    spec: Spec | None = None
    problem = ""
    try:
        spec = parse_spec(_known(body.get("spec")), metadata["name"])
    except ResourceError as error:
        problem = str(error)
    return WorkQueue(
        key=Key(metadata["namespace"], metadata["name"]),
        uid=metadata["uid"],
        created=metadata["creationTimestamp"],
        generation=metadata.get("generation", 0),
        spec=spec,
        problem=problem,
        status=body.get("status") or {},
    )


def _known(spec: Any) -> Any:
    """A spec without the fields that its models lack: an operator older than the cluster's CRD does what it can.

    The API server has refused or dropped what the CRD lacks, so that a field unknown here is a newer release's.
    """
    try:
        Spec.model_validate(spec)
    except pydantic.ValidationError as error:
        unknown = [item["loc"] for item in error.errors() if item["type"] == "extra_forbidden"]
        if unknown:
            spec = copy.deepcopy(spec)
        for *path, name in unknown:
            place = spec
            for step in path:
                place = place[step]
            del place[name]
    return spec


def parse_spec(spec: Any, name: str) -> Spec:
    """The typed spec of the WorkQueue `name`.

    Raises:
        ResourceError: a field is unknown, missing or wrong; the first one is named.
    """
    try:
        parsed = Spec.model_validate(spec if spec is not None else {})
        check_queue_name(parsed.queue.name or name)
    except pydantic.ValidationError as error:
        raise ResourceError(f"spec.{first_problem(error)}") from error
    except QueueNameError as error:
        raise ResourceError(f"spec.queue.name: {error}") from error
    return parsed


def first_problem(error: pydantic.ValidationError) -> str:
    """`retry.maxAttempts: Input should be …` for the first of the errors."""
    details = error.errors(include_url=False, include_context=False, include_input=False)[0]
    where = ".".join(str(part) for part in details["loc"])
    message = details["msg"].removeprefix("Value error, ")
    if details["type"] == "extra_forbidden":
        message = "unknown field: remove it or mend its spelling"
    return f"{where}: {message}" if where else message


def timestamp(at: datetime) -> str:
    """RFC 3339 in UTC, whole seconds, as Kubernetes writes times."""
    return at.strftime("%Y-%m-%dT%H:%M:%SZ")
