"""Checkpoints: sealed copies to rebuild from, and what the log may lose because of them."""

import threading
from pathlib import Path

import pytest

import store
from store.catalogue.schema import open_catalogue
from store.database import Database
from store.disk import Disk
from store.errors import Corruption
from store.layout import Layout
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


@pytest.mark.parametrize("seal", [b"", b"\xc1", b"\x93\x01\x02\x03", b"not a seal at all"])
async def test_a_seal_that_cannot_be_read_does_not_count(
    database: Database, mailbox: store.Mailbox, tmp_path: Path, seal: bytes
) -> None:
    made = await database.checkpoint()
    made.path.with_suffix(".seal").write_bytes(seal)
    assert checkpoints(Disk(), Layout(tmp_path / "db")) == []


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
