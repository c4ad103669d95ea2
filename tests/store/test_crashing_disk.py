"""The crashing disk itself: what it loses, what it keeps, and that it stops everywhere once."""

from pathlib import Path

import pytest

from store.limits import BLOCK
from tests.support.crashing_disk import CrashingDisk, PowerLoss


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "old").write_bytes(b"a" * 4 * BLOCK)
    return tmp_path


def test_what_was_not_synced_is_lost_with_seed_0_and_kept_with_seed_1(folder: Path) -> None:
    for seed, expected in ((0, b"sync" + b"a" * (4 * BLOCK - 4)), (1, b"both" + b"a" * (4 * BLOCK - 4) + b"end")):
        (folder / "old").write_bytes(b"a" * 4 * BLOCK)
        disk = CrashingDisk()
        file = disk.open(folder / "old")
        file.write(b"sync", 0)
        file.sync()
        file.write(b"both", 0)
        file.write(b"end", 4 * BLOCK)
        disk.power_off(seed)
        assert (folder / "old").read_bytes() == expected


def test_a_torn_write_keeps_whole_blocks(folder: Path) -> None:
    states = set()
    for seed in range(2, 60):
        (folder / "old").write_bytes(b"a" * 4 * BLOCK)
        disk = CrashingDisk()
        disk.open(folder / "old").write(b"b" * 3 * BLOCK, BLOCK // 2)
        disk.power_off(seed)
        content = (folder / "old").read_bytes()
        assert content.strip(b"ab") == b""
        states.add(content)
        changes = [at for at in range(1, len(content)) if content[at] != content[at - 1]]
        assert all(at % BLOCK == 0 or at in (BLOCK // 2, BLOCK // 2 + 3 * BLOCK) for at in changes)
    assert len(states) > 5


def test_names_that_were_not_synced_may_be_lost(folder: Path) -> None:
    seen = set()
    for seed in range(30):
        for path in folder.iterdir():
            path.unlink()
        (folder / "old").write_bytes(b"old")
        disk = CrashingDisk()
        made = disk.open(folder / "temporary", create=True)
        made.write(b"new", 0)
        made.sync()
        disk.replace(folder / "temporary", folder / "old")
        disk.open(folder / "other", create=True)
        disk.power_off(seed)
        seen.add(tuple((path.name, path.read_bytes()) for path in sorted(folder.iterdir())))
    assert seen == {
        (("old", b"old"),),
        (("old", b"new"),),
        (("old", b"old"), ("other", b"")),
        (("old", b"new"), ("other", b"")),
    }


def test_synced_names_stay(folder: Path) -> None:
    disk = CrashingDisk()
    disk.remove(folder / "old")
    disk.open(folder / "new", create=True)
    disk.sync_folder(folder)
    disk.power_off(0)
    assert [path.name for path in folder.iterdir()] == ["new"]


def test_a_removed_file_may_be_back(folder: Path) -> None:
    disk = CrashingDisk()
    disk.remove(folder / "old")
    disk.power_off(0)
    assert (folder / "old").read_bytes() == b"a" * 4 * BLOCK


def test_it_stops_before_and_after_every_call_and_nothing_works_behind_it(folder: Path) -> None:
    for stop_at in range(1, 6):
        disk = CrashingDisk(stop_at=stop_at)
        file = disk.open(folder / "old")
        try:
            file.write(b"x", 0)
            file.sync()
        except PowerLoss:
            assert disk.calls == stop_at
            for call in (file.sync, lambda file=file: file.write(b"y", 0), lambda disk=disk: disk.sync_folder(folder)):
                with pytest.raises(PowerLoss):
                    call()
        else:
            assert stop_at == 5
        disk.kill()


def test_after_a_kill_the_page_cache_is_there_and_may_still_be_lost(folder: Path) -> None:
    disk = CrashingDisk(stop_at=2)
    file = disk.open(folder / "old")
    with pytest.raises(PowerLoss):
        file.write(b"x", 0)
    disk.kill()
    again = disk.open(folder / "old")
    assert again.read(1, 0) == b"x"
    again.sync()
    disk.power_off(0)
    assert (folder / "old").read_bytes()[:1] == b"x"
