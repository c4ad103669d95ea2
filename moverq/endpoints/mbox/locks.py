"""The locks that mail programs take on an mbox: a file beside it with `.lock`, and `fcntl` on the file; blocking.

Both, as Dovecot, Postfix, Exim and mutt do, so that it suffices if another program takes one. Programs differ in which
they take first: so the second is not waited for while the first is held, or two might wait for each other.

The lock is of the open file and not of the process (`F_OFD_SETLK`): of the usual kind all are gone when the process
closes any other descriptor of the file. The two kinds keep each other out.
"""

import errno
import fcntl
import os
import struct
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from moverq.endpoints.files.dot_lock import LOCK_S, dot_lock, is_held, unlock
from moverq.endpoints.mbox.opening import open_mbox

_FLOCK: Final = "@hhqqi"
"""struct flock: type, whence, start, length (0: all of it), process."""


@contextmanager
def locked(path: bytes) -> Iterator[int]:
    """The descriptor of the file, for reading and writing, while nobody else writes to it. Raises `OSError`."""
    end = time.monotonic() + LOCK_S
    lock = path + b".lock"
    while True:
        held = dot_lock(lock)
        try:
            descriptor = open_mbox(path, os.O_RDWR | os.O_CLOEXEC)
            try:
                if _try_lock(descriptor):
                    yield descriptor
                    return
            finally:
                os.close(descriptor)
        finally:
            unlock(lock, held)
        if time.monotonic() > end:
            raise TimeoutError(errno.ETIMEDOUT, "somebody holds the lock", os.fsdecode(path))
        time.sleep(0.02)


def try_share(descriptor: int) -> bool:
    """Writers wait from now on, until the file is closed; False: one of them is at work."""
    return _try_lock(descriptor, fcntl.F_RDLCK)


def _try_lock(descriptor: int, kind: int = fcntl.F_WRLCK) -> bool:
    try:
        fcntl.fcntl(descriptor, fcntl.F_OFD_SETLK, struct.pack(_FLOCK, kind, os.SEEK_SET, 0, 0, 0))
    except (BlockingIOError, PermissionError):
        return False
    return True


def is_being_written(path: bytes, descriptor: int) -> bool:
    """Does somebody hold a lock that keeps readers out? Raises `OSError`."""
    asked = struct.pack(_FLOCK, fcntl.F_RDLCK, os.SEEK_SET, 0, 0, 0)
    if struct.unpack(_FLOCK, fcntl.fcntl(descriptor, fcntl.F_OFD_GETLK, asked))[0] != fcntl.F_UNLCK:
        return True
    return is_held(path + b".lock")
