"""Every object of every variant is one that the API knows, field by field."""

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from chart import CHART, ROOT, find, render, tool
from kube import Kube
from schemas import write_custom_schema, write_schemas

KUBECONFIG = ROOT / ".cluster" / "kubeconfig"


@pytest.fixture(scope="module")
def custom_schemas(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the WorkQueue's schema."""
    folder = tmp_path_factory.mktemp("schemas")
    write_custom_schema(yaml.safe_load((CHART / "crds" / "workqueues.yaml").read_text("utf-8")), folder)
    return folder


@pytest.fixture(scope="module")
def schemas(custom_schemas: Path) -> Path:
    """The same folder with the schemas of the local cluster's own kinds."""
    if not KUBECONFIG.exists():
        pytest.fail("no local cluster to ask for its kinds: run `make cluster`")
    write_schemas(json.loads(Kube(KUBECONFIG, "default").kubectl("get", "--raw", "/openapi/v2")), custom_schemas)
    return custom_schemas


def conform(manifests: list[dict[str, Any]], schemas: Path, *options: str) -> str:
    """What kubeconform complains about; empty if it has nothing to say."""
    location = f"{schemas}/{{{{.ResourceKind}}}}{{{{.KindSuffix}}}}.json"
    done = subprocess.run(
        [tool("kubeconform"), "-strict", "-schema-location", location, *options],
        input=yaml.safe_dump_all(manifests),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode == 0) is (not done.stdout), done.stdout + done.stderr
    return done.stdout


def test_all_objects_conform(variant: dict[str, Any], schemas: Path) -> None:
    """No unknown field, no wrong type, nothing missing. Only the Prometheus operator's kinds are not ours to know."""
    assert not conform(render(variant), schemas, "-skip", "ServiceMonitor,PodMonitor")


def test_a_wrong_field_would_be_found(schemas: Path) -> None:
    """The check can fail."""
    producer = find(render(), "Deployment", "warren-producer")
    producer["spec"]["template"]["spec"]["containers"][0]["readOnly"] = True
    assert "readOnly" in conform([producer], schemas)


def test_work_queues_conform(variant: dict[str, Any], custom_schemas: Path) -> None:
    """To the definition that lies in the chart, also without a cluster."""
    work_queues = [item for item in render(variant) if item["kind"] == "WorkQueue"]
    assert work_queues
    assert not conform(work_queues, custom_schemas)


def test_a_wrong_work_queue_would_be_found(custom_schemas: Path) -> None:
    """The check can fail."""
    work_queue = find(render(), "WorkQueue", "task-queue")
    work_queue["spec"]["maxWorkers"] = 3
    assert "maxWorkers" in conform([work_queue], custom_schemas)


def test_the_values_offer_every_field_of_the_resource() -> None:
    """What a WorkQueue can say, an entry in `queues` can, too; `replicas` stands for the two bounds."""
    definition = yaml.safe_load((CHART / "crds" / "workqueues.yaml").read_text("utf-8"))
    (version,) = definition["spec"]["versions"]
    fields = set(version["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"])
    schema = json.loads((CHART / "values.schema.json").read_text("utf-8"))
    offered = set(schema["definitions"]["queue"]["properties"])
    made_by_the_chart = {"queue", "scaleTargetRef", "minReplicas", "maxReplicas"}
    assert fields - made_by_the_chart <= offered
