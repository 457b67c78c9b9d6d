"""A client of the producer's HTTP API.

with Client("http://localhost:8080", token) as warren:
    warren.submit(b"Hello...", queue="task_queue")
    print(warren.queue("task_queue").ready)
"""

import base64
import dataclasses
import json
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import httpx

from warren_contract.backoff import Backoff
from warren_contract.ids import new_task_id

DEFAULT_QUEUE = "task_queue"
"""The queue that an installation has from the start."""

PATIENCE = 60.0
"""Seconds for which a submit is tried again while the producer says 503, or cannot be heard."""

READ_TIMEOUT = 30.0
"""Seconds to wait for an answer; the producer gives a submit 10 s for its body and 10 s for the broker's confirm."""

CONNECT_TIMEOUT = 5.0
"""Seconds to wait for the connection."""

BATCH_TASKS = 2000
BATCH_BYTES = 8 * 1024 * 1024
"""Tasks, and bytes of their lines, in one request of `submit_many`: kept until the answer, to be sent again."""

PIECE = 64 * 1024
"""Bytes of a batch in one write."""

BATCH_TIMEOUT = 60.0
"""Seconds of silence to wait for while a batch is sent and answered; the producer needs 30 s at most when its broker is
in trouble."""

OUTCOME_UNKNOWN = "outcome_unknown"
"""The producer's word for a task that it may have accepted."""

_LINE_STATUS = {"queue_unknown": 404, "body_too_large": 413}
"""The status that a single submit would have had, for errors of a line that no other try would mend; else 422."""

_HEADER_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
_UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_UNSENDABLE = re.compile(r"[\x00-\x1f\x7f\ud800-\udfff]")
"""Characters that the producer takes in no property of a task; halves of surrogate pairs are not even UTF-8."""

_LOST = frozenset({502, 503, 504})
"""Statuses that are worth another try: the producer's own 503, and what an Ingress says when it gets no answer."""


class WarrenError(Exception):
    """Something did not work; the message is one sentence for people.

    Attributes:
        id: of a task that may have been accepted, by this try or by an earlier one, in spite of the error. Submit it
            again under this id only: a new one makes a new task of it. None if nothing was accepted.
    """

    id: str | None = None


class Unreachable(WarrenError):
    """There was no answer from the producer.

    Attributes:
        refused: nothing was sent, by this try or by an earlier one; mostly because nobody takes connections there.
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
        retry_after: seconds after which it is worth trying again.
    """

    def __init__(self, message: str, status: int, detail: Mapping[str, Any], retry_after: float | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.code = str(detail.get("code", ""))
        self.field: str | None = detail.get("field")
        self.id = detail.get("id")
        self.retry_after = retry_after
        self.results: tuple[Mapping[str, Any], ...] | None = None
        """Of a batch: what became of each line; None where no line was read."""


class Abandoned(KeyboardInterrupt):
    """Interrupted by the user before all tasks of a request had their outcome.

    Attributes:
        ids: of those that may have been accepted, in their order, and that nobody has been told of; there may be none.
    """

    def __init__(self, ids: Iterable[str]) -> None:
        super().__init__()
        self.ids = tuple(ids)


def check_header_text(text: str) -> None:
    """Raise ValueError for what no header of HTTP carries as it is."""
    if _UNSENDABLE.search(text):
        raise ValueError(f"{text!r} has characters that no header can carry: leave them out")
    if text != text.strip(" "):
        raise ValueError(f"{text!r} has spaces at its ends, which no header can carry: leave them out")


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
            ValueError: a text, or the name of one of the task's own headers, cannot be sent.
        """
        self._check()
        known: dict[str, str | int | None] = {
            "Idempotency-Key": task_id,
            "Content-Type": self.content_type,
            "X-Task-Type": self.type,
            "X-Task-Priority": self.priority,
            "X-Task-Expiration": self.expiration,
            "X-Task-Correlation-Id": self.correlation_id,
        }
        known |= {f"X-Task-Header-{name}": value for name, value in self.headers.items()}
        return [(name.encode(), str(value).encode()) for name, value in known.items() if value is not None]

    def line(self, body: bytes, task_id: str) -> bytes:
        """As a line of a batch.

        Raises:
            ValueError: a text, or the name of one of the task's own headers, cannot be sent.
        """
        self._check()
        said: dict[str, Any] = {}
        try:
            said["body"] = body.decode()
        except UnicodeDecodeError:
            said["body_base64"] = base64.b64encode(body).decode()
        else:
            # Control characters take six bytes each in JSON, more than the room that the producer gives a line.
            if len(json.dumps(said["body"], ensure_ascii=False).encode()) > 4 * len(body) // 3 + 1024:
                said = {"body_base64": base64.b64encode(body).decode()}
        known = {
            "id": task_id,
            "content_type": self.content_type,
            "type": self.type,
            "priority": self.priority,
            "expiration": self.expiration,
            "correlation_id": self.correlation_id,
            "headers": {name: str(value) for name, value in self.headers.items()} or None,
        }
        said |= {name: value for name, value in known.items() if value is not None}
        return json.dumps(said, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"

    def _check(self) -> None:
        """Raise ValueError for what no header of HTTP carries as it is; a line could, but shall mean the same task."""
        texts = {
            "id": self.id,
            "content_type": self.content_type,
            "type": self.type,
            "expiration": self.expiration,
            "correlation_id": self.correlation_id,
        }
        for name, value in self.headers.items():
            if not _HEADER_NAME.fullmatch(name):
                raise ValueError(f"{name!r} cannot be the name of a header: write letters, digits and '-'")
            texts[f"header {name}"] = str(value)  # so that a number goes, too, as it always did alone
        for name, text in texts.items():
            if not text:
                continue
            try:
                check_header_text(text)
            except ValueError as error:
                raise ValueError(f"{name}: {error}") from None


@dataclass(frozen=True, slots=True)
class Submitted:
    """What became of one of many tasks.

    Attributes:
        id: of the task.
        error: why it was not accepted, or, where the error has an `id`, not surely; None if a queue has it safely.
    """

    id: str
    error: WarrenError | None = None


@dataclass(slots=True)
class _Entry:
    """One task of a batch on its way: its line, and its last error."""

    id: str
    line: bytes
    in_doubt: bool = False
    """A try may have been accepted, whatever became of those after it."""
    error: Refused | Unreachable | None = None
    retry_after: float | None = None
    """Seconds; None where another try would end in the same way."""


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
class PastDecision:
    """A change of replicas that the operator made.

    Attributes:
        at: Unix time in seconds.
        from_replicas, to_replicas: asked for before and after.
        limited_by: what held the decision back; empty if nothing did.
        reason: the sentence that explained it.
    """

    at: float
    from_replicas: int
    to_replicas: int
    limited_by: str = ""
    reason: str = ""


@dataclass(frozen=True, slots=True)
class QueueStatus:
    """One queue as the producer shows it; None stands for "not known". Times are in seconds.

    What explains the number of workers (`idle` to `decisions`) is there only where one queue was asked for.
    """

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
    problem: str | None = None
    worker_states: tuple[WorkerStatus, ...] = ()
    idle: int | None = None
    asked: int | None = None
    rule: str | None = None
    remedies: tuple[str, ...] = ()
    decisions: tuple[PastDecision, ...] = ()

    @property
    def backlog(self) -> int:
        """Tasks that wait or are in work."""
        return (self.ready or 0) + (self.unacked or 0) + (self.delayed or 0)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "QueueStatus":
        """From the API; fields of newer producers are skipped, those of older ones stay unknown."""
        names = {item.name for item in dataclasses.fields(cls)} - {"worker_states", "remedies", "decisions"}
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
        decisions = tuple(
            PastDecision(
                at=float(past.get("at", 0)),
                from_replicas=int(past.get("from_replicas", 0)),
                to_replicas=int(past.get("to_replicas", 0)),
                limited_by=_clean(str(past.get("limited_by", ""))),
                reason=_clean(str(past.get("reason", ""))),
            )
            for past in data.get("decisions") or ()
        )
        remedies = tuple(_clean(str(text)) for text in data.get("remedies") or ())
        return cls(**values, worker_states=workers, remedies=remedies, decisions=decisions)


class Client:
    """A client of one producer. It may be used from several threads at once.

    Args:
        url: the producer's, such as `http://localhost:8080`.
        token: of scope submit or admin to submit, of any scope to read.
        patience: seconds for which a submit is tried again while the producer says 503, or cannot be heard; 0 tries
            once.
        sleep: waits between two tries.

    Raises:
        WarrenError: the address or the token is none.
    """

    def __init__(
        self, url: str, token: str, *, patience: float = PATIENCE, sleep: Callable[[float], None] = time.sleep
    ) -> None:
        if not token.isascii() or not token.isprintable() or token.split() != [token]:
            # Not shown: a token with a line's end too many is still the secret.
            raise WarrenError("the token is not usable: it must be one word of visible ASCII characters")
        self._url = url.rstrip("/")
        self._patience = patience
        self._sleep = sleep
        try:
            if httpx.URL(self._url).userinfo:
                # They would be sent in the token's place.
                raise WarrenError("the address of a producer has no user and password in it: the token is all it needs")
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

        While the producer says 503, an Ingress 502 or 504, or the connection breaks before the answer, it is tried
        again under the same id, for as long as `patience` allows. A try whose answer got lost may have been accepted;
        then the queue holds two copies of the task under one id.

        Args:
            body: the task; text is sent as UTF-8.
            queue: where it goes.
            options: what goes with it.

        Raises:
            Refused: the producer does not take it.
            Unreachable: there is no answer.
            ValueError: an option, or a header's name, cannot be sent.

        Both of the first have an `id` where this try or an earlier one may have been accepted all the same. A
        KeyboardInterrupt is an `Abandoned` in this case.
        """
        options = options or TaskOptions()
        task_id = options.id or new_task_id()
        headers = options.http_headers(task_id)
        content = body.encode() if isinstance(body, str) else body
        deadline = time.monotonic() + self._patience
        in_doubt = heard = False
        for delay in Backoff(first=0.5, longest=5.0).delays():
            try:
                path = f"/v1/queues/{_quote(queue)}/tasks"
                return str(self._request("POST", path, "id", content=content, headers=headers)["id"])
            except KeyboardInterrupt as error:
                raise Abandoned([task_id]) from error
            except (Refused, Unreachable) as error:
                in_doubt = in_doubt or _may_be_accepted(error)
                heard = heard or _somebody_is_there(error)
                wait = _worth_waiting(error, delay, heard=heard)
                if wait is None or time.monotonic() + wait > deadline:
                    if in_doubt:
                        raise _with_doubt(error, error.id or task_id) from error.__cause__
                    raise
                self._pause(wait, [task_id] if in_doubt else [])
        raise AssertionError("delays never end")

    def submit_many(
        self, bodies: Iterable[bytes | str], queue: str = DEFAULT_QUEUE, options: TaskOptions | None = None
    ) -> Iterator[Submitted]:
        """Submit many tasks in few requests; yields what became of each, in their order, while it goes on.

        The bodies are read as far as needed, so that they may have no end. What is worth another try is sent again
        under the same id, for as long as `patience` allows, as in `submit`; a task that is refused leaves the others
        alone. Stop reading to stop submitting: at most one batch of `BATCH_TASKS` is on its way then. A
        KeyboardInterrupt while one is out is an `Abandoned`, which tells the ids.

        Args:
            bodies: the tasks; text is sent as UTF-8.
            queue: where they go.
            options: what goes with each; an `id` fits one task only.

        Raises:
            ValueError: there is an `id` in the options, or one of them, or a header's name, cannot be sent.
        """
        options = options or TaskOptions()
        if options.id is not None:
            raise ValueError("an id names one task: leave it out to submit many")
        batch: list[_Entry] = []
        size = 0
        for body in bodies:
            task_id = new_task_id()
            content = body.encode() if isinstance(body, str) else body
            line = options.line(content, task_id)
            if batch and (len(batch) >= BATCH_TASKS or size + len(line) > BATCH_BYTES):
                yield from self._submit_batch(batch, queue)
                batch, size = [], 0
            batch.append(_Entry(task_id, line))
            size += len(line)
        if batch:
            yield from self._submit_batch(batch, queue)

    def _submit_batch(self, batch: list[_Entry], queue: str) -> list[Submitted]:
        deadline = time.monotonic() + self._patience
        pending = batch
        heard = False
        for delay in Backoff(first=0.5, longest=5.0).delays():
            try:
                heard = self._try_batch(pending, queue, delay, heard=heard)
            except KeyboardInterrupt as error:
                raise Abandoned(_untold(batch, pending)) from error
            pending = [entry for entry in pending if entry.error is not None and entry.retry_after is not None]
            wait = max((delay, *(entry.retry_after or 0.0 for entry in pending)))
            if not pending or time.monotonic() + wait > deadline:
                break
            self._pause(wait, _untold(batch, ()))
        for entry in batch:
            if entry.in_doubt and entry.error is not None:
                entry.error = _with_doubt(entry.error, entry.id)
        return [Submitted(entry.id, entry.error) for entry in batch]

    def _pause(self, seconds: float, untold: Sequence[str]) -> None:
        """Wait before the next try; with the ids of tasks that may have been accepted by those before it."""
        try:
            self._sleep(seconds)
        except KeyboardInterrupt as error:
            raise Abandoned(untold) from error

    def _try_batch(self, batch: list[_Entry], queue: str, delay: float, *, heard: bool) -> bool:
        """Send these once, and note on each what became of it; whether there is, or was, somebody to hear it."""
        path = f"/v1/queues/{_quote(queue)}/tasks:batch"
        headers = {"Content-Type": "application/x-ndjson"}
        results: tuple[Mapping[str, Any], ...] = ()
        rest: Refused | Unreachable | None = None
        try:
            content = _pieces(entry.line for entry in batch)
            answer = self._request("POST", path, "results", content=content, headers=headers, timeout=BATCH_TIMEOUT)
            results = tuple(answer["results"])
            if len(results) != len(batch):
                message = f"the producer at {self._url} answered for {len(results)} of {len(batch)} tasks"
                rest = Unreachable(message, refused=False)
        except Refused as error:
            results = error.results or ()
            rest = error
        except Unreachable as error:
            rest = error
        heard = heard or rest is None or _somebody_is_there(rest)
        for entry, result in zip(batch, results, strict=False):
            detail = result.get("error")
            entry.error, entry.retry_after = None, None
            if isinstance(detail, dict):
                wait = detail.get("retry_after")
                entry.retry_after = float(wait) if isinstance(wait, int | float) else None
                said = {name: _clean(value) for name, value in detail.items()}
                status = _LINE_STATUS.get(str(detail.get("code")), 422) if wait is None else 503
                entry.error = Refused(str(said.get("message", "no reason given")), status, said, entry.retry_after)
        for entry in batch[len(results) :]:
            entry.error = rest
            entry.retry_after = None if rest is None else _worth_waiting(rest, delay, heard=heard)
        for entry in batch:
            entry.in_doubt = entry.in_doubt or (entry.error is not None and _may_be_accepted(entry.error))
        return heard

    def queues(self) -> list[QueueStatus]:
        """All queues that the operator or a worker has told of, by name.

        Raises:
            Refused: the producer answers with an error.
            Unreachable: there is no answer.
        """
        return [QueueStatus.from_json(item) for item in self._request("GET", "/v1/queues", "queues")["queues"]]

    def queue(self, name: str) -> QueueStatus:
        """One queue, also one that the operator does not know.

        Raises:
            Refused: the queue does not exist, or another error.
            Unreachable: there is no answer.
        """
        return QueueStatus.from_json(self._request("GET", f"/v1/queues/{_quote(name)}", "queue"))

    def _request(self, method: str, path: str, needs: str, **arguments: Any) -> dict[str, Any]:
        """The producer's answer; one without the field `needs` is that of another server, whatever its status."""
        try:
            response = self._http.request(method, path, **arguments)
        except httpx.ConnectError as error:
            raise Unreachable(f"cannot reach the producer at {self._url}: {error}", refused=True) from error
        except httpx.ConnectTimeout as error:
            message = f"the producer at {self._url} does not take connections (waited {CONNECT_TIMEOUT:g} s)"
            raise Unreachable(message, refused=True) from error
        except (httpx.LocalProtocolError, httpx.UnsupportedProtocol, httpx.InvalidURL) as error:
            # Found before anything is sent, and by every other try, too.
            raise Unreachable(f"cannot ask the producer at {self._url}: {error}", refused=True) from error
        except httpx.HTTPError as error:
            what = str(error) or type(error).__name__
            raise Unreachable(f"no answer from the producer at {self._url}: {what}", refused=False) from error
        try:
            data = response.json()
        except ValueError:
            data = None
        if response.is_success and isinstance(data, dict) and needs in data:
            return data
        raise _refusal(response, data)


def _untold(batch: Iterable[_Entry], out: Iterable[_Entry]) -> list[str]:
    """Ids of the tasks of a batch that may have been accepted, in their order.

    Args:
        batch: all of them.
        out: those of which a request is on its way.
    """
    on_their_way = {entry.id for entry in out}
    return [entry.id for entry in batch if entry.id in on_their_way or entry.in_doubt or entry.error is None]


def _pieces(lines: Iterable[bytes]) -> Iterator[bytes]:
    """The same bytes in fewer pieces, each of which costs a system call."""
    held: list[bytes] = []
    size = 0
    for line in lines:
        held.append(line)
        size += len(line)
        if size >= PIECE:
            yield b"".join(held)
            held, size = [], 0
    yield b"".join(held)


def _worth_waiting(error: Refused | Unreachable, delay: float, *, heard: bool) -> float | None:
    """Seconds until the next try; None if it would end in the same way.

    Args:
        error: how the last one ended.
        delay: seconds to wait at least.
        heard: a try has met somebody; then a refused connection is a producer that restarts, else a wrong address.
    """
    if isinstance(error, Refused):
        return max(error.retry_after or 0.0, delay) if error.status in _LOST else None
    return delay if heard or not error.refused else None


def _somebody_is_there(error: Refused | Unreachable) -> bool:
    """Whether the try that ended like this met anybody."""
    return isinstance(error, Refused) or not error.refused


def _may_be_accepted(error: Refused | Unreachable) -> bool:
    """Whether the try that ended like this may have been accepted.

    A 5xx says nothing about the task, unless it is a producer's 503, whose code does: who stands in between says 502,
    503 or 504 also of a producer that it lost after the request, and a producer 500 at any point.
    """
    if isinstance(error, Unreachable):
        return not error.refused
    if error.code == OUTCOME_UNKNOWN:
        return True
    return error.status >= httpx.codes.INTERNAL_SERVER_ERROR and not (
        error.status == httpx.codes.SERVICE_UNAVAILABLE and error.code
    )


def _with_doubt(error: Refused | Unreachable, task_id: str) -> Refused | Unreachable:
    """The last error of a task of which a try may have been accepted, this one or an earlier one, that says so.

    Another object, since the tasks of a batch may share one error.
    """
    message = str(error)
    if not isinstance(error, Refused) or error.code != OUTCOME_UNKNOWN:  # whose message says it
        which = "it" if _may_be_accepted(error) else "an earlier try"
        message += f"; {which} may have been accepted: submit it again under the same id only, {task_id}"
    told: Refused | Unreachable
    if isinstance(error, Refused):
        told = Refused(message, error.status, {"code": error.code, "field": error.field}, error.retry_after)
    else:
        told = Unreachable(message, refused=False)
    told.id = task_id
    told.__cause__ = error.__cause__
    return told


def _refusal(response: httpx.Response, data: Any) -> Refused:
    error = data.get("error") if isinstance(data, dict) else None
    if not isinstance(error, dict):
        lost = response.status_code in _LOST
        return Refused(
            f"{response.url.copy_with(query=None)} answered {response.status_code} in words that are no producer's: "
            + ("whoever stands in between has no answer of it" if lost else "is it the right address?"),
            response.status_code,
            {},
            _seconds(response),
        )
    detail = {name: _clean(value) for name, value in error.items()}
    refused = Refused(
        str(detail.get("message", "no reason given")),
        response.status_code,
        detail,
        _seconds(response),
    )
    results = data.get("results")
    if isinstance(results, list) and all(isinstance(result, dict) for result in results):
        refused.results = tuple(results)
    return refused


def _seconds(response: httpx.Response) -> float | None:
    """What the answer says about when to try again."""
    seconds = response.headers.get("Retry-After", "")
    return float(seconds) if seconds.isascii() and seconds.isdigit() else None


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
