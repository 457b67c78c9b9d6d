"""Settings from the environment, and the broker's from a mounted Secret.

Every part reads its settings once at start through these functions, so that a mistake ends the program at once with one
sentence that names the setting and the remedy.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import TypeVar

from warren_contract.durations import DurationError, format_duration, parse_duration

T = TypeVar("T")

BROKER_DIR = "WARREN_BROKER_DIR"

LONGEST_DURATION = 366 * 24 * 3600.0
"""Seconds that a setting may ask for."""

MAX_DIGITS = 20
"""Of a whole number; 64 bits have no more."""

MAX_SHOWN = 100
"""Characters of a wrong value that are repeated."""

MAX_VHOST = 255
"""Bytes in a virtual host's name (AMQP 0-9-1, section 4.2.5.3)."""

_MEMORY = re.compile(r"([0-9]{1,15}(?:\.[0-9]{1,3})?)([kMGT]|[KMGT]i)?")
_MEMORY_UNITS: Mapping[str, float] = MappingProxyType(
    {"": 1, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40}
)


class SettingError(Exception):
    """A setting is missing or wrong; the message names it and says what to write."""


def setting(environ: Mapping[str, str], name: str, parse: Callable[[str], T], default: T | None = None) -> T:
    """The parsed value of variable `name`; an empty value counts as unset.

    Raises:
        SettingError: the value cannot be parsed, or is missing and there is no default.
    """
    text = environ.get(name, "")
    if not text:
        if default is None:
            raise SettingError(f"{name} is not set: set it to say what to use")
        return default
    if not _is_text(text):
        raise SettingError(f"{name}={shown(text)!r} is wrong: it is not UTF-8: write it as text")
    try:
        return parse(text)
    except ValueError as error:
        raise SettingError(f"{name}={shown(text)!r} is wrong: {error}") from error


def _is_text(text: str) -> bool:
    """Whether it can be sent anywhere: bytes that are not UTF-8 arrive in an environment as half surrogate pairs."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def shown(text: str) -> str:
    """As much of a wrong value as a sentence has room for, and as anybody may read.

    Of an address with a user and password in it, such as `amqp://me:secret@mq`, only what comes after them.
    """
    secret, at, rest = text.rpartition("@")
    text = f"…@{rest}" if at and secret else text
    return text if len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]}…"


def duration(text: str) -> float:
    """Seconds, more than zero, and no more than any clock or broker can count.

    Raises:
        DurationError: the text is not a duration, or out of range.
    """
    seconds = parse_duration(text)
    if seconds <= 0:
        raise DurationError("write a duration longer than zero, such as 30s")
    if seconds > LONGEST_DURATION:
        raise DurationError(f"write a duration of at most {format_duration(LONGEST_DURATION)}, a year")
    return seconds


def whole_number(low: int, high: int) -> Callable[[str], int]:
    """A parser for whole numbers from `low` to `high`, both included."""

    def parse(text: str) -> int:
        # The length first: Python refuses to read thousands of digits, in words of its own.
        if not text.isascii() or not text.isdigit() or len(text) > MAX_DIGITS or not low <= int(text) <= high:
            raise ValueError(f"write a whole number from {low} to {high}")
        return int(text)

    return parse


def memory(text: str) -> int:
    """Bytes, written as in Kubernetes: `512Mi`, `1.5G`, or a number alone.

    Raises:
        ValueError: the text is no such quantity.
    """
    match = _MEMORY.fullmatch(text)
    if match is None:
        raise ValueError("write bytes, or a number with k, M, G, T, Ki, Mi, Gi or Ti, such as 512Mi")
    number, unit = match.groups()
    return int(float(number) * _MEMORY_UNITS[unit or ""])


def one_of(*choices: str) -> Callable[[str], str]:
    """A parser that takes exactly these words."""

    def parse(text: str) -> str:
        if text not in choices:
            raise ValueError(f"write one of {', '.join(choices)}")
        return text

    return parse


@dataclass(frozen=True, slots=True)
class BrokerSettings:
    """Where the broker is and who we are there.

    Attributes:
        host: DNS name or address.
        port: AMQP port.
        vhost: virtual host.
        username: broker user.
        password: kept out of `repr`, so that no log line and no traceback shows it.
        tls: whether to speak AMQP over TLS.
        ca_file: PEM file of the authority that signed the broker's certificate; None trusts the system's.
        management_url: base of the management API; only the operator has one.
    """

    host: str
    port: int
    vhost: str
    username: str
    password: str = field(repr=False)
    tls: bool = False
    ca_file: Path | None = None
    management_url: str | None = None

    @classmethod
    def load(cls, environ: Mapping[str, str]) -> "BrokerSettings":
        """Read each setting from its `WARREN_BROKER_…` variable, else from its file in `WARREN_BROKER_DIR`.

        Call it again at each connect: Kubernetes refreshes the files when the Secret changes.

        Raises:
            SettingError: a setting is missing, unreadable or wrong.
        """
        folder = Path(environ[BROKER_DIR]) if environ.get(BROKER_DIR) else None
        read = _Reader(environ, folder)
        tls = read.text("TLS", "false", one_of("true", "false")) == "true"
        ca_file = read.text("CA_FILE", "", str)
        if not ca_file and folder is not None and (folder / "ca.crt").is_file():
            ca_file = str(folder / "ca.crt")
        if tls and ca_file and not Path(ca_file).is_file():
            raise SettingError(
                f"WARREN_BROKER_CA_FILE={ca_file!r} is no file: name the PEM file of the authority that signed the "
                "broker's certificate"
            )
        return cls(
            host=read.text("HOST", None, _host),
            port=int(read.text("PORT", "5671" if tls else "5672", lambda text: str(whole_number(1, 65535)(text)))),
            vhost=read.text("VHOST", "/", _vhost),
            username=read.text("USERNAME", None, str),
            password=read.text("PASSWORD", None, str),
            tls=tls,
            ca_file=Path(ca_file) if ca_file else None,
            management_url=read.text("MANAGEMENT_URL", "", _management_url).rstrip("/") or None,
        )


def _host(text: str) -> str:
    try:
        text.encode("idna")  # as every lookup does: no label is empty, or longer than 63 characters
    except UnicodeError:
        known = False
    else:
        known = text.isprintable()
    if not known or "/" in text or " " in text or "@" in text:
        raise ValueError("write a host name or an address alone, without scheme, user, port or path")
    return text


def _management_url(text: str) -> str:
    if "@" in text:
        # They would be shown with each error of a connection.
        raise ValueError("write it without user and password, such as http://mq:15672: those have their own settings")
    return text


def _vhost(text: str) -> str:
    if len(text.encode()) > MAX_VHOST:
        raise ValueError(f"write a virtual host of at most {MAX_VHOST} bytes")
    return text


@dataclass(frozen=True, slots=True)
class _Reader:
    environ: Mapping[str, str]
    folder: Path | None

    def text(self, key: str, default: str | None, parse: Callable[[str], str]) -> str:
        variable = f"WARREN_BROKER_{key}"
        value = self.environ.get(variable, "")
        origin = variable
        if not value and self.folder is not None:
            path = self.folder / key.lower().replace("_", "-")
            origin = str(path)
            try:
                value = path.read_text("utf-8").strip()
            except FileNotFoundError:
                value = ""
            except (OSError, UnicodeDecodeError) as error:
                raise SettingError(f"cannot read broker setting {path}: {error}") from error
        if not value:
            if default is None:
                where = f"set {variable}" + (f" or write it to {origin}" if self.folder else f" or {BROKER_DIR}")
                raise SettingError(f"the broker's {key.lower()} is missing: {where}")
            return default
        if not _is_text(value):
            raise SettingError(f"{origin} is wrong: it is not UTF-8: write it as text")
        try:
            return parse(value)
        except ValueError as error:
            # A secret gets here inside an address at most, where it is not shown: user names and passwords are taken as
            # they are.
            raise SettingError(f"{origin} is wrong: {shown(value)!r}: {error}") from error
