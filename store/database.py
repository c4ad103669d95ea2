"""A database, open: builds what a process needs to use it, and owns the tasks.

    async with open_database(path) as database:
        mailbox = database.mailbox(instance)
        await mailbox.deliver(content, key=key)

Any process may open a database, at the same time as others, without a daemon. Local file systems only: the mutex is a
lock on a file. Work that needs a database alone (rebuild, restore) takes `open.lock` exclusively; everybody else holds
it shared.

Tasks: the committer's four, the watch, and what folds the catalogue's write-ahead log. Readers are connections of
their own, handed out one at a time.
"""

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path
from typing import Protocol, TypeVar
from uuid import uuid4

import apsw
import attrs
import trio

from store import paging, retention
from store.catalogue import queries
from store.catalogue.queries import FeedPage, FolderInfo, MailboxInfo
from store.catalogue.schema import bring_up, catalogue_error, is_durable, make_catalogue, open_catalogue, read_applied
from store.clock import now_ms
from store.commit import Committer
from store.content.pool import SegmentReader, SegmentWriter
from store.deciding import first_inbox
from store.disk import Disk, File
from store.errors import FeedTrimmed, Refused, StoreBroken, StoreBusy, StoreClosed
from store.feed import Watch
from store.folding import Folding
from store.ids import FolderId, InstanceId, ItemId, LogHead, MailboxId, Signature
from store.lane import Lane
from store.layout import Layout, generation_numbers, sealed_checkpoints, segment_numbers
from store.limits import (
    BLOCK,
    COPIED_ITEMS_MAX,
    FEED_CHANGES_MAX,
    FETCH_BYTES_MAX,
    GROUP_ITEMS_MAX,
    READERS,
)
from store.log.checkpoint import Checkpoint, make_checkpoint
from store.log.generation import GenerationHeader, make_generation
from store.log.log import Log
from store.mailbox import Mailbox
from store.mover import Mover
from store.offload import InThread, Offload
from store.paging import Fetched, Page, Reading
from store.proposal import Draft, Proposal
from store.records import DeliveryKeyRow, ItemRow, MailboxMade, Mode
from store.recovery import recover, require_whole
from store.retention import Maintained

T = TypeVar("T")

DRAFT = "catalogue.new"
FOREIGN = frozenset({"lost+found"})
"""What may lie beside a database: it may be all that a file system is for."""


class _Closes(Protocol):
    def close(self) -> None: ...


C = TypeVar("C", bound=_Closes)


@attrs.frozen(kw_only=True)
class Statistics:
    """A database in numbers."""

    signature: str
    generation: int
    offset: int
    generations: int
    mailboxes: int
    items: int
    bytes: int
    commits: int
    transactions: int


@attrs.define(eq=False)
class Database:
    """See the module. Made by `open_database`."""

    path: Path
    signature: Signature
    _layout: Layout
    _disk: Disk
    _committer: Committer
    _watch: Watch
    _idle: trio.MemoryReceiveChannel[tuple[Offload, Reading]]
    _give_back: trio.MemorySendChannel[tuple[Offload, Reading]]
    _now_ms: Callable[[], int]

    def __repr__(self) -> str:
        return f"<Database {self.path}>"

    # ---- who writes

    def mailbox(self, instance: InstanceId) -> Mailbox:
        """The verbs of clients and deliveries."""
        return Mailbox(instance, self._committer, self._now_ms)

    def mover(self, instance: InstanceId) -> Mover:
        """The verbs of a mover."""
        return Mover(instance, self._committer)

    async def wait_broken(self) -> None:
        """Return when nothing more can be committed here (`StoreBroken`): leave the database, and open it again."""
        await self._committer.broken.wait()

    async def create_mailbox(self, mailbox_id: MailboxId, instance: InstanceId) -> None:
        """An open, empty mailbox with an INBOX exists. Durable. Raises `Refused` where the instance exists."""

        def decide(draft: Draft) -> None:
            if queries.find_mailbox(draft.db, instance) is not None:
                raise Refused(why=f"mailbox instance {instance.hex()} exists already")
            draft.records.append(MailboxMade(instance, mailbox_id, Mode.OPEN, 0, draft.now_ms))
            draft.records.append(first_inbox(draft))

        await self._committer.submit(Proposal(instance, decide))

    # ---- who reads

    async def read(self, fn: Callable[[Reading], T]) -> T:
        """`fn` with a connection and the segments of its own, off the loop. It keeps no transaction open."""
        try:
            offload, reading = await self._idle.receive()
        except trio.ClosedResourceError:
            raise StoreClosed(path=str(self.path)) from None
        try:
            return await offload(lambda: fn(reading))
        except apsw.Error as error:
            raise catalogue_error(self._layout.catalogue, error) from error
        finally:
            self._give_back.send_nowait((offload, reading))

    async def _stop_reading(self) -> None:
        """Reads that were begun have ended, so that their connections can be closed; whoever comes later is told."""
        with trio.CancelScope(shield=True):  # a read that was begun ends by itself
            for _ in range(READERS):
                await self._idle.receive()
        self._idle.close()
        self._watch.poke()

    async def info(self, instance: InstanceId) -> MailboxInfo:
        """Raises `NoSuchMailbox`."""
        return await self.read(lambda reading: queries.mailbox(reading.db, instance))

    async def mailboxes(self) -> list[MailboxInfo]:
        """Every instance, whatever its guard."""
        return await self.read(lambda reading: queries.mailboxes(reading.db))

    async def account(self, instance: InstanceId) -> tuple[MailboxInfo, list[FolderInfo], dict[str, str]]:
        """The mailbox, its folders with their sums, and its settings, of one moment. O(folders)."""

        def look(reading: Reading) -> tuple[MailboxInfo, list[FolderInfo], dict[str, str]]:
            with reading.db:
                info = queries.mailbox(reading.db, instance)
                found = info, queries.folders(reading.db, info.no), queries.settings(reading.db, info.no)
            return found

        return await self.read(look)

    async def folder_items(
        self, instance: InstanceId, folder_id: FolderId, *, after_uid: int = 0, limit: int = 1000
    ) -> list[ItemRow]:
        """A folder's items by UID, a page at a time. Raises `NoSuchFolder`."""

        def look(reading: Reading) -> list[ItemRow]:
            info = queries.mailbox(reading.db, instance)
            folder = queries.folder(reading.db, info.no, folder_id)
            return queries.folder_items(reading.db, folder.no, after_uid=after_uid, limit=limit)

        return await self.read(look)

    async def items(self, instance: InstanceId, *, after: bytes = b"", limit: int = 1000) -> list[ItemRow]:
        """A mailbox's items by id, a page at a time: about in the order in which they were made, and it stays."""
        return await self.read(
            lambda reading: queries.items_by_id(
                reading.db, queries.mailbox(reading.db, instance).no, after=after, limit=limit
            )
        )

    async def page(
        self, instance: InstanceId, *, after: bytes, limit: int, bytes_max: int = FETCH_BYTES_MAX, keys_max: int = 0
    ) -> Page:
        """The same with their bytes; with settings and so many delivery keys, where those are asked for. Of damage and
        size the same holds as for `fetch`."""
        return await self.read(
            lambda reading: paging.read_page(
                reading, instance, after=after, limit=limit, bytes_max=bytes_max, keys_max=keys_max
            )
        )

    async def setting_states(self, instance: InstanceId) -> list[tuple[str, str | None, int]]:
        """All settings with their modseqs, removed ones (None) too."""
        return await self.read(
            lambda reading: queries.setting_states(reading.db, queries.mailbox(reading.db, instance).no)
        )

    async def delivery_keys(
        self, instance: InstanceId, *, after_modseq: int = 0, limit: int = 1000
    ) -> list[DeliveryKeyRow]:
        """The deliveries that were accepted, in that order, a page at a time."""
        return await self.read(
            lambda reading: queries.delivery_keys(
                reading.db, queries.mailbox(reading.db, instance).no, after_modseq=after_modseq, limit=limit
            )
        )

    async def find(self, instance: InstanceId, item_ids: Sequence[ItemId]) -> list[ItemRow]:
        """Those of these items that are there."""
        return await self.read(
            lambda reading: queries.find_items(reading.db, queries.mailbox(reading.db, instance).no, item_ids)
        )

    async def fetch(
        self, instance: InstanceId, rows: Sequence[ItemRow], *, bytes_max: int = FETCH_BYTES_MAX
    ) -> list[Fetched]:
        """As many of these items, with bytes, from the first on, as fit in `bytes_max`; one at least.

        Bytes are checked; a damaged item comes with its damage. An item purged meanwhile comes with neither content
        nor damage.
        """

        return await self.read(lambda reading: paging.fetch(reading, instance, paging.fitting(rows, bytes_max)))

    async def fetch_by_id(
        self, instance: InstanceId, item_ids: Sequence[ItemId], *, bytes_max: int = FETCH_BYTES_MAX
    ) -> tuple[list[Fetched], list[ItemId]]:
        """The same of those of these items that are there; and the others of them, which did not fit."""

        def look(reading: Reading) -> tuple[list[Fetched], list[ItemId]]:
            rows = queries.find_items(reading.db, queries.mailbox(reading.db, instance).no, item_ids)
            some = paging.fitting(rows, bytes_max)
            return paging.fetch(reading, instance, some), [row.item_id for row in rows[len(some) :]]

        return await self.read(look)

    async def feed(self, instance: InstanceId, *, after: int, limit: int = FEED_CHANGES_MAX) -> FeedPage:
        """What differs since `after`, oldest first. Never waits. Raises `FeedTrimmed`."""
        page = await self.read(lambda reading: queries.feed_page(reading.db, instance, after=after, limit=limit))
        if page.signature != self.signature:
            raise FeedTrimmed(after=str(after), horizon=f"timeline {page.signature.hex()[:8]}")
        return page

    async def wait_change(self, instance: InstanceId, *, after: int) -> None:
        """Return as soon as the mailbox's head is beyond `after`, whoever moved it. Raises `StoreClosed`."""
        while True:
            armed = self._watch.armed()
            if (await self.info(instance)).head > after:
                return
            await armed.wait()

    async def statistics(self) -> Statistics:
        def look(reading: Reading) -> Statistics:
            signature, head = read_applied(reading.db)
            log = Log(self._disk, self._layout, signature)
            folders = [f for info in queries.mailboxes(reading.db) for f in queries.folders(reading.db, info.no)]
            return Statistics(
                signature=signature.hex(),
                generation=head.position.generation,
                offset=head.position.offset,
                generations=len(log.generations()),
                mailboxes=len(queries.mailboxes(reading.db)),
                items=sum(folder.items for folder in folders),
                bytes=sum(folder.bytes for folder in folders),
                commits=self._committer.commits,
                transactions=self._committer.transactions,
            )

        return await self.read(look)

    # ---- upkeep

    async def checkpoint(self) -> Checkpoint:
        """A sealed checkpoint of now exists; older ones, and log, that nothing needs any more are gone."""

        def seal(reading: Reading) -> Checkpoint:
            made = make_checkpoint(self._disk, self._layout, reading.db)
            # The catalogue itself may still need the log: after power loss it is only as new as what was synced.
            with_log = is_durable(reading.db)
            retention.remove_outlived(self._disk, self._layout, made.signature, with_log=with_log)
            return made

        return await self.read(seal)

    async def maintain(self) -> Maintained:
        """What time brings: purge what was recoverable long enough, cut feeds, drop dead segments, checkpoint."""
        purged = cut = 0
        now = self._now_ms()
        for info in await self.mailboxes():
            if info.mode is Mode.OPEN:
                purged += await retention.purge_recoverable(self._committer, info.instance, now_ms=now)
            cut += await retention.cut_feed(self._committer, info.instance, now_ms=now)
        dropped = await retention.drop_segments(self._committer, self.read_db, self._disk, self._layout)
        for _ in range(READERS):  # they take turns; one that is in a long read does so next time
            await self.read(lambda reading: reading.content.close_dropped())
        checkpointed = await self.read(
            lambda reading: retention.is_checkpoint_due(self._disk, self._layout, reading.db)
        )
        if checkpointed:
            await self.checkpoint()
        return Maintained(purged=purged, cut=cut, dropped=dropped, checkpointed=checkpointed)

    async def read_db(self, fn: Callable[[apsw.Connection], T]) -> T:
        """`read`, of the catalogue alone."""
        return await self.read(lambda reading: fn(reading.db))


def create_database(path: Path, *, disk: Disk | None = None, created_ms: int | None = None) -> None:
    """An empty database is at `path`. Durable. Blocking.

    Raises:
        Refused: there is something there already.
        StoreBusy: somebody else is making it.
        StoreFull: it cannot be written.
    """
    disk = disk or Disk()
    layout = Layout(path)
    _check_nothing_there(disk, layout)
    for folder in (layout.root, layout.log, layout.content, layout.checkpoints):
        disk.make_folder(folder)
    disk.open(layout.commit_lock, create=True).close()
    open_lock = disk.open(layout.open_lock, create=True)
    try:
        # Whoever opens it meanwhile finds it in use, not half made.
        if not open_lock.lock(exclusive=True, wait=False):
            raise StoreBusy(path=str(path), why="it is open, or being made")
        _check_nothing_there(disk, layout)
        _make_database(disk, layout, created_ms)
    finally:
        open_lock.close()


def lock_alone(path: Path, *, disk: Disk | None = None) -> File:
    """Nobody has the database at `path` open, nor opens it until this is closed. Blocking, but not for long.

    Raises:
        StoreBusy: somebody has.
        StoreBroken: there is no database at `path`.
    """
    disk = disk or Disk()
    try:
        lock = disk.open(Layout(path).open_lock)
    except FileNotFoundError:
        raise StoreBroken(path=str(path), why="there is no database here") from None
    if not lock.lock(exclusive=True, wait=False):
        lock.close()
        raise StoreBusy(path=str(path), why="it is open: stop workers and LMTP listeners, then try again")
    return lock


def holds_database(path: Path, *, disk: Disk | None = None) -> bool:
    """Is there a database at `path`? Also one without its catalogue. Whoever died while making one left less: an empty
    log at most. Blocking."""
    disk, layout = disk or Disk(), Layout(path)
    log = [layout.generation(number) for number in generation_numbers(disk.names(layout.log))]
    return (
        layout.catalogue.exists()
        or layout.rebuilt.exists()
        or bool(segment_numbers(disk.names(layout.content)))
        or bool(sealed_checkpoints(disk.names(layout.checkpoints)))
        or bool(log[1:])
        or bool(log and log[0].stat().st_size > BLOCK)
    )


def _check_nothing_there(disk: Disk, layout: Layout) -> None:
    """Nothing but what making a database may have left behind."""
    if holds_database(layout.root, disk=disk):
        raise Refused(why=f"there is a database in {layout.root} already")
    ours = {one.name for one in (layout.log, layout.content, layout.checkpoints, layout.commit_lock, layout.open_lock)}
    begun = (DRAFT, layout.catalogue.name)  # and what SQLite keeps beside them
    others = [name for name in disk.names(layout.root) if name not in ours | FOREIGN and not name.startswith(begun)]
    if others:
        raise Refused(
            why=f"{layout.root} holds other files, as {others[0]}: a database needs a folder that is empty, or new"
        )


def _make_database(disk: Disk, layout: Layout, created_ms: int | None) -> None:
    """The catalogue appears last, whole, by a rename: without it there is no database yet."""
    signature = Signature(uuid4().bytes)
    header = GenerationHeader(
        signature=signature, number=1, created_ms=created_ms if created_ms is not None else now_ms(), chain=bytes(16)
    )
    make_generation(disk, layout, header)
    draft = layout.root / DRAFT
    for suffix in ("", "-wal", "-shm", "-journal"):
        disk.remove(Path(f"{draft}{suffix}"))
        disk.remove(Path(f"{layout.catalogue}{suffix}"))
    try:
        make_catalogue(draft, signature=signature, head=header.head)
    except apsw.Error as error:
        raise catalogue_error(layout.catalogue, error) from error
    disk.sync_folder(layout.root)  # the locks have their names before there is a database
    disk.replace(draft, layout.catalogue)
    disk.sync_folder(layout.root)


@asynccontextmanager
async def open_database(
    path: Path,
    *,
    offload: Callable[[], Offload] = InThread,
    disk: Disk | None = None,
    clock: Callable[[], int] = now_ms,
) -> AsyncIterator[Database]:
    """The database, recovered and ready; its tasks end with the block. What was submitted and not answered by then
    may or may not have happened.

    Raises:
        StoreBusy: somebody needs the database alone.
        StoreBroken: there is no database at `path`.
        Corruption: the log is damaged where it was acknowledged.
    """
    resources = _Resources(path, disk or Disk(), clock)
    writer_offload = offload()
    await writer_offload(resources.open)
    try:
        give_back, idle = trio.open_memory_channel[tuple[Offload, Reading]](READERS)
        for reading in resources.readings:
            give_back.send_nowait((offload(), reading))
        watch = Watch(resources.watching)
        folding = resources.keep(
            Folding(resources.layout, resources.committing, resources.commit_lock, writer_offload, offload())
        )

        def committed() -> None:
            watch.poke()
            folding.poke()

        committer = Committer(
            resources.layout,
            resources.committing,
            resources.log,
            Lane(resources.writer, offload(), GROUP_ITEMS_MAX),
            Lane(resources.copies_writer, offload(), COPIED_ITEMS_MAX),
            resources.commit_lock,
            writer_offload,
            clock,
            committed,
        )
        database = Database(
            path, resources.signature, resources.layout, resources.disk, committer, watch, idle, give_back, clock
        )
        # The committer, the watch and the folding live here; leaving the block ends them.
        async with trio.open_nursery() as nursery:
            await nursery.start(committer.run)
            nursery.start_soon(watch.run)
            nursery.start_soon(folding.run)
            try:
                yield database
            finally:
                nursery.cancel_scope.cancel()
                await database._stop_reading()
    finally:
        resources.close()


class _Resources:
    """The files and connections of an open database, opened and closed together; blocking."""

    def __init__(self, path: Path, disk: Disk, clock: Callable[[], int]) -> None:
        self.layout = Layout(path)
        self.disk = disk
        self._clock = clock
        self._open = ExitStack()

    def open(self) -> None:
        try:
            self._open_all()
        except BaseException:
            self.close()
            raise

    def _open_all(self) -> None:
        layout, disk = self.layout, self.disk
        try:
            self.open_lock = self.keep(disk.open(layout.open_lock))
            self.commit_lock = self.keep(disk.open(layout.commit_lock))
        except FileNotFoundError:
            raise StoreBroken(path=str(layout.root), why="there is no database here") from None
        if not self.open_lock.lock(exclusive=False, wait=False):
            raise StoreBusy(path=str(layout.root), why="another process works on it alone; try again when it is done")
        require_whole(layout)
        self.committing = self.keep(open_catalogue(layout.catalogue, applies=True))
        try:
            self.signature, _ = read_applied(self.committing)
            self.log = self.keep(Log(disk, layout, self.signature))
            self._recover()
            self.watching = self.keep(open_catalogue(layout.catalogue))
            self.readings = [
                Reading(self.keep(open_catalogue(layout.catalogue)), self.keep(SegmentReader(disk, layout)))
                for _ in range(READERS)
            ]
        except apsw.Error as error:
            raise catalogue_error(layout.catalogue, error) from error
        self.writer = self.keep(SegmentWriter(disk, layout))
        self.copies_writer = self.keep(SegmentWriter(disk, layout))

    def _recover(self) -> LogHead:
        self.commit_lock.lock(exclusive=True, wait=True)
        try:
            self.committing.execute("BEGIN IMMEDIATE")
            try:
                bring_up(self.committing)
                head = recover(self.committing, self.log, now_ms=self._clock())
                self.committing.execute("COMMIT")
            finally:
                if not self.committing.get_autocommit():
                    self.committing.execute("ROLLBACK")
            return head
        finally:
            self.commit_lock.unlock()

    def keep(self, resource: C) -> C:
        self._open.callback(resource.close)
        return resource

    def close(self) -> None:
        self._open.close()
