"""A rebuild, stopped at every call of the disk, SQLite's included: killed, or by power loss.

What the database was left in is what a rebuild is for: a process was killed with much of the catalogue in SQLite's
write-ahead log, or in the middle of folding it. Afterwards it opens with all that was acknowledged, or says that the
catalogue is missing, and the rebuild that is begun again makes it. `MOVERQ_CRASH_FULL=1` stops at every call.
"""

import os
import shutil
from collections.abc import Iterator
from contextlib import suppress
from itertools import count
from pathlib import Path

import pytest

import store
from store.catalogue.schema import is_durable
from store.check import check_database
from store.rebuild import rebuild_database
from tests.crash.test_power_loss import OFFSET
from tests.support.crashing_disk import CrashingDisk, PowerLoss, QuickDisk
from tests.support.crashing_sqlite import Seam, seam
from tests.support.store_world import ALICE, append, make_mailbox, opened

pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
FULL = os.environ.get("MOVERQ_CRASH_FULL") == "1"
KILLED, LOST, KEPT = None, 0, 1


@pytest.fixture
def sqlite() -> Iterator[Seam]:
    with seam() as plugged:
        yield plugged


async def killed_before_a_fold(path: Path) -> None:
    """At `path`, as kill -9 leaves it: a checkpoint, and changes since in the write-ahead log alone."""
    alive = path.with_name("alive")
    async with opened(alive, disk=QuickDisk()) as database:
        await make_mailbox(database)
        await append(database, *(b"old %d" % number for number in range(300)))
        await database.checkpoint()
        rows = await database.items(ALICE)
        await database.mailbox(ALICE).purge([row.item_id for row in rows[:100]])
        assert is_durable(database._committer._db)
        await database.mailbox(ALICE).set_flags([row.item_id for row in rows[100::20]], 7)
        await append(database, b"one more, acknowledged")
        shutil.copytree(alive, path)
    (path / "catalogue.sqlite-shm").unlink()
    assert (path / "catalogue.sqlite-wal").stat().st_size > 0


async def killed_in_a_fold(sqlite: Seam, path: Path) -> None:
    """The same, with a part of the write-ahead log moved into the catalogue's file."""
    await killed_before_a_fold(path)
    disk = CrashingDisk(with_sqlite=True)
    disk.watch(path)
    sqlite.disk = disk
    with suppress(BaseException):
        async with opened(path, disk=disk) as database:
            disk.stop_at = disk.calls + 8
            with suppress(BaseException):
                is_durable(database._committer._db)
            assert disk.is_off
            raise PowerLoss
    sqlite.disk = None
    disk.kill()
    (path / "catalogue.sqlite-shm").unlink(missing_ok=True)


def rebuild_stopped(sqlite: Seam, path: Path, stop_at: int, leaving: int | None, *, from_content: bool = False) -> bool:
    """Has it stopped there? If not, it ran through."""
    disk = CrashingDisk(stop_at=stop_at, with_sqlite=True)
    disk.watch(path)
    sqlite.disk = disk
    try:
        with suppress(PowerLoss, store.StoreError):
            rebuild_database(path, disk=disk, from_content=from_content)
        stopped = disk.is_off
    finally:
        sqlite.disk = None
    if leaving is KILLED:
        disk.kill()
    else:
        disk.power_off(leaving if leaving <= KEPT else leaving * 1000 + stop_at)
    return stopped


async def held(path: Path) -> list[tuple[int, int]]:
    async with opened(path, disk=QuickDisk()) as database:
        return [(row.uid, row.flags) for row in await database.items(ALICE)]


@pytest.mark.parametrize("state", ["killed before a fold", "killed in a fold", "killed in a fold, and not opened"])
async def test_a_rebuild_that_is_cut_short_loses_nothing(
    sqlite: Seam, tmp_path: Path, state: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A rebuild opens the old catalogue, if it can, to see how far it is, and SQLite then ends the fold."""
    if "not opened" in state:
        monkeypatch.setattr("store.rebuild._seen", lambda *_: None)
    template, path = tmp_path / "template", tmp_path / "db"
    await (killed_before_a_fold(template) if state == "killed before a fold" else killed_in_a_fold(sqlite, template))
    shutil.copytree(template, path)
    expected = await held(path)
    assert len(expected) == 201
    stride, missing = 1 if FULL else 7, 0
    for leaving in (KILLED, LOST, KEPT, 2, 3):
        for stop_at in count(1 + OFFSET % stride, stride):
            shutil.rmtree(path)
            shutil.copytree(template, path)
            stopped = rebuild_stopped(sqlite, path, stop_at, leaving)
            try:
                if not (path / "catalogue.sqlite").exists():
                    missing += 1
                    with pytest.raises(store.StoreBroken, match="the catalogue is missing"):
                        async with store.open_database(path):
                            pass
                    rebuild_database(path)
                assert await held(path) == expected
                assert check_database(path).problems == []
            except BaseException as error:
                error.add_note(f"stopped at call {stop_at}, leaving {leaving}")
                raise
            if not stopped:
                break
    assert missing


@pytest.mark.parametrize("leaving", [KILLED, LOST, KEPT, 2])
async def test_a_rebuild_from_content_that_is_cut_short_leaves_the_old_database_or_begins_again(
    sqlite: Seam, tmp_path: Path, leaving: int | None
) -> None:
    """Between the two, while file by file takes its place, everybody is told to begin it again."""
    template, path = tmp_path / "template", tmp_path / "db"
    await killed_before_a_fold(template)
    shutil.copytree(template, path)
    expected = await held(path)
    stride, told = 1 if FULL else 3, 0
    for stop_at in count(1 + OFFSET % stride, stride):
        shutil.rmtree(path)
        shutil.copytree(template, path)
        stopped = rebuild_stopped(sqlite, path, stop_at, leaving, from_content=True)
        if not stopped:
            break
        try:
            if (path / "from-content").exists():
                told += 1
                for refused in (rebuild_database, check_database, store.create_database):
                    with pytest.raises((store.StoreBroken, store.Refused)):
                        refused(path)
                with pytest.raises(store.StoreBroken, match="cut short; begin it again"):
                    async with store.open_database(path):
                        pass
                assert rebuild_database(path, from_content=True).items == 301
            elif await held(path) != expected:
                assert len(await held(path)) == 301  # it has just been done
            assert check_database(path).problems == []
            assert not (path / "from-content").exists()
        except BaseException as error:
            error.add_note(f"stopped at call {stop_at}")
            raise
    assert told
