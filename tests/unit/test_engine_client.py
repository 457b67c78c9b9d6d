"""Where an engine is looked for."""

from pathlib import Path

import pytest

from tools.engine.client import answering, check_socket, endpoints
from tools.engine.places import cache_home
from tools.shell import ToolError


def test_what_the_user_named_is_all_that_is_tried() -> None:
    for variable in ("DOCKER_HOST", "DOCKER_CONTEXT"):
        assert endpoints({variable: "x"}, 1000, Path("/home/u")) == (None,)


def test_the_clients_own_choice_comes_first() -> None:
    found = endpoints({}, 1000, Path("/home/u"))
    assert found[0] is None
    assert "unix:///run/user/1000/docker.sock" in found
    assert "unix:///home/u/.docker/run/docker.sock" in found


def test_a_named_engine_that_does_not_answer_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/nobody.sock")
    with pytest.raises(ToolError, match=r"DOCKER_HOST is unix://.*unset DOCKER_HOST"):
        answering()


def test_a_folder_in_the_sockets_place_is_refused(tmp_path: Path) -> None:
    check_socket(tmp_path / "none")
    with pytest.raises(ToolError, match="not a socket"):
        check_socket(tmp_path)


@pytest.mark.parametrize(
    ("value", "expected"), [("/c", Path("/c/warren")), ("", Path("~/.cache/warren")), ("c", Path("~/.cache/warren"))]
)
def test_the_cache_is_where_the_user_wants_it(value: str, expected: Path) -> None:
    assert cache_home({"XDG_CACHE_HOME": value}) == expected.expanduser()
