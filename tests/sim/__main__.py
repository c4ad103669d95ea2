"""Run the simulation: `make sim` some hundred seeds, `make sim SEED=4711` one of them, with its trace.

    python -m tests.sim [--first 0] [--seeds 300] [--minutes 5] [--record FILE]
    python -m tests.sim --seed 4711

A violation ends it: its seed, the commit, the rule and its witness are printed, and the scenario made smaller.
`--record` writes what was reached so far, now and then, for a long run.
"""

import argparse
import json
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

from tests.sim.run import Outcome, run
from tests.sim.scenario import plan_scenario
from tests.sim.shrink import shrink
from tests.sim.sometimes import SOMETIMES, missed

LINES = 60
EVERY_S = 30.0


def main() -> int:
    parser = argparse.ArgumentParser(prog="tests.sim", description=__doc__)
    parser.add_argument("--seed", type=int, help="this one alone, with its trace")
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--seeds", type=int, default=300)
    parser.add_argument("--minutes", type=float, default=float("inf"))
    parser.add_argument("--record", type=Path)
    asked = parser.parse_args()
    if asked.seed is not None:
        outcome = run(plan_scenario(asked.seed))
        print(outcome.scenario, *outcome.lines, sep="\n")
        return tell(outcome)
    return run_many(asked.first, asked.seeds, asked.minutes, asked.record)


def run_many(first: int, seeds: int, minutes: float, record: Path | None) -> int:
    """That many seeds, or until the time is over, or until a rule is broken."""
    sometimes, totals = Counter[str](), Counter[str]()
    began = written = time.monotonic()
    for seed in range(first, first + seeds):
        outcome = run(plan_scenario(seed))
        sometimes += outcome.sometimes
        totals += Counter(runs=1, operations=outcome.operations, moves=outcome.moves, virtual_s=int(outcome.virtual_s))
        now = time.monotonic()
        over = bool(outcome.violations) or seed == first + seeds - 1 or now - began > minutes * 60
        if record is not None and (over or now - written > EVERY_S):
            written = now
            write(record, first, totals, sometimes, now - began, outcome)
        if over:
            break
    if outcome.violations:
        return tell(shrink(outcome))
    print(
        f"{totals['runs']:,} runs, {totals['moves']:,} moves, {totals['operations']:,} operations of clients, "
        f"{totals['virtual_s'] / 3600:,.1f} virtual hours in {time.monotonic() - began:,.0f} s: no rule was broken"
    )
    for what in SOMETIMES:
        print(f"  {sometimes[what]:6,}  {what}")
    return 0


def write(
    record: Path, first: int, totals: Counter[str], sometimes: Counter[str], seconds: float, last: Outcome
) -> None:
    """What was reached so far, as JSON."""
    found = {
        "commit": commit(),
        "first": first,
        "seconds": round(seconds),
        **totals,
        "violations": [str(violation) for violation in last.violations],
        "last_seed": last.scenario.seed,
        "sometimes": dict(sorted(sometimes.items())),
        "missed": missed(sometimes),
    }
    draft = record.with_suffix(".draft")
    draft.write_text(json.dumps(found, indent=1) + "\n")
    draft.replace(record)


def tell(outcome: Outcome) -> int:
    """The violation, with all that is needed to see it again."""
    if not outcome.violations:
        print(f"seed {outcome.scenario.seed}: no rule was broken; trace {outcome.digest}")
        return 0
    print(
        f"make sim SEED={outcome.scenario.seed}   (commit {commit()})",
        *outcome.violations,
        f"made smaller: {outcome.scenario}",
        *outcome.lines[-LINES:],
        sep="\n",
    )
    return 1


def commit() -> str:
    """Which code this is."""
    try:
        shown = subprocess.run(
            ["git", "describe", "--always", "--dirty"],
            capture_output=True,
            text=True,
            check=True,
            cwd=Path(__file__).parent,
        )
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return shown.stdout.strip()


if __name__ == "__main__":
    sys.exit(main())
