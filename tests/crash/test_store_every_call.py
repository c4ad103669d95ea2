"""The store, stopped at every disk call, reopened, and asked: is all that was acknowledged there, once, and whole?

And is what was not acknowledged there whole or not at all; do the sums add up; does the log say what the catalogue
says; and does going on lead to the same end? `MOVERQ_CRASH_FULL=1` stops the long scenarios at every call too.
"""

import os
from itertools import count
from pathlib import Path

import pytest

from tests.support.crashing_disk import CrashingDisk, QuickDisk
from tests.support.store_scenarios import (
    SCENARIOS,
    Scenario,
    Snapshot,
    copy_template,
    keep_catalogue,
    make_template,
    put_catalogue_back,
    run,
    snapshot,
    until_power_loss,
)
from tests.support.store_world import check_sound, opened

FULL = os.environ.get("MOVERQ_CRASH_FULL") == "1"
LOST, KEPT = 0, 1


@pytest.fixture(params=SCENARIOS, ids=str)
def scenario(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Scenario:
    found: Scenario = request.param
    found.patch(monkeypatch)
    return found


@pytest.fixture
async def template(tmp_path: Path, scenario: Scenario) -> Path:
    await make_template(tmp_path / "template")
    return tmp_path / "template"


@pytest.fixture
async def expected(template: Path, tmp_path: Path, scenario: Scenario) -> list[Snapshot]:
    """What is there before the first step, and after each one."""
    states: list[Snapshot] = []
    async with opened(template) as database:
        states.append(await snapshot(database))
    await run(copy_template(template, tmp_path / "whole"), QuickDisk(), scenario, states)
    check_sound(tmp_path / "whole")
    return states


async def check_and_go_on(path: Path, scenario: Scenario, acknowledged: int, expected: list[Snapshot]) -> None:
    async with opened(path, disk=QuickDisk()) as database:
        found = await snapshot(database)
    assert found in expected[acknowledged : acknowledged + 2], "neither before nor after the step that was cut short"
    check_sound(path)
    happened = acknowledged if found == expected[acknowledged] else acknowledged + 1
    states = [found]
    await run(path, QuickDisk(), scenario, states, start=happened)
    assert states == expected[happened:]
    check_sound(path)


async def stop_everywhere(
    template: Path,
    tmp_path: Path,
    scenario: Scenario,
    expected: list[Snapshot],
    *,
    seeds: tuple[int, ...],
    first: int = 1,
    stride: int = 1,
) -> None:
    """Stop at every `stride`-th call; for each seed, what power loss may leave is checked."""
    for stop_at in count(first, stride):
        for seed in seeds:
            path = copy_template(template, tmp_path / "crashed")
            disk, done = CrashingDisk(stop_at=stop_at), list[Snapshot]()
            ran_through = await until_power_loss(run(path, disk, scenario, done, look=False))
            disk.power_off(seed * 1000 + stop_at if seed > KEPT else seed)
            await check_and_go_on(path, scenario, len(done), expected)
        if ran_through:
            return


async def calls_of(template: Path, tmp_path: Path, scenario: Scenario) -> int:
    disk = CrashingDisk()
    await run(copy_template(template, tmp_path / "counted"), disk, scenario, [], look=False)
    disk.power_off(KEPT)
    return disk.calls


async def test_nothing_acknowledged_is_lost_at_any_disk_call(
    template: Path, tmp_path: Path, scenario: Scenario, expected: list[Snapshot]
) -> None:
    """At some thirty calls, and at both sides of each sync sooner or later: the slow test stops at all of them."""
    calls = await calls_of(template, tmp_path, scenario)
    assert calls > 10
    await stop_everywhere(template, tmp_path, scenario, expected, seeds=(2,), stride=1 + calls // 30)


@pytest.mark.slow
async def test_nothing_acknowledged_is_lost_however_writes_are_torn(
    template: Path, tmp_path: Path, scenario: Scenario, expected: list[Snapshot]
) -> None:
    calls = await calls_of(template, tmp_path, scenario)
    # An odd stride comes by both sides of calls; the long scenarios repeat what they do.
    stride = 1 if FULL or calls < 120 else 3
    await stop_everywhere(template, tmp_path, scenario, expected, seeds=(LOST, 3), stride=stride)


async def test_nothing_is_lost_where_the_process_dies_first_and_the_machine_later(
    template: Path, tmp_path: Path, scenario: Scenario, expected: list[Snapshot]
) -> None:
    """What a dead process had not synced, the next one relies on: names it made, a frame it wrote."""
    calls = await calls_of(template, tmp_path, scenario)
    for stop_at in count(2, 2 + calls // 30):
        path = copy_template(template, tmp_path / "killed")
        disk, done = CrashingDisk(stop_at=stop_at), list[Snapshot]()
        ran_through = await until_power_loss(run(path, disk, scenario, done, look=False))
        disk.kill()
        async with opened(path, disk=disk) as database:
            found = await snapshot(database)
        assert found in expected[len(done) : len(done) + 2]
        happened = len(done) if found == expected[len(done)] else len(done) + 1
        states = [found]
        await run(path, disk, scenario, states, start=happened)
        assert states == expected[happened:]
        disk.power_off(LOST)
        async with opened(path) as database:
            assert await snapshot(database) == expected[-1]
        check_sound(path)
        if ran_through:
            return


async def test_a_catalogue_that_lost_its_last_commits_is_replayed(
    template: Path, tmp_path: Path, scenario: Scenario, expected: list[Snapshot]
) -> None:
    """SQLite does not sync it at every commit: after power loss it may be as old as its last own checkpoint."""
    newest = max((at for at, step in enumerate(scenario.steps) if step.__name__ == "checkpoint"), default=-1)
    for steps in range(newest + 1, len(scenario.steps)):
        path = copy_template(template, tmp_path / "behind")
        before = Scenario(scenario.name, scenario.steps[:steps], scenario.limits)
        await run(path, QuickDisk(), before, [], look=False)
        keep_catalogue(path, tmp_path / "kept.sqlite")
        await run(path, QuickDisk(), scenario, [], start=steps, look=False)
        put_catalogue_back(tmp_path / "kept.sqlite", path)
        async with opened(path) as database:
            assert await snapshot(database) == expected[-1]
        check_sound(path)


@pytest.mark.slow
@pytest.mark.parametrize(
    "scenario", [found for found in SCENARIOS if "checkpoint" not in found.name], ids=str, indirect=True
)
async def test_a_catalogue_that_is_behind_is_replayed_wherever_the_disk_stopped(
    template: Path, tmp_path: Path, scenario: Scenario, expected: list[Snapshot]
) -> None:
    """The machine stops at any call, and the catalogue is as it was when the database was opened."""
    keep_catalogue(template, tmp_path / "kept.sqlite")
    for stop_at in count(1):
        path = copy_template(template, tmp_path / "crashed")
        disk, done = CrashingDisk(stop_at=stop_at), list[Snapshot]()
        ran_through = await until_power_loss(run(path, disk, scenario, done, look=False))
        disk.power_off(7000 + stop_at)
        put_catalogue_back(tmp_path / "kept.sqlite", path)
        await check_and_go_on(path, scenario, len(done), expected)
        if ran_through:
            return


async def recover_everywhere(
    template: Path, tmp_path: Path, scenario: Scenario, expected: list[Snapshot], *, stride: int
) -> None:
    """Every `stride`-th stop, and in each recovery every stop; the catalogue is behind by everything."""
    keep_catalogue(template, tmp_path / "kept.sqlite")
    for stop_at in count(1, stride):
        crashed = copy_template(template, tmp_path / "crashed")
        disk, done = CrashingDisk(stop_at=stop_at), list[Snapshot]()
        ran_through = await until_power_loss(run(crashed, disk, scenario, done, look=False))
        disk.power_off(9000 + stop_at)
        put_catalogue_back(tmp_path / "kept.sqlite", crashed)
        for stop_again_at in count(1):
            path = copy_template(crashed, tmp_path / "again")
            again = CrashingDisk(stop_at=stop_again_at)
            recovered = await until_power_loss(run(path, again, Scenario("reopened", ()), []))
            again.power_off(stop_again_at)
            async with opened(path, disk=QuickDisk()) as database:
                assert await snapshot(database) in expected[len(done) : len(done) + 2]
            check_sound(path)
            if recovered:
                break
        if ran_through:
            return


@pytest.mark.parametrize("scenario", [found for found in SCENARIOS if "roll" in found.name], ids=str, indirect=True)
async def test_recovery_may_itself_be_stopped_anywhere(
    template: Path, tmp_path: Path, scenario: Scenario, expected: list[Snapshot]
) -> None:
    await recover_everywhere(template, tmp_path, scenario, expected, stride=7)


@pytest.mark.slow
@pytest.mark.parametrize(
    "scenario",
    [found for found in SCENARIOS if "checkpoint" not in found.name and "dropped" not in found.name],
    ids=str,
    indirect=True,
)
async def test_recovery_may_itself_be_stopped_anywhere_in_every_scenario(
    template: Path, tmp_path: Path, scenario: Scenario, expected: list[Snapshot]
) -> None:
    await recover_everywhere(template, tmp_path, scenario, expected, stride=3)
