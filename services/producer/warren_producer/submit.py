"""One task a request: `POST /v1/queues/{queue}/tasks`, the request that comes thousands of times a second.

It goes straight to an ASGI application of its own: the way through the frameworks' middlewares, router, request and
response costs as much as everything that is done here.
"""

import json
import re
import time

from starlette.types import ASGIApp, Receive, Scope, Send

from warren_producer import metadata, tokens
from warren_producer.body import Body, header
from warren_producer.errors import ApiError, Code
from warren_producer.publisher import NotAccepted
from warren_producer.services import BUG, Services, as_api_error, authorize, check_queue, refusal

PATH = "/v1/queues/{queue}/tasks"

_PATH = re.compile(PATH.replace("{queue}", "([^/]+)"))


class Submit:
    """The ASGI application for requests of this path and method.

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
        headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(content))]
        await send({"type": "http.response.start", "status": 202, "headers": headers})
        await send({"type": "http.response.body", "body": content})

    async def _submit(self, scope: Scope, receive: Receive) -> bytes:
        """The answer's body, once the broker has the task safely."""
        services = self._services
        queue: str = scope["path_params"]["queue"]
        headers = scope["headers"]
        authorize(header(headers, b"authorization") or "", services.tokens, tokens.Scope.SUBMIT, queue)
        check_queue(queue)
        try:
            properties = metadata.task_properties(headers, time.time())
        except metadata.MetadataError as error:
            raise ApiError(Code.INVALID, str(error), field=error.field) from error
        obstacle = services.publisher.obstacle
        if obstacle is not None:
            raise as_api_error(obstacle, properties.id)
        with Body(headers, receive, services.body_limit(queue), services.budget) as body:
            payload = await body.read(services.submit_timeout)
            started = time.perf_counter()
            try:
                await services.publisher.submit(queue, properties, payload)
            except NotAccepted as error:
                raise as_api_error(error, properties.id) from error
        services.metrics.submit_seconds.observe(time.perf_counter() - started)
        services.metrics.submitted.labels(queue).inc()
        return json.dumps({"id": properties.id, "queue": queue}).encode()


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
