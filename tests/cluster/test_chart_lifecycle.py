"""Install, upgrade, uninstall and install again: what is kept, what goes, and that nothing is stuck."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml
from chart import CHART, pod_spec, render
from chart_variants import VARIANTS
from kube import ROOT, Kube
from release import connect, install, remove, wait_until_ready
from waiting import eventually

NAMESPACE = "warren-lifecycle"
DEFINITION = "customresourcedefinition/workqueues.warren.dev"

MADE_BY_KUBERNETES = {"configmap/kube-root-ca.crt", "serviceaccount/default"}
WORTH_KEEPING = {"persistentvolumeclaim/data-warren-rabbitmq-0"}
KINDS = (
    "configmap,secret,service,serviceaccount,pod,deployment,statefulset,replicaset,job,role,rolebinding,"
    "persistentvolumeclaim,workqueue,networkpolicy,poddisruptionbudget,ingress"
)


@pytest.fixture(scope="module")
def options(tmp_path_factory: pytest.TempPathFactory) -> Sequence[str]:
    """Helm's options for the images of the working copy, as they are when the tests begin."""
    images = ROOT / ".cluster" / "images.values.json"
    if not images.exists():
        pytest.fail("no images of the working copy in the cluster: run `make deploy` or `make test`")
    copy = tmp_path_factory.mktemp("images") / "values.json"
    copy.write_bytes(images.read_bytes())
    return ("--values", str(copy))


@pytest.fixture(scope="module")
def kube(cluster: Kube, options: Sequence[str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kube]:
    """A namespace that takes restricted pods only, with a release of its own."""
    kube = Kube(cluster.kubeconfig, NAMESPACE)
    remove(kube)
    create_restricted(kube)
    install(kube, values(tmp_path_factory.mktemp("values"), {}), *options)
    yield kube
    remove(kube)


@pytest.fixture(scope="module")
def empty(cluster: Kube) -> Iterator[Kube]:
    """A namespace that takes restricted pods only, without a release."""
    kube = Kube(cluster.kubeconfig, f"{NAMESPACE}-dry")
    remove(kube)
    create_restricted(kube)
    yield kube
    remove(kube)


def create_restricted(kube: Kube) -> None:
    """Create the namespace under the Pod Security Standard "restricted".

    A pod that breaks it is refused, and its Deployment already gets a warning.
    """
    level = "pod-security.kubernetes.io/{}=restricted"
    kube.run("kubectl", "create", "namespace", kube.namespace)
    kube.run("kubectl", "label", "namespace", kube.namespace, level.format("enforce"), level.format("warn"))


def values(folder: Path, content: dict[str, Any]) -> Path:
    """A values file."""
    path = folder / "values.yaml"
    path.write_text(yaml.safe_dump(content), "utf-8")
    return path


def secrets(kube: Kube) -> dict[str, Any]:
    """What the release's Secrets hold."""
    items = kube.get("secrets", "--selector", "app.kubernetes.io/part-of=warren")
    assert len(items) == 5
    return {item["metadata"]["name"]: item["data"] for item in items}


def everything(kube: Kube) -> set[str]:
    """All objects of the namespace that somebody other than Kubernetes has made."""
    names = set(kube.kubectl("get", KINDS, "--output", "name").split())
    return {name for name in names if not name.startswith("secret/sh.helm.")} - MADE_BY_KUBERNETES


def in_namespace(variant: dict[str, Any], namespace: str) -> dict[str, Any]:
    """The variant, as for a release in this namespace: its operator looks after that one in place of `warren`."""
    operator = variant.get("operator", {})
    watched = [namespace if name == "warren" else name for name in operator.get("watchNamespaces", ())]
    return {**variant, "operator": {**operator, "watchNamespaces": watched}} if watched else variant


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_api_server_takes_every_object(kube: Kube, empty: Kube, variant: str, tmp_path: Path) -> None:
    """All admission included: unknown fields, CEL rules of WorkQueues, and the Pod Security Standard "restricted"."""
    kube.get(DEFINITION)  # the release has brought it
    own = [
        item
        for item in render(in_namespace(VARIANTS[variant], empty.namespace), release="dry", namespace=empty.namespace)
        if item["kind"] not in ("ServiceMonitor", "PodMonitor")
        and item["metadata"].get("namespace", empty.namespace) == empty.namespace
    ]
    assert any(pod_spec(item) for item in own)
    for item in own:
        if item["kind"] == "Pod":  # a bare pod needs its account at once, which a dry run does not make
            item["spec"]["serviceAccountName"] = "default"
    path = tmp_path / "manifests.yaml"
    path.write_text(yaml.safe_dump_all(own), "utf-8")
    done = empty.run(
        *("kubectl", "apply", "--namespace", empty.namespace, "--dry-run=server", "--validate=strict"),
        *("--filename", str(path)),
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "Warning" not in done.stderr


def test_helm_test_runs_a_task(kube: Kube) -> None:
    """`helm test` ends well, and its pod is gone."""
    done = kube.run("helm", "test", "warren", "--namespace", NAMESPACE, limit=300)
    assert "Phase:          Succeeded" in done.stdout
    assert not kube.pods("test", running=False)


def test_an_upgrade_keeps_credentials_and_pods(kube: Kube, options: Sequence[str], tmp_path: Path) -> None:
    """A further queue is a further Deployment; broker, producer and operator run on as they are."""
    credentials = secrets(kube)
    pods = {part: kube.pods(part) for part in ("rabbitmq", "producer", "operator")}
    install(kube, values(tmp_path, {"queues": {"mail": {"replicas": {"max": 2}}}}), *options)
    assert secrets(kube) == credentials
    assert {part: kube.pods(part) for part in pods} == pods
    with connect(kube) as release:
        eventually(lambda: release.queue("mail")["exists"], "the operator has made the queue")
    install(kube, values(tmp_path, {}), *options)
    names = {item["metadata"]["name"] for item in kube.get("workqueues")}
    assert names == {"task-queue"}


def test_an_upgrade_leaves_replicas_alone(kube: Kube, options: Sequence[str], tmp_path: Path) -> None:
    """What the operator has decided survives `helm upgrade`."""
    suspended = {"queues": {"task_queue": {"paused": True}}}
    install(kube, values(tmp_path, suspended), *options)
    kube.kubectl("scale", "deployment/warren-worker-task-queue", "--replicas=2")
    install(kube, values(tmp_path, {**suspended, "commonLabels": {"upgraded": "yes"}}), *options)
    worker = kube.get("deployment", "warren-worker-task-queue")
    assert worker["metadata"]["labels"]["upgraded"] == "yes"
    assert worker["spec"]["replicas"] == 2
    install(kube, values(tmp_path, {}), *options)


def test_an_upgrade_brings_the_definition_up_to_date(kube: Kube, options: Sequence[str], tmp_path: Path) -> None:
    """An older definition is replaced whole, and the Job that did it is gone with its rights."""
    wanted = yaml.safe_load((CHART / "crds" / "workqueues.yaml").read_text("utf-8"))
    older = [
        {"op": "remove", "path": "/spec/versions/0/schema/openAPIV3Schema/properties/spec/properties/paused"},
        {
            "op": "add",
            "path": "/spec/versions/0/schema/openAPIV3Schema/properties/spec/properties/formerly",
            "value": {"type": "string"},
        },
        {"op": "replace", "path": "/spec/versions/0/additionalPrinterColumns", "value": []},
    ]
    kube.kubectl("patch", DEFINITION, "--type", "json", "--patch", json.dumps(older))
    install(kube, values(tmp_path, {"queues": {"task_queue": {"paused": True}}}), *options)
    assert kube.get(DEFINITION)["spec"]["versions"] == wanted["spec"]["versions"]
    assert kube.get("workqueue", "task-queue")["spec"]["paused"] is True
    left = kube.run("kubectl", "get", "clusterroles,clusterrolebindings", "--output", "name").stdout
    assert "crd-upgrade" not in left
    assert not [name for name in everything(kube) if "crd-upgrade" in name]
    install(kube, values(tmp_path, {}), *options)


def test_uninstall_and_install_again(kube: Kube, options: Sequence[str], tmp_path: Path) -> None:
    """Only the volume stays; the next release finds its tasks there, with users of its own."""
    install(kube, values(tmp_path, {"queues": {"task_queue": {"suspend": True}}}), *options)
    with connect(kube) as release:
        ids = {release.submit(f"kept {number}") for number in range(5)}
        assert len(ids) == 5
    before = secrets(kube)
    kube.run("helm", "uninstall", "warren", "--namespace", NAMESPACE, "--wait", limit=150)
    eventually(lambda: everything(kube) == WORTH_KEEPING, "everything but the volume is gone", limit=120)
    kube.get(DEFINITION)

    install(kube, values(tmp_path, {}), *options)
    after = secrets(kube)
    for name, key in (
        ("warren-broker-worker", "password"),
        ("warren-rabbitmq", "erlang-cookie"),
        ("warren-tokens", "submit"),
    ):
        assert after[name][key] != before[name][key], f"{name} is new"
    with connect(kube) as release:
        eventually(lambda: release.drained() and release.queue()["exists"], "the kept tasks are done", limit=120)
        state = release.queue()
    assert not state["dead"]
    # A new Deployment has one replica before anybody scales it: the tasks may be done before the operator has begun.
    eventually(
        lambda: kube.get("workqueue", "task-queue").get("status", {}).get("conditions"), "the operator has taken it in"
    )


def test_a_credential_is_made_anew_when_its_secret_is_deleted(
    kube: Kube, options: Sequence[str], tmp_path: Path
) -> None:
    """Delete, upgrade: the broker restarts with the new password, and work goes on.

    Kubernetes brings a changed Secret into running pods within a minute or two; a new pod has it at once.
    """
    before = secrets(kube)
    kube.kubectl("delete", "secret", "warren-broker-producer")
    install(kube, values(tmp_path, {}), *options)
    after = secrets(kube)
    changed = {name for name in before if before[name] != after[name]}
    assert changed == {"warren-broker-producer", "warren-rabbitmq"}
    assert after["warren-rabbitmq"]["erlang-cookie"] == before["warren-rabbitmq"]["erlang-cookie"]
    kube.kubectl("rollout", "restart", "deployment/warren-producer")
    wait_until_ready(kube)
    with connect(kube) as release:
        release.submit("with the new password")
        release.wait_until_drained()
