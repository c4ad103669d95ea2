"""Two users' homes, for a test that is root: what one of them may not do, nobody does for him."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ALICE, BOB = 65501, 65502
"""Users that the system has no names for."""


@contextmanager
def two_homes() -> Iterator[Path]:
    """A place that everybody may enter, as pytest's own is not, with the homes of both."""
    path = Path(tempfile.mkdtemp(prefix="moverq-homes-"))
    path.chmod(0o755)
    for name, uid in (("alice", ALICE), ("bob", BOB)):
        (path / name).mkdir()
        os.chown(path / name, uid, uid)
    try:
        yield path
    finally:
        shutil.rmtree(path)


def belongs(path: Path, uid: int, mode: int = 0o700) -> None:
    """All of it, and only to him."""
    for one in [path, *path.rglob("*")]:
        os.chown(one, uid, uid, follow_symlinks=False)
        if not one.is_symlink():
            one.chmod(mode if one.is_dir() else mode & 0o666)


def link(path: Path, target: Path | str, maker: int = ALICE) -> None:
    os.symlink(target, path)
    os.chown(path, maker, maker, follow_symlinks=False)
