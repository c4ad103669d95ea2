"""Damage of every kind: found where it is, said with file and offset, and nothing acknowledged given up for it."""

import errno
import os
import shutil
import struct
import subprocess
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path

import pytest

import store
from store.catalogue.schema import PAGE_BYTES, open_catalogue, read_applied
from store.content.segment import HEADER_BYTES, scan
from store.database import Database
from store.disk import Disk, File, store_error
from store.errors import Corruption
from store.frame import FrameKind, encode
from store.ids import LogHead
from store.layout import Layout
from store.limits import BLOCK
from store.log.log import Log
from store.rebuild import rebuild_database
from tests.support.store_scenarios import keep_catalogue, put_catalogue_back
from tests.support.store_world import (
    ALICE,
    append,
    check_sound,
    contents,
    folder_named,
    inbox_of,
    make_mailbox,
    opened,
)

Damage = Callable[[bytearray], None]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "db"


async def fill(path: Path, number: int = 6) -> None:
    async with opened(path) as database:
        await make_mailbox(database)
        for item in range(number):
            await append(database, b"item %d" % item)


def change(file: Path, damage: Damage) -> None:
    content = bytearray(file.read_bytes())
    damage(content)
    file.write_bytes(content)


def flip(offset: int) -> Damage:
    def damage(content: bytearray) -> None:
        content[offset] ^= 1

    return damage


def head_of(path: Path) -> LogHead:
    db = open_catalogue(Layout(path).catalogue)
    try:
        return read_applied(db)[1]
    finally:
        db.close()


async def found_by_opening(path: Path) -> Corruption:
    with pytest.raises(Corruption) as caught:
        async with opened(path):
            raise AssertionError("it was opened")
    return caught.value


async def number_of_items(path: Path) -> int:
    async with opened(path) as database:
        return len(await contents(database, await inbox_of(database)))


@contextmanager
def behind(path: Path, tmp_path: Path) -> Iterator[None]:
    """What the block commits is in the log alone afterwards: the catalogue is as it was before."""
    keep_catalogue(path, tmp_path / "kept.sqlite")
    yield
    put_catalogue_back(tmp_path / "kept.sqlite", path)


# ---- the log, above what the catalogue stands at


@pytest.mark.parametrize("part", ["header", "payload", "all but the header", "the header alone", "cut short"])
async def test_a_torn_last_frame_is_cut_and_the_next_append_goes_there(path: Path, tmp_path: Path, part: str) -> None:
    await fill(path)
    start = head_of(path).position.offset
    with behind(path, tmp_path):
        async with opened(path) as database:
            await append(database, *(b"torn %d" % number * 20 for number in range(20)))
        end = head_of(path).position.offset
    assert end > start + 2 * BLOCK

    def damage(content: bytearray) -> None:
        if part == "header":
            content[start + 10] ^= 1
        if part == "payload":
            content[start + 300] ^= 1
        if part == "all but the header":
            content[start + BLOCK : end] = bytes(end - start - BLOCK)
        if part == "the header alone":
            content[start : start + BLOCK] = bytes(BLOCK)
        if part == "cut short":
            del content[start + BLOCK :]

    log = Layout(path).generation(1)
    change(log, damage)
    assert await number_of_items(path) == 6
    assert log.read_bytes()[start:].strip(b"\0") == b""
    async with opened(path) as database:
        await append(database, b"after")
    assert await number_of_items(path) == 7
    check_sound(path)


async def test_a_damaged_frame_with_a_good_one_behind_it_is_no_torn_tail(path: Path, tmp_path: Path) -> None:
    await fill(path)
    start = head_of(path).position.offset
    with behind(path, tmp_path):
        async with opened(path) as database:
            await append(database, b"damaged")
            await append(database, b"good")
    log = Layout(path).generation(1)
    change(log, flip(start + 200))
    before = log.read_bytes()
    error = await found_by_opening(path)
    assert (error.path, error.offset) == (str(log), start)
    assert "one that belongs behind it is there" in str(error)
    assert log.read_bytes() == before
    change(log, flip(start + 200))
    assert await number_of_items(path) == 8


@pytest.mark.parametrize("newer", ["version", "kind"])
async def test_what_a_newer_moverq_wrote_is_no_torn_tail(
    path: Path, tmp_path: Path, newer: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    await fill(path)
    head, log = head_of(path), Layout(path).generation(1)
    with monkeypatch.context() as later:
        if newer == "version":
            later.setattr("store.frame.VERSION", 2)
        kind = FrameKind.GROUP if newer == "version" else 7
        frame, _ = encode(kind, b"\x90", signature=_signature(path), head=head)  # type: ignore[arg-type]

    def write(content: bytearray) -> None:
        content[head.position.offset : head.position.offset + len(frame)] = frame

    change(log, write)
    before = log.read_bytes()
    for work in (number_of_items(path), rebuilt(path)):
        with pytest.raises(store.StoreBroken, match="written by a newer moverq"):
            await work
    assert log.read_bytes() == before


async def rebuilt(path: Path) -> None:
    rebuild_database(path)


@pytest.mark.parametrize("place", ["repeated", "foreign", "of another generation", "garbage"])
async def test_what_does_not_belong_there_is_cut_like_a_torn_frame(path: Path, tmp_path: Path, place: str) -> None:
    await fill(path)
    await fill(tmp_path / "other")
    head = head_of(path)
    start, log = head.position.offset, Layout(path).generation(1)
    raw = log.read_bytes()
    foreign = Layout(tmp_path / "other").generation(1).read_bytes()
    wrong = LogHead(store.ids.LogPosition(2, start), head.chain)
    pieces = {
        "repeated": raw[start - 2 * BLOCK : start],
        "foreign": foreign[start - 2 * BLOCK : start],
        "of another generation": encode(FrameKind.GROUP, b"\x90", signature=_signature(path), head=wrong)[0],
        "garbage": b"\xff" * BLOCK,
    }
    piece = pieces[place]

    def damage(content: bytearray) -> None:
        content[start : start + len(piece)] = piece

    change(log, damage)
    assert await number_of_items(path) == 6
    assert log.read_bytes() == raw
    check_sound(path)


def _signature(path: Path) -> store.ids.Signature:
    db = open_catalogue(Layout(path).catalogue)
    try:
        return read_applied(db)[0]
    finally:
        db.close()


async def test_a_frame_that_is_not_chained_to_the_one_before_is_not_taken(path: Path) -> None:
    await fill(path)
    head = head_of(path)
    unchained = LogHead(head.position, b"?" * 16)
    raw, _ = encode(FrameKind.GROUP, b"\x90", signature=_signature(path), head=unchained)
    start = head.position.offset

    def damage(content: bytearray) -> None:
        content[start : start + len(raw)] = raw

    change(Layout(path).generation(1), damage)
    assert await number_of_items(path) == 6


async def test_records_that_do_not_follow_from_those_before_are_corruption(path: Path) -> None:
    """A valid frame in its place, but what it says cannot be: an item in a mailbox that there is not."""
    await fill(path)
    head = head_of(path)
    payload = store.records.encode([[store.records.HeadRaised(store.InstanceId(b"?" * 16), 9)]])
    raw, _ = encode(FrameKind.GROUP, payload, signature=_signature(path), head=head)
    start = head.position.offset

    def damage(content: bytearray) -> None:
        content[start : start + len(raw)] = raw

    change(Layout(path).generation(1), damage)
    error = await found_by_opening(path)
    assert (error.path, error.offset) == (str(Layout(path).generation(1)), start)


# ---- the log, below what the catalogue stands at


async def test_a_lost_generation_is_not_made_up(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only at the log's end does a seal without its next generation mean that somebody died between the two."""
    monkeypatch.setattr("store.log.log.GENERATION_BYTES_MAX", 2048)
    await fill(path, number=12)
    lost = Layout(path).generation(3)
    assert Layout(path).generation(4).exists()
    lost.unlink()
    Layout(path).catalogue.unlink()  # which would say up to where the log was
    with pytest.raises(Corruption, match="is there") as refused:
        rebuild_database(path)
    assert str(lost) == refused.value.path
    assert not lost.exists()


async def test_damage_below_the_applied_position_does_not_stop_the_work_and_is_found_by_reading(path: Path) -> None:
    await fill(path)
    change(Layout(path).generation(1), flip(3 * BLOCK + 20))
    assert await number_of_items(path) == 6
    log = Log(Disk(), Layout(path), _signature(path))
    frames = list(log.read_all(log.begin_of(1)))
    assert frames[-1].after.position.offset < head_of(path).position.offset
    with pytest.raises(Corruption, match="belongs behind it is there"):
        log.cut(frames[-1].after)
    log.close()


async def test_a_log_that_ends_before_the_catalogue_is_corruption(path: Path) -> None:
    await fill(path)
    log, end = Layout(path).generation(1), head_of(path).position.offset
    os.truncate(log, end - BLOCK)
    error = await found_by_opening(path)
    assert (error.path, error.offset) == (str(log), end - BLOCK)
    assert "the end of the file" in str(error)


async def test_a_missing_generation_is_named(path: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("store.log.log.GENERATION_BYTES_MAX", 2048)
    await fill(path, number=1)
    with behind(path, tmp_path):
        async with opened(path) as database:
            for number in range(8):
                await append(database, b"%d" % number)
    newest = head_of(path).position.generation
    layout = Layout(path)
    last = max(int(found.stem) for found in layout.log.iterdir())
    assert last >= newest + 2
    taken = layout.generation(last - 1)
    taken.rename(tmp_path / "taken")
    error = await found_by_opening(path)
    assert f"{last - 2:08d}.log" in error.path or taken.name in error.path
    (tmp_path / "taken").rename(taken)
    assert await number_of_items(path) == 9
    layout.generation(head_of(path).position.generation).unlink()
    assert "no file" in str(await found_by_opening(path))


@pytest.mark.parametrize("damage", ["flipped", "short", "foreign", "zeroed", "newer"])
async def test_a_damaged_header_of_a_generation_is_corruption(
    path: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, damage: str
) -> None:
    monkeypatch.setattr("store.log.log.GENERATION_BYTES_MAX", 2048)
    await fill(path, number=1)
    await fill(tmp_path / "other", number=8)
    with behind(path, tmp_path):
        async with opened(path) as database:
            for number in range(8):
                await append(database, b"%d" % number)
    second = Layout(path).generation(head_of(path).position.generation + 1)
    good = second.read_bytes()

    def spoil(content: bytearray) -> None:
        if damage == "flipped":
            content[30] ^= 1
        if damage == "short":
            del content[100:]
        if damage == "zeroed":
            content[:BLOCK] = bytes(BLOCK)
        if damage == "newer":
            content[4:6] = struct.pack("<H", 9)
        if damage == "foreign":
            content[:] = Layout(tmp_path / "other").generation(int(second.stem)).read_bytes()

    change(second, spoil)
    error = await found_by_opening(path)
    assert (error.path, error.offset) == (str(second), 0)
    second.write_bytes(good)
    assert await number_of_items(path) == 9
    check_sound(path)


async def test_a_lost_seal_is_not_taken_for_the_end(
    path: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The next generation is there: appending here would fork the log."""
    monkeypatch.setattr("store.log.log.GENERATION_GROW_BYTES", 2048)
    monkeypatch.setattr("store.log.log.GENERATION_BYTES_MAX", 2048)
    await fill(path, number=1)
    with behind(path, tmp_path):
        async with opened(path) as database:
            for number in range(3):
                await append(database, b"%d" % number)
        assert head_of(path).position.generation > 1
    layout, old = Layout(path), head_of(path)
    file = layout.generation(old.position.generation)
    for start in range(old.position.offset, len(file.read_bytes()), BLOCK):
        before = file.read_bytes()

        def zero(content: bytearray, start: int = start) -> None:
            content[start:] = bytes(len(content) - start)

        change(file, zero)
        if file.read_bytes() != before:
            assert "a seal (the next generation is there)" in str(await found_by_opening(path))
        file.write_bytes(before)
    assert await number_of_items(path) == 4


async def test_a_half_made_generation_is_made_again(
    path: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("store.log.log.GENERATION_BYTES_MAX", 2048)
    await fill(path, number=1)
    for number in (1, 2, 3, 4):
        Layout(path).generation(number).with_suffix(".new").write_bytes(b"half")
    async with opened(path) as database:
        for number in range(8):
            await append(database, b"%d" % number)
    assert await number_of_items(path) == 9
    check_sound(path)


# ---- content


@pytest.mark.parametrize("damage", ["flipped", "zeroed", "cut", "gone"])
async def test_damaged_content_comes_as_damage_with_its_place_and_the_rest_is_read(path: Path, damage: str) -> None:
    await fill(path, number=3)
    async with opened(path) as database:
        rows = await database.folder_items(ALICE, await inbox_of(database))
    ref = rows[1].ref
    segment = Layout(path).segment(ref.segment)
    start = ref.offset + HEADER_BYTES

    def spoil(content: bytearray) -> None:
        if damage == "flipped":
            content[start] ^= 1
        if damage == "zeroed":
            content[start : start + ref.size] = bytes(ref.size)
        if damage == "cut":
            del content[start + 1 :]

    if damage == "gone":
        segment.unlink()
    else:
        change(segment, spoil)
    async with opened(path) as database:
        first, second, third = await database.fetch(ALICE, rows)
        assert second.content is None
        assert second.damage is not None
        assert second.damage.path == str(segment)
        assert second.damage.offset == {"gone": 0, "cut": ref.offset}.get(damage, start)
        assert (second.raw is None) == (damage == "gone")
        if damage in ("flipped", "zeroed"):
            assert (first.content, third.content) == (b"item 0", b"item 2")
        await append(database, b"after")


async def test_damage_to_a_content_header_is_found_by_a_scan_and_not_by_reading(path: Path) -> None:
    await fill(path, number=3)
    async with opened(path) as database:
        rows = await database.folder_items(ALICE, await inbox_of(database))
        segment = Layout(path).segment(1)
        change(segment, flip(rows[1].offset + 8))
        assert [one.content for one in await database.fetch(ALICE, rows)] == [b"item 0", b"item 1", b"item 2"]
    file = Disk().open(segment, readonly=True)
    found = list(scan(file, 1))
    file.close()
    damaged = [one for one in found if isinstance(one, Corruption)]
    assert [one.offset for one in damaged] == [rows[1].offset]
    assert len(found) == 3


async def test_content_is_appended_beyond_a_torn_end(path: Path) -> None:
    await fill(path, number=1)
    with Layout(path).segment(1).open("ab") as segment:
        segment.write(b"MVQC torn by a crash")
    async with opened(path) as database:
        await append(database, b"after")
        assert await contents(database, await inbox_of(database)) == [b"item 0", b"after"]


# ---- the other files


@pytest.mark.parametrize("name", ["commit.lock", "open.lock"])
async def test_without_its_locks_it_is_no_database(path: Path, name: str) -> None:
    await fill(path)
    lock = Layout(path).root / name
    lock.unlink()
    with pytest.raises(store.StoreBroken, match="there is no database here"):
        async with opened(path):
            raise AssertionError
    lock.touch()
    assert await number_of_items(path) == 6


@pytest.mark.parametrize("damage", ["a page", "the first bytes", "cut", "empty"])
async def test_a_damaged_catalogue_is_said_and_names_the_cure(path: Path, damage: str) -> None:
    await fill(path, number=200)
    catalogue = Layout(path).catalogue

    def spoil(content: bytearray) -> None:
        if damage == "a page":
            for offset in range(PAGE_BYTES, len(content), PAGE_BYTES):
                content[offset + 100] ^= 1
        if damage == "the first bytes":
            content[:16] = b"no database here"
        if damage == "cut":
            del content[5000:]
        if damage == "empty":
            content.clear()

    change(catalogue, spoil)
    with pytest.raises((Corruption, store.StoreBroken), match="rebuild") as caught:
        async with opened(path) as database:
            await contents(database, await inbox_of(database))
    assert str(catalogue) in str(caught.value)


# ---- a full or read-only disk


class FullDisk(Disk):
    """Raises ENOSPC (or another error) at the n-th call that needs room, and at every later one while it is full."""

    def __init__(self, number: int = errno.ENOSPC) -> None:
        self.number = number
        self.full_at: int | None = None
        self.calls = 0

    def needs_room(self, path: Path) -> None:
        self.calls += 1
        if self.full_at is not None and self.calls >= self.full_at:
            raise store_error(path, OSError(self.number, os.strerror(self.number)))

    def open(self, path: Path, *, create: bool = False, exclusive: bool = False, readonly: bool = False) -> File:
        if create and not path.exists():
            self.needs_room(path)
        file = super().open(path, create=create, exclusive=exclusive, readonly=readonly)
        return _FullFile(self, file)


class _FullFile(File):
    def __init__(self, disk: FullDisk, file: File) -> None:
        super().__init__(file.path, file._descriptor)
        self._disk = disk

    def write(self, data: bytes | bytearray | memoryview, offset: int) -> None:
        self._disk.needs_room(self.path)
        super().write(data, offset)

    def sync(self) -> None:
        self._disk.needs_room(self.path)


async def failure_of(work: Awaitable[None]) -> store.StoreError | None:
    try:
        await work
    except store.StoreError as error:
        return error
    return None


async def some_work(database: Database, acknowledged: list[bytes]) -> None:
    mailbox = database.mailbox(ALICE)
    for number in range(6):
        content = b"%d" % number * 200
        await mailbox.deliver(content, key=b"%d" % number)
        acknowledged.append(content)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO])
async def test_a_full_disk_at_any_call_loses_nothing_acknowledged(
    path: Path, tmp_path: Path, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("store.log.log.GENERATION_BYTES_MAX", 3072)
    monkeypatch.setattr("store.log.log.GENERATION_GROW_BYTES", 1024)
    monkeypatch.setattr("store.content.pool.SEGMENT_BYTES_MAX", 1024)
    await fill(tmp_path / "template", number=0)
    kind = store.StoreBroken if number == errno.EIO else (store.StoreFull, store.StoreBroken)
    for full_at in count(1):
        shutil.rmtree(path, ignore_errors=True)
        shutil.copytree(tmp_path / "template", path)
        disk, acknowledged = FullDisk(number), list[bytes]()
        async with opened(path, disk=disk) as database:
            disk.full_at, disk.calls = full_at, 0
            error = await failure_of(some_work(database, acknowledged))
            disk.full_at = None
            if error is not None:
                assert isinstance(error, kind)
                assert str(path) in str(error)
            if isinstance(error, store.StoreFull):
                await append(database, b"there is room again")
        async with opened(path) as database:
            found = [one for one in await contents(database, await inbox_of(database)) if one]
            assert [one for one in found if one in acknowledged] == acknowledged
            await some_work(database, [])
            found = [one for one in await contents(database, await inbox_of(database)) if one]
            assert sorted(set(found)) == sorted(found)
        check_sound(path)
        if error is None:
            return


def test_a_database_that_cannot_be_made_says_why(path: Path) -> None:
    for full_at in range(1, 6):
        disk = FullDisk()
        disk.full_at = full_at
        shutil.rmtree(path, ignore_errors=True)
        with pytest.raises(store.StoreFull, match=f"cannot write to {path}"):
            store.create_database(path, disk=disk)


async def test_a_folder_where_a_file_should_be_is_said(path: Path) -> None:
    """What cannot be opened: as root, permissions stop nobody, but a folder does."""
    await fill(path)
    shutil.rmtree(Layout(path).content)
    Layout(path).content.write_bytes(b"not a folder")
    async with opened(path) as database:
        with pytest.raises(store.StoreBroken, match="Not a directory"):
            await append(database, b"one")
        assert (await folder_named(database, store.INBOX)).items == 6


@pytest.fixture
def small_file_system(tmp_path: Path) -> Iterator[Path]:
    mount = tmp_path / "mount"
    mount.mkdir()
    options = ["-t", "tmpfs", "-o", "size=6m", "tmpfs", str(mount)]
    if shutil.which("mount") is None or subprocess.run(["mount", *options], capture_output=True).returncode:
        pytest.skip("mounting is not permitted here")
    yield mount
    subprocess.run(["umount", str(mount)], check=True, capture_output=True)


@pytest.mark.slow
async def test_a_small_file_system_runs_full_and_goes_on_when_there_is_room(small_file_system: Path) -> None:
    path, acknowledged = small_file_system / "db", []

    async def fill_it(database: Database) -> None:
        for number in range(200):
            await append(database, b"%03d" % number * 20_000)
            acknowledged.append(number)

    ballast = small_file_system / "ballast"
    ballast.write_bytes(bytes(2 << 20))
    await fill(path, number=1)
    async with opened(path) as database:
        error = await failure_of(fill_it(database))
        assert isinstance(error, (store.StoreFull, store.StoreBroken))
        assert str(path) in str(error)
        ballast.unlink()
    async with opened(path) as database:
        await append(database, b"room")
    assert len(acknowledged) > 10
    assert await number_of_items(path) >= len(acknowledged) + 2
    check_sound(path)
