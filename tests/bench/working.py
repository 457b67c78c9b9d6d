"""Workers against bare pika, Celery and Dramatiq: no-op tasks from a quorum queue, one process each, in one run.

The rate is read from the broker, the same way for all: how fast the tasks that wait become fewer, after a run-up. The
rivals are installed into an environment of their own, from requirements/bench.txt.
"""

import itertools
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pika
from brokers import Broker, declare_work_queue, running_broker
from kube import ROOT
from recording import Figure
from waiting import eventually
from workers import PYTHON_PATH, write_broker_files

RIVALS = Path(__file__).resolve().parent / "rivals"
VENV = ROOT / "build" / "bench" / "rivals"
REQUIREMENTS = ROOT / "requirements" / "bench.txt"

TASKS = 6_000
"""In the queue at the beginning of a round; two seconds' work and more."""

STARTS = 100
"""Tasks, one at a time, for the time from submitting to the start."""

RUN_UP = 0.1
"""Share of the tasks that are done before the clock starts, and that are left when it stops."""

LIMIT = 120.0
"""Seconds for one round; the slowest contender needs fifteen."""

INSTALL_LIMIT = 600.0
"""Seconds to install the rivals."""

SETTLED = 3.0
"""Seconds after which an idle worker's memory is read: it has started all that it starts."""

BODY = b"x" * 256


@dataclass(frozen=True)
class Contender:
    """Somebody who consumes.

    Attributes:
        name: in the table.
        command: that consumes, given (prefetch).
        prefetch: tasks at once.
        fill: puts so many tasks into a queue, in its own words, having declared it if need be.
        submitter: script that submits in its words.
    """

    name: str
    command: Sequence[str]
    prefetch: int
    environ: Mapping[str, str]
    fill: Callable[[Broker, str, int], None]
    submitter: str = "bare_submit.py"


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


def url(broker: Broker) -> str:
    """For those who want one."""
    settings = broker.settings()
    return f"amqp://{settings.username}:{settings.password}@{settings.host}:{settings.port}/%2F"


def environ(broker: Broker, queue: str, **more: str) -> dict[str, str]:
    """Of a rival."""
    return {**os.environ, "PYTHONPATH": str(RIVALS), "RIVAL_URL": url(broker), "RIVAL_QUEUE": queue, **more}


def fill_bare(broker: Broker, queue: str, count: int) -> None:
    """Plain messages, which are valid tasks."""
    with broker.channel() as channel:
        declare_work_queue(channel, queue)
        for _ in range(count):
            channel.basic_publish("", queue, BODY, pika.BasicProperties(delivery_mode=2))


def fill_by(script: str) -> Callable[[Broker, str, int], None]:
    """Tasks in the rival's own words."""

    def fill(broker: Broker, queue: str, count: int) -> None:
        subprocess.run(
            [rivals_python(), RIVALS / script, "1", str(count)],
            env=environ(broker, queue),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            check=True,
            timeout=LIMIT,
        )

    return fill


def contenders(broker: Broker, folder: Path, prefetch: int) -> list[Contender]:
    """All, with so many tasks at once in one process."""
    python = str(rivals_python())
    scripts = Path(python).parent
    warren = {
        **{key: value for key, value in os.environ.items() if not key.startswith("WARREN_")},
        "PYTHONPATH": f"{PYTHON_PATH}{os.pathsep}{RIVALS}",
        "WARREN_BROKER_DIR": str(folder / "broker"),
        "WARREN_HANDLER": "no_op:handle",
        "WARREN_CONCURRENCY": str(prefetch),
        "WARREN_HEALTH_PORT": "0",
        "WARREN_LOG_LEVEL": "warning",
    }
    worker = [sys.executable, "-m", "warren_worker"]
    made = [
        Contender("bare pika", [python, str(RIVALS / "bare_worker.py"), str(prefetch)], prefetch, {}, fill_bare),
        Contender("Warren, thread", worker, prefetch, {**warren, "WARREN_EXECUTOR": "thread"}, fill_bare),
        Contender(
            f"Dramatiq, 1 × {prefetch}",
            [str(scripts / "dramatiq"), "dramatiq_rival", "--processes", "1", "--threads", str(prefetch)],
            prefetch,
            {"dramatiq_queue_prefetch": str(prefetch)},
            fill_by("dramatiq_rival.py"),
            "dramatiq_rival.py",
        ),
    ]
    if prefetch <= 10:  # a hundred child processes are nobody's idea of a worker
        made += [
            Contender("Warren, process", worker, prefetch, {**warren, "WARREN_EXECUTOR": "process"}, fill_bare),
            Contender(
                f"Celery, prefork {prefetch}",
                [
                    *(str(scripts / "celery"), "--app", "celery_rival", "--quiet", "worker"),
                    *("--pool", "prefork", "--concurrency", str(prefetch), "--loglevel", "error"),
                    *("--without-gossip", "--without-mingle"),
                ],
                prefetch,
                {"RIVAL_PREFETCH": "1"},
                fill_by("celery_rival.py"),
                "celery_rival.py",
            ),
        ]
    return made


@contextmanager
def at_work(contender: Contender, broker: Broker, queue: str, folder: Path) -> Iterator["subprocess.Popen[bytes]"]:
    """The contender's process, in a session of its own; all of it is gone with the block."""
    variables = {**environ(broker, queue), **contender.environ, "WARREN_QUEUE": queue}
    with (folder / "output").open("ab") as output:
        process = subprocess.Popen(
            contender.command, env=variables, cwd=RIVALS, stdout=output, stderr=output, start_new_session=True
        )
    try:
        yield process
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait(30)


def rate(contender: Contender, broker: Broker, queue: str, folder: Path) -> float:
    """Tasks a second."""
    first, last = int(TASKS * (1 - RUN_UP)), int(TASKS * RUN_UP)
    with broker.channel() as channel:
        contender.fill(broker, queue, TASKS)

        def ready() -> int:
            return int(channel.queue_declare(queue, passive=True).method.message_count)

        eventually(lambda: ready() >= TASKS, f"the tasks are there: {contender.name}")
        with at_work(contender, broker, queue, folder):
            until = time.perf_counter() + LIMIT

            def below(level: int) -> tuple[float, int]:
                while (count := ready()) > level:
                    assert time.perf_counter() < until, f"{contender.name}: {count} tasks are left; {folder / 'output'}"
                    time.sleep(0.01)
                return time.perf_counter(), count

            began, had = below(first)
            ended, left = below(last)
        channel.queue_delete(queue)
    return (had - left) / (ended - began)


def memory(contender: Contender, broker: Broker, queue: str, folder: Path) -> float:
    """MiB that an idle worker needs, its processes together; pages that they share count once."""
    contender.fill(broker, queue, 1)
    with broker.channel() as channel, at_work(contender, broker, queue, folder) as process:
        eventually(
            lambda: channel.queue_declare(queue, passive=True).method.consumer_count > 0, "it consumes", limit=60
        )
        time.sleep(SETTLED)  # nothing tells that somebody else's worker has started all that it starts
        total = sum(_share(int(entry.name)) for entry in Path("/proc").iterdir() if _of(entry, process.pid))
    return total / 1024


def latency(contender: Contender, broker: Broker, queue: str, folder: Path) -> float:
    """Median seconds from submitting one task, confirmed, to its start, with an idle worker."""
    contender.fill(broker, queue, 1)
    with broker.channel() as channel, at_work(contender, broker, queue, folder):
        eventually(
            lambda: (
                (state := channel.queue_declare(queue, passive=True).method).consumer_count > 0
                and state.message_count == 0
            ),
            "it is idle",
            limit=60,
        )
        done = subprocess.run(
            [rivals_python(), RIVALS / contender.submitter, "latency", str(STARTS)],
            env=environ(broker, queue, RIVAL_CONFIRMS="1", RIVAL_STAMPS=str(folder / f"stamps-{queue}")),
            capture_output=True,
            text=True,
            check=True,
            timeout=LIMIT,
        )
    return float(done.stdout.split()[-1])


def _of(entry: Path, session: int) -> bool:
    """Whether a process belongs to a session."""
    try:
        return entry.name.isdigit() and os.getsid(int(entry.name)) == session
    except ProcessLookupError:
        return False


def _share(pid: int) -> int:
    """KiB of a process, its share of what it shares."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except (OSError, ProcessLookupError):
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith("Pss:")), 0)


def submitted(script: str, broker: Broker, *, confirms: bool) -> float:
    """Tasks a second that a rival submits from one process: by one thread or by 16, whichever is faster."""
    rates = []
    for threads, count in ((1, 2_000), (16, 4_000)):
        queue = f"submit-{threads}"
        done = subprocess.run(
            [rivals_python(), RIVALS / script, str(threads), str(count)],
            env=environ(broker, queue, RIVAL_CONFIRMS="1" if confirms else "0"),
            capture_output=True,
            text=True,
            check=True,
            timeout=LIMIT,
        )
        rates.append(float(done.stdout.split()[-1]))
        with broker.channel() as channel:
            channel.queue_delete(queue)
    return max(rates)


def working_figures(repeats: int) -> list[Figure]:
    """Each contender's rate ÷ bare pika's, at 1, 10 and 100 tasks at once, several times; and its memory."""
    figures: list[Figure] = []
    numbers = itertools.count()
    with running_broker() as broker, tempfile.TemporaryDirectory(prefix="warren-bench-") as name:
        folder = Path(name)
        write_broker_files(folder / "broker", broker)

        def queue() -> str:
            return f"work-{next(numbers)}"

        for prefetch in (1, 10, 100):
            rates: dict[str, list[float]] = {}
            for number in range(repeats):
                for contender in contenders(broker, folder, prefetch):
                    print(
                        f"working: {contender.name}, {prefetch} at once, {number + 1} ...", file=sys.stderr, flush=True
                    )
                    rates.setdefault(contender.name, []).append(rate(contender, broker, queue(), folder))
                    print(f"  {rates[contender.name][-1]:.0f}/s", file=sys.stderr, flush=True)
            bare = rates.pop("bare pika")
            figures += [
                Figure(
                    f"worker, {prefetch} at once: {title} ÷ bare pika with a handler thread (over)",
                    tuple(round(value / base, 3) for value, base in zip(values, bare, strict=True)),
                    floor=0.8 if title == "Warren, thread" else None,
                )
                for title, values in rates.items()
            ]
        figures += [
            Figure(f"idle worker's memory: {contender.name}", (memory(contender, broker, queue(), folder),), unit="MiB")
            for contender in contenders(broker, folder, 1)
        ]
        figures += [
            Figure(
                f"submit to start, median: {contender.name}",
                (latency(contender, broker, queue(), folder) * 1000,),
                unit="ms",
            )
            for contender in contenders(broker, folder, 1)
        ]
        for script, title in (("celery_rival.py", "Celery"), ("dramatiq_rival.py", "Dramatiq")):
            for confirms in (True, False):
                word = "with confirms" if confirms else "without confirms"
                value = submitted(script, broker, confirms=confirms)
                print(f"submit: {title} {word} {value:.0f}/s", file=sys.stderr, flush=True)
                figures.append(Figure(f"submit: {title} {word}, one process", (value,), unit="/s"))
    return figures


if __name__ == "__main__":
    for figure in working_figures(1):
        print(figure)
