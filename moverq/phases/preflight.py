"""Preflight: look before anything changes, and say what was found in sentences.

What can be refused is refused here, where it costs nothing: a mailbox that is not where the request thinks, a target
that is the source, a quota that is passed. What merely costs something (an endpoint that cannot be followed, a weak
fence) goes into the report, for the operator to weigh. Entered again after a crash it simply looks again.
"""

from functools import partial

import trio

from moverq.directory.versions import decide_versions
from moverq.endpoints.base import Capabilities, FenceClass, MailboxSummary, Quotaed, Room
from moverq.errors import RequestRefused
from moverq.flow.later import Later
from moverq.model.facts import Preflighted
from moverq.model.report import EntryKind
from moverq.model.request import Status, SyncStage
from moverq.phases.tenure import Tenure
from moverq.words import counted


async def preflight(t: Tenure) -> None:
    """The fact `Preflighted` is there, and with it whether the move goes online.

    Raises:
        RequestRefused: with the reason, and what to do.
    """
    counters = {} if t.standing.counters.start_ms is not None else {"start_ms": t.now_ms()}
    await t.enter(SyncStage.PREFLIGHT, status=Status.IN_PROGRESS, counters=counters, taken_wishes=("retry",))
    if t.register.home != t.source_home:
        raise RequestRefused(
            why=f"{t.request.address} is at {t.register.home}, not at {t.source_home} where this move was to begin; "
            f"remove the request and make a new one"
        )
    if t.source_home == t.target_home:
        raise RequestRefused(why=f"{t.request.address} is at {t.target_home} already")
    if t.request.parent is not None:
        await t.directory.release_move(t.request.mailbox_id, t.request.parent)
    await t.directory.claim_move(t.request.mailbox_id, t.request_id)
    versions = await decide_versions(t.directory, t.request.source.database, t.request.target_database)
    recipient = await t.directory.recipient(t.request.mailbox_id)
    summary, room = await _look(t)
    t.summary = summary
    if recipient.quota_bytes is not None and summary.bytes > recipient.quota_bytes:
        raise RequestRefused(
            why=f"{t.request.address} holds {summary.bytes:,} bytes and its quota is {recipient.quota_bytes:,}: "
            f"the target would not take it; raise the quota or let the mailbox be cleaned up first"
        )
    _check_room(t, summary, room)
    source, target = t.source.capabilities, t.target.capabilities
    costs = (*sentences(source, "source"), *sentences(target, "target"), *room.costs)
    offline = t.request.offline or not versions.online or not source.has_feed
    await t.enter(
        SyncStage.CREATING_MAILBOX,
        Preflighted(
            epoch=t.register.epoch,
            offline=offline,
            fence=source.fence.name,
            items=summary.items,
            bytes=summary.bytes,
            costs=costs,
        ),
        counters={"mailbox_items": summary.items, "mailbox_bytes": summary.bytes, "epoch": t.register.epoch},
        entries=(
            t.entry(
                EntryKind.VERSIONS,
                f"{versions.source} to {versions.target} goes {'online' if versions.online else 'offline'}: "
                f"{versions.because}",
                source_version=versions.source,
                target_version=versions.target,
                online=versions.online,
                because=versions.because,
            ),
            t.entry(
                EntryKind.CAPABILITIES,
                " ".join((f"Fence class {source.fence.name} ({source.fence.value}).", *costs)),
                fence_class=source.fence.name,
                costs=list(costs),
                offline=offline,
            ),
            t.entry(
                EntryKind.LINE, f"Source holds {counted(summary.items, 'item')}, {counted(summary.bytes, 'byte')}."
            ),
        ),
    )


async def _look(t: Tenure) -> tuple[MailboxSummary, Room]:
    """What the source holds, and what room the target says it has; looked for at the same time. Of a move taken back it
    is there already."""
    if not isinstance(t.target, Quotaed) or t.request.parent is not None:
        return await t.source.summary(), Room()
    room = Later[Room]()
    # In the nursery: the question for room, until it is answered.
    async with trio.open_nursery() as nursery:
        nursery.start_soon(room.work, partial(t.target.room, t.request.mailbox_id))
        summary = await t.source.summary()
    return summary, await room.get()


def _check_room(t: Tenure, summary: MailboxSummary, room: Room) -> None:
    """Raises `RequestRefused` where the target's own quota is smaller than the mailbox."""
    for bound, held, unit in ((room.bytes, summary.bytes, "bytes"), (room.items, summary.items, "items")):
        if bound is not None and held > bound:
            raise RequestRefused(
                why=f"{t.request.address} holds {held:,} {unit} and its quota at {t.request.target_database} has room "
                f"for {bound:,}: raise it there, or let the mailbox be cleaned up first"
            )


def sentences(can: Capabilities, side: str) -> tuple[str, ...]:
    """What an endpoint cannot do, and what that costs."""
    found = []
    if not can.keeps_identity:
        found.append(f"The {side} ({can.kind}) names items itself: clients fetch the mailbox anew after the move.")
    if not can.has_feed:
        found.append(
            f"The {side} ({can.kind}) has no change feed: "
            + ("the mailbox is locked for the whole copy." if side == "source" else "there is no short way back.")
        )
    if not can.has_digests:
        found.append(f"The {side} ({can.kind}) keeps no digests: it is compared in full before the lock.")
    if not can.keeps_keywords:
        found.append(f"The {side} ({can.kind}) keeps no keywords.")
    if not can.keeps_properties:
        found.append(f"The {side} ({can.kind}) keeps no properties beside the message.")
    if can.item_bytes_max is not None and side == "target":
        found.append(f"The {side} takes items of at most {can.item_bytes_max:,} bytes; larger ones are bad items.")
    if can.fence is not FenceClass.A and side == "source":
        found.append(
            f"Fence class {can.fence.name} ({can.fence.value}): after the commit the source is looked at once more."
        )
    return tuple(found)
