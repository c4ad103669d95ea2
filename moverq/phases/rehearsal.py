"""Rehearsal: the final steps, done on the real target while nobody waits for them.

The guard set and read, the directory and the ledger written, both accounts taken: what they took is the fixed part of
every predicted lock time, and what they cannot do is known before anybody is locked out.
"""

import trio

from moverq.endpoints.base import FenceClass, Guard
from moverq.errors import RequestRefused, StaleToken
from moverq.model.change import Watermark
from moverq.model.report import EntryKind
from moverq.phases.tenure import Rehearsed, Tenure

HOLDS_FOR_S = 60.0
"""So long what one rehearsal took is taken for another mailbox between the same databases."""


async def rehearse_unless_known(t: Tenure) -> float:
    """The same as `rehearse`, without its steps where another mailbox between these databases has just gone through
    them with as many folders. Our own store treats all its mailboxes alike; a server may not.

    What the steps would show beside is known by then: this tenure has claimed the source and made the target, and
    written to ledger and directory.
    """
    known = t.tools.rehearsed.get(_between(t))
    alike = t.source.capabilities.has_one_writer and t.target.capabilities.has_one_writer
    if (
        not alike
        or known is None
        or trio.current_time() - known.at > HOLDS_FOR_S
        or t.summary is None
        or t.summary.folders > known.folders
    ):
        return await rehearse(t)
    seen = await t.target_as_source.summary()
    await _check_target(t, seen.guard, seen.head)
    return known.took_ms


async def rehearse(t: Tenure) -> float:
    """What the fixed steps of a finalize take, in ms, and whether they can be done at all.

    Raises whatever a step raises: better here than under the lock.
    """
    begun = trio.current_time()
    await t.source.claim(t.token)
    folders = len((await t.source.account()).folders)
    if t.source.capabilities.fence is not FenceClass.A:
        # There the lock is a look at all folders too, and so is the last one for what got past it.
        await t.source.account()
        await t.source.account()
    stands_at = (await t.target.account()).head
    await t.item_map.account()
    await t.write(entries=(t.entry(EntryKind.LINE, "Rehearsing the final steps."),))
    await t.show_status()
    await t.directory.recipient(t.request.mailbox_id)
    await t.target.claim(t.token)
    guard = await t.target.guard()
    took_ms = (trio.current_time() - begun) * 1000
    await _check_target(t, guard, stands_at)
    t.tools.rehearsed[_between(t)] = Rehearsed(folders=folders, took_ms=took_ms, at=begun)
    return took_ms


async def _check_target(t: Tenure, guard: Guard, stands_at: Watermark) -> None:
    """The target's guard has kept our token, and the way back can be followed from where the target stands."""
    if guard.token > t.token:
        raise StaleToken(held=t.token, seen=guard.token)
    if guard.token < t.token:
        raise RequestRefused(why=f"the target's guard did not keep token {t.token}; it says {guard.token}")
    if t.target.capabilities.has_feed:
        await t.target_as_source.read_feed(stands_at, changes_max=1)


def _between(t: Tenure) -> tuple[str, str]:
    return t.request.source.database, t.request.target_database
