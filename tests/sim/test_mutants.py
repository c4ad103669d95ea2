"""Every mutant is caught, and by a rule, or a test, that is about it."""

import os
import subprocess
import sys
from pathlib import Path
from unittest.mock import patch

import attrs
import pytest

from tests.sim.mutants import MUTANTS, Mutant, built
from tests.sim.run import Outcome, run, template
from tests.sim.scenario import Act, Scenario, plan_scenario

SEEDS = 300
PYTEST = ("-q", "-x", "-n", "0", "-m", "not slow", "-p", "no:cacheprovider", "-p", "tests.sim.mutants")
REPOSITORY = Path(__file__).resolve().parents[2]
IN_RUNS = [mutant for mutant in MUTANTS if mutant.test is None]
IN_TESTS = [mutant for mutant in MUTANTS if mutant.test is not None]


def scenario_for(mutant: Mutant, seed: int) -> Scenario:
    """A scenario with what brings this mutant out: its faults, several workers without file locks, long soaks."""
    plain = plan_scenario(seed, kinds=mutant.faults or None)
    asked = tuple(Act(1.0 + number, "admin", verb, (0, seed, seed)) for number, verb in enumerate(mutant.verbs))
    if mutant.is_busy:
        verbs = ("append", "flag", "move", "append")
        asked += tuple(Act(0.2 + 0.015 * n, "client0", verbs[n % 4], (n * 7, n * 5, n * 3)) for n in range(80))
    acts = sorted((*plain.acts, *asked), key=lambda act: act.at)
    return attrs.evolve(plain, workers=max(plain.workers, 2), file_locks=False, splits=mutant.splits, acts=tuple(acts))


def hunt(mutant: Mutant, *, seeds: int = SEEDS) -> tuple[int, Outcome | None]:
    """The first run that breaks a rule, and how many it took."""
    template()  # made by the engine as it is
    with built(mutant), patch("tests.sim.run.LIVENESS_S", 120.0):
        for number in range(seeds):
            outcome = run(scenario_for(mutant, mutant.first + number))
            if outcome.violations:
                return number + 1, outcome
    return seeds, None


@pytest.mark.slow
@pytest.mark.parametrize("mutant", IN_RUNS, ids=str)
def test_a_mutant_is_caught_by_a_rule(mutant: Mutant) -> None:
    _, outcome = hunt(mutant)
    assert outcome is not None, f"{mutant.name} is not caught in {SEEDS} runs: {mutant.what}"
    assert outcome.violations[0].rule in mutant.caught, f"caught by another rule: {outcome.violations[0]}"


@pytest.mark.slow
@pytest.mark.parametrize("mutant", IN_TESTS, ids=str)
def test_a_mutant_is_caught_by_a_test(mutant: Mutant) -> None:
    """The test that claims what the mutant breaks fails, and it fails for no other reason: without it, it passes in
    the same suite."""
    assert mutant.test is not None
    shown = subprocess.run(
        [sys.executable, "-m", "pytest", *PYTEST, mutant.test],
        env={**os.environ, "MOVERQ_MUTANT": mutant.name},
        capture_output=True,
        text=True,
        cwd=REPOSITORY,
    )
    assert shown.returncode == 1, shown.stdout[-2000:]
    assert "1 failed" in shown.stdout


OF_THE_MODEL = {
    "late_writer", "abort_nocas", "lock_ttl", "no_source_token", "intent_unfenced", "open_before_cas",
    "sync_before_lock", "delete_before_cas", "mirror_open", "cas_no_epoch",
}  # fmt: skip
OF_COPY_AND_STORE = {
    "naive_fuzzy_copy", "append_without_intent", "journal_left_behind", "xor_digest", "catalogue_ahead",
    "answer_before_commit", "replay_without_rewriting", "unlock_on_cancel", "ledgers_tokens",
    "watermark_without_timeline", "envelope_key", "no_folder_sync", "watermark_after_read", "purge_without_checks",
}  # fmt: skip


def test_there_is_a_mutant_for_each_tempting_mistake() -> None:
    names = {mutant.name for mutant in MUTANTS}
    assert len(names) == len(MUTANTS)
    assert names >= OF_THE_MODEL | OF_COPY_AND_STORE
