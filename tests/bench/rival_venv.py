"""Those that Warren is compared with: a Python environment of their own, from requirements/bench.txt."""

import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from brokers import Broker
from kube import ROOT

RIVALS = Path(__file__).resolve().parent / "rivals"
VENV = ROOT / "build" / "bench" / "rivals"
REQUIREMENTS = ROOT / "requirements" / "bench.txt"


@dataclass(frozen=True)
class Speed:
    """Of one contender in one round.

    Attributes:
        rate: tasks a second.
        cpu: microseconds of CPU that its process, or its processes together, needed for one.
    """

    rate: float
    cpu: float

    @classmethod
    def told(cls, line: str) -> "Speed":
        """As a script prints it."""
        rate, cpu = line.split()
        return cls(float(rate), float(cpu))


INSTALL_LIMIT = 600.0
"""Seconds to install the rivals."""

LIMIT = 120.0
"""Seconds for one script; the slowest needs fifteen."""


def used(pid: int) -> float:
    """Seconds of CPU that a process has used, to the hundredth."""
    fields = Path(f"/proc/{pid}/stat").read_text("ascii").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def rivals_python() -> Path:
    """The rivals' interpreter; they are installed at the first call."""
    python = VENV / "bin" / "python"
    stamp = VENV / "complete"
    if not stamp.exists() or stamp.read_text() != REQUIREMENTS.read_text():
        print("installing the rivals ...", file=sys.stderr, flush=True)
        subprocess.run([sys.executable, "-m", "venv", "--clear", VENV], check=True, timeout=INSTALL_LIMIT)
        pip: list[str | Path] = [
            python,
            "-m",
            "pip",
            "install",
            "--quiet",
            "--require-hashes",
            "--requirement",
            REQUIREMENTS,
        ]
        subprocess.run(pip, check=True, timeout=INSTALL_LIMIT)
        stamp.write_text(REQUIREMENTS.read_text())
    return python


def environ(broker: Broker, queue: str, **more: str) -> dict[str, str]:
    """Of a rival."""
    settings = broker.settings()
    url = f"amqp://{settings.username}:{settings.password}@{settings.host}:{settings.port}/%2F"
    return {**os.environ, "PYTHONPATH": str(RIVALS), "RIVAL_URL": url, "RIVAL_QUEUE": queue, **more}


def run_script(script: str, *arguments: str, variables: Mapping[str, str]) -> str:
    """Run one of the rivals' scripts to its end; the last line that it prints."""
    done = subprocess.run(
        [rivals_python(), RIVALS / script, *arguments],
        env=dict(variables),
        capture_output=True,
        text=True,
        timeout=LIMIT,
        check=False,
    )
    assert done.returncode == 0, f"{script} {' '.join(arguments)}: {done.stdout}{done.stderr}"
    return done.stdout.splitlines()[-1]
