"""The benchmarks' arithmetic, on runs that are written down here."""

import json
import math
from pathlib import Path

import pytest
import submit
import working
from hypothesis import given
from hypothesis import strategies as st
from loads import Arrival, Load, burst, mixed, steps_and_sine
from picture import picture, series
from processors import read_ticks, withheld
from recording import Delivery, Figure, Pod, Recording, Sheet, Spent, Task, percentile, spent, table
from rival_venv import Speed
from run import WORKS, accompanied, parse, read, title, write
from works import Result

BEGAN = 1000.0

RUN = Recording(
    tasks=(Task("one", 2.0, BEGAN), Task("two", 4.0, BEGAN + 0.5), Task("three", 2.0, BEGAN + 0.6)),
    deliveries=frozenset(
        {
            Delivery("one", "a", BEGAN + 3.0),
            Delivery("three", "a", BEGAN + 5.5),
            Delivery("two", "b", BEGAN + 4.0),
        }
    ),
    pods=(
        Pod("a", BEGAN + 1.0, BEGAN + 3.5, BEGAN + 8.5, BEGAN + 10.0),
        Pod("b", BEGAN + 1.0, BEGAN + 3.5, BEGAN + 7.0, BEGAN + 9.0),  # asked to go while it worked
        Pod("c", BEGAN + 1.0, None, None, BEGAN + 2.0),
    ),
    replicas=((BEGAN - 1.0, 0), (BEGAN + 0.25, 3), (BEGAN + 6.9, 2), (BEGAN + 8.4, 0)),
    finished=3,
)


def test_a_run_is_measured_from_the_first_confirm() -> None:
    assert RUN.work == 8.0
    assert RUN.done == pytest.approx(8.0)
    assert RUN.first_start == pytest.approx(3.0)
    assert RUN.reaction == pytest.approx(0.25)
    assert RUN.zero == pytest.approx(2.0)
    assert RUN.peak == 3
    assert RUN.scale_events == 3
    assert RUN.waits == pytest.approx((3.0, 3.5, 4.9))
    assert RUN.twice == 0


def test_pod_seconds_count_from_creation_until_the_object_is_gone() -> None:
    assert RUN.pod_seconds == pytest.approx(9.0 + 8.0 + 1.0)


def test_a_pod_that_is_still_there_has_no_end() -> None:
    run = Recording(RUN.tasks, RUN.deliveries, (Pod("a", BEGAN),), RUN.replicas)
    assert run.pod_seconds == math.inf
    assert run.zero == math.inf


def test_pod_seconds_are_taken_apart_without_a_rest() -> None:
    parts = spent(RUN)
    assert (parts.starting, parts.working, parts.between) == pytest.approx((2.0 + 3.0, 8.0, 0.5))
    assert (parts.idle, parts.ending, parts.useless) == pytest.approx((1.0, 1.5 + 1.0, 1.0))
    assert total(parts) == pytest.approx(RUN.pod_seconds)


def total(parts: Spent) -> float:
    return parts.starting + parts.working + parts.between + parts.idle + parts.ending + parts.useless


def test_a_task_in_two_hands_counts_as_delivered_twice_and_waited_until_the_first() -> None:
    again = Delivery("one", "b", BEGAN + 8.5)
    run = Recording(RUN.tasks, RUN.deliveries | {again}, RUN.pods, RUN.replicas)
    assert run.twice == 1
    assert run.waits[0] == pytest.approx(3.0)
    assert run.ended == pytest.approx(BEGAN + 10.5)


def test_a_scaler_that_never_reacts_has_no_reaction() -> None:
    assert Recording(RUN.tasks, RUN.deliveries, RUN.pods, ((BEGAN - 1.0, 2), (BEGAN + 1.0, 1))).reaction == math.inf


def test_percentiles_are_values_that_occurred() -> None:
    values = [float(value) for value in range(1, 21)]
    assert percentile(values, 0.5) == 10.0
    assert percentile(values, 0.95) == 19.0
    assert percentile(values, 1.0) == 20.0
    assert percentile([7.0], 0.95) == 7.0


@given(values=st.lists(st.floats(0, 1e6), min_size=1), share=st.floats(0, 1))
def test_so_many_values_do_not_exceed_a_percentile(values: list[float], share: float) -> None:
    found = percentile(values, share)
    assert found in values
    assert sum(value <= found for value in values) >= share * len(values)


@pytest.mark.parametrize(("values", "share"), [([], 0.5), ([1.0], 1.5), ([1.0], -0.1)])
def test_there_is_no_percentile_of_nothing(values: list[float], share: float) -> None:
    with pytest.raises(ValueError, match="no percentile"):
        percentile(values, share)


def test_the_ideal_of_the_works() -> None:
    assert burst().ideal == 10.0
    assert burst().work == 120.0
    assert burst(tasks=13, seconds=3, workers=12).ideal == 6.0  # two rounds, however few are in the second
    assert mixed().ideal == 60.0
    assert sorted(item.seconds for item in mixed().arrivals) == [4] * 6 + [60] * 6
    assert Load((Arrival(0.0, 2), Arrival(30.0, 2)), 4).ideal == 32.0


def test_steps_and_sine_are_the_same_load_each_time_and_within_what_the_workers_can_do() -> None:
    load = steps_and_sine()
    assert load == steps_and_sine()
    assert load.arrivals[-1].at < 600
    assert [item.at for item in load.arrivals] == sorted(item.at for item in load.arrivals)
    fourth_step = [item for item in load.arrivals if 180 <= item.at < 240]
    assert 180 < len(fourth_step) < 300  # 4 a second
    assert not [item for item in load.arrivals if 240 <= item.at < 300]
    assert load.ideal < 620


def test_a_table_has_floor_and_range_and_the_others_beside() -> None:
    ours = Sheet("Warren", (Figure("done ÷ ideal", (1.5, 1.3, 1.4), 1.4), Figure("p95", (2.0,), unit="s")))
    other = Sheet("KEDA", (Figure("done ÷ ideal", (2.5,), 1.4),))
    assert table(ours, other).splitlines() == [
        "| figure | floor | Warren | lowest | highest | KEDA |",
        "|---|---|---|---|---|---|",
        "| done ÷ ideal | 1.40 | 1.40 | 1.30 | 1.50 | 2.50 |",
        "| p95 |  | 2.00 s | 2.00 s | 2.00 s |  |",
    ]


def test_a_picture_shows_pods_and_tasks_over_time() -> None:
    drawn = series(RUN)
    assert drawn["there"] == [(1.0, 1.0), (1.0, 2.0), (1.0, 3.0), (2.0, 2.0), (9.0, 1.0), (10.0, 0.0)]
    assert max(value for _, value in drawn["with a task"]) == 2.0
    text = picture("a < b", RUN)
    assert text.startswith("<svg")
    assert "a &lt; b" in text


def test_a_run_is_written_with_its_table_picture_and_records(tmp_path: Path) -> None:
    write(tmp_path / "warren", "Warren", [Figure("done", (1.4,), 1.5, "s")], {"burst-1": RUN})
    names = {path.name for path in (tmp_path / "warren").iterdir()}
    assert names == {"bench.json", "bench.md", "burst-1.json", "burst-1.svg"}
    record = json.loads((tmp_path / "warren" / "burst-1.json").read_text())
    assert [item["task"] for item in record["deliveries"]] == ["one", "two", "three"]
    assert read(tmp_path / "warren" / "bench.json") == Sheet("Warren", (Figure("done", (1.4,), 1.5, "s"),))


def test_the_command_line_runs_all_but_leaves_out_what_only_warren_has(tmp_path: Path) -> None:
    given_paths = ["--images", str(tmp_path), "--folder", str(tmp_path)]
    assert parse(given_paths).works == WORKS
    other = parse([*given_paths, "--scaler", "scalers/keda_model.py --tuned", "--works", "submit,mixed,burst"])
    assert other.works == ("burst", "mixed")
    assert title(other.scaler) == "keda_model --tuned"
    with pytest.raises(SystemExit):
        parse([*given_paths, "--works", "bursts"])


def test_submits_are_compared_within_their_round_and_at_the_same_guarantees_by_a_floor() -> None:
    names = [submit.BARE, submit.BATCH, *map(submit.single, submit.CONCURRENT), *submit.LIBRARIES]
    rounds = [{name: Speed(rate * number, 1.0) for number, name in enumerate(names, 1)} for rate in (100, 900)]
    found = {figure.name: figure for figure in submit.figures(rounds)}
    assert found["submit: batch ÷ bare pika, confirms pipelined (over)"].values == (2.0, 2.0)
    floors = {name for name, figure in found.items() if figure.floor is not None}
    assert floors == {
        "submit: batch ÷ bare pika, confirms pipelined (over)",
        *(
            f"submit: single, {n} clients ÷ {who} with confirms (over)"
            for n in (16, 64, 256)
            for who in ("Celery", "Dramatiq")
        ),
    }
    assert found["submit: Celery with confirms"].values == (600.0, 5400.0)


def test_workers_are_compared_within_their_round_and_with_celery_by_the_process() -> None:
    rates = {
        working.BARE: (1000, 2000),
        working.THREAD: (900, 2200),
        working.PROCESS: (800, 1600),
        "Celery": (400, 400),
    }
    speeds = {name: [Speed(rate, 50.0) for rate in found] for name, found in rates.items()}
    celery = {"Celery, prefork 1": speeds.pop("Celery")}
    alone = {figure.name: figure for figure in working.pace(100, speeds)}
    assert alone["worker, 100 at once: Warren, thread ÷ bare pika with a handler thread (over)"].values == (0.9, 1.1)
    assert not any("Celery" in name for name in alone)
    found = {figure.name: figure for figure in working.pace(1, {**speeds, **celery})}
    figure = found["worker, 1 at once: Warren, process ÷ Celery, prefork 1 (over)"]
    assert (figure.values, figure.floor) == ((2.0, 4.0), 1.0)
    assert found["worker, 1 at once: bare pika with a handler thread, time a task"].values == (1000.0, 500.0)
    assert found["worker, 1 at once: Celery, prefork 1, CPU a task"].values == (50.0, 50.0)


def test_what_the_host_withholds_is_a_share_of_all_processor_time() -> None:
    before = read_ticks("cpu  100 0 50 800 20 0 10 20 7 0\ncpu0 1 2 3\n")  # guests (7) count as user already
    after = read_ticks("cpu  190 5 70 830 25 0 15 65 9 0\ncpu0 1 2 3\n")
    assert (before.all, before.idle, before.withheld) == (1000, 820, 20)
    assert withheld(before, after) == pytest.approx(45 / 200)
    assert withheld(before, before) == 0


def test_what_the_host_withholds_stands_beside_a_work_s_figures() -> None:
    figure = Figure("a figure", (1.0,))
    result = accompanied("burst", lambda: Result((figure,), {"burst-1": RUN}))
    assert result.figures[0] == figure
    assert result.runs == {"burst-1": RUN}
    assert result.figures[1].name == "burst: share of the processor time that the host withheld"
    assert 0 <= result.figures[1].values[0] <= 1
