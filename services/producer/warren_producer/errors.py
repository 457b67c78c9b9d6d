"""What can go wrong with a request, and how the API says it: always `{"error": {"code", "message", …}}`."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum

from starlette.responses import JSONResponse


class Code(Enum):
    """Error codes of the API, each with its HTTP status; a code never changes its meaning."""

    BAD_REQUEST = ("bad_request", 400)
    UNAUTHORIZED = ("unauthorized", 401)
    FORBIDDEN = ("forbidden", 403)
    NOT_FOUND = ("not_found", 404)
    QUEUE_UNKNOWN = ("queue_unknown", 404)
    METHOD_NOT_ALLOWED = ("method_not_allowed", 405)
    BODY_TOO_SLOW = ("body_too_slow", 408)
    BODY_TOO_LARGE = ("body_too_large", 413)
    TOO_MANY_LINES = ("too_many_lines", 413)
    INVALID = ("invalid", 422)
    INTERNAL = ("internal", 500)
    BROKER_UNAVAILABLE = ("broker_unavailable", 503)
    BROKER_BLOCKED = ("broker_blocked", 503)
    BROKER_NOT_READY = ("broker_not_ready", 503)
    QUEUE_FULL = ("queue_full", 503)
    OVERLOADED = ("overloaded", 503)
    OUTCOME_UNKNOWN = ("outcome_unknown", 503)
    SHUTTING_DOWN = ("shutting_down", 503)

    def __init__(self, code: str, status: int) -> None:
        self.code = code
        self.status = status


@dataclass(slots=True)
class ApiError(Exception):
    """A request that gets no good answer.

    Attributes:
        code: which kind.
        message: what happened, to what, and what to do.
        field: header or path parameter that is wrong.
        id: the task's, where it may have been accepted in spite of the error.
        retry_after: seconds after which to try again.
        headers: further HTTP headers of the answer.
        close: the connection ends after the answer, since the rest of the request was not read.
    """

    code: Code
    message: str
    field: str | None = None
    id: str | None = None
    retry_after: float | None = None
    headers: Mapping[str, str] | None = None
    close: bool = False

    def detail(self) -> dict[str, str]:
        """The object under `error` in the answer."""
        error: dict[str, str] = {"code": self.code.code, "message": self.message}
        if self.field is not None:
            error["field"] = self.field
        if self.id is not None:
            error["id"] = self.id
        return error

    def http_headers(self) -> dict[str, str]:
        """Of the answer."""
        headers = dict(self.headers or {})
        if self.retry_after is not None:
            headers["Retry-After"] = str(max(1, math.ceil(self.retry_after)))
        if self.close:
            headers["Connection"] = "close"
        return headers

    def response(self) -> JSONResponse:
        """The HTTP answer."""
        return JSONResponse({"error": self.detail()}, self.code.status, self.http_headers())
