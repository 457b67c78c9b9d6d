"""The definition's update, against an API server in memory. The cluster tests ask a real one."""

import copy
from pathlib import Path
from typing import Any, Self

import pytest
import yaml

from warren_operator import apply_crd as module
from warren_operator.apply_crd import apply, main, newer
from warren_operator.crd import CHART_VERSION, VERSION_NOTE, definition, render
from warren_operator.kube import KubeError

CHART = Path(__file__).resolve().parents[2] / "charts" / "warren" / "Chart.yaml"


def of_chart(version: str | None, **spec: Any) -> dict[str, Any]:
    """A definition that lies in the cluster."""
    annotations = {"kept": "yes"} if version is None else {"kept": "yes", VERSION_NOTE: version}
    name = definition()["metadata"]["name"]
    metadata = {"name": name, "uid": "u", "resourceVersion": "7", "annotations": annotations}
    return {"apiVersion": "apiextensions.k8s.io/v1", "metadata": metadata, "spec": spec or {"group": "older"}}


class Server:
    """One definition, with versions; also a session with the server, and what finds it."""

    def __init__(self, body: dict[str, Any]) -> None:
        self.body = body
        self.failures: list[KubeError] = []
        self.writes = 0

    async def request(self, method: str, path: str, *, body: Any = None) -> Any:
        assert path == f"/apis/apiextensions.k8s.io/v1/customresourcedefinitions/{self.body['metadata']['name']}"
        if method == "GET":
            return copy.deepcopy(self.body)
        assert method == "PUT"
        if self.failures:
            raise self.failures.pop(0)
        if body["metadata"]["resourceVersion"] != self.body["metadata"]["resourceVersion"]:
            raise KubeError(409, "Conflict", "it has changed")
        self.writes += 1
        self.body = copy.deepcopy(body)
        self.body["metadata"]["resourceVersion"] += "0"
        return copy.deepcopy(self.body)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        pass


@pytest.fixture
def file(tmp_path: Path) -> str:
    """The definition as the chart brings it."""
    path = tmp_path / "workqueues.yaml"
    path.write_text(render(), "utf-8")
    return str(path)


def serve(monkeypatch: pytest.MonkeyPatch, server: Server) -> Server:
    """Have the program find this server, and wait for nothing."""

    async def find_cluster(_environ: object) -> None:
        pass

    monkeypatch.setattr(module, "find_cluster", find_cluster)
    monkeypatch.setattr(module, "Api", lambda _: server)
    monkeypatch.setattr(module, "PAUSE", 0)
    return server


def test_the_definition_tells_the_chart_s_version() -> None:
    chart = yaml.safe_load(CHART.read_text("utf-8"))
    assert chart["version"] == CHART_VERSION, (
        "a new chart: set CHART_VERSION in warren_operator/crd.py and write the CRD"
    )
    assert definition()["metadata"]["annotations"] == {VERSION_NOTE: CHART_VERSION}


@pytest.mark.parametrize("version", [None, "0.0.9", CHART_VERSION, f"{CHART_VERSION}-rc.1", "latest"])
async def test_an_older_definition_is_replaced_whole(version: str | None) -> None:
    """Also one of the same version, as while a version is being made, and one that does not say its version."""
    server: Any = Server(of_chart(version, group="warren.dev", conversion={"strategy": "None"}))
    assert await apply(server, definition()) == "workqueues.warren.dev is up to date"
    assert server.body["spec"] == definition()["spec"]
    assert server.body["metadata"]["annotations"] == {"kept": "yes", VERSION_NOTE: CHART_VERSION}
    assert server.body["metadata"]["uid"] == "u"


async def test_a_definition_without_annotations_gets_one() -> None:
    found = of_chart(None)
    del found["metadata"]["annotations"]
    server: Any = Server(found)
    await apply(server, definition())
    assert server.body["metadata"]["annotations"] == {VERSION_NOTE: CHART_VERSION}


@pytest.mark.parametrize("version", ["99.0.0", "99.0.0-rc.1"])
def test_a_newer_definition_stays(
    version: str, file: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is no failure: the release has all that it needs."""
    server = serve(monkeypatch, Server(of_chart(version)))
    assert main([file]) == 0
    assert server.body == of_chart(version)
    said = (
        f"workqueues.warren.dev is left as it is: chart {version} has brought it, which is newer than {CHART_VERSION}"
    )
    assert capsys.readouterr().out.strip() == said


def test_what_changes_meanwhile_is_looked_at_again(file: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another release may bring a newer one between the look and the change."""

    class Overtaken(Server):
        async def request(self, method: str, path: str, *, body: Any = None) -> Any:
            found = await super().request(method, path, body=body)
            self.body = of_chart("99.0.0")
            self.body["metadata"]["resourceVersion"] = "8"
            return found

    server = serve(monkeypatch, Overtaken(of_chart("0.0.9")))
    assert main([file]) == 0
    assert server.writes == 0


@pytest.mark.parametrize(
    ("failure", "code"),
    [
        (KubeError(0, "Unreachable", "the Kubernetes API cannot be reached"), 0),
        (KubeError(409, "Conflict", "it has changed"), 0),
        (KubeError(422, "Invalid", "stored in v1alpha0"), 1),
    ],
)
def test_what_may_pass_is_tried_again(
    failure: KubeError, code: int, file: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    server = serve(monkeypatch, Server(of_chart("0.0.9")))
    server.failures.append(failure)
    assert main([file]) == code
    assert server.writes == 1 - code
    assert (str(failure) in capsys.readouterr().err) is bool(code)


def test_versions_have_an_order() -> None:
    """As semantic versioning has it; what is no version comes first."""
    rising = ["1.0", "0.9.0", "0.10.0-alpha", "0.10.0-alpha.1", "0.10.0-alpha.beta", "0.10.0-beta.2", "0.10.0-beta.11"]
    rising += ["0.10.0-rc.1", "0.10.0", "0.10.1", "1.0.0-0", "1.0.0+build"]
    for place, version in enumerate(rising):
        assert not newer(version, version)
        for later in rising[place + 1 :]:
            assert newer(later, version)
            assert not newer(version, later)
    assert not newer("1.0.0+b", "1.0.0")
    assert not newer("01.0.0", "0.1.0")
