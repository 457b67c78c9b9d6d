"""The CustomResourceDefinition, written from the models of `resource.py`: `python -m warren_operator.crd > FILE`.

Kubernetes wants a structural schema: no references, no titles, no null. Pydantic's JSON schema has all three, so it is
rewritten here; what Pydantic cannot say (CEL rules) travels in `x-kubernetes-…` keys of the models.
"""

import sys
from collections.abc import Mapping
from typing import Any

import yaml

from warren_operator.resource import GROUP, KIND, PLURAL, RENAMED, VERSION, Spec, Status

CHART_VERSION = "0.1.0"
"""Of the chart that brings this definition; the models travel without it, in an image. A test compares both."""

VERSION_NOTE = f"{GROUP}/chart-version"
"""Annotation of the definition: a cluster has one, for all releases, and the newest chart's serves them all."""

_DROPPED = frozenset({"title", "additionalProperties", "$defs"})

COLUMNS = (
    ("READY", "integer", ".status.backlog.ready", "Tasks that wait."),
    ("UNACKED", "integer", ".status.backlog.unacked", "Tasks delivered and not yet acknowledged."),
    ("WORKERS", "integer", ".status.workers.total", "Pods of the workers' Deployment that are not being deleted."),
    ("DESIRED", "integer", ".status.desiredReplicas", "Workers wanted."),
    ("WAIT", "string", ".status.estimatedWait", "Time until a task submitted now starts."),
    ("REASON", "string", ".status.decision.reason", "Why as many workers are wanted."),
    ("AGE", "date", ".metadata.creationTimestamp", "Time since the WorkQueue was made."),
)


def definition() -> dict[str, Any]:
    """The CustomResourceDefinition as an object."""
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {
            "name": f"{PLURAL}.{GROUP}",
            "annotations": {VERSION_NOTE: CHART_VERSION},
            "labels": {"app.kubernetes.io/name": "warren", "app.kubernetes.io/part-of": "warren"},
        },
        "spec": {
            "group": GROUP,
            "names": {
                "kind": KIND,
                "listKind": f"{KIND}List",
                "plural": PLURAL,
                "singular": KIND.lower(),
                "shortNames": ["wq"],
                "categories": ["warren"],
            },
            "scope": "Namespaced",
            "versions": [
                {
                    "name": VERSION,
                    "served": True,
                    "storage": True,
                    "subresources": {"status": {}},
                    "additionalPrinterColumns": [
                        {"name": name, "type": kind, "jsonPath": path, "description": description}
                        for name, kind, path, description in COLUMNS
                    ],
                    "schema": {
                        "openAPIV3Schema": {
                            "type": "object",
                            "description": "A work queue in RabbitMQ, and the workers that follow its backlog.",
                            "required": ["spec"],
                            "x-kubernetes-validations": [RENAMED],
                            "properties": {
                                "apiVersion": {"type": "string"},
                                "kind": {"type": "string"},
                                "metadata": {"type": "object"},
                                "spec": structural(Spec.model_json_schema()),
                                "status": structural(Status.model_json_schema()),
                            },
                        }
                    },
                }
            ],
        },
    }


def structural(schema: Mapping[str, Any]) -> dict[str, Any]:
    """A Pydantic JSON schema as Kubernetes takes it."""
    rewritten = _rewrite(schema, schema.get("$defs", {}))
    assert isinstance(rewritten, dict)  # noqa: S101  an object schema stays an object
    return rewritten


def _rewrite(node: Any, definitions: Mapping[str, Any]) -> Any:
    if isinstance(node, list):
        return [_rewrite(item, definitions) for item in node]
    if not isinstance(node, dict):
        return node
    merged = dict(node)
    if "$ref" in merged:
        name = merged.pop("$ref").rsplit("/", 1)[-1]
        merged = {**definitions[name], **merged}
    if "anyOf" in merged:  # X | None: Kubernetes leaves the field out instead of writing null
        (choice,) = (item for item in merged.pop("anyOf") if item.get("type") != "null")
        return _rewrite({**choice, **merged}, definitions)
    result: dict[str, Any] = {}
    for key, value in merged.items():
        if key == "properties":
            result[key] = {name: _rewrite(item, definitions) for name, item in value.items()}
        elif key == "default":
            default = _without_null(value)
            if default is not None:
                result[key] = default
        elif key == "const":
            result["enum"] = [value]
        elif key not in _DROPPED:
            result[key] = _rewrite(value, definitions)
    if "description" in result:
        result["description"] = " ".join(result["description"].split())
    return result


def _without_null(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_null(item) for key, item in value.items() if item is not None}
    return list(value) if isinstance(value, tuple) else value


def render() -> str:
    """The CustomResourceDefinition as YAML, with a line that says where it comes from."""
    body = yaml.safe_dump(definition(), sort_keys=False, width=120, allow_unicode=True)
    return (
        "# Generated from the models in operator/warren_operator/resource.py: `python -m warren_operator.crd`.\n" + body
    )


if __name__ == "__main__":
    sys.stdout.write(render())
