"""HTTP request headers → a task's properties. Pure; every mistake names its header and says what to write.

The checks of single values serve the lines of a batch too, which name them otherwise.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from warren_contract.durations import DurationError, parse_duration
from warren_contract.ids import TaskIdError, check_task_id, new_task_id
from warren_contract.task import MAX_PRIORITY, RESERVED_HEADER_PREFIX, TaskProperties

IDEMPOTENCY_KEY = "Idempotency-Key"
TASK_TYPE = "X-Task-Type"
TASK_PRIORITY = "X-Task-Priority"
TASK_EXPIRATION = "X-Task-Expiration"
TASK_CORRELATION_ID = "X-Task-Correlation-Id"
TASK_HEADER_PREFIX = "X-Task-Header-"
CONTENT_TYPE = "Content-Type"
CONTENT_ENCODING = "Content-Encoding"

MAX_METADATA = 16 * 1024
"""Bytes of all properties and headers of a task together. AMQP sends them in one frame of at most `frame_max`, 128 KiB
by default, and the broker closes the connection over a larger one; the rest is room for what a dead letter adds."""

MAX_SHORT = 255
"""Bytes in an AMQP short string."""

MAX_HEADER_NAME = 128
"""Characters in the name of a header field (AMQP 0-9-1, section 4.2.5.5)."""

MAX_EXPIRATION = 4_294_967_295
"""Milliseconds, 49 days; the broker closes the channel over more."""

MAX_TRACE = 512
"""Characters of `traceparent` and of `tracestate` that are passed on (W3C Trace Context asks for at least 512)."""

RESERVED_NAMES = frozenset(
    {
        "traceparent",
        "tracestate",
        "cc",
        "bcc",
        "x-death",
        "x-delivery-count",
        "x-acquired-count",
        "x-first-death-exchange",
    }
    | {
        "x-first-death-queue",
        "x-first-death-reason",
        "x-last-death-exchange",
        "x-last-death-queue",
        "x-last-death-reason",
    }
)
"""Names that mean something to the broker, or that have an HTTP header of their own."""

_KNOWN = {
    name.lower(): name for name in (IDEMPOTENCY_KEY, TASK_TYPE, TASK_PRIORITY, TASK_EXPIRATION, TASK_CORRELATION_ID)
}
_SINGLE = {**_KNOWN, CONTENT_TYPE.lower(): CONTENT_TYPE}
_PRINTABLE = re.compile(r"[^\x00-\x1f\x7f]*")
_TRACEPARENT = re.compile(r"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}(?:-.*)?")


@dataclass(frozen=True, slots=True)
class Names:
    """How a caller names what a task carries."""

    id: str
    content_type: str
    type: str
    correlation_id: str
    header_prefix: str


HTTP_NAMES = Names(IDEMPOTENCY_KEY, CONTENT_TYPE, TASK_TYPE, TASK_CORRELATION_ID, TASK_HEADER_PREFIX)


class MetadataError(ValueError):
    """A request header cannot become part of a task.

    Attributes:
        field: the header's name.
    """

    def __init__(self, field: str, message: str) -> None:
        super().__init__(f"{field}: {message}")
        self.field = field


def task_properties(headers: Iterable[tuple[bytes, bytes]], now: float) -> TaskProperties:
    """The properties of a task that was sent with these request headers.

    Args:
        headers: raw, in the order of the request.
        now: Unix time in seconds; becomes the time of submission.

    Raises:
        MetadataError: one of them is wrong, or they are too long together.
    """
    single, own, trace = _sort(headers)
    priority = single.get(TASK_PRIORITY)
    expiration = single.get(TASK_EXPIRATION)
    properties = TaskProperties(
        id=task_id(IDEMPOTENCY_KEY, single[IDEMPOTENCY_KEY]) if IDEMPOTENCY_KEY in single else new_task_id(),
        submitted_at=int(now * 1000),
        content_type=short(CONTENT_TYPE, single.get(CONTENT_TYPE)),
        type=short(TASK_TYPE, single.get(TASK_TYPE)),
        priority=None if priority is None else _priority(priority),
        expiration=None if expiration is None else milliseconds(TASK_EXPIRATION, expiration),
        correlation_id=short(TASK_CORRELATION_ID, single.get(TASK_CORRELATION_ID)),
        headers={**own, **trace},
    )
    check_size(properties, HTTP_NAMES)
    return properties


def _sort(headers: Iterable[tuple[bytes, bytes]]) -> tuple[dict[str, str], dict[str, str], dict[str, str]]:
    """The values of our own headers by name, the task's own headers, and the trace context."""
    single: dict[str, str] = {}
    own: dict[str, str] = {}
    seen: dict[str, list[str]] = {"traceparent": [], "tracestate": []}
    prefix = TASK_HEADER_PREFIX.lower()
    for raw_name, raw_value in headers:
        name = raw_name.decode("latin-1").lower()
        if name in _SINGLE:
            field = _SINGLE[name]
            if field in single:
                raise MetadataError(field, "was sent twice: send it once")
            single[field] = _text(field, raw_value)
        elif name.startswith(prefix):
            key = name.removeprefix(prefix)
            field = TASK_HEADER_PREFIX + key
            check_header_name(field, key)
            if key in own:
                raise MetadataError(field, "was sent twice: send it once")
            own[key] = _text(field, raw_value)
        elif name.startswith("x-task-"):
            known = ", ".join(sorted(_KNOWN[key] for key in _KNOWN if key.startswith("x-task-")))
            raise MetadataError(
                name, f"is not known: the headers of a task are {known}, and {TASK_HEADER_PREFIX}<Name> for its own"
            )
        elif name in seen:
            seen[name].append(raw_value.decode("latin-1"))
        elif name == CONTENT_ENCODING.lower() and raw_value.strip().lower() not in {b"", b"identity"}:
            raise MetadataError(
                CONTENT_ENCODING,
                "is not carried with a task: send the body unencoded, or as it is with the encoding in a header of the "
                f"task's own, such as {TASK_HEADER_PREFIX}Encoding",
            )
    return single, own, trace_context(seen["traceparent"], seen["tracestate"])


def trace_context(parents: list[str], states: list[str]) -> dict[str, str]:
    """Trace context is passed on where it is well formed; a broken one is dropped, never a reason to refuse a task."""
    if len(parents) != 1 or len(parents[0]) > MAX_TRACE or not _TRACEPARENT.fullmatch(parents[0]):
        return {}
    state = ",".join(states)
    usable = bool(state) and len(state) <= MAX_TRACE and state.isascii() and state.isprintable()
    return {"traceparent": parents[0], **({"tracestate": state} if usable else {})}


def check_header_name(field: str, key: str) -> None:
    """Raise MetadataError unless a task may have a header `key`."""
    if not key:
        raise MetadataError(field, f"has no name: write {TASK_HEADER_PREFIX}<Name>")
    if len(key) > MAX_HEADER_NAME:
        raise MetadataError(field, f"is too long: a name has at most {MAX_HEADER_NAME} characters")
    if key.startswith(RESERVED_HEADER_PREFIX) or key in RESERVED_NAMES:
        raise MetadataError(field, "is reserved for the broker and for Warren: choose another name")


def _text(field: str, raw: bytes) -> str:
    try:
        return printable(field, raw.decode("utf-8"))
    except UnicodeDecodeError:
        raise MetadataError(field, "is not UTF-8") from None


def printable(field: str, text: str) -> str:
    """Text without control characters, or MetadataError."""
    if not _PRINTABLE.fullmatch(text):
        raise MetadataError(field, "has control characters: leave them out")
    return text


def short(field: str, text: str | None) -> str | None:
    """AMQP short string, or MetadataError; an empty one counts as not sent."""
    if text is not None and len(text.encode()) > MAX_SHORT:
        raise MetadataError(field, f"is too long: at most {MAX_SHORT} bytes fit")
    return text or None


def task_id(field: str, text: str) -> str:
    """A task's id, or MetadataError."""
    try:
        return check_task_id(text)
    except TaskIdError as error:
        raise MetadataError(field, str(error)) from error


def _priority(text: str) -> int:
    if not text.isascii() or not text.isdigit() or len(text) > 2 or int(text) > MAX_PRIORITY:
        raise MetadataError(TASK_PRIORITY, f"write a whole number from 0 to {MAX_PRIORITY} (31 is served first)")
    return int(text)


def milliseconds(field: str, text: str) -> int:
    """A duration as AMQP has it.

    Raises:
        MetadataError: it is none, or out of range.
    """
    try:
        seconds = parse_duration(text)
    except DurationError as error:
        raise MetadataError(field, str(error)) from error
    if not 1 <= seconds * 1000 <= MAX_EXPIRATION:
        raise MetadataError(field, "write a duration from 1ms to 1193h (49 days)")
    return int(seconds * 1000)


def check_size(properties: TaskProperties, names: Names) -> None:
    """Refuse what comes near the frame limit with a MetadataError; the longest header is the one to shorten."""
    sizes = _sizes(properties, names)
    total = sum(sizes.values())
    if total > MAX_METADATA:
        field, size = max(sizes.items(), key=lambda item: item[1])
        raise MetadataError(
            field,
            f"a task's headers may have {MAX_METADATA} bytes together and these have {total}, of which {size} are this "
            "one's: put the data into the body",
        )


def _sizes(properties: TaskProperties, names: Names) -> dict[str, int]:
    """Bytes on the wire by name: a short string has 1 byte of length, a header field 6 bytes around it."""
    fields: Mapping[str, str | None] = {
        names.id: properties.id,
        names.content_type: properties.content_type,
        names.type: properties.type,
        names.correlation_id: properties.correlation_id,
    }
    sizes = {name: len(text.encode()) + 1 for name, text in fields.items() if text is not None}
    for name, value in properties.headers.items():
        field = name if name in {"traceparent", "tracestate"} else names.header_prefix + name
        sizes[field] = len(name.encode()) + len(str(value).encode()) + 6
    return sizes
