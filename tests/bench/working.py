"""Workers against bare pika, Celery and Dramatiq: no-op tasks from a quorum queue, one process each, in one run.

Each acknowledges a task when it is done. The rate is read from the broker, the same way for all: how fast the tasks
that wait become fewer, after a run-up.
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
from dataclasses import dataclass, replace
from pathlib import Path

import pika
from brokers import Broker, declare_exchanges, declare_work_queue, running_broker
from producers import SUBMIT_TOKEN, Producer, ready_producer
from recording import Figure
from rival_venv import LIMIT, RIVALS, Speed, environ, rivals_python, run_script, used
from waiting import eventually
from workers import PYTHON_PATH, write_broker_files

TASKS: Mapping[int, int] = {1: 6_000, 10: 15_000, 100: 30_000}
"""Tasks at once → tasks in the queue at the beginning of a round; a second's work and more for the fastest."""

STARTS = 100
"""Tasks, one at a time, for the time from submitting to the start."""

RUN_UP = 0.1
"""Share of the tasks that are done before the clock starts, and that are left when it stops."""

SETTLED = 3.0
"""Seconds after which an idle worker's memory is read: it has started all that it starts."""

BODY = b"x" * 256

BARE = "bare pika with a handler thread"
THREAD, PROCESS = "Warren, thread", "Warren, process"


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


def fill_bare(broker: Broker, queue: str, count: int) -> None:
    """Plain messages, which are valid tasks."""
    with broker.channel() as channel:
        declare_work_queue(channel, queue)
        for _ in range(count):
            channel.basic_publish("", queue, BODY, pika.BasicProperties(delivery_mode=2))


def fill_by(script: str) -> Callable[[Broker, str, int], None]:
    """Tasks in the rival's own words."""

    def fill(broker: Broker, queue: str, count: int) -> None:
        run_script(script, "1", str(count), variables=environ(broker, queue))

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
        Contender(BARE, [python, str(RIVALS / "bare_worker.py"), str(prefetch)], prefetch, {}, fill_bare),
        Contender(THREAD, worker, prefetch, {**warren, "WARREN_EXECUTOR": "thread"}, fill_bare),
        Contender(
            f"Dramatiq, 1 × {prefetch}",
            [str(scripts / "dramatiq"), "dramatiq_rival", "--processes", "1", "--threads", str(prefetch)],
            prefetch,
            {"dramatiq_queue_prefetch": str(prefetch)},
            fill_by("dramatiq_rival.py"),
            "dramatiq_rival.py",
        ),
    ]
    if prefetch == 10:
        command = [str(scripts / "dramatiq"), "dramatiq_rival", "--processes", "1"]
        filled = fill_by("dramatiq_rival.py")
        made.append(Contender("Dramatiq, 1 × 8 with a prefetch of 16, its default", command, prefetch, {}, filled))
    if prefetch <= 10:  # a hundred child processes are nobody's idea of a worker
        made += [
            Contender(PROCESS, worker, prefetch, {**warren, "WARREN_EXECUTOR": "process"}, fill_bare),
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


def speed(contender: Contender, broker: Broker, queue: str, folder: Path) -> Speed:
    """How fast it works, and at what expense."""
    tasks = TASKS[contender.prefetch]
    first, last = int(tasks * (1 - RUN_UP)), int(tasks * RUN_UP)
    with broker.channel() as channel:
        contender.fill(broker, queue, tasks)

        def ready() -> int:
            return int(channel.queue_declare(queue, passive=True).method.message_count)

        eventually(lambda: ready() >= tasks, f"the tasks are there: {contender.name}")
        with at_work(contender, broker, queue, folder) as process:
            until = time.perf_counter() + LIMIT

            def below(level: int) -> tuple[float, float, int]:
                while (count := ready()) > level:
                    assert time.perf_counter() < until, f"{contender.name}: {count} tasks are left; {folder / 'output'}"
                    time.sleep(0.01)
                return time.perf_counter(), sum(map(used, members(process.pid))), count

            began, before, had = below(first)
            ended, after, left = below(last)
        channel.queue_delete(queue)
    return Speed((had - left) / (ended - began), (after - before) / (had - left) * 1e6)


def memory(contender: Contender, broker: Broker, queue: str, folder: Path) -> float:
    """MiB that an idle worker needs, its processes together; pages that they share count once."""
    contender.fill(broker, queue, 1)
    with broker.channel() as channel, at_work(contender, broker, queue, folder) as process:
        eventually(
            lambda: channel.queue_declare(queue, passive=True).method.consumer_count > 0, "it consumes", limit=60
        )
        time.sleep(SETTLED)  # nothing tells that somebody else's worker has started all that it starts
        total = sum(map(_share, members(process.pid)))
    return total / 1024


def latency(contender: Contender, broker: Broker, queue: str, folder: Path, producer: Producer) -> float:
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
        more = {"RIVAL_CONFIRMS": "1", "RIVAL_STAMPS": str(folder / f"stamps-{queue}")}
        http = {"WARREN_URL": producer.url, "WARREN_TOKEN": SUBMIT_TOKEN}
        variables = environ(broker, queue, **more, **http)
        return float(run_script(contender.submitter, "latency", str(STARTS), variables=variables))


def members(session: int) -> list[int]:
    """The processes of a session that has one process for each place, and none that comes and goes."""
    return [int(entry.name) for entry in Path("/proc").iterdir() if _of(entry, session)]


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


def pace(prefetch: int, speeds: Mapping[str, Sequence[Speed]]) -> list[Figure]:
    """The figures of all contenders with so many tasks at once, from their speeds in each round; bare pika is first."""
    bare, *others = speeds
    celery = next((name for name in others if name.startswith("Celery")), None)
    work = f"worker, {prefetch} at once:"

    def ratio(name: str, other: str, floor: float | None = None) -> Figure:
        title = f"{work} {name} ÷ {other}"
        values = tuple(round(one.rate / two.rate, 3) for one, two in zip(speeds[name], speeds[other], strict=True))
        return Figure(title if floor is None else f"{title} (over)", values, floor=floor)

    return [
        *(ratio(name, bare, 0.8 if name == THREAD else None) for name in others),
        *([ratio(PROCESS, celery, 1.0)] if celery is not None else []),
        *(Figure(f"{work} {name}", tuple(one.rate for one in found), unit="/s") for name, found in speeds.items()),
        *(
            Figure(f"{work} {name}, time a task", tuple(1e6 / one.rate for one in found), unit="µs")
            for name, found in speeds.items()
        ),
        *(
            Figure(f"{work} {name}, CPU a task", tuple(one.cpu for one in found), unit="µs")
            for name, found in speeds.items()
        ),
    ]


def working_figures(repeats: int) -> list[Figure]:
    """Each contender's rate at 1, 10 and 100 tasks at once, several times; an idle worker's memory; submit to start."""
    figures: list[Figure] = []
    numbers = itertools.count()
    with running_broker() as broker, tempfile.TemporaryDirectory(prefix="warren-bench-") as name:
        folder = Path(name)
        write_broker_files(folder / "broker", broker)

        def queue() -> str:
            return f"work-{next(numbers)}"

        for prefetch in TASKS:
            speeds: dict[str, list[Speed]] = {}
            for number in range(repeats):
                for contender in contenders(broker, folder, prefetch):
                    found = speed(contender, broker, queue(), folder)
                    speeds.setdefault(contender.name, []).append(found)
                    told = f"{found.rate:.0f}/s, {found.cpu:.0f} µs"
                    print(f"working: {contender.name}, {prefetch}, {number + 1}: {told}", file=sys.stderr, flush=True)
            figures += pace(prefetch, speeds)
        idle = contenders(broker, folder, 1)
        figures += [
            Figure(f"idle worker's memory: {contender.name}", (memory(contender, broker, queue(), folder),), unit="MiB")
            for contender in idle
        ]
        over_http = [
            replace(contender, name=f"{contender.name}, over HTTP", submitter="http_submit.py")
            for contender in idle
            if contender.name in {THREAD, PROCESS}
        ]
        with broker.channel() as channel:
            declare_exchanges(channel)
        with ready_producer(broker, folder) as producer:
            figures += [
                Figure(
                    f"submit to start, median: {contender.name}",
                    (latency(contender, broker, queue(), folder, producer) * 1000,),
                    unit="ms",
                )
                for contender in (*idle, *over_http)
            ]
    return figures


if __name__ == "__main__":
    for figure in working_figures(int(sys.argv[1]) if sys.argv[1:] else 1):
        print(f"{figure.median:10.2f} {figure.unit:3} {figure.name}")
