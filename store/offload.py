"""Blocking work, through one seam: a thread in production, inline (after a seeded virtual delay) in simulation.

One `Offload` per resource. Writes are never abandoned on cancel, so a begun fsync is always known to have ended.
"""

from collections.abc import Callable
from typing import Protocol, TypeVar

import trio

T = TypeVar("T")


class Offload(Protocol):
    """Runs `fn` where it may block.

    Cancelled: a call that began runs to its end, and its effect stands; one that waited for its turn did not happen.
    """

    async def __call__(self, fn: Callable[[], T]) -> T: ...


class InThread:
    """Blocking work on a worker thread, one at a time."""

    def __init__(self) -> None:
        self._limiter = trio.CapacityLimiter(1)

    async def __call__(self, fn: Callable[[], T]) -> T:
        return await trio.to_thread.run_sync(fn, limiter=self._limiter)
