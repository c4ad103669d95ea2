"""The least that moves a mailbox over the contract: what an engine does, without ledger, bounds or patience.

For tests of endpoints, and as the model that the engine's own phases are compared with.
"""

from collections.abc import Sequence

from moverq.endpoints.base import Source, Target
from moverq.model.change import ChangeBatch, FolderState, Watermark
from moverq.model.digest import mailbox_digest
from moverq.model.ids import ItemId
from moverq.plan.hierarchy import plan_hierarchy

BYTES_MAX = 1 << 20
ITEMS_MAX = 100


async def converge_folders(target: Target, wanted: Sequence[FolderState], token: int) -> None:
    """The target's tree is the wanted one, but for removals that wait for their items."""
    steps = plan_hierarchy(await target.read_hierarchy(), wanted, occupied=await target.occupied_folders())
    await target.apply_folders(steps, token)


async def seed(source: Source, target: Target, token: int) -> Watermark:
    """What is there is copied; returns the watermark to follow the feed from."""
    watermark = await source.head()
    await converge_folders(target, await source.read_hierarchy(), token)
    cursor, done = None, False
    while not done:
        page = await source.read_seed(cursor, bytes_max=BYTES_MAX, items_max=ITEMS_MAX)
        await target.write_items(page.items, token)
        beside = ChangeBatch(through=watermark, more=True, settings=page.settings, delivery_keys=page.delivery_keys)
        await target.apply_changes(beside, token)
        cursor, done = page.cursor, page.done
    return watermark


async def sync_batch(source: Source, target: Target, after: Watermark, token: int, *, changes_max: int) -> ChangeBatch:
    """One batch of the feed is held by the target."""
    batch = await source.read_feed(after, changes_max=changes_max)
    if batch.hierarchy is not None:
        await converge_folders(target, batch.hierarchy, token)
    await copy_items(source, target, await target.apply_changes(batch, token), token)
    if batch.hierarchy is not None:
        # Folders that only now lost their last item can be removed only now.
        await converge_folders(target, batch.hierarchy, token)
    return batch


async def copy_items(source: Source, target: Target, item_ids: Sequence[ItemId], token: int) -> None:
    while item_ids:
        read, _bad, item_ids = await source.fetch(item_ids, bytes_max=BYTES_MAX)
        await target.write_items(read, token)


async def sync(source: Source, target: Target, after: Watermark, token: int, *, changes_max: int = 100) -> Watermark:
    """The target holds everything up to the feed's end; returns where that is."""
    while True:
        batch = await sync_batch(source, target, after, token, changes_max=changes_max)
        after = batch.through
        if not batch.more:
            return after


async def digest_of(side: Source | Target) -> str:
    """The equality digest, after a look at whether the maintained sums are what the items add up to."""
    recount, account = await side.recount(), await side.account()
    assert dict(account.digests) == dict(recount.digests)
    assert (account.folders, account.settings) == (recount.folders, recount.settings)
    return mailbox_digest(account.folders, dict(account.digests), dict(account.settings))
