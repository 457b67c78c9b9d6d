"""Progress as plain lines that read the same in a terminal and in a CI log."""

import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TextIO


def duration(seconds: float) -> str:
    """Seconds as people say them: `0.4 s`, `12 s`, `5 min 20 s`."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    return f"{whole // 60} min {whole % 60:02d} s"


@dataclass(frozen=True)
class Console:
    """Prints lines, each with the time since the command began, to standard error.

    Standard error, so that a command whose result is text (`kubeconfig`) keeps standard output for it.
    """

    stream: TextIO = field(default_factory=lambda: sys.stderr)
    started: float = field(default_factory=time.monotonic)
    heartbeat: float = 30.0
    """Seconds between two signs of life of a long step: a CI job that is silent for minutes looks dead."""

    def say(self, text: str) -> None:
        """Print one line."""
        elapsed = time.monotonic() - self.started
        print(f"[{elapsed:6.1f} s] {text}", file=self.stream, flush=True)

    @contextmanager
    def step(self, title: str) -> Iterator[None]:
        """Announce a step, show that it is alive, and say how long it took or that it failed."""
        began = time.monotonic()
        self.say(f"{title} ...")
        over = threading.Event()

        def beat() -> None:
            while not over.wait(self.heartbeat):
                self.say(f"  {title}: still at it ({duration(time.monotonic() - began)})")

        thread = threading.Thread(target=beat, daemon=True, name="console-heartbeat")
        thread.start()
        outcome = "failed after"
        try:
            yield
            outcome = "done in"
        finally:
            over.set()
            thread.join()
            self.say(f"{title}: {outcome} {duration(time.monotonic() - began)}")
