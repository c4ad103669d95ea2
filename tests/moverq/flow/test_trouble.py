"""Trouble is told when it begins, when it becomes another, and when it is over; and the waits grow to a bound."""

import random

import structlog.testing

from moverq.errors import EndpointBusy, EndpointUnavailable
from moverq.flow.trouble import FIRST_S, MOST_S, Trouble


def test_what_lasts_is_told_once() -> None:
    busy = EndpointBusy(endpoint="ledger", retry_after_s=1.0)
    away = EndpointUnavailable(endpoint="directory", why="no answer")
    with structlog.testing.capture_logs() as said:
        trouble = Trouble("moverq.test", "trying", random.Random(1))
        trouble.is_over()
        waits = [trouble.met(ExceptionGroup("", [busy])) for _ in range(20)]
        trouble.met(away)
        trouble.is_over()
        trouble.is_over()
        trouble.met(busy)
    assert [(one["log_level"], one.get("why"), one.get("tries")) for one in said] == [
        ("warning", str(busy), None),
        ("warning", str(away), None),
        ("info", None, 21),
        ("warning", str(busy), None),
    ]
    assert FIRST_S / 2 <= waits[0] <= FIRST_S
    assert all(MOST_S / 2 <= wait <= MOST_S for wait in waits[10:])
