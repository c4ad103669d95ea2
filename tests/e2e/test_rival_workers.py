"""Two workers fight for one move, as real processes: the lock that keeps them apart is taken away, again and again, and
one of them is asleep at random (SIGSTOP), to wake in the middle of what the other does.

The file lock is there for efficiency alone; without it the higher token has to win, and the other has to stop.
`MOVERQ_RIVAL_MOVES` for a long run.
"""

import os
import random
import signal
import subprocess
from pathlib import Path

import pytest
import trio

from moverq.model.ids import RequestId
from moverq.model.report import EntryKind
from moverq.root import Root, init_root, open_root
from tests.e2e.actors import ADDRESS
from tests.e2e.test_killed_workers import actor, check, fill, started, until

MOVES = int(os.environ.get("MOVERQ_RIVAL_MOVES", "2"))
STRIKES_MAX = 30
"""Two that take a move from each other for ever bring it no further: that is what the lock is for."""

pytestmark = pytest.mark.slow


async def test_two_workers_that_fight_for_a_move_lose_nothing_and_end_it_once(tmp_path: Path) -> None:
    path = tmp_path / "root"
    accounts = {name: tmp_path / name for name in ("one", "two", "flags", "left", "right")}
    await init_root(path)
    async with open_root(path) as root:
        for number in "12":
            await root.server_add(f"MBX{number}", version="2010")
            await root.database_add(f"DB{number}", server=f"MBX{number}")
        await root.mailbox_add(ADDRESS, database="DB1")
        await fill(root)
        with (
            actor("deliver", path, accounts["one"]) as one,
            actor("deliver", path, accounts["two"]) as two,
            actor("flag", path, accounts["flags"]) as flags,
            actor("worker", path, accounts["left"]) as left,
            actor("worker", path, accounts["right"]) as right,
        ):
            for name in ("one", "two", "flags", "left", "right"):
                await started(accounts[name], 1)
            takeovers = await fought_over(root, (left, right), random.Random(4711))
            assert [client.poll() for client in (one, two, flags)] == [None] * 3, "a client gave up waiting"
        print(f"{MOVES} moves, {takeovers} times one worker took a move from the other")
        assert takeovers >= MOVES / 2
        await check(root, accounts)


async def fought_over(root: Root, workers: tuple["subprocess.Popen[bytes]", ...], rng: random.Random) -> int:
    """Moves there and back, each a request of its own, and more of them where the workers do not get into each other's
    way: a small move is often done before. Returns how often a token was taken that was not the first."""
    tokens = moved = 0
    while moved < MOVES or (tokens < MOVES / 2 and moved < 60 * MOVES):
        moved += 1
        home = (await root.directory.locate(ADDRESS)).register.home.database
        before = (await root.directory.locate(ADDRESS)).token
        request = await root.move(ADDRESS, to="DB2" if home == "DB1" else "DB1")
        await fight(root, request, workers, rng)
        tokens += (await root.directory.locate(ADDRESS)).token - before - 1
        await root.complete(request)
        with trio.fail_after(60):
            while (await root.move_show(request)).sync_stage != "SyncFinished":  # noqa: ASYNC110 (other processes)
                await trio.sleep(0.02)
    return tokens


async def fight(
    root: Root, request: RequestId, workers: tuple["subprocess.Popen[bytes]", ...], rng: random.Random
) -> None:
    """For a while nobody has the lock for long, and now one, now the other is asleep; then the move has to end."""
    for _ in range(rng.randrange(STRIKES_MAX)):
        if (await root.move_show(request)).status == "Completed":
            break
        await trio.sleep(rng.uniform(0, 0.05))  # for one of them to take it up
        root.ledger.lock_path(request).unlink(missing_ok=True)
        sleeper = rng.choice(workers)
        sleeper.send_signal(signal.SIGSTOP)
        await trio.sleep(rng.uniform(0, 0.3))
        sleeper.send_signal(signal.SIGCONT)
    shown = await root.move_show(request)
    failures: list[str] = []

    async def completed() -> bool:
        nonlocal shown, failures
        shown = await root.move_show(request)
        failures = [entry.text for entry in (await root.report(request)).of(EntryKind.FAILURE)]
        assert shown.status != "Failed", shown.message
        if shown.status_detail == "TransientFailure":
            await root.resume(request)  # on a loaded machine the third lock past its budget is followed by minutes
        return shown.status == "Completed"

    await until(lambda: f"the move to be completed: {shown}; it failed by {failures}", completed, 120)
    assert [worker.poll() for worker in workers] == [None, None], "a worker died of the fight"
