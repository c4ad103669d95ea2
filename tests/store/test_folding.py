"""Folding SQLite's write-ahead log into the catalogue: beside the commits, and never so that one fails."""

import threading
from pathlib import Path

import apsw
import pytest
import trio

import store
from store.catalogue.schema import open_catalogue
from store.database import Database, open_database
from store.folding import Folding
from store.layout import Layout
from store.offload import InThread
from tests.support.store_world import ALICE, check_sound, make_mailbox, opened

PAGES = 40


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("store.folding.FOLD_PAGES", PAGES)


def pages_of(path: Path) -> tuple[int, int]:
    """In the write-ahead log, and how many of them are in the file already."""
    connection = open_catalogue(Layout(path).catalogue)
    try:
        return connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_NOOP)
    finally:
        connection.close()


async def deliver(database: Database, number: int, *, first: int = 0) -> None:
    mailbox = database.mailbox(ALICE)
    for at in range(first, first + number):
        await mailbox.deliver(b"%d" % at, key=b"%d" % at)


async def count(database: Database) -> int:
    return len(await database.items(ALICE))


async def test_the_log_stays_small_however_long_deliveries_go_on(tmp_path: Path) -> None:
    async with opened(tmp_path / "DB") as database:
        await make_mailbox(database)
        sizes = []
        for first in range(0, 200, 20):
            await deliver(database, 20, first=first)
            sizes.append(pages_of(tmp_path / "DB")[0])
        assert max(sizes) < 3 * PAGES, "a delivery is some ten pages, so without folding there are two thousand"
        assert await count(database) == 200
    check_sound(tmp_path / "DB")


async def test_commits_go_on_while_a_pass_is_going_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    begun, go_on = threading.Event(), threading.Event()
    fold_beside = Folding._fold_beside

    def held_up(self: Folding) -> None:
        begun.set()
        assert go_on.wait(10)
        fold_beside(self)

    monkeypatch.setattr(Folding, "_fold_beside", held_up)
    store.create_database(tmp_path / "DB")
    async with open_database(tmp_path / "DB", offload=InThread) as database:
        await make_mailbox(database)
        with trio.fail_after(10):
            await deliver(database, 60)
            assert begun.is_set()
            assert pages_of(tmp_path / "DB")[0] > 3 * PAGES, "no commit folded anything"
            go_on.set()
            at = 60
            while pages_of(tmp_path / "DB")[0] > PAGES:
                await deliver(database, 1, first=at)
                at += 1
        assert await count(database) == at


async def test_a_reader_in_the_way_holds_up_no_commit(tmp_path: Path) -> None:
    """Its snapshot needs the log: what comes after it stays there, until it is gone."""
    async with opened(tmp_path / "DB") as database:
        await make_mailbox(database)
        reader = open_catalogue(Layout(tmp_path / "DB").catalogue)
        with reader:
            assert reader.execute("SELECT count(*) FROM item").get == 0
            await deliver(database, 40)
            pages, moved = pages_of(tmp_path / "DB")
            assert pages > 3 * PAGES > moved
            assert reader.execute("SELECT count(*) FROM item").get == 0
        reader.close()
        await deliver(database, 40, first=40)
        assert pages_of(tmp_path / "DB")[0] < 3 * PAGES
        assert await count(database) == 80


@pytest.mark.parametrize("error", [apsw.BusyError, apsw.IOError, apsw.FullError])
async def test_a_pass_that_fails_is_tried_again_when_the_log_has_grown_as_much(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: type[apsw.Error]
) -> None:
    """Another process is at it, or the disk is in trouble: the commits go on, and do not try at each turn."""
    tried = 0

    def failing(connection: apsw.Connection) -> bool:
        nonlocal tried
        tried += 1
        raise error("not now")

    async with opened(tmp_path / "DB") as database:
        await make_mailbox(database)
        with monkeypatch.context() as patched:
            patched.setattr("store.folding.is_durable", failing)
            await deliver(database, 60)
        pages, _ = pages_of(tmp_path / "DB")
        assert pages > 3 * PAGES
        assert 2 * 3 <= tried <= 2 * pages // PAGES, "beside the commits and with the mutex, once for so many pages"
        await deliver(database, 20, first=60)
        assert pages_of(tmp_path / "DB")[0] < 3 * PAGES
        assert await count(database) == 80
