"""Brings the WorkQueue definition of a cluster up to a file: `python -m warren_operator.apply_crd FILE`.

Helm creates what lies in a chart's `crds/` and never touches it again; the chart runs this before an upgrade. Where the
definition is missing, Helm itself stops before that, and says so. One definition serves all releases of a cluster, so
one that a newer chart has brought is left alone: WorkQueues may have fields that an older one does not know.
"""

import asyncio
import logging
import os
import re
import sys
from pathlib import Path
from typing import Any

import yaml

from warren_contract.settings import SettingError
from warren_operator.crd import VERSION_NOTE
from warren_operator.kube import Api, KubeError, find_cluster

DEFINITIONS = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"

ATTEMPTS = 5
PAUSE = 2.0
"""Seconds between two attempts where the API server cannot be reached, or the definition has just been changed. The Job
around this tries again, too."""

SEMANTIC = re.compile(
    r"(0|[1-9][0-9]*)\.(0|[1-9][0-9]*)\.(0|[1-9][0-9]*)"
    r"(?:-((?:0|[1-9][0-9]*|[0-9]*[A-Za-z-][0-9A-Za-z-]*)(?:\.(?:0|[1-9][0-9]*|[0-9]*[A-Za-z-][0-9A-Za-z-]*))*))?"
    r"(?:\+[0-9A-Za-z-]+(?:\.[0-9A-Za-z-]+)*)?"
)
"""A version as charts have it; the template of the Job has the same expression."""

log = logging.getLogger(__name__)


async def apply(api: Api, definition: dict[str, Any]) -> str:
    """Give the cluster's definition exactly this spec, unless it is of a newer chart, and tell what was done.

    The whole spec is replaced. A server-side apply would leave in place what an older version owns and this one lacks.
    The version that was read travels along, so that nobody's change in between is lost.

    Raises:
        KubeError: refused, for instance because objects are stored in a version that the new definition lacks.
    """
    name = definition["metadata"]["name"]
    path = f"{DEFINITIONS}/{name}"
    found = await api.request("GET", path)
    theirs, ours = version_of(found), version_of(definition)
    if newer(theirs, ours):
        return f"{name} is left as it is: chart {theirs} has brought it, which is newer than {ours}"
    notes = found["metadata"].get("annotations") or {}
    metadata = {**found["metadata"], "annotations": {**notes, VERSION_NOTE: ours}}
    await api.request("PUT", path, body={**found, "metadata": metadata, "spec": definition["spec"]})
    return f"{name} is up to date"


def version_of(definition: dict[str, Any]) -> str:
    """Of the chart that has brought a definition; empty where it does not say."""
    return str((definition["metadata"].get("annotations") or {}).get(VERSION_NOTE, ""))


def newer(one: str, other: str) -> bool:
    """Whether a version comes after another one. One that is none comes before all."""
    return _order(one) > _order(other)


def _order(version: str) -> tuple[list[int], bool, list[tuple[bool, int, str]]]:
    """What versions are compared by: numbers, then the release after what precedes it, numbers before words."""
    found = SEMANTIC.fullmatch(version)
    if found is None:
        return [], False, []
    *numbers, before = found.groups()
    words = before.split(".") if before else []
    return (
        [int(number) for number in numbers],
        not before,
        [(False, int(word), "") if word.isdigit() else (True, 0, word) for word in words],
    )


def read(path: Path) -> dict[str, Any]:
    """The definition in a YAML file.

    Raises:
        ValueError: it cannot be read or is no CustomResourceDefinition.
    """
    try:
        content = yaml.safe_load(path.read_text("utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ValueError(f"cannot read {path}: {error}") from error
    if not isinstance(content, dict) or content.get("kind") != "CustomResourceDefinition":
        raise ValueError(f"{path} is no CustomResourceDefinition")
    return content


async def run(path: Path) -> str:
    """Apply the file to the cluster that the environment names, and tell what was done.

    Raises:
        KubeError, SettingError, ValueError: with a sentence on what is wrong.
    """
    definition = read(path)
    async with Api(await find_cluster(os.environ)) as api:
        for attempt in range(1, ATTEMPTS + 1):
            try:
                return await apply(api, definition)
            except KubeError as error:
                if error.code not in {0, 409} or attempt == ATTEMPTS:
                    raise
                log.warning("attempt %d of %d: %s", attempt, ATTEMPTS, error)
                await asyncio.sleep(PAUSE)
    raise AssertionError("the last attempt returns or raises")


def main(arguments: list[str]) -> int:
    """Exit code 0 when the cluster has the definition, or a newer one."""
    logging.basicConfig(format="%(message)s")
    if len(arguments) != 1:
        sys.stderr.write("usage: python -m warren_operator.apply_crd FILE\n")
        return 2
    try:
        sys.stdout.write(asyncio.run(run(Path(arguments[0]))) + "\n")
    except (KubeError, SettingError, ValueError) as error:
        sys.stderr.write(f"the WorkQueue definition was not brought up to date: {error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
