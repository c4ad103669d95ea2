"""A channel between two tasks that is bounded in bytes, not in messages.

trio's memory channels count messages; a batch of mail is anything from a kilobyte to gigabytes, so a count bounds
nothing. What always holds: order is kept; at most `bytes_max` lie in the channel, or one message alone that is larger.
One sender, one receiver. The whole rule is the one condition in `send`.
"""

from collections import deque
from typing import Generic, TypeVar

import trio

T = TypeVar("T")


class ByteChannel(Generic[T]):
    """`send` waits for room, `receive` for something; `close` ends the receiver after what is still in it."""

    def __init__(self, bytes_max: int) -> None:
        self._bytes_max = bytes_max
        self._held: deque[tuple[T, int]] = deque()
        self._bytes_held = 0
        self._closed = False
        self._changed = trio.Event()

    def __repr__(self) -> str:
        return f"<ByteChannel {len(self._held)} messages, {self._bytes_held} of {self._bytes_max} bytes>"

    async def send(self, message: T, size: int) -> None:
        """The message is in the channel. Cancelled: it is not."""
        await trio.lowlevel.checkpoint()
        while self._held and self._bytes_held + size > self._bytes_max:
            await self._changed.wait()
        self._held.append((message, size))
        self._bytes_held += size
        self._wake()

    async def receive(self) -> T | None:
        """The next message; None when the channel is closed and empty. Cancelled: nothing was taken."""
        await trio.lowlevel.checkpoint()
        while not self._held:
            if self._closed:
                return None
            await self._changed.wait()
        message, size = self._held.popleft()
        self._bytes_held -= size
        self._wake()
        return message

    def close(self) -> None:
        """Nothing more will be sent."""
        self._closed = True
        self._wake()

    def _wake(self) -> None:
        self._changed.set()
        self._changed = trio.Event()
