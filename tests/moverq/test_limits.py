import pytest

from moverq.limits import Limits


def test_the_process_must_hold_at_least_one_move() -> None:
    assert Limits().move_bytes_max <= Limits().process_bytes_max
    with pytest.raises(ValueError, match="cannot hold even one move"):
        Limits(process_bytes_max=1)


def test_a_gate_that_promises_less_than_was_measured_is_refused() -> None:
    with pytest.raises(ValueError, match="gate_factor"):
        Limits(gate_factor=0.9)
