"""A failing scenario made smaller: acts and faults are left out, first by halves, as long as the same rule is broken.

What is left is run anew each time, so a smaller scenario is a proof of its own. Bounded by `TRIES`: the aim is a trace
that fits a screen, not the smallest one.
"""

import attrs

from tests.sim.run import Outcome, run
from tests.sim.scenario import Act, Fault, Scenario

TRIES = 150


def shrink(failed: Outcome) -> Outcome:
    """An outcome that breaks the same rule, of a scenario with no more steps."""
    rule = failed.violations[0].rule
    best, tries = failed, 0
    steps: list[Act | Fault] = [*failed.scenario.acts, *failed.scenario.faults]
    size = max(len(steps) // 2, 1)
    while size:
        at = 0
        while at < len(steps) and tries < TRIES:
            fewer = steps[:at] + steps[at + size :]
            tries += 1
            outcome = run(_of(failed.scenario, fewer))
            if outcome.violations and outcome.violations[0].rule == rule:
                best, steps = outcome, fewer
            else:
                at += size
        size = size // 2 if tries < TRIES else 0
    return best


def _of(scenario: Scenario, steps: list[Act | Fault]) -> Scenario:
    return attrs.evolve(
        scenario,
        acts=tuple(step for step in steps if isinstance(step, Act)),
        faults=tuple(step for step in steps if isinstance(step, Fault)),
    )
