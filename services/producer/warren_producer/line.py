"""One line of a batch → a task. Pure; every mistake names its field and says what to write.

What a line may say, and the limits of it, are those of a single submit; only the names are JSON's.
"""

import binascii
import json
import re
from collections.abc import Mapping
from typing import Any

from warren_contract.ids import new_task_id
from warren_contract.task import MAX_PRIORITY, TaskProperties
from warren_producer.metadata import (
    MetadataError,
    Names,
    check_header_name,
    check_size,
    milliseconds,
    printable,
    short,
    task_id,
    trace_context,
)

BODY = "body"
BODY_BASE64 = "body_base64"
TEXTS = ("id", "content_type", "type", "expiration", "correlation_id", "traceparent", "tracestate")
FIELDS = (BODY, BODY_BASE64, *TEXTS, "priority", "headers")
"""All that a line may say."""

NAMES = Names("id", "content_type", "type", "correlation_id", "headers.")

ROOM = 64 * 1024
"""Bytes in a line besides the body in base64: the metadata, with room for JSON's escapes."""

MAX_DURATION = 64
"""Characters of a duration: it is repeated in the error where it is none."""

_HEADER_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")


class LineError(ValueError):
    """A line is no task.

    Attributes:
        field: that is wrong; None if the line as a whole is.
        too_large: its body has more bytes than one may have.
    """

    def __init__(self, message: str, field: str | None = None, *, too_large: bool = False) -> None:
        super().__init__(message if field is None else f"{field}: {message}")
        self.field = field
        self.too_large = too_large


def line_limit(max_body: int) -> int:
    """Bytes that a line may have: base64 makes four of three."""
    return -(-max_body // 3) * 4 + ROOM


def parse_line(data: bytes, now: float, max_body: int) -> tuple[TaskProperties, bytes]:
    """The task that a line stands for.

    Args:
        data: the line, without its end.
        now: Unix time in seconds; becomes the time of submission.
        max_body: bytes that a body may have.

    Raises:
        LineError: it is none.
    """
    said = _object(data)
    body = _body(said, max_body)
    if len(said) == 1:
        return TaskProperties(id=new_task_id(), submitted_at=int(now * 1000)), body
    try:
        return _properties(said, now), body
    except MetadataError as error:
        raise LineError(str(error).removeprefix(f"{error.field}: "), error.field) from error
    except UnicodeEncodeError as error:
        raise LineError("a text has half of a surrogate pair, which is no character") from error


def _object(data: bytes) -> dict[str, Any]:
    try:
        said = _DECODER.decode(data.decode("utf-8"))
    except UnicodeDecodeError:
        raise LineError('is not UTF-8: send the bytes of a body as "body_base64"') from None
    except LineError:
        raise
    except RecursionError:
        raise LineError("is nested too deeply: send what is nested as text in the body") from None
    except ValueError as error:
        where = f" at character {error.pos + 1}" if isinstance(error, json.JSONDecodeError) else ""
        raise LineError(f'is not JSON{where}: write one object a line, such as {{"body": "Hello..."}}') from None
    if not isinstance(said, dict):
        raise LineError('is JSON but no object: write one object a line, such as {"body": "Hello..."}')
    return said


def _body(said: Mapping[str, Any], max_body: int) -> bytes:
    text, encoded = said.get(BODY), said.get(BODY_BASE64)
    if (BODY in said) == (BODY_BASE64 in said):
        raise LineError(f"write either {BODY!r} (text) or {BODY_BASE64!r} (bytes)", BODY)
    field = BODY if BODY in said else BODY_BASE64
    if field == BODY:
        if not isinstance(text, str):
            raise LineError("write a text; what is no text goes into it as JSON, or as base64 into body_base64", BODY)
        try:
            body = text.encode()
        except UnicodeEncodeError:
            raise LineError("has half of a surrogate pair: send bytes as body_base64", BODY) from None
    else:
        if not isinstance(encoded, str):
            raise LineError("write a text in base64", BODY_BASE64)
        try:
            body = binascii.a2b_base64(encoded, strict_mode=True)
        except ValueError:  # binascii.Error is one, and text that is not ASCII raises another
            raise LineError("is not base64 (RFC 4648, with padding, without line breaks)", BODY_BASE64) from None
    if len(body) > max_body:
        raise LineError(
            f"a task's body may have {max_body} bytes in this queue: store more elsewhere and send its address",
            field,
            too_large=True,
        )
    return body


def _properties(said: Mapping[str, Any], now: float) -> TaskProperties:
    for name in said:
        if name not in FIELDS:
            raise MetadataError(_shown(name), f"is not known: a line has {', '.join(FIELDS)}")
    text = {name: _text(name, said[name]) for name in TEXTS if said.get(name) is not None}
    expiration = text.get("expiration")
    if expiration is not None and len(expiration) > MAX_DURATION:
        raise MetadataError("expiration", "write a duration such as 30s")
    parents = [text["traceparent"]] if "traceparent" in text else []
    states = [text["tracestate"]] if "tracestate" in text else []
    properties = TaskProperties(
        id=task_id("id", text["id"]) if "id" in text else new_task_id(),
        submitted_at=int(now * 1000),
        content_type=short("content_type", text.get("content_type")),
        type=short("type", text.get("type")),
        priority=_priority(said.get("priority")),
        expiration=None if expiration is None else milliseconds("expiration", expiration),
        correlation_id=short("correlation_id", text.get("correlation_id")),
        headers={**_headers(said.get("headers")), **trace_context(parents, states)},
    )
    check_size(properties, NAMES)
    return properties


def _text(field: str, value: Any) -> str:
    if not isinstance(value, str):
        raise MetadataError(field, "write a text")
    return printable(field, value)


def _priority(value: Any) -> int | None:
    if value is None:
        return None
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= MAX_PRIORITY:
        raise MetadataError("priority", f"write a whole number from 0 to {MAX_PRIORITY} (31 is served first)")
    return value


def _headers(value: Any) -> dict[str, str]:
    """The task's own headers. Their names arrive in lower case, as those of a single submit do."""
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise MetadataError("headers", 'write an object of texts, such as {"Tenant": "acme"}')
    own: dict[str, str] = {}
    for name, text in value.items():
        key = name.lower()
        field = f"headers.{_shown(key)}"
        if name and not _HEADER_NAME.fullmatch(name):
            raise MetadataError(field, "cannot be the name of a header: write letters, digits and '-'")
        check_header_name(field, key)
        if key in own:
            raise MetadataError(field, "is there twice: write it once")
        own[key] = _text(field, text).strip(" \t")
    return own


def _shown(name: str) -> str:
    """A name of the caller's, as an error may show it: short, and without half surrogate pairs."""
    return name.encode("ascii", "backslashreplace").decode()[:64]


def _pairs(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        seen: set[str] = set()
        for name, _ in pairs:
            if name in seen:
                raise LineError("is there twice: write it once", _shown(name))
            seen.add(name)
    return found


def _constant(name: str) -> None:
    raise LineError(f"{name} is not JSON")


_DECODER = json.JSONDecoder(object_pairs_hook=_pairs, parse_constant=_constant)
