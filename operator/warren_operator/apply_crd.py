"""Brings the WorkQueue definition of a cluster up to a file: `python -m warren_operator.apply_crd FILE`.

Helm creates what lies in a chart's `crds/` and never touches it again; the chart runs this before an upgrade. Where the
definition is missing, Helm itself stops before that, and says so.
"""

import asyncio
import logging
import os
import sys
from pathlib import Path
from typing import Any

import yaml

from warren_contract.settings import SettingError
from warren_operator.kube import JSON_PATCH, Api, KubeError, find_cluster

DEFINITIONS = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"

ATTEMPTS = 5
PAUSE = 2.0
"""Seconds between two attempts where the API server cannot be reached. The Job around this tries again, too."""

log = logging.getLogger(__name__)


async def apply(api: Api, definition: dict[str, Any]) -> None:
    """Give the cluster's definition exactly this spec.

    The whole spec is replaced. A server-side apply would leave in place what an older version owns and this one lacks.

    Raises:
        KubeError: refused, for instance because objects are stored in a version that the new definition lacks.
    """
    path = f"{DEFINITIONS}/{definition['metadata']['name']}"
    replace = [{"op": "replace", "path": "/spec", "value": definition["spec"]}]
    await api.request("PATCH", path, body=replace, media=JSON_PATCH)


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
    """Apply the file to the cluster that the environment names.

    Raises:
        KubeError, SettingError, ValueError: with a sentence on what is wrong.
    """
    definition = read(path)
    async with Api(await find_cluster(os.environ)) as api:
        for attempt in range(1, ATTEMPTS + 1):
            try:
                await apply(api, definition)
            except KubeError as error:
                if error.code or attempt == ATTEMPTS:
                    raise
                log.warning("attempt %d of %d: %s", attempt, ATTEMPTS, error)
                await asyncio.sleep(PAUSE)
            else:
                return f"{definition['metadata']['name']} is up to date"
    raise AssertionError("the last attempt returns or raises")


def main(arguments: list[str]) -> int:
    """Exit code 0 when the cluster has the definition."""
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
