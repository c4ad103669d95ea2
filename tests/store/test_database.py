"""Opening, closing and making a database; reading from it."""

import shutil
from contextlib import suppress
from itertools import count
from pathlib import Path

import pytest
import trio
import trio.testing

import store
from store.database import create_database, open_database
from store.disk import Disk
from store.layout import Layout
from tests.support.crashing_disk import CrashingDisk, PowerLoss
from tests.support.store_world import ALICE, Inline, append, contents, inbox_of, make_mailbox, opened


async def test_a_database_is_made_once(tmp_path: Path) -> None:
    create_database(tmp_path / "db")
    with pytest.raises(store.Refused, match="already"):
        create_database(tmp_path / "db")
    async with opened(tmp_path / "db") as database:
        assert await database.mailboxes() == []
        with pytest.raises(store.Refused, match="already"):
            create_database(tmp_path / "db")


async def test_who_opens_or_makes_one_that_is_being_made_finds_it_busy(tmp_path: Path) -> None:
    tried = []

    class Watching(Disk):
        def replace(self, old: Path, new: Path) -> None:
            if new.name == "00000001.log":
                with pytest.raises(store.StoreBusy):
                    create_database(tmp_path / "db")
                other = Disk().open(Layout(tmp_path / "db").open_lock)
                tried.append(other.lock(exclusive=False, wait=False))
                other.close()
            super().replace(old, new)

    create_database(tmp_path / "db", disk=Watching())
    assert tried == [False]


@pytest.mark.parametrize("leaving", ["killed", "power loss"])
async def test_a_database_whose_making_was_cut_short_is_made_again(tmp_path: Path, leaving: str) -> None:
    """At any call, below folders that are new too; and once it is made it stays, whatever the machine does."""
    for stop_at in count(1):
        base = tmp_path / "disk"
        shutil.rmtree(base, ignore_errors=True)
        base.mkdir()
        path = base / "new" / "below" / "db"
        disk = CrashingDisk(stop_at=stop_at)
        disk.watch(base)
        with suppress(PowerLoss):
            create_database(path, disk=disk)
        stopped = disk.is_off
        if leaving == "killed":
            disk.kill()
        else:
            disk.power_off(0 if stop_at % 2 else 2000 + stop_at)
        if stopped:
            with suppress(store.Refused):  # it was made all the same
                create_database(path)
        async with opened(path) as database:
            await make_mailbox(database)
        if not stopped:
            return


async def test_a_database_that_lost_its_catalogue_or_its_log_is_not_made_again(tmp_path: Path) -> None:
    for lost in ("catalogue.sqlite", "log/00000001.log"):
        path = tmp_path / lost.replace("/", " ")
        async with opened(path) as database:
            await make_mailbox(database)
        (path / lost).unlink()
        with pytest.raises(store.Refused, match="already"):
            create_database(path)


async def test_where_there_is_no_database_opening_says_so(tmp_path: Path) -> None:
    with pytest.raises(store.StoreBroken, match="there is no database here"):
        async with open_database(tmp_path / "db", offload=Inline):
            raise AssertionError
    create_database(tmp_path / "db")
    Layout(tmp_path / "db").catalogue.unlink()
    with pytest.raises(store.StoreBroken, match="rebuild"):
        async with open_database(tmp_path / "db", offload=Inline):
            raise AssertionError


async def test_who_needs_it_alone_keeps_others_out_and_is_kept_out(tmp_path: Path) -> None:
    create_database(tmp_path / "db")
    lock = Disk().open(Layout(tmp_path / "db").open_lock)
    assert lock.lock(exclusive=True, wait=False)
    with pytest.raises(store.StoreBusy, match="alone"):
        async with opened(tmp_path / "db"):
            raise AssertionError
    lock.unlock()
    async with opened(tmp_path / "db"):
        assert not lock.lock(exclusive=True, wait=False)
    assert lock.lock(exclusive=True, wait=False)
    lock.close()


async def test_reading_and_waiting_after_closing_say_that_it_is_closed(tmp_path: Path) -> None:
    waited = []

    async def waits(database: store.Database) -> None:
        with pytest.raises(store.StoreClosed):
            await database.wait_change(ALICE, after=10)
        waited.append(True)

    async with trio.open_nursery() as nursery, opened(tmp_path / "db") as database:
        await make_mailbox(database)
        nursery.start_soon(waits, database)
        await trio.testing.wait_all_tasks_blocked(0.0005)
    assert waited == [True]
    with pytest.raises(store.StoreClosed):
        await database.info(ALICE)


async def test_closing_waits_for_reads_that_were_begun(tmp_path: Path) -> None:
    """In threads: a connection must not be closed under a read."""
    create_database(tmp_path / "db")
    begun, answers = trio.Event(), []

    async with trio.open_nursery() as nursery:
        token = trio.lowlevel.current_trio_token()
        async with open_database(tmp_path / "db") as database:
            await make_mailbox(database)
            ids = await append(database, *(b"%d" % number for number in range(50)))

            async def reads() -> None:
                def slow(reading: object) -> int:
                    token.run_sync_soon(begun.set)
                    return sum(len(reading.db.execute("SELECT * FROM item").fetchall()) for _ in range(200))  # type: ignore[attr-defined]

                answers.append(await database.read(slow))

            nursery.start_soon(reads)
            await begun.wait()
    assert answers == [200 * len(ids)]


async def test_a_page_of_bytes_is_bounded_and_has_one_item_at_least(tmp_path: Path) -> None:
    async with opened(tmp_path / "db") as database:
        await make_mailbox(database)
        await append(database, b"x" * 10, b"y" * 10, b"z" * 10)
        rows = await database.folder_items(ALICE, await inbox_of(database))
        assert len(await database.fetch(ALICE, rows, bytes_max=20)) == 2
        assert len(await database.fetch(ALICE, rows, bytes_max=1)) == 1
        assert await database.fetch(ALICE, []) == []


async def test_an_item_purged_meanwhile_comes_with_neither_bytes_nor_damage(tmp_path: Path) -> None:
    async with opened(tmp_path / "db") as database:
        mailbox = await make_mailbox(database)
        ids = await append(database, b"one")
        rows = await database.find(ALICE, ids)
        await mailbox.purge(ids)
        Layout(tmp_path / "db").segment(rows[0].segment).unlink()
        (fetched,) = await database.fetch(ALICE, rows)
        assert (fetched.content, fetched.damage) == (None, None)


async def test_pages_of_items_go_on_where_the_last_one_ended(tmp_path: Path) -> None:
    async with opened(tmp_path / "db") as database:
        await make_mailbox(database)
        inbox = await inbox_of(database)
        await append(database, *(b"%d" % number for number in range(7)))
        by_uid: list[int] = []
        while page := await database.folder_items(ALICE, inbox, after_uid=by_uid[-1] if by_uid else 0, limit=3):
            by_uid += [row.uid for row in page]
        after, by_id = b"", []
        while page := await database.items(ALICE, after=after, limit=3):
            after = page[-1].item_id
            by_id += [row.uid for row in page]
        assert by_uid == by_id == list(range(1, 8))
        assert len(await contents(database, inbox)) == 7
        with pytest.raises(store.NoSuchFolder):
            await database.folder_items(ALICE, store.FolderId(b"?" * 16))
