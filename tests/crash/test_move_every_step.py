"""A move that is killed at every durable step, taken over, or met again by a zombie: nothing acknowledged is lost.

A step is either side of an effect: each ledger write, each endpoint's and directory's effect. The engine is killed at
step 1, 2, 3 … (everything of it is thrown away), a fresh one runs on to the end, and the world is checked after both.
Meanwhile a user works: every eighth step does one verb of the script.

The fast set walks the steps with a stride; `MOVERQ_CRASH_FULL=1` takes every one.
"""

import os
from collections.abc import Awaitable, Callable
from pathlib import Path

import attrs
import pytest
import trio

from moverq import moves
from moverq.endpoints.base import GuardMode
from moverq.errors import leaves
from moverq.model.facts import SeedWatermark
from moverq.model.ids import RequestId
from moverq.model.request import Status
from tests.support.move_script import Script
from tests.support.move_world import ADDRESS, Engine, World, fill

FULL = os.environ.get("MOVERQ_CRASH_FULL") == "1"
AFTER = ("deliver", "flag", "swap", "purge", "append-new-folder", "move", "setting", "deliver-key", "deliver-again")


class Killed(BaseException):
    """The process is gone."""


class BrokenScript(BaseException):
    """The test itself is wrong: no engine may take this for a failure of its own."""


@attrs.define(eq=False)
class Steps:
    """Counts steps; lets the user act at every eighth, and just before a lock; kills at `kill_at`, or falls asleep at
    `sleep_at`, to wake as a zombie."""

    script: Script | None
    kill_at: int = 0
    every: int = 8
    count: int = 0
    names: list[str] = attrs.field(factory=list)
    sleep_at: int = 0
    asleep: trio.Event = attrs.field(factory=trio.Event)
    wake: trio.Event = attrs.field(factory=trio.Event)
    check: World | None = None
    """Asked for its safety after every step."""

    async def __call__(self, name: str) -> None:
        self.count += 1
        if self.check is not None:
            await self.check.check_safe()
        self.names.append(name)
        if self.script is not None and (self.count % self.every == 0 or name.endswith(".lock:before")):
            try:
                await self.script.act()
            except Exception as error:
                raise BrokenScript(name) from error
        if self.count == self.kill_at:
            raise Killed(name)
        if self.count == self.sleep_at:
            self.asleep.set()
            await self.wake.wait()


@attrs.frozen
class Case:
    """What is moved, and what is killed: the move itself, or the rollback that follows it."""

    name: str
    offline: bool = False
    back: bool = False
    """The move has been completed; its rollback is what is killed."""

    async def begin(self, root: Path, *, lock_budget_ms: int = 1000) -> tuple[World, Script, RequestId]:
        world = await World.make(root, version="2003" if self.offline else "2010")
        filled = await fill(world)
        engine = world.engine()
        ledger = await engine.ledger()
        request = (
            await moves.new_move(ledger, engine.directory, ADDRESS, "DB2", lock_budget_ms=lock_budget_ms)
        ).request
        script = Script.of(world, filled)
        request_id = request.request_id
        if self.back:
            await (await engine.job(request_id)).run()
            script = Script.of(world, filled, AFTER)
            await script.act()
            await script.act()
            parent, request_id = (
                request_id,
                (await moves.rollback(ledger, engine.directory, request_id)).request.request_id,
            )
            await (await engine.job(parent)).run()
        await engine.close()
        return world, script, request_id

    async def check_end(self, world: World, engine: Engine, request_id: RequestId) -> None:
        await world.check_safe(at_rest=True)
        ledger = await engine.ledger()
        stats = await moves.get(ledger, request_id)
        assert stats.status == Status.COMPLETED.value, stats.message
        assert stats.digest_source == stats.digest_target == stats.digest_ledger
        # The order of writes alone holds this: verification had nothing to find, and nothing was compared anew.
        assert (await ledger.facts(request_id)).need(SeedWatermark).generation == 1
        home = (await world.recipient()).register.home
        assert home.database == ("DB1" if self.back else "DB2")
        others = [i for i in world.instances() if i.instance != home.instance]
        assert [i.guard.mode for i in others] == [GuardMode.RETIRED]
        item_map = ledger.item_map(request_id)
        assert await item_map.is_sound()
        held = {k: v for k, v in (await item_map.account()).digests.items() if v.items}
        at_home = {k: v for k, v in (await world.at_home()).digests.items() if v.items}
        assert held == at_home, "the map is not what both sides hold"
        # The way back is as good as the way there: the retired side has caught up.
        assert {k: v for k, v in others[0].digests.items() if v.items} == at_home
        await item_map.aclose()


ONLINE = Case("online")
OFFLINE = Case("offline", offline=True)
BACK = Case("rollback", back=True)
OFFLINE_BACK = Case("offline rollback", offline=True, back=True)


async def run_on(world: World, request_id: RequestId, script: Script, *, every: int = 8) -> Engine:
    """A fresh engine runs the move to its end, and the user's script with it."""
    engine = world.engine(step=Steps(script, every=every))
    await (await engine.job(request_id)).run()
    while script.left:
        await script.act()
    await (await engine.job(request_id)).run()  # what the user did at last goes the way back
    return engine


async def killed_at(case: Case, root: Path, step: int, *, again_at: int = 0) -> tuple[bool, str]:
    """Kill at `step` (and the one that recovers at its own step `again_at`). Did it get that far, and where?"""
    world, script, request_id = await case.begin(root)
    steps = Steps(script, kill_at=step)
    died = await _until_killed(world, world.engine(step=steps), request_id)
    where = steps.names[-1]
    await world.check_safe()
    if died and again_at:
        await _until_killed(world, world.engine(step=Steps(script, kill_at=again_at)), request_id)
        await world.check_safe()
    engine = await run_on(world, request_id, script)
    await case.check_end(world, engine, request_id)
    await engine.close()
    return died, where


async def _until_killed(world: World, engine: Engine, request_id: RequestId) -> bool:
    """Run the move in `engine`, and be rid of it. Was it killed?"""
    try:
        await (await engine.job(request_id)).run()
    except BaseException as error:
        if not any(isinstance(leaf, Killed) for leaf in leaves(error)):
            raise
        return True
    finally:
        await engine.close()
    return False


async def taken_over_at(case: Case, root: Path, step: int) -> tuple[bool, str]:
    """The first orchestrator falls asleep at `step`; a second takes over and finishes; then the first wakes."""
    world, script, request_id = await case.begin(root)
    steps = Steps(script, sleep_at=step)
    first = world.engine(step=steps)
    slept = False

    async def zombie() -> None:
        await (await first.job(request_id)).run()
        steps.asleep.set()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(zombie)
        await steps.asleep.wait()
        slept = steps.count == step
        where = steps.names[-1]
        await world.check_safe()
        engine = await run_on(world, request_id, script)
        await case.check_end(world, engine, request_id)
        await engine.close()
        steps.wake.set()
    await world.check_safe()
    await first.close()
    # Whatever the zombie did, the next one finds the move finished and both sides equal.
    engine = await run_on(world, request_id, script)
    await case.check_end(world, engine, request_id)
    await engine.close()
    return slept, where


async def duel_at(case: Case, root: Path, step: int, at: int) -> tuple[bool, bool]:
    """The first falls asleep at `step`; the second takes over and, at its own step `at`, stops while the first wakes
    and goes on as far as it is let; then the second goes on. Safe after each step of both."""
    world, script, request_id = await case.begin(root, lock_budget_ms=3_600_000)
    first, second = Steps(script, sleep_at=step, check=world), Steps(script, sleep_at=at, check=world)
    over = trio.Event()

    async def run_first() -> None:
        await _until_killed(world, world.engine(step=first), request_id)
        first.asleep.set()
        over.set()

    async def run_second() -> None:
        await _until_killed(world, world.engine(step=second), request_id)
        second.asleep.set()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(run_first)
        await first.asleep.wait()
        nursery.start_soon(run_second)
        await second.asleep.wait()
        first.wake.set()
        with trio.move_on_after(600):
            await over.wait()
        second.wake.set()
    engine = await run_on(world, request_id, script)
    await case.check_end(world, engine, request_id)
    await engine.close()
    return first.count >= step, second.count >= at


async def removed_at(case: Case, root: Path, step: int) -> tuple[bool, str]:
    """An operator's `remove` comes at `step`, and the engine is killed a little later: the move is given up, or it
    was too late: it is completed, and stays, or, where it soaked already, only its record goes."""
    world, script, request_id = await case.begin(root)
    before = (await world.recipient()).register.home
    operator = world.engine()
    ledger = await operator.ledger()
    steps = Steps(script, kill_at=step + 7)

    async def asked(name: str) -> None:
        if steps.count + 1 == step:
            await moves.remove(ledger, request_id, force=True)
        await steps(name)

    engine = world.engine(step=asked)
    await _until_killed(world, engine, request_id)
    if steps.count < step:
        return False, steps.names[-1]
    await world.check_safe()
    await _until_killed(world, world.engine(step=Steps(script)), request_id)
    await world.check_safe(at_rest=True)
    assert await ledger.find(mailbox_id=world.mailbox_id, statuses=[s for s in Status if not s.is_final]) == []
    recipient = await world.recipient()
    others = [i for i in world.instances() if i.instance != recipient.register.home.instance]
    if recipient.register.home == before and not case.back:
        assert others == [], "the target of a move that was given up is still there"
        assert recipient.active_move is None
    else:
        assert [i.guard.mode for i in others] == [GuardMode.RETIRED]
    await operator.close()
    return True, steps.names[-1]


async def finished_at(case: Case, root: Path, step: int) -> tuple[bool, str]:
    """The soak is ended and the old mailbox deleted, and later purged, with a kill at `step` of that."""
    world, script, request_id = await case.begin(root)
    engine = await run_on(world, request_id, script)
    ledger = await engine.ledger()
    await moves.complete(ledger, request_id)
    steps = Steps(None, kill_at=step)
    died = await _until_killed(world, world.engine(step=steps), request_id)
    await world.check_safe(at_rest=True)
    await _until_killed(world, world.engine(), request_id)
    stats = await moves.get(ledger, request_id)
    assert stats.sync_stage == "SyncFinished"
    world.now += 31 * 86_400_000
    died = died or await _until_killed(world, world.engine(step=Steps(None, kill_at=step)), request_id)
    await _until_killed(world, world.engine(), request_id)
    await world.check_safe(at_rest=True)
    assert [i.instance for i in world.instances()] == [(await world.recipient()).register.home.instance]
    assert (await world.recipient()).active_move is None
    assert not ledger.map_path(request_id).exists()
    assert (await moves.report(ledger, request_id)).entries, "the report stays"
    await engine.close()
    return died, steps.names[-1]


async def killed_twice_at(case: Case, root: Path, step: int) -> tuple[bool, str]:
    """The one that recovers is killed too, soon after it began: where it settles."""
    return await killed_at(case, root, step, again_at=1 + step % 16)


async def steps_of(case: Case, root: Path) -> list[str]:
    """The names of the steps, in order, of a move that nothing disturbs."""
    world, script, request_id = await case.begin(root)
    steps = Steps(script)
    await _until_killed(world, world.engine(step=steps), request_id)
    return steps.names


How = Callable[[Case, Path, int], Awaitable[tuple[bool, str]]]


async def walk(case: Case, tmp_path: Path, how: How, *, first: int, stride: int) -> int:
    """`how` at steps `first`, `first + stride`, … until the move runs through before it comes to one."""
    step, walked = first, 0
    while True:
        got_there, where = await _told(how, case, tmp_path, step)
        walked += 1
        if not got_there:
            return walked
        assert where
        step += stride


async def _told(how: How, case: Case, tmp_path: Path, step: int) -> tuple[bool, str]:
    try:
        return await how(case, tmp_path / f"{how.__name__}-{step}", step)
    except Exception as error:
        error.add_note(f"{case.name}, {how.__name__}, step {step}")
        raise


ALL = [ONLINE, OFFLINE, BACK, OFFLINE_BACK]
HOWS: list[How] = [killed_at, killed_twice_at, taken_over_at, removed_at]


@pytest.mark.parametrize(("case", "how", "first"), [
    (ONLINE, killed_at, 9), (ONLINE, taken_over_at, 4), (ONLINE, removed_at, 14), (BACK, killed_at, 20),
    (BACK, taken_over_at, 11), (OFFLINE, killed_at, 31), (ONLINE, finished_at, 3),
])  # fmt: skip
async def test_here_and_there_a_move_ends_as_if_nothing_had_happened(
    case: Case, how: How, first: int, tmp_path: Path, autojump_clock: object
) -> None:
    assert await walk(case, tmp_path, how, first=first, stride=29) >= 2


@pytest.mark.slow
@pytest.mark.parametrize("how", HOWS, ids=lambda how: how.__name__)
@pytest.mark.parametrize("case", ALL, ids=lambda case: case.name)
async def test_at_every_step_a_move_ends_as_if_nothing_had_happened(
    case: Case, how: How, tmp_path: Path, autojump_clock: object
) -> None:
    stride = 1 if FULL else 4
    assert await walk(case, tmp_path, how, first=1, stride=stride) >= 20 / stride


async def test_a_zombie_that_wakes_while_another_settles_changes_nothing(
    tmp_path: Path, autojump_clock: object
) -> None:
    """Around the commit: the first sleeps there, and wakes at each of the other's first steps."""
    names = await steps_of(ONLINE, tmp_path / "names")
    commit = names.index("directory.relocate:before")
    for step in range(commit - 3, commit + 3):
        for at in range(5, 20, 1 if FULL else 2):
            await duel_at(ONLINE, tmp_path / f"{step}-{at}", step + 1, at)


async def test_a_zombie_that_wakes_in_its_rehearsal_takes_a_higher_token_for_what_it_is(
    tmp_path: Path, autojump_clock: object
) -> None:
    """Not for a broken guard: a move that another one has finished is not disturbed, and ends without a warning."""
    names = await steps_of(ONLINE, tmp_path / "names")
    rehearsed = [number for number, name in enumerate(names, 1) if name == "DB2.claim:after"]
    commit = names.index("directory.relocate:before")
    for step in rehearsed:
        for at in range(commit - 6, commit + 6):
            await duel_at(ONLINE, tmp_path / f"{step}-{at}", step, at)


@pytest.mark.slow
@pytest.mark.parametrize("case", [ONLINE, BACK], ids=lambda case: case.name)
async def test_a_zombie_may_wake_anywhere(case: Case, tmp_path: Path, autojump_clock: object) -> None:
    names = await steps_of(case, tmp_path / "names")
    for step in range(3, len(names), 1 if FULL else 11):
        for at in range(1, len(names), 1 if FULL else 13):
            if not (await duel_at(case, tmp_path / f"{step}-{at}", step, at))[1]:
                break


@pytest.mark.slow
async def test_the_old_mailbox_is_deleted_once_and_only_it(tmp_path: Path, autojump_clock: object) -> None:
    assert await walk(ONLINE, tmp_path, finished_at, first=1, stride=1) > 10
