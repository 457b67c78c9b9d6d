"""Tasks that come in through whatever is done meanwhile, and the proof that each one that was confirmed is done."""

import itertools
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import httpx
from waiting import eventually

END_LIMIT = 60.0
"""Seconds for the last submit: the producers under test answer within 10."""


@dataclass
class SteadyLoad:
    """A client that submits one task after the other, and remembers those that were confirmed.

    Attributes:
        client: of the producer.
        queue: that the tasks go into.
        body: of the task with this number, from 0.
        completed: those of these tasks that were done, by their ids.
        pause: seconds between two submits.
        every: seconds between two looks at what was done.
        limit: seconds within which tasks must be done again, whatever has happened.
        confirmed: ids of the tasks that were accepted.
    """

    client: httpx.Client
    queue: str
    body: Callable[[int], str]
    completed: Callable[[set[str]], set[str]]
    pause: float
    every: float
    limit: float
    confirmed: set[str] = field(default_factory=set)
    _stopped: threading.Event = field(default_factory=threading.Event)

    @contextmanager
    def running(self) -> Iterator[None]:
        """The load for the time of a `with` statement; at its end everything that was confirmed has been done."""
        thread = threading.Thread(target=self._submit)
        thread.start()
        try:
            self.goes_on()
            yield
        finally:
            self._stopped.set()
            thread.join(END_LIMIT)
        assert not thread.is_alive()
        eventually(
            lambda: self.confirmed <= self.completed(self.confirmed),
            "all confirmed tasks are done",
            limit=self.limit,
            every=self.every,
        )

    def goes_on(self) -> None:
        """Wait until a task that has yet to be submitted is confirmed and done."""
        before = set(self.confirmed)
        eventually(
            lambda: self.completed(self.confirmed - before),
            f"a new task is done; {len(before)} were confirmed before",
            limit=self.limit,
            every=self.every,
        )

    def _submit(self) -> None:
        for number in itertools.count():
            if self._stopped.wait(self.pause):
                return
            answer = self.client.post(f"/v1/queues/{self.queue}/tasks", content=self.body(number))
            if answer.status_code == 202:
                self.confirmed.add(answer.json()["id"])
            else:
                assert answer.status_code == 503, answer.text
