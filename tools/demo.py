"""From nothing to workers that follow the backlog, on the local cluster: `make demo`.

Brings up the cluster, builds the images, installs the chart, submits the tutorial's five messages and then a load of
300 tasks, and shows the backlog and the workers go up and come down to none. The exit code is 0 only if every task was
done and the workers went from none to their maximum and back.
"""

import contextlib
import os
import random
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from socket import socket

from rich.console import Console as Screen
from rich.live import Live

from tools.console import Console
from tools.deploy import LOCAL, NAMESPACE, Target, deploy
from tools.shell import ToolError, run
from warren_cli import view
from warren_cli.client import Client, QueueStatus, WarrenError

QUEUE = "task_queue"
TUTORIAL = ("First message.", "Second message..", "Third message...", "Fourth message....", "Fifth message.....")
LOAD = 300
SEED = 1
"""Every demo runs the same load."""

LOOK_EVERY = 0.5
"""Seconds between two looks: the operator tells of each change at most once a second."""

WIDTH = 60
"""Columns of the charts; with the labels beside them they fit a terminal of 80."""

READY_LIMIT = 120.0
"""Seconds until the operator has told of the queue and the worker that a new Deployment begins with is gone."""

TUTORIAL_LIMIT = 120.0
"""Seconds for 15 s of work on one or more workers that start from nothing."""

LOAD_LIMIT = 420.0
"""Seconds for the load, which is 90 s of work for ten workers, and for the last worker to go."""


@dataclass(frozen=True)
class Course:
    """What the queue went through during the load.

    Attributes:
        states: one each look, oldest first.
        wanted: tasks submitted.
        accepted: tasks that the producer answered 202 for.
    """

    states: tuple[QueueStatus, ...]
    wanted: int
    accepted: int

    def shortcomings(self) -> list[str]:
        """What was not as it should have been; empty if all went well."""
        first, last = self.states[0], self.states[-1]
        most = max(state.workers or 0 for state in self.states)
        checks = {
            f"{self.accepted} of {self.wanted} tasks were accepted": self.accepted == self.wanted,
            f"there were {first.workers} workers before the load, not 0": first.workers == 0,
            f"at most {most} workers ran, not {last.max_replicas}": most == last.max_replicas,
            f"{last.workers} workers are left, not 0": last.workers == 0,
            f"{last.backlog} tasks were not done": last.backlog == 0,
            f"{last.dead} tasks lie in the dead-letter queue": last.dead == first.dead,
        }
        return [problem for problem, good in checks.items() if not good]


def work(rng: random.Random, count: int) -> list[str]:
    """Messages of one to five dots, mixed."""
    return [f"task {number}{'.' * rng.randint(1, 5)}" for number in range(1, count + 1)]


def settled(state: QueueStatus) -> bool:
    """Whether nothing is left to do and nobody is left to do it, by a fresh word of the operator."""
    return not state.stale and state.backlog == 0 and state.workers == 0


@dataclass
class Show:
    """The queue over time, on a screen or, where there is none, as lines."""

    client: Client
    screen: Screen

    def until(self, done: Callable[[QueueStatus], bool], limit: float, what: str) -> list[QueueStatus]:
        """Look and show until `done` of a look is true, twice in a row; returns all looks.

        Raises:
            ToolError: it did not become true within `limit` seconds.
        """
        samples: list[view.Sample] = []
        deadline = time.monotonic() + limit
        with self._output() as show:
            for hits in self._looks(samples, done):
                show(samples)
                if hits >= 2:
                    return [state for sample in samples for state in sample.queues]
                if time.monotonic() > deadline:
                    last = view.plain_line(samples[-1].queues[0]) if samples else "nothing was seen"
                    raise ToolError(f"{what}: not within {limit:g} s. Last: {last}")
        raise AssertionError("looks never end")

    def _looks(self, samples: list[view.Sample], done: Callable[[QueueStatus], bool]) -> Iterator[int]:
        """Add a sample each half second; yields how many times in a row `done` was true."""
        hits = 0
        while True:
            try:
                state = self.client.queue(QUEUE)
            except WarrenError:
                state = None  # the port-forward comes back by itself
            if state is not None:
                samples.append(view.Sample(at=time.time(), queues=(state,)))
            hits = hits + 1 if state is not None and done(state) else 0
            yield hits
            time.sleep(LOOK_EVERY)

    @contextlib.contextmanager
    def _output(self) -> Iterator[Callable[[list[view.Sample]], None]]:
        if self.screen.is_terminal:
            with Live(console=self.screen, auto_refresh=False) as live:
                yield lambda samples: live.update(view.render(samples, width=WIDTH), refresh=True)
            return
        shown = ""

        def lines(samples: list[view.Sample]) -> None:
            nonlocal shown
            line = view.plain_line(samples[-1].queues[0]) if samples else ""
            if line and line != shown:
                self.screen.print(f"{time.strftime('%H:%M:%S')} {line}", markup=False, highlight=False, soft_wrap=True)
                shown = line

        yield lines


@contextlib.contextmanager
def port_forward(target: Target) -> Iterator[str]:
    """The producer's address on this machine; `kubectl port-forward` is started again whenever it breaks."""
    with socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = target.kubectl("--namespace", NAMESPACE, "port-forward", "service/warren-producer", f"{port}:8080")
    over = threading.Event()
    running: list[subprocess.Popen[bytes]] = []

    def keep() -> None:
        while not over.is_set():
            with subprocess.Popen(
                command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env={**os.environ, **target.environ}
            ) as process:
                running[:] = [process]
                if over.is_set():
                    process.terminate()
            over.wait(0.5)

    keeper = threading.Thread(target=keep, name="port-forward")
    keeper.start()
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        over.set()
        for process in running:
            process.terminate()
        keeper.join(timeout=10)


def token(target: Target) -> str:
    """The token that may submit and read, from the Secret that the chart made."""
    template = "go-template={{.data.submit | base64decode}}"
    words = target.kubectl("--namespace", NAMESPACE, "get", "secret", "warren-tokens", "--output", template)
    return run(words, limit=60, env=target.environ).stdout.strip()


def drive(show: Show, console: Console) -> Course:
    """The tutorial's messages, then the load."""
    console.say("Waiting until the operator has set up the queue and no worker is left")
    show.until(settled, READY_LIMIT, "the queue is set up and has no workers")
    console.say("The tutorial's five messages: each dot is a second of work")
    for text in TUTORIAL:
        show.client.submit(text, QUEUE)
        print(f" [x] Sent {text}", flush=True)
    show.until(settled, TUTORIAL_LIMIT, "the five messages are done and the workers gone")
    console.say(f"Now {LOAD} tasks of 1 to 5 seconds; watch the workers follow")
    before = show.client.queue(QUEUE)
    with ThreadPoolExecutor(16) as pool:
        tasks = [pool.submit(show.client.submit, text, QUEUE) for text in work(random.Random(SEED), LOAD)]  # noqa: S311
        states = show.until(
            lambda state: all(task.done() for task in tasks) and settled(state), LOAD_LIMIT, "the load is done"
        )
    return Course((before, *states), LOAD, accepted(tasks))


def accepted(tasks: Sequence[Future[str]]) -> int:
    """How many submits ended well."""
    return sum(task.exception() is None for task in tasks)


def epilogue(course: Course, seconds: float, screen: Screen) -> None:
    """The whole course as a picture, and how to go on."""
    samples = [view.Sample(at=0.0, queues=(state,)) for state in course.states]
    screen.print(view.chart(QUEUE, samples, width=WIDTH))
    most = max(state.workers or 0 for state in course.states)
    screen.print(
        f"\n{course.wanted} tasks done in {seconds:.0f} s; workers went from 0 to {most} and back to 0.\n\n"
        "Go on by hand:\n"
        f"  export KUBECONFIG={LOCAL}/kubeconfig PATH={LOCAL}/bin:{LOCAL.parent}/.venv/bin:$PATH\n"
        "  kubectl -n warren get wq -w                                     what the operator sees and wants\n"
        "  kubectl -n warren port-forward service/warren-producer 8080 &   then:\n"
        '  warren submit "Hello..."                                        three dots, three seconds of work\n'
        "  warren watch                                                    the picture above, live\n"
        "  helm -n warren get notes warren                                 the same with curl\n"
        "  make down                                                       all of it gone",
        markup=False,
        highlight=False,
        soft_wrap=True,
    )


def main() -> int:
    """Run the demo; the result is the exit code."""
    console, screen = Console(), Screen()
    target = Target()
    try:
        deploy(target, console)
        with port_forward(target) as url, Client(url, token(target)) as client:
            wait_for_producer(client)
            started = time.monotonic()
            course = drive(Show(client, screen), console)
    except (ToolError, WarrenError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    problems = course.shortcomings()
    for problem in problems:
        print(f"error: {problem}", file=sys.stderr)
    if not problems:
        epilogue(course, time.monotonic() - started, screen)
    return 1 if problems else 0


def wait_for_producer(client: Client) -> None:
    """Wait until the port-forward leads to a producer that knows the queue.

    Raises:
        ToolError: it does not within a minute.
    """
    deadline = time.monotonic() + READY_LIMIT
    while True:
        try:
            client.queue(QUEUE)
        except WarrenError as error:
            if time.monotonic() > deadline:
                raise ToolError(f"the producer does not answer: {error}") from error
            time.sleep(LOOK_EVERY)
        else:
            return


if __name__ == "__main__":
    sys.exit(main())
