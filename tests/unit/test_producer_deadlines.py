"""One timer ends what waits too long, in order, and leaves alone what has ended by itself."""

import asyncio

import pytest

from warren_producer.deadlines import Deadlines

LIMIT = 0.05
PATIENCE = 30.0


class Wait:
    """One that is waited for."""

    def __init__(self) -> None:
        self.outcome: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    @property
    def wanted(self) -> bool:
        return not self.outcome.done()

    def settle(self, outcome: str) -> None:
        self.outcome.set_result(outcome)


def futures(deadlines: Deadlines[str], count: int) -> list[asyncio.Future[str]]:
    """Outcomes of new waits, added in this order."""
    made = [Wait() for _ in range(count)]
    for wait in made:
        deadlines.add(wait)
    return [wait.outcome for wait in made]


async def test_what_has_no_result_ends_at_its_limit_and_not_before() -> None:
    loop = asyncio.get_running_loop()
    deadlines = Deadlines(LIMIT, "late")
    for _again in range(2):  # the second time there is no timer any more
        started = loop.time()
        assert await asyncio.wait_for(futures(deadlines, 1)[0], PATIENCE) == "late"
        assert loop.time() - started >= LIMIT


async def test_they_end_in_the_order_in_which_they_came() -> None:
    deadlines = Deadlines(LIMIT, "late")
    ended: list[asyncio.Future[str]] = []
    (first,) = futures(deadlines, 1)
    await asyncio.sleep(LIMIT / 2)
    second, third = futures(deadlines, 2)
    for future in (third, first, second):
        future.add_done_callback(ended.append)
    assert await asyncio.wait_for(first, PATIENCE) == "late"
    assert not second.done(), "it came later"
    assert await asyncio.wait_for(third, PATIENCE) == "late"
    assert ended == [first, second, third]


@pytest.mark.parametrize("place", range(3))
async def test_what_has_ended_by_itself_is_left_alone(place: int) -> None:
    deadlines = Deadlines(LIMIT, "late")
    waiting = futures(deadlines, 3)
    waiting[place].set_result("in time")
    waiting[place - 1].cancel()
    assert await asyncio.wait_for(waiting[place - 2], PATIENCE) == "late"
    assert waiting[place].result() == "in time"
    assert waiting[place - 1].cancelled()


async def test_what_is_done_is_not_kept() -> None:
    """A healthy broker confirms thousands a second: they must not lie here until their limit."""
    deadlines = Deadlines(PATIENCE, "late")
    for _ in range(1000):
        futures(deadlines, 1)[0].set_result("in time")
    assert len(deadlines) <= 1
