"""How often the operator looks, where there is much to look at; and the copies that report their changes."""

from warren_operator.copies import Copy
from warren_operator.pace import LONGEST, LOOKS_SHARE, WINDOW, Pace
from warren_operator.resource import Key


def run(pace: Pace, demand: float, start: float, windows: int) -> float:
    """Looks that would take `demand` of a core if nothing were stretched; returns the time afterwards."""
    now = start
    for _ in range(windows * 10):
        now += WINDOW / 10
        pace.spend(demand * WINDOW / 10 / pace.stretch, now)
    return now


def test_little_to_look_at_is_looked_at_as_often_as_asked_for() -> None:
    pace = Pace(0)
    run(pace, LOOKS_SHARE * 0.9, 0, windows=5)
    assert pace.stretch == 1


def test_much_to_look_at_takes_its_share_and_no_more() -> None:
    pace = Pace(0)
    now = run(pace, LOOKS_SHARE * 4, 0, windows=5)
    assert 3.9 < pace.stretch < 4.1
    run(pace, LOOKS_SHARE / 2, now, windows=5)
    assert pace.stretch == 1, "and back, once there is less"


def test_no_pause_becomes_endless() -> None:
    pace = Pace(0)
    run(pace, 1000, 0, windows=5)
    assert pace.stretch == LONGEST


def test_a_copy_reports_each_change_once() -> None:
    seen: list[tuple[str, int | None, int | None]] = []
    copy: Copy[int] = Copy(lambda key, before, after: seen.append((key.name, before, after)))
    key = Key("media", "a")
    for value in (1, 1, 2, None, None):
        copy.set(key, value)
    assert seen == [("a", None, 1), ("a", 1, 2), ("a", 2, None)]
    assert (len(copy), copy.get(key), copy.known(), list(copy)) == (0, None, [], [])
