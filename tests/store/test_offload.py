"""Blocking work on a thread, as the store has it and as moverq does: what a cancellation may and may not do to it."""

import threading
import time
from collections.abc import Callable

import pytest
import trio
import trio.testing

import moverq.flow.offload
import store.offload

Made = store.offload.InThread | moverq.flow.offload.InThread


@pytest.fixture(params=[store.offload.InThread, moverq.flow.offload.InThread], ids=["store", "moverq"])
def offload(request: pytest.FixtureRequest) -> Made:
    made: Made = request.param()
    return made


async def test_it_runs_elsewhere_and_hands_over_what_comes_of_it(offload: Made) -> None:
    assert await offload(threading.get_ident) != threading.get_ident()
    with pytest.raises(ZeroDivisionError):
        await offload(lambda: 1 // 0)
    assert await offload(lambda: "goes on") == "goes on"


async def test_calls_go_one_at_a_time_and_in_order(offload: Made) -> None:
    begun: list[int] = []
    at_work = threading.Lock()

    def work(number: int) -> Callable[[], None]:
        def one() -> None:
            assert at_work.acquire(blocking=False), "two at a time"
            begun.append(number)
            time.sleep(0.002)
            at_work.release()

        return one

    async with trio.open_nursery() as nursery:  # the calls, as they were made
        for number in range(8):
            nursery.start_soon(offload, work(number))
            await trio.testing.wait_all_tasks_blocked()
    assert begun == list(range(8))


async def test_a_call_that_began_runs_to_its_end_and_one_that_waited_did_not_happen(offload: Made) -> None:
    may_end, happened = threading.Event(), list[str]()

    def long() -> str:
        may_end.wait(5)
        happened.append("long")
        return "its answer"

    answers: list[str] = []

    async def ask(fn: Callable[[], str], scope: trio.CancelScope) -> None:
        with scope:
            answers.append(await offload(fn))

    first, second = trio.CancelScope(), trio.CancelScope()
    async with trio.open_nursery() as nursery:  # one call at work, one that waits for its turn
        nursery.start_soon(ask, long, first)
        await trio.testing.wait_all_tasks_blocked()
        nursery.start_soon(ask, lambda: happened.append("short") or "", second)
        await trio.testing.wait_all_tasks_blocked()
        first.cancel()
        second.cancel()
        await trio.testing.wait_all_tasks_blocked()
        assert not happened
        may_end.set()
    assert (happened, answers) == (["long"], ["its answer"])
    assert await offload(lambda: "free again") == "free again"


async def test_who_is_cancelled_already_begins_nothing(offload: Made) -> None:
    happened: list[int] = []
    with trio.CancelScope() as scope:
        scope.cancel()
        await offload(lambda: happened.append(1))
    assert not happened
