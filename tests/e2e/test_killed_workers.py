"""Real processes: two that deliver, one that flags, and a worker that is killed with SIGKILL at random while it moves.

Every acknowledged delivery is there once, every acknowledged flag is what the item has, and at the end one mailbox is
open. Rounds of `MOVERQ_KILL_MOVES` moves, each with a fresh organisation and other moments of death, follow each other
until `MOVERQ_KILLS` workers have been killed in the middle of a move.
"""

import os
import random
import shutil
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path

import pytest
import trio

import store
from moverq.mailmaker import make_mail
from moverq.root import Root, init_root, open_root
from tests.e2e.actors import ADDRESS, body

ITEMS = 3000
MOVES = int(os.environ.get("MOVERQ_KILL_MOVES", "8"))
KILLS = int(os.environ.get("MOVERQ_KILLS", "3"))
REPOSITORY = Path(__file__).resolve().parents[2]

pytestmark = pytest.mark.slow


@contextmanager
def actor(kind: str, root: Path, account: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A process that is gone at the end, whatever it was doing."""
    command = [sys.executable, "-m", "tests.e2e.actors", kind, str(root), str(account)]
    process = subprocess.Popen(command, cwd=REPOSITORY)
    try:
        yield process
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()


async def started(account: Path, lines: int) -> None:
    """Another process has got so far."""
    with trio.fail_after(60):
        while len(said(account)) < lines:  # noqa: ASYNC110 (another process, nothing here tells)
            await trio.sleep(0.02)


async def until(what: Callable[[], object], condition: Callable[[], Awaitable[bool]], seconds: float = 60) -> None:
    """Another process, or several, have got so far."""
    with trio.move_on_after(seconds):
        while not await condition():  # noqa: ASYNC110 (other processes, nothing here tells)
            await trio.sleep(0.05)
        return
    raise AssertionError(f"waited {seconds:.0f} s for {what()}")


async def test_nothing_is_lost_and_nothing_is_there_twice_when_workers_are_killed(tmp_path: Path) -> None:
    kills = 0
    for number in count(1):
        folder = tmp_path / str(number)
        folder.mkdir()
        kills += await killed_in_a_round(folder, seed=4710 + number)
        print(f"{number * MOVES} moves, {kills} workers killed in the middle of one", flush=True)
        assert kills > number * MOVES / 4
        shutil.rmtree(folder)
        if kills >= KILLS:
            return


async def killed_in_a_round(folder: Path, *, seed: int) -> int:
    """One organisation, `MOVES` moves of its mailbox, and what is there afterwards. Returns how many workers died."""
    path = folder / "root"
    accounts = {name: folder / name for name in ("one", "two", "flags", "worker")}
    await init_root(path)
    async with open_root(path) as root:
        for number in "12":
            await root.server_add(f"MBX{number}", version="2010")
            await root.database_add(f"DB{number}", server=f"MBX{number}")
        await root.mailbox_add(ADDRESS, database="DB1")
        await fill(root)
        with (
            actor("deliver", path, accounts["one"]),
            actor("deliver", path, accounts["two"]),
            actor("flag", path, accounts["flags"]),
        ):
            for name in ("one", "two", "flags"):
                await started(accounts[name], 4)
            kills = await move_there_and_back(root, path, accounts["worker"], random.Random(seed))
        await check(root, accounts)
    return kills


async def fill(root: Root) -> None:
    place = await root.session(ADDRESS).place()
    _, (inbox,), _ = await place.database.account(place.mailbox.instance)
    new = [store.NewItem(content=mail.content, received_ms=mail.received_ms) for mail in make_mail(1, ITEMS, 4096)]
    await place.mailbox.append(inbox.folder_id, new)


async def move_there_and_back(root: Root, path: Path, account: Path, rng: random.Random) -> int:
    kills = 0
    request = None
    within_s = {"a move": 0.6, "a rollback": 0.6}  # what one takes whole, here and today: a worker dies within that
    for number in range(MOVES):
        kind, kills_before = "a move" if request is None else "a rollback", kills
        if request is None:
            home = (await root.directory.locate(ADDRESS)).register.home.database
            request = await root.move(ADDRESS, to="DB2" if home == "DB1" else "DB1")
        else:
            request = await root.rollback(request)
        while (await root.move_show(request)).status != "Completed":
            seen = len(said(account))
            with actor("worker", path, account):
                await started(account, seen + 1)
                begun = trio.current_time()
                with trio.move_on_after(rng.uniform(0.0, within_s[kind])) as patience:
                    done = await root.wait(request, work=False)
                    assert done.status == "Completed", done.message
                kills += patience.cancelled_caught
        if kills == kills_before:
            within_s[kind] = trio.current_time() - begun
        if number % 5 == 4:  # this time the way back is closed, and the next is a move of its own
            await root.complete(request)
            with actor("worker", path, account), trio.fail_after(60):
                while (await root.move_show(request)).sync_stage != "SyncFinished":  # noqa: ASYNC110 (another process)
                    await trio.sleep(0.02)
            request = None
    return kills


async def check(root: Root, accounts: dict[str, Path]) -> None:
    place = await root.session(ADDRESS).place()
    rows = await place.database.items(place.mailbox.instance, limit=1_000_000)
    fetched = []
    while len(fetched) < len(rows):
        fetched += await place.database.fetch(place.mailbox.instance, rows[len(fetched) :])
    contents = [item.content for item in fetched if item.content is not None]
    assert len(contents) == len(rows)
    bodies = Counter(
        key for content in contents if body(key := content.rpartition(b"\n")[2].decode("latin-1")) == content
    )
    tried = said(accounts["one"]) + said(accounts["two"])
    done = [words[1] for words in tried if words[0] == "done"]
    assert len(done) > 20
    assert [key for key in done if bodies[key] != 1] == [], "acknowledged, and not there exactly once"
    attempted = {words[1] for words in tried}
    assert [key for key in bodies if key not in attempted or bodies[key] != 1] == []
    assert len(rows) == ITEMS + len(bodies)

    keywords = {row.item_id.hex(): row.keywords for row in rows}
    last: dict[str, tuple[str, str]] = {}
    for verb, item_id, word in said(accounts["flags"]):
        last[item_id] = verb, word
    settled = {item_id: word for item_id, (verb, word) in last.items() if verb == "done"}
    assert len(settled) > 3
    assert {item_id: keywords[item_id] for item_id in settled} == {i: (word,) for i, word in settled.items()}

    opened = []
    for name in ("DB1", "DB2"):
        for info in await (await root.database(name)).mailboxes():
            opened += [name] if info.mode is store.Mode.OPEN else []
    assert opened == [(await root.directory.locate(ADDRESS)).register.home.database]
    assert len(rows) == len({row.uid for row in rows if row.folder_id == rows[0].folder_id})


def said(account: Path) -> list[list[str]]:
    """An actor's lines so far; the last may be cut off where it was killed."""
    if not account.exists():
        return []
    return [line.split(" ") for line in account.read_text().splitlines()]
