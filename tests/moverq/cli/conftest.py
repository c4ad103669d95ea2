"""An organisation with one mailbox, and the command line on it."""

from pathlib import Path

import pytest

from tests.support.cli import Here, organisation


@pytest.fixture
def cli(tmp_path: Path) -> Here:
    here = Here(tmp_path / "root")
    organisation(here)
    return here
