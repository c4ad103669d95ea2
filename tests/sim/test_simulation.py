"""The simulation in CI: a seed is a run, the same each time; no rule is broken; and the run set is not blind."""

import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import attrs
import pytest

from tests.sim.__main__ import commit
from tests.sim.run import Outcome, run
from tests.sim.scenario import FAULTS, plan_scenario
from tests.sim.shrink import shrink
from tests.sim.sometimes import SOMETIMES, missed

FIRST = int(os.environ.get("SIM_FIRST", "0"))
BLOCK = 100
BLOCKS = 20
REPOSITORY = Path(__file__).resolve().parents[2]


def hold(outcome: Outcome) -> None:
    """No rule was broken; else all that is needed to see it again."""
    if outcome.violations:
        smaller = shrink(outcome)
        lines = [str(violation) for violation in smaller.violations]
        pytest.fail(
            f"make sim SEED={outcome.scenario.seed}   (commit {commit()})\n"
            + "\n".join([*lines, f"made smaller: {smaller.scenario}", *smaller.lines[-60:]])
        )


def test_no_rule_is_broken_in_some_runs() -> None:
    for seed in range(40):
        hold(run(plan_scenario(seed)))


@pytest.mark.slow
@pytest.mark.parametrize("block", range(BLOCKS))
def test_no_rule_is_broken_in_many_runs(block: int) -> None:
    """2,000 seeds, in blocks that several workers share. `SIM_FIRST=…` for others than the first."""
    for seed in range(FIRST + block * BLOCK, FIRST + (block + 1) * BLOCK):
        hold(run(plan_scenario(seed)))


def test_the_same_seed_is_the_same_run() -> None:
    for seed in (3, 15, 22):
        assert run(plan_scenario(seed)).digest == run(plan_scenario(seed)).digest
    assert run(plan_scenario(3)).digest != run(plan_scenario(15)).digest


def test_blocking_calls_overlap_and_the_seed_decides_how() -> None:
    scenarios = [attrs.evolve(plan_scenario(seed), splits=True) for seed in range(100, 106)]
    outcomes = [run(scenario) for scenario in scenarios]
    for outcome in outcomes:
        hold(outcome)
    assert sum(outcome.sometimes["others ran within a blocking call"] for outcome in outcomes) > 100
    assert any(outcome.sometimes["waited for another's lock"] for outcome in outcomes)
    assert run(scenarios[0]).digest == outcomes[0].digest


def test_the_same_seed_is_the_same_run_in_another_process() -> None:
    """Where hashes of strings, and so the order of sets, differ."""
    found = set()
    for hash_seed in ("1", "2"):
        shown = subprocess.run(
            [sys.executable, "-m", "tests.sim", "--seed", "22"],
            env={**os.environ, "PYTHONHASHSEED": hash_seed},
            capture_output=True,
            text=True,
            check=True,
            cwd=REPOSITORY,
        )
        found.add(shown.stdout)
    assert len(found) == 1
    assert run(plan_scenario(22)).digest in found.pop()


LOOKED_FOR = {
    "compare-and-set answer lost, won": ("directory answers lost", "directory answers lost"),
    "compare-and-set answer lost, lost": ("asleep at the register", "directory answers lost", "kill"),
    "a stale worker wakes after the commit": ("pause", "pause"),
    "died between append and its answer": ("kill in call", "kill in call"),
    "disk error: sync": ("disk error", "disk error"),
    "verify mismatch repaired": ("map loses a row", "map loses a row"),
    "an operator had both sides compared anew": ("map loses a row",) * 8,
    "a catalogue fell back": ("catalogue", "catalogue", "power"),
    "disk full at the target of a move": ("disk full", "disk full"),
    "feed trimmed": ("directory away", "endpoint refuses", "power", "kill", "stop"),
}
"""What is rare, and the faults to look for it with."""


@pytest.mark.slow
def test_what_a_blind_run_set_would_never_see_is_reached() -> None:
    """Each thing of the list, within a few hundred runs; what is rare, among the faults that bring it about."""
    sometimes = Counter[str]()
    for seed in range(10_000, 10_150):
        sometimes += run(plan_scenario(seed)).sometimes
    for what, kinds in LOOKED_FOR.items():
        for seed in range(20_000, 20_400):
            if sometimes[what]:
                break
            outcome = run(plan_scenario(seed, kinds=kinds))
            hold(outcome)
            sometimes += outcome.sometimes
    for seed in range(30_000, 30_400):
        if not missed(sometimes):
            break
        sometimes += run(plan_scenario(seed)).sometimes
    assert missed(sometimes) == []
    assert set(LOOKED_FOR) <= set(SOMETIMES)
    assert {kind for kinds in LOOKED_FOR.values() for kind in kinds} <= set(FAULTS)


def test_a_failing_run_is_made_smaller(monkeypatch: pytest.MonkeyPatch) -> None:
    """A rule that no run with a purge can keep is broken by one purge and nothing else."""
    from tests.sim import judge

    def no_purge(begin: object, ops: list[object]) -> object:
        for op in ops:
            if op.verb == "purge" and op.outcome == "done":  # type: ignore[attr-defined]
                yield judge.Violation("nobody purges", str(op))

    monkeypatch.setattr("tests.sim.judge._judge_settings", no_purge)
    failed = next(
        outcome for seed in range(40) if (outcome := run(plan_scenario(seed))).violations and outcome.scenario.faults
    )
    smaller = shrink(failed)
    assert smaller.violations[0].rule == "nobody purges"
    assert [act.verb for act in smaller.scenario.acts] == ["purge"]
    assert smaller.scenario.faults == ()
