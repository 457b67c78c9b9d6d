"""A module of handlers that starts a program of its own when it is imported, as some libraries do."""

import os
import subprocess
from pathlib import Path

from worker_jobs import light

__all__ = ["PROGRAM", "light"]

PROGRAM = subprocess.Popen(
    ["/bin/sh", "-c", 'while [ ! -e "$0" ]; do sleep 0.05; done', Path(os.environ["WARREN_TEST_GATES"]) / "company"]
)
Path(os.environ["WARREN_TEST_GATES"], "company.pid").write_text(str(PROGRAM.pid), "ascii")
