"""The chart as Helm renders it, without a cluster, and the broker's files out of it."""

import base64
import json
import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[2]
CHART = ROOT / "charts" / "warren"

HELM_LIMIT = 60.0
"""Seconds for one rendering; a quarter of a second is usual."""

KUBE_VERSION = "1.34.0"
"""Helm takes the one it was built for where it is not told; a test should not depend on that."""

LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
"""The same in C, which is many times as fast, where PyYAML has it."""

Manifest = dict[str, Any]
Values = Mapping[str, Any]


class ChartError(Exception):
    """Helm refused the values; the message is what the user sees."""


def tool(name: str) -> str:
    """The path of a program that `python -m tools.cluster tools` puts into `.cluster/bin`.

    Raises:
        FileNotFoundError: it is neither there nor on the PATH.
    """
    found = shutil.which(name, path=f"{ROOT / '.cluster' / 'bin'}{os.pathsep}{os.environ.get('PATH', '')}")
    if found is None:
        raise FileNotFoundError(f"{name} is missing: run `python3 -m tools.cluster tools`")
    return found


def helm(*arguments: str, values: Values | None = None) -> str:
    """What a Helm command on the chart prints.

    Raises:
        ChartError: it failed.
    """
    done = subprocess.run(
        [tool("helm"), *arguments, "--values", "-"],
        input=json.dumps(values or {}),
        capture_output=True,
        text=True,
        timeout=HELM_LIMIT,
        check=False,
    )
    if done.returncode:
        raise ChartError(done.stderr + done.stdout)
    return done.stdout


def render(
    values: Values | None = None, *, release: str = "warren", namespace: str = "warren", options: Sequence[str] = ()
) -> list[Manifest]:
    """All objects of a release, hooks and tests included, in the order in which Helm prints them.

    Raises:
        ChartError: Helm refuses the values.
    """
    command = ("template", release, str(CHART), "--namespace", namespace, "--kube-version", KUBE_VERSION, *options)
    return [document for document in yaml.load_all(helm(*command, values=values), LOADER) if document]


def find(manifests: Sequence[Manifest], kind: str, name: str) -> Manifest:
    """The one object of this kind and name.

    Raises:
        LookupError: there is none, or several.
    """
    found = [item for item in manifests if item["kind"] == kind and item["metadata"]["name"] == name]
    if len(found) != 1:
        raise LookupError(f"{len(found)} objects {kind}/{name} among {sorted(map(identity, manifests))}")
    return found[0]


def identity(manifest: Manifest) -> str:
    """`Kind/name`."""
    return f"{manifest['kind']}/{manifest['metadata']['name']}"


def pod_spec(manifest: Manifest) -> dict[str, Any] | None:
    """The spec of the pods that an object makes or is; None for other kinds."""
    match manifest["kind"]:
        case "Pod":
            spec = manifest["spec"]
        case "Deployment" | "StatefulSet" | "DaemonSet" | "Job":
            spec = manifest["spec"]["template"]["spec"]
        case _:
            return None
    assert isinstance(spec, dict)
    return spec


def secret_text(manifest: Manifest, key: str) -> str:
    """A value of a Secret, decoded."""
    return base64.b64decode(manifest["data"][key]).decode()


@dataclass(frozen=True)
class BrokerFiles:
    """What the chart gives RabbitMQ to read.

    Attributes:
        rabbitmq_conf: content of `/etc/rabbitmq/rabbitmq.conf`.
        enabled_plugins: content of `/etc/rabbitmq/enabled_plugins`.
        definitions: content of `/etc/warren/rabbitmq/definitions.json`, parsed.
        erlang_cookie: content of `/etc/warren/rabbitmq/erlang-cookie`.
        passwords: of the users in the parts' Secrets, by part: producer, worker, operator.
        command: of the container, with its arguments.
        stop_command: what runs in the container before it is told to stop.
    """

    rabbitmq_conf: str
    enabled_plugins: str
    definitions: dict[str, Any]
    erlang_cookie: str
    passwords: Mapping[str, str]
    command: tuple[str, ...]
    stop_command: tuple[str, ...]

    def write(self, folder: Path, *, further_user: tuple[str, str] | None = None) -> tuple[Path, Path]:
        """Write the files as a container mounts them.

        Args:
            folder: gets two folders, for `/etc/rabbitmq` and for `/etc/warren/rabbitmq`.
            further_user: name and password of an administrator besides the chart's users.
        """
        definitions = json.loads(json.dumps(self.definitions))
        if further_user:
            name, password = further_user
            definitions["users"].append({"name": name, "password": password, "tags": ["administrator"]})
            definitions["permissions"].append(
                {"user": name, "vhost": "/", "configure": ".*", "write": ".*", "read": ".*"}
            )
        configuration, secret = folder / "etc", folder / "secret"
        contents = {
            configuration / "rabbitmq.conf": self.rabbitmq_conf,
            configuration / "enabled_plugins": self.enabled_plugins,
            secret / "definitions.json": json.dumps(definitions),
            secret / "erlang-cookie": self.erlang_cookie,
        }
        for path, text in contents.items():
            path.parent.mkdir(exist_ok=True)
            path.write_text(text, "utf-8")
            path.chmod(0o644)  # the container's user is another one
        for made in (folder, configuration, secret):
            made.chmod(0o755)
        return configuration, secret


def broker_files(values: Values | None = None) -> BrokerFiles:
    """The broker's files for these values, with credentials made for this rendering."""
    manifests = render({**(values or {}), "credentials": {"create": "always"}})
    configuration = find(manifests, "ConfigMap", "warren-rabbitmq")["data"]
    secret = find(manifests, "Secret", "warren-rabbitmq")
    spec = pod_spec(find(manifests, "StatefulSet", "warren-rabbitmq"))
    assert spec is not None
    (container,) = spec["containers"]
    return BrokerFiles(
        rabbitmq_conf=configuration["rabbitmq.conf"],
        enabled_plugins=configuration["enabled_plugins"],
        definitions=json.loads(secret_text(secret, "definitions.json")),
        erlang_cookie=secret_text(secret, "erlang-cookie"),
        passwords={
            part: secret_text(find(manifests, "Secret", f"warren-broker-{part}"), "password")
            for part in ("producer", "worker", "operator")
        },
        command=(*container["command"], *container["args"]),
        stop_command=tuple(container["lifecycle"]["preStop"]["exec"]["command"]),
    )
