"""An image's tag follows its contents."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tools.images.parts import PARTS, content_tag, read, version
from tools.shell import ToolError

ROOT = Path(__file__).resolve().parents[2]
CONTENTS = st.dictionaries(st.text(min_size=1, max_size=8), st.binary(max_size=8), max_size=4)


def clone(root: Path) -> None:
    """As much of a clone as the images need."""
    for name in ("Dockerfile", "LICENSE"):
        (root / name).write_text(name)
    for part in PARTS:
        for path in (part.requirements, *(f"{package}/__init__.py" for package in part.packages)):
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            (root / path).write_text(path)


@given(CONTENTS, CONTENTS)
def test_the_same_contents_have_the_same_tag_and_others_another(one: dict[str, bytes], two: dict[str, bytes]) -> None:
    turned = dict(reversed(one.items()))
    assert content_tag("1.0", "base", one) == content_tag("1.0", "base", turned)
    assert (content_tag("1.0", "base", one) == content_tag("1.0", "base", two)) == (one == two)


def test_the_tag_starts_with_the_version_and_depends_on_the_base() -> None:
    first, second = content_tag("0.1.0", "sha256:a", {}), content_tag("0.1.0", "sha256:b", {})
    assert first != second
    release, _, digest = first.partition("-")
    assert release == "0.1.0"
    assert len(digest) == 12
    assert set(digest) <= set("0123456789abcdef")


def test_a_change_in_one_part_leaves_the_others_alone(tmp_path: Path) -> None:
    clone(tmp_path)
    before = {part.name: read(part, tmp_path) for part in PARTS}
    (tmp_path / "services/worker/warren_worker/__init__.py").write_text("changed")
    after = {part.name: read(part, tmp_path) for part in PARTS}
    assert [name for name in before if before[name] != after[name]] == ["worker"]


def test_a_change_in_the_contract_changes_all(tmp_path: Path) -> None:
    clone(tmp_path)
    before = {part.name: read(part, tmp_path) for part in PARTS}
    (tmp_path / "services/contract/warren_contract/new.py").write_text("")
    after = {part.name: read(part, tmp_path) for part in PARTS}
    assert all(before[name] != after[name] for name in before)


def test_bytecode_is_no_input(tmp_path: Path) -> None:
    clone(tmp_path)
    before = read(PARTS[0], tmp_path)
    cache = tmp_path / "services/contract/warren_contract/__pycache__"
    cache.mkdir()
    (cache / "x.cpython-313.pyc").write_bytes(b"x")
    assert read(PARTS[0], tmp_path) == before


def test_an_incomplete_clone_is_named(tmp_path: Path) -> None:
    clone(tmp_path)
    (tmp_path / "requirements/worker.txt").unlink()
    with pytest.raises(ToolError, match=r"requirements/worker\.txt is missing"):
        read(PARTS[1], tmp_path)


def test_this_clone_is_complete() -> None:
    assert version(ROOT)
    for part in PARTS:
        assert f"{part.packages[-1]}/__init__.py" in read(part, ROOT)
