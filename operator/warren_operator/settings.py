"""The operator's settings: environment variables, and the file with the virtual host's defaults."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pydantic
import yaml

from warren_contract.settings import SettingError, setting, whole_number
from warren_operator.pace import LOOKS_SHARE
from warren_operator.resource import Key, MessageTtl, Model, QueueSettings, Retry, TimeLimit, first_problem

NAMESPACE_FILE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")
"""Where Kubernetes tells a pod its namespace."""

DEFAULTS_FILE = "/etc/warren/defaults.yaml"

ALL_NAMESPACES = "*"

LEAST_LOOK_CORES = 0.01
"""With less, the pauses between two looks would be as long as they may become for a few dozen queues."""

BUILT_IN = QueueSettings(max_length=100_000, max_attempts=5, min_delay=1.0, max_delay=300.0, time_limit=1500.0)
"""What holds where neither the defaults file nor the WorkQueue says otherwise."""


class DefaultsFile(Model):
    """The defaults file, written with the words of the WorkQueue."""

    max_length: int | None = pydantic.Field(default=None, ge=1)
    message_ttl: MessageTtl | None = pydantic.Field(default=None, alias="messageTTL")
    retry: Retry = Retry()
    time_limit: TimeLimit | None = None


@dataclass(frozen=True, slots=True)
class Settings:
    """How one operator runs.

    Attributes:
        namespaces: whose WorkQueues it serves; `("*",)` for all.
        health_port: of `/healthz`, `/readyz` and `/metrics`.
        defaults: of the virtual host.
        name: of this operator in Kubernetes Events and in the broker's list of connections.
        budgets: workers that WorkQueues share, by the budget's name.
        lease: namespace and name of the lease that it acts under; None for none, where it is the only one.
        look_cores: processor time that regular looks at queues may take, in cores.
    """

    namespaces: tuple[str, ...]
    health_port: int
    defaults: QueueSettings
    name: str
    budgets: Mapping[str, int] = field(default_factory=dict)
    lease: Key | None = None
    look_cores: float = LOOKS_SHARE

    @property
    def everywhere(self) -> bool:
        """Whether it serves all namespaces."""
        return self.namespaces == (ALL_NAMESPACES,)

    @classmethod
    def load(cls, environ: Mapping[str, str]) -> "Settings":
        """Read the settings.

        Raises:
            SettingError: one is missing or wrong.
        """
        return cls(
            namespaces=setting(environ, "WARREN_NAMESPACES", _namespaces, _own_namespace()),
            health_port=setting(environ, "WARREN_HEALTH_PORT", whole_number(0, 65535), 8081),
            defaults=_load_defaults(environ),
            name=setting(environ, "HOSTNAME", str, "warren-operator"),
            budgets=setting(environ, "WARREN_BUDGETS", _budgets, {}),
            lease=setting(environ, "WARREN_LEASE", _lease) if environ.get("WARREN_LEASE") else None,
            look_cores=setting(environ, "WARREN_LOOK_CORES", _look_cores, LOOKS_SHARE),
        )


def _namespaces(text: str) -> tuple[str, ...]:
    names = tuple(sorted({name.strip() for name in text.split(",") if name.strip()}))
    if not names or (ALL_NAMESPACES in names and len(names) > 1):
        raise ValueError("write namespaces with commas between them, or * alone for all")
    return names


def _lease(text: str) -> Key:
    namespace, _, name = text.partition("/")
    if not namespace or not name or "/" in name:
        raise ValueError("write NAMESPACE/NAME of the lease")
    return Key(namespace, name)


def _budgets(text: str) -> dict[str, int]:
    budgets: dict[str, int] = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        name, _, workers = part.partition("=")
        if not name.strip() or not workers.strip().isdecimal() or name.strip() in budgets:
            raise ValueError("write each budget once with its number of workers, such as gpu=8,reports=20")
        budgets[name.strip()] = int(workers)
    return budgets


def _look_cores(text: str) -> float:
    if re.fullmatch(r"[0-9](\.[0-9]{1,3})?", text) is None or not LEAST_LOOK_CORES <= float(text) <= 1:
        raise ValueError(f"write a number of cores from {LEAST_LOOK_CORES} to 1, such as {LOOKS_SHARE}")
    return float(text)


def _own_namespace() -> tuple[str, ...] | None:
    try:
        return (NAMESPACE_FILE.read_text("utf-8").strip(),)
    except OSError:
        return None


def _load_defaults(environ: Mapping[str, str]) -> QueueSettings:
    """The defaults file; the built-in defaults where the usual file is not there."""
    named = environ.get("WARREN_DEFAULTS_FILE", "")
    path = Path(named or DEFAULTS_FILE)
    try:
        content: Any = yaml.safe_load(path.read_text("utf-8"))
    except FileNotFoundError as error:
        if named:
            raise SettingError(
                f"WARREN_DEFAULTS_FILE={named!r} does not exist: mount it or unset the variable"
            ) from error
        return BUILT_IN
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise SettingError(f"cannot read the queue defaults {path}: {error}") from error
    try:
        read = DefaultsFile.model_validate(content or {})
    except pydantic.ValidationError as error:
        raise SettingError(f"the queue defaults {path} are wrong: {first_problem(error)}") from error
    return BUILT_IN.refined(
        max_length=read.max_length, message_ttl=read.message_ttl, retry=read.retry, time_limit=read.time_limit
    )
