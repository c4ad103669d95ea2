"""CreatingFolderHierarchy, LoadingMessages, CopyingMessages: the bulk copy while the user works on.

A reader a few batches ahead of a writer, the channel between them bounded in bytes, so that the source is read while
the target syncs. The copy is fuzzy: what it carries may be older or newer than its neighbours, and the feed from the
watermark before the listing straightens all of it out.

    read_seed(cursor) ─▶ ByteChannel ─▶ write_items ─▶ item map ─▶ SeedCursor fact     per batch
     reader                              writer         noter

While one batch is noted in map and ledger, the target writes the next, and its store stages the one after.

Entered again it goes on behind the last durable cursor. A reseed (the feed was trimmed, the sides differ) is the same
listing once more, as the next generation: what is at the target already is left as it is, and in the end what the
listing has not seen is asked for by name and, if the source no longer has it, buried.
"""

from functools import partial

import attrs
import trio

from moverq.endpoints.base import MailboxSummary, SeedPage
from moverq.flow.byte_channel import ByteChannel
from moverq.flow.later import Later
from moverq.flow.share import Share
from moverq.model.change import ChangeBatch
from moverq.model.facts import Differed, FeedWatermark, SeedCursor, SeedWatermark
from moverq.model.ids import ItemId
from moverq.model.progress import seeding_progress
from moverq.model.report import EntryKind, ReportEntry
from moverq.model.request import SyncStage
from moverq.model.status_detail import percent_complete
from moverq.phases.carry import Carrier, Put
from moverq.phases.follow import begin_following, forward, note_bad, retry_bad_items
from moverq.phases.tenure import Tenure


async def seed(t: Tenure) -> None:
    """The target has the source's folders, everything the listing had is durable there, and the cursor says so."""
    summary = t.summary if t.summary is not None else await t.source.summary()
    t.progress = attrs.evolve(t.progress, items_total=summary.items, bytes_total=summary.bytes)
    channel: ByteChannel[SeedPage] = ByteChannel(t.limits.seed_ahead_bytes_max)
    carrier = forward(t)
    send_put, receive_put = trio.open_memory_channel[tuple[SeedPage, Later[Put]]](0)
    # In the nursery: the reader, which begins while the folders are made and ends with the last page; the writer, which
    # ends when the channel is empty, and its writes, two at a time; and the one who notes them in order, to the last.
    needed = max(1, min(t.limits.move_bytes_max, summary.bytes))
    with t.tools.pages(t.request.target_database, t.target.capabilities) as pages:
        async with t.tools.budget.holding(needed), trio.open_nursery() as nursery:
            nursery.start_soon(_read, t, channel, pages)
            await _create_hierarchy(t, carrier)
            if t.facts.need(SeedCursor).cursor:  # a listing that begins tries every item anyway
                await retry_bad_items(t, carrier)
            nursery.start_soon(_put, carrier, channel, send_put, pages, nursery)
            nursery.start_soon(_note, t, summary, carrier, receive_put)
    cursor = t.facts.need(SeedCursor)
    if not cursor.swept:
        await _sweep(t)
        await t.write(attrs.evolve(cursor, swept=True))


async def reseed(t: Tenure) -> None:
    """Source and target are to be compared anew: a new watermark and a new listing, compared with what is there. The
    feed cannot go on from our watermark, or the sides differ."""
    before = t.facts.need(SeedWatermark)
    watermark = await t.source.head()
    generation = before.generation + 1
    await t.write(
        SeedWatermark(watermark=watermark, generation=generation),
        SeedCursor(cursor=b"", done=False, generation=generation, swept=False),
        FeedWatermark(watermark=watermark),
        forget=(Differed,),
        entries=(
            t.entry(EntryKind.LINE, f"Comparing source and target anew from {watermark} (listing {generation})."),
        ),
    )


async def _create_hierarchy(t: Tenure, carrier: Carrier) -> None:
    """The target has the source's folders."""
    await t.enter(SyncStage.CREATING_FOLDER_HIERARCHY)
    await carrier.bring_tree(await t.source.read_hierarchy())


async def _read(t: Tenure, channel: ByteChannel[SeedPage], pages: Share) -> None:
    """The pages, in order."""
    fact, limits = t.facts.need(SeedCursor), t.limits
    # A server at the other end of a line is waited for without keeping others waiting.
    is_near = t.source.capabilities.has_one_writer
    cursor, done = fact.cursor or None, fact.done
    while not done:
        if is_near:
            await pages.take()
        page = await t.source.read_seed(cursor, bytes_max=limits.batch_bytes_max, items_max=limits.batch_items_max)
        if not is_near:
            await pages.take()
        await channel.send(page, sum(len(item.content) for item in page.items))
        cursor, done = page.cursor, page.done
    channel.close()


async def _put(
    carrier: Carrier,
    channel: ByteChannel[SeedPage],
    send_put: trio.MemorySendChannel[tuple[SeedPage, Later[Put]]],
    pages: Share,
    nursery: trio.Nursery,
) -> None:
    """The target writes each page. The channel without a buffer is the bound: a third is begun when one is noted."""

    async def put(page: SeedPage) -> Put:
        done = await carrier.put(page.items, page.bad)
        pages.give_back()
        return done

    with send_put:
        last: Later[Put] | None = None
        while (page := await channel.receive()) is not None:
            if last is not None and not carrier.has_folders_for(page.items):
                await last.get()  # the tree is looked at, and that only while nothing is written into it
            last = Later[Put]()
            nursery.start_soon(last.work, partial(put, page))
            await send_put.send((page, last))


async def _note(
    t: Tenure,
    summary: MailboxSummary,
    carrier: Carrier,
    receive_put: trio.MemoryReceiveChannel[tuple[SeedPage, Later[Put]]],
) -> None:
    """Map, cursor and progress of each page that the target holds, in order. The only one here that writes to `t`:
    that the stage has begun, too, while the first page is read."""
    await t.enter(SyncStage.LOADING_MESSAGES, counters={"mailbox_items": summary.items, "mailbox_bytes": summary.bytes})
    begun, items, bytes_ = trio.current_time(), t.progress.items, t.progress.bytes
    async for page, put in receive_put:
        await t.safe_point()
        if page.settings or page.delivery_keys:
            extras = ChangeBatch(
                through=t.facts.need(SeedWatermark).watermark,
                more=True,
                settings=page.settings,
                delivery_keys=page.delivery_keys,
            )
            await carrier.apply(extras)
        carried = await carrier.note(await put.get())
        loaded: tuple[ReportEntry, ...] = ()
        if t.standing.stage is not SyncStage.COPYING_MESSAGES:  # the first page is here
            loaded = t.stage_over()
            t.begin_stage(SyncStage.COPYING_MESSAGES)
        items, bytes_ = items + carried.items, bytes_ + carried.bytes
        counters = t.carried(items=carried.items, bytes_=carried.bytes)
        entries = await note_bad(t, carried.bad)
        if carried.bad:
            counters["bad_items"] = await t.item_map.bad_count()
        cursor = attrs.evolve(t.facts.need(SeedCursor), cursor=page.cursor, done=page.done)
        if cursor.done and cursor.swept:  # nothing comes after it here: the next phase begins with the same write
            await begin_following(t, cursor, entries=(*loaded, *entries), counters=counters)
        else:
            percent = percent_complete(
                SyncStage.COPYING_MESSAGES, bytes_done=bytes_, bytes_total=t.progress.bytes_total
            )
            await t.write(
                cursor,
                entries=(*loaded, *entries),
                stage=SyncStage.COPYING_MESSAGES,
                counters=counters,
                percent=percent,
            )
        t.check_bad_items()
        seen = seeding_progress(
            t.progress, items=items, bytes_=bytes_, elapsed_s=trio.current_time() - begun, at_ms=t.now_ms()
        )
        t.progress = seen
        await t.publish()


async def _sweep(t: Tenure) -> None:
    """What is at the target, or in the map, and was not seen by this listing: carried if the source still has it,
    buried if not. Ids never come back, so what the source does not have is dead for good."""
    carrier = forward(t)
    generation = t.facts.need(SeedCursor).generation
    if t.request.parent is not None:
        await _let_go(t)
    after = b""
    while True:
        await t.safe_point()
        page = await t.item_map.unseen(generation, after=after, limit=t.limits.batch_items_max)
        if not page:
            break
        await _settle_doubtful(t, carrier, page)
        after = page[-1]
    # The target may also hold what no map row tells of: a crash came between the two.
    cursor, done = None, False
    while not done:
        await t.safe_point()
        listed = await t.target_as_source.read_seed(
            cursor, bytes_max=t.limits.batch_bytes_max, items_max=t.limits.batch_items_max
        )
        unknown = await t.item_map.unknown([item.state.item_id for item in listed.items])
        if unknown:
            await _settle_doubtful(t, carrier, unknown)
        cursor, done = listed.cursor, listed.done


async def _let_go(t: Tenure) -> None:
    """What a rollback's target keeps goes with its folder, if that was removed where the mailbox is now."""
    folders = await t.source.read_hierarchy()
    let_go = await t.item_map.let_go(t.token, [folder.folder_id for folder in folders])
    if let_go:
        text = f"{let_go} items that only the target had were in folders that have been removed: they go with them."
        await t.write(entries=(t.entry(EntryKind.LINE, text),))


async def _settle_doubtful(t: Tenure, carrier: Carrier, item_ids: tuple[ItemId, ...]) -> None:
    alive: set[ItemId] = set()
    left = item_ids
    while left:
        contents, bad, left = await t.source.fetch(left, bytes_max=t.limits.batch_bytes_max)
        alive |= {item.state.item_id for item in contents} | {item.state.item_id for item in bad}
        await carrier.write(contents, bad)
    # `left` only ever holds what the source has: what is in none of the three is gone.
    gone = [item_id for item_id in item_ids if item_id not in alive]
    if gone:
        await carrier.bury(gone, t.facts.need(SeedWatermark).watermark)
