"""Files that are there whole, or not at all."""

import resource
from pathlib import Path

import pytest

from moverq.flow.folders import place_file


def test_a_placed_file_has_all_its_bytes_and_leaves_nothing_beside_it(tmp_path: Path) -> None:
    place_file(tmp_path / "made", b"x" * 100_000)
    assert (tmp_path / "made").read_bytes() == b"x" * 100_000
    assert [path.name for path in tmp_path.iterdir()] == ["made"]


def test_a_file_that_is_there_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "made").write_bytes(b"first")
    place_file(tmp_path / "made", b"second")
    assert (tmp_path / "made").read_bytes() == b"first"


def test_a_folder_that_is_not_there_is_an_error_of_the_system(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        place_file(tmp_path / "nowhere" / "made", b"")


def test_a_disk_that_takes_a_part_of_it_has_no_file(tmp_path: Path) -> None:
    """A write that is cut short, as on a full disk, is no error of its own: only the next one is."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, hard))
    try:
        with pytest.raises(OSError, match="too large"):
            place_file(tmp_path / "made", bytes(28_000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not list(tmp_path.iterdir())
