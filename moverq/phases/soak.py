"""Soak: the move is over for the user, and the way back is kept short by the reverse feed, target to retired source.

What clients do at the new home is carried back as it happens, under this move's token, on the retired instance that
no client can reach. A rollback then finds an old home that lacks a batch at most. Nothing here may disturb the
mailbox that people use: an error is reported, waited out and tried again, and never makes the move a failed one.
"""

from collections.abc import Awaitable, Callable, Sequence
from functools import partial

from moverq.endpoints.base import FenceClass
from moverq.errors import FeedTrimmed
from moverq.flow.backoff import wait_first
from moverq.model.change import ItemState, Watermark
from moverq.model.facts import FeedWatermark, ReverseWatermark, SoakUntil, StragglersSeen
from moverq.model.report import EntryKind, ReportEntry
from moverq.phases.carry import Carrier
from moverq.phases.clean_up import way_back
from moverq.phases.follow import note_bad
from moverq.phases.tenure import LeaveAtSafePoint, Reason, Tenure


async def soak(t: Tenure) -> bool:
    """The soak is over: True when its time is (or an operator said so), False when a rollback was asked for."""
    carrier = Carrier(
        reader=t.target_as_source, writer=t.source_as_target, token=t.token, item_map=t.item_map, limits=t.limits
    )
    until_ms = t.facts.need(SoakUntil).until_ms
    await t.show_what_a_crash_left_out()
    while True:
        seen = t.bell.version
        await t.safe_point()
        if t.standing.wishes.superseded_by is not None:
            return False
        if t.standing.wishes.finish or t.now_ms() >= until_ms:
            await _look_for_stragglers(t, carrier)
            return True
        await _carry_back(t, carrier)
        await _look_for_stragglers(t, carrier)
        if t.standing.counters.failed_tries:  # what was in the way is over, and is not told any more
            await t.write(message=way_back(t), counters={"failed_tries": 0})
        t.rest()
        if t.tools.drain:
            raise LeaveAtSafePoint(Reason.STOP)
        left_s = max(0.0, (until_ms - t.now_ms()) / 1000)
        waits: list[Callable[[], Awaitable[object]]] = [partial(t.bell.wait, seen), t.tools.stopping.wait]
        reverse = t.facts.get(ReverseWatermark)
        if reverse is not None:
            waits.append(partial(t.target_as_source.wait_feed, reverse.watermark))
        await wait_first(*waits, at_most_s=min(left_s, t.limits.poll_wishes_s))


async def _carry_back(t: Tenure, carrier: Carrier) -> None:
    """The retired source holds all that the target's feed had. Without a reverse watermark there is nothing to do."""
    while (reverse := t.facts.get(ReverseWatermark)) is not None:
        try:
            batch = await t.target_as_source.read_feed(reverse.watermark, changes_max=t.limits.feed_changes_max)
        except FeedTrimmed as error:
            await t.write(
                forget=(ReverseWatermark,),
                entries=(t.entry(EntryKind.WARNING, f"The way back is no longer short: {error}"),),
                counters={"warnings": t.standing.counters.warnings + 1},
            )
            return
        if batch.changes:
            carried = await carrier.apply(batch)
            await t.write(ReverseWatermark(watermark=batch.through), entries=await note_bad(t, carried.bad))
        elif batch.through != reverse.watermark:  # the opening itself, say: nothing to carry, nothing to lose
            t.note(ReverseWatermark(watermark=batch.through))
        if not batch.more:
            return
        await t.safe_point()


async def _look_for_stragglers(t: Tenure, carrier: Carrier) -> None:
    """Fence classes B to D: did a writer get past the lock? What came to the retired source since the last drain, and
    is not of our carrying, is reported, item by item and once. It is not written to the target: that is open, and its
    user's alone.
    """
    if t.source.capabilities.fence is FenceClass.A:
        return
    await _carry_back(t, carrier)  # from here on the map knows all that we have brought there
    more = True
    while more:
        seen = t.facts.get(StragglersSeen) or t.facts.need(FeedWatermark)
        try:
            batch = await t.source.read_feed(seen.watermark, changes_max=t.limits.feed_changes_max)
        except FeedTrimmed as error:
            text = f"What came to the source after the lock cannot be told any more: {error}"
            await _note_stragglers(t, await t.source.head(), [t.entry(EntryKind.WARNING, text)])
            return
        late = await t.item_map.differing(batch.items)
        if late:
            await _note_stragglers(t, batch.through, [_straggler(t, state) for state in late])
        elif batch.through != seen.watermark:
            t.note(StragglersSeen(watermark=batch.through))
        more = batch.more


def _straggler(t: Tenure, state: ItemState) -> ReportEntry:
    return t.entry(
        EntryKind.STRAGGLER,
        f"Item {state.item_id.hex()} ({state.size:,} bytes) came to the source, or changed there, after the lock.",
        item_id=state.item_id.hex(),
        size=state.size,
    )


async def _note_stragglers(t: Tenure, through: Watermark, entries: Sequence[ReportEntry]) -> None:
    warned = {"warnings": t.standing.counters.warnings + len(entries)}
    await t.write(StragglersSeen(watermark=through), entries=entries, counters=warned)
