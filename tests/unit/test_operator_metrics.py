"""What a scrape of the operator has, read as Prometheus reads it."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from prometheus_client import Histogram
from prometheus_client.parser import text_string_to_metric_families

from warren_operator.entry import Entry
from warren_operator.explanation import Explained, Problem
from warren_operator.metrics import FAMILIES, Metrics
from warren_operator.observation import View
from warren_operator.policy import Backlog, Decision, Limit, Memory, Observation, Phase, Rule, Scaling, Worker
from warren_operator.reasons import Reason
from warren_operator.resource import Key, WorkQueue, parse_spec

DOCUMENTATION = (Path(__file__).parent.parent.parent / "docs" / "operator-metrics.md").read_text()
PARTS = ("_bucket", "_sum", "_created")
"""What Prometheus makes of a histogram besides its name."""

SPEC = parse_spec({"scaleTargetRef": {"name": "w"}}, "q")
WORKERS = (
    Worker("a", Phase.READY, busy=True),
    Worker("b", Phase.READY, busy=False),
    Worker("c", Phase.READY),
    Worker("d", Phase.PENDING),
)
SEEN = Observation(Backlog(60, 2), 4, WORKERS, service_time=2.1, arrival_rate=3.0)
TOLD = Explained(
    None,
    None,
    View(SEEN, busy=1, idle=1, delayed=0, dead=7, estimated_wait=31.5),
    Decision(4, 12, 10, Limit.MAX_REPLICAS, Memory(), Rule.MAX_WAIT),
    Scaling(10, 1),
)


def entry(name: str, told: Explained | None = TOLD, **values: Any) -> Entry:
    return Entry(WorkQueue(Key("media", name), "u", "2026-01-01T00:00:00Z", 1, SPEC, "", {}), told=told, **values)


def operator(*entries: Entry) -> Any:
    """As much of a loop as the metrics read; the real one needs a cluster."""
    return SimpleNamespace(
        entries={entry.item.key: entry for entry in entries},
        actor=SimpleNamespace(
            scalings={("up", "maxReplicas"): 3, ("down", ""): 2},
            reactions=Histogram("warren_operator_reaction_seconds", "So.", registry=None),
        ),
        looker=SimpleNamespace(failures=4),
        lease=SimpleNamespace(ours=True),
        workloads=SimpleNamespace(problem=""),
        tick_at=0.0,
        pace=SimpleNamespace(stretch=1.5),
    )


async def scrape(loop: Any) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    """Each sample by name and labels."""
    broker: Any = SimpleNamespace(problem="")
    topology: Any = SimpleNamespace(problem="gone")
    text = (await Metrics(loop, broker, topology).text()).decode()
    samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
    found = {(sample.name, frozenset(sample.labels.items())): sample.value for sample in samples}
    assert len(found) == len(samples), "no sample is there twice"
    return found


def of(name: str, queue: str = "q", **labels: str) -> tuple[str, frozenset[tuple[str, str]]]:
    return name, frozenset({"namespace": "media", "name": queue, "queue": queue, **labels}.items())


async def test_everything_that_is_explained_is_measured() -> None:
    found = await scrape(operator(entry("q", scalings={("up", "maxReplicas"): 3}, failures=4)))
    wanted = {
        of("warren_queue_ready"): 60,
        of("warren_queue_unacked"): 2,
        of("warren_queue_delayed"): 0,
        of("warren_queue_dead"): 7,
        of("warren_queue_workers", state="busy"): 1,
        of("warren_queue_workers", state="idle"): 1,
        of("warren_queue_workers", state="unheard"): 1,
        of("warren_queue_workers", state="pending"): 1,
        of("warren_queue_workers", state="starting"): 0,
        of("warren_queue_workers", state="failing"): 0,
        of("warren_queue_replicas"): 4,
        of("warren_queue_desired_replicas"): 10,
        of("warren_queue_asked_replicas", rule="maxWait"): 12,
        of("warren_queue_min_replicas"): 1,
        of("warren_queue_max_replicas"): 10,
        of("warren_queue_limit", limit="maxReplicas"): 1,
        of("warren_queue_service_time_seconds"): 2.1,
        of("warren_queue_arrival_rate"): 3,
        of("warren_queue_estimated_wait_seconds"): 31.5,
        of("warren_queue_scalings_total", direction="up", limit="maxReplicas"): 3,
        of("warren_queue_failed_readings_total"): 4,
        of("warren_queue_condition", type="Ready", status="True", reason="Working"): 1,
        of("warren_queue_condition", type="Active", status="True", reason="Backlog"): 1,
        of("warren_queue_condition", type="ScalingLimited", status="True", reason="MaxReplicas"): 1,
        of("warren_queue_condition", type="PolicyOverridden", status="False", reason="InForce"): 1,
    }
    assert {key: value for key, value in found.items() if key[0].startswith("warren_queue_")} == wanted
    own = {name: value for (name, labels), value in found.items() if not labels}
    assert own["warren_operator_workqueues"] == 1
    assert own["warren_operator_look_stretch"] == 1.5
    assert own["warren_operator_broker_connected"] == 1
    assert own["warren_operator_topology_known"] == 0
    assert own["warren_operator_failed_readings_total"] == 4
    assert own["warren_operator_reaction_seconds_count"] == 0
    directions = {("direction", "down"), ("limit", "none")}
    assert found["warren_operator_scalings_total", frozenset(directions)] == 2


async def test_what_is_not_known_has_no_sample_and_a_problem_is_a_condition() -> None:
    found = await scrape(operator(entry("q", Explained(Problem(Reason.SCALE_TARGET_MISSING, "x"))), entry("new", None)))
    names = {name for name, labels in found if ("name", "q") in labels}
    assert names == {"warren_queue_condition", "warren_queue_failed_readings_total"}
    assert found[of("warren_queue_condition", type="Ready", status="False", reason="ScaleTargetMissing")] == 1
    assert {name for name, labels in found if ("name", "new") in labels} == {"warren_queue_failed_readings_total"}


async def test_a_workqueue_that_is_gone_leaves_nothing_behind() -> None:
    loop = operator(entry("q"), entry("other"))
    await scrape(loop)
    del loop.entries[Key("media", "q")]
    found = await scrape(loop)
    assert not [labels for _, labels in found if ("name", "q") in labels]
    assert of("warren_queue_ready", "other") in found


@pytest.mark.parametrize("limit", list(Limit))
async def test_each_queue_has_one_limit_and_a_bounded_number_of_samples(limit: Limit) -> None:
    assert TOLD.decision is not None
    found = await scrape(operator(entry("q", replace(TOLD, decision=replace(TOLD.decision, limit=limit)))))
    assert sum(name == "warren_queue_limit" for name, _ in found) == 1
    assert sum(("name", "q") in labels for _, labels in found) <= 30


async def test_the_documentation_lists_every_metric() -> None:
    for family in FAMILIES:
        labels = ", ".join(f"`{label}`" for label in family.labels)
        assert f"| `{family.name}` | {labels} | {family.kind} | {family.text} |" in DOCUMENTATION
    own = {name.removesuffix("_count") for name, _ in await scrape(operator()) if name.startswith("warren_")}
    for name in own:
        if name.endswith(PARTS):
            continue
        assert f"| `{name}` |" in DOCUMENTATION


def test_each_family_says_what_it_means() -> None:
    for family in FAMILIES:
        assert family.text.endswith(".")
        assert family.name.endswith("_total") is (family.kind == "counter")
