"""Blocking work, through one seam: a thread in production, inline (after a seeded virtual delay) in simulation.

Writes are never abandoned on cancel, so a begun fsync is always known to have ended.
"""

from collections.abc import Callable
from contextlib import suppress
from typing import Any, Protocol, TypeVar

import outcome
import trio

T = TypeVar("T")


class Offload(Protocol):
    """Runs `fn` where it may block.

    Cancelled: a call that began runs to its end, and its effect stands; one that waited for its turn did not happen.
    """

    async def __call__(self, fn: Callable[[], T]) -> T: ...


class InThread:
    """Blocking work on a worker thread, one at a time.

    By trio's threads, without what `trio.to_thread.run_sync` does beside (a limiter's tokens, a copy of the context, a
    way back into the loop): that is a third of what a turn costs, and a small move is made of some fifty.
    """

    def __init__(self) -> None:
        self._turn = trio.Lock()

    async def __call__(self, fn: Callable[[], T]) -> T:
        await trio.lowlevel.checkpoint_if_cancelled()
        if self._turn.locked():
            await self._turn.acquire()
        else:
            self._turn.acquire_nowait()
        try:
            return await _in_thread(fn)
        finally:
            self._turn.release()


async def _in_thread(fn: Callable[[], T]) -> T:
    """`fn`'s answer, from a thread of trio's. Cancelled: not before it has ended."""
    task, run = trio.lowlevel.current_task(), trio.lowlevel.current_trio_token()

    def answer(answered: outcome.Outcome[T]) -> None:
        with suppress(trio.RunFinishedError):  # the loop has crashed: nobody waits any more
            run.run_sync_soon(trio.lowlevel.reschedule, task, answered)

    def stay(_: object) -> trio.lowlevel.Abort:
        return trio.lowlevel.Abort.FAILED

    trio.lowlevel.start_thread_soon(fn, answer)
    answered: Any = await trio.lowlevel.wait_task_rescheduled(stay)
    return answered  # type: ignore[no-any-return]
