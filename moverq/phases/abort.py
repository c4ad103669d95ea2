"""Abort: what `remove` does. Safe in every state, because the register is asked first.

Before the commit: the source is its users' again as they made it, the target this move made is gone. In doubt: the
tenure that calls this has settled the register already. After the commit it is too late: what that entails (target
open, source retired) is done, and the request soaks, so that somebody looks after its old mailbox. Of one that soaks
already, or is over, only the record goes. Where another move has taken the mailbox on, to a home
that is neither of ours, what this one made goes. The mailbox at the register's home is never touched.
"""

from contextlib import suppress

from moverq.directory.directory import MoveAttributes
from moverq.endpoints.base import GuardMode
from moverq.errors import NotFound, RequestRefused
from moverq.model.facts import CleanedUp, OfflineLocked, PurgeAllowed
from moverq.phases.clean_up import clean_up
from moverq.phases.tenure import Tenure

NOT_KEPT = 0
"""What never was a mailbox's home has no retention. A date of now would need a clock that never falls back."""


async def abort(t: Tenure) -> None:
    """The request is gone, and all that it made but a committed target; or it is completed, where it was too late."""
    over = t.facts.has(PurgeAllowed) or t.standing.wishes.superseded_by is not None
    if not over:
        if t.register.home == t.target_home:
            if not t.facts.has(CleanedUp):
                await clean_up(t)
                return
        elif t.register.home == t.source_home:
            await unlock_source(t)
            await _drop_target(t)
        elif not t.facts.has(CleanedUp):
            await _drop_target(t)
    await t.directory.release_move(t.request.mailbox_id, t.request_id)
    if t.request.parent is not None and t.register.home == t.source_home and not over:
        # The move that was to be taken back goes on with its soak.
        with suppress(RequestRefused):
            await t.directory.claim_move(t.request.mailbox_id, t.request.parent)
    if not over and t.register.home in (t.source_home, t.target_home):  # else what it shows is another move's
        await t.directory.set_move(t.request.mailbox_id, MoveAttributes())
    await t.item_map.aclose()
    await t.ledger.disown(t.request_id, t.token)


async def unlock_source(t: Tenure) -> None:
    """The register says source and no intent is open: clients may write there, also in an offline move."""
    assert t.register.home == t.source_home
    if (await t.source.guard()).mode is GuardMode.LOCKED:
        await t.source.unlock(t.token)
    if t.facts.has(OfflineLocked):
        await t.write(forget=(OfflineLocked,))


async def _drop_target(t: Tenure) -> None:
    """The sealed instance this move made is destroyed; the one a rollback was given is retired again instead."""
    if t.request.parent is not None:
        if await t.target.exists() and (await t.target.guard()).mode is GuardMode.SEALED:
            await t.target_as_source.retire(t.token, t.register.home)
        return
    try:
        if (await t.target.guard()).mode is not GuardMode.SEALED:
            return
    except NotFound:
        return
    await t.target.remove(t.token, keep_until_ms=NOT_KEPT)
    await t.target.purge(t.token)
