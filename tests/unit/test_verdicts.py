"""The judge of the scale-in tests can find what it is there to find."""

import json

import pytest
from verdicts import Removal, Run, Step, beside_work, harm, read_runs, within, wronged


def run(task: str = "t", pod: str = "p", started: float = 10, ended: float | None = 20, deliveries: int = 1) -> Run:
    """A run of a task in queue `q`."""
    return Run(task, "q", pod, started, ended, deliveries)


def test_a_task_that_ran_once_to_its_end_is_unharmed() -> None:
    assert harm({"t", "u"}, [run("t"), run("u", started=3)]) == []


def test_each_kind_of_harm_has_its_sentence() -> None:
    assert harm({"t"}, []) == ["task t has never run to its end"]
    assert harm({"t"}, [run(ended=None)]) == ["task t was interrupted in pod p"]
    assert harm({"t"}, [run(), run(pod="r")]) == ["task t ran 2 times: in p, r"]
    assert harm({"t"}, [run(deliveries=2)]) == ["task t was delivered 2 times"]


def test_what_a_killed_pod_had_in_hand_may_run_once_more() -> None:
    cut = run(pod="dead", ended=None)
    again = run(pod="other", started=30, ended=40, deliveries=2)
    assert harm({"t"}, [cut, again], {"dead"}) == []
    assert harm({"t"}, [cut, again]) != []
    assert harm({"t"}, [cut, again, run(pod="third", deliveries=3)], {"dead"}) != []
    assert harm({"t"}, [cut], {"dead"}) == ["task t has never run to its end"]


def test_a_killed_pod_may_come_to_the_end_of_what_it_had_in_hand_and_tell_nobody() -> None:
    unheard = run(pod="dead")
    again = run(pod="other", started=30, ended=40, deliveries=2)
    assert harm({"t"}, [unheard, again], {"dead"}) == []
    assert harm({"t"}, [unheard], {"dead"}) == []
    earlier = run(task="u", pod="dead", started=1, ended=9)
    assert harm({"t", "u"}, [earlier, unheard, again, run(task="u", pod="other", started=50)], {"dead"}) != []


def test_a_pod_at_work_is_wronged_but_for_the_last_second() -> None:
    assert wronged([Removal("p", 15)], [run()]) == ["pod p was asked to end 5.00 s after it began with task t"]
    assert wronged([Removal("p", 10.9)], [run()]) == []
    assert wronged([Removal("p", 20.1)], [run()]) == []
    assert wronged([Removal("other", 15)], [run()]) == []
    assert wronged([Removal("p", 15)], [run()], {"p"}) == []


@pytest.mark.parametrize(
    ("steps", "wrong"),
    [
        ([Step("d", 3, 2, 10.9)], False),
        ([Step("d", 3, 2, 12)], True),
        ([Step("d", 3, 2, 10.9), Step("d", 2, 1, 12)], True),
        ([Step("d", 3, 2, 10.9), Step("d", 2, 3, 12)], False),
        ([Step("d", 3, 2, 10.9), Step("d", 2, 1, 16)], False),
        ([Step("other", 3, 2, 10.9)], True),
    ],
)
def test_a_pod_was_chosen_when_the_replicas_were_reduced(steps: list[Step], wrong: bool) -> None:
    """Kubernetes asks it to end later."""
    its = Run("t", "q", "d-1", 10, 20, 1)
    assert bool(wronged([Removal("d-1", 15)], [its], steps=steps)) is wrong


def test_scale_ins_beside_work_are_those_of_the_same_queue() -> None:
    down = Step("w-q", 3, 2, 15)
    others = [Step("w-q", 2, 3, 15), Step("w-r", 3, 2, 15), Step("w-q", 3, 2, 25)]
    assert beside_work([down, *others], [run()], "w-") == [down]


def test_scale_ins_within_a_span() -> None:
    down = Step("d", 3, 2, 15)
    assert within([down, Step("d", 2, 3, 15), Step("d", 2, 1, 12.5), Step("d", 2, 1, 30)], [(12, 20)]) == [down]


def line(what: str, task: str, pod: str, at: float, *, attempt: int = 1, acquired: int = 0) -> str:
    """A handler's line."""
    return json.dumps(
        {"what": what, "task": task, "queue": "q", "pod": pod, "at": at, "attempt": attempt, "acquired": acquired}
    )


def test_handlers_lines_become_runs() -> None:
    text = "\n".join(
        [
            line("end", "t", "p", 20),
            line("start", "t", "p", 10),
            line("start", "u", "p", 21),
            line("start", "u", "p", 25, attempt=2),
            line("start", "v", "r", 22, acquired=1),
            line("end", "v", "r", 23, acquired=1),
        ]
    )
    assert read_runs(text) == [
        run("t"),
        run("u", started=21, ended=None),
        run("v", "r", 22, 23, deliveries=2),
        run("u", started=25, ended=None, deliveries=2),
    ]
