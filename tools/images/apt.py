"""Where this machine's apt gets Debian's packages, so that the stand-ins get theirs from the same place."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tools.shell import ToolError, run

SETTINGS = ("Acquire::Check-Valid-Until", "Acquire::Check-Date", "Acquire::Retries")
"""What a stand-in's apt takes over. Nothing with a credential: these lines stay in the image."""

PROXIES = {"Acquire::http::Proxy": "http_proxy", "Acquire::https::Proxy": "https_proxy"}

TARGETS = "$(REPO_URI)|$(RELEASE)|$(COMPONENT)|$(ORIGIN)"


@dataclass(frozen=True)
class Apt:
    """The parts of apt's configuration that matter for getting packages elsewhere."""

    mirror: str
    """Address of a repository of Debian itself."""
    settings: str
    """Lines for a file in apt.conf.d."""
    proxies: Mapping[str, str]
    """Environment variables."""


def read() -> Apt:
    """This machine's configuration.

    Raises:
        ToolError: its apt is not Debian's.
    """
    release = Path("/etc/os-release").read_text()
    targets = run(
        ["apt-get", "indextargets", "--format", TARGETS, "Created-By: Packages"], limit=60, check=False
    ).stdout
    found = mirror(targets, codename(release))
    if found is None:
        raise ToolError(
            "The stand-ins for the official images are made from Debian's packages, and this machine's apt has no "
            "repository of Debian. Let Docker pull python:3.13-slim and rabbitmq:4.3-management instead."
        )
    dump = run(["apt-config", "dump", "Acquire"], limit=60, check=False).stdout
    return Apt(found, settings(dump), proxies(dump))


def codename(os_release: str) -> str:
    """The release's code name, as in Debian's suites; empty where the file (os-release(5)) names none."""
    match = re.search(r'^VERSION_CODENAME="?([^"\n]*)"?$', os_release, re.MULTILINE)
    return match[1] if match else ""


def mirror(targets: str, release: str) -> str | None:
    """The repository that carries Debian's main component, from the lines of `apt-get indextargets`.

    The origin is known only after an `apt-get update`; without it, the release's own suite says enough. Repositories of
    updates and of security fixes carry only these.
    """
    rows = [line.split("|") for line in targets.splitlines() if line.count("|") == 3]
    candidates = [
        (uri, suite, origin)
        for uri, suite, component, origin in rows
        if component == "main"
        and uri.startswith(("http://", "https://"))
        and not suite.endswith(("-security", "-updates", "-backports"))
    ]
    best = [uri for uri, _, origin in candidates if origin == "Debian"]
    second = [uri for uri, suite, origin in candidates if not origin and release and suite == release]
    return next((uri.rstrip("/") for uri in best + second), None)


def settings(dump: str) -> str:
    """The lines of `apt-config dump` that a stand-in's apt takes over."""
    return "".join(f'{key} "{value}";\n' for key, value in _pairs(dump) if key in SETTINGS and value)


def proxies(dump: str) -> dict[str, str]:
    """apt's proxies as environment variables; DIRECT, apt's word for none, is none."""
    return {PROXIES[key]: value for key, value in _pairs(dump) if key in PROXIES and value not in {"", "DIRECT"}}


def _pairs(dump: str) -> list[tuple[str, str]]:
    return re.findall(r'^(\S+) "(.*)";$', dump, re.MULTILINE)
