"""The contract of an endpoint, part two: the side a mailbox leaves is listed, fetched, followed and counted."""

from itertools import pairwise
from random import Random

import attrs
import pytest
import trio
import trio.testing

from moverq.endpoints.base import SeedPage
from moverq.errors import FeedTrimmed
from moverq.model.change import ChangeBatch, Gone, ItemContent, Watermark
from moverq.model.digest import FolderDigest
from moverq.model.ids import FolderId, InstanceId, ItemId, new_id
from tests.support.endpoints import Kit, Mailbox, message
from tests.support.workload import MailboxUser


async def fill(mailbox: Mailbox, *sizes: int) -> list[ItemId]:
    """Messages of these sizes in bytes: 0, or at least 6."""
    contents = [b"%c:%s\r\n\r\n" % (65 + n % 26, b"x" * (size - 6)) if size else b"" for n, size in enumerate(sizes)]
    assert [len(content) for content in contents] == list(sizes)
    return [await mailbox.client.append(mailbox.inbox, content) for content in contents]


async def read_pages(mailbox: Mailbox, *, bytes_max: int = 1000, items_max: int = 100) -> list[SeedPage]:
    pages: list[SeedPage] = []
    while not pages or not pages[-1].done:
        cursor = pages[-1].cursor if pages else None
        pages.append(await mailbox.source.read_seed(cursor, bytes_max=bytes_max, items_max=items_max))
    return pages


def ids(items: tuple[ItemContent, ...]) -> list[ItemId]:
    return [item.state.item_id for item in items]


# --- the listing --------------------------------------------------------------------------------------------------


async def test_the_listing_of_an_empty_mailbox_is_done_at_once(mailbox: Mailbox) -> None:
    (page,) = await read_pages(mailbox)
    assert (page.items, page.bad) == ((), ())


async def test_the_listing_has_each_item_once_with_its_bytes(mailbox: Mailbox) -> None:
    written = await fill(mailbox, *range(0, 200, 7))
    pages = await read_pages(mailbox, bytes_max=300, items_max=4)
    assert sorted(item_id for page in pages for item_id in ids(page.items)) == sorted(written)
    for page in pages:
        assert all(item.state.size == len(item.content) for item in page.items)


async def test_a_page_is_bounded_in_bytes_and_items(mailbox: Mailbox) -> None:
    await fill(mailbox, *[60] * 20)
    for page in await read_pages(mailbox, bytes_max=130):
        assert 1 <= len(page.items) <= 2
    for page in await read_pages(mailbox, items_max=3):
        assert 1 <= len(page.items) <= 3


async def test_an_item_larger_than_the_bound_comes_alone(mailbox: Mailbox) -> None:
    written = await fill(mailbox, 10, 500, 10, 500, 10)
    pages = await read_pages(mailbox, bytes_max=100)
    assert sorted(item_id for page in pages for item_id in ids(page.items)) == sorted(written)
    for page in pages:
        assert len(page.items) == 1 or all(len(item.content) <= 100 for item in page.items)


async def test_the_listing_goes_on_at_its_cursor_for_another_reader(mailbox: Mailbox, here: Kit) -> None:
    await fill(mailbox, *[10] * 10)
    pages = await read_pages(mailbox, items_max=3)
    for page, following in pairwise(pages):
        again = await here.endpoint.source(mailbox.instance).read_seed(page.cursor, bytes_max=1000, items_max=3)
        assert again == following


@pytest.mark.parametrize("seed", range(5))
async def test_an_item_present_throughout_is_listed_once_whatever_is_done_to_it(mailbox: Mailbox, seed: int) -> None:
    random = Random(seed)
    written = await fill(mailbox, *[20] * 40)
    archive = await mailbox.client.create_folder("Archive")
    purged = set(random.sample(written, 5))
    listed: list[ItemId] = []
    cursor, done = None, False
    while not done:
        page = await mailbox.source.read_seed(cursor, bytes_max=60, items_max=10)
        listed += ids(page.items)
        cursor, done = page.cursor, page.done
        for item_id in random.sample(written, 3):
            if item_id in purged:
                purged.remove(item_id)
                written.remove(item_id)
                await mailbox.client.delete_item(item_id, purge=True)
            elif random.random() < 0.5:
                await mailbox.client.set_flags(item_id, random.randrange(32))
            else:
                await mailbox.client.move_item(item_id, random.choice([archive, mailbox.inbox]))
        await mailbox.client.append(archive, message(b"new"))
    assert len(listed) == len(set(listed))
    assert set(written) <= set(listed)


async def test_an_item_that_cannot_be_read_is_listed_as_bad(mailbox: Mailbox, here: Kit) -> None:
    broken, *fine = await fill(mailbox, 10, 10, 10)
    await here.break_item(mailbox.instance, broken)
    pages = await read_pages(mailbox, items_max=2)
    assert [bad.state.item_id for page in pages for bad in page.bad] == [broken]
    assert all(bad.kind and bad.why for page in pages for bad in page.bad)
    assert sorted(item_id for page in pages for item_id in ids(page.items)) == sorted(fine)


async def test_the_listing_carries_settings_and_delivery_keys(mailbox: Mailbox) -> None:
    await mailbox.client.deliver(message(b"one"), b"key")
    await mailbox.client.set_setting("rules", "[]")
    await fill(mailbox, 10, 10, 10)
    pages = await read_pages(mailbox, items_max=1)
    assert [key.key for page in pages for key in page.delivery_keys] == [b"key"]
    assert [(s.name, s.value) for page in pages for s in page.settings] == [("rules", "[]")]


# --- fetch --------------------------------------------------------------------------------------------------------


async def test_items_are_fetched_in_the_order_asked_for_as_many_as_fit(mailbox: Mailbox) -> None:
    first, second, third = await fill(mailbox, 40, 40, 40)
    read, bad, rest = await mailbox.source.fetch([third, first, second], bytes_max=100)
    assert (ids(read), bad, list(rest)) == ([third, first], (), [second])


async def test_an_item_larger_than_the_bound_is_fetched_alone(mailbox: Mailbox) -> None:
    large, small = await fill(mailbox, 500, 10)
    read, _, rest = await mailbox.source.fetch([large, small], bytes_max=100)
    assert (ids(read), list(rest)) == ([large], [small])
    read, _, rest = await mailbox.source.fetch([small, large], bytes_max=100)
    assert (ids(read), list(rest)) == ([small], [large])


async def test_an_item_that_is_gone_is_neither_read_nor_bad_nor_left(mailbox: Mailbox) -> None:
    gone, there = await fill(mailbox, 10, 10)
    await mailbox.client.delete_item(gone, purge=True)
    read, bad, rest = await mailbox.source.fetch([gone, there, ItemId(new_id())], bytes_max=100)
    assert (ids(read), bad, rest) == ([there], (), ())


async def test_an_item_that_cannot_be_read_is_fetched_as_bad(mailbox: Mailbox, here: Kit) -> None:
    broken, fine = await fill(mailbox, 10, 10)
    await here.break_item(mailbox.instance, broken)
    read, bad, rest = await mailbox.source.fetch([broken, fine], bytes_max=100)
    assert (ids(read), [b.state.item_id for b in bad], rest) == ([fine], [broken], ())


async def test_the_state_fetched_is_the_present_one(mailbox: Mailbox) -> None:
    (item_id,) = await fill(mailbox, 10)
    await mailbox.client.set_flags(item_id, 3, ["work", "$Junk", "work"])
    ((item,), _, _) = await mailbox.source.fetch([item_id], bytes_max=100)
    assert (item.state.flags, item.state.keywords) == (3, ("$Junk", "work"))
    assert item.state.modseq == (await mailbox.source.head()).modseq


# --- the feed -----------------------------------------------------------------------------------------------------


async def feed(mailbox: Mailbox, after: Watermark, *, changes_max: int = 1000) -> ChangeBatch:
    return await mailbox.source.read_feed(after, changes_max=changes_max)


async def test_a_feed_read_at_its_head_is_empty(mailbox: Mailbox) -> None:
    head = await mailbox.source.head()
    batch = await feed(mailbox, head)
    assert (batch.changes, batch.more, batch.through) == (0, False, head)


async def test_ten_flag_changes_on_one_item_are_one_change(mailbox: Mailbox) -> None:
    (item_id,) = await fill(mailbox, 10)
    after = await mailbox.source.head()
    for flags in range(1, 11):
        await mailbox.client.set_flags(item_id, flags)
    batch = await feed(mailbox, after)
    assert batch.changes == 1
    assert [(item.item_id, item.flags) for item in batch.items] == [(item_id, 10)]


async def test_an_item_that_came_and_went_is_a_tombstone_with_a_modseq_of_its_own(mailbox: Mailbox) -> None:
    after = await mailbox.source.head()
    (item_id,) = await fill(mailbox, 10)
    born = await mailbox.source.head()
    await mailbox.client.delete_item(item_id, purge=True)
    batch = await feed(mailbox, after)
    assert batch.items == ()
    assert batch.items_gone == (Gone(item_id, (await mailbox.source.head()).modseq),)
    assert batch.items_gone[0].modseq > born.modseq


async def test_a_deleted_item_is_still_there_in_a_hidden_folder(mailbox: Mailbox) -> None:
    (item_id,) = await fill(mailbox, 10)
    after = await mailbox.source.head()
    await mailbox.client.delete_item(item_id)
    batch = await feed(mailbox, after)
    assert batch.items_gone == ()
    assert batch.hierarchy is not None
    (item,) = batch.items
    assert [f.hidden for f in batch.hierarchy if f.folder_id == item.folder_id] == [True]


async def test_a_moved_item_keeps_its_id_and_gets_a_new_uid(mailbox: Mailbox) -> None:
    (item_id,) = await fill(mailbox, 10)
    archive = await mailbox.client.create_folder("Archive")
    await mailbox.client.append(archive, message(b"first here"))
    after = await mailbox.source.head()
    await mailbox.client.move_item(item_id, archive)
    batch = await feed(mailbox, after)
    assert [(item.item_id, item.folder_id, item.uid) for item in batch.items] == [(item_id, archive, 2)]
    assert batch.items_gone == ()


async def test_uids_of_a_folder_are_never_used_again(mailbox: Mailbox) -> None:
    uids: list[int] = []
    for _ in range(5):
        (item_id,) = await fill(mailbox, 10)
        ((item,), _, _) = await mailbox.source.fetch([item_id], bytes_max=100)
        uids.append(item.state.uid)
        await mailbox.client.delete_item(item_id, purge=True)
    (inbox,) = await mailbox.source.read_hierarchy()
    assert uids == sorted(set(uids))
    assert inbox.uidnext > uids[-1]


async def test_the_hierarchy_comes_whole_when_a_folder_changed_and_not_otherwise(mailbox: Mailbox) -> None:
    client = mailbox.client
    outer = await client.create_folder("A")
    inner = await client.create_folder("B", outer)
    for change in (
        lambda: client.rename_folder(outer, "C"),
        lambda: client.move_folder(inner, None, "D"),
        lambda: client.delete_folder(inner),
        lambda: client.create_folder("E", outer),
    ):
        after = await mailbox.source.head()
        await change()
        batch = await feed(mailbox, after)
        assert batch.hierarchy is not None
        assert by_folder(batch) == {f.folder_id: f for f in await mailbox.source.read_hierarchy()}
    after = await mailbox.source.head()
    await fill(mailbox, 10)
    assert (await feed(mailbox, after)).hierarchy is None


def by_folder(batch: ChangeBatch) -> dict[FolderId, object]:
    return {folder.folder_id: folder for folder in batch.hierarchy or ()}


async def test_a_deleted_folder_takes_its_items_along_as_tombstones(mailbox: Mailbox) -> None:
    folder = await mailbox.client.create_folder("A")
    item_id = await mailbox.client.append(folder, message(b"x"))
    after = await mailbox.source.head()
    await mailbox.client.delete_folder(folder)
    batch = await feed(mailbox, after)
    assert [gone.id for gone in batch.items_gone] == [item_id]
    assert folder not in by_folder(batch)


async def test_settings_come_by_the_feed_removed_ones_too(mailbox: Mailbox) -> None:
    after = await mailbox.source.head()
    await mailbox.client.set_setting("rules", "[]")
    await mailbox.client.set_setting("x-quota", "7")
    await mailbox.client.set_setting("x-quota", None)
    batch = await feed(mailbox, after)
    assert [(s.name, s.value) for s in batch.settings] == [("rules", "[]"), ("x-quota", None)]
    assert (await mailbox.source.account()).settings == (("rules", "[]"),)


async def test_a_delivery_is_accepted_once_and_its_key_comes_by_the_feed(mailbox: Mailbox) -> None:
    after = await mailbox.source.head()
    assert await mailbox.client.deliver(message(b"one"), b"key") is not None
    assert await mailbox.client.deliver(message(b"one"), b"key") is None
    assert await mailbox.client.deliver(message(b"other bytes"), b"key") is not None
    batch = await feed(mailbox, after)
    assert (len(batch.items), len(batch.delivery_keys)) == (2, 2)
    hashes = {item.content_hash for item in batch.items}
    assert {key.content_digest for key in batch.delivery_keys} == hashes, "a key's bytes are known by their item's hash"


@pytest.mark.parametrize("seed", range(5))
async def test_pages_of_the_feed_are_bounded_in_order_and_together_complete(mailbox: Mailbox, seed: int) -> None:
    random = Random(seed)
    after = await mailbox.source.head()
    user = MailboxUser.of(mailbox, random)
    for _ in range(60):
        await user.act()
    whole = await feed(mailbox, after)
    assert not whole.more
    assert whole.through == await mailbox.source.head()
    pages: list[ChangeBatch] = []
    while not pages or pages[-1].more:
        pages.append(await feed(mailbox, pages[-1].through if pages else after, changes_max=7))
    for page in pages:
        assert page.changes - (page.hierarchy is not None) <= 7
    states = [states_of(page) for page in pages]
    assert sorted(modseq for page in states for modseq in page) == sorted(states_of(whole))
    for page, modseqs, following in zip(pages, states, states[1:], strict=False):
        assert max(modseqs) <= page.through.modseq < min(following)


def states_of(batch: ChangeBatch) -> list[int]:
    kinds = (batch.items, batch.items_gone, batch.settings, batch.delivery_keys)
    return [state.modseq for kind in kinds for state in kind]


async def test_a_watermark_that_is_not_this_feeds_is_refused(mailbox: Mailbox) -> None:
    head = await mailbox.source.head()
    for foreign in (
        attrs.evolve(head, timeline=b"another timeline"),
        attrs.evolve(head, instance=InstanceId(new_id())),
        attrs.evolve(head, modseq=head.modseq + 1),
    ):
        with pytest.raises(FeedTrimmed):
            await feed(mailbox, foreign)


async def test_a_reader_behind_the_horizon_is_told_so(mailbox: Mailbox, here: Kit) -> None:
    (item_id,) = await fill(mailbox, 10)
    after = await mailbox.source.head()
    await mailbox.client.delete_item(item_id, purge=True)
    await here.trim_feed(mailbox.instance)
    with pytest.raises(FeedTrimmed):
        await feed(mailbox, after)
    assert not (await feed(mailbox, await mailbox.source.head())).more


async def test_waiting_ends_at_once_where_there_is_more_to_read(mailbox: Mailbox) -> None:
    after = await mailbox.source.head()
    await fill(mailbox, 10)
    with trio.fail_after(5):
        await mailbox.source.wait_feed(after)


async def test_waiting_ends_with_the_next_change_for_all_who_wait(mailbox: Mailbox, here: Kit) -> None:
    after = await mailbox.source.head()
    woken: list[str] = []

    async def wait(name: str) -> None:
        await here.endpoint.source(mailbox.instance).wait_feed(after)
        woken.append(name)

    with trio.fail_after(5):
        async with trio.open_nursery() as nursery:  # Two readers; the change below ends both.
            nursery.start_soon(wait, "first")
            nursery.start_soon(wait, "second")
            await trio.testing.wait_all_tasks_blocked(0.002)
            assert woken == []
            await mailbox.client.deliver(message(b"wake up"))
    assert sorted(woken) == ["first", "second"]


async def test_waiting_ends_with_a_lock_which_is_a_change(mailbox: Mailbox) -> None:
    after = await mailbox.source.head()
    with trio.fail_after(5):
        async with trio.open_nursery() as nursery:  # One reader; the lock ends it.
            nursery.start_soon(mailbox.source.wait_feed, after)
            await trio.testing.wait_all_tasks_blocked(0.002)
            await mailbox.source.lock(1)


async def test_a_wait_that_is_cancelled_leaves_nothing_behind(mailbox: Mailbox) -> None:
    after = await mailbox.source.head()
    async with trio.open_nursery() as nursery:  # One reader, cancelled here.
        nursery.start_soon(mailbox.source.wait_feed, after)
        await trio.testing.wait_all_tasks_blocked(0.002)
        nursery.cancel_scope.cancel()
    await fill(mailbox, 10)
    assert (await feed(mailbox, after)).changes == 1


# --- the account --------------------------------------------------------------------------------------------------


async def test_the_account_of_an_empty_mailbox_is_empty(mailbox: Mailbox) -> None:
    account = await mailbox.source.account()
    assert account.head == await mailbox.source.head()
    assert [folder.folder_id for folder in account.folders] == [mailbox.inbox]
    assert dict(account.digests).get(mailbox.inbox, FolderDigest()) == FolderDigest()


async def test_the_summary_counts_what_is_there(mailbox: Mailbox) -> None:
    first, *_ = await fill(mailbox, 10, 20, 30)
    await mailbox.client.delete_item(first, purge=True)
    await mailbox.client.create_folder("A")
    summary = await mailbox.source.summary()
    assert (summary.folders, summary.items, summary.bytes) == (2, 2, 50)
    assert summary.head == await mailbox.source.head()


@pytest.mark.parametrize("seed", range(5))
async def test_the_account_is_what_the_items_add_up_to(mailbox: Mailbox, seed: int) -> None:
    user = MailboxUser.of(mailbox, Random(seed))
    for _ in range(80):
        await user.act()
    # What an item adds is known only when it has been read, where a kind keeps no digests: so the recount comes first.
    recount, account = await mailbox.source.recount(), await mailbox.source.account()
    counted = {folder_id: digest for folder_id, digest in account.digests if digest.items}
    assert counted == {folder_id: digest for folder_id, digest in recount.digests if digest.items}
    assert attrs.evolve(account, digests=()) == attrs.evolve(recount, digests=())
    assert await mailbox.source.summary() == attrs.evolve(
        await mailbox.source.summary(),
        items=sum(digest.items for digest in counted.values()),
        bytes=sum(digest.bytes for digest in counted.values()),
    )
