"""The producer's own settings; the broker's are `warren_contract.settings.BrokerSettings`."""

import socket
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from warren_contract.names import check_queue_name
from warren_contract.settings import duration, setting, whole_number
from warren_contract.task import DEFAULT_MAX_BODY

MAX_MESSAGE = 16 * 1024 * 1024
"""Bytes; RabbitMQ's default `max_message_size`. A larger body closes the channel that all submits share."""


def body_limits(text: str) -> dict[str, int]:
    """Bytes by queue, from `thumbnails=4096,video=8388608`.

    Raises:
        ValueError: an entry is none, names no queue or a limit out of range, or one queue is there twice.
    """
    limits: dict[str, int] = {}
    for entry in text.split(","):
        queue, found, size = entry.strip().partition("=")
        if not found:
            raise ValueError(f"{entry.strip()!r} is no limit: write <queue>=<bytes>, separated by commas")
        if check_queue_name(queue) in limits:
            raise ValueError(f"queue {queue!r} is there twice: write it once")
        try:
            limits[queue] = whole_number(1, MAX_MESSAGE)(size)
        except ValueError as error:
            raise ValueError(f"the limit of queue {queue!r} is {size!r}: {error}") from error
    return limits


@dataclass(frozen=True, slots=True)
class ProducerSettings:
    """What the environment says.

    Attributes:
        http_port: of the API on every address.
        token_dir: folder with the files `submit`, `read` and `admin`.
        max_body: bytes in one task's body.
        queue_max_body: the same for single queues, where it differs.
        submit_timeout: seconds that the broker has to confirm a task, and seconds that a client has to send its body.
        name: of this replica, shown in the broker's list of connections.
    """

    http_port: int
    token_dir: Path
    max_body: int
    queue_max_body: Mapping[str, int]
    submit_timeout: float
    name: str

    @classmethod
    def load(cls, environ: Mapping[str, str]) -> "ProducerSettings":
        """Read the variables of docs/architecture.md.

        Raises:
            SettingError: one of them is wrong.
        """
        return cls(
            http_port=setting(environ, "WARREN_HTTP_PORT", whole_number(1, 65535), 8080),
            token_dir=setting(environ, "WARREN_TOKEN_DIR", Path, Path("/etc/warren/tokens")),
            max_body=setting(environ, "WARREN_MAX_BODY", whole_number(1, MAX_MESSAGE), DEFAULT_MAX_BODY),
            queue_max_body=setting(environ, "WARREN_QUEUE_MAX_BODY", body_limits, {}),
            submit_timeout=setting(environ, "WARREN_SUBMIT_TIMEOUT", duration, 10.0),
            name=environ.get("HOSTNAME") or socket.gethostname(),
        )
