"""Install the working copy: build the images, bring them to the cluster, `helm upgrade --install`: `make deploy`.

On the local cluster by default, which has to be up. A cluster of yours is touched only when it is named:
`make deploy CONTEXT=kind-mine`, or, where images have to go through a registry, `… REGISTRY=my.registry/team`.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tools.console import Console
from tools.engine import ensure as ensure_engine
from tools.images.bases import bases
from tools.images.build import build
from tools.images.stand_in import RABBITMQ
from tools.shell import ToolError, run

ROOT = Path(__file__).resolve().parent.parent
LOCAL = ROOT / ".cluster"
VALUES = LOCAL / "images.values.json"
"""Values that name the images of the working copy; JSON is YAML too."""

RELEASE = "warren"
NAMESPACE = "warren"

ROLLOUT_LIMIT = 300.0
"""Seconds for the release to be ready: on a cluster far away, images are pulled first."""

PUSH_LIMIT = 900.0
"""Seconds to bring one image to a cluster or registry, over a slow line."""

CLUSTER_LIMIT = 3600.0
"""Seconds for the local cluster: all of its programs may have to be built, which takes twelve minutes on two cores, and
three times as long beside other work."""

PARTS = ("statefulset/warren-rabbitmq", "deployment/warren-producer", "deployment/warren-operator")


@dataclass(frozen=True)
class Target:
    """A cluster to install on.

    Attributes:
        context: of the user's kubeconfig; None is the local cluster.
        registry: where the cluster pulls images from; None if they are loaded into it.
    """

    context: str | None = None
    registry: str | None = None

    @property
    def environ(self) -> dict[str, str]:
        """Environment in which kubectl and helm find the cluster and their programs."""
        path = f"{LOCAL / 'bin'}{os.pathsep}{os.environ.get('PATH', os.defpath)}"
        if self.context is not None:
            return {"PATH": path}
        return {"PATH": path, "KUBECONFIG": str(LOCAL / "kubeconfig")}

    def helm(self, *arguments: str) -> list[str]:
        """A helm command for this cluster."""
        return ["helm", *([] if self.context is None else ["--kube-context", self.context]), *arguments]

    def kubectl(self, *arguments: str) -> list[str]:
        """A kubectl command for this cluster."""
        return ["kubectl", *([] if self.context is None else ["--context", self.context]), *arguments]


def values(images: Mapping[str, str], registry: str | None = None) -> dict[str, object]:
    """Chart values that name the given images, by part: `{"worker": "warren/worker:0.1.0-1a2b3c"}`."""
    result: dict[str, object] = {} if registry is None else {"image": {"registry": registry}}
    for part, name in images.items():
        result[part] = {"image": {"tag": name.rpartition(":")[2]}}
    return result


def loader(context: str) -> Sequence[str] | None:
    """The command that loads images into a cluster of this context's kind, the images' names to be appended.

    Returns:
        An empty command where the cluster shares the Docker engine; None where images have to go through a registry.
    """
    if context.startswith("kind-"):
        return ("kind", "load", "docker-image", "--name", context.removeprefix("kind-"))
    if context == "minikube":
        return ("minikube", "image", "load")
    if context in ("docker-desktop", "orbstack", "rancher-desktop"):
        return ()
    return None


def bring_images(target: Target, console: Console) -> Path:
    """Build the images, bring them to the cluster, and write the values file that names them.

    Raises:
        ToolError: the cluster can only pull from a registry and none is given, or a step failed.
    """
    command = None if target.context is None else loader(target.context)
    if target.context is not None and command is None and target.registry is None:
        raise ToolError(
            f"There is no way to load images into the cluster of context {target.context} directly. Name a registry "
            f"that it pulls from and you may push to: make deploy CONTEXT={target.context} REGISTRY=…"
        )
    images = build(console)
    if target.context is None:
        _load_locally(images, console)
    elif target.registry is not None:
        for name in images.values():
            with console.step(f"Pushing {target.registry}/{name}"):
                run(["docker", "tag", name, f"{target.registry}/{name}"], limit=60)
                run(["docker", "push", f"{target.registry}/{name}"], limit=PUSH_LIMIT)
    elif command:
        with console.step(f"Loading the images into {target.context}"):
            run([*command, *images.values()], limit=PUSH_LIMIT)
    LOCAL.mkdir(exist_ok=True)
    VALUES.write_text(json.dumps(values(images, target.registry), indent=2) + "\n")
    return VALUES


def _load_locally(images: Mapping[str, str], console: Console) -> None:
    """Our images, and RabbitMQ's, also under the names that the chart has by default: for a plain `helm install`."""
    named = [f"{name}={name.rpartition('-')[0]}" for name in images.values()]
    named.append(f"{bases(console, ensure_engine(console)).rabbitmq}={RABBITMQ.official}")
    with console.step("Loading the images into the local cluster"):
        run([sys.executable, "-m", "tools.cluster", "load", "--docker", *named], limit=PUSH_LIMIT, cwd=ROOT)


def cluster(command: str) -> None:
    """`python -m tools.cluster up` or its like, with its own progress on the terminal.

    Raises:
        ToolError: it failed, or took longer than building all of Kubernetes does.
    """
    words = [sys.executable, "-m", "tools.cluster", command]
    try:
        done = subprocess.run(words, cwd=ROOT, timeout=CLUSTER_LIMIT, check=False)
    except subprocess.TimeoutExpired:
        took = f"took longer than {CLUSTER_LIMIT:g} s; try again, since what is built is kept"
        raise ToolError(f"`python -m tools.cluster {command}` {took}") from None
    if done.returncode != 0:
        raise ToolError(f"`python -m tools.cluster {command}` failed; its own words are above")


def install(target: Target, console: Console, *options: str) -> None:
    """`helm upgrade --install` the chart and wait until broker, producer and operator are ready.

    Raises:
        ToolError: a program is missing, or the release did not become ready in time; the message has its pods.
    """
    for program in ("helm", "kubectl"):
        if shutil.which(program, path=target.environ["PATH"]) is None:
            raise ToolError(f"{program} is not installed: install it, or run `make cluster`, which brings one along")
    chart = str(ROOT / "charts" / "warren")
    with console.step("helm upgrade --install warren charts/warren"):
        run(
            target.helm(
                "upgrade", "--install", RELEASE, chart, "--namespace", NAMESPACE, "--create-namespace", *options
            ),
            limit=ROLLOUT_LIMIT,
            env=target.environ,
        )
    with console.step("Waiting for broker, producer and operator"):
        for part in PARTS:
            result = run(
                target.kubectl("--namespace", NAMESPACE, "rollout", "status", part, f"--timeout={ROLLOUT_LIMIT:g}s"),
                limit=ROLLOUT_LIMIT + 10,
                env=target.environ,
                check=False,
            )
            if result.code != 0:
                pods = run(target.kubectl("--namespace", NAMESPACE, "get", "pods"), limit=60, env=target.environ)
                raise ToolError(f"{part} is not ready: {result.stderr.strip()}\n{pods.stdout}")


def deploy(target: Target, console: Console) -> None:
    """Everything: images, then the chart. On the local cluster with the user for the tutorial's own scripts."""
    if target.context is None:
        cluster("up")
    chosen = bring_images(target, console)
    extra = ("--set", "broker.tutorialUser.enabled=true") if target.context is None else ()
    install(target, console, "--values", str(chosen), *extra)


def main(arguments: Sequence[str]) -> int:
    """Run the command line; the result is the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tools.deploy", description=__doc__)
    parser.add_argument("--context", help="a context of your kubeconfig; the local cluster if left out")
    parser.add_argument("--registry", help="registry to push the images to, such as my.registry/team")
    options = parser.parse_args(arguments)
    target = Target(options.context, options.registry)
    console = Console()
    try:
        deploy(target, console)
        if target.context is None:
            console.say(f"Installed. Look: export KUBECONFIG={LOCAL}/kubeconfig PATH={LOCAL}/bin:$PATH")
        notes = run(target.helm("get", "notes", RELEASE, "--namespace", NAMESPACE), limit=60, env=target.environ)
        print(notes.stdout)
    except ToolError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
