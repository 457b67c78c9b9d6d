"""What the chart refuses, and whether it says what is wrong and what to do."""

import json
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
import yaml
from chart import CHART, ChartError, Manifest, find, helm, pod_spec, render

from warren_producer.settings import MAX_MESSAGE


def nested(path: str, value: Any) -> dict[str, Any]:
    """`a/b` → {a: {b: value}}."""
    result = value
    for key in reversed(path.split("/")):
        result = {key: result}
    assert isinstance(result, dict)
    return result


def refusal(values: dict[str, Any]) -> str:
    """Helm's words."""
    with pytest.raises(ChartError) as error:
        render(values)
    return str(error.value)


def test_lint_finds_nothing(variant: dict[str, Any]) -> None:
    """Helm's own linter, strictly."""
    assert "0 chart(s) failed" in helm("lint", "--strict", str(CHART), "--kube-version", "1.34.0", values=variant)


@pytest.mark.parametrize(
    "path",
    [
        "queue",
        "image/tags",
        "log/colour",
        "queues/mail/handlr",
        "queues/mail/replicas/minimum",
        "queues/mail/target/backlog",
        "queues/mail/retry/attempts",
        "queues/mail/exec/program",
        "queues/mail/recycle/tasks",
        "queues/mail/behavior/scaleup",
        "queues/mail/podDisruptionBudget/min",
        "worker/replica",
        "worker/resources/request",
        "producer/ingress/hosts",
        "producer/service/ports",
        "operator/replica",
        "operator/image/repo",
        "broker/replicaCount",
        "broker/persistence/storageClassName",
        "broker/external/host",
        "broker/tutorialUser/password",
        "credentials/existingSecret",
        "credentials/existingSecrets/token",
        "crds/install",
        "networkPolicy/from",
        "serviceMonitor/label",
    ],
)
def test_a_typing_error_is_refused(path: str) -> None:
    """Nothing is guessed at or passed over; the message names the key."""
    said = refusal(nested(path, {"enabled": True}))
    assert f"additional properties '{path.rsplit('/', 1)[-1]}' not allowed" in said


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("worker/timeLimit", "25 minutes"),
        ("worker/timeLimit", 1500),
        ("queues/mail/retry/minDelay", "1"),
        ("queues/mail/messageTTL", "-1s"),
        ("queues/mail/replicas/max", -1),
        ("queues/mail/target/backlogPerWorker", 0),
        ("queues/mail/concurrency", 0),
        ("queues/mail/executor", "greenlet"),
        ("queues/mail/handler", "dots()"),
        ("queues/mail/exec/command", "cat"),
        ("queues/mail/http/url", "localhost:9000"),
        ("queues/mail/http/url", "http://user:password@mailer/"),
        ("queues/mail/http/url", "http://:9000/"),
        ("queues/mail/recycle/maxMemory", "200MB"),
        ("queues/mail/maxBodyBytes", 0),
        ("queues/mail/maxBodyBytes", MAX_MESSAGE + 1),
        ("producer/maxBodyBytes", MAX_MESSAGE + 1),
        ("queues/mail/mode", "DryRun"),
        ("queues/mail/fallback", {"afterFailures": 3}),
        ("queues/mail/name", "Mail_Queue"),
        ("queues/mail/env", {"A-B": "c"}),
        ("log/level", "INFO"),
        ("producer/ingress/path", "tasks"),
        ("producer/resources/limits", {"memory": "1 Gi"}),
        ("image/pullPolicy", "Sometimes"),
        ("image/tag", "a b"),
        ("broker/extraPlugins", ["rabbitmq_shovel]."]),
        ("broker/persistence/size", "4 GB"),
        ("operator/watchNamespaces", ["a", "*"]),
        ("operator/lookCores", 0),
        ("operator/lookCores", 1.5),
        ("operator/lookCores", "200m"),
        ("credentials/create", "maybe"),
    ],
)
def test_a_wrong_value_is_refused_by_its_path(path: str, value: Any) -> None:
    """The message says where."""
    said = refusal(nested(path, value))
    keys = path.split("/")
    assert f"at '/{keys[0]}" in said
    assert keys[-1] in said


def test_the_schema_says_nothing_twice() -> None:
    """Of two equal keys in one object the last one counts, and whoever reads the first is misled."""

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        twice = [key for key, count in Counter(key for key, _ in pairs).items() if count > 1]
        assert not twice
        return dict(pairs)

    json.loads((CHART / "values.schema.json").read_text("utf-8"), object_pairs_hook=once)


def test_workers_may_take_longer_bodies_than_the_producer() -> None:
    """Their queue may be fed by others, from a broker with a larger `max_message_size`."""
    manifests = render({"worker": {"maxBodyBytes": 536_870_912}, "queues": {"mail": {"maxBodyBytes": MAX_MESSAGE}}})
    limits = {}
    for queue in ("task-queue", "mail"):
        spec = pod_spec(find(manifests, "Deployment", f"warren-worker-{queue}"))
        assert spec is not None
        (limits[queue],) = (item["value"] for item in spec["containers"][0]["env"] if item["name"] == "WARREN_MAX_BODY")
    assert limits == {"task-queue": "536870912", "mail": "16777216"}


@pytest.mark.parametrize(
    "path",
    [
        "queues",
        "worker",
        "producer",
        "operator",
        "broker",
        "log",
        "image",
        "credentials",
        "networkPolicy",
        "worker/exec",
        "worker/http",
        "worker/replicas",
        "worker/retry",
        "worker/retry/minDelay",
        "worker/timeLimit",
        "producer/service",
        "producer/submitTimeout",
        "operator/serviceAccount/create",
        "broker/persistence",
        "broker/external",
    ],
)
def test_a_key_with_nothing_below_it_is_named(path: str) -> None:
    """As when all that stood below it was commented out: Helm takes the chart's own values away then."""
    parent, _, key = path.rpartition("/")
    assert f"at '{f'/{parent}' if parent else ''}': missing propert" in (said := refusal(nested(path, None)))
    assert f"'{key}'" in said


def scalars(tree: dict[str, Any], path: str = "") -> Iterator[str]:
    """Defaults that are neither empty nor a map or list, by their paths; what queues there are is not a default."""
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from scalars(value, f"{path}{key}.")
        elif value and not isinstance(value, list):
            yield f"{path}{key}"


DEFAULTS = [
    path
    for path in scalars(yaml.safe_load((CHART / "values.yaml").read_text("utf-8")))
    if not path.startswith("queues.") and ".resources." not in path
]
"""Without resources, where null is the way to have none of one."""

SWITCHED_ON: dict[str, Any] = {
    "queues": {"mail": {}},
    "worker": {"podDisruptionBudget": {"enabled": True}},
    "producer": {"ingress": {"enabled": True, "host": "x"}, "podDisruptionBudget": {"enabled": True}},
    "operator": {"podDisruptionBudget": {"enabled": True}},
    "serviceMonitor": {"enabled": True},
}
"""With these, nearly every default shows in the rendering."""

NAMED_OTHERWISE = {"worker.target.backlogPerWorker": "at '/worker/target': minProperties: got 0, want 1"}
"""With maxWait beside it, it may be left out."""


@pytest.fixture(scope="module")
def switched_on() -> list[Manifest]:
    """What the chart's defaults give."""
    return render(SWITCHED_ON)


@pytest.mark.parametrize("path", DEFAULTS)
def test_a_default_that_is_emptied_is_named(switched_on: list[Manifest], path: str) -> None:
    """As with `key:` in a values file: Helm takes the default away then, and no 0, "" or nothing may take its place."""
    key = path.rpartition(".")[2]
    names = (NAMED_OTHERWISE.get(path, path), f"missing property '{key}'")
    try:
        rendered = render(SWITCHED_ON, options=["--set", f"{path}=null"])
    except ChartError as error:
        said = str(error)
    else:
        assert rendered == switched_on
        return
    assert any(name in said for name in names), said


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"producer": {"submitTimeout": "0s"}}, "producer.submitTimeout is 0s: write how long a submit may wait"),
        ({"producer": {"submitTimeout": "2h"}}, "from 1ms to 1h, such as 10s"),
        ({"broker": {"replicas": 2}}, "broker.replicas is 2: set it to 1, or to 3 to outlive the loss of any one node"),
        ({"broker": {"replicas": 5}}, "other sizes are for a cluster of your own, see broker.external"),
        ({"broker": {"external": {"enabled": True}}}, "set broker.external.existingSecret"),
        (
            {"broker": {"external": {"enabled": True, "existingSecret": "x"}, "tutorialUser": {"enabled": True}}},
            "create the user in your broker yourself",
        ),
        (
            {"broker": {"tutorialUser": {"enabled": True}}, "credentials": {"existingSecrets": {"rabbitmq": "x"}}},
            "broker.tutorialUser.enabled has no say where credentials.existingSecrets.rabbitmq names a Secret of yours",
        ),
        (
            {"credentials": {"create": "always", "existingSecrets": {"rabbitmq": "x"}}},
            "would make new ones for producer, worker, operator, who could not log in",
        ),
        ({"broker": {"resources": {"limits": {"memory": "1E"}}}}, "write a number of bytes"),
        ({"producer": {"ingress": {"enabled": True}}}, "needs producer.ingress.host"),
        *(
            ({"queues": {name: {}}}, f"queues.{name} is no name for a queue: write 1 to 200 of a-z, A-Z, 0-9, ")
            for name in ("a mail", "-mail", "orders/eu", "grün", "a" * 201, "")
        ),
        ({"queues": {"mail": None}}, "queues.mail has nothing below it: write {} for a queue that takes all"),
        ({"operator": {"budgets": {"a b": 1}}}, "operator.budgets.a b is no name for a budget: write 1 to 63"),
        ({"queues": {"amq.mail": {}}}, "reserved; choose another"),
        ({"queues": {"warren.mail": {}}}, "reserved; choose another"),
        ({"queues": {"mail.dead": {}}}, "reserved; choose another"),
        ({"queues": {"a" * 64: {}}}, "give it a shorter one with queues."),
        ({"queues": {"mail_in": {}, "mail-in": {}}}, "would both be called mail-in in Kubernetes"),
        ({"queues": {"mail": {}, "post": {"name": "mail"}}}, "would both be called mail in Kubernetes"),
        ({"queues": {"mail": {}, "mail..": {}}}, "would both be called mail in Kubernetes"),
        ({"queues": {"mail": {"handler": "exec"}}}, "handler exec needs queues.mail.exec.command"),
        ({"queues": {"mail": {"handler": "http"}}}, "handler http needs queues.mail.http.url"),
        (
            {"queues": {"mail": {"handler": "exec", "exec": {"command": ["", "-"]}}}},
            "queues.mail.exec.command begins with an empty text: write the program first, then its arguments",
        ),
        *(
            (
                {"queues": {"mail": {"handler": "http", "http": {"url": f"http://{host}:{port}/tasks"}}}},
                f"queues.mail.http.url has the port {port}: write one from 1 to 65535, such as",
            )
            for host, port in [("mailer", "99999"), ("mailer", "0"), ("[::1]", "65536"), ("mailer", "smtp")]
        ),
        (
            {"queues": {"mail": {"handler": "exec", "exec": {"command": ["cat"]}, "executor": "thread"}}},
            "set queues.mail.executor to process",
        ),
        ({"queues": {"mail": {"env": {"WARREN_QUEUE": "post"}}}}, "queues.mail: its env or extraEnv has WARREN_QUEUE"),
        (
            {"worker": {"extraEnv": [{"name": "WARREN_TIME_LIMIT", "value": "1h"}]}},
            "queues.task_queue: its env or extraEnv has WARREN_TIME_LIMIT, which the chart sets by itself: leave",
        ),
        (
            {"queues": {"mail": {"env": {"GUILD": 123456789012345678}}}},
            "queues.mail: its env has the number GUILD with more digits than Helm keeps, so it might be another one",
        ),
        ({"worker": {"env": {"GUILD": -123456789012345678}}}, "queues.task_queue: its env has the number GUILD with"),
        ({"queues": {"mail": {"replicas": {"min": 11}}}}, "replicas.min is 11 and replicas.max is 10"),
        ({"queues": {"mail": {"retry": {"minDelay": "10m"}}}}, "retry.minDelay is 10m and retry.maxDelay is 5m"),
        (
            {"worker": {"retry": {"minDelay": "10m"}}, "queues": {"task_queue": {"retry": {"maxDelay": "1h"}}}},
            "worker.retry.minDelay is 10m and retry.maxDelay is 5m; min must not be above max",
        ),
        ({"worker": {"timeLimit": "721h"}, "queues": {"task_queue": {"timeLimit": "1h"}}}, "worker.timeLimit is 721h:"),
        ({"worker": {"retry": {"maxDelay": "43201m"}}}, "worker.retry.maxDelay is 43201m: write at most 720h"),
        ({"queues": {"mail": {"timeLimit": "720h1ms"}}}, "queues.mail: timeLimit is 720h1ms: write at most 720h"),
        ({"queues": {"mail": {"retry": {"maxDelay": f"{'9' * 23}h"}}}}, "queues.mail: retry.maxDelay is 999"),
        ({"queues": {"mail": {"messageTTL": "1000h"}}}, "queues.mail: messageTTL is 1000h: write at most 720h"),
        ({"queues": {"mail": {"target": {"maxWait": "1000h"}}}}, "queues.mail: target.maxWait is 1000h: write at most"),
        (
            {"queues": {"mail": {"behavior": {"scaleDown": {"stabilization": "1000h"}}}}},
            "queues.mail: behavior.scaleDown.stabilization is 1000h: write at most 720h",
        ),
        ({"queues": {"mail": {"image": {"repository": "mail"}}}}, "set queues.mail.image.tag or .digest"),
        ({"broker": {"image": {"tag": None}}}, "broker.image names the repository rabbitmq but no version: set broker"),
        ({"broker": {"image": {"tag": ""}}}, "set broker.image.tag or .digest to a RabbitMQ of 4.3.1 or later"),
        ({"broker": {"image": {"repository": None}}}, "broker.image.repository is empty: leave it out"),
        ({"operator": {"image": {"repository": ""}}}, "operator.image.repository is empty: leave it out"),
        ({"queues": {"mail": {"messageTTL": "0s"}}}, "queues.mail: messageTTL is 0s: write how long a task may wait"),
        ({"queues": {"mail": {"timeLimit": "0ms"}}}, "queues.mail: timeLimit is 0ms: write how long one task may take"),
        ({"worker": {"timeLimit": "0s"}}, "worker.timeLimit is 0s: write how long one task may take, such as 25m"),
        ({"worker": {"target": {"maxWait": "0s"}}}, "target.maxWait is 0s: write how long a task may wait"),
        (
            {"operator": {"watchNamespaces": ["shop", "post"]}, "queues": {"mail": {}}},
            "leaves out warren, where this release has the queues mail, task_queue, which nobody would scale: add",
        ),
    ],
)
def test_what_cannot_work_is_refused_with_a_remedy(values: dict[str, Any], sentence: str) -> None:
    """What the schema cannot say, a sentence does."""
    assert sentence in refusal(values)


def test_sidecars_need_a_kubernetes_that_has_them() -> None:
    """An older one drops the word that makes them sidecars, and waits for their end before it starts the worker."""
    values = {"queues": {"mail": {"sidecars": [{"name": "mailer", "image": "shop/mailer:3"}]}}}
    with pytest.raises(ChartError, match=r"queues.mail: sidecars need Kubernetes 1.29, and this is v1.28.15, where"):
        render(values, options=["--kube-version", "1.28.15"])
    assert render(options=["--kube-version", "1.28.15"])
    assert render(values, options=["--kube-version", "1.29.0-eks-1"])


def test_two_parts_may_share_an_account_that_one_of_them_makes() -> None:
    """Made twice, it would be refused after everything before it has been made."""
    shared = {"serviceAccount": {"name": "shared"}}
    said = refusal({"worker": shared, "producer": shared})
    assert "worker.serviceAccount and producer.serviceAccount would both make the ServiceAccount shared: set" in said
    using = {"serviceAccount": {"name": "shared", "create": False}}
    manifests = render({"worker": shared, "producer": using})
    assert find(manifests, "ServiceAccount", "shared")
    assert render({"worker": shared, "broker": {**shared, "external": {"enabled": True, "existingSecret": "mine"}}})


@pytest.mark.parametrize(
    "url",
    [
        "http://mailer",
        "https://mailer:443",
        "http://mailer:/",
        "http://[::1]/",
        "http://[::1]:65535",
        "http://m/a:b?c:d",
    ],
)
def test_a_service_s_address_is_passed_on_as_it_is(url: str) -> None:
    """With a port or without one, and whatever stands behind the host."""
    manifests = render({"queues": {"mail": {"handler": "http", "http": {"url": url}}}})
    spec = pod_spec(find(manifests, "Deployment", "warren-worker-mail"))
    assert spec is not None
    assert {"name": "WARREN_HTTP_URL", "value": url} in spec["containers"][0]["env"]


def test_a_broker_s_digest_needs_no_tag() -> None:
    """What the refusal of an image without a version names as the second remedy works."""
    digest = f"sha256:{'0' * 64}"
    manifests = render({"broker": {"image": {"tag": None, "digest": digest}}})
    spec = pod_spec(find(manifests, "StatefulSet", "warren-rabbitmq"))
    assert spec is not None
    assert spec["containers"][0]["image"] == f"rabbitmq@{digest}"


def test_names_that_collide_can_be_parted() -> None:
    """The remedy that the refusal names works."""
    names = {
        item["metadata"]["name"]
        for item in render({"queues": {"mail_in": {}, "mail-in": {"name": "mail-in-2"}}})
        if item["kind"] == "WorkQueue"
    }
    assert names == {"mail-in", "mail-in-2", "task-queue"}


@pytest.mark.parametrize("release", ["123", "1-warren", "eu.west", f"{'r' * 38}.x.warren"])
def test_a_release_whose_services_could_not_be_named_is_refused(release: str) -> None:
    """Kubernetes would refuse them after everything else has been made. Once it is there, nothing is in its way."""
    with pytest.raises(ChartError, match=r"set fullnameOverride to one, such as warren"):
        render(release=release)
    assert find(render({"fullnameOverride": "warren"}, release=release), "Service", "warren-producer")
    assert render(release=release, options=["--is-upgrade"])


def test_an_old_kubernetes_is_refused() -> None:
    """The chart says what it needs."""
    with pytest.raises(ChartError, match="requires kubeVersion"):
        render(options=["--kube-version", "1.27.0"])


def test_the_readme_names_every_value() -> None:
    """Each leaf of values.yaml stands in the table of the chart's README, or in the sentence on what all parts take."""
    text = (CHART / "README.md").read_text("utf-8")
    values = yaml.safe_load((CHART / "values.yaml").read_text("utf-8"))

    def leaves(tree: Any, path: str) -> set[str]:
        if not isinstance(tree, dict) or not tree or path in ("queues", "broker.resources", "worker.strategy"):
            return {path}
        return {leaf for key, value in tree.items() for leaf in leaves(value, f"{path}.{key}".removeprefix("."))}

    rows = [line for line in text.splitlines() if line.startswith("| `")]
    common = text[text.index("also take `image`") :]
    missing = []
    for leaf in leaves(values, ""):
        part, _, rest = leaf.partition(".")
        shared = part in ("worker", "producer", "operator", "broker") and f"`{rest.partition('.')[0]}`" in common
        parent, _, last = leaf.rpartition(".")
        told = any(
            f"`{leaf}`" in row or f"`{leaf}." in row or (f"`{parent}." in row and f"`.{last}`" in row) for row in rows
        )
        if not shared and not told and leaf != "queues":
            missing.append(leaf)
    assert not missing
