"""A client of the producer's HTTP API.

with Client("http://localhost:8080", token) as warren:
    warren.submit(b"Hello...", queue="task_queue")
    print(warren.queue("task_queue").ready)
"""

import dataclasses
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Self

import httpx

from warren_contract.backoff import Backoff
from warren_contract.ids import new_task_id

DEFAULT_QUEUE = "task_queue"
"""The queue that an installation has from the start."""

PATIENCE = 60.0
"""Seconds for which a submit is tried again while the producer says 503."""

READ_TIMEOUT = 30.0
"""Seconds to wait for an answer; the producer gives a submit 10 s for its body and 10 s for the broker's confirm."""

CONNECT_TIMEOUT = 5.0
"""Seconds to wait for the connection."""

_HEADER_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
_UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f-\x9f]")


class WarrenError(Exception):
    """Something did not work; the message is one sentence for people."""


class Unreachable(WarrenError):
    """There was no answer from the producer.

    Attributes:
        refused: no connection was made, so that nothing was sent.
    """

    def __init__(self, message: str, *, refused: bool) -> None:
        super().__init__(message)
        self.refused = refused


class Refused(WarrenError):
    """The producer answered with an error.

    Attributes:
        status: of HTTP.
        code: the producer's word for the error.
        field: header or parameter that is wrong.
        id: of the task, where it may have been accepted in spite of the error.
        retry_after: seconds after which it is worth trying again.
    """

    def __init__(self, message: str, status: int, detail: Mapping[str, Any], retry_after: float | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.code = str(detail.get("code", ""))
        self.field: str | None = detail.get("field")
        self.id: str | None = detail.get("id")
        self.retry_after = retry_after


@dataclass(frozen=True, slots=True)
class TaskOptions:
    """What goes with a task besides its body.

    Attributes:
        id: its id; a new one by default.
        content_type: of the body.
        type: name of the handler where one queue serves several.
        priority: 0 to 31.
        expiration: a duration such as `30s`.
        correlation_id: the caller's own.
        headers: the task's own.
    """

    id: str | None = None
    content_type: str | None = None
    type: str | None = None
    priority: int | None = None
    expiration: str | None = None
    correlation_id: str | None = None
    headers: Mapping[str, str] = dataclasses.field(default_factory=dict)

    def http_headers(self, task_id: str) -> list[tuple[bytes, bytes]]:
        """As headers of the request.

        Raises:
            ValueError: the name of one of the task's own headers cannot be sent.
        """
        known: dict[str, str | int | None] = {
            "Idempotency-Key": task_id,
            "Content-Type": self.content_type,
            "X-Task-Type": self.type,
            "X-Task-Priority": self.priority,
            "X-Task-Expiration": self.expiration,
            "X-Task-Correlation-Id": self.correlation_id,
        }
        for name, value in self.headers.items():
            if not _HEADER_NAME.fullmatch(name):
                raise ValueError(f"{name!r} cannot be the name of a header: write letters, digits and '-'")
            known[f"X-Task-Header-{name}"] = value
        return [(name.encode(), str(value).encode()) for name, value in known.items() if value is not None]


@dataclass(frozen=True, slots=True)
class WorkerStatus:
    """A worker's last word.

    Attributes:
        worker: its name.
        running: ids of the tasks in its hands.
        finished, failed: tasks and attempts since it started.
        draining: it ends when it has finished what it has.
    """

    worker: str
    running: tuple[str, ...] = ()
    finished: int = 0
    failed: int = 0
    draining: bool = False


@dataclass(frozen=True, slots=True)
class QueueStatus:
    """One queue as the producer shows it; None stands for "not known". Times are in seconds."""

    queue: str
    exists: bool = True
    ready: int | None = None
    stale: bool = True
    state_age: float | None = None
    resource: str | None = None
    unacked: int | None = None
    delayed: int | None = None
    dead: int | None = None
    workers: int | None = None
    busy: int | None = None
    desired: int | None = None
    min_replicas: int | None = None
    max_replicas: int | None = None
    limited_by: str | None = None
    reason: str | None = None
    service_time: float | None = None
    arrival_rate: float | None = None
    estimated_wait: float | None = None
    worker_states: tuple[WorkerStatus, ...] = ()

    @property
    def backlog(self) -> int:
        """Tasks that wait or are in work."""
        return (self.ready or 0) + (self.unacked or 0) + (self.delayed or 0)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "QueueStatus":
        """From the API; fields of newer producers are skipped, those of older ones stay unknown."""
        names = {item.name for item in dataclasses.fields(cls)} - {"worker_states"}
        values = {name: _clean(value) for name, value in data.items() if name in names}
        workers = tuple(
            WorkerStatus(
                worker=_clean(str(worker.get("worker", "?"))),
                running=tuple(_clean(str(task.get("id", "?"))) for task in worker.get("running", ())),
                finished=int(worker.get("finished", 0)),
                failed=int(worker.get("failed", 0)),
                draining=bool(worker.get("draining", False)),
            )
            for worker in data.get("worker_states") or ()
        )
        return cls(**values, worker_states=workers)


class Client:
    """A client of one producer. It may be used from several threads at once.

    Args:
        url: the producer's, such as `http://localhost:8080`.
        token: of scope submit or admin to submit, of any scope to read.
        patience: seconds for which `submit` tries again while the producer says 503; 0 tries once.
        sleep: waits between two tries.
    """

    def __init__(
        self, url: str, token: str, *, patience: float = PATIENCE, sleep: Callable[[float], None] = time.sleep
    ) -> None:
        self._url = url.rstrip("/")
        self._patience = patience
        self._sleep = sleep
        try:
            self._http = httpx.Client(
                base_url=self._url,
                headers={"Authorization": f"Bearer {token}", "User-Agent": "warren"},
                timeout=httpx.Timeout(READ_TIMEOUT, connect=CONNECT_TIMEOUT),
                # One producer, known by its URL: no proxy from the environment stands between.
                trust_env=False,
            )
        except (httpx.InvalidURL, ValueError) as error:
            raise WarrenError(f"{url!r} is no usable address of a producer: {error}") from error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def submit(self, body: bytes | str, queue: str = DEFAULT_QUEUE, options: TaskOptions | None = None) -> str:
        """Submit a task and return its id once the broker has it safely.

        While the producer says 503, or the connection breaks before the answer, it is tried again under the same id,
        for as long as `patience` allows. A try whose answer got lost may have been accepted; then the queue holds two
        copies of the task under one id.

        Args:
            body: the task; text is sent as UTF-8.
            queue: where it goes.
            options: what goes with it.

        Raises:
            Refused: the producer does not take it. `id` is set where it may have taken it all the same.
            Unreachable: there is no answer.
            ValueError: a header's name cannot be sent.
        """
        options = options or TaskOptions()
        task_id = options.id or new_task_id()
        headers = options.http_headers(task_id)
        content = body.encode() if isinstance(body, str) else body
        deadline = time.monotonic() + self._patience
        for delay in Backoff(first=0.5, longest=5.0).delays():
            try:
                answer = self._request("POST", f"/v1/queues/{_quote(queue)}/tasks", content=content, headers=headers)
                return str(answer.get("id", task_id))
            except (Refused, Unreachable) as error:
                wait = _worth_waiting(error, delay)
                if wait is None or time.monotonic() + wait > deadline:
                    raise
                self._sleep(wait)
        raise AssertionError("delays never end")

    def queues(self) -> list[QueueStatus]:
        """All queues that the operator or a worker has told of, by name.

        Raises:
            Refused: the producer answers with an error.
            Unreachable: there is no answer.
        """
        found = self._request("GET", "/v1/queues").get("queues", ())
        return [QueueStatus.from_json(item) for item in found]

    def queue(self, name: str) -> QueueStatus:
        """One queue, also one that the operator does not know.

        Raises:
            Refused: the queue does not exist, or another error.
            Unreachable: there is no answer.
        """
        return QueueStatus.from_json(self._request("GET", f"/v1/queues/{_quote(name)}"))

    def _request(self, method: str, path: str, **arguments: Any) -> dict[str, Any]:
        try:
            response = self._http.request(method, path, **arguments)
        except httpx.ConnectError as error:
            raise Unreachable(f"cannot reach the producer at {self._url}: {error}", refused=True) from error
        except httpx.ConnectTimeout as error:
            message = f"the producer at {self._url} does not take connections (waited {CONNECT_TIMEOUT:g} s)"
            raise Unreachable(message, refused=True) from error
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            what = str(error) or type(error).__name__
            raise Unreachable(f"no answer from the producer at {self._url}: {what}", refused=False) from error
        try:
            data = response.json()
        except ValueError:
            data = None
        if response.is_success and isinstance(data, dict):
            return data
        raise _refusal(response, data)


def _worth_waiting(error: WarrenError, delay: float) -> float | None:
    """Seconds until the next try; None if another try would end in the same way, or if nobody is there at all."""
    if isinstance(error, Refused):
        return max(error.retry_after or 0.0, delay) if error.status == httpx.codes.SERVICE_UNAVAILABLE else None
    return None if isinstance(error, Unreachable) and error.refused else delay


def _refusal(response: httpx.Response, data: Any) -> Refused:
    error = data.get("error") if isinstance(data, dict) else None
    if not isinstance(error, dict):
        return Refused(
            f"{response.url.copy_with(query=None)} answered {response.status_code} in words that are no producer's: "
            "is it the right address?",
            response.status_code,
            {},
        )
    detail = {name: _clean(value) for name, value in error.items()}
    seconds = response.headers.get("Retry-After", "")
    return Refused(
        str(detail.get("message", "no reason given")),
        response.status_code,
        detail,
        float(seconds) if seconds.isascii() and seconds.isdigit() else None,
    )


def _quote(queue: str) -> str:
    """One path segment."""
    return "".join(
        char
        if char.isascii() and (char.isalnum() or char in "-._~:")
        else "".join(f"%{byte:02X}" for byte in char.encode())
        for char in queue
    )


def _clean(value: Any) -> Any:
    """Text from the network without characters that could command a terminal."""
    return _UNPRINTABLE.sub("�", value) if isinstance(value, str) else value
