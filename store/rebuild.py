"""Make the catalogue anew: from the newest checkpoint and the log; where both are gone, from what content says.

Needs the database alone. The new catalogue is made beside the old one and takes its place by a rename, so a rebuild
that dies is simply begun again.

From content alone (the log is gone, or damaged where there is no checkpoint behind it) a *new timeline* begins: every
watermark of the old one gets `FeedTrimmed`. What a content frame says is the item, its mailbox instance, the folder's
id, when it was received and the flags it came with. What it does not say is listed in the report: folder names,
present flags and places, keywords, deletions, settings, delivery keys, UIDs, and who may write. So the mailboxes come
back *locked*: whoever knows the directory decides which of them is open.
"""

from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from uuid import uuid4

import apsw
import attrs

from store.catalogue.apply import Applier
from store.catalogue.schema import (
    bring_up,
    catalogue_error,
    make_catalogue,
    open_catalogue,
    read_applied,
    write_applied,
)
from store.check import Progress, start_of
from store.clock import now_ms
from store.content.segment import FoundContent, scan
from store.disk import Disk
from store.errors import Corruption, StoreBroken, StoreBusy, StoreError
from store.frame import Frame
from store.ids import FolderId, InstanceId, LogHead, MailboxId, Signature
from store.layout import Layout, segment_numbers
from store.limits import BLOCK
from store.log.checkpoint import Checkpoint, sound_checkpoints
from store.log.generation import GenerationHeader, decode_header, make_generation
from store.log.log import Log
from store.names import INBOX, uidvalidity
from store.records import FolderPut, ItemRow, ItemsPut, MailboxMade, Mode, Record, encode
from store.recovery import replay

ROWS_PER_TRANSACTION = 4096
UNKNOWN_FROM_CONTENT = (
    "folder names and the folder tree (folders are named after their ids)",
    "flags, keywords and places that changed after an item arrived",
    "which items were deleted or purged (all that is still in the segments is back)",
    "UIDs and change numbers (clients will download anew)",
    "settings, subscriptions, special use",
    "delivery keys (a message that an MTA sends again may arrive twice)",
    "which mailbox each instance is, and whether it was open (they are locked; the directory knows)",
)


@attrs.define
class RebuildReport:
    """What a rebuild did. `unknown`: what could not be known, in words; empty when the log was whole."""

    path: Path
    source: str = ""
    mailboxes: int = 0
    items: int = 0
    frames: int = 0
    unknown: list[str] = attrs.Factory(list)
    damage: list[str] = attrs.Factory(list)


def rebuild_database(
    path: Path, *, from_content: bool = False, disk: Disk | None = None, progress: Progress | None = None
) -> RebuildReport:
    """The catalogue is what log (or content) says. Durable on return. Blocking.

    `from_content` is asked for by name because it forgets: without it a damaged log is an error, not a guess.

    Raises:
        StoreBusy: somebody has the database open.
        Corruption: the log cannot be replayed to its end, or ends before what the present catalogue or a checkpoint
            has seen of it; nothing was changed.
        StoreBroken: there is no database here.
    """
    disk = disk or Disk()
    layout = Layout(path)
    tell = progress or (lambda _what, _done, _total: None)
    if not path.is_dir():
        raise StoreBroken(path=str(path), why="there is no database here")
    for lock in (layout.open_lock, layout.commit_lock):
        disk.open(lock, create=True).close()
    open_lock = disk.open(layout.open_lock)
    fresh = layout.root / "catalogue.new"
    try:
        if not open_lock.lock(exclusive=True, wait=False):
            raise StoreBusy(path=str(path), why="other processes have it open; stop them first")
        _drop(disk, fresh)
        report = RebuildReport(path)
        if from_content:
            _from_content(disk, layout, fresh, report, tell)
        else:
            _from_log(disk, layout, fresh, report, tell)
        _take_place(disk, layout, fresh)
        return report
    except apsw.Error as error:
        raise catalogue_error(layout.catalogue, error) from error
    finally:
        _drop(disk, fresh)
        open_lock.close()


def _take_place(disk: Disk, layout: Layout, fresh: Path) -> None:
    """The new catalogue is the database's. Durable.

    The old one goes first, then the log of its own, each synced: without its log a catalogue that somebody died in the
    middle of folding is a mixture that nothing tells from a whole one, and a log without its catalogue would be taken
    for the new one's. Whoever dies between leaves a database without a catalogue, and that is said.
    """
    disk.remove(layout.catalogue)
    disk.sync_folder(layout.root)
    _drop_sidecars(disk, layout.catalogue)
    disk.sync_folder(layout.root)
    disk.replace(fresh, layout.catalogue)
    disk.sync_folder(layout.root)


def _drop(disk: Disk, catalogue: Path) -> None:
    """A draft's files are gone."""
    _drop_sidecars(disk, catalogue)
    disk.remove(catalogue)


def _drop_sidecars(disk: Disk, catalogue: Path) -> None:
    for suffix in ("-wal", "-shm", "-journal"):
        disk.remove(Path(f"{catalogue}{suffix}"))


def _from_log(disk: Disk, layout: Layout, fresh: Path, report: RebuildReport, tell: Progress) -> None:
    signature = _signature(disk, layout)
    log = Log(disk, layout, signature)
    try:
        sound = sound_checkpoints(disk, layout, signature, damage=report.damage)
        seen = _seen(layout, signature, sound)
        head, report.source = _start(disk, layout, log, sound, fresh)
        db = open_catalogue(fresh, applies=True)
        try:
            _replay(db, log, head, seen, report, tell)
            _complete(db, report)
        finally:
            db.close()
    finally:
        log.close()
    _sync(disk, fresh)


def _signature(disk: Disk, layout: Layout) -> Signature:
    """The timeline that the newest generation belongs to."""
    log = Log(disk, layout, Signature(bytes(16)))
    numbers = log.generations()
    if not numbers:
        raise Corruption(
            path=str(layout.log),
            offset=0,
            expected="the log (without it `--from-content` makes what can be made)",
            found="no generation",
        )
    path = layout.generation(numbers[-1])
    file = disk.open(path, readonly=True)
    try:
        return decode_header(file.read(BLOCK, 0), path=str(path)).signature
    finally:
        file.close()


def _seen(layout: Layout, signature: Signature, sound: Sequence[Checkpoint]) -> LogHead | None:
    """The farthest place in the log that the present catalogue, or a checkpoint, has seen: both are never ahead of what
    was acknowledged, so damage before it is no torn tail."""
    heads = [made.head for made in sound]
    with suppress(StoreError, apsw.Error):  # it may be what is damaged
        db = open_catalogue(layout.catalogue)
        try:
            timeline, applied = read_applied(db)
        finally:
            db.close()
        if timeline == signature:
            heads.append(applied)
    return max(heads, key=lambda head: head.position, default=None)


def _start(disk: Disk, layout: Layout, log: Log, sound: Sequence[Checkpoint], fresh: Path) -> tuple[LogHead, str]:
    """A catalogue to begin with, from the newest sound checkpoint, else from the log's beginning."""
    numbers = log.generations()
    for checkpoint in reversed(sound):
        if checkpoint.head.position.generation in numbers:
            disk.copy(checkpoint.path, fresh)
            return checkpoint.head, f"checkpoint {checkpoint.head.position} and the log"
    return start_of(disk, layout, log, log.signature, fresh), "the log from its beginning"


def _replay(
    db: apsw.Connection, log: Log, start: LogHead, seen: LogHead | None, report: RebuildReport, tell: Progress
) -> None:
    def count(frame: Frame) -> None:
        report.frames += 1
        tell("log", frame.after.position.generation, 0)

    db.execute("PRAGMA journal_mode=WAL")
    db.execute("BEGIN IMMEDIATE")
    bring_up(db)
    head = replay(db, log, start, now_ms=now_ms(), seen=seen, on_frame=count)
    newest = log.generations()[-1]
    if newest != head.position.generation:
        raise Corruption(
            path=str(log.path(head.position.generation)),
            offset=head.position.offset,
            expected=f"the log to go on to generation {newest}",
            found="its end",
        )
    write_applied(db, head)
    db.execute("COMMIT")


def _from_content(disk: Disk, layout: Layout, fresh: Path, report: RebuildReport, tell: Progress) -> None:
    """A new timeline whose first transactions put back what the segments hold."""
    report.source = "content segments alone"
    report.unknown = list(UNKNOWN_FROM_CONTENT)
    _set_aside(disk, layout)
    signature = Signature(uuid4().bytes)
    header = GenerationHeader(signature=signature, number=1, created_ms=now_ms(), chain=bytes(16))
    make_generation(disk, layout, header)
    make_catalogue(fresh, signature=signature, head=header.head)
    db = open_catalogue(fresh, applies=True)
    log = Log(disk, layout, signature)
    try:
        salvage = _Salvage(db, log, header.head)
        for number in segment_numbers(disk.names(layout.content)):
            tell("segments", number, 0)
            file = disk.open(layout.segment(number), readonly=True)
            try:
                for found in scan(file, number):
                    if isinstance(found, Corruption):
                        report.damage.append(str(found))
                    else:
                        salvage.add(found)
            finally:
                file.close()
        salvage.finish()
        _complete(db, report)
    finally:
        log.close()
        db.close()
    _sync(disk, fresh)


def _set_aside(disk: Disk, layout: Layout) -> None:
    """The old log and checkpoints stay, under another name: what could not be read today may be read tomorrow."""
    aside = layout.root / f"before-rebuild-{now_ms()}"
    disk.make_folder(aside)
    for folder in (layout.log, layout.checkpoints):
        if folder.exists():
            disk.replace(folder, aside / folder.name)
        disk.make_folder(folder)
    if layout.catalogue.exists():
        disk.copy(layout.catalogue, aside / layout.catalogue.name)
    disk.sync_folder(layout.root)


class _Salvage:
    """Puts found items back, in transactions of the new log."""

    def __init__(self, db: apsw.Connection, log: Log, head: LogHead) -> None:
        self._db, self._log, self._head = db, log, head
        self._seen: dict[InstanceId, dict[FolderId, int]] = {}
        self._modseqs: dict[InstanceId, int] = {}
        self._rows: dict[InstanceId, list[ItemRow]] = {}
        self._records: list[Record] = []
        self._items: set[tuple[bytes, bytes]] = set()
        self._pending = 0

    def add(self, found: FoundContent) -> None:
        """The first frame of an item counts; a mover may have written it again after a crash."""
        if (found.instance, found.item_id) in self._items:
            return
        self._items.add((found.instance, found.item_id))
        uid = self._folder(found)
        row = ItemRow(
            found.item_id,
            found.folder_id,
            uid,
            self._modseq(found.instance),
            found.received_ms,
            found.ref.size,
            found.ref.content_hash,
            found.ref.segment,
            found.ref.offset,
            found.flags,
            (),
            "IPM.Note",
            (),
        )
        self._rows.setdefault(found.instance, []).append(row)
        self._pending += 1
        if self._pending >= ROWS_PER_TRANSACTION:
            self.finish()

    def _folder(self, found: FoundContent) -> int:
        """The item's folder is there; returns the item's UID in it."""
        now = now_ms()
        if found.instance not in self._seen:
            self._seen[found.instance] = {}
            self._records.append(MailboxMade(found.instance, MailboxId(bytes(16)), Mode.LOCKED, 0, now))
        folders = self._seen[found.instance]
        if found.folder_id not in folders:
            folders[found.folder_id] = 1
            # Deliveries do not know their folder when their bytes are written: it was INBOX.
            name = INBOX if found.folder_id == bytes(16) else f"Recovered {found.folder_id.hex()}"
            modseq = self._modseq(found.instance)
            validity = uidvalidity(now, modseq)
            self._records.append(
                FolderPut(found.instance, found.folder_id, b"", name, modseq, validity, 1, "", True, False, ())
            )
        uid = folders[found.folder_id]
        folders[found.folder_id] = uid + 1
        return uid

    def _modseq(self, instance: InstanceId) -> int:
        self._modseqs[instance] = self._modseqs.get(instance, 0) + 1
        return self._modseqs[instance]

    def finish(self) -> None:
        """What was added is in the log and in the catalogue."""
        records: Iterable[Record] = (ItemsPut(instance, rows) for instance, rows in self._rows.items())
        transaction = [*self._records, *records]
        if transaction:
            self._db.execute("BEGIN IMMEDIATE")
            Applier(self._db).apply(transaction)
            self._head = self._log.append(encode([transaction]), head=self._head, now_ms=now_ms())
            write_applied(self._db, self._head)
            self._db.execute("COMMIT")
        self._records, self._rows, self._pending = [], {}, 0


def _complete(db: apsw.Connection, report: RebuildReport) -> None:
    """What the new catalogue holds is counted, and all of it is in its own file: a full disk shows here."""
    report.mailboxes = int(db.execute("SELECT count(*) FROM mailbox").get)
    report.items = int(db.execute("SELECT coalesce(sum(items), 0) FROM folder").get)
    db.execute("PRAGMA wal_checkpoint(TRUNCATE)")


def _sync(disk: Disk, path: Path) -> None:
    """The closed catalogue at `path` survives power loss; its own log has been emptied into it."""
    _drop_sidecars(disk, path)
    file = disk.open(path)
    try:
        file.sync()
    finally:
        file.close()
