"""Sectors that have gone bad: reading them fails, of one file, by whatever call."""

import errno
import os
from collections.abc import Sequence
from pathlib import Path

import pytest

SECTOR = 4096
"""A page: what the page cache reads at a time."""


def spoil(monkeypatch: pytest.MonkeyPatch, path: Path, at: int) -> None:
    """The sector with the byte `at` of this file cannot be read any more."""
    begin = at // SECTOR * SECTOR
    pread, preadv = os.pread, os.preadv

    def check(descriptor: int, size: int, offset: int) -> None:
        touched = offset < begin + SECTOR and offset + size > begin
        if touched and os.readlink(f"/proc/self/fd/{descriptor}") == str(path):
            raise OSError(errno.EIO, os.strerror(errno.EIO))

    def bad_pread(descriptor: int, size: int, offset: int) -> bytes:
        check(descriptor, size, offset)
        return pread(descriptor, size, offset)

    def bad_preadv(descriptor: int, buffers: Sequence[memoryview], offset: int) -> int:
        check(descriptor, sum(map(len, buffers)), offset)
        return preadv(descriptor, buffers, offset)

    monkeypatch.setattr(os, "pread", bad_pread)
    monkeypatch.setattr(os, "preadv", bad_preadv)
