"""A bell: tells whoever waits that something may have changed, without saying what.

seen = bell.version      # before looking
…look; nothing yet…
await bell.wait(seen)    # a ring since then ends it at once, so none is missed
"""

import trio


class Bell:
    """`ring` never waits; `wait` returns once the bell has rung beyond `seen`."""

    def __init__(self) -> None:
        self._version = 0
        self._rung = trio.Event()

    def __repr__(self) -> str:
        return f"<Bell rung {self._version} times>"

    @property
    def version(self) -> int:
        return self._version

    def ring(self) -> None:
        self._version += 1
        self._rung.set()
        self._rung = trio.Event()

    async def wait(self, seen: int) -> None:
        await trio.lowlevel.checkpoint()
        while self._version == seen:
            await self._rung.wait()
