"""A value that a task is at work on: whoever needs it waits for it.

later = Later[Page]()
nursery.start_soon(later.work, partial(read, 7))
…
page = await later.get()

An error is the task's, and so its nursery's: nobody waits for it here longer than the nursery lives.
"""

from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

import trio

T = TypeVar("T")


class Later(Generic[T]):
    """`work` once; `get` as often as you like."""

    def __init__(self) -> None:
        self._done = trio.Event()
        self._value: T

    def __repr__(self) -> str:
        return f"<Later {'done' if self._done.is_set() else 'at work'}>"

    async def work(self, make: Callable[[], Awaitable[T]]) -> None:
        self._value = await make()
        self._done.set()

    async def get(self) -> T:
        await self._done.wait()
        return self._value
