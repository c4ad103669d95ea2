"""Cleanup, SyncFinished and the purge: what follows from a register that says target. Forward only.

Each step is idempotent and under this token, so a restart simply takes them all again: retire the source (clients get
`MailboxMoved`), open the target (clients write there), tell the directory. Held deliveries need nothing: the MTA
retries them, and finds the new home.

The source is destroyed late and by two independent checks: the register names the target at an epoch no lower than
ours *and* the ledger noted the commit; and the target's own guard is open. Then it is soft-deleted, kept for its
retention, and purged by id and token. What a rollback has been asked for is never deleted: the ledger refuses the
fact in the same transaction.
"""

import attrs
import trio

from moverq.endpoints.base import FenceClass, GuardMode, Remarking
from moverq.errors import MoveError, RegisterChanged, leaves
from moverq.model.facts import (
    CleanedUp,
    CommitIntent,
    Committed,
    FeedWatermark,
    LockIntent,
    PurgeAllowed,
    Purged,
    ReverseWatermark,
    SoakUntil,
    SourceRemoved,
)
from moverq.model.report import EntryKind
from moverq.model.request import Status, SyncStage
from moverq.phases.attempt import Attempt
from moverq.phases.follow import drain, forward
from moverq.phases.tenure import Tenure
from moverq.words import counted


async def clean_up(t: Tenure) -> None:
    """The source is retired, the target open, the request Completed: of a commit that this tenure found."""
    await open_target(t, None)
    await complete(t, None)


async def open_target(t: Tenure, attempt: Attempt | None) -> None:
    """The source is retired, the target open: nobody is locked out any more.

    `attempt` is the lock attempt that committed, where this tenure made it: it ends here.
    """
    assert t.register.home == t.target_home, "clean-up without a commit"
    if not t.facts.has(Committed):
        await t.write(
            Committed(epoch=t.register.epoch, at_ms=t.now_ms()),
            stage=SyncStage.CLEANUP,
            counters={"epoch": t.register.epoch},
        )
    if not t.facts.has(ReverseWatermark):
        # The target is sealed still: it is opened below, only after this fact.
        await t.write(ReverseWatermark(watermark=await t.target_as_source.head()))
    await _carry_late(t)
    await t.source.retire(t.token, t.target_home)
    if attempt is not None:
        attempt.mark("retire")
    await t.target.open(t.token)
    if attempt is not None:
        attempt.mark("open")


async def complete(t: Tenure, attempt: Attempt | None) -> None:
    """The request is Completed; the soak begins."""
    await _note_remarks(t)
    now = t.now_ms()
    intent = t.facts.get(CommitIntent)
    lock_ms = attempt.lock_ms if attempt is not None else float(now - intent.lock_at_ms) if intent is not None else None
    warned = t.standing.counters.warnings > 0 or t.standing.counters.bad_items > 0
    done = (
        attempt.entry(t, "committed")
        if attempt is not None
        else t.entry(
            EntryKind.LOCK_ATTEMPT,
            "The commit was found in the directory after a restart.",
            attempt=intent.attempt if intent is not None else None,
            lock_ms=lock_ms,
            outcome="committed",
        )
    )
    counters = {"completion_ms": now, "failed_tries": 0}
    await t.enter(
        SyncStage.SOAK,
        CleanedUp(at_ms=now),
        SoakUntil(until_ms=now + int(t.request.soak_s * 1000)),
        forget=(CommitIntent, LockIntent),
        status=Status.COMPLETED_WITH_WARNING if warned else Status.COMPLETED,
        entries=(done, t.entry(EntryKind.LINE, f"{t.request.address} lives at {t.register.home}.")),
        counters={**counters, "lock_ms": lock_ms} if lock_ms is not None else counters,
        message=way_back(t),
        taken_wishes=("complete", "retry", "remove"),  # to give it up is too late
    )


def way_back(t: Tenure) -> str:
    """What is said of a completed move."""
    return f"the way back is kept open until the soak ends; taken back by `moverq move rollback {t.request_id}`"


async def _carry_late(t: Tenure) -> None:
    """Fence classes B to D: what a writer got past the lock since the last drain is at the target too.

    One pass, within another lock budget, while the user is at neither side: the source has still to be retired and the
    target is sealed. It never keeps the target from being opened: what it could not carry is a straggler, which the
    soak's look reports.
    """
    if t.source.capabilities.fence is FenceClass.A:
        return
    budget_s = t.request.lock_budget_ms / 1000
    carried = 0
    why = ""
    try:
        guards = (await t.source.guard()).mode, (await t.target.guard()).mode
        if guards != (GuardMode.LOCKED, GuardMode.SEALED):
            return
        with trio.move_on_after(budget_s) as in_time:
            carried = await drain(t, forward(t), until=t.facts.need(FeedWatermark).watermark)
        if carried:
            await t.write(ReverseWatermark(watermark=await t.target_as_source.head()))
        if in_time.cancelled_caught:
            why = f"it took longer than {budget_s:g} s"
    except* MoveError as group:
        why = str(leaves(group)[0])
    if why:
        await t.write(
            entries=(t.entry(EntryKind.WARNING, f"The last look at the source was given up: {why}"),),
            counters={"warnings": t.standing.counters.warnings + 1},
        )
    elif carried:
        await t.write(
            entries=(
                t.entry(EntryKind.LINE, f"Carried to the target what got past the lock: {counted(carried, 'change')}."),
            )
        )


async def _note_remarks(t: Tenure) -> None:
    """What the target could not keep as it was given is in the report."""
    if not isinstance(t.target, Remarking):
        return
    remarks = await t.target.remarks()
    if remarks:
        await t.write(
            entries=[t.entry(EntryKind.WARNING, f"{remark[0].upper()}{remark[1:]}.") for remark in remarks],
            counters={"warnings": t.standing.counters.warnings + len(remarks)},
        )


async def finish(t: Tenure) -> bool:
    """The source is soft-deleted and the request over, but for the purge after the retention. False: the clock has
    fallen back since the soak was seen to be over; nothing was done.

    Raises:
        RegisterChanged: a check failed; nothing was deleted.
        RequestRefused: a rollback has been asked for meanwhile; nothing was deleted.
    """
    if not t.facts.has(SourceRemoved):
        if not t.facts.has(PurgeAllowed):
            await _check_purge(t)
            now = t.now_ms()  # one look at the clock for the decision and for its fact
            if now < t.facts.need(SoakUntil).until_ms and not t.standing.wishes.finish:
                return False
            await t.write(PurgeAllowed(at_ms=now, keep_until_ms=now + int(t.request.retention_s * 1000)))
        keep_until = t.facts.need(PurgeAllowed).keep_until_ms
        await t.source.remove(t.token, keep_until_ms=keep_until)
        await t.write(
            SourceRemoved(keep_until_ms=keep_until),
            entries=(t.entry(EntryKind.LINE, f"The source {t.source_home} is soft-deleted, kept for its retention."),),
        )
    await t.directory.release_move(t.request.mailbox_id, t.request_id)
    await _drop_maps(t)
    await t.write(
        stage=SyncStage.SYNC_FINISHED,
        next_try_ms=t.facts.need(SourceRemoved).keep_until_ms,
        message="",
        percent=100,
        taken_wishes=("finish", "complete"),
    )
    return True


async def taken_back(t: Tenure) -> None:
    """This move's part is over: another request takes the mailbox back, and owns both instances from here on."""
    by = t.standing.wishes.superseded_by
    await t.write(
        stage=SyncStage.SYNC_FINISHED,
        message=f"taken back by request {by}",
        percent=100,
        entries=(t.entry(EntryKind.LINE, f"Taken back by request {by}."),),
    )


async def purge(t: Tenure) -> None:
    """After the retention: the soft-deleted source is destroyed, by id and token."""
    await _check_register(t)
    await t.source.purge(t.token)
    await t.write(
        Purged(at_ms=t.now_ms()),
        entries=(t.entry(EntryKind.LINE, f"The source {t.source_home} is purged."),),
        stage=SyncStage.SYNC_FINISHED,
        next_try_ms=None,
    )


async def _drop_maps(t: Tenure) -> None:
    """The maps are for verifying and for the way back: both are over. The report stays."""
    await t.item_map.aclose()
    await t.ledger.drop_map(t.request_id)
    if t.request.parent is not None:
        await t.ledger.drop_map(t.request.parent)


async def _check_purge(t: Tenure) -> None:
    await _check_register(t)
    guard = await t.target.guard()
    if guard.mode is not GuardMode.OPEN:
        raise RegisterChanged(expected=f"{t.target_home} open", present=f"its guard says {guard.mode.value}")


async def _check_register(t: Tenure) -> None:
    t.register = (await t.directory.recipient(t.request.mailbox_id)).register
    committed = t.facts.need(Committed)
    moved_on = attrs.evolve(t.register, home=t.target_home)
    if t.register.home == t.source_home or t.register.epoch < committed.epoch:
        raise RegisterChanged(expected=f"{moved_on}", present=str(t.register))
