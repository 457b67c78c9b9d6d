"""The WorkQueue: what is taken, what is refused and with which words, and the CRD that says the same."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from warren_contract.settings import SettingError
from warren_operator.crd import definition, render
from warren_operator.pace import LOOKS_SHARE
from warren_operator.resource import QueueSettings, ResourceError, parse_spec, queue_settings, read_work_queue
from warren_operator.scaling import scaling_of
from warren_operator.settings import BUILT_IN, Settings

CRD = Path(__file__).resolve().parents[2] / "charts" / "warren" / "crds" / "workqueues.yaml"
MINIMAL: dict[str, Any] = {"scaleTargetRef": {"name": "workers"}}
DAY = {"start": "0 8 * * 1-5", "end": "0 18 * * 1-5"}


def test_the_chart_s_crd_is_the_one_of_the_models() -> None:
    assert CRD.read_text("utf-8") == render(), "run: python -m warren_operator.crd > charts/warren/crds/workqueues.yaml"


def schema(part: str) -> dict[str, Any]:
    """The schema of spec or status."""
    version = definition()["spec"]["versions"][0]
    found = version["schema"]["openAPIV3Schema"]["properties"][part]
    assert isinstance(found, dict)
    return found


def nodes(node: Any) -> list[dict[str, Any]]:
    """All objects within a schema."""
    if isinstance(node, list):
        return [found for item in node for found in nodes(item)]
    if not isinstance(node, dict):
        return []
    return [node, *(found for item in node.values() for found in nodes(item))]


def test_the_schema_is_structural() -> None:
    for part in ("spec", "status"):
        for node in nodes(schema(part)):
            assert not {"$ref", "anyOf", "$defs", "title", "const"} & node.keys()


def test_every_rule_says_what_to_write() -> None:
    rules = [rule for node in nodes(schema("spec")) for rule in node.get("x-kubernetes-validations", ())]
    assert len(rules) > 5
    assert all(rule["message"] and rule["rule"] for rule in rules)


def test_a_minimal_spec_has_the_schema_s_defaults() -> None:
    spec = parse_spec(MINIMAL, "thumbnails")
    properties = schema("spec")["properties"]
    assert spec.max_replicas == properties["maxReplicas"]["default"]
    assert scaling_of(spec).backlog_per_worker == 5, "where no target is given"
    assert queue_settings(spec, BUILT_IN) == BUILT_IN


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ({}, "spec.scaleTargetRef: Field required"),
        ({**MINIMAL, "minReplicas": 3, "maxReplicas": 2}, "write a minReplicas of at most maxReplicas"),
        ({**MINIMAL, "maxReplica": 2}, "spec.maxReplica: unknown field: remove it or mend its spelling"),
        ({**MINIMAL, "maxReplicas": "2"}, "spec.maxReplicas: Input should be a valid integer"),
        ({**MINIMAL, "timeLimit": "25"}, "spec.timeLimit: '25' is not a duration"),
        ({**MINIMAL, "timeLimit": "0s"}, "spec.timeLimit: timeLimit is zero: write how long"),
        ({**MINIMAL, "queue": {"messageTTL": "0m0.0s"}}, "spec.queue.messageTTL: messageTTL is zero: write how long"),
        ({**MINIMAL, "timeLimit": "9999h"}, "write at most 720h"),
        ({**MINIMAL, "retry": {"minDelay": "10m", "maxDelay": "1s"}}, "write a minDelay of at most maxDelay"),
        ({**MINIMAL, "queue": {"name": "amq.gen"}}, "reserved"),
        ({**MINIMAL, "target": {"backlogPerWorker": 0}}, "spec.target.backlogPerWorker"),
        ({**MINIMAL, "target": {"maxWait": "0s"}}, "spec.target.maxWait: maxWait is zero: write how long"),
        ({**MINIMAL, "schedule": [{**DAY}]}, "spec.schedule.0: the window changes nothing"),
        ({**MINIMAL, "schedule": [{**DAY, "minReplicas": 3, "maxReplicas": 2}]}, "write a minReplicas of at most"),
        ({**MINIMAL, "schedule": [{**DAY, "minReplicas": 3, "timeZone": "Berlin"}]}, "such as Europe/Berlin"),
        ({**MINIMAL, "schedule": [{**DAY, "minReplicas": 3, "end": "18:00"}]}, "end '18:00': write five fields"),
        ({**MINIMAL, "schedule": [{**DAY, "minReplicas": 3, "end": "0 0 31 2 *"}]}, "end '0 0 31 2 *' is no time"),
        ({**MINIMAL, "budget": {"priority": 3}}, "spec.budget.name: Field required"),
        ({**MINIMAL, "mode": "Dry"}, "spec.mode: Input should be 'Enforce' or 'Recommend'"),
        ({"scaleTargetRef": {"name": "x", "kind": "StatefulSet"}}, "spec.scaleTargetRef.kind"),
        ("nonsense", "spec."),
    ],
)
def test_what_is_wrong_is_named(spec: Any, says: str) -> None:
    with pytest.raises(ResourceError) as caught:
        parse_spec(spec, "thumbnails")
    assert says in str(caught.value)


def body(spec: Any, name: str = "thumbnails") -> dict[str, Any]:
    """A WorkQueue as the API server hands it out."""
    metadata = {"namespace": "media", "name": name, "uid": "u-1", "creationTimestamp": "2026-01-01T00:00:00Z"}
    return {"metadata": {**metadata, "generation": 4}, "spec": spec}


def test_a_wrong_spec_becomes_a_problem_and_no_exception() -> None:
    item = read_work_queue(body({"maxReplicas": -1}))
    assert item.spec is None
    assert "scaleTargetRef" in item.problem or "maxReplicas" in item.problem


def test_what_only_a_newer_definition_knows_is_no_problem() -> None:
    """Two releases share a cluster's definition; the older operator goes on with what it knows."""
    newer = {**MINIMAL, "maxReplicas": 7, "affinity": {"a": 1}, "retry": {"maxAttempts": 2, "jitter": "1s"}}
    item = read_work_queue(body(newer))
    assert item.problem == ""
    assert item.spec is not None
    assert (item.spec.max_replicas, item.spec.retry.max_attempts) == (7, 2)
    assert "jitter" in newer["retry"], "what others hold is left as it was"
    assert "maxReplicas" in read_work_queue(body({**newer, "maxReplicas": -1})).problem


def test_the_queue_is_named_after_the_resource_unless_it_says_otherwise() -> None:
    assert read_work_queue(body(MINIMAL)).queue == "thumbnails"
    assert read_work_queue(body({**MINIMAL, "queue": {"name": "task_queue"}})).queue == "task_queue"
    assert "reserved" in read_work_queue(body(MINIMAL, name="late.dead")).problem


def test_what_a_spec_does_not_say_is_the_release_s() -> None:
    defaults = QueueSettings(max_length=7, max_attempts=3, min_delay=2, max_delay=60, time_limit=90)
    spec = parse_spec({**MINIMAL, "retry": {"maxAttempts": 9}, "queue": {"messageTTL": "1h"}}, "q")
    assert queue_settings(spec, defaults) == QueueSettings(7, 9, 2, 60, 90, 3600)


@pytest.mark.parametrize(
    ("retry", "delays"),
    [({"minDelay": "10m"}, (600, 600)), ({"maxDelay": "1s"}, (1, 1)), ({"minDelay": "3s"}, (3, 60))],
)
def test_a_delay_that_meets_a_smaller_default_pulls_it_along(
    retry: dict[str, str], delays: tuple[float, float]
) -> None:
    defaults = QueueSettings(max_length=7, max_attempts=3, min_delay=2, max_delay=60, time_limit=90)
    settings = queue_settings(parse_spec({**MINIMAL, "retry": retry}, "q"), defaults)
    assert (settings.min_delay, settings.max_delay) == delays


def load(tmp_path: Path, defaults: str | None, **environ: str) -> Settings:
    """Settings with a defaults file of this content."""
    if defaults is not None:
        (tmp_path / "defaults.yaml").write_text(defaults)
    return Settings.load(
        {"WARREN_NAMESPACES": "b, a", "WARREN_DEFAULTS_FILE": str(tmp_path / "defaults.yaml"), **environ}
    )


def test_the_defaults_file_is_read(tmp_path: Path) -> None:
    text = yaml.safe_dump({"maxLength": 5, "retry": {"maxAttempts": 2}, "timeLimit": "1m", "messageTTL": None})
    settings = load(tmp_path, text)
    assert settings.namespaces == ("a", "b")
    assert settings.defaults == QueueSettings(5, 2, BUILT_IN.min_delay, BUILT_IN.max_delay, 60)


@pytest.mark.parametrize(
    "text",
    [
        "maxLenght: 5",
        "maxLength: many",
        "timeLimit: 25",
        "timeLimit: 0s",
        "messageTTL: 0s",
        "- a list",
        "a: [broken",
    ],
)
def test_a_wrong_defaults_file_ends_the_program_with_a_sentence(tmp_path: Path, text: str) -> None:
    with pytest.raises(SettingError) as caught:
        load(tmp_path, text)
    assert "defaults.yaml" in str(caught.value)


def test_a_defaults_file_that_was_named_must_exist(tmp_path: Path) -> None:
    with pytest.raises(SettingError, match="does not exist"):
        load(tmp_path, None)


def test_namespaces_are_names_or_all(tmp_path: Path) -> None:
    assert load(tmp_path, "", WARREN_NAMESPACES="*").namespaces == ("*",)
    with pytest.raises(SettingError, match="commas"):
        load(tmp_path, "", WARREN_NAMESPACES="a,*")


def test_a_target_alone_is_the_only_rule() -> None:
    """Who asks for a longest wait and nothing else has not asked for five tasks a worker."""
    alone = scaling_of(parse_spec({**MINIMAL, "target": {"maxWait": "30s"}}, "q"))
    assert (alone.backlog_per_worker, alone.max_wait) == (None, 30.0)
    both = scaling_of(parse_spec({**MINIMAL, "target": {"maxWait": "30s", "backlogPerWorker": 2}}, "q"))
    assert (both.backlog_per_worker, both.max_wait) == (2, 30.0)


def test_budgets_are_read_and_checked(tmp_path: Path) -> None:
    def load(text: str) -> Settings:
        return Settings.load({"WARREN_NAMESPACES": "jobs", "WARREN_BUDGETS": text})

    assert load("gpu=8, reports=20").budgets == {"gpu": 8, "reports": 20}
    for wrong in ("gpu", "gpu=many", "=3", "gpu=1,gpu=2"):
        with pytest.raises(SettingError, match=r"WARREN_BUDGETS.* such as gpu=8,reports=20"):
            load(wrong)


def test_how_much_looking_at_queues_may_cost_is_read_and_checked() -> None:
    def load(text: str) -> Settings:
        return Settings.load({"WARREN_NAMESPACES": "jobs", "WARREN_LOOK_CORES": text})

    assert load("0.5").look_cores == 0.5
    assert load("1").look_cores == 1
    assert Settings.load({"WARREN_NAMESPACES": "jobs"}).look_cores == LOOKS_SHARE
    for wrong in ("0", "0.001", "1.1", "2", "-0.2", "200m", "nan", "1e-1", "0.2 "):
        with pytest.raises(SettingError, match=r"WARREN_LOOK_CORES.* from 0.01 to 1, such as 0.2"):
            load(wrong)
