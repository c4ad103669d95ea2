"""The store, stopped at every disk call, reopened, and asked: is all that was acknowledged there, once, and whole?

And is what was not acknowledged there whole or not at all; do the sums add up; does the log say what the catalogue
says; and does going on lead to the same end?
"""

from itertools import count
from pathlib import Path

import pytest

from tests.support.crashing_disk import CrashingDisk
from tests.support.store_scenarios import (
    SCENARIOS,
    Scenario,
    Snapshot,
    copy_template,
    make_template,
    run,
    snapshot,
    until_power_loss,
)
from tests.support.store_world import check_sound, opened

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
    await run(copy_template(template, tmp_path / "whole"), CrashingDisk(), scenario, states)
    check_sound(tmp_path / "whole")
    return states


async def check_and_go_on(path: Path, scenario: Scenario, acknowledged: int, expected: list[Snapshot]) -> None:
    async with opened(path, disk=CrashingDisk()) as database:
        found = await snapshot(database)
    assert found in expected[acknowledged : acknowledged + 2], "neither before nor after the step that was cut short"
    check_sound(path)
    happened = acknowledged if found == expected[acknowledged] else acknowledged + 1
    states = [found]
    await run(path, CrashingDisk(), scenario, states, start=happened)
    assert states == expected[happened:]
    check_sound(path)


async def stop_everywhere(
    template: Path, tmp_path: Path, scenario: Scenario, expected: list[Snapshot], seeds: tuple[int, ...]
) -> int:
    """Stop at every call; for each seed, what power loss may leave is checked. Returns how many calls there were."""
    for stop_at in count(1):
        for seed in seeds:
            path = copy_template(template, tmp_path / "crashed")
            disk, done = CrashingDisk(stop_at=stop_at), list[Snapshot]()
            ran_through = await until_power_loss(run(path, disk, scenario, done, look=False))
            disk.power_off(seed * 1000 + stop_at if seed > KEPT else seed)
            await check_and_go_on(path, scenario, len(done), expected)
        if ran_through:
            return stop_at
    raise AssertionError


async def test_nothing_acknowledged_is_lost_at_any_disk_call(
    template: Path, tmp_path: Path, scenario: Scenario, expected: list[Snapshot]
) -> None:
    calls = await stop_everywhere(template, tmp_path, scenario, expected, (2,))
    assert calls > 10


@pytest.mark.slow
async def test_nothing_acknowledged_is_lost_however_writes_are_torn(
    template: Path, tmp_path: Path, scenario: Scenario, expected: list[Snapshot]
) -> None:
    await stop_everywhere(template, tmp_path, scenario, expected, (LOST, KEPT, 3, 4))
