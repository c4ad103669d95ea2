"""What the tests with real servers share."""

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture
def public() -> Iterator[Path]:
    """A folder that processes of other users can reach, as pytest's own cannot be."""
    with tempfile.TemporaryDirectory(prefix="moverq-") as folder:
        os.chmod(folder, 0o755)
        yield Path(folder)
