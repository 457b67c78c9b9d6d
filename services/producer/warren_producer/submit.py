"""One task a request: `POST /v1/queues/{queue}/tasks`, the request that comes thousands of times a second.

It goes straight to an ASGI application of its own: the way through the frameworks' middlewares, router, request and
response costs as much as everything that is done here.
"""

import json
import re
import time

from starlette.types import ASGIApp, Receive, Scope, Send

from warren_contract.task import TaskProperties
from warren_producer import metadata, tokens
from warren_producer.body import Body, RawHeaders, header
from warren_producer.errors import ApiError, Code
from warren_producer.http import JSON, Respond
from warren_producer.publisher import NotAccepted
from warren_producer.services import BUG, Services, as_api_error, authorize, check_queue, refusal

PATH = "/v1/queues/{queue}/tasks"

_PATH = re.compile(PATH.replace("{queue}", "([^/]+)"))
_PLAIN_TARGET = re.compile(PATH.replace("{queue}", "([A-Za-z0-9._-]+)").encode())
"""Of a request that can mean one thing only: nothing escaped, no query."""


class Submit:
    """Both ways that a request of this path and method can take.

    `__call__` is an ASGI application, for all of them. `begin` is for those that are there as a whole and have nothing
    wrong with them: without a task of asyncio and all that belongs to one, they cost the producer half as much.

    Args:
        services: what it works with.
    """

    def __init__(self, services: Services) -> None:
        self._services = services

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        try:
            content = await self._submit(scope, receive)
        except ApiError as error:
            await refusal(self._services, error)(scope, receive, send)
            return
        except Exception:
            await refusal(self._services, ApiError(Code.INTERNAL, BUG))(scope, receive, send)
            raise  # uvicorn logs it
        headers = [JSON, (b"content-length", b"%d" % len(content))]
        await send({"type": "http.response.start", "status": 202, "headers": headers})
        await send({"type": "http.response.body", "body": content})

    def takes(self, target: bytes) -> bool:
        """Whether `begin` may be asked: whether a POST to this target submits a task."""
        return _PLAIN_TARGET.fullmatch(target) is not None

    def begin(self, target: bytes, headers: RawHeaders, body: bytes, respond: Respond) -> bool:
        """Submit the task of a whole request.

        Args:
            target: of the request, one that it `takes`.
            headers: of the request.
            body: of the request.
            respond: is called with the answer, once the broker has given its own.

        Returns:
            False if nothing was done: `__call__` takes the request, and tells what is wrong with it.
        """
        services = self._services
        found = _PLAIN_TARGET.fullmatch(target)
        if found is None or services.draining:
            return False
        queue = found[1].decode()
        if len(body) > services.body_limit(queue) or not services.budget.take(len(body)):
            return False
        started = time.perf_counter()
        task_id = ""

        def told(error: NotAccepted | None) -> None:
            services.budget.used -= len(body)
            if error is None:
                respond(202, [JSON], self._accepted(queue, task_id, started), close=services.draining)
            else:
                answer = refusal(services, as_api_error(error, task_id))
                respond(answer.status_code, answer.raw_headers, bytes(answer.body), close=services.draining)

        try:
            properties = self._properties(headers, queue)
            task_id = properties.id
            services.publisher.begin(queue, properties, body, told)
        except (ApiError, NotAccepted):
            services.budget.used -= len(body)
            return False
        return True

    async def _submit(self, scope: Scope, receive: Receive) -> bytes:
        """The answer's body, once the broker has the task safely."""
        services = self._services
        queue: str = scope["path_params"]["queue"]
        headers = scope["headers"]
        properties = self._properties(headers, queue)
        with Body(headers, receive, services.body_limit(queue), services.budget) as body:
            payload = await body.read(services.submit_timeout)
            started = time.perf_counter()
            try:
                await services.publisher.submit(queue, properties, payload)
            except NotAccepted as error:
                raise as_api_error(error, properties.id) from error
        return self._accepted(queue, properties.id, started)

    def _properties(self, headers: RawHeaders, queue: str) -> TaskProperties:
        """What is sent with the task, if the request may submit it and anything can be published.

        Raises:
            ApiError: it may not, or has a mistake, or nothing can.
        """
        services = self._services
        authorize(header(headers, b"authorization") or "", services.tokens, tokens.Scope.SUBMIT, queue)
        check_queue(queue)
        try:
            properties = metadata.task_properties(headers, time.time())
        except metadata.MetadataError as error:
            raise ApiError(Code.INVALID, str(error), field=error.field) from error
        obstacle = services.publisher.obstacle
        if obstacle is not None:
            raise as_api_error(obstacle, properties.id)
        return properties

    def _accepted(self, queue: str, task_id: str, started: float) -> bytes:
        """Count a task that a queue has safely; the answer's body."""
        metrics = self._services.metrics
        metrics.submit_seconds.observe(time.perf_counter() - started)
        metrics.submitted.labels(queue).inc()
        return json.dumps({"id": task_id, "queue": queue}).encode()


class ShortWay:
    """Takes a submit's request to `Submit`, and every other one to the application with all routes.

    Args:
        submit: the former.
        app: the latter.
    """

    def __init__(self, submit: Submit, app: ASGIApp) -> None:
        self._submit = submit
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The ASGI application."""
        found = _PATH.fullmatch(scope["path"]) if scope["type"] == "http" and scope["method"] == "POST" else None
        if found is None:
            await self._app(scope, receive, send)
        else:
            scope["path_params"] = {"queue": found[1]}  # as the router would
            await self._submit(scope, receive, send)
