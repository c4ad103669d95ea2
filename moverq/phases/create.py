"""CreatingMailbox, and CreatingInitialSyncCheckpoint: the sealed target, and where the feed stood before the listing.

The target's id was chosen with the request, so a restart looks for it by that id and finds what it made. A rollback
makes nothing: the retired instance that the reverse feed has followed is sealed and becomes the target, with the map
and the watermark of the move it takes back.

The final steps are rehearsed on the real target as soon as there is one (`rehearsal`).
"""

from moverq.endpoints.base import Source
from moverq.errors import NotFound, RequestRefused
from moverq.model.change import Watermark
from moverq.model.facts import (
    FeedWatermark,
    OfflineLocked,
    PurgeAllowed,
    ReverseWatermark,
    SeedCursor,
    SeedWatermark,
    TargetMade,
)
from moverq.model.ids import ItemId
from moverq.model.report import EntryKind
from moverq.model.request import SyncStage
from moverq.phases.rehearsal import rehearse_unless_known
from moverq.phases.tenure import Tenure


async def create_target(t: Tenure) -> None:
    """The sealed target is there, and the final steps have been rehearsed on it."""
    await t.enter(SyncStage.CREATING_MAILBOX)
    if t.request.parent is not None:
        await t.target.seal(t.token)
    else:
        await t.target.create(t.request.mailbox_id, t.token)
    await t.enter(SyncStage.CREATING_INITIAL_SYNC_CHECKPOINT, TargetMade(fixed_ms=await rehearse_unless_known(t)))


async def create_checkpoint(t: Tenure) -> None:
    """The feed's place is durable, and the listing has not begun: what comes from here on is never missed."""
    await t.enter(SyncStage.CREATING_INITIAL_SYNC_CHECKPOINT)
    inherited = await _inherit(t) if t.request.parent is not None else None
    if inherited is not None:
        await t.write(
            SeedWatermark(watermark=inherited),
            SeedCursor(cursor=b"", done=True),
            FeedWatermark(watermark=inherited),
            entries=(t.entry(EntryKind.LINE, f"The way back is short: the reverse feed stands at {inherited}."),),
        )
        return
    watermark = await t.source.head()
    # A target that held items before this move (a rollback whose reverse feed was lost) must be swept afterwards.
    await t.enter(
        SyncStage.CREATING_FOLDER_HIERARCHY,
        SeedWatermark(watermark=watermark),
        SeedCursor(cursor=b"", done=False, swept=t.request.parent is None),
        FeedWatermark(watermark=watermark),
    )


async def lock_for_offline(t: Tenure) -> None:
    """Offline path: the source is locked from here to the end. Announced first, so that a restart knows why."""
    if not t.facts.has(OfflineLocked):
        await t.write(
            OfflineLocked(),
            entries=(t.entry(EntryKind.LINE, "Offline move: the source is locked for the whole copy."),),
        )
    await t.source.lock(t.token)


async def _inherit(t: Tenure) -> Watermark | None:
    """The map and the reverse watermark of the move this one takes back; None where the reverse feed was lost.

    The parent is taken over with this token first, in the ledger and in its map, so that neither moves any more
    while they are read; both sides were claimed when this tenure began.
    """
    parent = t.request.parent
    assert parent is not None
    try:
        _, facts = await t.ledger.take_over(parent, t.token)
    except NotFound:
        return None  # its record was removed: the old mailbox is compared in full
    if facts.has(PurgeAllowed):
        raise RequestRefused(why="the old mailbox has been soft-deleted; move it there with an ordinary new move")
    if not t.ledger.map_path(parent).exists():
        return None
    reverse = facts.get(ReverseWatermark)
    parents_map = t.ledger.item_map(parent)
    try:
        await parents_map.take_over(t.token)
        await t.item_map.adopt(t.token, parents_map, bad_only=reverse is None)
    finally:
        await parents_map.aclose()
    await _keep_what_was_left_behind(t)
    return None if reverse is None else reverse.watermark


async def _keep_what_was_left_behind(t: Tenure) -> None:
    """Bad items of the move that is taken back are at its source, where the mailbox goes now, and not here: they stay
    there, for the user had them. Those that are here, since the soak could not carry them, are bad items still."""
    bad = await t.item_map.bad_items()
    if not bad:
        return
    there = await _present(t.target_as_source, bad, t.limits.batch_bytes_max)
    await t.item_map.keep(t.token, there - await _present(t.source, bad, t.limits.batch_bytes_max))


async def _present(side: Source, item_ids: tuple[ItemId, ...], bytes_max: int) -> set[ItemId]:
    """Those that this side has, readable or not."""
    found = set[ItemId]()
    while item_ids:
        contents, bad, item_ids = await side.fetch(item_ids, bytes_max=bytes_max)
        found |= {item.state.item_id for item in contents} | {item.state.item_id for item in bad}
    return found
