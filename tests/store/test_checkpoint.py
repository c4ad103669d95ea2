"""Checkpoints: sealed copies to rebuild from, and what the log may lose because of them."""

import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import store
from store.catalogue.schema import open_catalogue
from store.database import Database
from store.disk import Disk, File
from store.errors import Corruption, StoreFull
from store.layout import Layout
from store.limits import GENERATION_BYTES_MAX, READ_CACHE_BYTES
from store.log.checkpoint import checkpoints, make_checkpoint, verify
from tests.support.store_world import append, check_sound, make_mailbox, opened, replayed


@pytest.fixture(autouse=True)
def small_generations(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("store.log.log.GENERATION_BYTES_MAX", 2048)


def generations(path: Path) -> list[str]:
    return sorted(found.name for found in Layout(path).log.iterdir())


async def test_a_checkpoint_stands_where_the_catalogue_stood(
    database: Database, mailbox: store.Mailbox, tmp_path: Path
) -> None:
    await append(database, b"one")
    before = await database.statistics()
    made = await database.checkpoint()
    assert (made.head.position.generation, made.head.position.offset) == (before.generation, before.offset)
    assert checkpoints(Disk(), Layout(tmp_path / "db")) == [made]
    verify(Disk(), made)


async def test_the_newest_two_are_kept_and_the_log_is_trimmed_below_the_older(
    database: Database, mailbox: store.Mailbox, tmp_path: Path
) -> None:
    path, made = tmp_path / "db", []
    for number in range(4):
        for _ in range(3):
            await append(database, b"%d" % number)
        made.append(await database.checkpoint())
    assert checkpoints(Disk(), Layout(path)) == made[-2:]
    oldest = made[-2].head.position.generation
    assert oldest > 1
    assert generations(path)[0] == f"{oldest:08d}.log"
    check_sound(path)  # from the older checkpoint and the log
    assert sorted(found.suffix for found in Layout(path).checkpoints.iterdir()) == [
        "",
        *[".seal"] * 2,
        *[".sqlite"] * 2,
    ]


async def test_one_checkpoint_trims_nothing(database: Database, mailbox: store.Mailbox, tmp_path: Path) -> None:
    for _ in range(6):
        await append(database, b"x")
    await database.checkpoint()
    await database.checkpoint()  # nothing happened since: the same one
    assert len(checkpoints(Disk(), Layout(tmp_path / "db"))) == 1
    assert generations(tmp_path / "db")[0] == "00000001.log"


async def test_the_log_is_kept_while_the_catalogue_itself_may_still_need_it(
    database: Database, mailbox: store.Mailbox, tmp_path: Path
) -> None:
    """A reader's snapshot keeps SQLite from making the catalogue durable; then trimming waits for another time."""
    snapshot = open_catalogue(Layout(tmp_path / "db").catalogue)
    snapshot.execute("BEGIN")
    snapshot.execute("SELECT * FROM meta").fetchall()
    for _ in range(3):
        for _ in range(4):
            await append(database, b"x")
        await database.checkpoint()
    assert generations(tmp_path / "db")[0] == "00000001.log"
    snapshot.execute("COMMIT")
    await append(database, b"x")
    await database.checkpoint()
    assert generations(tmp_path / "db")[0] > "00000001.log"
    snapshot.close()


async def test_an_unsealed_copy_does_not_count_and_is_removed_by_the_next(
    database: Database, mailbox: store.Mailbox, tmp_path: Path
) -> None:
    layout = Layout(tmp_path / "db")
    made = await database.checkpoint()
    made.path.with_suffix(".seal").unlink()
    (layout.checkpoints / "new.sqlite").write_bytes(b"half")
    (layout.checkpoints / "other.sealing").write_bytes(b"half")
    assert checkpoints(Disk(), layout) == []
    await append(database, b"one")
    again = await database.checkpoint()
    assert {found.name for found in layout.checkpoints.iterdir()} == {
        "lock",
        again.path.name,
        again.path.with_suffix(".seal").name,
    }


@pytest.mark.parametrize("damage", ["flip", "cut", "gone"])
async def test_a_damaged_copy_is_found_by_its_seal_and_made_anew(
    database: Database, mailbox: store.Mailbox, damage: str
) -> None:
    made = await database.checkpoint()
    content = bytearray(made.path.read_bytes())
    if damage == "gone":
        made.path.unlink()
    else:
        content[len(content) // 2] ^= 1
        made.path.write_bytes(content if damage == "flip" else content[:-1])
    with pytest.raises(Corruption, match=r"\.sqlite is damaged at byte 0"):
        verify(Disk(), made)
    verify(Disk(), await database.checkpoint())


async def test_a_damaged_copy_counts_for_none_of_the_two_that_are_kept(
    database: Database, mailbox: store.Mailbox, tmp_path: Path
) -> None:
    path, made = tmp_path / "db", []
    for number in range(3):
        for _ in range(6):
            await append(database, b"%d" % number)
        made.append(await database.checkpoint())
        if number == 1:
            made[1].path.write_bytes(b"rotten")
    assert checkpoints(Disk(), Layout(path)) == made
    oldest = made[0].head.position.generation
    assert generations(path)[0] <= f"{oldest:08d}.log", (
        "the oldest, and then the log, is what is left without the newest"
    )
    for _ in range(6):
        await append(database, b"3")
    made.append(await database.checkpoint())
    assert checkpoints(Disk(), Layout(path)) == made[2:]


async def test_a_checkpoint_is_made_while_another_process_folds(
    database: Database, mailbox: store.Mailbox, tmp_path: Path
) -> None:
    """It holds the lock on SQLite's own checkpointing: the log is trimmed another time."""
    shared = Layout(tmp_path / "db").root / "catalogue.sqlite-shm"
    with another_folds(shared):
        verify(Disk(), await database.checkpoint())


@contextmanager
def another_folds(shared: Path) -> Iterator[None]:
    holds = (
        "import fcntl, sys; file = open(sys.argv[1], 'r+b'); fcntl.lockf(file, fcntl.LOCK_EX, 1, 121);"
        "print(flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", holds, str(shared)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdin is not None
        assert holder.stdout is not None
        holder.stdout.readline()
        yield
        holder.stdin.close()


@pytest.mark.parametrize("seal", [b"", b"\xc1", b"\x93\x01\x02\x03", b"not a seal at all"])
async def test_a_seal_that_cannot_be_read_does_not_count(
    database: Database, mailbox: store.Mailbox, tmp_path: Path, seal: bytes
) -> None:
    made = await database.checkpoint()
    made.path.with_suffix(".seal").write_bytes(seal)
    assert checkpoints(Disk(), Layout(tmp_path / "db")) == []


async def test_a_catalogue_larger_than_a_readers_page_cache_is_copied(tmp_path: Path) -> None:
    path = tmp_path / "db"
    async with opened(path) as database:
        await make_mailbox(database)
        for _ in range(12):
            await append(database, *(b"x" for _ in range(1000)))
    async with opened(path) as database:
        made = await database.checkpoint()
    verify(Disk(), made)
    assert made.size > READ_CACHE_BYTES
    copy = open_catalogue(made.path)
    assert copy.execute("PRAGMA integrity_check").get == "ok"
    assert copy.execute("SELECT count(*) FROM item").get == 12_000
    copy.close()
    check_sound(path)


class SmallDisk(Disk):
    free = 0

    def free_bytes(self, folder: Path) -> int:
        return self.free


async def test_a_checkpoint_leaves_the_log_its_room(database: Database, mailbox: store.Mailbox, tmp_path: Path) -> None:
    layout, disk = Layout(tmp_path / "db"), SmallDisk()
    db = open_catalogue(layout.catalogue)
    disk.free = GENERATION_BYTES_MAX
    with pytest.raises(StoreFull, match="no room for the log"):
        make_checkpoint(disk, layout, db)
    assert disk.names(layout.checkpoints) == ["lock"]
    disk.free += layout.catalogue.stat().st_size + 2**20
    verify(disk, make_checkpoint(disk, layout, db))
    db.close()


async def test_a_draft_that_fails_gives_its_room_back(
    database: Database, mailbox: store.Mailbox, tmp_path: Path
) -> None:
    class FullDisk(Disk):
        def open(self, path: Path, *, create: bool = False, exclusive: bool = False, readonly: bool = False) -> File:
            if path.suffix == ".sealing":
                raise StoreFull(path=str(path), why="the disk is full")
            return super().open(path, create=create, exclusive=exclusive, readonly=readonly)

    layout = Layout(tmp_path / "db")
    db = open_catalogue(layout.catalogue)
    with pytest.raises(StoreFull):
        make_checkpoint(FullDisk(), layout, db)
    assert Disk().names(layout.checkpoints) == ["lock"]
    db.close()


async def test_two_at_once_do_not_seal_a_mixture(tmp_path: Path) -> None:
    path = tmp_path / "db"
    async with opened(path) as database:
        await make_mailbox(database)
        await append(database, *(b"%d" % number for number in range(500)))
    errors: list[BaseException] = []

    def makes() -> None:
        db = open_catalogue(Layout(path).catalogue)
        try:
            for _ in range(5):
                verify(Disk(), make_checkpoint(Disk(), Layout(path), db))
        except BaseException as error:
            errors.append(error)
        finally:
            db.close()

    threads = [threading.Thread(target=makes) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    replayed(path).close()
