"""A real disk that is full: mail is refused in words and comes when there is room; a move stands, says why, goes on.

On a file system of its own, once in memory and once ext4 on a loop device, which refuses at other moments (its own
blocks, its delayed allocation). Real processes: two that deliver, one that works on the move.
"""

import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import store
from moverq.endpoints.store import make_database
from moverq.errors import EndpointBroken
from moverq.mailmaker import make_mail
from moverq.model.statistics import MoveStatistics
from moverq.root import Root, init_root, open_root
from tests.e2e.actors import ADDRESS, body
from tests.e2e.test_killed_workers import REPOSITORY, actor, said, started, until

pytestmark = pytest.mark.slow
MIB = 1 << 20
ITEMS = 1200


@pytest.fixture(params=["tmpfs", "ext4"])
def small_disk(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    """A file system of 40 MiB; skipped where mounting is not permitted."""
    mount, image = tmp_path / "mount", tmp_path / "image"
    mount.mkdir()
    commands = [["mount", "-t", "tmpfs", "-o", "size=40m", "tmpfs", str(mount)]]
    if request.param == "ext4":
        with open(image, "wb") as file:
            file.truncate(40 * MIB)
        commands = [["mkfs.ext4", "-q", "-m", "0", str(image)], ["mount", "-o", "loop", str(image), str(mount)]]
    for command in commands:
        if shutil.which(command[0]) is None or subprocess.run(command, capture_output=True).returncode:
            pytest.skip(f"`{' '.join(command[:3])} …` is not permitted here")
    yield mount
    subprocess.run(["umount", str(mount)], check=True, capture_output=True)


def fill_up(ballast: Path, *, leave: int) -> None:
    """The file system has about so many bytes left."""
    with open(ballast, "ab", buffering=0) as file:
        while (free := shutil.disk_usage(ballast.parent).free) > leave:
            file.write(bytes(min(MIB, free - leave)))


@pytest.mark.parametrize("small_disk", ["tmpfs"], indirect=True)
def test_a_database_for_which_there_is_no_room_is_made_when_there_is(small_disk: Path) -> None:
    """Wherever the room ends: in the log, in the catalogue, in the files that SQLite keeps beside it.

    Not on an ext4 so small that its blocks are 1 KiB: of the file that it maps SQLite fills one block in 4 KiB, and is
    killed by SIGBUS where there is none for the others.
    """
    for leave in range(0, 100 << 10, 8 << 10):
        fill_up(small_disk / "ballast", leave=leave)
        with pytest.raises(EndpointBroken, match="the disk is full"):
            make_database("DB", small_disk / "DB")
        (small_disk / "ballast").unlink()
        make_database("DB", small_disk / "DB")
        shutil.rmtree(small_disk / "DB")


@pytest.mark.parametrize("everything", [True, False], ids=["everything on it", "the target alone"])
async def test_a_full_disk_loses_nothing_and_the_move_goes_on_when_there_is_room(
    small_disk: Path, tmp_path: Path, everything: bool
) -> None:
    path = small_disk / "root" if everything else tmp_path / "root"
    accounts = {name: tmp_path / name for name in ("one", "two", "worker")}
    await init_root(path)
    async with open_root(path) as root:
        for number in "12":
            await root.server_add(f"MBX{number}", version="2010")
        await root.database_add("DB1", server="MBX1")
        await root.database_add("DB2", server="MBX2", path=small_disk / "DB2")
        await root.mailbox_add(ADDRESS, database="DB1")
        place = await root.session(ADDRESS).place()
        _, (inbox,), _ = await place.database.account(place.mailbox.instance)
        new = [store.NewItem(content=mail.content, received_ms=1) for mail in make_mail(1, ITEMS, 4096)]
        await place.mailbox.append(inbox.folder_id, new)
        fill_up(small_disk / "ballast", leave=2 * MIB)
        request = await root.move(ADDRESS, to="DB2")

        last: MoveStatistics | None = None

        async def refused() -> bool:
            return any(line[0] == "refused" for name in ("one", "two") for line in said(accounts[name]))

        async def look() -> MoveStatistics:
            nonlocal last
            last = await root.move_show(request)
            return last

        async def completed() -> bool:
            return (await look()).status == "Completed"

        async def stands() -> bool:
            # Where not even the ledger has room, the worker tries again and again, or ends.
            return (await look()).status == "Failed" or (everything and (worker.poll() is not None or await refused()))

        with actor("insist", path, accounts["one"]), actor("insist", path, accounts["two"]):
            with worker_of(path, accounts["worker"]) as worker:
                await until(lambda: ("the move to stand still", last), stands)
                shown = await root.move_show(request)
                assert shown.status != "Completed"
                if everything:
                    await until(lambda: "a delivery that is refused", refused)
                    if worker.poll() is not None:  # not even the ledger has room for what the worker has to say
                        last_words = accounts["worker"].read_text()
                        assert "the disk is full" in last_words or "No space left" in last_words
                        assert "Traceback" not in last_words
                else:
                    assert "full" in str(shown.message), shown
                    assert not await refused(), "the source has room"
            info = await place.database.info(place.mailbox.instance)
            assert info.mode is store.Mode.OPEN or everything, "the source has room, and goes on"

            (small_disk / "ballast").unlink()
            for name in ("one", "two"):
                await started(accounts[name], len(said(accounts[name])) + 6)
            if (await root.move_show(request)).status == "Failed":
                await root.resume(request)
            with worker_of(path, accounts["worker"]):
                await until(lambda: ("the move to be completed", last), completed)
        await check(root, [*said(accounts["one"]), *said(accounts["two"])], refusals=everything)
    for name in ("DB1", "DB2"):
        async with open_root(path) as root:
            assert (await root.store_check(name)).ok


@contextmanager
def worker_of(path: Path, said: Path) -> Iterator["subprocess.Popen[bytes]"]:
    """`moverq worker`, as an administrator starts it, but in one process; its words are in the file."""
    command = [sys.executable, "-m", "moverq", "worker", "--processes", "1", "--quiet", "--root", str(path)]
    with open(said, "ab") as file:
        process = subprocess.Popen(command, cwd=REPOSITORY, stderr=file)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


async def open_mailboxes(root: Root) -> list[str]:
    return [
        name
        for name in ("DB1", "DB2")
        for info in await (await root.database(name)).mailboxes()
        if info.mode is store.Mode.OPEN
    ]


async def check(root: Root, tried: list[list[str]], *, refusals: bool) -> None:
    """What was acknowledged is there once; what was refused was refused in words, and came later."""
    place = await root.session(ADDRESS).place()
    rows = await place.database.items(place.mailbox.instance, limit=1_000_000)
    fetched: list[store.Fetched] = []
    while len(fetched) < len(rows):
        fetched += await place.database.fetch(place.mailbox.instance, rows[len(fetched) :])
    contents = [item.content for item in fetched if item.content is not None]
    keys = [content.rpartition(b"\n")[2].decode("latin-1") for content in contents]
    there = Counter(key for key, content in zip(keys, contents, strict=True) if body(key, 20_000) == content)
    done = [line[1] for line in tried if line[0] == "done"]
    assert len(done) > 10
    assert [key for key in done if there[key] != 1] == [], "acknowledged, and not there exactly once"
    assert all(count == 1 for count in there.values())
    assert len(rows) == ITEMS + there.total()
    why = Counter(" ".join(line[2:])[:60] for line in tried if line[0] == "refused")
    print(f"{len(done)} deliveries acknowledged, {why.total()} refused: {dict(why)}")
    if refusals:
        assert any("full" in sentence for line in tried if line[0] == "refused" for sentence in line[3:])
    assert await open_mailboxes(root) == ["DB2"]
