"""The gate before the lock: may this move finalize now, should it follow on, or will it never get there?

Locking is cheap to predict and expensive to get wrong, so the question is answered with a prediction and not with a
try: predicted lock time = backlog / measured rate x 1.5 + the fixed part, which preflight has rehearsed. The same
rounds tell when a mailbox changes faster than it is followed: three in a row whose backlog does not shrink.
"""

from collections.abc import Sequence
from enum import Enum

import attrs

from moverq.limits import Limits


@attrs.frozen(kw_only=True)
class Round:
    """One round of following: what it began with, what it left, and how fast it went."""

    backlog_before: int
    backlog_after: int
    applied: int
    elapsed_s: float

    @property
    def rate(self) -> float | None:
        """Changes a second; None where too little was done to tell."""
        return self.applied / self.elapsed_s if self.applied >= 1 and self.elapsed_s > 0 else None


class Verdict(Enum):
    READY = "ready"
    FOLLOW_ON = "follow on"
    FIXED_TOO_LONG = "fixed part too long"
    """Not even an empty backlog would do: the final steps alone take longer than the budget."""
    CANNOT_CONVERGE = "cannot converge"


@attrs.frozen(kw_only=True)
class Readiness:
    """The gate's answer, with its sentence."""

    verdict: Verdict
    predicted_lock_ms: float
    why: str
    change_rate: float = 0.0
    copy_rate: float = 0.0


def predict_lock_ms(*, backlog: int, rate: float | None, fixed_ms: float, limits: Limits) -> float:
    """How long the lock will last if it is taken now."""
    carry_s = backlog / (rate or limits.gate_rate_default)
    return carry_s * 1000 * limits.gate_factor + max(fixed_ms, limits.fixed_lock_ms_min)


def check_ready(
    rounds: Sequence[Round], *, budget_ms: float | None, fixed_ms: float, discrepancies: Sequence[str], limits: Limits
) -> Readiness:
    """Decide after the last of `rounds`. `budget_ms` None: the mailbox is locked already, nothing to predict for."""
    last = rounds[-1]
    rate = measured_rate(rounds)
    predicted = predict_lock_ms(backlog=last.backlog_after, rate=rate, fixed_ms=fixed_ms, limits=limits)
    if budget_ms is None:
        return Readiness(verdict=Verdict.READY, predicted_lock_ms=predicted, why="the source is locked already")
    if predicted <= budget_ms and last.backlog_after <= limits.locked_changes_max:
        if not discrepancies:
            return Readiness(
                verdict=Verdict.READY,
                predicted_lock_ms=predicted,
                why=f"{last.backlog_after} changes to carry, about {predicted:.0f} ms of {budget_ms:.0f} ms",
            )
        return Readiness(verdict=Verdict.FOLLOW_ON, predicted_lock_ms=predicted, why=discrepancies[0])
    if max(fixed_ms, limits.fixed_lock_ms_min) > budget_ms:
        return Readiness(
            verdict=Verdict.FIXED_TOO_LONG,
            predicted_lock_ms=predicted,
            why=f"the final steps alone take about {fixed_ms:.0f} ms, the lock budget is {budget_ms:.0f} ms",
        )
    stuck = rounds[-limits.gate_rounds_max :]
    if len(stuck) == limits.gate_rounds_max and all(r.backlog_after >= r.backlog_before > 0 for r in stuck):
        elapsed = sum(r.elapsed_s for r in stuck)
        applied = sum(r.applied for r in stuck)
        grown = stuck[-1].backlog_after - stuck[0].backlog_before
        return Readiness(
            verdict=Verdict.CANNOT_CONVERGE,
            predicted_lock_ms=predicted,
            why=f"the backlog has not shrunk in {len(stuck)} rounds",
            change_rate=(applied + grown) / elapsed if elapsed > 0 else 0.0,
            copy_rate=applied / elapsed if elapsed > 0 else 0.0,
        )
    return Readiness(
        verdict=Verdict.FOLLOW_ON,
        predicted_lock_ms=predicted,
        why=f"the lock would last about {predicted:.0f} ms, the budget is {budget_ms:.0f} ms",
    )


def measured_rate(rounds: Sequence[Round]) -> float | None:
    """The slowest of the last three rounds that can be measured: optimism is paid for under the lock."""
    rates = [rate for rate in (r.rate for r in rounds[-3:]) if rate is not None]
    return min(rates) if rates else None
