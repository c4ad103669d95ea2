"""Finalize: lock, drain, verify, commit. The pause that nobody is to notice, and the point of no return in it.

    LockIntent ─▶ lock (modseq h) ─▶ drain to ≥ h ─▶ folders equal ─▶ verify ─▶ CommitIntent ─▶ register CAS

Up to the commit intent the source can be given back at once, and is, as soon as the budget is spent or the sides
differ. After it nobody unlocks before the register has been read. Nothing in here is O(mailbox): changes since the
last round, folders, and a fixed number of writes. Nothing is shielded: a cancelled finalize does nothing more, and
whoever holds the next higher token reads ledger and register, and only then unlocks (`settle`).
"""

import trio

from moverq.directory.directory import Register
from moverq.endpoints.base import FenceClass
from moverq.errors import CutoverAborted, MoveError, RegisterChanged, SourceChanged, VerificationFailed
from moverq.model.facts import (
    CommitIntent,
    Committed,
    FeedWatermark,
    LockIntent,
    OfflineLocked,
    ReverseWatermark,
    SeedWatermark,
    TargetMade,
)
from moverq.model.report import EntryKind
from moverq.model.request import Status, SyncStage
from moverq.phases.attempt import Attempt
from moverq.phases.follow import drain, forward, take_accounts
from moverq.phases.settle import settle_register
from moverq.phases.tenure import Tenure
from moverq.plan.verification import Digests, check_accounts, digests_of


async def finalize(t: Tenure) -> Attempt:
    """The register says target, and the fact `Committed` notes it. The attempt goes on until the target is open.

    Cancelled: somewhere between; the next holder of a token settles it.

    Raises:
        CutoverAborted: the budget was spent before the commit intent; the source is open again.
        SourceChanged, VerificationFailed: source, target and ledger differ; the source is open again.
        RegisterChanged: the commit lost, or its answer did and the register says source; the job settles it.
    """
    offline = t.facts.has(OfflineLocked)
    number = t.standing.counters.lock_attempts + 1
    await t.enter(
        SyncStage.FINAL_INCREMENTAL_SYNC,
        LockIntent(attempt=number, at_ms=t.now_ms()),
        status=Status.COMPLETION_IN_PROGRESS,
        counters={"lock_attempts": number, "final_sync_ms": t.now_ms()},
    )
    attempt = Attempt(number)
    fixed_s = t.facts.need(TargetMade).fixed_ms / 1000
    budget_s = float("inf") if offline else t.request.lock_budget_ms / 1000
    verified: tuple[Digests, ReverseWatermark] | None = None
    found: tuple[str, ...] = ()
    with trio.move_on_after(max(budget_s - fixed_s, budget_s / 2)):
        found, verified = await _drain_and_verify(t, attempt)
    if verified is None or found:
        await _give_back(t, attempt, found)
        raise AssertionError("giving back always raises")
    digests, reverse = verified
    await _commit(t, attempt, digests, reverse)
    return attempt


async def _drain_and_verify(
    t: Tenure, attempt: Attempt
) -> tuple[tuple[str, ...], tuple[Digests, ReverseWatermark] | None]:
    """Everything between the lock and the decision. May be cut off anywhere: the source is then given back."""
    at = await t.source.lock(t.token)
    attempt.mark("lock")
    carrier = forward(t)
    await drain(t, carrier, until=at)
    attempt.mark("drain")
    source, target, ledger = await take_accounts(t)
    if t.source.capabilities.fence is not FenceClass.A:
        # Where writers are kept out less surely, only a second look that finds nothing new proves the first complete.
        while source.head != t.facts.need(FeedWatermark).watermark:
            await drain(t, carrier, until=at)
            source, target, ledger = await take_accounts(t)
    if await carrier.change_tree(source.folders, present=target.folders, noted=ledger.folders):
        source, target, ledger = await take_accounts(t)
    attempt.mark("folders")
    found = check_accounts(source, target, ledger, exact=t.target.capabilities.keeps_identity)
    attempt.mark("verify")
    return found, (digests_of(source, target, ledger), ReverseWatermark(watermark=target.head))


async def _give_back(t: Tenure, attempt: Attempt, found: tuple[str, ...]) -> None:
    """Before the commit intent no directory is needed: the source is open again, by our own token."""
    offline = t.facts.has(OfflineLocked)
    if not offline:
        await t.source.unlock(t.token)
        attempt.mark("unlock")
    outcome = found[0] if found else f"the budget of {t.request.lock_budget_ms} ms was spent before the commit intent"
    given_back = "" if offline else "; the source was given back"
    await t.write(
        forget=(LockIntent,),
        entries=(attempt.entry(t, outcome + given_back),),
        status=Status.IN_PROGRESS,
        stage=SyncStage.INCREMENTAL_SYNC,
        message=outcome,
    )
    t.begin_stage(SyncStage.INCREMENTAL_SYNC)
    if not found:
        raise CutoverAborted(why=outcome)
    if t.facts.need(SeedWatermark).generation > 1:
        raise VerificationFailed(discrepancies=found)
    raise SourceChanged(why=f"verification found differences: {found[0]}")


async def _commit(t: Tenure, attempt: Attempt, digests: Digests, reverse: ReverseWatermark) -> None:
    """The commit point. Between the durable intent and the register's answer nothing else is done."""
    now = t.now_ms()
    await t.write(
        CommitIntent(epoch=t.register.epoch, attempt=attempt.number, at_ms=now, lock_at_ms=now - int(attempt.lock_ms)),
        stage=SyncStage.COMMIT,
        entries=(
            *t.stage_over(),
            t.entry(
                EntryKind.DIGESTS,
                f"Digests agree: {digests.target}",
                digest_source=digests.source,
                digest_target=digests.target,
                digest_ledger=digests.ledger,
                digest_source_less_bad_items=digests.explained,
            ),
        ),
        counters={
            "digest_source": digests.source,
            "digest_target": digests.target,
            "digest_ledger": digests.ledger,
        },
    )
    t.begin_stage(SyncStage.COMMIT)
    attempt.mark("intent")
    t.register = await _relocate(t)
    attempt.mark("register")
    await t.write(
        Committed(epoch=t.register.epoch, at_ms=t.now_ms()),
        reverse,
        stage=SyncStage.CLEANUP,
        entries=(
            t.entry(
                EntryKind.REGISTER,
                f"The directory says {t.register}: committed.",
                home=str(t.register.home),
                epoch=t.register.epoch,
            ),
        ),
        counters={"epoch": t.register.epoch},
    )
    attempt.mark("note")


async def _relocate(t: Tenure) -> Register:
    expected = Register(t.source_home, t.facts.need(CommitIntent).epoch)
    try:
        return await t.directory.relocate(t.request.mailbox_id, expected=expected, home=t.target_home)
    except MoveError as error:
        # Lost, or only its answer: the register says which. If even reading fails, the next tenure asks again.
        register, t.facts = await settle_register(t.ledger, t.directory, t.request, token=t.token, facts=t.facts)
        if register.home == t.target_home:
            return register
        raise RegisterChanged(expected=str(expected), present=str(register)) from error
