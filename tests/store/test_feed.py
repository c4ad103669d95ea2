"""The change feed: what differs since a modseq, in pages, across handles; and waiting for it to differ."""

from pathlib import Path

import apsw
import pytest
import trio
import trio.testing

import store
from store.database import Database
from store.records import FeedCut
from tests.support.store_world import ALICE, BOB, append, commit, inbox_of, make_mailbox, opened

CUSHION = 0.0005
"""Below the watch's period, or the tasks would never be seen blocked."""


async def head(database: Database) -> int:
    return (await database.info(ALICE)).head


async def test_many_changes_of_one_item_are_one_change(database: Database, mailbox: store.Mailbox) -> None:
    (item,) = await append(database, b"one")
    before = await head(database)
    for flags in range(1, 6):
        await mailbox.set_flags([item], flags)
    page = await database.feed(ALICE, after=before)
    assert [(row.item_id, row.flags, row.modseq) for row in page.items] == [(item, 5, before + 5)]
    assert (page.through, page.more, page.folders) == (before + 5, False, None)


async def test_a_page_says_everything_that_can_change(database: Database, mailbox: store.Mailbox) -> None:
    first, second = await append(database, b"one", b"two")
    before = await head(database)
    await mailbox.purge([first])
    await mailbox.set_flags([second], 1)
    await mailbox.set_setting("x-a", 1)
    await mailbox.deliver(b"mail", key=b"k")
    folder = await mailbox.create_folder(None, "Work")
    page = await database.feed(ALICE, after=before)
    assert [gone.id for gone in page.items_gone] == [first]
    assert second in [row.item_id for row in page.items]
    assert [(name, value) for name, value, _ in page.settings] == [("x-a", "1")]
    assert [row.key for row in page.delivery_keys] == [b"k"]
    assert page.folders is not None
    assert folder in [found.folder_id for found in page.folders]


async def test_a_removed_folder_is_a_change(database: Database, mailbox: store.Mailbox) -> None:
    folder = await mailbox.create_folder(None, "Work")
    before = await head(database)
    await mailbox.delete_folder(folder)
    page = await database.feed(ALICE, after=before)
    assert page.folders is not None
    assert folder not in [found.folder_id for found in page.folders]
    assert (await database.feed(ALICE, after=page.through)).folders is None


@pytest.mark.parametrize("limit", [1, 2, 3, 5, 100])
async def test_pages_join_without_a_gap_or_an_overlap(database: Database, mailbox: store.Mailbox, limit: int) -> None:
    items = await append(database, *(b"%d" % number for number in range(9)))
    await mailbox.purge(items[2:5])
    await mailbox.set_flags(items[7:], 1)
    await mailbox.set_setting("x-a", 1)
    await mailbox.deliver(b"mail", key=b"k")
    at, live, gone, others = 0, [], [], 0
    while True:
        page = await database.feed(ALICE, after=at, limit=limit)
        assert len(page.items) + len(page.items_gone) + len(page.settings) + len(page.delivery_keys) <= limit
        live += [row.item_id for row in page.items]
        gone += [row.id for row in page.items_gone]
        others += len(page.settings) + len(page.delivery_keys)
        assert page.through > at
        at = page.through
        if not page.more:
            break
    assert at == await head(database)
    assert sorted(live[:-1]) == sorted([*items[:2], *items[5:]])
    assert len(set(live)) == len(live)
    assert (gone, others) == (items[2:5], 2)


async def test_nothing_new_is_an_empty_page(database: Database, mailbox: store.Mailbox) -> None:
    at = await head(database)
    page = await database.feed(ALICE, after=at)
    assert (page.through, page.more, page.items, page.folders) == (at, False, (), None)


async def test_a_position_this_mailbox_never_had_is_refused(database: Database, mailbox: store.Mailbox) -> None:
    with pytest.raises(store.FeedTrimmed):
        await database.feed(ALICE, after=await head(database) + 1)
    with pytest.raises(store.NoSuchMailbox):
        await database.feed(BOB, after=0)


async def test_a_cut_feed_loses_no_live_item(database: Database, mailbox: store.Mailbox) -> None:
    """Only tombstones end at the horizon: an item moved before it is still told in its place."""
    first, second = await append(database, b"one", b"two")
    work = await mailbox.create_folder(None, "Work")
    before = await head(database)
    await mailbox.move([first], work)
    await mailbox.purge([second])
    await commit(database, FeedCut(ALICE, await head(database), 0))
    with pytest.raises(store.FeedTrimmed):
        await database.feed(ALICE, after=before)
    (row,) = await database.find(ALICE, [first])
    assert row.folder_id == work
    await mailbox.set_flags([first], 1)
    assert len((await database.feed(ALICE, after=(await database.info(ALICE)).horizon)).items) == 1


async def test_another_timeline_gets_feed_trimmed(database: Database, mailbox: store.Mailbox) -> None:
    database.signature = store.ids.Signature(b"another timeline")
    with pytest.raises(store.FeedTrimmed, match="timeline"):
        await database.feed(ALICE, after=0)


# ---- waiting


async def test_waiting_ends_at_once_where_there_is_more_already(database: Database, mailbox: store.Mailbox) -> None:
    await database.wait_change(ALICE, after=0)


async def test_waiting_ends_when_this_process_commits(database: Database, mailbox: store.Mailbox) -> None:
    at, woken = await head(database), []

    async def waits() -> None:
        await database.wait_change(ALICE, after=at)
        woken.append(await head(database))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(waits)
        await trio.testing.wait_all_tasks_blocked(CUSHION)
        assert woken == []
        await append(database, b"one")
    assert woken == [at + 1]


async def test_waiting_ends_when_another_process_commits(tmp_path: Path) -> None:
    async with opened(tmp_path / "db") as here, opened(tmp_path / "db") as there:
        await make_mailbox(there)
        for _ in range(5):  # again and again: the watch sleeps in between
            at = await head(here)
            async with trio.open_nursery() as nursery:
                for _ in range(3):
                    nursery.start_soon(lambda at=at: here.wait_change(ALICE, after=at))
                await trio.testing.wait_all_tasks_blocked(CUSHION)
                await append(there, b"one")
            assert await head(here) == at + 1


async def test_a_commit_between_looking_and_waiting_is_not_missed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other process commits at the worst moment: after the head was read, before the wait began."""
    async with opened(tmp_path / "db") as here, opened(tmp_path / "db") as there:
        await make_mailbox(there)
        at = await head(here)
        original = Database.info

        async def looks_then_loses_the_race(database: Database, instance: store.InstanceId) -> store.MailboxInfo:
            found = await original(database, instance)
            if found.head == at:
                await append(there, b"one")
            return found

        monkeypatch.setattr(Database, "info", looks_then_loses_the_race)
        with trio.fail_after(5):
            await here.wait_change(ALICE, after=at)


async def test_a_change_of_another_mailbox_does_not_end_the_wait(database: Database, mailbox: store.Mailbox) -> None:
    other = await make_mailbox(database, BOB)
    at = await head(database)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(lambda: database.wait_change(ALICE, after=at))
        for number in range(3):
            await other.deliver(b"mail", key=b"%d" % number)
            await trio.testing.wait_all_tasks_blocked(CUSHION)
        assert len(nursery.child_tasks) == 1
        nursery.cancel_scope.cancel()


async def test_a_cancelled_wait_leaves_the_watch_asleep(database: Database, mailbox: store.Mailbox) -> None:
    at = await head(database)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(lambda: database.wait_change(ALICE, after=at))
        await trio.testing.wait_all_tasks_blocked(CUSHION)
        assert database._watch._waiting == 1
        nursery.cancel_scope.cancel()
    assert database._watch._waiting == 0


async def test_locking_is_a_change_with_a_modseq_of_its_own(database: Database, mailbox: store.Mailbox) -> None:
    """Drained means: the watermark is at the lock's own change number or beyond."""
    await append(database, b"one")
    before = await head(database)
    locked = await database.mover(ALICE).lock(1)
    assert locked == before + 1
    assert (await database.feed(ALICE, after=before)).through == locked
    assert await database.mover(ALICE).lock(2) == locked
    assert await inbox_of(database)


async def test_a_catalogue_that_cannot_be_read_for_a_moment_is_a_change_and_ends_nothing(
    database: Database, mailbox: store.Mailbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not the database's tasks, which are everybody's: whoever waits looks for himself."""
    at = await head(database)
    watch = database._watch
    broken = apsw.Connection(":memory:")
    broken.close()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(lambda: database.wait_change(ALICE, after=at))
        await trio.testing.wait_all_tasks_blocked(CUSHION)
        armed = watch.armed()
        with monkeypatch.context() as patches, trio.fail_after(5):
            patches.setattr(watch, "_db", broken)
            await armed.wait()
            await trio.testing.wait_all_tasks_blocked(CUSHION)
        assert len(nursery.child_tasks) == 1
        await append(database, b"one")
