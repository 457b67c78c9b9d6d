"""JSON schemas for kubeconform, from what an API server says about its kinds and from a CustomResourceDefinition.

Strict: a field that the API does not know is an error, as it is for `kubectl apply`.
"""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

Schema = dict[str, Any]

PREFIX = "#/definitions/"

LOOSE: Mapping[str, Schema] = {
    # The OpenAPI document calls these strings; the API takes numbers, too.
    "io.k8s.apimachinery.pkg.util.intstr.IntOrString": {"type": ["string", "integer"]},
    "io.k8s.apimachinery.pkg.api.resource.Quantity": {"type": ["string", "number"]},
}


def write_schemas(openapi: Mapping[str, Any], folder: Path) -> None:
    """Write a file for each kind of an API server's OpenAPI document (version 2), named as kubeconform looks for it."""
    definitions = {name: LOOSE.get(name) or strict(schema) for name, schema in openapi["definitions"].items()}
    for name, schema in definitions.items():
        for kind in schema.get("x-kubernetes-group-version-kind", []):
            needed = {other: definitions[other] for other in _closure(name, definitions)}
            _write(folder, kind["group"], kind["version"], kind["kind"], {**schema, "definitions": needed})


def write_custom_schema(definition: Mapping[str, Any], folder: Path) -> None:
    """Write one file for each version of a CustomResourceDefinition."""
    spec = definition["spec"]
    for version in spec["versions"]:
        schema = strict(version["schema"]["openAPIV3Schema"])
        schema["properties"]["metadata"] = {"type": "object"}  # the API server fills in what the definition leaves out
        _write(folder, spec["group"], version["name"], spec["names"]["kind"], schema)


def strict(schema: Any) -> Any:
    """The same schema, in which every object with known fields takes no others."""
    if isinstance(schema, list):
        return [strict(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    result = {key: strict(value) for key, value in schema.items()}
    open_ended = result.get("x-kubernetes-preserve-unknown-fields") or "additionalProperties" in result
    if isinstance(result.get("properties"), dict) and "type" in result and not open_ended:
        result["additionalProperties"] = False
    return result


def _write(folder: Path, group: str, version: str, kind: str, schema: Schema) -> None:
    name = "-".join(part for part in (kind.lower(), group.split(".", maxsplit=1)[0], version) if part)
    (folder / f"{name}.json").write_text(json.dumps(schema), "utf-8")


def _closure(name: str, definitions: Mapping[str, Schema]) -> set[str]:
    found: set[str] = set()
    waiting = [name]
    while waiting:
        current = waiting.pop()
        if current not in found:
            found.add(current)
            waiting.extend(_references(definitions[current]))
    return found


def _references(schema: Any) -> Iterator[str]:
    if isinstance(schema, dict):
        for key, value in schema.items():
            if key == "$ref" and isinstance(value, str):
                yield value.removeprefix(PREFIX)
            else:
                yield from _references(value)
    elif isinstance(schema, list):
        for item in schema:
            yield from _references(item)
