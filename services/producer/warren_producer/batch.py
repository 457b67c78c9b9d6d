"""A batch: tasks as lines, published while they arrive, with the outcome of each.

Each line stands for itself: one that is wrong, or that the broker refuses, is refused, and those after it are published
all the same, so that the outcome of a line never depends on the others. What ends a batch early (too many lines, a
client that dawdles, the end of the program) leaves the lines after it unpublished, and the answer says so.
"""

import asyncio
import dataclasses
import json
import logging
import sys
import time
from array import array
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from json.encoder import encode_basestring_ascii
from typing import Any, Self

from warren_contract.task import TaskProperties
from warren_producer.body import MAX_DRAIN, Budget
from warren_producer.confirms import Outcome
from warren_producer.errors import ApiError, Code
from warren_producer.lanes import Message
from warren_producer.line import LineError, line_limit, parse_line
from warren_producer.ndjson import Line, Lines
from warren_producer.publisher import Cause, NotAccepted, Publisher

log = logging.getLogger(__name__)

MAX_LINES = 50_000
"""Tasks in one batch: their ids and outcomes lie in memory until the answer."""

MAX_SECONDS = 300.0
"""Seconds that a client has to send a batch, whose sender shall not hold a connection for ever."""

GROUP = 100
"""Tasks published in one write; other requests are served in between."""

GROUP_BYTES = 256 * 1024
"""Bytes of bodies in one write, unless one task alone has more."""

LOOK_AROUND = 1.0
"""Seconds after which a batch whose client is silent looks whether the program ends."""

LINE_COST = 128
"""Bytes that a line takes in memory until its client has the answer, about, besides those of its id, whatever became of
it: a reason for which lines were not accepted is there once, and takes as much besides its message."""

PIECE = 500
"""Lines of the answer that are made at once. Where none of them was accepted, they have 200 KB."""

MAX_MESSAGE = 500
"""Characters of a refusal."""

Codes = Mapping[Cause, tuple[Code, float | None]]


@dataclass(frozen=True, slots=True)
class Limits:
    """What a batch has to keep to.

    Attributes:
        max_body: bytes in one task's body.
        timeout: seconds for a confirm, and of silence that a client may keep while it sends.
        max_lines: tasks in it.
        max_seconds: to send it.
    """

    max_body: int
    timeout: float
    max_lines: int = MAX_LINES
    max_seconds: float = MAX_SECONDS


@dataclass(frozen=True, slots=True)
class Problem:
    """Why lines were not accepted, or not surely.

    Attributes:
        json: the `error` of each of them in the answer.
    """

    code: Code
    message: str
    field: str | None = None
    retry_after: float | None = None
    json: str = dataclasses.field(init=False, repr=False)

    def __post_init__(self) -> None:
        """Make the JSON once."""
        error: dict[str, Any] = {"code": self.code.code, "message": self.message}
        if self.field is not None:
            error["field"] = self.field
        if self.retry_after is not None:
            error["retry_after"] = self.retry_after
        object.__setattr__(self, "json", _json(error))


@dataclass(frozen=True, slots=True)
class Reply:
    """The answer to a batch.

    Attributes:
        status: of HTTP.
        headers: that only this answer has.
        size: bytes of its body.
        pieces: of its body, which are made as they are asked for; once.
    """

    status: int
    headers: Mapping[str, str]
    size: int
    pieces: Iterable[bytes]


class _Ticket:
    __slots__ = ("_batch", "_index")

    def __init__(self, batch: "Batch", index: int) -> None:
        self._batch = batch
        self._index = index

    @property
    def wanted(self) -> bool:
        return not self._batch.answered

    def published(self) -> None:
        self._batch.published(self._index)

    def settle(self, outcome: Outcome) -> None:
        self._batch.settled(self._index, outcome)


class Batch:
    """One request's tasks. Use it in a `with` statement, which gives its memory back to the budget: until the answer is
    written.

    Args:
        publisher: takes the tasks.
        queue: where they go.
        limits: of this batch.
        codes: the error code for each cause.
        budget: of all requests together.
        draining: tells whether the program is about to end.
    """

    def __init__(  # noqa: PLR0913  what a batch works with
        self,
        publisher: Publisher,
        queue: str,
        limits: Limits,
        *,
        codes: Codes,
        budget: Budget,
        draining: Callable[[], bool],
    ) -> None:
        self._publisher = publisher
        self._queue = queue
        self._limits = limits
        self._codes = codes
        self._budget = budget
        self._draining = draining
        self._lines = Lines(line_limit(limits.max_body))
        self._ids: list[str | None] = []
        """Of each task line; None where there is none. Whatever is neither settled nor a problem has no outcome yet."""
        self._numbers = array("L")
        self._published = bytearray()
        self._confirmed = bytearray()
        self._problems: list[Problem | None] = []
        self._reasons: dict[tuple[Code, str, str | None, float | None], Problem] = {}
        self._pending = 0
        self._all_settled: asyncio.Future[None] | None = None
        self._answered = False
        self._stop: Problem | None = None
        """From now on no line is published, for this reason."""
        self._end: ApiError | None = None
        self._first_code = ""
        """What ended the batch before its last line."""
        self._excess = False
        self._dropped = 0
        self._last_publish = 0.0
        self._taken = 0
        self._words = 0
        """Bytes of the ids, and of the reasons for which lines were not accepted."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._finish()
        self._budget.used -= self._taken

    @property
    def answered(self) -> bool:
        """Whether the answer is made: no outcome changes it any more."""
        return self._answered

    @property
    def first_code(self) -> str:
        """The word for the answer's error; empty if there is none."""
        return self._first_code

    @property
    def accepted(self) -> int:
        """Lines that a queue has safely."""
        return self._confirmed.count(1)

    async def run(self, receive: Callable[[], Awaitable[Any]]) -> None:
        """Read all lines, publish them, and wait for the outcomes.

        Args:
            receive: the request's, of ASGI.

        Raises:
            ApiError: there was no line.
        """
        try:
            await self._read(receive)
        except ApiError as error:
            self._end = error
        await self._settle_all()
        if self._end is not None and self._end.code is Code.BAD_REQUEST:
            log.info("a batch broke off after %d tasks were accepted", self.accepted)
        if not self._ids:
            raise self._end or ApiError(
                Code.INVALID, 'the batch has no line: write one object a line, such as {"body": "Hello..."}'
            )

    async def answer(self) -> Reply:
        """202 if every line was accepted, else the error of the first that was not.

        It is made in pieces, as fast as the client reads: as a whole it may have many times as many bytes as what it is
        made of. Until then this batch holds what it has of the budget.
        """
        self._finish()
        accepted = self.accepted
        total = len(self._ids)
        unknown = 0
        first: tuple[int, Problem] | None = None
        wait: float | None = None
        if accepted < total:
            unknown_code, _ = self._codes[Cause.OUTCOME_UNKNOWN]
            for index, confirmed in enumerate(self._confirmed):
                if confirmed:
                    continue
                problem = self._problems[index] or self._problem(index, Outcome.LATE)
                self._problems[index] = problem
                unknown += problem.code is unknown_code
                first = first or (index, problem)
                if problem.retry_after is not None:
                    wait = max(wait or 0.0, problem.retry_after)
        counts = {"accepted": accepted, "refused": total - accepted - unknown, "unknown": unknown}
        said: dict[str, Any] = {"queue": self._queue, **counts}
        error = self._end
        if error is None and first is not None:
            index, why = first
            message = f"line {self._numbers[index]}: {why.message} ({accepted} of {total} lines were accepted)"
            error = ApiError(why.code, message, field=why.field, id=self._ids[index], retry_after=wait)
        if error is None:
            return await self._reply(202, {}, said)
        self._first_code = error.code.code
        return await self._reply(error.code.status, error.http_headers(), {"error": error.detail(), **said})

    def _finish(self) -> None:
        """From now on no outcome matters any more."""
        self._answered = True
        if self._pending:
            self._pending = 0
            self._publisher.withdraw(self._queue)

    async def _reply(self, status: int, headers: Mapping[str, str], said: Mapping[str, Any]) -> Reply:
        start = f'{_json(said)[:-1]},"results":['
        if len(self._ids) <= PIECE:
            whole = list(self._pieces(start))
            return Reply(status, headers, sum(map(len, whole)), whole)
        size = 0
        for piece in self._pieces(start):  # which is made twice, since the length comes first
            size += len(piece)
            await asyncio.sleep(0)  # others have their turn
        return Reply(status, headers, size, self._pieces(start))

    def _pieces(self, start: str) -> Iterator[bytes]:
        """The answer's body, after its `start`."""
        total = len(self._ids)
        for begin in range(0, total, PIECE):
            end = min(begin + PIECE, total)
            results = ",".join([self._result(index) for index in range(begin, end)])
            yield f"{start if begin == 0 else ','}{results}{']}' if end == total else ''}".encode()

    def _result(self, index: int) -> str:
        """A line's entry in the answer."""
        task_id, problem = self._ids[index], self._problems[index]
        named = "" if task_id is None else f'"id":{encode_basestring_ascii(task_id)}'
        if problem is None:
            return f"{{{named}}}"
        return f'{{"line":{self._numbers[index]},{named}{"," if named else ""}"error":{problem.json}}}'

    def published(self, index: int) -> None:
        """A line goes out: from now on the broker may have it."""
        self._published[index] = 1

    def settled(self, index: int, outcome: Outcome) -> None:
        """The broker's word on a published line; too late once the answer is made."""
        if self._answered:
            return
        self._pending -= 1
        if outcome is Outcome.CONFIRMED:
            self._confirmed[index] = 1
        else:
            self._problems[index] = self._problem(index, outcome)
        if self._pending == 0 and self._all_settled is not None and not self._all_settled.done():
            self._all_settled.set_result(None)

    async def _read(self, receive: Callable[[], Awaitable[Any]]) -> None:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._limits.max_seconds
        hurried = False
        more = True
        while more:
            silent_until = loop.time() + self._limits.timeout
            while True:
                if self._draining() and not hurried:
                    # Whatever still comes is read and refused, so that the client sees the answer; but not for long.
                    hurried = True
                    deadline = min(deadline, loop.time() + self._limits.timeout / 2)
                now = loop.time()
                if now >= min(silent_until, deadline):
                    raise self._too_slow(silent=now >= silent_until)
                try:
                    async with asyncio.timeout_at(min(now + LOOK_AROUND, silent_until, deadline)):
                        message = await receive()
                    break
                except TimeoutError:
                    continue
            if message["type"] == "http.disconnect":
                raise ApiError(
                    Code.BAD_REQUEST,
                    "the request broke off before its end, or went on with what is no HTTP: the lines after the first "
                    f"{len(self._ids)} were not read; send them again",
                    close=True,
                )
            more = message.get("more_body", False)
            found = self._lines.feed(message.get("body", b""))
            await self._take(found if more else found + self._lines.finish(), len(message.get("body", b"")))
        if self._excess:
            raise self._too_many(close=False)

    async def _take(self, lines: list[Line], size: int) -> None:
        if self._excess:
            self._drop(size)
            return
        self._pay(len(lines))
        now = time.time()
        group: list[tuple[int, TaskProperties, bytes]] = []
        held = 0
        for line in lines:
            if len(self._ids) + len(group) >= self._limits.max_lines:
                self._excess = True
                self._drop(size)
                break
            try:
                if line.data is None:
                    raise LineError(
                        f"is longer than {line_limit(self._limits.max_body)} bytes: a task's body may have "
                        f"{self._limits.max_body} in this queue: store more elsewhere and send its address",
                        too_large=True,
                    )
                properties, body = parse_line(line.data, now, self._limits.max_body)
            except LineError as error:
                # In the order of the lines, so those before it come first.
                await self._publish(group)
                group, held = [], 0
                code = Code.BODY_TOO_LARGE if error.too_large else Code.INVALID
                self._add(line.number, self._why(code, str(error)[:MAX_MESSAGE], error.field))
                continue
            group.append((line.number, properties, body))
            held += len(body)
            if len(group) >= GROUP or held >= GROUP_BYTES:
                await self._publish(group)
                group, held = [], 0
        await self._publish(group)

    async def _publish(self, group: list[tuple[int, TaskProperties, bytes]]) -> None:
        if not group:
            return
        if self._draining():
            message = "the producer is shutting down and did not publish the task: send it again"
            self._stop = self._why(Code.SHUTTING_DOWN, message, retry_after=1)
        if self._stop is None:
            try:
                await self._publisher.wait_for_room(self._queue, self._limits.timeout)
            except NotAccepted as error:
                # One wait like this is enough for a batch: the next would take as long.
                code, retry_after = self._codes[error.cause]
                self._stop = self._why(code, error.message, retry_after=retry_after)
        stop = self._stop
        if stop is None:
            index = len(self._ids)
            messages = [
                Message(properties, body, _Ticket(self, index + offset))
                for offset, (_, properties, body) in enumerate(group)
            ]
            try:
                # Those that there is room for are published in here, and say so.
                self._published += bytes(len(group))
                self._publisher.publish(self._queue, messages)
            except NotAccepted as error:
                del self._published[index:]
                code, retry_after = self._codes[error.cause]
                stop = self._why(code, error.message, retry_after=retry_after)
            else:
                self._last_publish = asyncio.get_running_loop().time()
                self._pending += len(group)
                ids = [properties.id for _, properties, _ in group]
                self._ids += ids
                self._words += sum(map(len, ids))
                self._problems += [None] * len(group)
                self._numbers.extend([number for number, _, _ in group])
                self._confirmed += bytes(len(group))
        if stop is not None:
            for number, properties, _ in group:
                self._add(number, stop, properties.id)
        await asyncio.sleep(0)

    async def _settle_all(self) -> None:
        """Wait until every published line has its outcome; the last one has as long as a single submit."""
        if self._pending == 0:
            return
        self._all_settled = asyncio.get_running_loop().create_future()
        try:
            async with asyncio.timeout_at(self._last_publish + self._limits.timeout):
                await self._all_settled
        except TimeoutError:
            log.warning("%d tasks of a batch were not confirmed in time", self._pending)

    def _add(self, number: int, problem: Problem, task_id: str | None = None) -> None:
        """A line that is not published."""
        self._ids.append(task_id)
        self._words += 0 if task_id is None else len(task_id)
        self._problems.append(problem)
        self._numbers.append(number)
        self._confirmed.append(0)
        self._published.append(0)

    def _problem(self, index: int, outcome: Outcome) -> Problem:
        """Why a line was not accepted, or not surely."""
        error = self._publisher.not_accepted(self._queue, outcome, sent=bool(self._published[index]))
        code, retry_after = self._codes[error.cause]
        in_doubt = error.cause is Cause.OUTCOME_UNKNOWN
        message = f"{error.message}; to make sure, send it again with this id" if in_doubt else error.message
        return self._why(code, message, retry_after=retry_after)

    def _why(self, code: Code, message: str, field: str | None = None, retry_after: float | None = None) -> Problem:
        """The problem that is told like this: one for all lines that have it."""
        key = (code, message, field, retry_after)
        found = self._reasons.get(key)
        if found is None:
            found = self._reasons[key] = Problem(code, message, field, retry_after)
            self._words += LINE_COST + sys.getsizeof(message) + len(found.json)
        return found

    def _pay(self, more: int) -> None:
        """Hold what this batch takes, with so many more lines, of the budget."""
        cost = LINE_COST * (len(self._ids) + more) + self._lines.held + self._words
        if not self._budget.take(cost - self._taken):
            raise ApiError(
                Code.OVERLOADED,
                f"too much is being received at once: the lines after the first {len(self._ids)} were not read; "
                "try them again in a moment",
                retry_after=1,
                close=True,
            )
        self._taken = cost

    def _drop(self, size: int) -> None:
        """Read on for a while, so that the client sees the answer."""
        self._dropped += size
        if self._dropped > MAX_DRAIN:
            raise self._too_many(close=True)

    def _too_many(self, *, close: bool) -> ApiError:
        return ApiError(
            Code.TOO_MANY_LINES,
            f"a batch may have {self._limits.max_lines} lines: those after them were not published; send them in "
            "another batch",
            close=close,
        )

    def _too_slow(self, *, silent: bool) -> ApiError:
        if self._draining():
            message = f"the producer is shutting down: the lines after the first {len(self._ids)} were not read"
            return ApiError(Code.SHUTTING_DOWN, f"{message}; send them again", retry_after=1, close=True)
        limit = self._limits.timeout if silent else self._limits.max_seconds
        what = "nothing arrived" if silent else "the batch did not arrive"
        return ApiError(
            Code.BODY_TOO_SLOW,
            f"{what} within {limit:g} s: the lines after the first {len(self._ids)} were not read; send them again",
            close=True,
        )


def _json(value: Any) -> str:
    # Escaped to ASCII: what a client sent may have half surrogate pairs, which UTF-8 cannot carry.
    return json.dumps(value, separators=(",", ":"))
