"""Which programs are built, from which versions, and when anew."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tools.cluster.build import Cache, ensure_built, link_tools, parse_go_version
from tools.cluster.choice import Kind, choose
from tools.cluster.kind import IMAGE
from tools.cluster.programs import (
    HELM,
    KIND,
    KIND_BUILDS,
    KUBERNETES,
    MODULES,
    NODE_BUILDS,
    TEST_BUILDS,
    TOXIPROXY,
    Build,
    cache_key,
    go_version,
    link_flags,
    module_version,
)
from tools.console import Console
from tools.shell import ToolError

BUILDS = tuple({build.name: build for build in (*NODE_BUILDS, *KIND_BUILDS, *TEST_BUILDS, TOXIPROXY)}.values())
FILES = st.dictionaries(st.text(min_size=1, max_size=8), st.binary(max_size=8), max_size=4)


def go_mod(build: Build) -> str:
    return (build.folder / "go.mod").read_text()


@pytest.mark.parametrize("build", BUILDS, ids=lambda build: build.name)
def test_each_module_is_pinned_by_version_and_hash(build: Build) -> None:
    lines = [line.split() for line in go_mod(build).splitlines()]
    replaced = {words[0]: words[words.index("=>") + 1 :] for words in lines if "=>" in words}
    required = [words[:2] for words in lines if len(words) > 1 and words[1].startswith("v") and "=>" not in words]
    sums = (build.folder / "go.sum").read_text() if required else ""
    assert [
        name for name, version in required if f"{' '.join(replaced.get(name, [name, version]))} h1:" not in sums
    ] == []


@pytest.mark.parametrize("build", BUILDS, ids=lambda build: build.name)
def test_each_build_has_what_it_needs(build: Build) -> None:
    assert go_version(go_mod(build)) >= (1, 24)
    assert link_flags(build, go_mod(build)).startswith("-s -w")
    if "." in build.packages:
        assert (build.folder / "main.go").exists()


def test_programs_say_their_version() -> None:
    version = module_version(go_mod(KUBERNETES), "k8s.io/kubernetes")
    flags = link_flags(KUBERNETES, go_mod(KUBERNETES))
    assert f"-X k8s.io/component-base/version.gitVersion={version}" in flags
    minor = version.split(".")[1]
    assert f"-X k8s.io/component-base/version.gitMinor={minor}" in flags
    # helm without a cluster assumes the same Kubernetes.
    assert f"chartutil.k8sVersionMinor={minor}" in link_flags(HELM, go_mod(HELM))


def test_the_staging_modules_of_kubernetes_are_of_its_own_release() -> None:
    version = module_version(go_mod(KUBERNETES), "k8s.io/kubernetes")
    expected = "v0." + version.removeprefix("v1.")
    replacements = [line.split() for line in go_mod(KUBERNETES).splitlines() if "=>" in line]
    assert len(replacements) >= 29
    assert {words[-1] for words in replacements} == {expected}


def test_no_module_names_a_place_to_download_from() -> None:
    for path in MODULES.rglob("*"):
        if path.is_file():
            # A hash may begin with two slashes.
            assert "://" not in path.read_text().replace(" h1:", " ")


@given(FILES, FILES)
def test_the_key_follows_the_contents(one: dict[str, bytes], two: dict[str, bytes]) -> None:
    turned = dict(reversed(one.items()))
    assert cache_key(KIND, one, "linux/x86_64") == cache_key(KIND, turned, "linux/x86_64")
    assert (cache_key(KIND, one, "linux/x86_64") == cache_key(KIND, two, "linux/x86_64")) == (one == two)
    assert cache_key(KIND, one, "linux/x86_64") != cache_key(KIND, one, "linux/aarch64")
    assert cache_key(KIND, one, "linux/x86_64") != cache_key(HELM, one, "linux/x86_64")


@pytest.mark.parametrize(
    ("output", "version"),
    [
        ("go version go1.26.8 linux/amd64", (1, 26, 8)),
        ("go version go1.27 linux/arm64", (1, 27)),
        ("go version devel +abc", ()),
        ("", ()),
    ],
)
def test_the_version_of_go(output: str, version: tuple[int, ...]) -> None:
    assert parse_go_version(output) == version


def test_a_module_that_is_not_required_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"example\.org/x"):
        module_version("require example.org/xy v1.0.0\n", "example.org/x")
    assert module_version("require example.org/x v1.0.0\n", "example.org/x") == "v1.0.0"
    with pytest.raises(ValueError, match="go directive"):
        go_version("module x\n")


def test_what_is_built_is_not_built_again_and_is_linked(tmp_path: Path) -> None:
    cache = Cache(tmp_path / "cache")
    program = cache.program(KIND, "kind")
    program.parent.mkdir(parents=True)
    program.write_text("built")
    ensure_built([KIND], cache, Console())
    assert program.read_text() == "built"
    tools = tmp_path / "bin"
    for _ in range(2):
        link_tools([KIND], ["kind"], cache, tools)
    assert [path.name for path in tools.iterdir()] == ["kind"]
    assert (tools / "kind").read_text() == "built"


def yes() -> bool:
    return True


def no() -> bool:
    return False


def unasked() -> bool:
    raise AssertionError("asked for the image where the answer does not matter")


def test_kind_where_its_image_can_be_had_else_our_own_node() -> None:
    assert choose("", None, yes) is Kind.KIND
    assert choose("", None, no) is Kind.NODE


@pytest.mark.parametrize("there", Kind)
def test_what_is_there_stays(there: Kind) -> None:
    assert choose("", there, unasked) is there
    assert choose(there.value, there, unasked) is there


@pytest.mark.parametrize("forced", Kind)
def test_what_is_asked_for_is_made(forced: Kind) -> None:
    assert choose(forced.value, None, unasked) is forced


def test_a_wish_that_cannot_be_fulfilled_is_refused() -> None:
    with pytest.raises(ToolError, match="make down"):
        choose("kind", Kind.NODE, unasked)
    with pytest.raises(ToolError, match="`kind` or `node`"):
        choose("minikube", None, unasked)


def test_the_node_image_is_pinned_by_its_hash() -> None:
    assert "@sha256:" in IMAGE
