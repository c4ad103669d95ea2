"""The change feed of a mailbox, by state: what differs since a modseq. And waiting for it to differ.

Not a list of events: ten flag changes on one item are one change. Tombstones end at the horizon; a reader behind it
gets `FeedTrimmed`, never a hole. The shape is that of IMAP QRESYNC (RFC 7162) and JMAP /changes (RFC 8620 §5.2).

`Watch` is how a task waits for a commit: inside the process the committer wakes it; for commits of other processes one
task per database reads `PRAGMA data_version` every `WATCH_PERIOD_S` while anyone waits. It costs microseconds of
shared memory, so it runs on the loop; it is the only polling here.
"""

import apsw
import attrs
import trio

from store.limits import WATCH_PERIOD_S


@attrs.define(eq=False)
class Watch:
    """Wakes who waits when the catalogue changed, whoever changed it."""

    _db: apsw.Connection
    _changed: trio.Event = attrs.Factory(trio.Event)
    _wanted: trio.Event = attrs.Factory(trio.Event)
    _waiting: int = 0

    def poke(self) -> None:
        """This process committed."""
        self._changed.set()
        self._changed = trio.Event()

    def armed(self) -> "Armed":
        """To be made *before* looking, so that a commit between looking and waiting is not missed."""
        return Armed(self, self._changed)

    async def run(self) -> None:
        """Watch for commits of other processes while anyone waits, until cancelled.

        A catalogue that cannot be read is a change: whoever waits looks, and meets the error itself.
        """
        seen = self._version()
        while True:
            if not self._waiting:
                self._wanted = trio.Event()
                await self._wanted.wait()
            version = self._version()
            if version != seen:
                seen = version
                self.poke()
            await trio.sleep(WATCH_PERIOD_S)

    def _version(self) -> int | None:
        try:
            return int(self._db.execute("PRAGMA data_version").get)
        except apsw.Error:
            return None

    async def _wait(self, event: trio.Event) -> None:
        self._waiting += 1
        self._wanted.set()
        try:
            await event.wait()
        finally:
            self._waiting -= 1


@attrs.frozen(eq=False)
class Armed:
    """A wait for the next commit after the moment this was made."""

    _watch: Watch
    _event: trio.Event

    async def wait(self) -> None:
        await self._watch._wait(self._event)
