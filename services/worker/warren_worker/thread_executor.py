"""Handlers in threads: the quicker way for short tasks, without a hard time limit.

A thread cannot be killed. A handler that crashes the interpreter takes the worker along, and one that holds the
interpreter's lock for minutes starves the heartbeats; the process executor protects against both.
"""

import queue
import threading
import time
from collections import deque
from collections.abc import Callable
from functools import partial

from warren_worker import attempt, handlers
from warren_worker.executor import Job, Reports
from warren_worker.handler_error import HandlerError
from warren_worker.loop import Loop
from warren_worker.task import Handler, Progress, Task
from warren_worker.verdict import Outcome

REPORT_GAP = 0.5
"""Seconds at least between two reports of one handler that reach the loop: nothing else would hold back a thread that
reports all the time. Half of what lies between two of the worker's lines, so that each of these is not late by much."""


class ThreadExecutor:
    """As many threads as tasks at once.

    Threads are woken one by one: whoever takes a job wakes the next thread if there is more to do, and then works. A
    thread that is done before the next one is awake takes that job too, so short tasks cost few wake-ups, and long ones
    run side by side all the same.
    """

    def __init__(self, loop: Loop, spec: str, concurrency: int) -> None:
        self._loop = loop
        self._spec = spec
        self._concurrency = concurrency
        self._jobs: deque[Job] = deque()
        self._wakes: queue.SimpleQueue[bool] = queue.SimpleQueue()
        self._waking = False
        self._reports: Reports | None = None

    def start(self, reports: Reports) -> None:
        """Load the handler here and now; start the threads."""
        self._reports = reports
        try:
            handler = handlers.load(self._spec)
        except HandlerError as error:
            # Not from within: the loop may not run yet, and would forget that it is to stop.
            self._loop.add_callback(partial(reports.on_broken, str(error), at_start=True))
            return
        for number in range(self._concurrency):
            # Daemons: a handler that never returns must not keep an ended worker alive.
            threading.Thread(target=self._work, args=(handler, reports), name=f"handler-{number}", daemon=True).start()
        self._loop.add_callback(reports.on_ready)

    def submit(self, job: Job) -> None:
        """Hand a job to the next thread that is free."""
        self._jobs.append(job)
        self._wake()

    def kill(self, ticket: int, outcome: Outcome) -> bool:  # noqa: ARG002  the protocol's
        """A thread cannot be killed."""
        return False

    def close(self) -> None:
        """Let idle threads end; busy ones end with the process."""
        for _ in range(self._concurrency):
            self._wakes.put(False)

    def _wake(self) -> None:
        # Whoever is being woken lowers the flag before it looks for jobs, so it sees all that came before.
        if not self._waking:
            self._waking = True
            self._wakes.put(True)

    def _work(self, handler: Handler, reports: Reports) -> None:
        while self._wakes.get():
            self._waking = False
            while (job := self._take()) is not None:
                if self._jobs:
                    self._wake()
                outcome = attempt.run(handler, _task(job, self._progress(reports, job.ticket)))
                self._loop.add_callback(_end(reports, job.ticket, outcome))

    def _take(self) -> Job | None:
        try:
            return self._jobs.popleft()
        except IndexError:
            return None

    def _progress(self, reports: Reports, ticket: int) -> Progress:
        reported_at = float("-inf")

        def report(done: float, note: str) -> None:
            nonlocal reported_at
            now = time.monotonic()
            if now - reported_at >= REPORT_GAP:
                reported_at = now
                self._loop.add_callback(lambda: reports.on_progress(ticket, done, note))

        return report


def _end(reports: Reports, ticket: int, outcome: Outcome) -> Callable[[], None]:
    return lambda: reports.on_end(ticket, outcome)


def _task(job: Job, report: Progress) -> Task:
    return Task(
        body=job.body,
        id=job.id,
        attempt=job.attempt,
        deadline=job.deadline,
        type=job.type,
        content_type=job.content_type,
        correlation_id=job.correlation_id,
        submitted_at=job.submitted_at,
        headers=job.headers,
        report=report,
    )
