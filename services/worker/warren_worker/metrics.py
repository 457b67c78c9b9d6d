"""What the worker counts, and how Prometheus reads it."""

from collections.abc import Iterator
from dataclasses import dataclass, field

from warren_worker.verdict import DONE, Failed, Outcome, Verdict

OUTCOMES = ("done", "retried", "dead", "returned", "dropped")
"""What became of a task: acknowledged; rejected for another attempt; a dead letter; handed back uncounted when
draining; ended after its channel was lost, so that the broker had given it to somebody else."""

_BY_VERDICT = {Verdict.ACK: "done", Verdict.RETRY: "retried", Verdict.DEAD: "dead", Verdict.RETURN: "returned"}


@dataclass(slots=True)
class Counters:
    """Sums since the worker started.

    Attributes:
        tasks: attempts by what became of them.
        finished: attempts that ended well.
        failed: attempts that failed.
        seconds: sum of the run times of both.
        timed_out: attempts ended at the time limit.
        crashed: attempts that took their process along.
        cancels: consumers cancelled by the broker.
        letters_refused: dead letters that the broker did not take; their tasks are tried again.
    """

    tasks: dict[str, int] = field(default_factory=lambda: dict.fromkeys(OUTCOMES, 0))
    finished: int = 0
    failed: int = 0
    seconds: float = 0.0
    timed_out: int = 0
    crashed: int = 0
    cancels: int = 0
    letters_refused: int = 0

    def settle(self, verdict: Verdict, *, settled: bool) -> None:
        """Add what became of a task."""
        self.tasks[_BY_VERDICT[verdict] if settled else "dropped"] += 1

    def count(self, outcome: Outcome, seconds: float) -> None:
        """Add one attempt that ended."""
        if outcome is DONE:
            self.finished += 1
            self.seconds += seconds
        elif isinstance(outcome, Failed):
            self.failed += 1
            self.seconds += seconds
            self.timed_out += outcome.exception == "TimeLimit"
            self.crashed += outcome.exception == "Crash"


@dataclass(frozen=True, slots=True)
class Gauges:
    """What is true at this moment.

    Attributes:
        queue: the queue's name.
        running: tasks in hand.
        concurrency: tasks at once.
        connected: whether deliveries can be settled.
        draining: whether it takes no more tasks.
        reconnects: connections lost.
        started_at: Unix time in seconds.
    """

    queue: str
    running: int
    concurrency: int
    connected: bool
    draining: bool
    reconnects: int
    started_at: float


def render(counters: Counters, gauges: Gauges) -> str:
    """Prometheus' text format, version 0.0.4. Queue names have no character that needs escaping in a label."""
    return "".join(_lines(counters, gauges))


def _lines(counters: Counters, gauges: Gauges) -> Iterator[str]:
    queue = f'queue="{gauges.queue}"'
    yield _head("tasks_total", "counter", "Attempts by what became of them.")
    for outcome in OUTCOMES:
        yield f'warren_worker_tasks_total{{{queue},outcome="{outcome}"}} {counters.tasks[outcome]}\n'
    yield _head("task_seconds", "summary", "Run time of handlers.")
    yield f"warren_worker_task_seconds_sum{{{queue}}} {counters.seconds:.6f}\n"
    yield f"warren_worker_task_seconds_count{{{queue}}} {counters.finished + counters.failed}\n"
    for name, kind, value, text in (
        ("timed_out_total", "counter", counters.timed_out, "Attempts ended at the time limit."),
        ("crashes_total", "counter", counters.crashed, "Attempts that took their process along."),
        (
            "dead_letters_refused_total",
            "counter",
            counters.letters_refused,
            "Dead letters that the broker did not take.",
        ),
        ("consumer_cancels_total", "counter", counters.cancels, "Consumers cancelled by the broker."),
        ("reconnects_total", "counter", gauges.reconnects, "Consuming connections lost."),
        ("running", "gauge", gauges.running, "Tasks in hand."),
        ("concurrency", "gauge", gauges.concurrency, "Tasks at once."),
        ("connected", "gauge", int(gauges.connected), "Whether the consuming connection is open."),
        ("draining", "gauge", int(gauges.draining), "Whether it takes no more tasks."),
        ("started_seconds", "gauge", f"{gauges.started_at:.3f}", "Unix time of its start."),
    ):
        yield _head(name, kind, text)
        yield f"warren_worker_{name}{{{queue}}} {value}\n"


def _head(name: str, kind: str, text: str) -> str:
    return f"# HELP warren_worker_{name} {text}\n# TYPE warren_worker_{name} {kind}\n"
