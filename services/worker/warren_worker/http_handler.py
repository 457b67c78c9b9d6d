"""The handler `http`: each task is POSTed to a service, such as a second container of the pod; the status decides.

2xx is success. 400, 410, 413, 415 and 422 say that the request itself is wrong, so no further attempt can mend it. All
else is a failure that may be tried again: what a service answers while it starts, is overloaded or is set up wrongly
(404, 401, 5xx, …) must not turn a whole queue into dead letters.
"""

import http.client
import json
import re
import socket
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from urllib.parse import SplitResult, quote, urlsplit

from warren_contract.settings import setting
from warren_worker.attempt import Explained, TimeLimit
from warren_worker.exec_handler import plain
from warren_worker.task import Handler, PermanentError, Task

URL = "WARREN_HTTP_URL"

PERMANENT = frozenset({400, 410, 413, 415, 422})
"""Statuses about this very task: bad request, gone, too large, media type, unprocessable (RFC 9110, section 15.5)."""

MARGIN = 0.5
"""Seconds before the task's deadline at which the request is given up; the worker's own time limit follows there."""

CONNECT_LIMIT = 10.0
"""Seconds to connect to each of the service's addresses, a handshake of TLS included. One that is not there may answer
nothing at all; with several such addresses, a limit for each as long as the task's own would be one too long."""

MAX_READ = 65_536
"""Bytes read of a response."""

MAX_DETAIL = 4_096
"""Characters of a response's body that a dead letter carries."""

PASSED_ON = frozenset({"traceparent", "tracestate"})
"""Headers of a task that are headers of HTTP under the same name (W3C Trace Context)."""

_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_PRINTABLE = "".join(chr(code) for code in range(0x20, 0x7F) if chr(code) != "%")


class HttpError(Explained):
    """The service did not answer with 2xx, or not at all."""


class _Response(http.client.HTTPResponse):
    """Passes over what a service says while it still works, such as 102 or 103 (RFC 9110, section 15.2). The library
    does so with 100 alone, and takes the others for the answer.
    """

    def _read_status(self) -> tuple[str, int, str]:
        while True:
            version, status, reason = super()._read_status()  # type: ignore[misc]  # not in the stubs
            if not 100 < status < 200 or status == http.client.SWITCHING_PROTOCOLS:
                return version, status, reason
            http.client.parse_headers(self.fp)


class Refused(HttpError, PermanentError):
    """The service says that the task is wrong."""


def make(environ: Mapping[str, str]) -> Handler:
    """The handler for the address in `WARREN_HTTP_URL`.

    Raises:
        SettingError: the address is missing or is none.
    """
    url = setting(environ, URL, parse_url)
    queue = environ.get("WARREN_QUEUE", "")

    def post(task: Task) -> None:
        _post(url, task, queue)

    return post


def parse_url(text: str) -> SplitResult:
    """An absolute http or https address.

    Raises:
        ValueError: it is not.
    """
    url = urlsplit(text)
    if url.scheme not in {"http", "https"} or not url.hostname:
        raise ValueError("write an address such as http://localhost:9000/tasks")
    if url.username is not None or url.password is not None:
        raise ValueError("leave user and password out of the address: it is shown in logs")
    try:
        port = url.port
    except ValueError:
        port = 0
    if port == 0:
        raise ValueError("write a port from 1 to 65535, such as http://localhost:9000/tasks")
    if not text.isprintable() or " " in text or not text.isascii():
        raise ValueError("write an address such as http://localhost:9000/tasks, percent-encoded where need be")
    return url


def headers_of(task: Task, queue: str) -> dict[str, str]:
    """The task's metadata as HTTP headers, named as the producer's; values are percent-encoded beyond printable
    ASCII."""
    told = {
        "Content-Type": task.content_type or "application/octet-stream",
        "Idempotency-Key": task.id,
        "X-Task-Id": task.id,
        "X-Task-Attempt": str(task.attempt),
        "X-Task-Deadline": f"{task.deadline:.3f}",
        "X-Task-Queue": queue,
        "X-Task-Type": task.type,
        "X-Task-Correlation-Id": task.correlation_id,
        "X-Task-Submitted-At": str(task.submitted_at),
    }
    for name, value in task.headers.items():
        if _TOKEN.fullmatch(name):
            shown = plain(value)
            text = shown if isinstance(shown, str) else json.dumps(shown)
            told[name if name in PASSED_ON else f"X-Task-Header-{name}"] = text
    return {name: quote(text, safe=_PRINTABLE, errors="replace") for name, text in told.items() if text is not None}


def _post(url: SplitResult, task: Task, queue: str) -> None:
    # A connection for each task: an idle one may be closed by the service at the very moment it is used again, and
    # whether the task was seen could not be told.
    kind = http.client.HTTPSConnection if url.scheme == "https" else http.client.HTTPConnection
    assert url.hostname is not None  # noqa: S101  parse_url has seen to it
    left = max(0.0, task.deadline - time.time())
    limit = max(0.1, left - min(MARGIN, left / 10))
    connection = kind(url.hostname, url.port, timeout=min(limit, CONNECT_LIMIT))
    connection.response_class = _Response
    path = (url.path or "/") + (f"?{url.query}" if url.query else "")
    headers = {**headers_of(task, queue), "User-Agent": "warren-worker", "Connection": "close"}
    expiry = _Expiry(limit)
    answer: tuple[int, str, str, bytes] | None = None
    last_word = limit <= CONNECT_LIMIT  # whether a timeout means that the task's time is over
    try:
        connection.connect()
        connection.sock.settimeout(limit)
        last_word = True
        expiry.watch(connection.sock)
        response = _ask(connection, path, task.body, headers)
        location = response.headers.get("Location", "")
        body = response.read(MAX_READ)
        if response.length and len(body) < MAX_READ:
            raise http.client.IncompleteRead(body, response.length)
        answer = response.status, response.reason, location, body
    except (OSError, http.client.HTTPException, ValueError) as error:
        if not expiry.over and not (last_word and isinstance(error, TimeoutError)):
            raise HttpError(f"no answer from {url.geturl()}: {type(error).__name__}: {error}") from error
        expiry.over = True
    finally:
        expiry.cancel()
        connection.close()
    if expiry.over or answer is None:
        raise TimeLimit(f"no whole answer from {url.geturl()} within the time limit")
    _judge(url.geturl(), *answer)


def _ask(
    connection: http.client.HTTPConnection, path: str, body: bytes, headers: Mapping[str, str]
) -> http.client.HTTPResponse:
    cut_off = False
    try:
        connection.request("POST", path, body=body, headers=headers)
    except (BrokenPipeError, ConnectionResetError):
        cut_off = True  # it has hung up, and may have said before why: 413 and the like often come that early
    response = connection.getresponse()
    if cut_off and 200 <= response.status < 300:
        raise ConnectionAbortedError(f"it answered {response.status} and hung up before it had the whole task")
    return response


def _judge(url: str, status: int, phrase: str, location: str, body: bytes) -> None:
    if 200 <= status < 300:
        return
    detail = body.decode("utf-8", "replace")[:MAX_DETAIL]
    message = f"{url} answered {status} {phrase}"
    if 300 <= status < 400:
        message += f": redirects are not followed, set {URL} to where it leads: {location}"
    raise (Refused if status in PERMANENT else HttpError)(message[:1000], detail)


class _Expiry:
    """Ends a connection after `limit` seconds in all: its own timeout starts again with each byte that drips in."""

    def __init__(self, limit: float) -> None:
        self.over = False
        self._socket: socket.socket | None = None
        self._timer = threading.Timer(limit, self._expire)
        self._timer.daemon = True
        self._timer.start()

    def watch(self, sock: socket.socket) -> None:
        """End this one.

        Raises:
            TimeoutError: it is too late already.
        """
        self._socket = sock
        if self.over:
            raise TimeoutError

    def cancel(self) -> None:
        """It was in time."""
        self._timer.cancel()

    def _expire(self) -> None:
        self.over = True
        if self._socket is not None:
            with suppress(OSError):
                self._socket.shutdown(socket.SHUT_RDWR)
