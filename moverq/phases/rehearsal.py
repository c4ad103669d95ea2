"""Rehearsal: the final steps, done on the real target while nobody waits for them.

The guard set and read, the directory and the ledger written, both accounts taken: what they took is the fixed part of
every predicted lock time, and what they cannot do is known before anybody is locked out.
"""

import trio

from moverq.endpoints.base import FenceClass
from moverq.errors import RequestRefused, StaleToken
from moverq.model.report import EntryKind
from moverq.phases.tenure import Tenure


async def rehearse(t: Tenure) -> float:
    """What the fixed steps of a finalize take, in ms, and whether they can be done at all.

    Raises whatever a step raises: better here than under the lock.
    """
    begun = trio.current_time()
    await t.source.claim(t.token)
    await t.source.account()
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
    took = (trio.current_time() - begun) * 1000
    if guard.token > t.token:
        raise StaleToken(held=t.token, seen=guard.token)
    if guard.token < t.token:
        raise RequestRefused(why=f"the target's guard did not keep token {t.token}; it says {guard.token}")
    if t.target.capabilities.has_feed:
        # The way back: the target can be followed from where it stands.
        await t.target_as_source.read_feed(stands_at, changes_max=1)
    return took
