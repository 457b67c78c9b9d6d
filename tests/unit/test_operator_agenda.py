"""The order in which queues are read."""

from warren_operator.agenda import Agenda


def test_what_is_due_comes_in_order_of_time() -> None:
    agenda: Agenda[str] = Agenda()
    for key, at in (("c", 3), ("a", 1), ("b", 2)):
        agenda.schedule(key, at)
    assert [agenda.pop(2.5), agenda.pop(2.5), agenda.pop(2.5)] == ["a", "b", None]
    assert agenda.next_at() == 3


def test_a_hint_overtakes_all_that_is_due() -> None:
    agenda: Agenda[str] = Agenda()
    for number in range(1000):
        agenda.schedule(str(number), 0)
    agenda.schedule("far", 100)
    agenda.hint("far")
    assert agenda.next_at() == float("-inf")
    assert agenda.pop(1) == "far"


def test_it_tells_whether_the_next_one_was_hinted_at() -> None:
    agenda: Agenda[str] = Agenda()
    agenda.schedule("a", 0)
    assert not agenda.hinted
    agenda.hint("a")
    assert agenda.hinted
    assert agenda.pop(1) == "a"
    assert not agenda.hinted


def test_hints_in_a_row_are_one_and_unknown_ones_none() -> None:
    agenda: Agenda[str] = Agenda()
    agenda.schedule("a", 100)
    for key in ("a", "a", "unknown"):
        agenda.hint(key)
    assert [agenda.pop(0), agenda.pop(0)] == ["a", None]


def test_the_last_word_on_a_time_counts() -> None:
    agenda: Agenda[str] = Agenda()
    agenda.schedule("a", 1)
    agenda.schedule("a", 5)
    assert agenda.pop(2) is None
    assert agenda.next_at() == 5
    assert agenda.pop(5) == "a"


def test_what_was_dropped_never_comes() -> None:
    agenda: Agenda[str] = Agenda()
    agenda.schedule("a", 1)
    agenda.hint("a")
    agenda.drop("a")
    assert agenda.pop(9) is None
    assert agenda.next_at() is None


def test_what_is_hastened_is_due_sooner_and_never_later() -> None:
    agenda: Agenda[str] = Agenda()
    agenda.schedule("a", 5)
    for at in (7, 3, 4):
        agenda.hasten("a", at)
    agenda.hasten("unknown", 1)
    assert agenda.next_at() == 3
    assert [agenda.pop(3), agenda.pop(10)] == ["a", None]
