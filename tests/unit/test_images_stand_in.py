"""A stand-in is made again when its recipe changes, and only then."""

import pytest

from tools.images import stand_in
from tools.images.stand_in import PYTHON, RABBITMQ, fingerprint

RECIPE = {"Dockerfile": b"FROM x", "docker-entrypoint.sh": b"exec"}


def test_the_fingerprint_is_of_the_recipe_not_of_its_order() -> None:
    assert fingerprint("sid", "x86_64", RECIPE) == fingerprint("sid", "x86_64", dict(reversed(RECIPE.items())))


@pytest.mark.parametrize(
    ("suite", "architecture", "recipe"),
    [
        ("trixie", "x86_64", RECIPE),
        ("sid", "aarch64", RECIPE),
        ("sid", "x86_64", {**RECIPE, "Dockerfile": b"FROM y"}),
        ("sid", "x86_64", {"Dockerfile": b"FROM x"}),
    ],
)
def test_each_ingredient_counts(suite: str, architecture: str, recipe: dict[str, bytes]) -> None:
    assert fingerprint(suite, architecture, recipe) != fingerprint("sid", "x86_64", RECIPE)


def test_the_files_of_every_stand_in_count(monkeypatch: pytest.MonkeyPatch) -> None:
    before = fingerprint("sid", "x86_64", RECIPE)
    monkeypatch.setattr(stand_in, "FILES", {})
    assert fingerprint("sid", "x86_64", RECIPE) != before


@pytest.mark.parametrize("one", [PYTHON, RABBITMQ])
def test_each_stand_in_has_its_recipe_and_cannot_be_taken_for_the_official_image(one: stand_in.StandIn) -> None:
    assert (one.recipe / "Dockerfile").is_file()
    assert one.name != one.official
    assert one.name.startswith("warren-stand-in/")
