"""What the store's tests share: a clock, blocking work done at once, and the questions that every test may ask.

A *replayed* catalogue is made in memory from the whole log (or from the oldest sealed checkpoint, where the log was
trimmed); a *snapshot* is what clients can see of a database, without the ids that are different every time.
"""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TypeVar

import apsw
import attrs

import store
from store.catalogue import queries
from store.catalogue.apply import Applier
from store.catalogue.compare import differences
from store.catalogue.schema import SCHEMA, open_catalogue, read_applied, write_applied
from store.database import Database, create_database, open_database
from store.digest import MODULUS, equality_digest, instance_digest
from store.disk import Disk
from store.ids import InstanceId, LogHead, MailboxId, Signature
from store.layout import Layout
from store.log.checkpoint import checkpoints
from store.log.log import Log
from store.proposal import Draft, Proposal
from store.records import Record
from store.recovery import apply_frame

T = TypeVar("T")

START_MS = 1_700_000_000_000
ALICE = InstanceId(b"alice".ljust(16, b"_"))
BOB = InstanceId(b"bob".ljust(16, b"_"))


class Inline:
    """Blocking work at once, on the loop: one thread, and so one order of things."""

    async def __call__(self, fn: Callable[[], T]) -> T:
        return fn()


@attrs.define
class Clock:
    """Milliseconds that only a test moves."""

    now_ms: int = START_MS

    def __call__(self) -> int:
        return self.now_ms


@asynccontextmanager
async def opened(
    path: Path, *, disk: Disk | None = None, clock: Callable[[], int] | None = None
) -> AsyncIterator[Database]:
    """The database at `path` without threads; made if it is not there."""
    if not Layout(path).catalogue.exists():
        create_database(path, disk=disk, created_ms=START_MS)
    async with open_database(path, offload=Inline, disk=disk, clock=clock or Clock()) as database:
        yield database


async def make_mailbox(database: Database, instance: InstanceId = ALICE) -> store.Mailbox:
    """An open mailbox with an INBOX."""
    await database.create_mailbox(MailboxId(b"id of " + instance[:10]), instance)
    return database.mailbox(instance)


async def folder_named(database: Database, name: str, instance: InstanceId = ALICE) -> store.FolderInfo:
    _, folders, _ = await database.account(instance)
    (found,) = [folder for folder in folders if folder.name == name]
    return found


async def inbox_of(database: Database, instance: InstanceId = ALICE) -> store.FolderId:
    return (await folder_named(database, store.INBOX, instance)).folder_id


async def append(
    database: Database, *contents: bytes, instance: InstanceId = ALICE, folder: store.FolderId | None = None
) -> list[store.ItemId]:
    """Items with these bytes are in the folder (INBOX); returns their ids."""
    items = [store.NewItem(content=content, received_ms=START_MS) for content in contents]
    into = folder or await inbox_of(database, instance)
    added = await database.mailbox(instance).append(into, items)
    return [item.item_id for item in added if item.item_id is not None]


async def contents(database: Database, folder: store.FolderId, instance: InstanceId = ALICE) -> list[bytes | None]:
    rows = await database.folder_items(instance, folder)
    return [fetched.content for fetched in await database.fetch(instance, rows)] if rows else []


async def commit(database: Database, *records: Record, instance: InstanceId = ALICE) -> None:
    """These records, as they are, are one transaction."""

    def decide(draft: Draft) -> None:
        draft.records.extend(records)

    await database._committer.submit(Proposal(instance, decide))


# ---- what the log says, and what the catalogue says


def empty_catalogue(signature: Signature, head: LogHead) -> apsw.Connection:
    """A catalogue in memory, at the beginning of a log."""
    db = apsw.Connection(":memory:")
    db.execute(SCHEMA)
    db.execute(
        "INSERT INTO meta (signature, generation, offset, chain) VALUES (?, ?, ?, ?)",
        (signature, head.position.generation, head.position.offset, head.chain),
    )
    return db


def replayed(path: Path) -> apsw.Connection:
    """A catalogue made from the log alone, or from the oldest checkpoint and the log; the log is only read."""
    layout, disk = Layout(path), Disk()
    live = open_catalogue(layout.catalogue)
    signature, _ = read_applied(live)
    live.close()
    log = Log(disk, layout, signature)
    try:
        if 1 in log.generations():
            db = empty_catalogue(signature, log.begin_of(1))
        else:
            oldest = checkpoints(disk, layout)[0]
            db = apsw.Connection(":memory:")
            copy = open_catalogue(oldest.path)
            with db.backup("main", copy, "main") as backup:
                backup.step()
            copy.close()
        _, head = read_applied(db)
        applier = Applier(db)
        with db:
            for frame in log.read_all(head):
                apply_frame(applier, frame, path="the log")
                head = frame.after
                if frame.kind.name == "SEAL" and head.position.generation + 1 in log.generations():
                    head = log.begin_of(head.position.generation + 1, chain=head.chain)
            write_applied(db, head)
    finally:
        log.close()
    return db


def check_sound(path: Path) -> None:
    """The live catalogue is what the log says, and its sums are what its rows add up to."""
    live = open_catalogue(Layout(path).catalogue)
    other = replayed(path)
    try:
        assert differences(live, other) == []
        check_sums(live)
    finally:
        live.close()
        other.close()


def check_sums(db: apsw.Connection) -> None:
    """Each folder's counts and digests, counted anew, are the maintained ones; heads and UIDNEXTs are high enough."""
    for info in queries.mailboxes(db):
        highest = [info.horizon]
        for folder in queries.folders(db, info.no):
            rows = queries.folder_items(db, folder.no, after_uid=0, limit=1 << 30)
            equality = [equality_digest(row) for row in rows]
            assert (folder.items, folder.bytes) == (len(rows), sum(row.size for row in rows)), folder.name
            assert folder.equality == sum(equality) % MODULUS, folder.name
            instance = sum(instance_digest(row, one) for row, one in zip(rows, equality, strict=True))
            assert folder.instance == instance % MODULUS, folder.name
            assert all(row.uid < folder.uidnext for row in rows), folder.name
            highest += [folder.modseq, *(row.modseq for row in rows)]
        assert info.head >= max(highest)
    loose = db.execute("SELECT count(*) FROM item WHERE folder NOT IN (SELECT no FROM folder)").get
    assert loose == 0, "items in no folder"
