"""The producer's own settings; the broker's are `warren_contract.settings.BrokerSettings`."""

import socket
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from warren_contract.settings import duration, setting, whole_number
from warren_contract.task import DEFAULT_MAX_BODY

MAX_MESSAGE = 16 * 1024 * 1024
"""Bytes; RabbitMQ's default `max_message_size`. A larger body closes the channel that all submits share."""


@dataclass(frozen=True, slots=True)
class ProducerSettings:
    """What the environment says.

    Attributes:
        http_port: of the API on every address.
        token_dir: folder with the files `submit`, `read` and `admin`.
        max_body: bytes in one task's body.
        submit_timeout: seconds that the broker has to confirm a task, and seconds that a client has to send its body.
        name: of this replica, shown in the broker's list of connections.
    """

    http_port: int
    token_dir: Path
    max_body: int
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
            submit_timeout=setting(environ, "WARREN_SUBMIT_TIMEOUT", duration, 10.0),
            name=environ.get("HOSTNAME") or socket.gethostname(),
        )
