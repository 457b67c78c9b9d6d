"""`warren explain` as a pure function of a queue's state."""

import dataclasses

import pytest

from warren_cli.client import PastDecision, QueueStatus
from warren_cli.explain import explanation
from warren_contract.events import QueueState
from warren_producer.models import QueueExplained

NOW = 1_700_000_000.0


def said(status: QueueStatus, width: int | None = None) -> str:
    return "\n".join(line.plain for line in explanation(status, now=NOW, width=width))


def status(**values: object) -> QueueStatus:
    return QueueStatus(**{"queue": "q", "stale": False, "state_age": 1.0, "reason": "because", **values})  # type: ignore[arg-type]


def test_it_tells_inputs_rule_limit_remedies_and_history() -> None:
    text = said(
        status(
            ready=12,
            unacked=3,
            delayed=1,
            dead=2,
            workers=4,
            busy=3,
            idle=1,
            desired=4,
            min_replicas=0,
            max_replicas=4,
            rule="maxWait",
            asked=9,
            limited_by="maxReplicas",
            service_time=2.1,
            arrival_rate=3.0,
            estimated_wait=8.4,
            remedies=("Raise maxReplicas to 9: 9 workers then.",),
            decisions=(PastDecision(NOW - 75, 1, 4, "maxReplicas", "a lot"),),
        )
    )
    for words in (
        "4 workers wanted: because",
        "12 ready, 3 in work, 1 waiting for a retry, 2 dead",
        "4: 3 busy, 1 idle",
        "2.1s of work",
        "3/s",
        "8.4s until a task submitted now starts",
        "maxWait asks for 9",
        "maxReplicas",
        "0 to 4 workers",
        "- Raise maxReplicas to 9: 9 workers then.",
        "1m15s ago    1 → 4  a lot",
    ):
        assert words in text


def test_what_is_not_known_is_called_so() -> None:
    text = said(status())
    assert "- ready, - in work" in text
    assert text.count("not known yet") == 3
    assert "none: nothing is decided" in text
    assert "none yet" in text


def test_where_the_backlog_is_unknown_no_rule_asks_but_something_is_decided() -> None:
    text = said(status(desired=4, limited_by="fallback", rule=""))
    assert "rule      none: the backlog is not known" in text
    assert "limit     fallback" in text


def test_without_a_worker_nobody_can_say_how_long_it_takes() -> None:
    assert "wait      until a worker has started: none runs" in said(status(workers=0))


def test_a_rule_that_stands_in_says_so() -> None:
    assert "backlogPerWorker, until the service time is known, asks for 2" in said(status(rule="learning", asked=2))


def test_a_queue_that_no_operator_told_of_says_what_to_look_at() -> None:
    text = said(QueueStatus("q", ready=7))
    assert "has not told of this queue" in text
    assert "The broker has 7 ready in it" in text
    assert "kubectl get wq" in text
    assert "Decided" not in text


def test_an_old_word_says_how_old_it_is() -> None:
    assert "silent for 2m05s" in said(status(stale=True, state_age=125.0))


def test_a_problem_and_a_missing_queue_come_first() -> None:
    text = said(status(exists=False, problem="ScaleTargetMissing: Deployment w does not exist"))
    assert text.splitlines()[1] == "The broker does not have this queue."
    assert text.splitlines()[2] == "Not ready: ScaleTargetMissing: Deployment w does not exist"


@pytest.mark.parametrize("width", [40, 80])
def test_on_a_terminal_long_lines_go_on_below_themselves(width: int) -> None:
    lines = said(status(remedies=("word " * 60,)), width).splitlines()
    assert max(len(line) for line in lines) <= width
    start = next(number for number, line in enumerate(lines) if line.startswith("  - word"))
    assert lines[start + 1].startswith("    word")


def test_what_the_operator_tells_of_a_queue_comes_through_the_producer_to_the_command_line() -> None:
    """Each of the three has a list of its own, and leaves out what it does not know."""
    told = {field.name for field in dataclasses.fields(QueueState)} - {"at"}
    asked_for = {"exists", "stale", "state_age", "worker_states"}
    assert set(QueueExplained.model_fields) == told | asked_for
    assert {field.name for field in dataclasses.fields(QueueStatus)} == told | asked_for
