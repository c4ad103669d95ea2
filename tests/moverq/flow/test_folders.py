"""Files that are there whole, or not at all."""

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
