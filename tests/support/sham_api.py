"""As much of a Kubernetes API server as Helm needs to render a chart that looks into its cluster."""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

from chart import KUBE_VERSION, Manifest

KINDS = {
    "api/v1": {"Namespace": "namespaces", "Secret": "secrets", "PersistentVolumeClaim": "persistentvolumeclaims"},
    "apis/apps/v1": {"StatefulSet": "statefulsets", "Deployment": "deployments"},
    "apis/apiextensions.k8s.io/v1": {"CustomResourceDefinition": "customresourcedefinitions"},
}
"""The kinds that the chart looks up, by the path of their group."""

CLUSTER_WIDE = {"Namespace", "CustomResourceDefinition"}


def list_path(manifest: Manifest) -> str:
    """Where the objects of its kind lie."""
    version, kind = manifest["apiVersion"], manifest["kind"]
    group = f"apis/{version}" if "/" in version else f"api/{version}"
    scope = "" if kind in CLUSTER_WIDE else f"/namespaces/{manifest['metadata']['namespace']}"
    return f"/{group}{scope}/{KINDS[group][kind]}"


def contents(objects: Sequence[Manifest]) -> dict[str, Any]:
    """The objects by their paths, and the lists of them; a kind of which there is none is not found."""
    answers: dict[str, Any] = {}
    for item in objects:
        where = list_path(item)
        empty = {"apiVersion": item["apiVersion"], "kind": f"{item['kind']}List", "metadata": {}, "items": []}
        answers.setdefault(where, empty)["items"].append(item)
        answers[f"{where}/{item['metadata']['name']}"] = item
    return answers


def index() -> dict[str, Any]:
    """What the server says about itself and its kinds."""
    answers: dict[str, Any] = {
        "/version": {"gitVersion": f"v{KUBE_VERSION}", "major": "1", "minor": KUBE_VERSION.split(".")[1]},
        "/api": {"kind": "APIVersions", "versions": ["v1"]},
    }
    groups = []
    for path, kinds in KINDS.items():
        version = path.partition("/")[2]
        resources = [
            {"name": name, "kind": kind, "namespaced": kind not in CLUSTER_WIDE, "verbs": ["get", "list"]}
            for kind, name in kinds.items()
        ]
        answers[f"/{path}"] = {"kind": "APIResourceList", "groupVersion": version, "resources": resources}
        if "/" in version:
            told = {"groupVersion": version, "version": version.partition("/")[2]}
            groups.append({"name": version.partition("/")[0], "versions": [told], "preferredVersion": told})
    answers["/apis"] = {"kind": "APIGroupList", "apiVersion": "v1", "groups": groups}
    return answers


@dataclass(frozen=True)
class ShamApi:
    """A server that runs.

    Attributes:
        kubeconfig: leads to it.
    """

    kubeconfig: Path


@contextmanager
def sham_api(folder: Path, objects: Sequence[Manifest] = ()) -> Iterator[ShamApi]:
    """Run a server.

    Args:
        folder: for its kubeconfig.
        objects: what it holds besides the namespace `kube-system`, by which the chart knows that there is a cluster.
    """
    system = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "kube-system"}}
    answers = index() | contents((system, *objects))
    missing = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": "NotFound", "code": 404}

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            found = answers.get(self.path.partition("?")[0])
            body = json.dumps(missing if found is None else found).encode()
            self.send_response(404 if found is None else 200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  the base class calls it so
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "sham",
            "clusters": [{"name": "sham", "cluster": {"server": f"http://127.0.0.1:{server.server_address[1]}"}}],
            "contexts": [{"name": "sham", "context": {"cluster": "sham", "user": "sham"}}],
            "users": [{"name": "sham", "user": {}}],
        }
        path = folder / "kubeconfig"
        path.write_text(json.dumps(config), "utf-8")
        yield ShamApi(path)
        server.shutdown()
