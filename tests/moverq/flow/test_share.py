"""Places of a kind, so many at a time."""

import pytest
import trio
import trio.testing

from moverq.flow.share import Share


async def test_no_more_are_held_at_a_time_than_there_are_and_the_first_who_waits_is_the_next() -> None:
    places = trio.Semaphore(2)
    got: list[str] = []

    async def use(name: str) -> None:
        with Share(places) as mine:
            await mine.take()
            got.append(name)
            await trio.sleep_forever()

    with Share(places) as mine:
        await mine.take()
        await mine.take()
        async with trio.open_nursery() as nursery:
            for name in ("first", "second"):
                nursery.start_soon(use, name)
                await trio.testing.wait_all_tasks_blocked()
            assert got == []
            mine.give_back()
            await trio.testing.wait_all_tasks_blocked()
            assert got == ["first"]
            nursery.cancel_scope.cancel()
    assert places.value == 2


async def test_who_leaves_in_trouble_gives_back_what_is_left() -> None:
    places = trio.Semaphore(3)

    async def get_into_trouble() -> None:
        with Share(places) as mine:
            for _ in range(3):
                await mine.take()
            mine.give_back()
            raise ValueError("trouble")

    with pytest.raises(ValueError, match="trouble"):
        await get_into_trouble()
    assert places.value == 3


async def test_a_take_that_is_cancelled_holds_nothing() -> None:
    places = trio.Semaphore(0)
    with Share(places) as mine, trio.move_on_after(0):
        await mine.take()
    assert places.value == 0
