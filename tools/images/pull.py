"""Pulling an image, with a quick answer where no registry can be reached."""

import json
import os
import subprocess
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from tools.console import Console
from tools.engine import Engine
from tools.engine.places import cache_home

FIRST_WORD_LIMIT = 45.0
"""Seconds until docker names the image it pulls, which it does once the registry has answered. Behind a firewall that
drops packets it would try for minutes."""

PULL_LIMIT = 900.0
"""Seconds for the whole image: 300 MB on a slow line."""

REFUSAL_LIFE = 6 * 3600.0
"""Seconds that a refusal is remembered, so that not each command asks again; a machine gets a new network in a day."""


def pull(engine: Engine, image: str, console: Console, *, ask_again: bool = False) -> bool:
    """Whether the engine has this image, pulling it if need be. A refusal is remembered for six hours.

    `ask_again` forgets an earlier refusal.
    """
    if engine.image_id(image) is not None:
        return True
    memory = cache_home() / "images" / "refused.json"
    refused = {} if ask_again else remembered(_read(memory), time.time())
    if image in refused:
        return False
    with console.step(f"Asking a registry for {image}"):
        trouble = _pull(engine, image)
    if not trouble:
        return True
    console.say(f"{image} cannot be pulled here: {trouble}")
    _write(memory, {**refused, image: time.time()})
    return False


def remembered(refused: Mapping[str, float], now: float) -> dict[str, float]:
    """The refusals that still count at `now` (seconds since the epoch); one from the future is void."""
    return {image: at for image, at in refused.items() if 0 <= now - at < REFUSAL_LIFE}


def _pull(engine: Engine, image: str) -> str:
    process = subprocess.Popen(
        [str(engine.docker), "pull", image],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        env={**os.environ, **engine.environment},
    )
    lines: list[str] = []
    spoke = threading.Event()

    def listen() -> None:
        if process.stdout is not None:
            for line in process.stdout:
                if line.strip():
                    lines.append(line.strip())
                    spoke.set()
        spoke.set()

    reader = threading.Thread(target=listen, daemon=True, name="docker-pull")
    reader.start()
    try:
        if not spoke.wait(FIRST_WORD_LIMIT):
            return f"no registry answered within {FIRST_WORD_LIMIT:g} s"
        process.wait(PULL_LIMIT)
    except subprocess.TimeoutExpired:
        return f"it was not complete after {PULL_LIMIT:g} s"
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()
        reader.join(5)
    return "" if process.returncode == 0 else (lines[-1] if lines else f"docker ended with code {process.returncode}")


def _read(memory: Path) -> dict[str, float]:
    # A file that cannot be read is a memory that was lost: the registry is asked again.
    with suppress(OSError, ValueError):
        content = json.loads(memory.read_text())
        if isinstance(content, dict):
            return {image: at for image, at in content.items() if isinstance(at, int | float)}
    return {}


def _write(memory: Path, refused: Mapping[str, float]) -> None:
    memory.parent.mkdir(parents=True, exist_ok=True)
    partial = memory.with_suffix(f".{os.getpid()}")
    partial.write_text(json.dumps(refused, indent=2) + "\n")
    partial.replace(memory)
