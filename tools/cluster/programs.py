"""Which programs the cluster is made of, and which Go module each comes from.

The versions stand in `go/<name>/go.mod`, with the hash of each module in `go.sum` beside it.
"""

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

MODULES = Path(__file__).resolve().parent / "go"

RECIPE = "1"
"""Part of each cache key: count up when the way of building changes."""


@dataclass(frozen=True)
class Build:
    """Programs that are built together, from one Go module."""

    name: str
    """The folder under `go/`."""
    packages: tuple[str, ...]
    """What to build; `.` is the folder itself."""
    programs: tuple[str, ...]
    """The names of the results."""
    versions: Mapping[str, str] = field(default_factory=dict)
    """Go variable → text stamped into it, with `{version}`, `{major}` and `{minor}` of `module`."""
    module: str = ""
    """The module whose version is stamped."""

    @property
    def folder(self) -> Path:
        """Where its go.mod lies."""
        return MODULES / self.name


KUBERNETES = Build(
    "kubernetes",
    tuple(
        f"k8s.io/kubernetes/cmd/{program}"
        for program in (
            "kube-apiserver",
            "kube-controller-manager",
            "kube-scheduler",
            "kubelet",
            "kube-proxy",
            "kubectl",
        )
    ),
    ("kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubelet", "kube-proxy", "kubectl"),
    # Without these, clients and charts that ask for the server's version get v0.0.0.
    {
        "k8s.io/component-base/version.gitVersion": "{version}",
        "k8s.io/component-base/version.gitMajor": "{major}",
        "k8s.io/component-base/version.gitMinor": "{minor}",
    },
    "k8s.io/kubernetes",
)
ETCD = Build("etcd", (".",), ("etcd",))
COREDNS = Build("coredns", (".",), ("coredns",))
PAUSE = Build("pause", (".",), ("pause",))
PROVISIONER = Build("provisioner", (".",), ("provisioner",))
HELM = Build(
    "helm",
    ("helm.sh/helm/v3/cmd/helm",),
    ("helm",),
    # `helm template` and `helm lint` without a cluster assume this Kubernetes: ours, not the oldest one known.
    {
        "helm.sh/helm/v3/internal/version.version": "{version}",
        "helm.sh/helm/v3/pkg/lint/rules.k8sVersionMajor": "1",
        "helm.sh/helm/v3/pkg/lint/rules.k8sVersionMinor": "34",
        "helm.sh/helm/v3/pkg/chartutil.k8sVersionMajor": "1",
        "helm.sh/helm/v3/pkg/chartutil.k8sVersionMinor": "34",
    },
    "helm.sh/helm/v3",
)
KUBECONFORM = Build(
    "kubeconform",
    ("github.com/yannh/kubeconform/cmd/kubeconform",),
    ("kubeconform",),
    {"main.version": "{version}"},
    "github.com/yannh/kubeconform",
)
HELM_UNITTEST = Build(
    "helm-unittest",
    ("github.com/helm-unittest/helm-unittest/cmd/helm-unittest",),
    ("helm-unittest",),
    {"github.com/helm-unittest/helm-unittest/internal/build.version": "{version}"},
    "github.com/helm-unittest/helm-unittest",
)
KIND = Build("kind", ("sigs.k8s.io/kind",), ("kind",))
TOXIPROXY = Build(
    "toxiproxy",
    ("github.com/Shopify/toxiproxy/v2/cmd/server",),
    ("server",),
    {"github.com/Shopify/toxiproxy/v2.Version": "{version}"},
    "github.com/Shopify/toxiproxy/v2",
)
"""Slows and cuts connections for tests/chaos."""

NODE_BUILDS = (KUBERNETES, ETCD, COREDNS, PROVISIONER, PAUSE, HELM)
"""What our own node needs, and the tools to use it: kubectl and helm."""
KIND_BUILDS = (KIND, KUBERNETES, HELM)
TEST_BUILDS = (HELM, KUBECONFORM, HELM_UNITTEST)
"""What the chart's tests need; no cluster."""


def module_version(go_mod: str, module: str) -> str:
    """The version that a go.mod's text requires of a module, such as `v1.34.4`.

    Raises:
        ValueError: it requires none.
    """
    found = re.search(rf"^(?:require)?\s+{re.escape(module)} (v\S+)", go_mod, re.MULTILINE)
    if not found:
        raise ValueError(f"no requirement of {module}")
    return found.group(1)


def go_version(go_mod: str) -> tuple[int, ...]:
    """The oldest Go that a go.mod's text allows.

    Raises:
        ValueError: it names none.
    """
    found = re.search(r"^go (\d+(?:\.\d+)*)", go_mod, re.MULTILINE)
    if not found:
        raise ValueError("no go directive")
    return tuple(int(part) for part in found.group(1).split("."))


def link_flags(build: Build, go_mod: str) -> str:
    """What the linker is told: no symbol tables (half the size), and the versions."""
    flags = ["-s", "-w"]
    if build.versions:
        version = module_version(go_mod, build.module)
        major, minor = version.removeprefix("v").split(".")[:2]
        for variable, text in build.versions.items():
            flags += ["-X", f"{variable}={text.format(version=version, major=major, minor=minor)}"]
    return " ".join(flags)


def cache_key(build: Build, files: Mapping[str, bytes], target: str) -> str:
    """The name of the folder with the results: another for each change of what they are built from.

    `files` are the contents of the module's folder by name; `target` is what they are built for, such as
    `linux/amd64`.
    """
    digest = hashlib.sha256(f"{RECIPE} {target} {build!r}".encode())
    for name in sorted(files):
        content = files[name]
        digest.update(f"\0{name}\0{len(content)}\0".encode() + content)
    return f"{build.name}-{digest.hexdigest()[:16]}"
