"""The demo's own judgement: it must not say that all went well when it did not."""

import dataclasses
import random

import pytest

from tools.demo import LOAD, Course, settled, work
from warren_cli.client import QueueStatus

QUIET = QueueStatus("task_queue", stale=False, ready=0, unacked=0, delayed=0, dead=0, workers=0, max_replicas=10)
PEAK = dataclasses.replace(QUIET, ready=100, unacked=10, workers=10)


def test_a_course_from_zero_to_the_maximum_and_back_has_no_shortcomings() -> None:
    assert Course((QUIET, PEAK, QUIET), LOAD, LOAD).shortcomings() == []


@pytest.mark.parametrize(
    ("course", "word"),
    [
        (Course((QUIET, PEAK, QUIET), LOAD, LOAD - 1), "accepted"),
        (Course((PEAK, PEAK, QUIET), LOAD, LOAD), "before the load"),
        (Course((QUIET, dataclasses.replace(PEAK, workers=9), QUIET), LOAD, LOAD), "at most 9"),
        (Course((QUIET, PEAK, dataclasses.replace(QUIET, workers=1)), LOAD, LOAD), "left"),
        (Course((QUIET, PEAK, dataclasses.replace(QUIET, delayed=1)), LOAD, LOAD), "not done"),
        (Course((QUIET, PEAK, dataclasses.replace(QUIET, dead=1)), LOAD, LOAD), "dead-letter"),
    ],
)
def test_each_shortcoming_is_named(course: Course, word: str) -> None:
    problems = course.shortcomings()
    assert len(problems) == 1
    assert word in problems[0]


@pytest.mark.parametrize("change", [{"stale": True}, {"ready": 1}, {"unacked": 1}, {"delayed": 1}, {"workers": 1}])
def test_nothing_is_settled_while_anything_is_open(change: dict[str, int]) -> None:
    assert settled(QUIET)
    assert not settled(dataclasses.replace(QUIET, **change))  # type: ignore[arg-type]  # one field of either type


def test_the_load_is_mixed_and_the_same_each_time() -> None:
    tasks = work(random.Random(1), LOAD)
    assert tasks == work(random.Random(1), LOAD)
    assert len(tasks) == LOAD
    assert {task.count(".") for task in tasks} == {1, 2, 3, 4, 5}
