"""KEDA and the HPA on the model: their formulas, and the row of peers that were measured on a cluster."""

import statistics

import pytest

from warren_operator.simulation.contenders import contenders
from warren_operator.simulation.model import Timing, World
from warren_operator.simulation.report import Figures, figures
from warren_operator.simulation.rivals import Hpa, HpaRule, hpa_answer
from warren_operator.simulation.trace import made_up

RULE = HpaRule(target=5, min_replicas=1, max_replicas=12)


@pytest.mark.parametrize(
    ("backlog", "pods", "wanted"),
    [
        (60, 1, 12),
        (61, 1, 13),
        (0, 4, 0),
        (21, 4, 4),  # 1.05 of the target: within the tolerance of a tenth
        (22, 4, 4),  # 1.1 of it: still
        (23, 4, 5),
        (18, 4, 4),
        (17, 4, 4),
        (15, 4, 3),
        (7, 0, 2),
    ],
)
def test_the_formula(backlog: int, pods: int, wanted: int) -> None:
    assert hpa_answer(RULE, backlog, pods) == wanted


def test_at_most_four_pods_or_as_many_again_are_added_in_fifteen_seconds() -> None:
    hpa = Hpa(RULE)
    assert hpa.sync(0.0, 60, 1, 1) == 5
    assert hpa.sync(5.0, 60, 5, 5) == 5, "the step of this quarter of a minute is used up"
    assert hpa.sync(15.0, 60, 5, 5) == 10
    assert hpa.sync(30.0, 60, 10, 10) == 12


def test_pods_stay_for_as_long_as_they_were_recommended_within_five_minutes() -> None:
    hpa = Hpa(RULE)
    assert hpa.sync(0.0, 20, 4, 4) == 4
    assert hpa.sync(299.0, 0, 4, 4) == 4
    assert hpa.sync(301.0, 0, 4, 4) == 1, "never below one by itself"


def test_at_zero_it_is_switched_off() -> None:
    assert Hpa(RULE).sync(0.0, 60, 0, 0) == 0


def test_free_steps_go_straight_to_the_answer() -> None:
    hpa = Hpa(HpaRule(target=5, min_replicas=1, max_replicas=12, stabilization=0.0, step_pods=None))
    assert [hpa.sync(0.0, 60, 1, 1), hpa.sync(15.0, 0, 12, 12)] == [12, 1]


def simulated(load: str, text: str, seed: int, start: float) -> Figures:
    """A contender's figures."""
    contender = contenders([text], lambda name: name)[0]
    trace = made_up(load, seed)
    record = World(trace, contender.make(0.0), Timing(start=start), contender.concurrency, seed).run()
    return figures(text, record, record.over, 0.0)


@pytest.mark.parametrize(
    ("text", "done", "wait", "pod_seconds", "zero"),
    [
        # KEDA 2.20 on a cluster of this kind: the burst of 60 tasks of 2 s from zero, 12 workers at most.
        ("keda:target=1,maxReplicas=12", 56.5, 47.5, 3436.0, 334.0),
        ("keda-tuned:target=1,maxReplicas=12", 26.0, 19.0, 200.0, 37.5),
    ],
)
def test_keda_on_the_model_is_within_a_factor_of_two_of_keda_on_a_cluster(
    text: str, done: float, wait: float, pod_seconds: float, zero: float
) -> None:
    """When its clocks tick is chance, and the cluster had one such moment: the model is the median of thirty."""
    runs = [simulated("burst:60x2s", text, seed, start=3.0) for seed in range(30)]
    for measured, model in (
        (done, [run.done for run in runs]),
        (wait, [run.wait_p50 for run in runs]),
        (pod_seconds, [run.pod_seconds for run in runs]),
        (zero, [run.done + run.zero for run in runs]),
    ):
        assert measured / 2 < statistics.median(model) < measured * 2


def test_keda_interrupts_long_tasks_and_warren_does_not() -> None:
    """Twelve tasks, half of 4 s and half of 60 s: the cluster saw KEDA deliver 5 of 12 twice."""
    keda = [simulated("burst:12x4s|60s", "keda-tuned:target=1,maxReplicas=12", seed, 3.0) for seed in range(10)]
    warren = [simulated("burst:12x4s|60s", "backlogPerWorker=1,maxReplicas=12", seed, 3.0) for seed in range(10)]
    assert 1 <= statistics.median(run.interrupted for run in keda) <= 6
    assert {run.interrupted for run in warren} == {0}
    assert max(run.done for run in warren) < 1.15 * 60 + 3.0
