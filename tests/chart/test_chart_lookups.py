"""What the chart finds in a cluster before an upgrade, and what it makes of that."""

import base64
import copy
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
import yaml
from chart import CHART, ChartError, Manifest, find, identity, render, secret_text
from sham_api import sham_api

from warren_contract.settings import BrokerSettings

CLAIM: Manifest = {"metadata": {"name": "data"}, "spec": {"resources": {"requests": {"storage": "4Gi"}}}}
"""The volume of a broker that was installed with the defaults, in its StatefulSet."""

PARTS = ("broker-operator", "broker-producer", "broker-worker", "rabbitmq", "tokens")
OWN = {"meta.helm.sh/release-name": "warren", "meta.helm.sh/release-namespace": "warren"}
KEEP = {"helm.sh/resource-policy": "keep"}


def secret(name: str, annotations: dict[str, str]) -> Manifest:
    """A Secret in the cluster, with all keys that any of them has."""
    keys = ("username", "password", "erlang-cookie", "submit", "read", "admin")
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": name, "namespace": "warren", "annotations": annotations},
        "data": {key: base64.b64encode(f"old-{key}".encode()).decode() for key in keys},
    }


def secrets(annotations: dict[str, str], parts: Iterable[str] = PARTS) -> list[Manifest]:
    """The chart's Secrets, so annotated."""
    return [secret(f"warren-{part}", annotations) for part in parts]


def upgrade(folder: Path, found: list[Manifest], values: dict[str, Any], *, release: str = "warren") -> list[Manifest]:
    """What an upgrade renders where these objects are found."""
    with sham_api(folder, found) as api:
        options = ("--dry-run=server", "--is-upgrade", "--kubeconfig", str(api.kubeconfig))
        return render(values, release=release, options=options)


def made(manifests: list[Manifest]) -> set[str]:
    """The Secrets among them."""
    return {item["metadata"]["name"] for item in manifests if item["kind"] == "Secret"}


def test_an_upgrade_keeps_what_the_secrets_hold(tmp_path: Path) -> None:
    manifests = upgrade(tmp_path, secrets(OWN), {})
    kept = {item["metadata"]["name"]: item["data"] for item in manifests if item["kind"] == "Secret"}
    assert kept.keys() == {f"warren-{part}" for part in PARTS}
    assert kept["warren-tokens"] == {key: secret("", {})["data"][key] for key in ("submit", "read", "admin")}
    assert kept["warren-rabbitmq"]["erlang-cookie"] == secret("", {})["data"]["erlang-cookie"]


@pytest.mark.parametrize(
    ("values", "lost"),
    [
        ({"credentials": {"create": "never"}}, [f"warren-{part}" for part in PARTS]),
        ({"credentials": {"existingSecrets": {"tokens": "warren-tokens"}}}, ["warren-tokens"]),
        (
            {"credentials": {"existingSecrets": {"worker": "warren-broker-worker", "rabbitmq": "warren-rabbitmq"}}},
            ["warren-broker-worker", "warren-rabbitmq"],
        ),
        (
            {"broker": {"external": {"enabled": True, "existingSecret": "warren-broker-operator"}}},
            ["warren-broker-operator"],
        ),
    ],
)
def test_secrets_in_use_are_not_lost(values: dict[str, Any], lost: list[str], tmp_path: Path) -> None:
    """Helm deletes what a release made and no longer names; only it would still be needed, and nobody else has it."""
    with pytest.raises(ChartError) as error:
        upgrade(tmp_path, secrets(OWN), values)
    said = str(error.value)
    assert "this upgrade would delete" in said
    assert f"kubectl -n warren annotate secret {' '.join(lost)} helm.sh/resource-policy=keep" in said
    assert upgrade(tmp_path, secrets(OWN | KEEP), values), "the remedy works"


@pytest.mark.parametrize(
    ("found", "values", "expected"),
    [
        # Secrets of the user's own, or of another release.
        (secrets({}), {"credentials": {"create": "never"}}, set()),
        (secrets(OWN | {"meta.helm.sh/release-name": "other"}), {"credentials": {"create": "never"}}, set()),
        (secrets(OWN | {"meta.helm.sh/release-namespace": "other"}), {"credentials": {"create": "never"}}, set()),
        # Not there at all: whoever says `never` brings them.
        ([], {"credentials": {"create": "never"}}, set()),
        # One of another name takes over.
        (
            [*secrets(OWN), secret("mine", {})],
            {"credentials": {"existingSecrets": {"tokens": "mine", "producer": "mine"}}},
            {"warren-broker-operator", "warren-broker-worker", "warren-rabbitmq"},
        ),
        # One that is still made for another part.
        (
            secrets(OWN),
            {"credentials": {"existingSecrets": {"worker": "warren-broker-producer"}}},
            {"warren-broker-operator", "warren-broker-producer", "warren-rabbitmq", "warren-tokens"},
        ),
        # The broker goes, and what was for it alone.
        (secrets(OWN), {"broker": {"external": {"enabled": True, "existingSecret": "mine"}}}, {"warren-tokens"}),
    ],
)
def test_secrets_that_nobody_misses_are_no_hindrance(
    found: list[Manifest], values: dict[str, Any], expected: set[str], tmp_path: Path
) -> None:
    assert made(upgrade(tmp_path, found, values)) == expected


def test_an_install_deletes_nothing(tmp_path: Path) -> None:
    """So it has nothing to refuse, and asks for no right to read Secrets of which it makes none."""
    with sham_api(tmp_path, secrets(OWN)) as api:
        options = ("--dry-run=server", "--kubeconfig", str(api.kubeconfig))
        assert not made(render({"credentials": {"create": "never"}}, options=options))


def test_three_brokers_do_not_become_one(tmp_path: Path) -> None:
    """By an upgrade. A rollback renders nothing; the way back from there is open."""
    place = {"name": "warren-rabbitmq", "namespace": "warren"}
    spec = {"replicas": 3, "volumeClaimTemplates": [CLAIM]}
    broker = {"apiVersion": "apps/v1", "kind": "StatefulSet", "metadata": place, "spec": spec}
    claim = {**place, "name": "data-warren-rabbitmq-1"}
    second = {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": claim}
    with pytest.raises(ChartError, match=r"RabbitMQ runs on 3 nodes here"):
        upgrade(tmp_path, [broker, second], {})
    rolled_back = {**broker, "spec": {**spec, "replicas": 1}}
    with pytest.raises(ChartError, match=r"broker\.replicas is 1, but there is the volume data-warren-rabbitmq-1"):
        upgrade(tmp_path, [rolled_back, second], {})
    names = map(identity, upgrade(tmp_path, [rolled_back, second], {"broker": {"replicas": 3}}))
    assert "StatefulSet/warren-rabbitmq" in names


def broker(
    name: str = "warren-rabbitmq", *, chart: str = "warren", component: str = "rabbitmq", annotations: dict[str, str]
) -> Manifest:
    """A StatefulSet in the cluster, whose labels are not all the chart's."""
    selector = {"app.kubernetes.io/name": chart, "app.kubernetes.io/component": component}
    return {
        "apiVersion": "apps/v1",
        "kind": "StatefulSet",
        "metadata": {
            "name": name,
            "namespace": "warren",
            "annotations": annotations,
            "labels": {"app.kubernetes.io/component": "shop"},
        },
        "spec": {"replicas": 1, "selector": {"matchLabels": selector}, "volumeClaimTemplates": [CLAIM]},
    }


LOSING: list[tuple[dict[str, Any], str, str]] = [
    (
        {"broker": {"external": {"enabled": True, "existingSecret": "mine"}}},
        "broker.external.enabled: this upgrade",
        "Set broker.external.enabled to false",
    ),
    (
        {"fullnameOverride": "foo"},
        "names would begin with foo here, so this upgrade",
        "so that names begin with warren",
    ),
    (
        {"nameOverride": "foo"},
        "fullnameOverride, nameOverride: names would begin with warren-foo",
        "so that names begin with warren",
    ),
]
"""Values with which the release's broker is not rendered, and what is said of that."""


@pytest.mark.parametrize(("values", "cause", "remedy"), LOSING)
def test_a_running_broker_is_not_lost(values: dict[str, Any], cause: str, remedy: str, tmp_path: Path) -> None:
    """Helm deletes a broker that the rendering leaves out, with all that waits in it."""
    with pytest.raises(ChartError) as error:
        upgrade(tmp_path, [broker(annotations=OWN)], values)
    said = str(error.value)
    assert cause in said
    assert "would remove the broker warren-rabbitmq, which this release runs" in said
    assert remedy in said
    assert "kubectl -n warren delete statefulset warren-rabbitmq" in said
    assert upgrade(tmp_path, [], values), "the remedy works"


@pytest.mark.parametrize("values", [values for values, *_ in LOSING])
@pytest.mark.parametrize(
    "found",
    [
        broker(annotations={}),
        broker(annotations=OWN | {"meta.helm.sh/release-name": "other"}),
        broker(annotations=OWN | KEEP),
        broker("warren-store", component="store", annotations=OWN),
        broker("warren-own-rabbitmq", chart="own", annotations=OWN),
    ],
    ids=["by hand", "another release's", "kept", "another part's", "another chart's"],
)
def test_brokers_that_helm_leaves_are_no_hindrance(found: Manifest, values: dict[str, Any], tmp_path: Path) -> None:
    assert upgrade(tmp_path, [found], values)


def test_a_broker_that_stays_is_no_hindrance(tmp_path: Path) -> None:
    names = map(identity, upgrade(tmp_path, [broker(annotations=OWN)], {}))
    assert "StatefulSet/warren-rabbitmq" in names


@pytest.mark.parametrize(
    ("persistence", "said"),
    [
        ({"size": "8Gi"}, "size is 8Gi, but the broker that runs here was installed with 4Gi, and Kubernetes takes no"),
        ({"size": 5368709120}, "size is 5368709120, but the broker"),
        ({"storageClass": "fast"}, 'storageClass is "fast", but the broker that runs here was installed with ""'),
        ({"annotations": {"a": "b"}}, 'annotations are {"a":"b"}, but the broker that runs here was installed with {}'),
        ({"enabled": False}, "enabled is false, but the broker that runs here was installed with true"),
    ],
)
def test_a_running_broker_s_volume_is_settled(persistence: dict[str, Any], said: str, tmp_path: Path) -> None:
    """Kubernetes refuses it in words that name no value, after Helm has changed everything else."""
    values = {"broker": {"persistence": persistence}}
    with pytest.raises(ChartError) as error:
        upgrade(tmp_path, [broker(annotations=OWN)], values)
    assert f"broker.persistence: {said}" in str(error.value)
    assert upgrade(tmp_path, [], values), "without the StatefulSet, whose pods may run on, it can be had"


def test_what_others_have_added_to_a_volume_is_no_change(tmp_path: Path) -> None:
    """An admission webhook may choose the class, and note things."""
    found = broker(annotations=OWN)
    metadata = {**CLAIM["metadata"], "annotations": {"a": "b", "c": "d"}}
    spec = {**CLAIM["spec"], "storageClassName": "fast"}
    found["spec"]["volumeClaimTemplates"] = [{"metadata": metadata, "spec": spec}]
    assert upgrade(tmp_path, [found], {})
    assert upgrade(tmp_path, [found], {"broker": {"persistence": {"annotations": {"a": "b"}, "storageClass": "fast"}}})
    with pytest.raises(ChartError, match=r"annotations are"):
        upgrade(tmp_path, [found], {"broker": {"persistence": {"annotations": {"a": "x"}}}})


@pytest.mark.parametrize("size", ["4Gi", "4096Mi", 4294967296, "4294967296"])
def test_the_same_size_can_be_written_otherwise(size: str | int, tmp_path: Path) -> None:
    """Kubernetes keeps `4096Mi` as `4Gi`."""
    assert upgrade(tmp_path, [broker(annotations=OWN)], {"broker": {"persistence": {"size": size}}})


def test_a_broker_without_a_volume_stays_without_one(tmp_path: Path) -> None:
    found = broker(annotations=OWN)
    del found["spec"]["volumeClaimTemplates"]
    assert upgrade(tmp_path, [found], {"broker": {"persistence": {"enabled": False, "size": "8Gi"}}})
    with pytest.raises(ChartError, match=r"enabled is true, but the broker that runs here was installed with false"):
        upgrade(tmp_path, [found], {})


def operator(release: str, *, chart: str = "warren", component: str = "operator", replicas: int = 1) -> Manifest:
    """An operator's Deployment in the cluster."""
    labels = {
        "app.kubernetes.io/name": chart,
        "app.kubernetes.io/instance": release,
        "app.kubernetes.io/component": component,
    }
    place = {"name": f"{release}-{component}", "namespace": "warren"}
    spec = {"replicas": replicas, "selector": {"matchLabels": labels}}
    return {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": place, "spec": spec}


def test_a_namespace_is_for_one_release(tmp_path: Path) -> None:
    """Two operators would scale each other's workers by what is in brokers that know nothing of their tasks."""
    found = [operator("jobs")]
    with pytest.raises(ChartError, match=r"the release jobs has its operator in namespace warren already, and each of"):
        install(tmp_path, found, {})
    assert upgrade(tmp_path, found, {}), "what is there already is not in its own way"
    assert install(tmp_path, found, {"operator": {"replicas": 0}})
    elsewhere = {"queues": {"task_queue": None}, "operator": {"watchNamespaces": ["shop"]}}
    assert install(tmp_path, found, elsewhere)
    others = [operator("warren"), operator("jobs", replicas=0), operator("a", chart="b"), operator("c", component="d")]
    assert install(tmp_path, others, {})


def definition(version: str | None, *, differs: bool = True) -> Manifest:
    """The WorkQueue definition in the cluster."""
    wanted = yaml.safe_load((CHART / "crds" / "workqueues.yaml").read_text("utf-8"))
    found = copy.deepcopy(wanted)
    assert isinstance(found, dict)
    found["metadata"]["annotations"] = {"a": "b"} if version is None else {"warren.dev/chart-version": version}
    if differs:
        found["spec"]["versions"][0]["additionalPrinterColumns"] = []
    return found


@pytest.mark.parametrize(
    "version", [None, "0.0.9", "0.0.9+x", "0.1.0", "0.1.0-rc.1", "newest", "99", "099.0.0", "v1.2.3"]
)
def test_a_definition_that_differs_is_brought_up_to_date(version: str | None, tmp_path: Path) -> None:
    """By a Job whose account can read and replace this one definition."""
    manifests = upgrade(tmp_path, [definition(version)], {})
    assert find(manifests, "Job", "warren-crd-upgrade")
    (rule,) = find(manifests, "ClusterRole", "warren-warren-crd-upgrade")["rules"]
    assert rule["resourceNames"] == ["workqueues.warren.dev"]
    assert rule["verbs"] == ["get", "update"]


@pytest.mark.parametrize(
    "found",
    [
        definition("0.0.9", differs=False),
        *(definition(version) for version in ("0.1.1", "0.2.0-rc.1", "0.10.0", "1.0.0+x")),
    ],
    ids=lambda found: found["metadata"]["annotations"]["warren.dev/chart-version"],
)
def test_a_definition_that_serves_is_left_alone(found: Manifest, tmp_path: Path) -> None:
    """One like the chart's, and one of a newer chart: it is for all releases of the cluster."""
    assert not [item for item in upgrade(tmp_path, [found], {}) if "crd-upgrade" in item["metadata"]["name"]]


def user(name: str, **keys: str) -> Manifest:
    """A Secret of the user's own with these keys."""
    data = {key: base64.b64encode(text.encode()).decode() for key, text in keys.items()}
    return secret(name, {}) | {"data": data}


def install(folder: Path, found: list[Manifest], values: dict[str, Any]) -> list[Manifest]:
    """What a first install renders where these objects are found."""
    with sham_api(folder, found) as api:
        return render(values, options=("--dry-run=server", "--kubeconfig", str(api.kubeconfig)))


MINE = user("mine", **{"erlang-cookie": "c", "definitions.json": "{}"})


@pytest.mark.parametrize(
    ("given", "named"),
    [
        (
            [],
            "for producer, worker, operator, who could not log in. Set credentials.existingSecrets.producer, .worker, ",
        ),
        (
            ["worker"],
            "for producer, operator, who could not log in. Set credentials.existingSecrets.producer, .operator too",
        ),
    ],
)
def test_users_that_the_broker_would_not_know_are_not_made(given: list[str], named: str, tmp_path: Path) -> None:
    """Where the broker's users come from a Secret of the user's own."""
    existing = {"rabbitmq": "mine", **{part: f"my-{part}" for part in given}}
    with pytest.raises(ChartError) as error:
        install(tmp_path, [MINE], {"credentials": {"existingSecrets": existing}})
    assert named in str(error.value)
    all_parts = existing | {part: f"my-{part}" for part in ("producer", "worker", "operator")}
    manifests = install(tmp_path, [MINE], {"credentials": {"existingSecrets": all_parts}})
    assert made(manifests) == {"warren-tokens"}, "the remedy works"
    manifests = upgrade(tmp_path, secrets(OWN | KEEP), {"credentials": {"existingSecrets": {"rabbitmq": "mine"}}})
    assert "warren-broker-worker" in made(manifests), "one that is kept may be among the users"


@pytest.mark.parametrize(
    ("names", "users", "sentence"),
    [
        (
            {"producer": "mine", "worker": "mine", "operator": "mine"},
            [user("mine", username="app", password="p")],
            "operator and producer would both be the broker's user app, but each has rights of its own there: name ",
        ),
        (
            {"operator": "mine"},
            [user("mine", username="warren-worker", password="p")],
            "operator and worker would both be the broker's user warren-worker",
        ),
        (
            {"worker": "mine"},
            [user("mine", username="guest", password="p")],
            "credentials.existingSecrets.worker: its user is guest, who may log in from the broker's own host only",
        ),
        (
            {"worker": "mine"},
            [user("mine", password="p")],
            "is not in namespace warren or lacks one of the keys `username` and `password`: create it first",
        ),
    ],
)
def test_each_part_has_a_user_of_its_own(
    names: dict[str, str], users: list[Manifest], sentence: str, tmp_path: Path
) -> None:
    with pytest.raises(ChartError) as error:
        install(tmp_path, users, {"credentials": {"existingSecrets": names}})
    assert sentence in str(error.value)


def test_the_broker_is_told_a_password_as_the_parts_read_it(tmp_path: Path) -> None:
    """A Secret that was made from a file often ends in a line feed, which no part sends along."""
    found = user("mine", username="app\n", password="p\n")
    manifests = install(tmp_path, [found], {"credentials": {"existingSecrets": {"worker": "mine"}}})
    definitions = yaml.safe_load(secret_text(find(manifests, "Secret", "warren-rabbitmq"), "definitions.json"))
    passwords = {known["name"]: known.get("password") for known in definitions["users"]}
    folder = tmp_path / "mounted"
    folder.mkdir()
    for key in ("username", "password"):
        (folder / key).write_text(secret_text(found, key), "utf-8")
    settings = BrokerSettings.load({"WARREN_BROKER_DIR": str(folder), "WARREN_BROKER_HOST": "warren-rabbitmq"})
    assert passwords[settings.username] == settings.password


def test_one_user_for_all_is_for_a_broker_of_one_s_own(tmp_path: Path) -> None:
    """There, and where the broker's users are the user's own, the chart gives nobody rights."""
    names = {"producer": "one", "worker": "one", "operator": "one"}
    one = user("one", username="app", password="p")
    external = {"external": {"enabled": True}}
    assert install(tmp_path, [one], {"credentials": {"existingSecrets": names}, "broker": external})
    assert install(tmp_path, [one, MINE], {"credentials": {"existingSecrets": {**names, "rabbitmq": "mine"}}})
