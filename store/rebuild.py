"""Make the catalogue anew: from the newest checkpoint and the log; where both are gone, from what content says.

Needs the database alone. The new catalogue is made beside the old one and takes its place by a rename, so a rebuild
that dies is simply begun again.

From content alone (the log is gone, or damaged where there is no checkpoint behind it) a *new timeline* begins: every
watermark of the old one gets `FeedTrimmed`. What comes back and what does not: see `salvage`. Log, checkpoints and
catalogue are written aside, all of them, before the first of the old ones gives its place up:

    from-content.new/   being written: whoever dies leaves the old database as it was
    from-content/       whole; file by file the old ones go in there and the new ones come out. Nobody opens a
                        database that has one, and the rebuild that is begun again ends that first.
"""

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from uuid import uuid4

import apsw
import attrs

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
from store.disk import Disk
from store.errors import Corruption, StoreBroken, StoreBusy, StoreError
from store.frame import Frame
from store.ids import LogHead, Signature
from store.layout import Layout
from store.limits import BLOCK
from store.log.checkpoint import Checkpoint, sound_checkpoints
from store.log.generation import GenerationHeader, decode_header, make_generation
from store.log.log import Log
from store.recovery import replay, require_whole
from store.salvage import UNKNOWN_FROM_CONTENT, Salvage, salvage


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
        StoreBroken: there is no database here, or a rebuild from content was cut short and has to be begun again.
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
        disk.remove_folder(layout.draft)
        report = RebuildReport(path)
        if from_content:
            _from_content(disk, layout, report, tell)
        else:
            require_whole(layout)
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


def _from_content(disk: Disk, layout: Layout, report: RebuildReport, tell: Progress) -> None:
    """A new timeline takes the old one's place: whole, or (where this is cut short) not at all, or once it is begun
    again. Until it is written nothing of the old one is touched."""
    if layout.rebuilt.exists():
        _take_all_places(disk, layout)  # of one that was cut short: then it is the old one
    report.source = "content segments alone"
    report.unknown = list(UNKNOWN_FROM_CONTENT)
    draft = Layout(layout.draft)
    try:
        for folder in (draft.root, draft.log, draft.checkpoints, _before(draft.root)):
            disk.make_folder(folder)
        _write_salvaged(disk, layout, draft, report, tell)
        disk.sync_folder(draft.root)
    except BaseException:  # it gives its room back
        disk.remove_folder(draft.root)
        raise
    disk.replace(draft.root, layout.rebuilt)
    disk.sync_folder(layout.root)
    _take_all_places(disk, layout)


def _write_salvaged(disk: Disk, layout: Layout, draft: Layout, report: RebuildReport, tell: Progress) -> None:
    """Log and catalogue of the draft say what the segments hold. Durable, but for the draft's own name."""
    signature = Signature(uuid4().bytes)
    header = GenerationHeader(signature=signature, number=1, created_ms=now_ms(), chain=bytes(16))
    make_generation(disk, draft, header)
    make_catalogue(draft.catalogue, signature=signature, head=header.head)
    db = open_catalogue(draft.catalogue, applies=True)
    log = Log(disk, draft, signature)
    try:
        salvage(disk, layout, Salvage(db, log, header.head), damage=report.damage, tell=tell)
        _complete(db, report)
    finally:
        log.close()
        db.close()
    _sync(disk, draft.catalogue)


def _before(rebuilt: Path) -> Path:
    """Where the old timeline's files go: what could not be read today may be read tomorrow."""
    return rebuilt / "before"


def _take_all_places(disk: Disk, layout: Layout) -> None:
    """What is in `from-content/` is the database, and the old one lies in a folder of its own. Durable.

    Each step is a rename that is synced. One that has happened is left out, so whoever is cut short begins again.
    """
    rebuilt, before = Layout(layout.rebuilt), _before(layout.rebuilt)
    for new, old in (
        (rebuilt.log, layout.log),
        (rebuilt.checkpoints, layout.checkpoints),
        (rebuilt.catalogue, layout.catalogue),
    ):
        if not new.exists():
            continue
        # The catalogue's own log goes with it. Its index is made anew by whoever opens it.
        for aside in (old, Path(f"{old}-wal")):
            if aside.exists():
                disk.replace(aside, before / aside.name)
                disk.sync_folder(before)
                disk.sync_folder(layout.root)
        disk.remove(Path(f"{old}-shm"))
        disk.replace(new, old)
        disk.sync_folder(layout.root)
        disk.sync_folder(rebuilt.root)
    if before.exists():
        disk.replace(before, layout.root / f"before-rebuild-{now_ms()}")
        disk.sync_folder(layout.root)
    disk.remove_folder(rebuilt.root)
    disk.sync_folder(layout.root)


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
