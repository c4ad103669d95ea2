"""Verify a database: the log's chain, every item's bytes, the sums, and the catalogue against the log.

Runs beside others: what the log says up to one position is replayed into a scratch catalogue (from the log's
beginning, or from the oldest checkpoint where the beginning has been trimmed) and compared with a view of the live one
at that same position. That view is one long read transaction, the only one in the store: it holds back SQLite's own
checkpointing for as long as the check takes. What it reads is held (`holds`), so upkeep removes nothing of it. Nothing
is changed; damage is reported, all of it, not just the first.
"""

from collections.abc import Callable
from pathlib import Path
from uuid import uuid4

import apsw
import attrs

from store.catalogue import queries
from store.catalogue.apply import Applier
from store.catalogue.compare import differences
from store.catalogue.schema import (
    bring_up,
    catalogue_error,
    make_catalogue,
    open_catalogue,
    read_applied,
    write_applied,
)
from store.content.pool import SegmentReader
from store.content.segment import HEADER_BYTES, decode_header
from store.digest import MODULUS, equality_digest, instance_digest
from store.disk import Disk
from store.errors import Corruption, StoreBroken, StoreBusy, StoreError, StoreFull
from store.frame import FrameKind
from store.holds import held
from store.ids import InstanceId, LogHead, Signature
from store.layout import Layout, is_scratch
from store.log.checkpoint import checkpoints, verify
from store.log.log import Log
from store.records import ItemRow
from store.recovery import apply_frame, require_whole

Progress = Callable[[str, int, int], None]
"""Called with what is being checked, how much is done, and of how much (bytes, or 0 where that is not known)."""
PROBLEMS_MAX = 1000
"""More are counted, not kept."""
_PROGRESS_ITEMS = 256


@attrs.define
class CheckReport:
    """What a check found."""

    path: Path
    signature: str = ""
    position: str = ""
    generations: int = 0
    frames: int = 0
    mailboxes: int = 0
    items: int = 0
    bytes: int = 0
    checkpoints: int = 0
    problems: list[str] = attrs.Factory(list)
    problems_total: int = 0

    @property
    def ok(self) -> bool:
        return not self.problems_total

    def add(self, problem: str) -> None:
        self.problems_total += 1
        if len(self.problems) < PROBLEMS_MAX:
            self.problems.append(problem)


def check_database(path: Path, *, disk: Disk | None = None, progress: Progress | None = None) -> CheckReport:
    """The whole database, verified. Blocking; O(everything).

    Raises:
        StoreBroken, StoreBusy, Corruption: it cannot even be opened; the sentence says why.
        StoreFull: there is no room for the catalogue that is made for comparing.
    """
    disk = disk or Disk()
    layout = Layout(path)
    report = CheckReport(path)
    tell = progress or (lambda _what, _done, _total: None)
    try:
        open_lock = disk.open(layout.open_lock)
    except FileNotFoundError:
        raise StoreBroken(path=str(path), why="there is no database here") from None
    scratch = layout.scratch(uuid4().hex[:8])
    try:
        if not open_lock.lock(exclusive=False, wait=False):
            raise StoreBusy(path=str(path), why="another process works on it alone; try again when it is done")
        require_whole(layout)
        with held(disk, layout) as alone:
            if alone:
                _remove_scratches(disk, layout)
            live = open_catalogue(layout.catalogue)
            try:
                _check(disk, layout, live, scratch, report, tell)
            except apsw.Error as error:
                found = catalogue_error(layout.catalogue, error)
                if isinstance(found, StoreFull):  # the scratch catalogue's; the live one is only read
                    raise found from error
                report.add(str(found))
            finally:
                live.close()
                disk.remove_folder(scratch)
    finally:
        open_lock.close()
    return report


def _remove_scratches(disk: Disk, layout: Layout) -> None:
    """What checks left that were killed: no other one is under way."""
    for name in disk.names(layout.root):
        if is_scratch(name):
            disk.remove_folder(layout.root / name)


def _check(
    disk: Disk, layout: Layout, live: apsw.Connection, scratch: Path, report: CheckReport, tell: Progress
) -> None:
    signature, head = _hold_view(disk, layout, live)
    report.signature, report.position = signature.hex(), str(head.position)
    log = Log(disk, layout, signature)
    try:
        disk.make_folder(scratch)
        replayed = _replay(disk, layout, log, signature, head, scratch / "catalogue.sqlite", report, tell)
        if replayed is not None:
            try:
                for difference in differences(live, replayed):
                    report.add(f"the catalogue is not what the log says: {difference}")
            finally:
                replayed.close()
    finally:
        log.close()
    _check_items(disk, layout, live, report, tell)
    _check_pages(layout, live, report)


def _check_pages(layout: Layout, live: apsw.Connection, report: CheckReport) -> None:
    """Every page that is in use, those of the indexes too, which nothing above had to read."""
    for (said,) in live.execute("PRAGMA integrity_check(1)"):
        if said != "ok":
            report.add(f"{layout.catalogue} is damaged ({said}); `moverq store rebuild` makes it anew from the log")


def _hold_view(disk: Disk, layout: Layout, live: apsw.Connection) -> tuple[Signature, LogHead]:
    """A read transaction at one position of the log, taken while nobody commits."""
    commit_lock = disk.open(layout.commit_lock)
    try:
        commit_lock.lock(exclusive=True, wait=True)
        live.execute("BEGIN")
        return read_applied(live)
    finally:
        commit_lock.close()


def _replay(
    disk: Disk,
    layout: Layout,
    log: Log,
    signature: Signature,
    until: LogHead,
    path: Path,
    report: CheckReport,
    tell: Progress,
) -> apsw.Connection | None:
    """A catalogue made from the log up to `until`; None where the log is damaged (which is then reported)."""
    damaged: list[Path] = []
    for checkpoint in checkpoints(disk, layout, damaged=damaged):
        report.checkpoints += 1
        try:
            verify(disk, checkpoint)
        except StoreError as damage:
            report.add(str(damage))
    for seal in damaged:  # a seal appears whole, by a rename: no crash leaves a part of one
        report.add(str(Corruption(path=str(seal), offset=0, expected="the seal of a checkpoint", found="other bytes")))
    try:
        start = start_of(disk, layout, log, signature, path)
        report.generations = len(log.generations())
        db = open_catalogue(path)
    except StoreFull:
        raise
    except StoreError as damage:
        report.add(str(damage))
        return None
    done, total = 0, _size_of(disk, layout, log)
    head = start
    try:
        applier = Applier(db)
        db.execute("BEGIN")
        bring_up(db)
        for frame in log.read_all(start):
            if frame.start == until.position:
                break
            apply_frame(applier, frame, path=str(log.path(frame.start.generation)))
            head = frame.after
            report.frames += frame.kind is FrameKind.GROUP
            done += len(frame.raw)
            tell("log", done, total)
        # The same place may be named as the end of a sealed generation or as the beginning of the next.
        write_applied(db, until if head.chain == until.chain else head)
        db.execute("COMMIT")
    except StoreError as damage:
        report.add(str(damage))
        db.close()
        return None
    if head.chain != until.chain:
        lost = Corruption(
            path=str(log.path(head.position.generation)),
            offset=head.position.offset,
            expected=f"the log to go on to {until.position}",
            found="damage: no frame that belongs here",
        )
        report.add(str(lost))
        db.close()
        return None
    return db


def start_of(disk: Disk, layout: Layout, log: Log, signature: Signature, path: Path) -> LogHead:
    """A catalogue is at `path`, at the earliest place the log can be replayed from: its beginning, or a checkpoint.

    Raises `Corruption` where neither is there.
    """
    numbers = log.generations()
    if numbers and numbers[0] == 1:
        head = log.begin_of(1)
        make_catalogue(path, signature=signature, head=head)
        return head
    for checkpoint in checkpoints(disk, layout):
        if checkpoint.signature == signature and checkpoint.head.position.generation in numbers:
            verify(disk, checkpoint)
            disk.copy(checkpoint.path, path)
            return checkpoint.head
    raise Corruption(
        path=str(layout.log),
        offset=0,
        expected="the log from its beginning, or a checkpoint that it goes on from",
        found=f"generations {numbers[:1]} to {numbers[-1:]} and no checkpoint among them",
    )


def _size_of(disk: Disk, layout: Layout, log: Log) -> int:
    total = 0
    for number in log.generations():
        file = disk.open(layout.generation(number), readonly=True)
        total += file.size()
        file.close()
    return total


def _check_header(reader: SegmentReader, row: ItemRow, instance: InstanceId) -> None:
    """Raises `Corruption` where the header before an item's bytes is none, or one of other bytes. Of an item that was
    copied it names the one it was copied from: the bytes are shared."""
    file = reader.file(row.segment)
    found = decode_header(file.read(HEADER_BYTES, row.offset), segment=row.segment, offset=row.offset)
    if found is None or (found.instance, found.ref) != (instance, row.ref):
        raise Corruption(
            path=str(file.path),
            offset=row.offset,
            expected="the header of this item's bytes (a rebuild from content alone goes by it)",
            found="none" if found is None else f"one of {found.ref.size} other bytes",
        )


def _check_items(disk: Disk, layout: Layout, live: apsw.Connection, report: CheckReport, tell: Progress) -> None:
    """Every item's bytes against their hash, and every folder's sums against its items."""
    reader = SegmentReader(disk, layout)
    sums: dict[tuple[int, bytes], list[int]] = {}
    infos = {info.no: info for info in queries.mailboxes(live)}
    report.mailboxes = len(infos)
    total = sum(queries.used_bytes(live, no) for no in infos)
    try:
        for mailbox_no, row in queries.every_item(live):
            instance = infos[mailbox_no].instance
            try:
                reader.read(row.ref)
                _check_header(reader, row, instance)
            except StoreError as damage:
                report.add(f"item {row.item_id.hex()} of mailbox {instance.hex()}: {damage}")
            equality = equality_digest(row)
            account = sums.setdefault((mailbox_no, row.folder_id), [0, 0, 0, 0])
            account[0] += 1
            account[1] += row.size
            account[2] = (account[2] + equality) % MODULUS
            account[3] = (account[3] + instance_digest(row, equality)) % MODULUS
            report.items += 1
            report.bytes += row.size
            if report.items % _PROGRESS_ITEMS == 0:
                tell("items", report.bytes, total)
    finally:
        reader.close()
    for no, info in infos.items():
        for folder in queries.folders(live, no):
            kept = [folder.items, folder.bytes, folder.equality, folder.instance]
            if kept != sums.get((no, folder.folder_id), [0, 0, 0, 0]):
                report.add(
                    f"folder {folder.name!r} of mailbox {info.instance.hex()}: its sums are not those of its items"
                )
