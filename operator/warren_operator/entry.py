"""What the operator keeps of one WorkQueue between two looks at it. Nothing of it outlives the process."""

import random
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from warren_operator.explanation import Explained, Problem
from warren_operator.history import History
from warren_operator.policy import Memory
from warren_operator.resource import Status, WorkQueue
from warren_operator.status import UNKNOWN, Substance
from warren_operator.topology import Finding

NEVER = float("-inf")
"""A time before all others."""


@dataclass(slots=True)
class Entry:
    """One WorkQueue. All times are in seconds of the loop's clock.

    Attributes:
        item: as last read.
        refusal: why it is not served: unusable, or somebody else's queue or Deployment.
        serving: its queue is being read right now.
        found: what an operator before us has found wrong with the queue; it stands until we have compared it ourselves.
        early: factor on the times of what is done regularly, so that it is not done for all WorkQueues at once.

        memory: of the policy.
        unread_since: since when readings have failed; None while they do not.
        waiting: tasks were waiting at the latest reading.
        bare_since: see `observation.bare_since`.
        aside: the queue is missing or slow, and read on a channel of its own.
        pods: names seen last.
        glance: all that the latest decision was made of, to see whether anything is new.
        valid_until: time until which that decision holds if nothing is new.
        pause: seconds until the next look, as decided then.

        hinted_at: when somebody said that there are new tasks, until a decision has taken that in; None otherwise.
        failures: readings that failed, for the metrics.

        acting: a change of replicas is under way.
        expected: replicas that the watch has yet to bring back, and the time until which that is waited for.
        act_after: no change before this time, after one that was refused.
        ranked_at: time at which it was last seen to that the pods are marked ahead of a scale-in.
        trouble: why the last change was refused.
        contested: how often in a row a change met a world other than expected.
        decisions: the last changes of replicas, newest first.
        scalings: changes of replicas that were carried out, by direction and limit, for the metrics.

        told: the latest explanation.
        mark: what of it is compared, to see whether there is anything new to tell.
        told_mark, told_at: mark and time of the last event message.
        judged: the mark that was last compared with the status; empty where that could not be written.
        substance: of the status that was last written.
        turn: time at which a status write that can wait is to be done; 0 where none waits.
        raw: the status as last read or written.
        written: what was last written; None before the first time.
        written_at: time of the last status write.
        write_after: no status write before this time, after one that was refused.
        writing: a status write is under way.
    """

    item: WorkQueue
    refusal: Problem | None = None
    serving: bool = False
    found: tuple[Finding, ...] = ()
    early: float = field(default_factory=lambda: random.uniform(0.5, 1.0))  # noqa: S311  spreads load, no secret

    memory: Memory = field(default_factory=Memory)
    unread_since: float | None = None
    waiting: bool = False
    bare_since: float | None = None
    aside: bool = False
    pods: frozenset[str] = frozenset()
    glance: tuple[object, ...] = ()
    valid_until: float = NEVER
    pause: float = 0.0

    hinted_at: float | None = None
    failures: int = 0

    acting: bool = False
    expected: tuple[int, float] | None = None
    act_after: float = NEVER
    ranked_at: float = NEVER
    trouble: Problem | None = None
    contested: int = 0
    decisions: History = ()
    scalings: dict[tuple[str, str], int] = field(default_factory=dict)

    told: Explained | None = None
    mark: tuple[object, ...] = ()
    told_mark: tuple[object, ...] = ()
    told_at: float = NEVER
    judged: tuple[object, ...] = ()
    substance: Substance = UNKNOWN
    turn: float = 0.0
    raw: Mapping[str, Any] = field(default_factory=dict)
    written: Status | None = None
    written_at: float = NEVER
    write_after: float = NEVER
    writing: bool = False
