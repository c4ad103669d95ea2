"""Several orchestrators of one move at once, from a seed. A failure names its seed: `CHAOS_SEED=4711`."""

import os
import random
from pathlib import Path

import pytest

from tests.crash.test_move_every_step import BACK, OFFLINE, ONLINE, Case, run_on
from tests.support.move_chaos import Chaos

SEED = os.environ.get("CHAOS_SEED")


async def survive(case: Case, root: Path, seed: int) -> Chaos:
    """The world was safe after every step, and the move ends."""
    rng = random.Random(seed)
    # With a budget that is long in this slow world commits meet zombies; with the usual one attempts are given up.
    world, script, request_id = await case.begin(root, lock_budget_ms=rng.choice((1000, 60_000, 600_000)))
    chaos = Chaos(world=world, script=script, request_id=request_id, rng=rng, die=rng.choice((0.0, 0.01, 0.05)))
    try:
        await chaos.run()
        engine = await run_on(world, request_id, script)
        await case.check_end(world, engine, request_id)
        await engine.close()
    except Exception as error:
        error.add_note(f"{case.name}: CHAOS_SEED={seed}")
        raise
    return chaos


@pytest.mark.parametrize("case", [ONLINE, BACK, OFFLINE], ids=lambda case: case.name)
async def test_with_several_orchestrators_at_once_nothing_is_lost(
    case: Case, tmp_path: Path, autojump_clock: object
) -> None:
    for seed in [int(SEED)] if SEED else range(4):
        await survive(case, tmp_path / str(seed), seed)


@pytest.mark.slow
@pytest.mark.parametrize("case", [ONLINE, BACK, OFFLINE], ids=lambda case: case.name)
async def test_with_many_seeds_too(case: Case, tmp_path: Path, autojump_clock: object) -> None:
    for seed in range(100, 140):
        await survive(case, tmp_path / str(seed), seed)
