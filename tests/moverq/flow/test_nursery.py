"""What comes out of a resource that has tasks of its own."""

import pytest
import trio

from moverq.errors import RequestRefused
from moverq.flow.nursery import open_own_nursery


async def fail(error: Exception) -> None:
    await trio.lowlevel.checkpoint()
    raise error


async def test_the_tasks_end_with_the_block() -> None:
    async with open_own_nursery() as nursery:
        nursery.start_soon(trio.sleep_forever)


@pytest.mark.parametrize("error", [RequestRefused(why="no"), KeyboardInterrupt(), ExceptionGroup("own", [OSError()])])
async def test_the_blocks_error_comes_out_as_it_was_raised(error: BaseException) -> None:
    cause = OSError("why")

    async def use() -> None:
        async with open_own_nursery() as outer, open_own_nursery() as inner:
            outer.start_soon(trio.sleep_forever)
            inner.start_soon(trio.sleep_forever)
            raise error from cause

    with pytest.raises(type(error)) as raised:
        await use()
    assert raised.value is error
    assert error.__cause__ is cause


async def test_an_error_of_a_task_is_not_lost_beside_it() -> None:
    async def use() -> None:
        async with open_own_nursery() as nursery:
            nursery.start_soon(fail, OSError("theirs"))
            await trio.sleep_forever()

    with pytest.raises(ExceptionGroup) as raised:
        await use()
    assert raised.group_contains(OSError, match="theirs")


async def test_a_cancelled_block_is_cancelled() -> None:
    with trio.move_on_after(0.01) as scope:
        async with open_own_nursery() as nursery:
            nursery.start_soon(trio.sleep_forever)
            await trio.sleep_forever()
    assert scope.cancelled_caught
