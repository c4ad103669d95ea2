"""What the parent of a worker's processes decides, with processes that only end: no fork here."""

import os
from collections.abc import Iterator

import pytest

from moverq.cli import common
from moverq.cli.processes import Child, Parent
from moverq.plan.sharing import Share


def never(share: Share, line: int) -> int:
    raise AssertionError("nobody is started here")


@pytest.fixture
def lines() -> Iterator[list[int]]:
    """Reading ends, by number."""
    opened: list[int] = []
    yield opened
    for line in opened:
        os.close(line)


def parent(lines: list[int], *, drain: bool = False) -> Parent:
    """Of two that run."""
    made = Parent(never, 2, drain)
    for number in range(2):
        reading, writing = os.pipe()
        os.set_blocking(reading, False)
        lines.append(reading)
        made.children[number] = Child(Share(number, 2), 1000 + number, writing)
    return made


def heard(line: int) -> bytes:
    try:
        return os.read(line, 10)
    except BlockingIOError:
        return b""


def end(one: Parent, number: int, code: int) -> None:
    one.ended(one.children[number], code)


def test_who_has_drained_is_done_and_the_others_go_on(lines: list[int]) -> None:
    one = parent(lines, drain=True)
    end(one, 0, 0)
    assert (one.due, one.code, heard(lines[1])) == ({}, 0, b"")
    end(one, 1, 0)
    assert (one.children, one.code) == ({}, 0)


@pytest.mark.parametrize(
    ("code", "how"), [(0, "ended with exit code 0"), (-9, "was killed by SIGKILL"), (70, "code 70")]
)
def test_who_ends_without_being_told_to_is_started_again(
    lines: list[int], code: int, how: str, capsys: pytest.CaptureFixture[str]
) -> None:
    one = parent(lines)
    end(one, 1, code)
    assert (list(one.due), one.code, heard(lines[0])) == ([1], 0, b"")
    assert how in capsys.readouterr().err


@pytest.mark.parametrize(("code", "given"), [(70, 70), (-11, common.FAILED), (0, common.FAILED)])
def test_who_dies_again_and_again_ends_the_worker_with_its_code_and_the_others_at_safe_points(
    lines: list[int], code: int, given: int, capsys: pytest.CaptureFixture[str]
) -> None:
    one = parent(lines)
    for _ in range(5):
        child = one.children[1]
        end(one, 1, code)
        assert heard(lines[0]) == b""
        reading, writing = os.pipe()
        lines.append(reading)
        one.children[1] = Child(child.share, child.pid, writing)
    end(one, 1, code)
    assert (one.due and list(one.due), heard(lines[0])) == ({}, b".")
    end(one, 0, 0)
    assert one.code == given
    assert "the worker stops" in capsys.readouterr().err


def test_a_stop_forgets_who_was_to_be_started_and_a_second_one_is_told_too(lines: list[int]) -> None:
    one = parent(lines)
    end(one, 1, -9)
    one.stop()
    assert (one.due, heard(lines[0])) == ({}, b".")
    one.stop()
    assert heard(lines[0]) == b"."
    end(one, 0, 0)
    assert one.code == 0


def test_who_ends_badly_while_it_stops_is_said_and_not_started_again(
    lines: list[int], capsys: pytest.CaptureFixture[str]
) -> None:
    one = parent(lines)
    one.stop()
    end(one, 0, 70)
    end(one, 1, 0)
    assert (one.due, one.code) == ({}, 70)
    assert "while it was stopping" in capsys.readouterr().err
