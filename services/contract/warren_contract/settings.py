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

from warren_contract.durations import DurationError, parse_duration

T = TypeVar("T")

BROKER_DIR = "WARREN_BROKER_DIR"


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
    try:
        return parse(text)
    except ValueError as error:
        raise SettingError(f"{name}={text!r} is wrong: {error}") from error


def duration(text: str) -> float:
    """Seconds, more than zero.

    Raises:
        DurationError: the text is not a duration, or is zero.
    """
    seconds = parse_duration(text)
    if seconds <= 0:
        raise DurationError("write a duration longer than zero, such as 30s")
    return seconds


def whole_number(low: int, high: int) -> Callable[[str], int]:
    """A parser for whole numbers from `low` to `high`, both included."""

    def parse(text: str) -> int:
        if not text.isascii() or not text.isdigit() or not low <= int(text) <= high:
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
            vhost=read.text("VHOST", "/", str),
            username=read.text("USERNAME", None, str),
            password=read.text("PASSWORD", None, str),
            tls=tls,
            ca_file=Path(ca_file) if ca_file else None,
            management_url=read.text("MANAGEMENT_URL", "", str).rstrip("/") or None,
        )


def _host(text: str) -> str:
    if "/" in text or any(character.isspace() for character in text):
        raise ValueError("write a host name or an address alone, without scheme, port or path")
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
        try:
            return parse(value)
        except ValueError as error:
            # A secret never gets here: user names and passwords are taken as they are.
            raise SettingError(f"{origin} is wrong: {value!r}: {error}") from error
