from moverq.plan.restarting import DEATHS_MAX, WINDOW_S, restart_after_s


def test_a_process_that_dies_now_and_then_is_started_again_at_once() -> None:
    assert restart_after_s([5.0], now=5.0) == 1.0
    deaths = [n * WINDOW_S for n in range(20)]
    assert restart_after_s(deaths, now=deaths[-1]) == 1.0


def test_the_pauses_double_until_it_is_given_up() -> None:
    deaths: list[float] = []
    pauses: list[float | None] = []
    for n in range(DEATHS_MAX + 1):
        deaths.append(float(n))
        pauses.append(restart_after_s(deaths, now=float(n)))
    assert pauses == [1.0, 2.0, 4.0, 8.0, 16.0, None]
