"""Into how many batches a page is cut."""

import pytest

from moverq.endpoints.imap.pace import FIRST, Pace, Took


def least(taking_s: float, end_s: float, at_most: int) -> int:
    """By trying each."""
    return min(range(1, at_most + 1), key=lambda n: taking_s / n + n * end_s)


def noted(taking_s: float, end_s: float, *, pages: int, at_most: int) -> Pace:
    """After so many pages into a server that takes them so, each cut as the ones before it say."""
    pace = Pace()
    for _ in range(pages):
        n = pace.batches(at_most=at_most)
        pace.note([Took(taking_s / n, end_s)] * n)
    return pace


def test_before_anything_is_known_it_is_two_or_what_there_may_be() -> None:
    assert [Pace().batches(at_most=n) for n in (0, 1, 2, 8)] == [1, 1, FIRST, FIRST]


@pytest.mark.parametrize("at_most", [1, 4, 8])
@pytest.mark.parametrize(
    ("taking_s", "end_s"),
    [(0.020, 0.004), (0.180, 0.004), (0.025, 0.020), (0.020, 0.200), (1.0, 0.010), (0.0, 0.010)],
    ids=["mdbox", "Maildir", "a large folder", "a far server", "a slow one", "all in the sockets"],
)
def test_it_is_what_takes_least_time(taking_s: float, end_s: float, at_most: int) -> None:
    pace = noted(taking_s, end_s, pages=10, at_most=at_most)
    n, best = pace.batches(at_most=at_most), least(taking_s, end_s, at_most)
    assert taking_s / n + n * end_s <= 1.05 * (taking_s / best + best * end_s)


def test_a_server_that_changes_is_followed() -> None:
    pace = noted(0.180, 0.004, pages=10, at_most=8)
    assert pace.batches(at_most=8) == 7
    for _ in range(20):  # the folder has grown
        pace.note([Took(0.020, 0.020)])
    assert pace.batches(at_most=8) == 1


def test_one_page_that_was_held_up_says_little() -> None:
    pace = noted(0.180, 0.004, pages=10, at_most=8)
    pace.note([Took(0.090, 0.010), Took(0.090, 0.004)])
    assert pace.batches(at_most=8) >= 6


def test_what_an_end_took_longer_than_another_was_taking() -> None:
    one, other = Pace(), Pace()
    one.note([Took(4.0, 1.0), Took(0.0, 5.0)])
    other.note([Took(4.0, 1.0), Took(4.0, 1.0)])
    assert one == other


def test_a_clock_that_stands_still_divides_by_nothing() -> None:
    pace = Pace()
    pace.note([Took(0.0, 0.0)])
    assert pace.batches(at_most=8) == FIRST
