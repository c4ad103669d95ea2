"""Settle: what the next holder of a token does first, whatever the last one left lying.

    take the token ─▶ take the ledger over ─▶ read the facts ─▶ read the register
        commit intent?   the register is at the target   → forward, nothing is undone
                         at the source                   → CAS to (source, e+1): now the old one can never win; forget
                                                           the intent
        claim both guards: from now on every lower token is stale everywhere
        register at the source, no intent, source locked → unlock

The order is the argument (`models/cutover.py`): the ledger before the register, since the old holder can write no
intent any more; the register before the guards, since nobody unlocks between a durable intent and a resolved register.
"""

from moverq.directory.directory import Directory, Register
from moverq.endpoints.base import GuardMode, Home, Source, Target
from moverq.errors import NotFound, RegisterChanged
from moverq.ledger.ledger import Ledger
from moverq.model.facts import CommitIntent, Facts, LockIntent, OfflineLocked
from moverq.model.report import EntryKind, ReportEntry
from moverq.model.request import MoveRequest

RESOLVE_TRIES = 10
"""Each lost compare-and-set means that somebody else's won; with one claim per mailbox there are two at most."""


async def settle_register(
    ledger: Ledger, directory: Directory, request: MoveRequest, *, token: int, facts: Facts
) -> tuple[Register, Facts]:
    """The register as it stands, with no intent open. After a doubt it can only be changed by this token's holder.

    Raises:
        RegisterChanged: the mailbox is at neither of the two homes; an operator decides.
    """
    target = Home(request.target_database, request.target_instance)
    register = (await directory.recipient(request.mailbox_id)).register
    intent = facts.get(CommitIntent)
    if intent is None or register.home == target:
        return register, facts
    for _ in range(RESOLVE_TRIES):
        if register.home == target:
            return register, facts
        if register.home != request.source:
            break
        if register.epoch > intent.epoch:
            entry = ReportEntry(
                at_ms=ledger.now_ms(),
                kind=EntryKind.REGISTER,
                text=f"In doubt after a commit intent at epoch {intent.epoch}: the directory says {register}; "
                f"the source keeps the mailbox.",
                data={"home": str(register.home), "epoch": register.epoch, "intent_epoch": intent.epoch},
            )
            await ledger.write(request.request_id, token, forget=(CommitIntent,), entries=(entry,))
            return register, facts.minus(CommitIntent)
        try:
            register = await directory.relocate(request.mailbox_id, expected=register, home=request.source)
        except RegisterChanged:
            register = (await directory.recipient(request.mailbox_id)).register
    raise RegisterChanged(expected=f"{request.source} or {target}", present=str(register))


async def claim_sides(source: Source, target: Target, *, token: int) -> tuple[GuardMode | None, GuardMode | None]:
    """Every lower token is stale at both sides. The modes they are in; None: there is no such instance (any more)."""
    modes: list[GuardMode | None] = []
    for side in (source, target):
        try:
            modes.append((await side.claim(token)).mode)
        except NotFound:
            modes.append(None)
    return modes[0], modes[1]


async def give_source_back(ledger: Ledger, source: Source, request: MoveRequest, *, token: int, facts: Facts) -> Facts:
    """The source is open again: the last holder locked it and did not commit. Not on the offline path, where the
    lock is what was asked for.

    Only with the register at the source and no open intent; the caller has looked.
    """
    assert not facts.has(CommitIntent)
    if facts.has(OfflineLocked):
        return facts
    await source.unlock(token)
    intent = facts.get(LockIntent)
    entry = ReportEntry(
        at_ms=ledger.now_ms(),
        kind=EntryKind.LOCK_ATTEMPT,
        text="The source was found locked by a finalize that did not commit, and given back.",
        data={"attempt": intent.attempt if intent is not None else None, "outcome": "found locked, given back"},
    )
    await ledger.write(request.request_id, token, forget=(LockIntent,), entries=(entry,))
    return facts.minus(LockIntent)
