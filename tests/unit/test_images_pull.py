"""A registry's refusal is remembered, for a while."""

from tools.images.pull import REFUSAL_LIFE, remembered


def test_a_refusal_is_forgotten_in_the_end() -> None:
    refused = {"young": 1000.0, "old": 1000.0 - REFUSAL_LIFE}
    assert remembered(refused, 1000.0) == {"young": 1000.0}


def test_a_refusal_from_the_future_is_void() -> None:
    assert remembered({"x": 2000.0}, 1000.0) == {}
