"""A file beside a file, with `.lock`, that says who may change it: the lock that Dovecot takes too; blocking."""

import errno
import fcntl
import os
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Final

from moverq.endpoints.files.owner import Owner, new_file
from moverq.flow.folders import sync_folder

LOCK_S: Final = 10.0
"""How long a lock of somebody else's is waited for. Dovecot's are held for milliseconds."""
LOCK_STALE_S: Final = 120.0
"""A lock older than this is of a process that died: Dovecot's own bound."""
OURS: Final = b"moverq\n"
"""What a lock of ours says, so that one whose maker died is told from one of Dovecot's that is being written."""


def read_file(path: bytes) -> bytes:
    """Empty where there is no such file. Raises `OSError` where there is one that cannot be read."""
    try:
        with open(path, "rb") as file:
            return file.read()
    except FileNotFoundError:
        return b""


def replace_file(path: bytes, change: Callable[[bytes], bytes], owner: Owner) -> bytes:
    """The file holds what `change` makes of it, which is returned. Raises `OSError`."""
    lock = path + b".lock"
    held = dot_lock(lock)
    try:
        data = change(read_file(path))
        temporary = path + b".moverq"
        descriptor = new_file(temporary)
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            owner.take(descriptor)
            os.fsync(descriptor)
        os.rename(temporary, path)
        sync_folder(os.path.dirname(path))
    finally:
        unlock(lock, held)
    return data


def dot_lock(lock: bytes) -> int:
    """The lock is ours until it is unlinked, or its descriptor closed, which the kernel does for who died."""
    end = time.monotonic() + LOCK_S
    while True:
        try:
            descriptor = os.open(lock, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        except FileExistsError:
            if is_nobodys(lock):
                continue
            if time.monotonic() > end:
                raise TimeoutError(errno.ETIMEDOUT, "somebody holds the lock", os.fsdecode(lock)) from None
            time.sleep(0.02)
            continue
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        os.write(descriptor, OURS)
        return descriptor


def unlock(lock: bytes, held: int) -> None:
    """The lock is gone, or at least nobody's."""
    try:
        with suppress(FileNotFoundError):
            os.unlink(lock)
    finally:
        os.close(held)


def is_nobodys(lock: bytes) -> bool:
    """Gone now, also because it was one that its maker left for good: one of ours whose maker is dead, or a very old
    one."""
    try:
        descriptor = os.open(lock, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        return True
    except PermissionError:
        return _is_unreadable_and_nobodys(lock)
    try:
        if _is_kept(descriptor):
            return False
        if os.stat(lock).st_ino == os.fstat(descriptor).st_ino:
            os.unlink(lock)
    except FileNotFoundError:
        pass
    finally:
        os.close(descriptor)
    return True


def _is_unreadable_and_nobodys(lock: bytes) -> bool:
    """Likewise for one that we may not open: Postfix makes its own so that nobody may."""
    try:
        if time.time() - os.stat(lock).st_mtime < LOCK_STALE_S:
            return False
        os.unlink(lock)
    except FileNotFoundError:
        pass
    except PermissionError:
        return False  # whoever may take it away does so
    return True


def is_held(lock: bytes) -> bool:
    """Is there one that somebody keeps? Nothing is changed."""
    try:
        descriptor = os.open(lock, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    except PermissionError:
        return time.time() - os.stat(lock).st_mtime < LOCK_STALE_S
    try:
        return _is_kept(descriptor)
    finally:
        os.close(descriptor)


def _is_kept(descriptor: int) -> bool:
    """If it is one of ours that nobody keeps, the caller keeps it until the descriptor is closed."""
    if time.time() - os.fstat(descriptor).st_mtime >= LOCK_STALE_S:
        return False
    if os.read(descriptor, len(OURS) + 1) != OURS:
        return True
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    return False
