"""Why a move stands where it stands, since when, what a crash now would do, and what comes next.

Always an answer, from the row and the facts alone, so that it can be asked of a ledger whose worker is dead.
"""

import attrs

from moverq.model.facts import (
    CleanedUp,
    CommitIntent,
    Committed,
    Differed,
    Facts,
    LockIntent,
    OfflineLocked,
    PurgeAllowed,
    Purged,
    SeedCursor,
    SourceRemoved,
    TargetMade,
)
from moverq.model.request import Status, SyncStage
from moverq.model.standing import Standing
from moverq.model.statistics import iso
from moverq.model.status_detail import StatusDetail


@attrs.frozen(kw_only=True)
class Explanation:
    why: str
    """What it does or waits for."""
    since_ms: int
    what_a_crash_now_would_do: str
    what_next: str


def explain_standing(standing: Standing, facts: Facts, *, waiting: str | None = None) -> Explanation:
    """`waiting`: why scheduling does not start it, where that is known."""
    return Explanation(
        why=_why(standing, facts, waiting),
        since_ms=standing.since_ms,
        what_a_crash_now_would_do=_after_crash(standing, facts),
        what_next=_next(standing, facts),
    )


def _why(standing: Standing, facts: Facts, waiting: str | None) -> str:
    wishes = standing.wishes
    if wishes.remove:
        return "it is being removed; its worker does so at the next safe point"
    if wishes.superseded_by is not None:
        return f"request {wishes.superseded_by} takes it back"
    if facts.has(CommitIntent) and not facts.has(Committed):
        return "the commit is on its way: nobody unlocks before the directory has said where the mailbox is"
    match standing.status:
        case Status.QUEUED:
            return waiting or "it waits for a worker" + (" and is suspended before it begins" if wishes.suspend else "")
        case Status.FAILED:
            return f"it failed: {standing.message}"
        case Status.COMPLETED | Status.COMPLETED_WITH_WARNING:
            if facts.has(Purged):
                return "it is over; the old mailbox is purged"
            if facts.has(SourceRemoved):
                return "it is over; the old mailbox is soft-deleted and kept for its retention"
            trouble = f"; it waits, since {standing.message}" if standing.counters.failed_tries else ""
            return f"it is completed; the way back is kept open by the reverse feed until the soak ends{trouble}"
        case _:
            return standing.message or f"it is at work in {standing.stage.value}"


def _after_crash(standing: Standing, facts: Facts) -> str:
    if facts.has(PurgeAllowed):
        return "the mailbox stays where it is; the removal of the old one goes on"
    if facts.has(CleanedUp):
        return "nobody would notice: the mailbox is in use at its new home, the reverse feed goes on at its watermark"
    if facts.has(Committed):
        return "the mailbox is at its new home; the next worker opens it there"
    if facts.has(CommitIntent):
        return (
            "the mailbox stays locked until a worker has read the directory: if that says target the move goes "
            "forward, if it says source the mailbox is given back"
        )
    if facts.has(LockIntent):
        return "the mailbox stays locked until a worker takes over; it gives the source back and follows on"
    if facts.has(OfflineLocked):
        return "the mailbox stays locked, as it is for the whole of an offline move; the copy goes on at its cursor"
    if facts.has(SeedCursor):
        where = "the watermark" if standing.stage is SyncStage.INCREMENTAL_SYNC else "its cursor"
        return f"the user would not notice; the move goes on from {where}"
    if facts.has(TargetMade):
        return "the user would not notice; the target that was made is found again by its id"
    return "nothing has been changed yet; it begins again"


def _next(standing: Standing, facts: Facts) -> str:
    match standing.status:
        case Status.SUSPENDED:
            return "`moverq move resume` goes on; `moverq move remove` gives up"
        case Status.AUTO_SUSPENDED:
            return "`moverq move complete` locks, verifies and switches"
        case Status.FAILED if facts.has(Differed):
            return "`moverq move resume` compares both sides anew, item by item; or `moverq move remove`"
        case Status.FAILED:
            return "cure what it names, then `moverq move resume`; or `moverq move remove`"
        case Status.COMPLETED | Status.COMPLETED_WITH_WARNING:
            if facts.has(PurgeAllowed):
                return "after the retention the old mailbox is purged"
            return "`moverq move rollback` takes it back; after the soak the old mailbox is soft-deleted"
        case Status.QUEUED:
            return "preflight, then the copy; the user goes on working"
        case _ if standing.detail is StatusDetail.TRANSIENT_FAILURE:
            return f"it is tried again by itself, at {iso(standing.next_try_ms)}; the user goes on working"
        case _:
            if standing.stage is SyncStage.INCREMENTAL_SYNC:
                date = standing.request.complete_after_ms
                after = "" if date is None or standing.wishes.complete else f"not before {iso(date)}, and then "
                soon = "as soon as its predicted lock time is within the budget and nobody asks to wait"
                return f"the cutover, {after}{soon}"
            return "the stages that follow, up to the cutover"
