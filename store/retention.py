"""What may go: items recoverable long enough, tombstones and delivery keys, dead segments, old log.

Absence proves nothing: a mailbox instance that no directory entry names is never touched here. Item retention runs
only while a mailbox is open (its own clients' rules), never on a sealed or retired one.
"""

from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol, TypeVar

import apsw
import attrs

from store.catalogue import queries
from store.catalogue.schema import read_applied
from store.commit import Committer
from store.disk import Disk, File
from store.errors import MailboxLocked, MailboxMoved, MailboxSealed, NoSuchMailbox
from store.guard import require_client
from store.holds import removing
from store.ids import InstanceId, Signature
from store.layout import Layout, generation_numbers, segment_numbers
from store.limits import (
    CHECKPOINT_LOG_BYTES,
    CHECKPOINTS_KEPT,
    DELIVERY_KEYS_KEPT_S,
    ITEMS_PER_VERB_MAX,
    OPEN_SEGMENTS_MAX,
    RECOVERABLE_KEPT_S,
    TOMBSTONES_KEPT,
)
from store.log.checkpoint import checkpoints, needed_checkpoints, remove_checkpoint
from store.names import DELETED_MS
from store.proposal import Draft, Proposal
from store.records import FeedCut, GoneRow, ItemsGone, SegmentsDropped

T = TypeVar("T")


@attrs.frozen
class Maintained:
    """What a round of upkeep did."""

    purged: int
    cut: int
    dropped: int
    checkpointed: bool


class ReadDb(Protocol):
    """How a database reads its catalogue off the loop."""

    def __call__(self, fn: Callable[[apsw.Connection], T]) -> Awaitable[T]: ...


async def purge_recoverable(committer: Committer, instance: InstanceId, *, now_ms: int) -> int:
    """Items deleted longer ago than the mailbox's retention are gone for good; returns how many."""
    purged = 0
    while True:
        try:
            number = await committer.submit(
                Proposal(instance, lambda draft: _purge_some(draft, now_ms), items=ITEMS_PER_VERB_MAX)
            )
        except (MailboxLocked, MailboxMoved, MailboxSealed, NoSuchMailbox):
            return purged
        purged += number
        if number < ITEMS_PER_VERB_MAX:
            return purged


def _purge_some(draft: Draft, now_ms: int) -> int:
    require_client(draft.info)
    days = queries.setting(draft.db, draft.info.no, "retention_days")
    kept_ms = (int(days) * 86400 if days is not None else RECOVERABLE_KEPT_S) * 1000
    expired = []
    for folder in queries.folders(draft.db, draft.info.no):
        if folder.hidden:
            # About in the order of deletion; at most one page a transaction. One that stays does not end it: clocks
            # go backwards, and what a client put here itself has no date and stays.
            for row in queries.folder_items(draft.db, folder.no, after_uid=0, limit=ITEMS_PER_VERB_MAX):
                deleted_ms = dict(row.properties).get(DELETED_MS, "")
                if deleted_ms.isdecimal() and int(deleted_ms) + kept_ms <= now_ms:
                    expired.append(row.item_id)
    del expired[ITEMS_PER_VERB_MAX:]
    if expired:
        draft.records.append(ItemsGone(draft.instance, [GoneRow(item, draft.next_modseq()) for item in expired]))
    return len(expired)


async def cut_feed(committer: Committer, instance: InstanceId, *, now_ms: int) -> int:
    """Delivery keys kept long enough are dropped, and tombstones beyond `TOMBSTONES_KEPT`; returns how many.

    Only of an open mailbox: in the target of a move a tombstone is what keeps a dead item from coming back.
    """
    try:
        return await committer.submit(Proposal(instance, lambda draft: _cut(draft, now_ms)))
    except (MailboxLocked, MailboxMoved, MailboxSealed, NoSuchMailbox):
        return 0


def _cut(draft: Draft, now_ms: int) -> int:
    require_client(draft.info)
    no, db = draft.info.no, draft.db
    keys_before = now_ms - DELIVERY_KEYS_KEPT_S * 1000
    keys = db.execute("SELECT count(*) FROM delivery_key WHERE mailbox = ? AND accepted_ms < ?", (no, keys_before)).get
    newest = db.execute(
        "SELECT modseq FROM tombstone WHERE mailbox = ? ORDER BY modseq DESC LIMIT 1 OFFSET ?", (no, TOMBSTONES_KEPT)
    ).fetchone()
    horizon = int(newest[0]) if newest else 0
    if not keys and horizon <= draft.info.horizon:
        return 0
    gone = db.execute("SELECT count(*) FROM tombstone WHERE mailbox = ? AND modseq <= ?", (no, horizon)).get
    draft.records.append(FeedCut(draft.instance, horizon, keys_before))
    return int(keys) + int(gone)


async def drop_segments(committer: Committer, read: ReadDb, disk: Disk, layout: Layout) -> int:
    """Segments that no item refers to, and nobody writes to, are gone; returns how many: none while somebody holds
    them.

    The newest segment stays, so that no number is used twice: a reader may still have the old file open under it. No
    more than `OPEN_SEGMENTS_MAX` are open at a time, each such batch a commit: after a migration there are thousands.
    """
    with removing(disk, layout) as may_remove:
        if not may_remove:
            return 0
        used = await read(queries.segments_in_use)
        numbers = [n for n in segment_numbers(disk.names(layout.content))[:-1] if n not in used]
        dropped = 0
        for at in range(0, len(numbers), OPEN_SEGMENTS_MAX):
            dropped += await _drop_some(committer, disk, layout, numbers[at : at + OPEN_SEGMENTS_MAX])
        return dropped


async def _drop_some(committer: Committer, disk: Disk, layout: Layout, numbers: Sequence[int]) -> int:
    """Each candidate's lease is taken first, so nothing can be written to it. Then, *inside the commit*, where what a
    predecessor left in the log has been replayed: if no item refers to it, none ever will, for a copy needs an item
    that does. The log says so before the files go."""
    leased: list[tuple[int, File]] = []

    def decide(draft: Draft) -> tuple[int, ...]:
        used = queries.segments_in_use(draft.db)
        dead = tuple(number for number, _ in leased if number not in used)
        if dead:
            draft.records.append(SegmentsDropped(dead))
        return dead

    try:
        for number in numbers:
            try:
                file = disk.open(layout.segment(number))
            except FileNotFoundError:
                continue
            if file.lock(exclusive=True, wait=False):
                leased.append((number, file))
            else:
                file.close()
        if not leased:
            return 0
        dead = await committer.submit(Proposal(InstanceId(b""), decide))
        for number in dead:
            disk.remove(layout.segment(number))
        return len(dead)
    finally:
        for _, file in leased:
            file.close()


def is_checkpoint_due(disk: Disk, layout: Layout, db: apsw.Connection) -> bool:
    """Lies more than `CHECKPOINT_LOG_BYTES` of log above the newest checkpoint?"""
    _, head = read_applied(db)
    sealed = checkpoints(disk, layout)
    newest = sealed[-1].head.position.generation if sealed else 0
    above = [n for n in generation_numbers(disk.names(layout.log)) if n > newest]
    size = sum(layout.generation(number).stat().st_size for number in above if number < head.position.generation)
    return size >= CHECKPOINT_LOG_BYTES


def remove_outlived(disk: Disk, layout: Layout, signature: Signature, *, with_log: bool) -> None:
    """Checkpoints older than the newest two that are sound are gone, and `with_log` the generations below both: a
    rebuild must find its way from either. Nothing while there are fewer, or while somebody holds them."""
    with removing(disk, layout) as may_remove:
        needed = needed_checkpoints(disk, layout, signature) if may_remove else []
        if len(needed) < CHECKPOINTS_KEPT:
            return
        oldest = needed[-1].head.position
        for made in checkpoints(disk, layout):
            if made.head.position < oldest:
                remove_checkpoint(disk, made)
        old = [number for number in generation_numbers(disk.names(layout.log)) if number < oldest.generation]
        for number in old if with_log else ():
            disk.remove(layout.generation(number))
            disk.sync_folder(layout.log)  # after each: power loss may bring some back, and a gap would look like damage
