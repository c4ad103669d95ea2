"""A value that a task is at work on."""

from functools import partial

import trio

from moverq.flow.later import Later


async def test_who_asks_early_waits_and_who_asks_late_does_not(autojump_clock: object) -> None:
    async def slowly(value: int) -> int:
        await trio.sleep(3)
        return value

    later = Later[int]()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(later.work, partial(slowly, 7))
        assert await later.get() == 7
        assert trio.current_time() == 3
    assert await later.get() == 7
