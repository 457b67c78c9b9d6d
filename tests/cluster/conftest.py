"""One release of the chart on the local cluster, shared by all tests of this folder.

The cluster is the one of `make cluster`, with the images of the working copy in it; `make test` sees to both. Without
them the tests fail and say so.
"""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from evidence_release import values
from kube import ROOT, Kube
from release import Release, connect, install, remove

VALUES = Path(__file__).resolve().parent / "values.yaml"
NAMESPACE = os.environ.get("WARREN_TEST_NAMESPACE", "warren-test")
"""Two checkouts can test on one cluster side by side, each in a namespace of its own."""
RECORDED = f"{NAMESPACE}-recorded"

QUEUES = ("amber", "birch", "cedar", "delta", "ebony", "fern")
"""Queues of the release whose workers write down what they do."""


@pytest.fixture(scope="session")
def cluster() -> Kube:
    """The local cluster; a failure, never a skip, where there is none."""
    kube = Kube(ROOT / ".cluster" / "kubeconfig", NAMESPACE)
    try:
        answer = kube.run("kubectl", "get", "nodes", check=False, limit=30)
        problem = answer.stderr if answer.returncode else ""
    except (OSError, subprocess.TimeoutExpired) as error:
        problem = str(error)
    if problem:
        pytest.fail(f"no local cluster: run `make cluster` ({problem.strip()})")
    return kube


@pytest.fixture(scope="session")
def images() -> Path:
    """Values that name the working copy's images in the cluster."""
    images = ROOT / ".cluster" / "images.values.json"
    if not images.exists():
        pytest.fail("no images of the working copy in the cluster: run `make deploy` or `make test`")
    return images


@pytest.fixture(scope="session")
def installed(cluster: Kube, images: Path) -> Iterator[Kube]:
    """The chart, installed with the working copy's images into a namespace that is removed in the end."""
    remove(cluster)
    install(cluster, VALUES, "--values", str(images))
    yield cluster
    remove(cluster)


@pytest.fixture(scope="session")
def recorded(cluster: Kube, images: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kube]:
    """Another release, whose workers write down what they do."""
    kube = Kube(cluster.kubeconfig, RECORDED)
    path = tmp_path_factory.mktemp("recorded") / "values.yaml"
    path.write_text(values(QUEUES), "utf-8")
    remove(kube)
    install(kube, path, "--values", str(images))
    yield kube
    remove(kube)


@pytest.fixture
def release(installed: Kube) -> Iterator[Release]:
    """The release, with a client of its own: a test may have restarted the producer."""
    with connect(installed) as release:
        yield release
