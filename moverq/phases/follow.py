"""Following the feed, and comparing: what seed, incremental sync and finalize have in common. Not a phase.

read_feed(after watermark) ─▶ Carrier.apply ─▶ item map ─▶ FeedWatermark fact      per batch
"""

from collections.abc import Mapping, Sequence
from typing import Any

import trio

from moverq.endpoints.base import MailboxAccount
from moverq.errors import SourceChanged
from moverq.flow.later import Later
from moverq.model.change import BadItem, Watermark
from moverq.model.facts import Fact, FeedWatermark, SeedWatermark
from moverq.model.report import EntryKind, ReportEntry
from moverq.model.request import Status, SyncStage
from moverq.phases.carry import Carrier
from moverq.phases.tenure import Tenure
from moverq.plan.verification import LedgerAccount


def forward(t: Tenure) -> Carrier:
    """Source to target, under this tenure's token: one for the whole tenure, since nobody else shapes the target."""
    if t.carrier is None:
        t.carrier = Carrier(reader=t.source, writer=t.target, token=t.token, item_map=t.item_map, limits=t.limits)
    listed = t.facts.get(SeedWatermark)
    t.carrier.generation = listed.generation if listed is not None else 1
    return t.carrier


async def begin_following(
    t: Tenure, *facts: Fact, entries: Sequence[ReportEntry] = (), counters: Mapping[str, Any] | None = None
) -> None:
    """Seeding is over, and the move stands at IncrementalSync: the report knows since when."""
    since = {"seeding_completed_ms": t.now_ms()} if t.standing.counters.seeding_completed_ms is None else {}
    await t.enter(
        SyncStage.INCREMENTAL_SYNC,
        *facts,
        status=Status.IN_PROGRESS,
        entries=entries,
        counters={**(counters or {}), **since},
    )


async def note_bad(t: Tenure, bad: tuple[BadItem, ...]) -> tuple[ReportEntry, ...]:
    """Each bad item's bytes lie in quarantine; the entries tell of them."""
    entries = []
    for item in bad:
        state = item.state
        name = f"{state.item_id.hex()}.{item.kind}"
        where = await t.ledger.quarantine(t.request_id, name, item.raw) if item.raw is not None else None
        entries.append(
            t.entry(
                EntryKind.BAD_ITEM,
                f"{item.kind}: item {state.item_id.hex()} (UID {state.uid}, {state.size:,} bytes): {item.why}",
                bad_item_kind=item.kind,
                item_id=state.item_id.hex(),
                folder_id=state.folder_id.hex(),
                uid=state.uid,
                size=state.size,
                why=item.why,
                quarantine=str(where) if where is not None else None,
            )
        )
    return tuple(entries)


async def drain(t: Tenure, carrier: Carrier, *, until: Watermark | None = None) -> int:
    """The target holds all that the feed had when it was last read, and at least `until`. Returns changes applied."""
    applied = 0
    passes = 0
    while True:
        watermark = t.facts.need(FeedWatermark).watermark
        batch = await t.source.read_feed(watermark, changes_max=t.limits.feed_changes_max)
        if batch.changes or batch.through != watermark:
            carried = await carrier.apply(batch)
            counters = t.carried(items=carried.items, bytes_=carried.bytes, changes=carried.changes)
            entries = await note_bad(t, carried.bad)
            if carried.bad or batch.items_gone:
                counters["bad_items"] = await t.item_map.bad_count()
            if until is None or batch.more or entries:
                await t.write(FeedWatermark(watermark=batch.through), entries=entries, counters=counters)
            else:  # the mailbox is locked, and each write makes its user wait: this one goes with the commit intent
                t.note(FeedWatermark(watermark=batch.through), counters=counters)
            applied += carried.changes
        if not batch.more:
            await carrier.finish_tree()
            reached = t.facts.need(FeedWatermark).watermark.modseq
            if until is None or reached >= until.modseq:
                return applied
            passes += 1
            if passes > t.limits.final_passes_max:
                raise SourceChanged(why=f"the feed ends at {reached} and never reaches the lock at {until}")
        if until is None:
            await t.safe_point()


async def take_accounts(t: Tenure) -> tuple[MailboxAccount, MailboxAccount, LedgerAccount]:
    """Of source, target and ledger, read at the same time. O(folders)."""
    source, target, ledger = Later[MailboxAccount](), Later[MailboxAccount](), Later[LedgerAccount]()
    # In the nursery: the three reads.
    async with trio.open_nursery() as nursery:
        nursery.start_soon(source.work, t.source.account)
        nursery.start_soon(target.work, t.target.account)
        nursery.start_soon(ledger.work, t.item_map.account)
    return await source.get(), await target.get(), await ledger.get()


async def retry_bad_items(t: Tenure, carrier: Carrier) -> None:
    """What could not be carried is tried once more: an operator may have repaired it, or raised the target's limit."""
    left = await t.item_map.bad_items()
    if not left:
        return
    while left:
        contents, bad, left = await t.source.fetch(left, bytes_max=t.limits.batch_bytes_max)
        await carrier.write(contents, bad)
        await t.safe_point()
    await t.write(counters={"bad_items": await t.item_map.bad_count()})
