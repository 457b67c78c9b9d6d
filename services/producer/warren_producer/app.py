"""The HTTP API: routes, and how each outcome becomes an answer."""

import asyncio
import time
from contextlib import ExitStack
from typing import Any

from fastapi import FastAPI, Request
from fastapi.openapi.utils import get_openapi
from fastapi.responses import JSONResponse, PlainTextResponse, Response
from fastapi.routing import APIRoute
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.exceptions import HTTPException
from starlette.routing import Route
from starlette.types import ASGIApp

from warren_contract.aio import BrokerUnavailable
from warren_contract.ids import TASK_ID_PATTERN, new_task_id
from warren_contract.names import QUEUE_NAME_PATTERN
from warren_contract.task import MAX_PRIORITY
from warren_producer import metadata
from warren_producer.answers import InPieces
from warren_producer.batch import MAX_LINES, Batch, Limits
from warren_producer.docs import add_docs, to_openapi_3_0
from warren_producer.errors import ApiError, Code
from warren_producer.http import MAX_SHOWN, AccessLog
from warren_producer.line import BODY, BODY_BASE64
from warren_producer.models import Accepted, BatchAccepted, BatchErrorBody, ErrorBody, Queue, QueueExplained, Queues
from warren_producer.services import BUG, CODES, Services, as_api_error, authorize, check_queue, refusal
from warren_producer.submit import PATH, ShortWay, Submit
from warren_producer.tokens import Scope

READ_LIMIT = 5.0
"""Seconds to count the messages of all queues that a read asks for; 0.3 ms each is usual."""

QUEUES_A_TURN = 50
"""Queues described before other requests get their turn; one with 10 workers takes 0.1 ms."""


def create_app(services: Services) -> ASGIApp:
    """The ASGI application."""
    app = FastAPI(
        title="Warren",
        summary="Background work: tasks go into a queue, workers do them.",
        version="1",
        docs_url=None,
        redoc_url=None,
        openapi_url=None,
        redirect_slashes=False,
    )
    _add_errors(app, services)
    submit = Submit(services)
    _add_submit(app, submit)
    _add_batch(app, services)
    _add_reads(app, services)
    _add_health(app, services)
    add_docs(app)
    openapi = _openapi(app)

    @app.get("/openapi.json", include_in_schema=False)
    async def schema() -> JSONResponse:
        return JSONResponse(openapi)

    return AccessLog(ShortWay(submit, app), draining=lambda: services.draining)


def _add_submit(app: FastAPI, submit: Submit) -> None:
    # Of this path, the router sees what is no POST.
    app.router.routes.append(Route(PATH, submit, methods=["POST"]))

    async def described() -> None:
        """Put one task into a queue. The body is the task, whatever it is.

        The answer 202 means that the broker has it safely on disk. A 503 says when to try again; where it says
        `outcome_unknown`, the task may have been accepted: send it again with its id as Idempotency-Key, so that both
        copies carry the same id. Nothing removes the second copy: the handler sees the id and can tell.
        """

    app.state.described = [
        APIRoute(
            PATH,
            described,
            methods=["POST"],
            name="submit",
            status_code=202,
            summary="Submit a task",
            tags=["tasks"],
            response_model=Accepted,
            responses=_errors(400, 401, 403, 404, 408, 413, 422, 503),
            openapi_extra=_SUBMIT_REQUEST,
        )
    ]


def _add_batch(app: FastAPI, services: Services) -> None:
    async def submit_batch(request: Request) -> Response:
        """Put many tasks into a queue: one JSON object a line.

        Each line stands for itself: one that is wrong, or that the broker refuses, is refused, and all others are
        published, in their order, while the request still arrives. The answer 202 means that the broker has all of them
        safely on disk. Every other answer has the error of the first line that was not accepted; where lines were read,
        `results` has an entry for each line that is not blank, in their order: with an `error` where it was not
        accepted, without one where it was. Where that error says `outcome_unknown`, the task may have been accepted:
        send it again with its `id`. An error with `retry_after` is worth sending again. Lines that `results` has no
        entry for were not published.

        A client that hangs up before the answer does not learn what was accepted; one that gives each line an `id` can
        send all of them again, so that both copies carry the same id. The broker does not remove the second copy.
        """
        queue = request.path_params["queue"]
        authorize(request.headers.get("authorization", ""), services.tokens, Scope.SUBMIT, queue)
        check_queue(queue)
        if request.headers.get("content-encoding", "identity").strip().lower() not in {"", "identity"}:
            raise ApiError(Code.INVALID, "a batch is read as it comes: send it unencoded", field="Content-Encoding")
        obstacle = services.publisher.obstacle
        if obstacle is not None:
            raise as_api_error(obstacle, "")
        limits = Limits(services.body_limit(queue), services.submit_timeout)
        with ExitStack() as stack:
            batch = stack.enter_context(
                Batch(
                    services.publisher,
                    queue,
                    limits,
                    codes=CODES,
                    budget=services.budget,
                    draining=lambda: services.draining,
                )
            )
            try:
                await batch.run(request.receive)
            finally:
                if batch.accepted:
                    services.metrics.submitted.labels(queue).inc(batch.accepted)
            reply = await batch.answer()
            if reply.status != 202:
                services.metrics.refused.labels(batch.first_code).inc()
            return InPieces(
                reply.status,
                reply.headers,
                size=reply.size,
                pieces=reply.pieces,
                limit=limits.max_seconds,
                done=stack.pop_all().close,
            )

    path = "/v1/queues/{queue}/tasks:batch"
    app.router.routes.append(Route(path, submit_batch, methods=["POST"]))
    errors = _errors(400, 401, 403, 404, 408, 413, 422, 503)
    for status in (400, 404, 408, 413, 422, 503):
        errors[status]["model"] = BatchErrorBody
    app.state.described.append(
        APIRoute(
            path,
            submit_batch,
            methods=["POST"],
            status_code=202,
            summary="Submit many tasks",
            tags=["tasks"],
            response_model=BatchAccepted,
            responses=errors,
            openapi_extra=_BATCH_REQUEST,
        )
    )


def _add_reads(app: FastAPI, services: Services) -> None:
    async def look(names: list[str]) -> dict[str, int | None]:
        try:
            async with asyncio.timeout(READ_LIMIT):
                return await services.observer.ready_of(names)
        except (BrokerUnavailable, TimeoutError) as error:
            what = str(error) or f"the broker did not answer within {READ_LIMIT:g} s"
            raise ApiError(Code.BROKER_UNAVAILABLE, f"{what}: try again", retry_after=2) from error

    @app.get(
        "/v1/queues",
        summary="All queues",
        tags=["queues"],
        response_model=Queues,
        responses=_errors(401, 403, 503),
        openapi_extra=_SECURED,
    )
    async def queues(request: Request) -> Queues:
        """Every queue that the operator or a worker has told of, with the broker's count of this moment.

        A token that is for some queues sees these.
        """
        grants = authorize(request.headers.get("authorization", ""), services.tokens, Scope.READ)
        known = services.board.queues()
        ready = await look([queue for queue in known if any(grant.allows(Scope.READ, queue) for grant in grants)])
        now = time.monotonic()
        told: list[Queue] = []
        for name, count in ready.items():
            told.append(Queue.of(name, count, services.board.heard(name, now)))
            if len(told) % QUEUES_A_TURN == 0:
                await asyncio.sleep(0)
        return Queues(queues=told)

    @app.get(
        "/v1/queues/{queue}",
        summary="One queue",
        tags=["queues"],
        response_model=QueueExplained,
        responses=_errors(401, 403, 404, 422, 503),
        openapi_extra=_SECURED,
    )
    async def one(request: Request, queue: str) -> QueueExplained:
        """One queue, with what explains its number of workers: also one that the operator does not know."""
        authorize(request.headers.get("authorization", ""), services.tokens, Scope.READ, queue)
        check_queue(queue)
        ready = (await look([queue]))[queue]
        heard = services.board.heard(queue, time.monotonic())
        if ready is None and heard.state is None:
            raise ApiError(Code.QUEUE_UNKNOWN, f"queue {queue!r} does not exist: create a WorkQueue for it")
        return QueueExplained.of(queue, ready, heard)


def _add_health(app: FastAPI, services: Services) -> None:
    @app.get("/healthz", summary="Is the process alive?", tags=["health"], response_class=PlainTextResponse)
    async def healthz() -> str:
        """Answers as long as the event loop turns."""
        return "ok\n"

    @app.get(
        "/readyz",
        summary="Should requests be sent here?",
        tags=["health"],
        response_class=PlainTextResponse,
        responses={503: {"description": "not yet, or not any more"}},
    )
    async def readyz() -> PlainTextResponse:
        """Yes, from the first time that tasks could be published until the shutdown.

        It stays yes while the broker is down: every replica would turn unready at once, and clients would meet a
        refused connection where this API has a 503 that says what is wrong and when to come back. It starts with no, so
        that a rollout with wrong broker settings stops at its first pod.
        """
        obstacle = services.publisher.obstacle
        if services.draining:
            return PlainTextResponse("shutting down\n", 503)
        if not services.publisher.ready_once:
            return PlainTextResponse(f"not ready: {obstacle}\n", 503)
        return PlainTextResponse("ready\n" if obstacle is None else f"ready to answer, but: {obstacle}\n")

    @app.get("/metrics", summary="Prometheus metrics", tags=["health"], response_class=PlainTextResponse)
    async def metrics() -> Response:
        """Counts by queue name, for Prometheus. No token is needed; nothing of any task is in them."""
        return Response(generate_latest(services.metrics.registry), media_type=CONTENT_TYPE_LATEST)


def _add_errors(app: FastAPI, services: Services) -> None:
    @app.exception_handler(ApiError)
    async def ours(_request: Request, error: ApiError) -> Response:
        return refusal(services, error)

    @app.exception_handler(HTTPException)
    async def routing(request: Request, error: HTTPException) -> Response:
        path = request.scope["path"][:MAX_SHOWN]
        code = {404: Code.NOT_FOUND, 405: Code.METHOD_NOT_ALLOWED}.get(error.status_code, Code.BAD_REQUEST)
        message = {
            Code.NOT_FOUND: f"there is nothing at {path!r}: /docs shows what there is",
            Code.METHOD_NOT_ALLOWED: f"{request.method} does not work at {path!r}: /docs shows what does",
        }.get(code, str(error.detail))
        return refusal(services, ApiError(code, message, headers=error.headers))

    @app.exception_handler(Exception)
    async def bug(_request: Request, _error: Exception) -> Response:
        # Starlette raises it again after the answer, and uvicorn logs it.
        return refusal(services, ApiError(Code.INTERNAL, BUG))


def _openapi(app: FastAPI) -> Any:
    """The description of the API. OpenAPI 3.0: the packaged Swagger UI reads nothing newer."""
    schema = get_openapi(
        title=app.title,
        summary=None,
        description=app.summary,
        version=app.version,
        openapi_version="3.0.3",
        routes=[*app.state.described, *app.routes],
    )
    schema["components"]["securitySchemes"] = {
        "token": {"type": "http", "scheme": "bearer", "description": "From Secret warren-tokens."}
    }
    for name in ("HTTPValidationError", "ValidationError"):
        schema["components"]["schemas"].pop(name, None)
    return to_openapi_3_0(schema)


_DESCRIPTIONS = {
    400: "The request broke off before its end, or is no HTTP.",
    401: "No token, or one that is not known.",
    403: "The token may not do this.",
    404: "The queue does not exist.",
    408: "The body arrived too slowly.",
    413: "The body is too large.",
    422: "A header or parameter is wrong; `field` names it.",
    503: "The broker takes nothing right now, the queue is full, or the outcome is unknown.",
}


def _errors(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The OpenAPI descriptions of error answers."""
    described: dict[int | str, dict[str, Any]] = {}
    for status in statuses:
        described[status] = {"model": ErrorBody, "description": _DESCRIPTIONS[status]}
        if status == 503:
            described[status]["headers"] = {
                "Retry-After": {"description": "Seconds to wait.", "schema": {"type": "integer", "minimum": 1}}
            }
        if status in {401, 403}:
            described[status]["headers"] = {"WWW-Authenticate": {"schema": {"type": "string"}}}
    return described


def _header(name: str, description: str, **schema: Any) -> dict[str, Any]:
    return {
        "name": name,
        "in": "header",
        "required": False,
        "description": description,
        "schema": {"type": "string", **schema},
    }


_SECURED: dict[str, Any] = {"security": [{"token": []}]}

_QUEUE_PARAMETER: dict[str, Any] = {
    "name": "queue",
    "in": "path",
    "required": True,
    "description": "Its name does not start with `amq.` or `warren.` and does not end in `.dead`.",
    "schema": {"type": "string", "title": "Queue", "pattern": f"^{QUEUE_NAME_PATTERN}$", "example": "task_queue"},
}

_SUBMIT_REQUEST: dict[str, Any] = {
    **_SECURED,
    "parameters": [
        _QUEUE_PARAMETER,
        _header(
            metadata.IDEMPOTENCY_KEY,
            "The task's id, for a caller that may have to send it again; a new UUIDv7 by default. It does not remove "
            "duplicates: sent twice, a task is in the queue twice under this id, by which its handler can tell.",
            pattern=f"^{TASK_ID_PATTERN}$",
            example=new_task_id(),
        ),
        _header(metadata.TASK_TYPE, "Handler name, where one queue serves several.", maxLength=metadata.MAX_SHORT),
        {
            **_header(metadata.TASK_PRIORITY, "31 is served first; without it a task counts as 4."),
            "schema": {"type": "integer", "minimum": 0, "maximum": MAX_PRIORITY},
        },
        _header(
            metadata.TASK_EXPIRATION,
            "After this time in the queue the task is dead-lettered unworked; such as 500ms, 30s, 25m or 1h30m.",
            pattern=r"^([0-9]+(\.[0-9]+)?(ms|s|m|h))+$",
        ),
        _header(metadata.TASK_CORRELATION_ID, "The caller's own.", maxLength=metadata.MAX_SHORT),
        _header("traceparent", "W3C trace context, passed on to the worker."),
        _header("tracestate", "W3C trace context, passed on to the worker."),
    ],
    "requestBody": {
        "description": (
            "The task, untouched. Its Content-Type is passed on. Headers of the task's own are sent as "
            f"{metadata.TASK_HEADER_PREFIX}<Name> and arrive in lower case; all together have at most "
            f"{metadata.MAX_METADATA} bytes."
        ),
        "content": {
            "application/json": {"schema": {}, "example": {"image": "cat.jpg", "width": 200}},
            "text/plain": {"schema": {"type": "string"}, "example": "Hello..."},
            "application/octet-stream": {"schema": {"type": "string", "format": "binary"}},
        },
    },
}

_TEXT: dict[str, Any] = {"type": "string"}
_SHORT: dict[str, Any] = {"type": "string", "maxLength": metadata.MAX_SHORT}

_BATCH_REQUEST: dict[str, Any] = {
    **_SECURED,
    "parameters": [_QUEUE_PARAMETER],
    "requestBody": {
        "required": True,
        "description": (
            f"One task a line, at most {MAX_LINES} of them. Each has either `{BODY}` (text) or `{BODY_BASE64}` "
            "(bytes); the rest is optional and means what the headers of a single submit mean. Blank lines are skipped."
        ),
        "content": {
            "application/x-ndjson": {
                "schema": {
                    "type": "object",
                    "description": "One line.",
                    "additionalProperties": False,
                    "properties": {
                        BODY: _TEXT,
                        BODY_BASE64: {"type": "string", "format": "byte"},
                        "id": {"type": "string", "pattern": f"^{TASK_ID_PATTERN}$"},
                        "content_type": _SHORT,
                        "type": _SHORT,
                        "priority": {"type": "integer", "minimum": 0, "maximum": MAX_PRIORITY},
                        "expiration": {**_TEXT, "pattern": r"^([0-9]+(\.[0-9]+)?(ms|s|m|h))+$"},
                        "correlation_id": _SHORT,
                        "headers": {"type": "object", "additionalProperties": _TEXT},
                        "traceparent": _TEXT,
                        "tracestate": _TEXT,
                    },
                },
                "example": '{"body": "Hello..."}\n{"body_base64": "AAEC", "type": "thumbnail", "priority": 9}\n',
            }
        },
    },
}
