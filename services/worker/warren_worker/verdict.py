"""How an attempt ended, and what the broker is told about it."""

import enum
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Done:
    """The handler returned."""


@dataclass(frozen=True, slots=True)
class Failed:
    """The handler raised, died or took too long.

    Attributes:
        exception: the exception's type, or `TimeLimit` or `Crash` where the worker itself saw the end.
        message: one line for people. traceback: Python's own, a program's last words or the start of a response,
            shortened; empty where there is none.
        permanent: a further attempt would be of no use.
    """

    exception: str
    message: str
    traceback: str = ""
    permanent: bool = False


@dataclass(frozen=True, slots=True)
class Interrupted:
    """The worker had to end before the handler did; the task is not to blame."""


Outcome = Done | Failed | Interrupted

DONE = Done()
INTERRUPTED = Interrupted()


class Verdict(enum.Enum):
    """What is done about a delivery.

    ACK, RETRY and RETURN are told to the broker at once; DEAD means a dead letter with its reason first, then one of
    the other two. On a quorum queue (RabbitMQ 4.3) a reject counts towards the delivery limit and is delayed by the
    retry policy; a nack does neither. So a failure is never nacked, and a task that is only handed back is never
    rejected.
    """

    ACK = "ack"
    RETRY = "retry"
    DEAD = "dead"
    RETURN = "return"


def verdict(outcome: Outcome, attempt: int, max_attempts: int) -> Verdict:
    """Decide on a delivery.

    Args:
        outcome: how the attempt ended.
        attempt: from 1.
        max_attempts: attempts after which a task is dead.
    """
    match outcome:
        case Done():
            return Verdict.ACK
        case Interrupted():
            return Verdict.RETURN
        case Failed(permanent=permanent):
            return Verdict.RETRY if attempt < max_attempts and not permanent else Verdict.DEAD
