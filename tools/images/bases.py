"""The images that others are built on or run beside: official where they can be had, else stand-ins."""

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from tools.console import Console
from tools.engine import Engine, ensure
from tools.images.pull import pull
from tools.images.stand_in import PYTHON, RABBITMQ, StandIn, provide
from tools.shell import ToolError

ROOT = Path(__file__).resolve().parents[2]

RECORD = Path(".cluster/images.json")
"""Where the names are written, below the clone: for tests, and for people who look."""

OVERRIDES = {"python": "WARREN_PYTHON_IMAGE", "rabbitmq": "WARREN_RABBITMQ_IMAGE"}
"""Variables that name another image (a company's mirror, say), which is then used and pulled if need be."""


@dataclass(frozen=True)
class Bases:
    """The names under which the engine has the base images."""

    python: str
    rabbitmq: str

    @property
    def official(self) -> bool:
        """Whether registries can be reached: no base is a stand-in."""
        return not any(name.startswith("warren-stand-in/") for name in (self.python, self.rabbitmq))


def bases(
    console: Console,
    engine: Engine | None = None,
    *,
    ask_again: bool = False,
    rebuild: bool = False,
    root: Path = ROOT,
) -> Bases:
    """Provide the base images and write their names to `.cluster/images.json`.

    `ask_again` tries the registry again although it refused lately; `rebuild` makes the stand-ins anew.

    Raises:
        ToolError: an image can neither be pulled nor be made here, or there is no engine.
        CommandError: making a stand-in failed.
    """
    engine = engine or ensure(console)

    def provide_one(kind: str, stand_in: StandIn) -> str:
        named = os.environ.get(OVERRIDES[kind])
        if named:
            if not pull(engine, named, console, ask_again=True):
                raise ToolError(f"{OVERRIDES[kind]} is {named}, which cannot be pulled. Correct or unset it.")
            return named
        if not rebuild and pull(engine, stand_in.official, console, ask_again=ask_again):
            return stand_in.official
        return provide(stand_in, engine, console, rebuild=rebuild)

    found = Bases(python=provide_one("python", PYTHON), rabbitmq=provide_one("rabbitmq", RABBITMQ))
    _record(root / RECORD, found)
    return found


def testcontainers_environment(found: Bases, engine: Engine) -> Mapping[str, str]:
    """Variables to set before testcontainers is imported.

    Its reaper container is an image of its own, to be pulled: where that is out of reach it is turned off, and a test
    run that is killed leaves its containers behind, with the label `org.testcontainers`.
    """
    environment = {"DOCKER_HOST": engine.host}
    if not found.official:
        environment["TESTCONTAINERS_RYUK_DISABLED"] = "true"
    return environment


def _record(path: Path, found: Bases) -> None:
    text = json.dumps(asdict(found), indent=2) + "\n"
    if path.exists() and path.read_text() == text:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(f".{os.getpid()}")
    partial.write_text(text)
    partial.replace(path)
