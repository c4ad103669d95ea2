"""The contract of an endpoint, both sides together: a mailbox in use is copied and followed until both are equal.

Parts one to three, side by side with this: `test_endpoints_guard`, `test_endpoints_source`, `test_endpoints_target`.
"""

from collections.abc import Awaitable, Callable
from random import Random

import attrs
import pytest
import trio

from moverq.endpoints.base import FolderStep, Home, Source, StepKind, Target
from moverq.model.change import ChangeBatch, ItemContent, Watermark
from moverq.model.ids import InstanceId, ItemId
from tests.support.endpoints import Kit, Mailbox, message
from tests.support.mover import BYTES_MAX, converge_folders, digest_of, seed, sync, sync_batch
from tests.support.workload import MailboxUser

SEEDS = range(6)


async def instance_view(side: Source) -> tuple[object, ...]:
    """Everything that travels, UIDs and modseqs included: folders, items with bytes, settings, keys."""
    start = attrs.evolve(await side.head(), modseq=0)
    feed = await side.read_feed(start, changes_max=100_000)
    read, bad, rest = await side.fetch([item.item_id for item in feed.items], bytes_max=1 << 30)
    assert (bad, rest) == ((), ())
    return (
        {folder.folder_id: folder for folder in await side.read_hierarchy()},
        {item.state.item_id: item for item in read},
        {setting.name: setting for setting in feed.settings if setting.value is not None},
        {(key.key, key.content_digest): key.accepted_ms for key in feed.delivery_keys},
    )


@pytest.mark.parametrize("number", SEEDS)
async def test_a_mailbox_in_use_is_followed_until_both_sides_are_equal(
    mailbox: Mailbox, there: Kit, target: Target, target_instance: InstanceId, number: int
) -> None:
    """The user goes on working; pages of the listing are written late; a restart falls back to an older watermark."""
    random = Random(number)
    user = MailboxUser.of(mailbox, random)
    for _ in range(40):
        await user.act()
    start = after = durable = await mailbox.source.head()
    await converge_folders(target, await mailbox.source.read_hierarchy(), 1)
    cursor, listed, late = None, False, list[tuple[ItemContent, ...]]()
    for _ in range(150):
        match random.randrange(6):
            case 0 | 1:
                await user.act()
            case 2 if not listed:
                page = await mailbox.source.read_seed(cursor, bytes_max=2000, items_max=5)
                beside = ChangeBatch(through=start, more=True, settings=page.settings, delivery_keys=page.delivery_keys)
                await target.apply_changes(beside, 1)
                late.append(page.items)
                cursor, listed = page.cursor, page.done
            case 3 if late:
                await target.write_items(late.pop(random.randrange(len(late))), 1)
            case 4:
                batch = await sync_batch(mailbox.source, target, after, 1, changes_max=random.randrange(1, 9))
                after = batch.through
            case _:
                # Now and then the watermark is noted; now and then a restart goes on from the note.
                durable, after = (after, after) if random.random() < 0.5 else (durable, durable)
    for page_items in late:
        await target.write_items(page_items, 1)
    while not listed:
        page = await mailbox.source.read_seed(cursor, bytes_max=BYTES_MAX, items_max=100)
        await target.apply_changes(
            ChangeBatch(through=start, more=True, settings=page.settings, delivery_keys=page.delivery_keys), 1
        )
        await target.write_items(page.items, 1)
        cursor, listed = page.cursor, page.done
    locked_at = await mailbox.source.lock(1)
    assert await sync(mailbox.source, target, after, 1) >= locked_at
    await converge_folders(target, await mailbox.source.read_hierarchy(), 1)
    assert await digest_of(mailbox.source) == await digest_of(target)
    assert await instance_view(mailbox.source) == await instance_view(there.endpoint.source(target_instance))


@pytest.mark.parametrize("number", SEEDS)
async def test_any_order_and_repetition_of_the_same_writes_ends_the_same(
    mailbox: Mailbox, there: Kit, target: Target, target_instance: InstanceId, number: int
) -> None:
    """Batches read from all sorts of watermarks, and their items as they were then, in shuffled order, some twice."""
    random = Random(number)
    user = MailboxUser.of(mailbox, random)
    user.folders_too = False  # The tree is applied once, at the end of the recording; the items are what is shuffled.
    user.folders += [await mailbox.client.create_folder(name) for name in "ABC"]
    seen = [attrs.evolve(await mailbox.source.head(), modseq=0)]
    writes: list[Callable[[], Awaitable[object]]] = []

    async def record(after: Watermark, changes_max: int) -> None:
        batch = await mailbox.source.read_feed(after, changes_max=changes_max)
        read, _, _ = await mailbox.source.fetch([item.item_id for item in batch.items], bytes_max=BYTES_MAX)
        writes.append(lambda: target.apply_changes(batch, 1))
        writes.append(lambda: target.write_items(read, 1))

    for _ in range(25):
        for _ in range(4):
            await user.act()
        seen.append(await mailbox.source.head())
        await record(random.choice(seen), random.randrange(1, 30))
    await record(seen[0], 10_000)
    await converge_folders(target, await mailbox.source.read_hierarchy(), 1)

    writes += random.choices(writes, k=20)
    random.shuffle(writes)
    for write in writes:
        await write()
    expected = await digest_of(mailbox.source)
    assert await digest_of(target) == expected
    reached = await target.account()
    for write in random.sample(writes, 20):
        await write()
    assert await target.account() == reached
    await converge_folders(target, await mailbox.source.read_hierarchy(), 1)
    assert await instance_view(mailbox.source) == await instance_view(there.endpoint.source(target_instance))


@pytest.mark.parametrize("number", SEEDS)
async def test_a_move_and_its_rollback_keep_what_happened_on_both_sides(
    mailbox: Mailbox, here: Kit, there: Kit, target: Target, target_instance: InstanceId, number: int
) -> None:
    user = MailboxUser.of(mailbox, Random(number))
    for _ in range(40):
        await user.act()
    after = await seed(mailbox.source, target, 1)
    for _ in range(20):
        await user.act()
    await mailbox.source.lock(1)
    await sync(mailbox.source, target, after, 1)
    await mailbox.source.retire(1, Home("there", target_instance))
    reverse_from = await there.endpoint.source(target_instance).head()
    await target.open(1)

    user.client = there.client(target_instance)
    for _ in range(30):
        await user.act()
    back_from, back_to = there.endpoint.source(target_instance), here.endpoint.target(mailbox.instance)
    reverse_from = await sync(back_from, back_to, reverse_from, 1)
    await back_to.seal(2)
    for _ in range(10):
        await user.act()
    await back_from.lock(2)
    await sync(back_from, back_to, reverse_from, 2)
    assert await digest_of(back_from) == await digest_of(back_to)
    assert await instance_view(back_from) == await instance_view(mailbox.source)
    await back_from.retire(2, Home("here", mailbox.instance))
    await back_to.open(2)
    user.client = mailbox.client
    for _ in range(10):
        await user.act()
    await digest_of(mailbox.source)


# --- cancellation -------------------------------------------------------------------------------------------------


async def test_no_verb_happens_in_a_scope_that_is_cancelled(mailbox: Mailbox, target: Target) -> None:
    await mailbox.client.append(mailbox.inbox, message(b"x"))
    source, client = mailbox.source, mailbox.client
    watermark = attrs.evolve(await source.head(), modseq=0)
    page = await source.read_seed(None, bytes_max=100, items_max=1)
    batch = await source.read_feed(watermark, changes_max=10)
    step = FolderStep(StepKind.REMOVE, (await target.read_hierarchy())[0])
    mailbox_id = (await source.summary()).mailbox_id
    item_id: ItemId = page.items[0].state.item_id
    verbs: list[Callable[[], Awaitable[object]]] = [
        source.summary,
        source.head,
        source.read_hierarchy,
        lambda: source.read_seed(None, bytes_max=1, items_max=1),
        lambda: source.read_feed(watermark, changes_max=1),
        lambda: source.wait_feed(watermark),
        lambda: source.fetch([item_id], bytes_max=1),
        source.account,
        source.recount,
        source.guard,
        lambda: source.claim(2),
        lambda: source.lock(2),
        lambda: source.unlock(2),
        lambda: source.retire(2, Home("there", InstanceId(b"i" * 16))),
        target.exists,
        lambda: target.create(mailbox_id, 2),
        target.summary,
        target.guard,
        lambda: target.claim(2),
        lambda: target.seal(2),
        target.read_hierarchy,
        target.occupied_folders,
        lambda: target.apply_folders([step], 2),
        lambda: target.write_items(page.items, 2),
        lambda: target.apply_changes(batch, 2),
        target.account,
        target.recount,
        lambda: target.open(2),
        lambda: target.remove(2, keep_until_ms=0),
        lambda: target.purge(2),
        mailbox.kit.endpoint.instances,
        lambda: client.deliver(message(b"x")),
        lambda: client.append(mailbox.inbox, message(b"x")),
        lambda: client.set_flags(item_id, 1),
        lambda: client.delete_item(item_id, purge=True),
        lambda: client.create_folder("x"),
        lambda: client.set_setting("rules", "[]"),
    ]
    before = await source.account(), await source.guard(), await target.account(), await target.guard()
    for verb in verbs:
        with trio.CancelScope() as scope:
            scope.cancel()
            await verb()
        assert scope.cancelled_caught
    assert (await source.account(), await source.guard(), await target.account(), await target.guard()) == before


async def test_who_is_done_with_a_mailbox_leaves_it_to_the_others_and_to_who_comes_next(
    mailbox: Mailbox, here: Kit
) -> None:
    """One closes his side while another reads a seed and waits for changes; then that one too, and a third begins."""
    for number in range(3):
        await mailbox.client.append(mailbox.inbox, message(b"%d" % number))
    source = mailbox.source
    after = await source.head()
    first = await source.read_seed(None, bytes_max=1 << 20, items_max=1)
    other = here.endpoint.target(mailbox.instance)
    assert (await other.claim(3)).token == 3
    heard = trio.Event()

    async def wait() -> None:
        await source.wait_feed(after)
        heard.set()

    async with trio.open_nursery() as nursery:  # until the change is heard of
        nursery.start_soon(wait)
        await trio.sleep(0.1)
        for _ in range(2):
            await other.aclose()
        second = await source.read_seed(first.cursor, bytes_max=1 << 20, items_max=2)
        assert len(first.items + second.items) == 3
        await mailbox.client.append(mailbox.inbox, message(b"new"))
        with trio.fail_after(30):
            await heard.wait()
    await source.aclose()
    third = here.endpoint.source(mailbox.instance)
    assert (await third.guard()).token == 3
    assert len((await third.read_feed(after, changes_max=10)).items) == 1
    assert sum(folder.items for _, folder in (await third.account()).digests) == 4
    await third.aclose()
