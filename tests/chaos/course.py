"""The course of a run: faults in their lanes beside the load, all healed at the end, and the verdict."""

import random
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from faults import KINDS, LANES, Hit, NoVictim
from ledger import Demands, Fault, judge
from schedule import Lane, Step, steps
from stage import LIMITS, QUEUES, REPORTS, Stage, load
from told import Told

SAMPLE = 3.0
"""Seconds between two looks at the workers' pods: a look costs a tenth of a second of one core."""

TRIES = 3
"""Times that a fault of a kind that has yet to come is done, until it meets what it is meant for: a brief task may have
ended while the fault was on its way. No more, so that the first round comes to its end."""

FIRST_ROUND_LIMIT = 900.0
"""Seconds, beyond those asked for, until each kind has come: then something keeps faults from happening."""


def play(stage: Stage, seconds: float) -> Told:
    """Load, faults for so many seconds and until each kind has come, then none, and the verdict."""
    began = time.time()
    evidence = REPORTS / f"evidence-{stage.seed}"
    try:
        with _sampling(stage), load(stage):
            _faults(stage, began, seconds)
        ended = time.time()
        say(began, "no more faults; waiting for everything that was confirmed")
        stage.wait_until_nodes_are_well()
        stage.wait_until_brokers_are_well()
        well = time.time()
        stage.ask_all_queues()
        stage.drain()
    except BaseException as error:
        stage.keep_evidence(evidence, [*stage.failures, f"it ended by an error: {error!r}"])
        raise
    entries = stage.entries()
    verdict = judge(entries, LIMITS, Demands(frozenset(QUEUES), well, seconds / 60, frozenset(KINDS)))
    if problems := verdict.problems():
        stage.keep_evidence(evidence, problems)
    return Told(stage.seed, began, ended, entries, verdict, stage.samples)


def _faults(stage: Stage, began: float, seconds: float) -> None:
    stopping = threading.Event()
    threads = [_LaneThread(stage, lane, began, seconds, stopping) for lane in LANES]
    for thread in threads:
        thread.start()
    try:
        for thread in threads:
            thread.join()
    finally:
        stopping.set()  # whatever ends us, such as Ctrl-C: each fault is healed before
        for thread in threads:
            thread.join()
    for thread in threads:
        if thread.error is not None:
            raise thread.error


class _LaneThread(threading.Thread):
    """One lane. An error ends it and the others, and is kept for whoever waits."""

    def __init__(self, stage: Stage, lane: Lane, began: float, seconds: float, stopping: threading.Event) -> None:
        super().__init__(name=lane.name)
        self._stage = stage
        self._lane = lane
        self._began = began
        self._seconds = seconds
        self._stopping = stopping
        self.error: BaseException | None = None

    def run(self) -> None:
        """All faults of the lane, one after the other."""
        try:
            self._run()
        except BaseException as error:  # noqa: BLE001  raised again by whoever waits
            self.error = error
            self._stopping.set()

    def _run(self) -> None:
        wanting = {kind.name for kind in self._lane.kinds}
        missed: Counter[str] = Counter()
        for step in steps(self._stage.seed, self._lane):
            gone = time.time() - self._began
            if gone >= self._seconds and not wanting:
                return
            assert gone < self._seconds + FIRST_ROUND_LIMIT, f"these faults did not happen: {sorted(wanting)}"
            if self._stopping.wait(step.pause):
                return
            for turn in range(TRIES if step.kind in wanting else 1):
                hit = self._do(step, turn)
                missed[step.kind] += hit is not None and not hit.met
                if hit is not None and (hit.met or missed[step.kind] >= TRIES):
                    wanting.discard(step.kind)
                if hit is None or step.kind not in wanting or self._stopping.is_set():
                    break

    def _do(self, step: Step, turn: int) -> Hit | None:
        """One fault from beginning to end; None where there was nothing to hit."""
        kind = KINDS[step.kind]
        fault = kind(self._stage, random.Random(step.draw + turn))
        hold = step.hold
        began = time.time()
        try:
            hit = fault.inject()
            hold = step.hold if hit.met else 0.0
            told = "" if hit.met else ", which had just ended"
            say(self._began, f"{step.kind}: {hit.what}{told}" + (f", for {hold:.0f} s" if hold else ""))
            self._stopping.wait(hold)
        except NoVictim:
            say(self._began, f"{step.kind}: nothing to hit")
            return None
        finally:
            fault.heal()
        if hold:
            say(self._began, f"{step.kind}: all is well again")
        self._stage.write_fault(Fault(step.kind, hit.what, began, time.time(), kind.harms, hit.workers, kind.echo))
        return hit


@contextmanager
def _sampling(stage: Stage) -> Iterator[None]:
    """Look at the workers' pods now and then."""
    ended = threading.Event()

    def look() -> None:
        while not ended.wait(SAMPLE):
            try:
                pods = stage.pods("worker")
            except AssertionError:
                continue  # a look that fails is one less
            stage.samples.append((time.time(), sum(pod.well for pod in pods), len(pods)))

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join(30)


def say(began: float, sentence: str) -> None:
    """A line of the course, with the seconds since its beginning."""
    print(f"[{time.time() - began:6.1f} s] {sentence}", flush=True)
