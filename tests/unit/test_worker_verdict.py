"""What the broker is told about an attempt."""

from hypothesis import given
from hypothesis import strategies as st

from warren_worker.verdict import DONE, INTERRUPTED, Failed, Verdict, verdict

counts = st.integers(1, 100)
failures = st.builds(Failed, st.text(), st.text(), st.text())
hopeless = st.builds(Failed, st.text(), st.text(), st.text(), st.just(True))


@given(counts, counts)
def test_success_is_acknowledged_whatever_the_attempt(attempt: int, most: int) -> None:
    assert verdict(DONE, attempt, most) is Verdict.ACK


@given(counts, counts)
def test_an_interrupted_task_is_only_handed_back(attempt: int, most: int) -> None:
    assert verdict(INTERRUPTED, attempt, most) is Verdict.RETURN


@given(failures, counts)
def test_a_task_that_always_fails_is_dead_after_exactly_its_attempts(failure: Failed, most: int) -> None:
    verdicts = [verdict(failure, attempt, most) for attempt in range(1, most + 3)]
    assert verdicts == [Verdict.RETRY] * (most - 1) + [Verdict.DEAD] * 3


@given(hopeless, counts, counts)
def test_a_permanent_failure_is_dead_at_once(failure: Failed, attempt: int, most: int) -> None:
    assert verdict(failure, attempt, most) is Verdict.DEAD
