"""Real worker processes under test, and what their handlers wrote down."""

import json
import os
import re
import signal
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pika
from brokers import Broker
from waiting import eventually

from warren_contract.names import DEAD_EXCHANGE

HERE = Path(__file__).resolve().parent
REPOSITORY = HERE.parents[1]
PYTHON_PATH = os.pathsep.join(
    str(path) for path in (HERE, REPOSITORY / "services/contract", REPOSITORY / "services/worker")
)


@dataclass(frozen=True, slots=True)
class Note:
    """One line of a handler's record; see `worker_jobs.note`."""

    what: str
    id: str
    body: str
    attempt: int
    worker: str
    pid: int


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A message from the dead-letter queue."""

    body: bytes
    headers: dict[str, Any]
    properties: pika.BasicProperties


class Worker:
    """A worker process; its output is read as it comes."""

    def __init__(self, environment: Mapping[str, str], program: Sequence[str]) -> None:
        self.name = environment["WARREN_WORKER_NAME"]
        self.process = subprocess.Popen(
            [sys.executable, *program],
            env=dict(environment),
            cwd=HERE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self._lines: list[str] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    @property
    def output(self) -> str:
        """All it has printed so far."""
        return "".join(self._lines)

    def wait_for_line(self, pattern: str, count: int = 1) -> str:
        """Wait until `count` lines match, and return the last of them."""

        def look() -> str | None:
            assert self.process.poll() is None or not self._reader.is_alive(), "the worker has ended"
            found = [line for line in list(self._lines) if re.search(pattern, line)]
            assert len(found) >= count, self.output
            return found[count - 1]

        return eventually(look, f"{self.name} prints {pattern!r} {count} times", every=0.02)

    def ready(self) -> "Worker":
        """Wait until it consumes."""
        self.wait_for_line(r"\[\*\] Waiting for tasks")
        return self

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the worker alone."""
        self.process.send_signal(number)

    def exit_code(self) -> int:
        """Wait for its end."""
        code = self.process.wait(60)
        self._reader.join(10)
        return code

    def get(self, path: str, limit: float = 10.0) -> tuple[int, str]:
        """Status and text of a page of its health server, which has `limit` seconds to answer."""
        match = re.search(r"health on port (\d+)", self.wait_for_line("health on port"))
        assert match is not None
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{match[1]}{path}", timeout=limit) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode()

    def metric(self, name: str) -> float:
        """The value of one metric; labels other than the queue go into `name` as they are written."""
        _, text = self.get("/metrics")
        key, _, label = name.partition("{")
        for line in text.splitlines():
            if line.startswith(f"warren_worker_{key}{{") and label.rstrip("}") in line:
                return float(line.rsplit(" ", 1)[1])
        raise AssertionError(f"no metric {name} in:\n{text}")

    def end(self) -> None:
        """Whatever happened: it is gone after this."""
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(30)
        self._reader.join(10)
        assert self.process.stdout is not None
        self.process.stdout.close()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self._lines.append(line)


@dataclass(frozen=True, slots=True)
class Workers:
    """Starts workers on one queue, feeds it and reads the record.

    Attributes:
        broker: they work with.
        queue: they consume.
        folder: for the record, the gates and the broker's settings.
        started: all of them.
    """

    broker: Broker
    queue: str
    folder: Path
    started: list[Worker]

    def start(
        self,
        handler: str = "gate",
        name: str = "",
        *,
        program: Sequence[str] = ("-m", "warren_worker"),
        **settings: str,
    ) -> Worker:
        """Start a worker with a handler of `worker_jobs`, a built-in one or `module:name`, and settings by their
        name; `program` is what Python runs."""
        environment = {
            **{key: value for key, value in os.environ.items() if not key.startswith("WARREN_")},
            "PYTHONPATH": PYTHON_PATH,
            "WARREN_BROKER_DIR": str(self.folder / "broker"),
            "WARREN_QUEUE": self.queue,
            "WARREN_HANDLER": handler
            if handler in {"dots", "exec", "http"} or ":" in handler
            else f"worker_jobs:{handler}",
            "WARREN_WORKER_NAME": name or f"w{len(self.started) + 1}",
            "WARREN_HEALTH_PORT": "0",
            "WARREN_TEST_RECORD": str(self.folder / "record"),
            "WARREN_TEST_GATES": str(self.folder / "gates"),
            **settings,
        }
        worker = Worker(environment, program)
        self.started.append(worker)
        return worker

    def publish(self, *bodies: str) -> None:
        """Put tasks into the queue, each with its body as its id too, and wait for the confirms."""
        with self.broker.channel() as channel:
            channel.confirm_delivery()
            for body in bodies:
                properties = pika.BasicProperties(message_id=body[:64], delivery_mode=2)
                channel.basic_publish("", self.queue, body.encode(), properties, mandatory=True)

    def open_gate(self, name: str) -> None:
        """Let the handler go on that waits at this gate."""
        (self.folder / "gates" / name).touch()

    def notes(self, what: str = "") -> list[Note]:
        """What the handlers wrote down so far, in order."""
        whole, _, _unfinished = (self.folder / "record").read_text("utf-8").rpartition("\n")
        notes = [Note(**json.loads(line)) for line in whole.splitlines()]
        return [note for note in notes if note.what.startswith(what)]

    def wait_for_notes(self, what: str, count: int) -> list[Note]:
        """Wait until there are `count` notes of this kind."""

        def look() -> list[Note]:
            notes = self.notes(what)
            assert len(notes) >= count, self.story()
            return notes

        return eventually(look, f"{count} times {what!r}", every=0.02)

    def story(self) -> str:
        """For a failed test: all that is known."""
        return "\n".join([*map(str, self.notes()), *(f"--- {one.name}\n{one.output}" for one in self.started)])

    def counts(self) -> tuple[int, int]:
        """Messages waiting (delayed ones included) and in work at this moment."""
        total, in_work = self._inside("overview", "[maps:get(K, A) || K <- [num_messages, num_checked_out]]")
        return total - in_work, in_work

    def consumers(self) -> int:
        """Consumers that the queue delivers to; a cancelled one that still has a task in hand does not count."""
        return self._inside("query_consumers", "[maps:size(A)]")[0]

    def _inside(self, query: str, figures: str) -> list[int]:
        """Figures of the queue's own state: statistics lag by seconds, and other counts include cancelled consumers."""
        program = (
            f'{{ok, Q}} = rabbit_amqqueue:lookup(rabbit_misc:r(<<"/">>, queue, <<"{self.queue}">>)), '
            f"{{ok, {{_, A}}, _}} = ra:leader_query(amqqueue:get_pid(Q), {{rabbit_fifo, {query}, []}}), "
            f"[-1 | {figures}]."
        )
        # Erlang shows a list of numbers that could be letters as a text; with -1 in front it never is one.
        return [int(figure) for figure in json.loads(self.broker.ctl("eval", program))][1:]

    def dead_letters(self, count: int) -> list[DeadLetter]:
        """Wait until there are `count` dead letters, and take them out of their queue."""
        taken: list[DeadLetter] = []
        with self.broker.channel() as channel:

            def look() -> bool:
                method, properties, body = channel.basic_get(f"{self.queue}.dead", auto_ack=True)
                if method is not None and properties is not None and body is not None:
                    taken.append(DeadLetter(body, dict(properties.headers or {}), properties))
                assert len(taken) >= count, self.story()
                return True

            eventually(look, f"{count} dead letters", every=0.02)
            assert channel.queue_declare(f"{self.queue}.dead", passive=True).method.message_count == 0
        return taken

    def wait_until_empty(self) -> None:
        """Wait until the queue has no message, neither waiting nor in work."""
        eventually(lambda: self.counts() == (0, 0), f"{self.queue} is empty", every=0.3)

    def point_at(self, broker: Broker) -> None:
        """Write the broker's settings where the workers read them at each connect."""
        write_broker_files(self.folder / "broker", broker)


def write_broker_files(folder: Path, broker: Broker) -> None:
    """A directory as Kubernetes mounts the worker's Secret, with a worker's rights in an installed Warren."""
    folder.mkdir(exist_ok=True)
    settings = broker.settings("warren-worker", broker.passwords["worker"])
    for name, value in {
        "host": settings.host,
        "port": str(settings.port),
        "vhost": settings.vhost,
        "username": settings.username,
        "password": settings.password,
        "tls": "false",
    }.items():
        (folder / name).write_text(value, "utf-8")


@contextmanager
def workers_on(broker: Broker, queue: str, folder: Path) -> Iterator[Workers]:
    """Workers that are gone at the end, whatever happened."""
    (folder / "gates").mkdir()
    (folder / "record").touch()
    write_broker_files(folder / "broker", broker)
    workers = Workers(broker, queue, folder, [])
    try:
        yield workers
    finally:
        for worker in workers.started:
            worker.end()


RETRY_POLICY: Mapping[str, str | int] = {
    "dead-letter-exchange": DEAD_EXCHANGE,
    "dead-letter-strategy": "at-least-once",
    "overflow": "reject-publish",
    "delivery-limit": 20,
    "delayed-retry-type": "failed",
    "delayed-retry-min": 100,
    "delayed-retry-max": 1000,
}
"""As the operator's, with delays that suit a test; milliseconds."""


@contextmanager
def retry_policy(broker: Broker, queue: str) -> Iterator[None]:
    """What the operator's policy does to a work queue."""
    broker.ctl("set_policy", queue, f"^{queue}$", json.dumps(RETRY_POLICY), "--apply-to", "quorum_queues")
    yield
    broker.ctl("clear_policy", queue)
