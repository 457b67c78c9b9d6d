"""What others scale by in the benchmarks: manifests with placeholders, and the model of KEDA."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest
import yaml
from bed import BURST, HERE, QUEUES, filled, placeholders
from kube import Kube
from watching import Watch

SCALERS = HERE / "scalers"
KUBE = Kube(Path("kubeconfig"), "jobs")


def load_model() -> ModuleType:
    """The model, which is a program and in no package."""
    spec = importlib.util.spec_from_file_location("keda_model", SCALERS / "keda_model.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["keda_model"] = module
    spec.loader.exec_module(module)
    return module


MODEL = load_model()


@pytest.mark.parametrize("manifest", sorted(SCALERS.glob("*.yaml")), ids=lambda path: path.name)
@pytest.mark.parametrize("queue", QUEUES, ids=lambda queue: queue.name)
def test_the_manifests_scale_the_workers_that_they_are_filled_in_for(manifest: Path, queue: object) -> None:
    assert isinstance(queue, type(BURST))
    text = filled(manifest.read_text(), placeholders(KUBE, queue, "amqp://user:secret@broker/"))
    objects = list(yaml.safe_load_all(text))
    scaler = objects[-1]
    assert scaler["kind"] in ("ScaledObject", "HorizontalPodAutoscaler")
    assert scaler["spec"]["scaleTargetRef"]["name"] == queue.deployment
    assert scaler["spec"].get("maxReplicaCount", scaler["spec"].get("maxReplicas")) == queue.max_replicas
    assert {item["metadata"]["namespace"] for item in objects} == {"jobs"}


def test_an_unknown_placeholder_is_named() -> None:
    with pytest.raises(ValueError, match="REPLICAZ"):
        filled("${REPLICAZ}", placeholders(KUBE, BURST, ""))


def test_the_model_wakes_one_worker_and_lets_it_rest_after_the_cooldown() -> None:
    settings = MODEL.Settings()
    replicas, memory = MODEL.activation(60, 0, MODEL.Memory(), settings, 30.0)
    assert replicas == 1
    assert MODEL.activation(0, 12, memory, settings, 329.0)[0] == 12
    assert MODEL.activation(0, 12, memory, settings, 330.0)[0] == 0


def test_the_model_goes_up_in_steps_unless_it_is_tuned() -> None:
    steps, replicas, memory = [], 1, MODEL.Memory()
    for number in range(4):
        replicas, memory = MODEL.horizontal(60, replicas, memory, MODEL.Settings(), 15.0 * number)
        steps.append(replicas)
    assert steps == [5, 10, 12, 12]
    assert MODEL.horizontal(60, 1, MODEL.Memory(), MODEL.TUNED, 0.0)[0] == 12


def test_the_model_goes_down_to_the_largest_answer_of_the_window() -> None:
    memory = MODEL.horizontal(60, 12, MODEL.Memory(), MODEL.Settings(), 0.0)[1]
    replicas, memory = MODEL.horizontal(5, 12, memory, MODEL.Settings(), 299.0)
    assert replicas == 12
    assert MODEL.horizontal(5, 12, memory, MODEL.Settings(), 301.0)[0] == 1
    assert MODEL.horizontal(5, 12, MODEL.Memory(), MODEL.TUNED, 0.0)[0] == 1


def test_the_model_leaves_a_small_difference_alone() -> None:
    assert MODEL.horizontal(54, 10, MODEL.Memory(), MODEL.TUNED, 0.0)[0] == 10
    assert MODEL.horizontal(56, 10, MODEL.Memory(), MODEL.TUNED, 0.0)[0] == 12


def test_a_watch_keeps_when_each_thing_was_first_seen() -> None:
    watch = Watch(KUBE, "pods", "")
    ready = {"conditions": [{"type": "Ready", "status": "True"}]}
    watch.note("ADDED", {"metadata": {"name": "a"}, "spec": {}}, 1.0)
    watch.note("MODIFIED", {"metadata": {"name": "a"}, "status": ready}, 3.0)
    watch.note("MODIFIED", {"metadata": {"name": "a"}, "status": ready}, 4.0)
    watch.note("MODIFIED", {"metadata": {"name": "a", "deletionTimestamp": "t"}, "status": ready}, 5.0)
    watch.note("DELETED", {"metadata": {"name": "a", "deletionTimestamp": "t"}}, 6.5)
    pod = watch.pods["a"]
    assert (pod.born, pod.ready, pod.ending, pod.gone) == (1.0, 3.0, 5.0, 6.5)


def test_a_watch_keeps_changes_of_replicas_alone() -> None:
    watch = Watch(KUBE, "deployments", "")
    for at, replicas in ((1.0, 0), (2.0, 0), (3.0, 4), (4.0, 4), (5.0, 1)):
        watch.note("MODIFIED", {"metadata": {"name": "w"}, "spec": {"replicas": replicas}}, at)
    assert watch.replicas == [(1.0, 0), (3.0, 4), (5.0, 1)]
