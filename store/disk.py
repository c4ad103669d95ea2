"""The only module that opens, syncs, locks and renames files.

Small on purpose: the tests' disk has the same methods, counts its calls, loses what was not synced and stops
anywhere. Foreign errors become ours here: a full disk or a read-only folder is `StoreFull`, anything else the
operating system says is `StoreBroken`.
"""

import errno
import fcntl
import mmap
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from store.errors import StoreBroken, StoreError, StoreFull
from store.limits import DIRECT_ALIGN

_FULL = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the disk quota is used up",
    errno.EROFS: "the file system is read-only",
    errno.EACCES: "permission denied",
    errno.EPERM: "permission denied",
}


@contextmanager
def translated(path: Path) -> Iterator[None]:
    """Turn an `OSError` into a `StoreError` that names the file."""
    try:
        yield
    except OSError as error:
        raise store_error(path, error) from error


def store_error(path: Path, error: OSError) -> StoreError:
    """The `StoreError` for what the operating system said about `path`."""
    if error.errno in _FULL:
        return StoreFull(path=str(path), why=_FULL[error.errno])
    return StoreBroken(path=str(path), why=os.strerror(error.errno) if error.errno else str(error))


def is_unreadable(error: StoreError) -> bool:
    """Could the disk itself not read what is there? A sector that has gone bad; the ones beside it may be read."""
    return isinstance(error.__cause__, OSError) and error.__cause__.errno == errno.EIO


def direct_buffer(size: int) -> memoryview:
    """Memory that `File.bypass_cache` works with: whole pages, `size` rounded up to them."""
    return memoryview(mmap.mmap(-1, (size + DIRECT_ALIGN - 1) // DIRECT_ALIGN * DIRECT_ALIGN))


class File:
    """An open file: positioned reads and writes, so that it has no state but its descriptor."""

    def __init__(self, path: Path, descriptor: int) -> None:
        self.path = path
        self._descriptor = descriptor

    def __repr__(self) -> str:
        return f"<File {self.path}>"

    def read(self, size: int, offset: int) -> bytes:
        """Up to `size` bytes; fewer only at the end of the file."""
        try:
            data = os.pread(self._descriptor, size, offset)
            while len(data) < size and (more := os.pread(self._descriptor, size - len(data), offset + len(data))):
                data += more
        except OSError as error:
            raise store_error(self.path, error) from error
        return data

    def read_into(self, view: memoryview, offset: int) -> int:
        """Fill `view`; returns how many bytes there were, fewer only at the end of the file."""
        filled = 0
        while filled < len(view):
            try:
                got = os.preadv(self._descriptor, [view[filled:]], offset + filled)
            except OSError as error:
                self._need_cache(error)
                continue
            if not got:
                break
            filled += got
        return filled

    def write(self, data: bytes | bytearray | memoryview, offset: int) -> None:
        """All of `data`, or an error."""
        view = memoryview(data)
        while view:
            try:
                written = os.pwrite(self._descriptor, view, offset)
            except OSError as error:
                self._need_cache(error)
                continue
            view, offset = view[written:], offset + written

    def bypass_cache(self) -> None:
        """From now on bytes go between memory and disk without the page cache, where the file system can.

        For `write` and `read_into` of much at a time, in multiples of `DIRECT_ALIGN` and with memory of
        `direct_buffer`. Growing the page cache costs more processor time than all else that is done to a mail. It
        says nothing of durability: `sync` is still needed.
        """
        with suppress(OSError):
            self._set_direct(True)

    def _need_cache(self, error: OSError) -> None:
        """Some file systems take the flag and then refuse a call: once more through the cache. Raises what is else."""
        with translated(self.path):
            if error.errno != errno.EINVAL or not self._set_direct(False):
                raise error

    def _set_direct(self, on: bool) -> bool:
        """Returns whether this changed anything."""
        flags = fcntl.fcntl(self._descriptor, fcntl.F_GETFL)
        wanted = flags | os.O_DIRECT if on else flags & ~os.O_DIRECT
        if wanted != flags:
            fcntl.fcntl(self._descriptor, fcntl.F_SETFL, wanted)
        return wanted != flags

    def sync(self) -> None:
        """The bytes written so far, and the size they need, survive power loss."""
        try:
            os.fdatasync(self._descriptor)
        except OSError as error:
            raise store_error(self.path, error) from error

    def size(self) -> int:
        """How many bytes there are.

        Not by fstat: who has asked for a file's times gets a finer one from the next write (Linux 6.13, multigrain
        timestamps), and the next sync has that to write down, too.
        """
        try:
            return os.lseek(self._descriptor, 0, os.SEEK_END)
        except OSError as error:
            raise store_error(self.path, error) from error

    def truncate(self, size: int) -> None:
        with translated(self.path):
            os.ftruncate(self._descriptor, size)

    def is_linked(self) -> bool:
        """Does a name still lead to this file? False once it was deleted by somebody."""
        with translated(self.path):
            return os.fstat(self._descriptor).st_nlink > 0

    def lock(self, *, exclusive: bool, wait: bool) -> bool:
        """Take the file's lock (flock: it dies with the process). False: somebody else has it."""
        how = (fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH) | (0 if wait else fcntl.LOCK_NB)
        try:
            fcntl.flock(self._descriptor, how)
        except BlockingIOError:
            return False
        except OSError as error:
            raise store_error(self.path, error) from error
        return True

    def unlock(self) -> None:
        fcntl.flock(self._descriptor, fcntl.LOCK_UN)

    def close(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


class Disk:
    """The file system."""

    def open(self, path: Path, *, create: bool = False, exclusive: bool = False, readonly: bool = False) -> File:
        """Open `path`. `create`: if it is not there; `exclusive`: it must not be there (`FileExistsError`)."""
        flags = os.O_RDONLY if readonly else os.O_RDWR
        flags |= (os.O_CREAT if create else 0) | (os.O_EXCL if exclusive else 0) | os.O_CLOEXEC
        try:
            return File(path, os.open(path, flags, 0o600))
        except (FileExistsError, FileNotFoundError):
            raise
        except OSError as error:
            raise store_error(path, error) from error

    def names(self, folder: Path) -> list[str]:
        """What is in `folder`, sorted; nothing where there is no such folder."""
        try:
            return sorted(os.listdir(folder))
        except FileNotFoundError:
            return []
        except OSError as error:
            raise store_error(folder, error) from error

    def free_bytes(self, folder: Path) -> int:
        """How much more can be written on the file system that `folder` is on."""
        with translated(folder):
            there = os.statvfs(folder)
        return there.f_bavail * there.f_frsize

    def make_folder(self, folder: Path) -> None:
        """`folder` is there, and those above it. Durable, also where somebody else had just made it: what is synced in
        a folder is lost with the folder's own name."""
        made = [folder, *(above for above in folder.parents if not above.exists())]
        with translated(folder):
            os.makedirs(folder, mode=0o700, exist_ok=True)
        for one in reversed(made):
            self.sync_folder(one.parent)

    def copy(self, old: Path, new: Path) -> None:
        """`new` has the bytes of `old`; nothing of it is durable."""
        with translated(new):
            shutil.copyfile(old, new)

    def replace(self, old: Path, new: Path) -> None:
        """`new` is what `old` was, or still what it was before: never anything between. Durable after `sync_folder`."""
        with translated(old):
            os.replace(old, new)

    def remove(self, path: Path) -> None:
        """Gone; gone already is fine."""
        try:
            os.unlink(path)
        except FileNotFoundError:
            pass
        except OSError as error:
            raise store_error(path, error) from error

    def remove_folder(self, folder: Path) -> None:
        """Gone with all that is in it; gone already is fine."""
        if folder.exists():
            with translated(folder):
                shutil.rmtree(folder)

    def sync_folder(self, folder: Path) -> None:
        """Names made, changed and removed in `folder` survive power loss."""
        with translated(folder):
            descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
