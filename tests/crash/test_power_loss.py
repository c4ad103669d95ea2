"""Power loss at every call of the disk, SQLite's included: catalogue, ledger, item maps and directory stand on it too.

What was not synced is lost, kept, or torn in blocks; names, of files and folders, that were not synced are lost or
kept. Then all is opened again and looked at, the user and the operator do again what they heard no answer to, and it
has to come to the same end. `MOVERQ_CRASH_FULL=1` stops at every call (a quarter of an hour); a run without it takes
some of them, others every day, and a failure says which: `MOVERQ_CRASH_OFFSET` repeats it.
"""

import os
import random
import shutil
import time
from collections.abc import Awaitable, Iterator
from itertools import count
from pathlib import Path

import pytest

from moverq.errors import leaves
from tests.crash.test_store_every_call import check_and_go_on
from tests.support.crashing_disk import CrashingDisk, PowerLoss, QuickDisk
from tests.support.crashing_sqlite import Seam, seam
from tests.support.powered_world import (
    ACTS,
    PoweredWorld,
    act,
    check_end,
    check_safe,
    sight,
    there_and_back,
)
from tests.support.store_scenarios import SCENARIOS, Scenario, Snapshot, copy_template, make_template, run, snapshot
from tests.support.store_world import check_sound, opened

pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
"""Connections that the power loss left open are closed by the collector, on a disk that is off."""
FULL = os.environ.get("MOVERQ_CRASH_FULL") == "1"
OFFSET = int(os.environ.get("MOVERQ_CRASH_OFFSET", time.time() // 86400))
LOST, KEPT = 0, 1


@pytest.fixture
def sqlite() -> Iterator[Seam]:
    with seam() as plugged:
        yield plugged


async def ended_by_power_loss(disk: CrashingDisk, work: Awaitable[None]) -> bool:
    """Did it end because the machine stopped? Whatever follows from that is no failure of its own."""
    try:
        await work
    except BaseException as error:
        if not disk.is_off and not any(isinstance(leaf, PowerLoss) for leaf in leaves(error)):
            raise
        return True
    return False


def seed_of(stop_at: int, which: int) -> int:
    """What power loss leaves: everything lost, everything kept, or (from 2 on) something of each."""
    return which if which <= KEPT else which * 100_000 + stop_at


# ---- the store's scenarios


async def stopped_in_the_store(
    sqlite: Seam, tmp_path: Path, scenario: Scenario, expected: list[Snapshot], stop_at: int, which: int
) -> bool:
    """Has it stopped there? If not, the scenario ran through."""
    path = copy_template(tmp_path / "template", tmp_path / "crashed")
    disk, done = CrashingDisk(stop_at=stop_at, with_sqlite=True), list[Snapshot]()
    disk.watch(path)
    sqlite.disk = disk
    stopped = await ended_by_power_loss(disk, run(path, disk, scenario, done, look=False))
    sqlite.disk = None
    disk.power_off(seed_of(stop_at, which))
    await check_and_go_on(path, scenario, len(done), expected)
    return stopped


@pytest.mark.parametrize("scenario", SCENARIOS, ids=str)
async def test_the_store_loses_nothing_where_sqlite_stops_too(
    sqlite: Seam, tmp_path: Path, scenario: Scenario, monkeypatch: pytest.MonkeyPatch
) -> None:
    scenario.patch(monkeypatch)
    await make_template(tmp_path / "template")
    expected: list[Snapshot] = []
    async with opened(copy_template(tmp_path / "template", tmp_path / "whole")) as database:
        expected.append(await snapshot(database))
    await run(tmp_path / "whole", QuickDisk(), scenario, expected)
    check_sound(tmp_path / "whole")
    stride = 1 if FULL else 41
    for which in (LOST, KEPT, 2, 3) if FULL else (2,):
        for stop_at in count(1 + (OFFSET % stride), stride):
            try:
                if not await stopped_in_the_store(sqlite, tmp_path, scenario, expected, stop_at, which):
                    break
            except BaseException as error:
                error.add_note(f"{scenario}, stopped at call {stop_at}, seed {seed_of(stop_at, which)}")
                raise


# ---- a move there and back


@pytest.fixture
async def world(sqlite: Seam, tmp_path: Path, autojump_clock: object) -> PoweredWorld:
    """What the user sees after each act is known; its files are the template."""
    made = await PoweredWorld.made(tmp_path / "template")
    made.seam = sqlite
    whole = again(made, tmp_path)
    async with whole.on(QuickDisk()) as process:
        made.seen.append(await sight(process))
        for _ in ACTS:
            await act(process)
            made.seen.append(await sight(process))
    return made


def again(template: PoweredWorld, tmp_path: Path) -> PoweredWorld:
    """The world as it was made."""
    root = tmp_path / "root"
    shutil.rmtree(root, ignore_errors=True)
    shutil.copytree(template.root, root)
    return PoweredWorld(root, now=template.now, seam=template.seam, seen=template.seen)


async def stopped_in_a_move(
    template: PoweredWorld, tmp_path: Path, stop_at: int, which: int, *, again_at: int | None = None
) -> bool:
    """Has it stopped there? The one that goes on is stopped too, at its own call `again_at`."""
    world = again(template, tmp_path)
    stopped = await power_goes(world, stop_at, which)
    if again_at is not None:
        await power_goes(world, again_at, which)
    async with world.on(QuickDisk()) as process:
        world.done = await check_safe(process)
        await there_and_back(process)
        await check_end(process)
    return stopped


async def power_goes(world: PoweredWorld, stop_at: int, which: int) -> bool:
    disk = CrashingDisk(stop_at=stop_at, with_sqlite=True)
    disk.watch(world.root)

    async def scenario() -> None:
        async with world.on(disk) as process:
            world.done = await check_safe(process)
            await there_and_back(process)

    stopped = await ended_by_power_loss(disk, scenario())
    disk.power_off(seed_of(stop_at, which))
    return stopped


async def stop_a_move_at(world: PoweredWorld, tmp_path: Path, *, stride: int, leaving: tuple[int, ...]) -> int:
    """Every `stride`-th call, for each of what power loss may leave. Returns the last call."""
    last = 0
    for which in leaving:
        for stop_at in count(1 + (OFFSET % stride), stride):
            try:
                if not await stopped_in_a_move(world, tmp_path, stop_at, which):
                    break
            except BaseException as error:
                error.add_note(f"call {stop_at}, seed {seed_of(stop_at, which)}; MOVERQ_CRASH_OFFSET={OFFSET}")
                raise
            last = max(last, stop_at)
    return last


async def test_here_and_there_a_move_loses_nothing_when_the_power_goes(world: PoweredWorld, tmp_path: Path) -> None:
    assert await stop_a_move_at(world, tmp_path, stride=97, leaving=(LOST,)) > 1000


@pytest.mark.slow
async def test_a_move_there_and_back_loses_nothing_wherever_the_power_goes(world: PoweredWorld, tmp_path: Path) -> None:
    leaving = (LOST, KEPT, 2, 3) if FULL else (2,)
    assert await stop_a_move_at(world, tmp_path, stride=1 if FULL else 9, leaving=leaving) > 1000


@pytest.mark.slow
async def test_the_power_may_go_again_while_a_move_recovers(world: PoweredWorld, tmp_path: Path) -> None:
    """Pairs of calls at random, the second one mostly soon: in the recovery of databases and in the settling."""
    rng = random.Random(OFFSET)
    for _ in range(1000 if FULL else 25):
        stop_at, again_at = rng.randrange(1, 1200), rng.choice((rng.randrange(1, 120), rng.randrange(1, 1200)))
        which = rng.choice((LOST, KEPT, 2, 3))
        try:
            await stopped_in_a_move(world, tmp_path, stop_at, which, again_at=again_at)
        except BaseException as error:
            error.add_note(f"calls {stop_at} and {again_at}, what is left {which}; MOVERQ_CRASH_OFFSET={OFFSET}")
            raise
