"""Places of a kind (say, pages on their way into one database), so many at a time, first come first served.

Who takes places gives each back when it is done with it, from whatever task; and who leaves, for whatever reason, gives
back those that are left.

    with Share(places) as mine:
        await mine.take()
        …
        mine.give_back()
"""

from types import TracebackType

import trio


class Share:
    """What one user holds of `places`. See the module."""

    def __init__(self, places: trio.Semaphore) -> None:
        self._places = places
        self._held = 0

    def __repr__(self) -> str:
        return f"<Share {self._held} held, {self._places.value} free>"

    def __enter__(self) -> "Share":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        while self._held:
            self.give_back()

    async def take(self) -> None:
        """One more place is ours. Cancelled: it is not."""
        await self._places.acquire()
        self._held += 1

    def give_back(self) -> None:
        """One place is somebody else's."""
        assert self._held, "a place that was not taken is given back"
        self._held -= 1
        self._places.release()
