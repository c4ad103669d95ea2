import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from moverq.flow.byte_budget import ByteBudget
from moverq.flow.byte_channel import ByteChannel


async def test_order_is_kept_and_the_end_is_told() -> None:
    channel: ByteChannel[int] = ByteChannel(10)
    for n in range(3):
        await channel.send(n, 3)
    channel.close()
    assert [await channel.receive() for _ in range(4)] == [0, 1, 2, None]


async def test_a_sender_waits_for_room_and_an_oversize_message_goes_alone() -> None:
    channel: ByteChannel[str] = ByteChannel(10)
    sent: list[str] = []

    async def send() -> None:
        for name, size in (("small", 4), ("huge", 100), ("next", 1)):
            await channel.send(name, size)
            sent.append(name)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(send)
        await wait_all_tasks_blocked()
        assert sent == ["small"]
        assert await channel.receive() == "small"
        await wait_all_tasks_blocked()
        assert sent == ["small", "huge"]
        assert await channel.receive() == "huge"
        assert await channel.receive() == "next"


async def test_a_cancelled_send_was_not_sent() -> None:
    channel: ByteChannel[str] = ByteChannel(4)
    await channel.send("one", 4)
    with trio.CancelScope() as scope:
        scope.cancel()
        await channel.send("two", 1)
    channel.close()
    assert [await channel.receive(), await channel.receive()] == ["one", None]


async def test_a_budget_is_first_come_first_served_and_never_exceeded_by_two() -> None:
    budget = ByteBudget(10)
    order: list[str] = []

    async def hold(name: str, size: int, until: trio.Event) -> None:
        async with budget.holding(size):
            order.append(name)
            await until.wait()

    first, then = trio.Event(), trio.Event()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(hold, "six", 6, first)
        await wait_all_tasks_blocked()
        nursery.start_soon(hold, "hundred", 100, then)
        await wait_all_tasks_blocked()
        nursery.start_soon(hold, "one", 1, then)
        await wait_all_tasks_blocked()
        assert (order, budget.bytes_held) == (["six"], 6)
        first.set()
        await wait_all_tasks_blocked()
        assert order == ["six", "hundred"]
        then.set()
    assert (order, budget.bytes_held) == (["six", "hundred", "one"], 0)


async def test_a_cancelled_wait_for_the_budget_holds_nothing() -> None:
    budget = ByteBudget(10)
    async with budget.holding(10):
        with trio.move_on_after(0) as scope:
            async with budget.holding(1):
                pytest.fail("there was no room")
        assert scope.cancelled_caught
    assert budget.bytes_held == 0
    async with budget.holding(10):
        assert budget.bytes_held == 10
