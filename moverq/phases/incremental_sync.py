"""IncrementalSync: follow the feed until the gate lets the move finalize. It may stay here for weeks.

Each round drains what the feed has, measures how fast that went and how much came meanwhile, and asks the gate
(`plan.readiness`). The watermark moves after each batch, so a crash costs one batch. While an operator's date or word
is awaited the target goes on following, so that the cutover finds little to do.
"""

import trio

from moverq.errors import CannotConverge, RequestRefused, SourceChanged, VerificationFailed
from moverq.flow.backoff import wait_first
from moverq.model.change import Watermark
from moverq.model.facts import FeedWatermark, OfflineLocked, SeedWatermark, TargetMade
from moverq.model.report import EntryKind
from moverq.model.request import Status, SyncStage
from moverq.model.status_detail import StatusDetail
from moverq.phases.carry import Carrier
from moverq.phases.follow import begin_following, drain, forward, retry_bad_items, take_accounts
from moverq.phases.rehearsal import rehearse
from moverq.phases.tenure import LeaveAtSafePoint, Reason, Tenure
from moverq.plan.readiness import Readiness, Round, Verdict, check_ready
from moverq.plan.verification import check_accounts, check_target

REHEARSALS_MAX = 3
"""Rehearsals whose final steps alone were longer than the budget, before the operator is asked."""
MISMATCHES_MAX = 3
"""Looks in a row at which source and target differ with nothing left to follow, before they are compared anew."""


async def incremental_sync(t: Tenure) -> Readiness:
    """The backlog is small, both sides agree, and nobody asks the move to wait: it may finalize.

    Raises:
        CannotConverge: three rounds in a row did not shrink the backlog.
        RequestRefused: the final steps alone are longer than the lock budget.
        SourceChanged, VerificationFailed: the sides differ although everything was carried.
    """
    if still_waits(t):
        t.begin_stage(SyncStage.INCREMENTAL_SYNC)
    else:
        await begin_following(t)
    carrier = forward(t)
    await retry_bad_items(t, carrier)
    rounds: list[Round] = []
    mismatches = rehearsals = 0
    offline = t.facts.has(OfflineLocked)
    while True:
        latest, found = await _round(t, carrier)
        rounds = [*rounds[-9:], latest]
        t.check_bad_items()
        readiness = check_ready(
            rounds,
            budget_ms=None if offline else float(t.request.lock_budget_ms),
            fixed_ms=t.facts.need(TargetMade).fixed_ms,
            discrepancies=found,
            limits=t.limits,
        )
        await t.publish(backlog=rounds[-1].backlog_after, predicted_lock_ms=readiness.predicted_lock_ms)
        mismatches = mismatches + 1 if found else 0
        if mismatches >= MISMATCHES_MAX:
            _promote(t, found)
        if readiness.verdict is Verdict.CANNOT_CONVERGE:
            raise CannotConverge(change_rate=readiness.change_rate, copy_rate=readiness.copy_rate)
        if readiness.verdict is Verdict.FIXED_TOO_LONG:
            rehearsals += 1
            if rehearsals > REHEARSALS_MAX:
                raise RequestRefused(why=f"{readiness.why}; give the request a larger lock budget, then resume it")
            await t.write(TargetMade(fixed_ms=await rehearse(t)))
        if readiness.verdict is Verdict.READY:
            why = _why_wait(t)
            if why is None:
                t.quiet = False
                return readiness
            await _wait(t, *why)
            rounds = []


async def _round(t: Tenure, carrier: Carrier) -> tuple[Round, tuple[str, ...]]:
    """What draining the feed once came to, and the discrepancies up to the watermark then: O(folders)."""
    begun = trio.current_time()
    before = _backlog(t, await t.source.head())
    applied = await drain(t, carrier)
    elapsed = trio.current_time() - begun
    await t.safe_point()
    source, target, ledger = await take_accounts(t)
    done = Round(backlog_before=before, backlog_after=_backlog(t, source.head), applied=applied, elapsed_s=elapsed)
    if source.head == t.facts.need(FeedWatermark).watermark:
        return done, check_accounts(source, target, ledger, exact=False)
    return done, check_target(target, ledger)  # the source is ahead, and compared only where it stands exactly there


def _backlog(t: Tenure, head: Watermark) -> int:
    """Changes the target lacks, at most: several changes of one item count each."""
    return max(0, head.modseq - t.facts.need(FeedWatermark).watermark.modseq)


def _promote(t: Tenure, found: tuple[str, ...]) -> None:
    """A difference that stays goes to the coarser, surer pass; one that stays even then goes to the operator."""
    if t.facts.need(SeedWatermark).generation > 1:
        raise VerificationFailed(discrepancies=found)
    raise SourceChanged(why=f"source and target differ although everything was carried: {found[0]}")


def still_waits(t: Tenure) -> bool:
    """It waited for an operator's word or its date when the last tenure ended, and goes on waiting."""
    why = _why_wait(t)
    return why is not None and why[:2] == (t.standing.status, t.standing.message) and not t.standing.wishes.retry


def _why_wait(t: Tenure) -> tuple[Status, str, int | None] | None:
    """What keeps a ready move from its cutover: the status to show, the sentence, and the date if there is one."""
    request, wishes = t.request, t.standing.wishes
    if wishes.complete:
        return None
    if request.suspend_when_ready_to_complete:
        return Status.AUTO_SUSPENDED, "ready to complete; waits for `moverq move complete`", None
    if request.complete_after_ms is not None and t.now_ms() < request.complete_after_ms:
        return Status.IN_PROGRESS, "ready to complete; waits for its date", request.complete_after_ms
    return None


async def _wait(t: Tenure, status: Status, message: str, until_ms: int | None) -> None:
    """Until the feed has more, an operator says something, or the date comes."""
    seen = t.bell.version
    if (status, message) != (t.standing.status, t.standing.message):
        detail = StatusDetail.AUTO_SUSPENDED if status is Status.AUTO_SUSPENDED else StatusDetail.INCREMENTAL_SYNC
        suspended = {"suspended_ms": t.now_ms()} if status is Status.AUTO_SUSPENDED else {}
        entry = t.entry(EntryKind.LINE, message[0].upper() + message[1:] + ".")
        await t.publish(at_once=True)
        await t.write(
            status=status, detail=detail, message=message, next_try_ms=until_ms, counters=suspended, entries=(entry,)
        )
        await t.show_status()
    await t.safe_point()
    if _why_wait(t) is None:
        return
    t.rest()
    if t.tools.drain:
        raise LeaveAtSafePoint(Reason.STOP)
    watermark = t.facts.need(FeedWatermark).watermark
    at_most = t.limits.poll_wishes_s
    if until_ms is not None:
        at_most = min(at_most, max(0.0, (until_ms - t.now_ms()) / 1000))
    await wait_first(
        lambda: t.source.wait_feed(watermark),
        lambda: t.bell.wait(seen),
        t.tools.stopping.wait,
        at_most_s=at_most,
    )
    await t.safe_point()
    t.quiet = False
