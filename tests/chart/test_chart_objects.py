"""What the chart makes: who may do what, who runs how, and what an upgrade leaves alone."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml
from chart import CHART, KUBE_VERSION, Manifest, find, helm, identity, pod_spec, render, secret_text
from chart_variants import EVERYTHING

from warren_contract.aio import CLOSE_LIMIT
from warren_contract.durations import parse_duration
from warren_operator.resource import parse_spec
from warren_operator.settings import Settings
from warren_producer.__main__ import LINGER, graceful_limit
from warren_producer.settings import ProducerSettings

TOKEN_HOLDERS = {"Deployment/warren-operator", "Job/warren-crd-upgrade"}
"""The only pods that talk to Kubernetes."""


def pods(manifests: list[Manifest]) -> dict[str, dict[str, Any]]:
    """Pod specs by the objects that make them."""
    return {identity(item): spec for item in manifests if (spec := pod_spec(item)) is not None}


def env(spec: dict[str, Any]) -> dict[str, Any]:
    """Environment of the first container; None where it comes from elsewhere."""
    return {item["name"]: item.get("value") for item in spec["containers"][0]["env"]}


def test_every_pod_runs_with_the_least(variant: dict[str, Any]) -> None:
    """Pod Security Standard "restricted", a read-only root, a memory limit, and no token without need."""
    found = pods(render(variant))
    assert {"Deployment/warren-producer", "Deployment/warren-operator", "Pod/warren-test-task"} <= found.keys()
    for name, spec in found.items():
        security = spec["securityContext"]
        assert security["runAsNonRoot"] is True, name
        assert security["runAsUser"] in (10001, 999), name
        assert security["seccompProfile"] == {"type": "RuntimeDefault"}, name
        assert spec["automountServiceAccountToken"] is (name in TOKEN_HOLDERS), name
        assert spec["enableServiceLinks"] is False, name
        assert "hostNetwork" not in spec
        for volume in spec["volumes"]:
            assert "hostPath" not in volume, name
        for container in spec["containers"]:
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }, name
            assert container["resources"]["limits"]["memory"], name
            assert container["resources"]["requests"]["cpu"], name
            assert {mount["mountPath"] for mount in container["volumeMounts"]} >= {"/tmp"}, name  # noqa: S108


def test_no_account_gives_its_token_away(variant: dict[str, Any]) -> None:
    """A pod has to ask for it."""
    for item in render(variant):
        if item["kind"] == "ServiceAccount":
            assert item["automountServiceAccountToken"] is False


def test_each_part_sees_its_own_secrets_only(variant: dict[str, Any]) -> None:
    """The worker cannot read the producer's password, nor the API tokens."""
    own = {
        "producer": {"warren-broker-producer", "warren-tokens"},
        "operator": {"warren-broker-operator"},
        "worker": {"warren-broker-worker"},
        "rabbitmq": {"warren-rabbitmq"},
        "test": {"warren-tokens"},
    }
    for item in render({**variant, "broker": {**variant.get("broker", {}), "external": {"enabled": False}}}):
        if spec := pod_spec(item):
            mounted = {volume["secret"]["secretName"] for volume in spec["volumes"] if "secret" in volume}
            assert mounted == own[item["metadata"]["labels"]["app.kubernetes.io/component"]], identity(item)


OPERATOR_RIGHTS = {
    ("warren.dev", "workqueues", "list"),
    ("warren.dev", "workqueues", "watch"),
    ("warren.dev", "workqueues/status", "patch"),
    ("apps", "deployments", "list"),
    ("apps", "deployments", "watch"),
    ("apps", "deployments/scale", "patch"),
    ("apps", "replicasets", "list"),
    ("apps", "replicasets", "watch"),
    ("autoscaling", "horizontalpodautoscalers", "list"),
    ("autoscaling", "horizontalpodautoscalers", "watch"),
    ("", "pods", "list"),
    ("", "pods", "watch"),
    ("", "pods", "patch"),
    ("", "events", "create"),
}


def rights(role: Manifest) -> set[tuple[str, str, str]]:
    """(API group, resource, verb) of a role."""
    return {
        (group, resource, verb)
        for rule in role["rules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }


@pytest.mark.parametrize(
    ("namespaces", "kind", "where"),
    [
        ([], "Role", ["warren"]),
        (["warren", "shop"], "Role", ["warren", "shop"]),
        (["*"], "ClusterRole", [None]),
    ],
)
def test_the_operator_s_rights(namespaces: list[str], kind: str, where: list[str | None]) -> None:
    """Exactly these, exactly there, for exactly its account; nobody else has any."""
    manifests = render({"operator": {"watchNamespaces": namespaces}})
    roles = [
        item
        for item in manifests
        if item["kind"] in ("Role", "ClusterRole") and not item["metadata"]["name"].endswith("-lease")
    ]
    assert {item["kind"] for item in roles} == {kind}
    assert [item["metadata"].get("namespace") for item in roles] == where
    for role in roles:
        assert rights(role) == OPERATOR_RIGHTS
        bindings = [
            item
            for item in manifests
            if item["kind"] == f"{kind}Binding"
            and item["metadata"]["name"] == role["metadata"]["name"]
            and item["metadata"].get("namespace") == role["metadata"].get("namespace")
        ]
        (binding,) = bindings
        assert binding["roleRef"]["name"] == role["metadata"]["name"]
        assert binding["subjects"] == [{"kind": "ServiceAccount", "name": "warren-operator", "namespace": "warren"}]
    operator = pods(manifests)["Deployment/warren-operator"]
    assert env(operator)["WARREN_NAMESPACES"] == (",".join(namespaces) or None)


def test_an_operator_without_queues_of_its_own_may_look_elsewhere() -> None:
    """Where the release has none, it needs no rights in its own namespace, and gets none there."""
    manifests = render({"queues": {"task_queue": None}, "operator": {"watchNamespaces": ["shop", "post"]}})
    roles = [
        item["metadata"] for item in manifests if item["kind"] == "Role" and item["metadata"]["name"][-5:] != "lease"
    ]
    assert [role["namespace"] for role in roles] == ["shop", "post"]


@pytest.mark.parametrize("namespaces", [[], ["warren", "shop"], ["*"]])
def test_one_operator_acts_at_a_time(namespaces: list[str]) -> None:
    """The lease is in the release's own namespace, whatever is watched; other leases are no business of its."""
    manifests = render({"operator": {"watchNamespaces": namespaces, "replicas": 2}})
    role = find(manifests, "Role", "warren-operator-lease")
    assert role["metadata"]["namespace"] == "warren"
    assert rights(role) == {("coordination.k8s.io", "leases", verb) for verb in ("create", "get", "update")}
    for rule in role["rules"]:
        assert rule["verbs"] == ["create"] or rule["resourceNames"] == ["warren-operator"]
    binding = find(manifests, "RoleBinding", "warren-operator-lease")
    assert binding["roleRef"]["name"] == role["metadata"]["name"]
    assert binding["subjects"] == [{"kind": "ServiceAccount", "name": "warren-operator", "namespace": "warren"}]
    deployment = find(manifests, "Deployment", "warren-operator")
    assert deployment["spec"]["replicas"] == 2
    assert deployment["spec"]["strategy"]["rollingUpdate"] == {"maxSurge": 1, "maxUnavailable": 0}
    operator = pods(manifests)["Deployment/warren-operator"]
    assert env(operator)["WARREN_LEASE"] == "warren/warren-operator"
    assert operator["topologySpreadConstraints"][0]["whenUnsatisfiable"] == "ScheduleAnyway"


def test_the_operator_leaves_a_lost_node_soon() -> None:
    operator = pods(render())["Deployment/warren-operator"]
    assert {item["key"]: item["tolerationSeconds"] for item in operator["tolerations"]} == {
        "node.kubernetes.io/not-ready": 5,
        "node.kubernetes.io/unreachable": 5,
    }


@pytest.mark.parametrize(
    ("limit", "seconds"), [("25m", 1560), ("1s", 61), ("1h30m", 5460), ("500ms", 61), ("1.5s", 62), ("1m0.5s", 121)]
)
def test_the_grace_period_is_the_time_limit_and_a_minute(limit: str, seconds: int) -> None:
    """This is what lets a worker finish its task at every scale-in, rollout and drain."""
    for values in ({"worker": {"timeLimit": limit}}, {"queues": {"task_queue": {"timeLimit": limit}}}):
        manifests = render(values)
        spec = pods(manifests)["Deployment/warren-worker-task-queue"]
        assert spec["terminationGracePeriodSeconds"] == seconds
        assert env(spec)["WARREN_TIME_LIMIT"] == limit
        assert find(manifests, "WorkQueue", "task-queue")["spec"]["timeLimit"] == limit


def test_replicas_of_workers_are_the_operator_s(variant: dict[str, Any]) -> None:
    """A Deployment with `replicas` would be set back by every upgrade."""
    for item in render(variant):
        if item["kind"] == "Deployment" and item["metadata"]["labels"]["app.kubernetes.io/component"] == "worker":
            assert "replicas" not in item["spec"]


def test_a_queue_is_a_deployment_and_a_work_queue() -> None:
    """Both follow the entry, and what the entry leaves out follows `worker`."""
    manifests = render(
        {
            "worker": {
                "concurrency": 2,
                "retry": {"maxAttempts": 9},
                "env": {"A": "1", "B": "1"},
                "replicas": {"min": 2},
            },
            "queues": {
                "mail.out:eu_1": {
                    "handler": "mail:send",
                    "replicas": {"min": 0, "max": 3},
                    "retry": {"minDelay": "2s"},
                    "env": {"B": "2"},
                    "messageTTL": "1h",
                }
            },
        }
    )
    work_queue = find(manifests, "WorkQueue", "mail-out-eu-1")
    assert work_queue["spec"] == {
        "queue": {"name": "mail.out:eu_1", "maxLength": 100000, "messageTTL": "1h"},
        "retry": {"maxAttempts": 9, "minDelay": "2s", "maxDelay": "5m"},
        "timeLimit": "25m",
        "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "warren-worker-mail-out-eu-1"},
        "concurrency": 2,
        "minReplicas": 0,
        "maxReplicas": 3,
        "target": {"backlogPerWorker": 5},
    }
    deployment = find(manifests, "Deployment", "warren-worker-mail-out-eu-1")
    assert deployment["spec"]["template"]["metadata"]["labels"]["warren.dev/queue"] == "mail-out-eu-1"
    spec = pod_spec(deployment)
    assert spec is not None
    assert {
        "WARREN_QUEUE": "mail.out:eu_1",
        "WARREN_HANDLER": "mail:send",
        "WARREN_CONCURRENCY": "2",
        "WARREN_MAX_ATTEMPTS": "9",
        "A": "1",
        "B": "2",
    }.items() <= env(spec).items()
    assert find(manifests, "WorkQueue", "task-queue")["spec"]["minReplicas"] == 2


def environment(manifests: list[Manifest], queue: str) -> dict[str, Any]:
    """The variables of a queue's workers."""
    spec = pod_spec(find(manifests, "Deployment", f"warren-worker-{queue}"))
    assert spec is not None
    return env(spec)


def test_programs_and_services_as_handlers() -> None:
    manifests = render(EVERYTHING)
    convert, mail, dots = (environment(manifests, queue) for queue in ("convert", "mail", "task-queue"))
    assert json.loads(convert["WARREN_EXEC_COMMAND"]) == ["convert", "-", 'png: "a"']
    assert (convert["WARREN_HANDLER"], convert["WARREN_MAX_BODY"]) == ("exec", "1000")
    assert (convert["WARREN_MAX_TASKS_PER_CHILD"], convert["WARREN_MAX_MEMORY_PER_CHILD"]) == ("1000", "200Mi")
    assert (mail["WARREN_HANDLER"], mail["WARREN_HTTP_URL"]) == ("http", "http://localhost:9000/tasks?a=b")
    assert dots["WARREN_MAX_BODY"] == "16777216"
    assert not {"WARREN_EXEC_COMMAND", "WARREN_HTTP_URL", "WARREN_MAX_TASKS_PER_CHILD"} & dots.keys()


def expanded(text: str) -> str:
    """What Kubernetes makes of a variable's text where it knows none of the names in it."""
    return re.sub(r"\$(\$|\([^)]*\))", lambda found: "$" if found[1] == "$" else found[0], text)


def test_a_program_is_called_as_it_is_written() -> None:
    """A shell's `$$` and `$(…)` are not for Kubernetes, nor is what looks like them in an address."""
    command = ["sh", "-c", "cat > /tmp/$$.in; n=$(wc -c < /tmp/$$.in); echo $n $((n + 1)) $$(x) $"]
    url = "http://localhost:9000/?price=$$1&of=$(NAME)"
    manifests = render(
        {
            "queues": {
                "run": {"handler": "exec", "exec": {"command": command}},
                "post": {"handler": "http", "http": {"url": url}},
            }
        }
    )
    assert json.loads(expanded(environment(manifests, "run")["WARREN_EXEC_COMMAND"])) == command
    assert expanded(environment(manifests, "post")["WARREN_HTTP_URL"]) == url


def test_a_sidecar_starts_before_the_worker_and_ends_after_it() -> None:
    spec = pod_spec(find(render(EVERYTHING), "Deployment", "warren-worker-mail"))
    assert spec is not None
    (sidecar,) = spec["initContainers"]
    assert (sidecar["name"], sidecar["image"], sidecar["restartPolicy"]) == ("mailer", "shop/mailer:3", "Always")
    assert sidecar["securityContext"]["readOnlyRootFilesystem"] is True
    assert sidecar["securityContext"]["runAsUser"] == 1000


def test_workers_can_be_replaced_at_once() -> None:
    """`Recreate` alone; Kubernetes refuses it beside the chart's `rollingUpdate`."""
    manifests = render({"queues": {"mail": {"strategy": {"type": "Recreate"}}}})
    assert find(manifests, "Deployment", "warren-worker-mail")["spec"]["strategy"] == {"type": "Recreate"}
    rolling = find(manifests, "Deployment", "warren-worker-task-queue")["spec"]["strategy"]
    assert rolling == {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": "25%", "maxUnavailable": "25%"}}


def test_the_example_queue_stays_away_where_helm_reuses_values(tmp_path: Path) -> None:
    """As in `helm upgrade --reuse-values`: the chart's values lack it by then, and the user's still have the null."""
    copy = tmp_path / "warren"
    shutil.copytree(CHART, copy)
    own = yaml.safe_load((copy / "values.yaml").read_text("utf-8"))
    (copy / "values.yaml").write_text(yaml.safe_dump({**own, "queues": {}}), "utf-8")
    values = {"queues": {"task_queue": None, "mail": {"maxBodyBytes": 5}}, "operator": {"watchNamespaces": ["warren"]}}
    text = helm("template", "warren", str(copy), "-n", "warren", "--kube-version", KUBE_VERSION, values=values)
    found = {identity(item) for item in yaml.safe_load_all(text) if item}
    assert {"WorkQueue/mail", "Deployment/warren-worker-mail"} <= found
    assert not [name for name in found if "task-queue" in name]


@pytest.mark.parametrize(("written", "meant"), [("1", 1), (2, 2), ("10%", "10%")])
def test_a_number_of_pods_may_stand_in_quotes(written: str | int, meant: str | int) -> None:
    """Kubernetes takes a text there for a percentage, and refuses one without a sign."""
    budget = {"enabled": True, "maxUnavailable": written}
    rolling = {"maxSurge": written, "maxUnavailable": written}
    manifests = render({"worker": {"strategy": {"rollingUpdate": rolling}, "podDisruptionBudget": budget}})
    found = find(manifests, "Deployment", "warren-worker-task-queue")["spec"]["strategy"]["rollingUpdate"]
    assert found == {"maxSurge": meant, "maxUnavailable": meant}
    assert find(manifests, "PodDisruptionBudget", "warren-worker-task-queue")["spec"]["maxUnavailable"] == meant


def test_the_example_queue_can_be_taken_away() -> None:
    """`task_queue: null`, and nothing of it is left."""
    manifests = render({"queues": {"task_queue": None}})
    assert not [item for item in manifests if item["kind"] == "WorkQueue" or "worker-task" in item["metadata"]["name"]]


def test_optional_fields_reach_the_work_queue() -> None:
    """And only where they are set."""
    fields = {
        "behavior": {"scaleUp": {"maxStep": 5}, "scaleDown": {"stabilization": "30s"}},
        "fallback": {"afterFailures": 5, "replicas": 2},
        "schedule": [{"start": "0 8 * * 1-5", "end": "0 18 * * 1-5", "timeZone": "Europe/Berlin", "minReplicas": 2}],
        "budget": {"name": "gpu", "priority": 2},
        "mode": "Recommend",
        "paused": True,
        "suspend": True,
    }
    spec = find(render({"queues": {"mail": fields}}), "WorkQueue", "mail")["spec"]
    assert {name: spec[name] for name in fields} == fields


@pytest.mark.parametrize(
    ("target", "written"),
    [
        ({}, {"backlogPerWorker": 5}),
        ({"target": {"maxWait": "30s"}}, {"maxWait": "30s"}),
        ({"target": {"maxWait": "30s", "backlogPerWorker": 9}}, {"maxWait": "30s", "backlogPerWorker": 9}),
    ],
)
def test_a_target_of_its_own_is_taken_whole(target: dict[str, Any], written: dict[str, Any]) -> None:
    """The default rule beside it would be a second rule that nobody asked for."""
    assert find(render({"queues": {"mail": target}}), "WorkQueue", "mail")["spec"]["target"] == written


def test_budgets_reach_the_operator() -> None:
    """As its setting; without any it has none."""
    (operator,) = find(render({"operator": {"budgets": {"gpu": 8, "reports": 20}}}), "Deployment", "warren-operator")[
        "spec"
    ]["template"]["spec"]["containers"]
    assert {"name": "WARREN_BUDGETS", "value": "gpu=8,reports=20"} in operator["env"]


@pytest.mark.parametrize(("values", "written"), [({}, "0.2"), ({"lookCores": 0.05}, "0.05"), ({"lookCores": 1}, "1")])
def test_what_looking_may_cost_reaches_the_operator(values: dict[str, Any], written: str) -> None:
    (operator,) = find(render({"operator": values}), "Deployment", "warren-operator")["spec"]["template"]["spec"][
        "containers"
    ]
    assert {"name": "WARREN_LOOK_CORES", "value": written} in operator["env"]
    Settings.load({"WARREN_NAMESPACES": "jobs", "WARREN_LOOK_CORES": written})


def test_the_operator_s_defaults_are_the_workers() -> None:
    """One place says them; the operator's policy for the virtual host and the workers read the same."""
    manifests = render({"worker": {"maxLength": 7, "timeLimit": "3m", "retry": {"maxAttempts": 2}}})
    written = find(manifests, "ConfigMap", "warren-operator")["data"]["defaults.yaml"]
    assert yaml.safe_load(written) == {
        "maxLength": 7,
        "timeLimit": "3m",
        "retry": {"maxAttempts": 2, "minDelay": "1s", "maxDelay": "5m"},
    }


def test_the_operator_takes_what_the_chart_takes(tmp_path: Path) -> None:
    """The longest durations; the chart refuses longer ones, with which the operator would not start."""
    longest = {"timeLimit": "720h", "retry": {"minDelay": "720h", "maxDelay": "720h"}}
    mail = {"messageTTL": "720h", "behavior": {"scaleDown": {"stabilization": "720h"}}, "target": {"maxWait": "720h"}}
    manifests = render({"worker": longest, "queues": {"mail": mail}})
    file = tmp_path / "defaults.yaml"
    file.write_text(find(manifests, "ConfigMap", "warren-operator")["data"]["defaults.yaml"], "utf-8")
    settings = Settings.load({"WARREN_DEFAULTS_FILE": str(file), "WARREN_NAMESPACES": "warren"})
    assert settings.defaults.time_limit == settings.defaults.max_delay == 720 * 3600
    assert parse_spec(find(manifests, "WorkQueue", "mail")["spec"], "mail").time_limit == "720h"


@pytest.mark.parametrize(
    ("values", "producer", "worker"),
    [
        ({}, "warren/producer:0.1.0", "warren/worker:0.1.0"),
        ({"image": {"tag": "abc"}}, "warren/producer:abc", "warren/worker:abc"),
        ({"image": {"registry": "r.io/"}}, "r.io/warren/producer:0.1.0", "r.io/warren/worker:0.1.0"),
        ({"producer": {"image": {"tag": "p"}}, "image": {"tag": "abc"}}, "warren/producer:p", "warren/worker:abc"),
        (
            {
                "queues": {"task_queue": {"image": {"repository": "shop", "tag": "7"}}},
                "image": {"tag": "a", "registry": "r"},
            },
            "r/warren/producer:a",
            "shop:7",
        ),
        (
            {"worker": {"image": {"digest": f"sha256:{'0' * 64}"}}},
            "warren/producer:0.1.0",
            f"warren/worker@sha256:{'0' * 64}",
        ),
        (
            {
                "worker": {"image": {"digest": f"sha256:{'0' * 64}"}},
                "queues": {"task_queue": {"image": {"tag": "new"}}},
            },
            "warren/producer:0.1.0",
            "warren/worker:new",
        ),
        (
            {
                "worker": {"image": {"tag": "7"}},
                "queues": {"task_queue": {"image": {"digest": f"sha256:{'1' * 64}", "tag": "new"}}},
            },
            "warren/producer:0.1.0",
            f"warren/worker@sha256:{'1' * 64}",
        ),
    ],
)
def test_images(values: dict[str, Any], producer: str, worker: str) -> None:
    """One tag for the release, which a part or a queue can override; a queue's own image is taken as it is written."""
    found = pods(render(values))
    assert found["Deployment/warren-producer"]["containers"][0]["image"] == producer
    assert found["Deployment/warren-worker-task-queue"]["containers"][0]["image"] == worker
    assert found["StatefulSet/warren-rabbitmq"]["containers"][0]["image"] == "rabbitmq:4.3-management"


def templates(manifests: list[Manifest]) -> dict[str, Any]:
    """Pod templates by the objects that hold them; a change of one is a rollout."""
    return {identity(item): item["spec"]["template"] for item in manifests if "template" in item.get("spec", {})}


@pytest.mark.parametrize(
    ("change", "rolled"),
    [
        ({"commonLabels": {"team": "pictures"}}, set()),
        ({"queues": {"mail": {}}}, set()),
        ({"queues": {"task_queue": {"replicas": {"max": 3}}}}, set()),
        ({"worker": {"maxLength": 5}}, {"Deployment/warren-operator"}),
        ({"broker": {"extraConfig": "channel_max = 9"}}, {"StatefulSet/warren-rabbitmq"}),
        ({"producer": {"submitTimeout": "5s"}}, {"Deployment/warren-producer"}),
        ({"producer": {"service": {"port": 80}}}, set()),
        (
            {"queues": {"task_queue": {"maxBodyBytes": 5}}},
            {"Deployment/warren-producer", "Deployment/warren-worker-task-queue"},
        ),
    ],
)
def test_an_upgrade_rolls_only_what_it_concerns(change: dict[str, Any], rolled: set[str]) -> None:
    """A rollout interrupts nobody, but it costs."""
    before, after = templates(render()), templates(render(change))
    assert {name for name in before if before[name] != after[name]} == rolled


def producer_pod(values: dict[str, Any]) -> dict[str, Any]:
    pod = templates(render(values))["Deployment/warren-producer"]["spec"]
    assert isinstance(pod, dict)
    return pod


def test_limits_of_queues_reach_the_producer_and_are_understood() -> None:
    assert "WARREN_QUEUE_MAX_BODY" not in env(producer_pod({}))
    found = env(
        producer_pod({"queues": {"a.b:c": {"maxBodyBytes": 16_777_216}, "mail": {"maxBodyBytes": 1}, "other": {}}})
    )
    assert ProducerSettings.load(found).queue_max_body == {"a.b:c": 16_777_216, "mail": 1}


@pytest.mark.parametrize("timeout", ["500ms", "1s", "10s", "2m"])
def test_the_producer_has_the_time_to_answer_what_it_accepted(timeout: str) -> None:
    pod = producer_pod({"producer": {"submitTimeout": timeout}})
    [_, wait] = pod["containers"][0]["lifecycle"]["preStop"]["exec"]["command"]
    needs = int(wait) + LINGER + graceful_limit(parse_duration(timeout)) + 2 * CLOSE_LIMIT
    assert pod["terminationGracePeriodSeconds"] >= needs


def test_a_new_chart_version_alone_rolls_nothing() -> None:
    """No label or annotation of a pod tells the chart's version."""
    version = yaml.safe_load((CHART / "Chart.yaml").read_text("utf-8"))["version"]
    for name, template in templates(render()).items():
        told = {**template["metadata"].get("labels", {}), **template["metadata"].get("annotations", {})}
        assert not [key for key, value in told.items() if version in str(value)], name


def test_selectors_pick_exactly_their_pods(variant: dict[str, Any]) -> None:
    """Every workload, Service and budget selects its own component's pods and no other's."""
    manifests = render(variant)
    labels = {name: template["metadata"]["labels"] for name, template in templates(manifests).items()}
    for item in manifests:
        selector = item.get("spec", {}).get("selector") or {}
        wanted = selector.get("matchLabels", selector)
        if item["kind"] in ("ServiceMonitor", "PodMonitor") or not wanted:
            continue
        selected = [name for name, own in labels.items() if wanted.items() <= own.items()]
        assert len(selected) == 1, f"{identity(item)} selects {selected}"


class Once(yaml.SafeLoader):
    """YAML in which no key is there twice, as kustomize and others ask for."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """The mapping; every key is counted first."""
        keys = [key.value for key, _ in node.value]
        assert len(keys) == len(set(keys)), f"line {node.start_mark.line}: {keys}"
        return super().construct_mapping(node, deep)


def test_labels_of_the_user_s_own_stand_beside_those_that_select() -> None:
    """Each once, in whatever they change; Services and pods are found all the same."""
    own = {f"app.kubernetes.io/{key}": "shop" for key in ("name", "instance", "component", "part-of", "version")}
    parts = {part: {"podLabels": own} for part in ("worker", "producer", "operator", "broker")}
    values = {**parts, "commonLabels": own, "serviceMonitor": {"enabled": True}}
    text = helm("template", "warren", str(CHART), "--kube-version", KUBE_VERSION, values=values)
    manifests = [item for item in yaml.load_all(text, Once) if item]
    found = {identity(item): item for item in manifests}
    producer = found["Deployment/warren-producer"]
    for labels in (producer["metadata"]["labels"], producer["spec"]["template"]["metadata"]["labels"]):
        assert labels["app.kubernetes.io/part-of"] == "shop"
        assert producer["spec"]["selector"]["matchLabels"].items() <= labels.items()
    monitor = found["ServiceMonitor/warren-producer"]["spec"]["selector"]["matchLabels"]
    assert monitor.items() <= found["Service/warren-producer"]["metadata"]["labels"].items()


def test_a_drain_waits_for_no_pod_that_serves_nobody() -> None:
    """One that is not ready, as while the broker is away, counts for no budget. A broker's node has data to see to."""
    enabled = {"podDisruptionBudget": {"enabled": True}}
    manifests = render({"worker": enabled, "producer": enabled, "operator": enabled})
    policies = {
        item["metadata"]["name"]: item["spec"].get("unhealthyPodEvictionPolicy")
        for item in manifests
        if item["kind"] == "PodDisruptionBudget"
    }
    assert policies == {
        "warren-worker-task-queue": "AlwaysAllow",
        "warren-producer": "AlwaysAllow",
        "warren-operator": "AlwaysAllow",
        "warren-rabbitmq": None,
    }


def test_prometheus_leaves_the_operator_s_labels_as_they_are() -> None:
    """`namespace` is the WorkQueue's there, as docs/operator-metrics.md says, and not that of the scraped pod."""
    manifests = render({"serviceMonitor": {"enabled": True}})
    honoured = {
        part: find(manifests, "ServiceMonitor", f"warren-{part}")["spec"]["endpoints"][0].get("honorLabels", False)
        for part in ("operator", "producer", "rabbitmq")
    }
    assert honoured == {"operator": True, "producer": False, "rabbitmq": False}


def test_nothing_is_made_where_the_chart_is_only_rendered() -> None:
    """GitOps renders again and again: new credentials each time would lock every part out."""
    first, second = render(), render()
    assert first == second
    assert not [item for item in first if item["kind"] == "Secret"]
    mounted = re.findall(r"'secretName': '([\w-]+)'", str(first))
    assert set(mounted) == {
        "warren-tokens",
        "warren-rabbitmq",
        "warren-broker-producer",
        "warren-broker-worker",
        "warren-broker-operator",
    }


def test_credentials_can_be_printed_once() -> None:
    """With `always`, for whoever keeps them elsewhere; they fit together."""
    values = {"credentials": {"create": "always"}}
    manifests = render(values)
    tokens = find(manifests, "Secret", "warren-tokens")
    assert {key: len(secret_text(tokens, key)) for key in tokens["data"]} == {"submit": 40, "read": 40, "admin": 40}
    definitions = yaml.safe_load(secret_text(find(manifests, "Secret", "warren-rabbitmq"), "definitions.json"))
    passwords = {user["name"]: user.get("password") for user in definitions["users"]}
    for part in ("producer", "worker", "operator"):
        secret = find(manifests, "Secret", f"warren-broker-{part}")
        assert passwords[secret_text(secret, "username")] == secret_text(secret, "password")
        assert secret_text(secret, "host") == "warren-rabbitmq"
        assert ("management-url" in secret["data"]) is (part == "operator")
    assert len({*passwords.values()}) == len(passwords), "no password twice"


def test_secrets_of_the_user_s_own() -> None:
    """Each can be replaced; what is replaced is not made."""
    names = {part: f"my-{part}" for part in ("tokens", "producer", "worker", "operator", "rabbitmq")}
    manifests = render({"credentials": {"create": "always", "existingSecrets": names}})
    assert not [item for item in manifests if item["kind"] == "Secret"]
    mounted = set(re.findall(r"'secretName': '([\w-]+)'", str(manifests)))
    assert mounted == set(names.values())


def test_an_external_broker_leaves_nothing_of_ours() -> None:
    """No StatefulSet, no broker Service, no broker Secret; every part reads the Secret that is named."""
    manifests = render(
        {
            "broker": {"external": {"enabled": True, "existingSecret": "rabbit"}},
            "credentials": {"create": "always", "existingSecrets": {"worker": "rabbit-worker"}},
        }
    )
    assert not [identity(item) for item in manifests if "rabbitmq" in item["metadata"]["name"]]
    assert [identity(item) for item in manifests if item["kind"] == "Secret"] == ["Secret/warren-tokens"]
    found = pods(manifests)
    for name, secret in (("producer", "rabbit"), ("operator", "rabbit"), ("worker-task-queue", "rabbit-worker")):
        volumes = {volume["name"]: volume for volume in found[f"Deployment/warren-{name}"]["volumes"]}
        assert volumes["broker"]["secret"]["secretName"] == secret


@pytest.mark.parametrize(
    ("limit", "told"),
    [("1Gi", 1073741824), ("1.5Gi", 1610612736), ("800M", 800000000), (1000000000, 1000000000), ("512Mi", 536870912)],
)
def test_rabbitmq_is_told_its_memory(limit: str | int, told: int) -> None:
    """In bytes; it does not see the container's limit."""
    manifests = render({"broker": {"resources": {"limits": {"memory": limit}}}})
    conf = find(manifests, "ConfigMap", "warren-rabbitmq")["data"]["rabbitmq.conf"]
    assert f"\ntotal_memory_available_override_value = {told}\n" in conf


@pytest.mark.parametrize(
    ("limit", "told"), [(1073741824, "1073741824"), (1000000, "1000000"), ("512MB", "512MB"), ("2000000", "2000000")]
)
def test_rabbitmq_is_told_its_disk_limit(limit: str | int, told: str) -> None:
    """A number comes out of a values file as a floating-point one; RabbitMQ does not take 1.073741824e+09."""
    manifests = render({"broker": {"diskFreeLimit": limit}})
    conf = find(manifests, "ConfigMap", "warren-rabbitmq")["data"]["rabbitmq.conf"]
    assert f"\ndisk_free_limit.absolute = {told}\n" in conf


@pytest.mark.parametrize(
    ("value", "seen"),
    [
        (1000000, "1000000"),
        (-12345678901, "-12345678901"),
        (9007199254740991, "9007199254740991"),
        ("123456789012345678", "123456789012345678"),
        (0.5, "0.5"),
        (0, "0"),
        (True, "true"),
        ("1e6", "1e6"),
        ("", ""),
        ('two\n"lines"\n', 'two\n"lines"\n'),
    ],
)
@pytest.mark.parametrize("part", ["worker", "queue"])
def test_the_workers_environment_says_what_was_written(value: object, seen: str, part: str) -> None:
    entry = {"env": {"LIMIT": value}}
    values = {"worker": entry} if part == "worker" else {"queues": {"task_queue": entry}}
    assert environment(render(values), "task-queue")["LIMIT"] == seen


def with_large_numbers(schema: dict[str, Any], definitions: dict[str, Any]) -> Any:
    """Values with every whole number of a schema at its largest, where it has one, else at some million."""
    if "$ref" in schema:
        schema = definitions[schema["$ref"].rsplit("/", 1)[-1]]
    if "integer" in schema.get("type", []):
        return schema.get("maximum", 12345678)
    found = {
        name: value
        for name, below in schema.get("properties", {}).items()
        if (value := with_large_numbers(below, definitions)) is not None
    }
    return found or None


def test_no_number_is_written_with_an_exponent() -> None:
    """Whichever value it comes from: what reads it may not know what 1e+06 is."""
    schema = json.loads((CHART / "values.schema.json").read_text("utf-8"))
    parts = ("worker", "producer", "operator", "broker")
    values = {part: with_large_numbers(schema["properties"][part], schema["definitions"]) for part in parts}
    values["queues"] = {"mail": with_large_numbers(schema["definitions"]["queue"], schema["definitions"])}
    values["queues"]["mail"]["budget"]["name"] = "gpu"
    values["broker"] |= {"replicas": 3, "persistence": {"size": 12345678901}}
    values["operator"]["budgets"] = {"gpu": 100000}
    for part in (*(values[part] for part in parts), values["queues"]["mail"]):
        part["resources"] = {"limits": {"memory": 12345678901}}
        part.setdefault("podDisruptionBudget", {})["enabled"] = True
    text = helm("template", "warren", str(CHART), "--kube-version", KUBE_VERSION, values=values)
    assert "12345678901" in text
    assert not [line for line in text.splitlines() if re.search(r"\de[+-]?\d\d\b", line)]


def test_the_broker_s_configuration() -> None:
    """The keys on which Warren relies. The integration tests boot on them, which shows that RabbitMQ takes them."""
    manifests = render({"broker": {"extraConfig": "heartbeat = 30", "extraPlugins": ["rabbitmq_shovel"]}})
    data = find(manifests, "ConfigMap", "warren-rabbitmq")["data"]
    lines = [line for line in data["rabbitmq.conf"].splitlines() if line and not line.startswith("#")]
    keys = dict(line.split(" = ", 1) for line in lines)
    assert {
        "load_definitions": "/etc/warren/rabbitmq/definitions.json",
        "loopback_users.guest": "true",
        "default_queue_type": "quorum",
        "cluster_formation.peer_discovery_backend": "k8s",
        "cluster_formation.discovery_retry_limit": "unlimited",
        "queue_leader_locator": "balanced",
        "quorum_queue.continuous_membership_reconciliation.enabled": "true",
        "quorum_queue.continuous_membership_reconciliation.target_group_size": "3",
        "raft.wal_max_size_bytes": "67108864",
        "disk_free_limit.absolute": "512MB",
        "vm_memory_high_watermark.relative": "0.6",
        "log.console": "true",
    }.items() <= keys.items()
    assert lines[-1] == "heartbeat = 30", "the user's lines come last, and so win"
    assert data["enabled_plugins"].strip() == (
        "[rabbitmq_management,rabbitmq_prometheus,rabbitmq_peer_discovery_k8s,rabbitmq_shovel]."
    )
    assert not re.search("passw|cookie", data["rabbitmq.conf"], re.IGNORECASE)


def test_the_broker_keeps_its_volume() -> None:
    """Deleting or shrinking the StatefulSet deletes no task."""
    broker = find(render(), "StatefulSet", "warren-rabbitmq")["spec"]
    assert broker["persistentVolumeClaimRetentionPolicy"] == {"whenDeleted": "Retain", "whenScaled": "Retain"}
    (claim,) = broker["volumeClaimTemplates"]
    assert claim["spec"]["resources"]["requests"]["storage"] == "4Gi"
    assert "storageClassName" not in claim["spec"]
    assert broker["podManagementPolicy"] == "Parallel"
    (container,) = broker["template"]["spec"]["containers"]
    assert "livenessProbe" not in container
    assert container["readinessProbe"]["tcpSocket"] == {"port": "amqp"}


def test_what_starts_slowly_on_a_busy_node_is_not_killed_for_it() -> None:
    """Five minutes for the first sign of life of each; seen: half of one on a node with load 100.

    A worker with threads gives none while it imports its handler.
    """
    found = pods(render())
    for part in ("operator", "producer"):
        (container,) = found[f"Deployment/warren-{part}"]["containers"]
        probe = container["startupProbe"]
        assert probe["httpGet"] == container["livenessProbe"]["httpGet"]
        assert probe["periodSeconds"] * probe["failureThreshold"] == 300
    (worker,) = found["Deployment/warren-worker-task-queue"]["containers"]
    alive = worker["livenessProbe"]
    assert alive["initialDelaySeconds"] + alive["periodSeconds"] * alive["failureThreshold"] == 300
    assert "startupProbe" not in worker, "it would hold up readiness, and with it the next workers of a burst"


def test_from_one_broker_to_three_restarts_none() -> None:
    """The first one's pod and files stay as they are; the others go to machines of their own if there are some."""
    one, three = (render({"broker": {"replicas": replicas}}) for replicas in (1, 3))
    before, after = (find(manifests, "StatefulSet", "warren-rabbitmq")["spec"] for manifests in (one, three))
    assert (before.pop("replicas"), after.pop("replicas")) == (1, 3)
    assert before == after
    assert [item for item in one if item["kind"] != "StatefulSet"] == [
        item for item in three if item["kind"] != "StatefulSet"
    ]
    spread = after["template"]["spec"]["affinity"]["podAntiAffinity"]
    (by_machine, _by_zone) = spread["preferredDuringSchedulingIgnoredDuringExecution"]
    assert by_machine["podAffinityTerm"]["topologyKey"] == "kubernetes.io/hostname"
    selected = by_machine["podAffinityTerm"]["labelSelector"]["matchLabels"]
    assert selected.items() <= after["template"]["metadata"]["labels"].items()
    budget = find(three, "PodDisruptionBudget", "warren-rabbitmq")["spec"]
    assert budget["maxUnavailable"] == 1
    assert budget["selector"]["matchLabels"] == selected


def test_a_worker_s_container_has_no_process_number_one() -> None:
    """That would miss a signal to end which comes too early; and a hook that waits for it costs each end a start."""
    (pod,) = (pod for name, pod in pods(render()).items() if name.startswith("Deployment/warren-worker-"))
    assert pod["shareProcessNamespace"] is True
    assert all("lifecycle" not in container for container in pod["containers"])


def test_a_broker_s_own_placement_wins() -> None:
    """Where the values say how brokers are placed, the chart adds nothing."""
    affinity: dict[str, Any] = {"nodeAffinity": {}}
    broker = pods(render({"broker": {"affinity": affinity}}))["StatefulSet/warren-rabbitmq"]
    assert broker["affinity"] == affinity


@pytest.mark.parametrize(("grace", "limit"), [(120, 45), (600, 525), (60, 10)])
def test_a_broker_waits_for_the_others_within_its_grace(grace: int, limit: int) -> None:
    """What it waits for, its hand-over (at most 30 s) and its own end fit into the grace period."""
    manifests = render({"broker": {"terminationGracePeriodSeconds": grace}})
    (container,) = pods(manifests)["StatefulSet/warren-rabbitmq"]["containers"]
    script = container["lifecycle"]["preStop"]["exec"]["command"][-1]
    waits, hands_over = re.findall(r"timeout (\d+) rabbitmq-upgrade --quiet (\w+)", script)
    assert f"end=$(($(date +%s) + {limit}))" in script
    assert waits == ("15", "await_online_quorum_plus_one")
    assert hands_over == ("30", "drain")


def test_names_follow_the_release() -> None:
    """A release with `warren` in its name is not called so twice, and long names stay within Kubernetes' limits."""
    assert "Deployment/eu-warren-producer" in pods(render(release="eu-warren"))
    assert "Deployment/eu-warren-producer" in pods(render(release="eu"))
    assert "Deployment/x-producer" in pods(render({"fullnameOverride": "x"}))
    for item in render(release="r" * 53):
        limit = 52 if item["kind"] == "StatefulSet" else 63
        assert len(item["metadata"]["name"]) <= limit, identity(item)


TEXTS = {
    *("name", "namespace", "image", "value", "path", "interval", "serviceAccountName", "secretName", "serviceName"),
    *("ingressClassName", "priorityClassName", "storageClassName", "storage"),
}
"""Fields of which Kubernetes takes only texts, and which hold what a user has written."""


def not_texts(tree: Any, where: str = "") -> list[str]:
    """Fields and labels that hold something other than a text."""
    if isinstance(tree, list):
        return [found for number, item in enumerate(tree) for found in not_texts(item, f"{where}[{number}]")]
    if not isinstance(tree, dict):
        return []
    found = [f"{where}.{key}: {value!r}" for key, value in tree.items() if key in TEXTS and not isinstance(value, str)]
    for key, value in tree.items():
        path = f"{where}.{key}"
        if key in ("labels", "matchLabels", "annotations"):
            found += [f"{path}.{name}: {text!r}" for name, text in value.items() if not isinstance(text, str)]
        found += not_texts(value, path)
    return found


DECEPTIVE = ["123", "off", "null", "1e3", "0x1f", "2001-01-01", "y", "1_0"]
"""Names that YAML takes for something else."""


@pytest.mark.parametrize("name", DECEPTIVE)
def test_names_that_look_like_something_else_stay_names(name: str) -> None:
    """Wherever they come from, and in every kind of object."""
    own, account = name.replace("_", "-"), {"serviceAccount": {"create": False, "name": name}}
    values = {
        "fullnameOverride": "warren",
        "imagePullSecrets": [{"name": name}],
        "commonLabels": {"team": name},
        "credentials": {
            "create": "always",
            "existingSecrets": {"tokens": own, "producer": own, "worker": own, "operator": own, "rabbitmq": own},
        },
        "queues": {
            name: {"podDisruptionBudget": {"enabled": True}, "env": {"off": name, "null": name}},
            "mail": {"name": f"a{own}", "image": {"repository": name, "tag": name}, "serviceAccountName": name},
        },
        "worker": {"priorityClassName": name},
        "producer": {
            "ingress": {"enabled": True, "host": name, "className": name, "path": f"/{name}", "tlsSecret": name},
            "priorityClassName": name,
            **account,
        },
        "operator": {"watchNamespaces": [own], **account},
        "broker": {"persistence": {"storageClass": name}, **account},
        "networkPolicy": {"enabled": True},
        "serviceMonitor": {"enabled": True},
    }
    manifests = render(values, release=own, namespace=own)
    assert not [f"{identity(item)} {found}" for item in manifests for found in not_texts(item)]
    queue = find(manifests, "WorkQueue", own)
    assert queue["metadata"]["labels"]["warren.dev/queue"] == own
    assert queue["metadata"]["labels"]["app.kubernetes.io/instance"] == own
    assert queue["spec"]["queue"]["name"] == name


@pytest.mark.parametrize("name", DECEPTIVE[:2])
def test_made_secrets_and_accounts_have_names(name: str) -> None:
    """The same for objects that are only there without Secrets and accounts of the user's own."""
    worker, producer = ({"serviceAccount": {"create": True, "name": own}} for own in (name, name * 2))
    values = {"credentials": {"create": "always"}, "fullnameOverride": "warren", "worker": worker, "producer": producer}
    manifests = render(values, release=name, namespace=name)
    assert not [f"{identity(item)} {found}" for item in manifests for found in not_texts(item)]


@pytest.mark.parametrize(
    ("key", "name"),
    [("a..", "a"), ("a._:-", "a"), ("A-_b--", "a--b"), ("task_queue", "task-queue"), ("a" * 63 + "..", "a" * 63)],
)
def test_a_queue_s_name_in_kubernetes_is_a_label(key: str, name: str) -> None:
    manifests = render({"queues": {key: {}}})
    assert find(manifests, "WorkQueue", name)["spec"]["queue"]["name"] == key
    assert find(manifests, "Deployment", f"warren-worker-{name}")


def test_extra_objects_are_templates() -> None:
    """They may use the release's name."""
    values = {
        "extraObjects": [{"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "{{ .Release.Name }}-own"}}]
    }
    assert find(render(values), "ConfigMap", "warren-own")


@pytest.mark.parametrize(("timeout", "seconds"), [("10s", 40), ("1m", 140), ("500ms", 22)])
def test_a_producer_has_time_to_answer_what_it_accepted(timeout: str, seconds: int) -> None:
    """Twice the timeout, for body and confirm, and 20 s to close its connections."""
    objects = render({"producer": {"submitTimeout": timeout}})
    producer = next(found for found in objects if found["metadata"]["name"] == "warren-producer" and pod_spec(found))
    pod = pod_spec(producer)
    assert pod is not None
    assert pod["terminationGracePeriodSeconds"] == seconds


def test_a_null_takes_a_limit_away() -> None:
    """A queue's or a part's, with a default or without one; Kubernetes would take the null for 0."""
    nothing = {"resources": {"limits": {"memory": None, "cpu": None}, "requests": {"cpu": None, "gpu": None}}}
    queues = {"mail": nothing, "post": {}}
    values = {"queues": queues, "worker": {"resources": {"limits": {"cpu": None}}}}
    manifests = pods(render({**values, "producer": nothing, "operator": nothing, "broker": nothing}))
    for name in ("Deployment/warren-worker-mail", "Deployment/warren-producer", "Deployment/warren-operator"):
        assert manifests[name]["containers"][0]["resources"].keys() == {"limits", "requests"}
        assert manifests[name]["containers"][0]["resources"]["limits"] == {}, name
        assert manifests[name]["containers"][0]["resources"]["requests"].keys() == {"memory"}, name
    assert manifests["StatefulSet/warren-rabbitmq"]["containers"][0]["resources"]["limits"] == {}
    assert manifests["Pod/warren-test-task"]["containers"][0]["resources"]["limits"] == {}
    post = manifests["Deployment/warren-worker-post"]["containers"][0]["resources"]
    assert post == {"requests": {"cpu": "50m", "memory": "64Mi"}, "limits": {"memory": "256Mi"}}
