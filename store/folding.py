"""SQLite's write-ahead log is folded into the catalogue's file beside the commits, not inside of one.

Left to itself SQLite does it in the COMMIT that finds the log grown: 16 MB and two syncs with the mutex held, 25 to 40
ms that all deliveries wait for. Here a pass with a connection of its own does nearly all of it while others commit;
what they add meanwhile follows with the mutex held, which is a few pages, and so the log begins anew however busy the
database is.

What is durable does not change: a transaction is the log's, and the catalogue's file may be as old as it likes. A pass
that fails, or finds another process at it, leaves the pages where they are; the next one is due when the log has grown
by as much again.
"""

from contextlib import suppress

import apsw
import attrs
import trio

from store.catalogue.schema import is_durable, open_catalogue
from store.disk import File
from store.errors import StoreError
from store.layout import Layout
from store.limits import FOLD_PAGES
from store.offload import Offload


@attrs.define(eq=False)
class Folding:
    """Folds what one committer's connection, and those of other processes, have written."""

    _layout: Layout
    _committing: apsw.Connection
    _commit_lock: File
    _offload_log: Offload
    """How `_committing` and the mutex are used: the committer's."""
    _offload: Offload
    _beside: apsw.Connection | None = None
    _pages: int = 0
    """In the write-ahead log, after the last commit."""
    _tried_at: int = 0
    """How many there were when the last pass began."""
    _due: trio.Event = attrs.Factory(trio.Event)

    def __attrs_post_init__(self) -> None:
        self._committing.set_wal_hook(self._committed)  # in the place of SQLite's own, that folds in the COMMIT

    def _committed(self, _connection: apsw.Connection, _database: str, pages: int) -> int:
        """Called in the commit's thread."""
        self._pages = pages
        return apsw.SQLITE_OK

    def poke(self) -> None:
        """This process committed."""
        if self._pages < self._tried_at:  # the log began anew
            self._tried_at = 0
        if self._pages - self._tried_at >= FOLD_PAGES:
            self._due.set()

    async def run(self) -> None:
        """A pass whenever one is due, until cancelled."""
        while True:
            await self._due.wait()
            self._due = trio.Event()
            self._tried_at = self._pages
            await self._offload(self._fold_beside)
            await self._offload_log(self._fold_alone)

    def _fold_beside(self) -> None:
        """Blocking: what was in the log when this began is in the file."""
        with suppress(apsw.Error, StoreError):
            if self._beside is None:
                self._beside = open_catalogue(self._layout.catalogue)
            is_durable(self._beside)

    def _fold_alone(self) -> None:
        """Blocking: what has come since is, too, with the mutex held: so the next commit begins the log anew."""
        self._commit_lock.lock(exclusive=True, wait=True)
        try:
            with suppress(apsw.Error):
                is_durable(self._committing)
        finally:
            self._commit_lock.unlock()

    def close(self) -> None:
        """Nothing runs any more."""
        if self._beside is not None:
            self._beside.close()
