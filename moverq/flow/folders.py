"""Folders whose names survive power loss: a file that was synced is lost with the folder that it is in.

SQLite syncs the name of each file that it makes, and leaves the names of folders to whoever made them.
"""

import os
from pathlib import Path


def make_folder(path: Path) -> None:
    """The folder is there, and those above it. Durable, also where somebody else had just made it.

    Raises `OSError`.
    """
    made = [path]
    while not made[-1].parent.exists():
        made.append(made[-1].parent)
    for folder in reversed(made):
        folder.mkdir(exist_ok=True)
        sync_folder(folder.parent)


def sync_folder(folder: Path | bytes) -> None:
    """Names made, changed and removed in the folder survive power loss. Raises `OSError`."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
