"""Folders whose names survive power loss: a file that was synced is lost with the folder that it is in.

SQLite syncs the name of each file that it makes, and leaves the names of folders to whoever made them. A file that is
to be there whole or not at all gets its name last.
"""

import os
from contextlib import suppress
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


def place_file(path: Path, content: bytes) -> None:
    """A file is at `path`: one with these bytes, or the one that was there, which is left alone.

    Made without a name, so that whoever finds the name finds all of it, and nothing is left over where making it is
    cut short.

    Durable: the bytes; not the name, which the next sync of the folder makes so.
    Raises: `OSError`, also where the file system cannot make a file without a name.
    """
    descriptor = os.open(path.parent, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o644)
    try:
        with open(descriptor, "wb", closefd=False) as file:
            file.write(content)
        os.fsync(descriptor)
        with suppress(FileExistsError):
            # Python follows the symbolic link of /proc only where it is given a folder to start from, too.
            os.link(f"/proc/self/fd/{descriptor}", path, src_dir_fd=descriptor, follow_symlinks=True)
    finally:
        os.close(descriptor)
