"""What the routes work with, and what they have in common: whose request it is, and why a task was not accepted."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from starlette.responses import JSONResponse

from warren_contract.names import QueueNameError, check_queue_name
from warren_producer.body import Budget
from warren_producer.errors import ApiError, Code
from warren_producer.metadata import IDEMPOTENCY_KEY
from warren_producer.metrics import Metrics
from warren_producer.observer import Observer
from warren_producer.publisher import Cause, NotAccepted, Publisher
from warren_producer.queues import Board
from warren_producer.tokens import Grant, Scope, TokenFiles

CODES: Mapping[Cause, tuple[Code, float | None]] = MappingProxyType(
    {
        Cause.QUEUE_UNKNOWN: (Code.QUEUE_UNKNOWN, None),
        Cause.DISCONNECTED: (Code.BROKER_UNAVAILABLE, 2),
        Cause.NO_EXCHANGE: (Code.BROKER_NOT_READY, 2),
        Cause.BLOCKED: (Code.BROKER_BLOCKED, 5),
        Cause.QUEUE_FULL: (Code.QUEUE_FULL, 5),
        Cause.OVERLOADED: (Code.OVERLOADED, 1),
        Cause.OUTCOME_UNKNOWN: (Code.OUTCOME_UNKNOWN, 1),
    }
)
"""The error code for each cause, and after how many seconds it is worth trying again."""


BUG = "this is a bug in the producer; its log has the details"


@dataclass(slots=True)
class Services:
    """What the routes work with.

    Attributes:
        publisher, observer, board, tokens, metrics: the parts of this program.
        max_body: bytes in one task's body.
        queue_max_body: the same for single queues, where it differs.
        submit_timeout: seconds for a confirm, and for a body to arrive.
        budget: of the bodies in memory.
        draining: the program is about to end.
    """

    publisher: Publisher
    observer: Observer
    board: Board
    tokens: TokenFiles
    metrics: Metrics
    max_body: int
    submit_timeout: float
    queue_max_body: Mapping[str, int] = field(default_factory=dict)
    budget: Budget = field(default_factory=Budget)
    draining: bool = False

    def body_limit(self, queue: str) -> int:
        """Bytes in the body of a task for `queue`."""
        return self.queue_max_body.get(queue, self.max_body)


def authorize(authorization: str, tokens: TokenFiles, scope: Scope, queue: str | None = None) -> tuple[Grant, ...]:
    """What a request may do, by its Authorization; raise unless that has `scope`, for `queue` or for some queue."""
    kind, _, token = authorization.partition(" ")
    if kind.lower() != "bearer" or not token.strip():
        raise ApiError(
            Code.UNAUTHORIZED,
            "no token: send the header 'Authorization: Bearer <token>'; Secret warren-tokens has the tokens",
            headers={"WWW-Authenticate": 'Bearer realm="warren"'},
        )
    grants = tokens.current().grants(token.strip())
    if not grants:
        raise ApiError(
            Code.UNAUTHORIZED,
            "the token is not known: Secret warren-tokens has the tokens in force",
            headers={"WWW-Authenticate": 'Bearer realm="warren", error="invalid_token"'},
        )
    if not any(grant.allows(scope, queue) for grant in grants):
        message = f"this token may not {scope.value}: use one of scope {scope.value!r} or 'admin'"
        if any(grant.allows(scope) for grant in grants):
            message = f"this token may {scope.value} with other queues only: use one that is for this queue, or for all"
        raise ApiError(
            Code.FORBIDDEN,
            message,
            headers={"WWW-Authenticate": f'Bearer realm="warren", error="insufficient_scope", scope="{scope.value}"'},
        )
    return grants


def check_queue(queue: str) -> None:
    """Raise unless a work queue may have this name."""
    try:
        check_queue_name(queue)
    except QueueNameError as error:
        raise ApiError(Code.INVALID, str(error), field="queue") from error


def as_api_error(error: NotAccepted, task_id: str) -> ApiError:
    """The answer to a submit of the task `task_id` that was not accepted."""
    code, retry_after = CODES[error.cause]
    if error.cause is not Cause.OUTCOME_UNKNOWN:
        return ApiError(code, error.message, retry_after=retry_after)
    return ApiError(
        code,
        f"{error.message}; to make sure, send it again with the header '{IDEMPOTENCY_KEY}: {task_id}'",
        id=task_id,
        retry_after=retry_after,
    )


def refusal(services: Services, error: ApiError) -> JSONResponse:
    """The answer that says so, counted."""
    services.metrics.refused.labels(error.code.code).inc()
    return error.response()
