"""A check finds all damage and only damage; a rebuild makes the same catalogue again, or says what is unknown."""

import os
import shutil
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

import store
from store.catalogue.compare import differences
from store.catalogue.schema import open_catalogue, read_applied
from store.check import check_database
from store.content.segment import HEADER_BYTES
from store.disk import Disk, File
from store.frame import padded
from store.ids import LogPosition
from store.layout import Layout, generation_numbers
from store.limits import BLOCK
from store.log.checkpoint import checkpoints
from store.rebuild import rebuild_database
from store.records import ItemRow
from tests.support.move_world import Inline

INSTANCE = store.InstanceId(b"instance-of-ada.")


@asynccontextmanager
async def opened(path: Path) -> AsyncIterator[store.Database]:
    async with store.open_database(path, offload=Inline) as database:
        yield database


async def filled(path: Path, *, checkpoint: bool = False) -> Path:
    """A database with a mailbox in which most things have happened."""
    store.create_database(path)
    async with opened(path) as database:
        await database.create_mailbox(store.MailboxId(b"m" * 16), INSTANCE)
        mailbox = database.mailbox(INSTANCE)
        _, (inbox,), _ = await database.account(INSTANCE)
        added = await mailbox.append(
            inbox.folder_id,
            [store.NewItem(content=b"Subject: %d\r\n\r\n" % n + b"x" * 100 * n, received_ms=n) for n in range(20)],
        )
        ids = [item.item_id for item in added if item.item_id is not None]
        archive = await mailbox.create_folder(None, "Archive", special_use="\\Archive", attributes={"colour": "red"})
        await mailbox.move(ids[:5], archive)
        if checkpoint:
            await database.checkpoint()
        await mailbox.copy(ids[5:7], archive)
        await mailbox.change_flags(ids[3:9], add=1, add_keywords=["$Work"])
        await mailbox.delete(ids[9:11])
        await mailbox.purge(ids[11:13])
        await mailbox.deliver(b"Subject: delivered\r\n\r\n", key=b"key")
        await mailbox.set_setting("quota_bytes", 1 << 30)
    return path


async def contents(path: Path) -> dict[bytes, bytes | None]:
    async with opened(path) as database:
        rows = await database.items(INSTANCE)
        return {item.row.item_id: item.content for item in await database.fetch(INSTANCE, rows)}


def copy_of_catalogue(path: Path, to: Path) -> Path:
    db = open_catalogue(Layout(path).catalogue)
    db.execute("VACUUM INTO ?", (str(to),))
    db.close()
    return to


def flip(path: Path, offset: int) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        byte = file.read(1)
        file.seek(offset)
        file.write(bytes([byte[0] ^ 0x10]))


async def test_a_sound_database_has_no_problems(tmp_path: Path) -> None:
    report = check_database(await filled(tmp_path / "db"))
    assert report.problems == []
    assert (report.mailboxes, report.items, report.generations) == (1, 21, 1)
    assert not list((tmp_path / "db").glob("check*.tmp"))


async def test_a_database_can_be_checked_while_it_is_in_use(tmp_path: Path) -> None:
    path = await filled(tmp_path / "db")
    async with opened(path) as database:
        assert check_database(path).ok
        await database.mailbox(INSTANCE).deliver(b"later", key=b"later")
        assert check_database(path).ok


class Meanwhile(Disk):
    """Once, before the first such file is opened, another process does `work`, from its beginning to its end."""

    def __init__(self, suffix: str, work: Callable[[], Awaitable[None]]) -> None:
        self.suffix, self.work, self.done = suffix, work, False

    def open(self, path: Path, *, create: bool = False, exclusive: bool = False, readonly: bool = False) -> File:
        if path.suffix == self.suffix and not self.done:
            self.done = True
            other = threading.Thread(target=trio.run, args=(self.work,))
            other.start()
            other.join()
        return super().open(path, create=create, exclusive=exclusive, readonly=readonly)


@pytest.mark.parametrize("suffix", [".seal", ".sqlite", ".log", ".seg"])
async def test_a_check_finds_no_damage_in_what_upkeep_would_remove(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str
) -> None:
    """Old log, an old checkpoint, a segment that has just lost its last item."""
    monkeypatch.setattr("store.log.log.GENERATION_BYTES_MAX", 4096)
    monkeypatch.setattr("store.content.pool.SEGMENT_BYTES_MAX", 4096)
    path = await filled(tmp_path / "db")
    for turn in range(2):
        async with opened(path) as database:
            mailbox = database.mailbox(INSTANCE)
            await database.checkpoint()
            for number in range(20):
                await mailbox.deliver(b"%d" % number * 4000, key=b"%d %d" % (turn, number))

    async def upkeep() -> None:
        async with opened(path) as other:
            rows = await other.items(INSTANCE)
            await other.mailbox(INSTANCE).purge([row.item_id for row in rows[-30:]])
            await other.maintain()
            await other.checkpoint()

    def files() -> set[Path]:
        return {found for found in path.rglob("*") if found.suffix in (".log", ".seg", ".seal")}

    before = files()
    disk = Meanwhile(suffix, upkeep)
    assert check_database(path, disk=disk).problems == []
    assert disk.done
    assert before <= files()
    await upkeep()
    assert not before <= files(), "it was held only for as long as the check took"
    assert check_database(path).ok


async def test_two_checks_at_once_do_not_mix(tmp_path: Path) -> None:
    path = await filled(tmp_path / "db")

    async def check() -> None:
        assert check_database(path).problems == []

    disk = Meanwhile(".log", check)
    assert check_database(path, disk=disk).problems == []
    assert disk.done


async def test_a_check_removes_what_one_that_was_killed_left(tmp_path: Path) -> None:
    path = await filled(tmp_path / "db")
    (path / "check-1234.tmp").mkdir()
    (path / "check-1234.tmp" / "catalogue.sqlite").write_bytes(b"half")
    assert check_database(path).ok
    assert not list(path.glob("check*.tmp"))


async def test_every_damaged_item_is_named(tmp_path: Path) -> None:
    path = await filled(tmp_path / "db")
    async with opened(path) as database:
        rows = await database.items(INSTANCE)
    damaged = [row for row in rows if row.size > 100][:2]
    for row in damaged:
        flip(Layout(path).segment(row.segment), row.offset + HEADER_BYTES + 50)
    report = check_database(path)
    for row in damaged:
        assert any(row.item_id.hex() in problem for problem in report.problems)
    assert not report.ok


async def test_damage_anywhere_in_the_acknowledged_log_is_found(tmp_path: Path) -> None:
    path = await filled(tmp_path / "db")
    log = Layout(path).generation(1)
    async with opened(path) as database:
        end = (await database.statistics()).offset
    for offset in (*range(0, 100, 7), *range(BLOCK, end, padded(257))):
        shutil.copyfile(log, tmp_path / "sound")
        flip(log, offset)
        assert not check_database(path).ok, f"a flipped bit at {offset} went unseen"
        shutil.copyfile(tmp_path / "sound", log)
    assert check_database(path).ok


async def test_a_catalogue_that_is_not_what_the_log_says_is_found(tmp_path: Path) -> None:
    path = await filled(tmp_path / "db")
    db = open_catalogue(Layout(path).catalogue)
    db.execute("UPDATE item SET flags = flags + 2 WHERE uid = 8")
    db.close()
    report = check_database(path)
    assert any("the catalogue is not what the log says" in problem for problem in report.problems)
    assert any("its sums are not those of its items" in problem for problem in report.problems)


@pytest.mark.parametrize("checkpoint", [False, True], ids=["from the log", "from a checkpoint"])
async def test_a_rebuilt_catalogue_is_the_one_that_was_lost(tmp_path: Path, checkpoint: bool) -> None:
    path = await filled(tmp_path / "db", checkpoint=checkpoint)
    lost, before = copy_of_catalogue(path, tmp_path / "lost.sqlite"), await contents(path)
    Layout(path).catalogue.unlink()
    with pytest.raises(store.StoreBroken, match="rebuild"):
        async with opened(path):
            pass
    report = rebuild_database(path)
    assert ("checkpoint" in report.source) is checkpoint
    assert (report.mailboxes, report.items, report.unknown) == (1, 21, [])
    old, new = open_catalogue(lost), open_catalogue(Layout(path).catalogue)
    assert differences(old, new) == []
    old.close()
    new.close()
    assert await contents(path) == before
    assert check_database(path).ok


async def test_a_rebuilt_database_goes_on_where_it_was(tmp_path: Path) -> None:
    path = await filled(tmp_path / "db")
    Layout(path).catalogue.unlink()
    rebuild_database(path)
    async with opened(path) as database:
        mailbox = database.mailbox(INSTANCE)
        assert (await mailbox.deliver(b"Subject: delivered\r\n\r\n", key=b"key")).duplicate
        assert not (await mailbox.deliver(b"new", key=b"new")).duplicate
    assert check_database(path).ok


async def test_a_damaged_checkpoint_is_passed_over_and_named(tmp_path: Path) -> None:
    path = await filled(tmp_path / "db", checkpoint=True)
    (copied,) = [name for name in os.listdir(Layout(path).checkpoints) if name.endswith(".sqlite")]
    flip(Layout(path).checkpoints / copied, 9000)
    assert any(copied in problem for problem in check_database(path).problems)
    report = rebuild_database(path)
    assert report.source == "the log from its beginning"
    assert copied in report.damage[0]


async def test_a_rebuild_does_not_guess_behind_a_damaged_log(tmp_path: Path) -> None:
    path = await filled(tmp_path / "db")
    before = await contents(path)
    flip(Layout(path).generation(1), BLOCK + 80)
    with pytest.raises(store.Corruption):
        rebuild_database(path)
    assert Layout(path).catalogue.exists()
    flip(Layout(path).generation(1), BLOCK + 80)
    assert await contents(path) == before


async def end_of_log(path: Path) -> LogPosition:
    db = open_catalogue(Layout(path).catalogue)
    try:
        return read_applied(db)[1].position
    finally:
        db.close()


async def test_a_rebuild_cuts_nothing_that_was_acknowledged(tmp_path: Path) -> None:
    """The last frame rots. By itself it looks like a torn tail; the catalogue has seen it."""
    path = await filled(tmp_path / "db")
    end = await end_of_log(path)
    async with opened(path) as database:
        await database.mailbox(INSTANCE).deliver(b"the last one", key=b"last")
    log, before = Layout(path).generation(end.generation), await contents(path)
    flip(log, end.offset + 100)
    damaged = log.read_bytes()
    with pytest.raises(store.Corruption, match="acknowledged"):
        rebuild_database(path)
    assert log.read_bytes() == damaged
    assert await contents(path) == before
    async with opened(path) as database:
        await database.checkpoint()  # the way out: what the catalogue knows no longer needs that piece of the log
    Layout(path).catalogue.unlink()
    rebuild_database(path)
    assert await contents(path) == before


async def test_a_rebuild_cuts_nothing_that_a_checkpoint_has_seen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catalogue and newest generations are lost; a checkpoint, which needs them, says that they were there."""
    monkeypatch.setattr("store.log.log.GENERATION_BYTES_MAX", 2048)
    path = await filled(tmp_path / "db", checkpoint=True)
    (made,) = checkpoints(Disk(), Layout(path))
    assert made.head.position.generation > 1
    Layout(path).catalogue.unlink()
    for number in generation_numbers(os.listdir(Layout(path).log)):
        if number >= made.head.position.generation:
            Layout(path).generation(number).unlink()
    with pytest.raises(store.Corruption, match=f"go on to {made.head.position}"):
        rebuild_database(path)


async def test_a_torn_tail_that_nobody_has_seen_is_cut_by_a_rebuild(tmp_path: Path) -> None:
    path = await filled(tmp_path / "db")
    before, end = await contents(path), await end_of_log(path)
    log = Layout(path).generation(end.generation)
    with log.open("r+b") as file:
        file.seek(end.offset)
        file.write(b"torn" * 200)
    rebuild_database(path)
    assert await contents(path) == before
    assert not log.read_bytes()[end.offset :].strip(b"\0")


async def test_the_old_catalogue_goes_before_its_write_ahead_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may be a mixture without it. Each step is synced before the next."""
    monkeypatch.setattr(
        "store.rebuild._seen", lambda *_: None
    )  # which has SQLite fold the one into the other, if it can
    path = await filled(tmp_path / "db")
    (path / "catalogue.sqlite-wal").write_bytes(b"left by a process that was killed")
    steps: list[str] = []

    class Watching(Disk):
        def remove(self, gone: Path) -> None:
            if gone.exists():
                steps.append(f"remove {gone.name}")
            super().remove(gone)

        def replace(self, old: Path, new: Path) -> None:
            steps.append(f"replace {new.name}")
            super().replace(old, new)

        def sync_folder(self, folder: Path) -> None:
            if folder == path:
                steps.append("sync")
            super().sync_folder(folder)

    rebuild_database(path, disk=Watching())
    begin = steps.index("remove catalogue.sqlite")
    assert steps[begin:] == [
        "remove catalogue.sqlite", "sync", "remove catalogue.sqlite-wal", "sync", "replace catalogue.sqlite", "sync",
    ]  # fmt: skip
    assert check_database(path).ok


async def test_a_rebuild_needs_the_database_alone(tmp_path: Path) -> None:
    path = await filled(tmp_path / "db")
    async with opened(path):
        with pytest.raises(store.StoreBusy):
            rebuild_database(path)


async def test_content_alone_brings_back_every_item_locked_and_says_what_is_unknown(tmp_path: Path) -> None:
    path = await filled(tmp_path / "db")
    async with opened(path) as database:
        rows = await database.items(INSTANCE)
        held = {item.row.content_hash: item.content for item in await database.fetch(INSTANCE, rows)}
    shutil.rmtree(Layout(path).log)
    Layout(path).catalogue.unlink()
    with pytest.raises(store.Corruption, match="from-content"):
        rebuild_database(path)
    report = rebuild_database(path, from_content=True)
    assert report.unknown
    assert report.items == 21  # the two copies share their bytes, the two purged ones are back
    async with opened(path) as database:
        (info,) = await database.mailboxes()
        assert (info.instance, info.mode) == (INSTANCE, store.Mode.LOCKED)
        rows = await database.items(INSTANCE)
        found = {item.row.content_hash: item.content for item in await database.fetch(INSTANCE, rows)}
    assert held.items() <= found.items()
    assert check_database(path).ok


async def test_damaged_content_is_left_out_and_named(tmp_path: Path) -> None:
    path = await filled(tmp_path / "db")
    async with opened(path) as database:
        row = next(row for row in await database.items(INSTANCE) if row.size > 500)
    flip(Layout(path).segment(row.segment), row.offset + HEADER_BYTES + 200)
    report = rebuild_database(path, from_content=True)
    assert report.items == 20
    assert len(report.damage) == 1
    assert "content with xxh3_128" in report.damage[0]


def lose_log_and_catalogue(path: Path) -> None:
    for file in [*path.glob("catalogue.sqlite*"), *Layout(path).log.iterdir()]:
        file.unlink()


class CutShort(BaseException):
    """Somebody pressed ^C."""


async def test_a_rebuild_from_content_that_is_cut_short_has_changed_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("store.content.pool.SEGMENT_BYTES_MAX", 4096)
    path = await filled(tmp_path / "db")
    before = await contents(path)

    def stop(what: str, done: int, total: int) -> None:
        if done == 2:
            raise CutShort

    with pytest.raises(CutShort):
        rebuild_database(path, from_content=True, progress=stop)
    assert await contents(path) == before
    lose_log_and_catalogue(path)
    with pytest.raises(CutShort):
        rebuild_database(path, from_content=True, progress=stop)
    with pytest.raises(store.Corruption, match="from-content"):
        rebuild_database(path)  # not an empty database, of which upkeep would drop every segment
    assert rebuild_database(path, from_content=True).items == 21


async def test_what_a_rebuild_from_content_sets_aside_is_whole(tmp_path: Path) -> None:
    """A killed process leaves a part of the catalogue in SQLite's write-ahead log."""
    alive, path = tmp_path / "alive", tmp_path / "db"
    await filled(alive)
    async with opened(alive) as database:
        await database.mailbox(INSTANCE).deliver(b"last", key=b"last")
        shutil.copytree(alive, path)
    assert (path / "catalogue.sqlite-wal").stat().st_size
    rebuild_database(path, from_content=True)
    (aside,) = path.glob("before-rebuild-*")
    assert (aside / "log" / "00000001.log").exists()
    db = open_catalogue(aside / "catalogue.sqlite")
    assert db.execute("SELECT count(*) FROM item").get == 22
    db.close()


async def test_a_draft_that_was_saved_again_comes_back_as_it_was_last(tmp_path: Path) -> None:
    path = tmp_path / "db"
    store.create_database(path)
    inbox = store.FolderId(b"f" * 16)
    async with opened(path) as database:
        mover = database.mover(INSTANCE)
        await mover.create(store.MailboxId(b"m" * 16), 1)
        put = store.FolderPut(INSTANCE, inbox, b"", "INBOX", 1, 1, 1, "", True, False, ())
        await mover.put_folders([store.MovedFolder(store.FolderStepKind.CREATE, put)], 1)
        for modseq, text in ((2, b"first draft"), (3, b"the final version")):
            row = ItemRow(
                store.ItemId(b"i" * 16), inbox, 1, modseq, 5, len(text), b"", 0, 0, 0, (), "IPM.Note", ()
            )  # fmt: skip
            assert await mover.put_items([row], [text], 1) == []
    lose_log_and_catalogue(path)
    assert rebuild_database(path, from_content=True).items == 1
    assert list((await contents(path)).values()) == [b"the final version"]
    assert check_database(path).ok


async def test_a_mailbox_made_from_content_takes_deliveries(tmp_path: Path) -> None:
    """Also one that none was ever delivered to: it was imported, or moved here."""
    path = tmp_path / "db"
    store.create_database(path)
    async with opened(path) as database:
        await database.create_mailbox(store.MailboxId(b"m" * 16), INSTANCE)
        _, (inbox,), _ = await database.account(INSTANCE)
        await database.mailbox(INSTANCE).append(inbox.folder_id, [store.NewItem(content=b"a", received_ms=1)])
    lose_log_and_catalogue(path)
    rebuild_database(path, from_content=True)
    async with opened(path) as database:
        await database.mover(INSTANCE).unlock(1)
        await database.mailbox(INSTANCE).deliver(b"b", key=b"b")


def test_a_folder_that_is_no_database_is_said_to_be_none(tmp_path: Path) -> None:
    for work in (check_database, rebuild_database):
        with pytest.raises(store.StoreBroken, match="no database"):
            work(tmp_path / "nowhere")
