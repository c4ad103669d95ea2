"""So many bytes in memory, over all moves together: who wants more waits for its turn.

First come, first served, so that a large batch is not passed over for ever by small ones. An amount larger than the
whole budget is granted when nobody else holds anything: it goes alone rather than never. A holder gives back in
`finally`, so the budget cannot leak; and nobody asks for more while holding, so it cannot deadlock.
"""

from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio


class ByteBudget:
    """`async with budget.holding(n): …`"""

    def __init__(self, bytes_max: int) -> None:
        self._bytes_max = bytes_max
        self._bytes_held = 0
        self._queue: deque[tuple[int, trio.Event]] = deque()

    def __repr__(self) -> str:
        return f"<ByteBudget {self._bytes_held} of {self._bytes_max} bytes held, {len(self._queue)} waiting>"

    @property
    def bytes_held(self) -> int:
        return self._bytes_held

    @asynccontextmanager
    async def holding(self, size: int) -> AsyncIterator[None]:
        """`size` bytes are ours inside. Cancelled while waiting: nothing is held."""
        await self._acquire(size)
        try:
            yield
        finally:
            self._bytes_held -= size
            self._grant()

    async def _acquire(self, size: int) -> None:
        await trio.lowlevel.checkpoint()
        turn = trio.Event()
        self._queue.append((size, turn))
        self._grant()
        try:
            await turn.wait()
        except BaseException:
            if turn.is_set():
                self._bytes_held -= size
            else:
                self._queue.remove((size, turn))
            self._grant()
            raise

    def _grant(self) -> None:
        while self._queue:
            size, turn = self._queue[0]
            if self._bytes_held and self._bytes_held + size > self._bytes_max:
                return
            self._queue.popleft()
            self._bytes_held += size
            turn.set()
