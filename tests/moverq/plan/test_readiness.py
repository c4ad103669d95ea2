from collections.abc import Sequence

from moverq.limits import Limits
from moverq.plan.readiness import Readiness, Round, Verdict, check_ready, predict_lock_ms

LIMITS = Limits()


def ask(
    rounds: Sequence[Round], *, budget_ms: float | None = 1000.0, fixed_ms: float = 50.0, found: Sequence[str] = ()
) -> Readiness:
    return check_ready(rounds, budget_ms=budget_ms, fixed_ms=fixed_ms, discrepancies=found, limits=LIMITS)


def round_(before: int, after: int, applied: int = 100, elapsed_s: float = 1.0) -> Round:
    return Round(backlog_before=before, backlog_after=after, applied=applied, elapsed_s=elapsed_s)


def test_the_prediction_is_backlog_by_rate_with_a_margin_and_the_fixed_part() -> None:
    assert predict_lock_ms(backlog=100, rate=1000.0, fixed_ms=50, limits=LIMITS) == 200.0
    assert predict_lock_ms(backlog=0, rate=None, fixed_ms=1, limits=LIMITS) == LIMITS.fixed_lock_ms_min


def test_a_small_backlog_is_ready_and_a_large_one_is_not() -> None:
    assert ask([round_(100, 10)]).verdict is Verdict.READY
    assert ask([round_(500, 100)]).verdict is Verdict.FOLLOW_ON


def test_the_slowest_of_the_last_rounds_is_believed() -> None:
    fast, slow = round_(50, 40, applied=1000), round_(50, 40, applied=10)
    assert ask([fast]).verdict is Verdict.READY
    assert ask([slow, fast]).verdict is Verdict.FOLLOW_ON


def test_a_difference_keeps_even_an_empty_backlog_from_the_lock() -> None:
    readiness = ask([round_(0, 0)], found=("folder 'A': 3 items at the source, 2 at the target",))
    assert (readiness.verdict, readiness.why[:10]) == (Verdict.FOLLOW_ON, "folder 'A'")


def test_three_rounds_that_do_not_shrink_cannot_converge_and_say_how_fast_it_would_have_to_be() -> None:
    rounds = [round_(1000, 1000), round_(1000, 1200), round_(1200, 1300)]
    assert ask(rounds[:2]).verdict is Verdict.FOLLOW_ON
    readiness = ask(rounds)
    assert readiness.verdict is Verdict.CANNOT_CONVERGE
    assert (readiness.change_rate, readiness.copy_rate) == (200.0, 100.0)
    assert ask([rounds[0], round_(1000, 900), rounds[2]]).verdict is Verdict.FOLLOW_ON


def test_final_steps_that_are_longer_than_the_budget_are_not_a_backlog() -> None:
    assert ask([round_(0, 0)] * 3, fixed_ms=2000).verdict is Verdict.FIXED_TOO_LONG


def test_a_locked_source_has_no_budget() -> None:
    assert ask([round_(9, 9)] * 3, budget_ms=None).verdict is Verdict.READY


def test_more_than_the_lock_may_carry_is_never_ready_however_fast() -> None:
    assert ask([round_(10**6, 20_000, applied=10**9)]).verdict is not Verdict.READY
