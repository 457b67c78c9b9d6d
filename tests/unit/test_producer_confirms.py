"""The bookkeeping of outstanding delivery tags, against every order of answers that a broker may give."""

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from warren_producer.confirms import Confirms, Key, Outcome

A, B = Key("q", "a"), Key("q", "b")


def test_an_ack_confirms_its_own_message_only() -> None:
    confirms: Confirms[str] = Confirms()
    assert [confirms.add(A, 1, "first"), confirms.add(B, 2, "second")] == [1, 2]
    assert confirms.settle(2, multiple=False, ack=True) == [("second", Outcome.CONFIRMED)]
    assert (len(confirms), confirms.size) == (1, 1)


def test_multiple_confirms_everything_up_to_the_tag_and_nothing_after() -> None:
    confirms: Confirms[int] = Confirms()
    for number in range(1, 6):
        confirms.add(Key("q", str(number)), 1, number)
    confirms.settle(2, multiple=False, ack=True)
    assert confirms.settle(4, multiple=True, ack=True) == [(n, Outcome.CONFIRMED) for n in (1, 3, 4)]
    assert len(confirms) == 1


def test_tag_zero_with_multiple_stands_for_all() -> None:
    confirms: Confirms[int] = Confirms()
    confirms.add(A, 1, 1)
    confirms.add(B, 1, 2)
    assert confirms.settle(0, multiple=True, ack=True) == [(1, Outcome.CONFIRMED), (2, Outcome.CONFIRMED)]


def test_a_nack_is_a_refusal_also_with_multiple() -> None:
    confirms: Confirms[int] = Confirms()
    confirms.add(A, 1, 1)
    confirms.add(B, 1, 2)
    assert confirms.settle(2, multiple=True, ack=False) == [(1, Outcome.REFUSED), (2, Outcome.REFUSED)]


def test_a_returned_message_is_returned_though_it_is_acked() -> None:
    confirms: Confirms[str] = Confirms()
    confirms.add(A, 1, "lost")
    confirms.add(B, 1, "kept")
    confirms.returned(A)
    assert confirms.settle(2, multiple=True, ack=True) == [("lost", Outcome.RETURNED), ("kept", Outcome.CONFIRMED)]


def test_a_return_of_the_same_id_in_another_queue_is_another_message() -> None:
    confirms: Confirms[str] = Confirms()
    confirms.add(Key("other", "a"), 1, "kept")
    confirms.returned(A)
    assert confirms.settle(1, multiple=False, ack=True) == [("kept", Outcome.CONFIRMED)]


def test_a_return_that_fits_several_confirms_none_of_them() -> None:
    confirms: Confirms[int] = Confirms()
    confirms.add(A, 1, 1)
    confirms.add(A, 1, 2)
    confirms.returned(A)
    assert confirms.settle(2, multiple=True, ack=True) == [(1, Outcome.UNKNOWN), (2, Outcome.UNKNOWN)]


def test_answers_for_unknown_tags_settle_nothing() -> None:
    confirms: Confirms[int] = Confirms()
    confirms.add(A, 1, 1)
    assert confirms.settle(7, multiple=False, ack=True) == []
    confirms.settle(1, multiple=False, ack=True)
    assert confirms.settle(1, multiple=False, ack=True) == []
    confirms.returned(A)
    assert len(confirms) == 0


class Broker(RuleBasedStateMachine):
    """Publishes and answers at random, and keeps a slow, obvious account of what each ticket must be told."""

    def __init__(self) -> None:
        super().__init__()
        self.confirms: Confirms[int] = Confirms()
        self.open: dict[int, Key] = {}
        self.returned: set[int] = set()
        self.ambiguous: set[int] = set()
        self.told: dict[int, Outcome] = {}
        self.tags = 0
        self.sizes: dict[int, int] = {}

    @rule(queue=st.sampled_from("qr"), id=st.sampled_from("abc"), size=st.integers(0, 9))
    def publish(self, queue: str, id: str, size: int) -> None:  # noqa: A002
        self.tags += 1
        assert self.confirms.add(Key(queue, id), size, self.tags) == self.tags
        self.open[self.tags] = Key(queue, id)
        self.sizes[self.tags] = size

    @precondition(lambda self: self.open)
    @rule(data=st.data())
    def give_back(self, data: st.DataObject) -> None:
        tag = data.draw(st.sampled_from(sorted(self.open)))
        self.confirms.returned(self.open[tag])
        fitting = [other for other, key in self.open.items() if key == self.open[tag]]
        self.returned.add(tag)
        self.ambiguous.update(fitting if len(fitting) > 1 else ())

    @precondition(lambda self: self.open)
    @rule(data=st.data(), multiple=st.booleans(), ack=st.booleans())
    def answer(self, data: st.DataObject, multiple: bool, ack: bool) -> None:
        tag = data.draw(st.sampled_from([*sorted(self.open), 0] if multiple else sorted(self.open)))
        settled = self.confirms.settle(tag, multiple=multiple, ack=ack)
        expected = [other for other in sorted(self.open) if other == tag or (multiple and (tag == 0 or other < tag))]
        assert [ticket for ticket, _ in settled] == [ticket for ticket in expected if ticket not in self.told]
        for ticket in expected:
            del self.open[ticket]
        for ticket, outcome in settled:
            self._tell(ticket, outcome)
            if not ack:
                assert outcome is Outcome.REFUSED
            elif ticket in self.returned:
                # The one thing that must never happen: to call a task confirmed that no queue has.
                assert outcome in {Outcome.RETURNED, Outcome.UNKNOWN}
            elif ticket not in self.ambiguous:
                assert outcome is Outcome.CONFIRMED

    @rule()
    def lose_the_channel(self) -> None:
        lost = self.confirms.lose()
        assert lost == [ticket for ticket in sorted(self.open) if ticket not in self.told]
        for ticket in lost:
            self._tell(ticket, Outcome.UNKNOWN)
        self.open.clear()

    @rule()
    def give_up(self) -> None:
        """Nobody waits any more, and the answers still come: they count, for the tags and for the room."""
        for ticket in self.confirms.abandon():
            self._tell(ticket, Outcome.STALLED)
        assert set(self.open) <= set(self.told)

    def _tell(self, ticket: int, outcome: Outcome) -> None:
        assert ticket not in self.told, "a ticket came back twice"
        self.told[ticket] = outcome

    @invariant()
    def nothing_is_forgotten(self) -> None:
        assert len(self.confirms) == len(self.open)
        assert len(self.told.keys() | self.open.keys()) == self.tags
        assert self.confirms.size == sum(self.sizes[tag] for tag in self.open)


TestBroker = Broker.TestCase
TestBroker.settings = settings(max_examples=200, stateful_step_count=40, deadline=None)
