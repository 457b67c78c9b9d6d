"""How many connections a process has open files for."""

import logging
import resource

import pytest
from hypothesis import given
from hypothesis import strategies as st

from warren_producer.descriptors import MAX_AT_ONCE, OWN, TURNS, Room, make_room, room_within

WANTED = 3000
NEEDED = WANTED + TURNS * MAX_AT_ONCE + OWN
UNLIMITED = resource.RLIM_INFINITY


@given(st.integers(OWN + 16, 2 * NEEDED), st.integers(1, 5000))
def test_however_many_connect_at_once_the_process_keeps_its_own_files(files: int, wanted: int) -> None:
    room = room_within(files, wanted)
    assert 1 <= room.connections <= wanted
    assert 1 <= room.at_once <= MAX_AT_ONCE
    assert room.connections + TURNS * room.at_once + OWN <= files
    more = room_within(files + 1, wanted)
    assert more.connections + TURNS * more.at_once >= room.connections + TURNS * room.at_once


def test_with_hardly_any_file_one_connection_is_taken() -> None:
    assert room_within(3, WANTED) == Room(1, 1)


@pytest.mark.parametrize(
    ("soft", "hard", "raised", "connections"),
    [
        (256, UNLIMITED, NEEDED, WANTED),
        (1024, 1_048_576, NEEDED, WANTED),
        (256, 1024, 1024, 1024 - OWN - 480),
        (1024, 1024, 1024, 1024 - OWN - 480),
        (NEEDED, UNLIMITED, None, WANTED),
        (1_048_576, 1_048_576, None, WANTED),
        (UNLIMITED, UNLIMITED, None, WANTED),
    ],
)
def test_the_soft_limit_is_raised_as_far_as_needed(
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    *,
    soft: int,
    hard: int,
    raised: int | None,
    connections: int,
) -> None:
    limits = [(soft, hard)]
    monkeypatch.setattr(resource, "getrlimit", lambda _which: limits[-1])
    monkeypatch.setattr(resource, "setrlimit", lambda _which, new: limits.append(new))
    with caplog.at_level(logging.INFO):
        assert make_room(WANTED).connections == connections
    assert limits[1:] == ([] if raised is None else [(raised, hard)])
    assert [record.levelname for record in caplog.records] == (["WARNING"] if connections < WANTED else [])


def test_where_it_cannot_be_raised_fewer_connections_are_taken(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(_which: int, _new: tuple[int, int]) -> None:
        raise ValueError("not allowed to raise maximum limit")

    monkeypatch.setattr(resource, "getrlimit", lambda _which: (256, UNLIMITED))
    monkeypatch.setattr(resource, "setrlimit", refuse)
    assert make_room(WANTED) == room_within(256, WANTED)
    assert "only 256 files may be open here" in caplog.text
