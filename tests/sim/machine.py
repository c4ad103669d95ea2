"""The machine: files that outlive every process, and may lose what was not synced when the power goes.

One `CrashingDisk` under all processes remembers what is not durable. Each process has a `ProcessDisk` of its own
before it, where it may die in the middle of any call, find the disk full, or get an error; a file that two processes
have open is one file.

    process ── ProcessDisk ─┐
    process ── ProcessDisk ─┴─ CrashingDisk ── files in memory (/dev/shm)

SQLite's files pass by here: the ledger's are durable at each commit, the catalogue's may fall back, as a whole, to
what it was when a copy was kept (`keep_catalogues`), but never behind a checkpoint that the store relied on.
"""

import errno
import shutil
from collections.abc import Callable
from pathlib import Path

from store.disk import Disk, File, store_error
from tests.support.crashing_disk import CrashingDisk
from tests.support.store_scenarios import keep_catalogue, put_catalogue_back

DATABASES = "databases"


class Killed(BaseException):
    """The process is gone: no `except Exception` goes on after this."""


BLOCKED = "blocked"
"""The kind of a call that waits for a lock which somebody has."""
OnCall = Callable[[str, Path], None]
"""Called before and after each disk call with its kind; raises what goes wrong there."""


class Machine:
    """The files under `root`. `trouble` says whether a call on a database's file fails, and how."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.disk = CrashingDisk()
        self._kept: dict[str, Path] = {}

    def path(self, database: str) -> Path:
        return self.root / DATABASES / database

    def database_of(self, path: Path) -> str:
        return path.relative_to(self.root / DATABASES).parts[0]

    def keep_catalogues(self, *names: str) -> None:
        """From now on power loss may set these catalogues back to what they are now."""
        for name in names:
            copy = self.root / f"{name}.kept"
            keep_catalogue(self.path(name), copy)
            self._kept[name] = copy

    def rely_on_catalogue(self, name: str) -> None:
        """SQLite has synced it, and the store has relied on that: it cannot fall back behind this any more."""
        self._kept.pop(name, None)

    def power_off(self, seed: int) -> list[str]:
        """Everything is as power loss may leave it; the catalogues that fell back. No process may be left."""
        self.disk.power_off(seed)
        self.disk = CrashingDisk()
        fallen = [name for number, name in enumerate(sorted(self._kept)) if seed >> number & 1]
        for name in fallen:
            put_catalogue_back(self._kept[name], self.path(name))
        self._kept.clear()
        return fallen

    def close(self) -> None:
        self.disk.power_off(1)
        shutil.rmtree(self.root)


class ProcessDisk(Disk):
    """One process's way to the machine's disk."""

    def __init__(self, machine: Machine, on_call: OnCall) -> None:
        self._machine = machine
        self._on_call = on_call

    def open(self, path: Path, *, create: bool = False, exclusive: bool = False, readonly: bool = False) -> File:
        self._on_call("open", path)
        plain = self._machine.disk.open(path, create=create, exclusive=exclusive, readonly=readonly)
        return _ProcessFile(plain, self._on_call)

    def replace(self, old: Path, new: Path) -> None:
        self._on_call("replace", old)
        self._machine.disk.replace(old, new)
        self._on_call("replaced", old)

    def remove(self, path: Path) -> None:
        self._on_call("remove", path)
        self._machine.disk.remove(path)
        self._on_call("removed", path)

    def sync_folder(self, folder: Path) -> None:
        self._on_call("sync", folder)
        self._machine.disk.sync_folder(folder)
        self._on_call("synced", folder)


class _ProcessFile(File):
    """A file of the machine, as one process has it open. Closing and unlocking work for the dead, too."""

    def __init__(self, plain: File, on_call: OnCall) -> None:
        super().__init__(plain.path, -1)
        self._plain = plain
        self._on_call = on_call

    def read(self, size: int, offset: int) -> bytes:
        self._on_call("read", self.path)
        return self._plain.read(size, offset)

    def read_into(self, view: memoryview, offset: int) -> int:
        self._on_call("read", self.path)
        return self._plain.read_into(view, offset)

    def bypass_cache(self) -> None:
        """The machine's disk cannot."""

    def write(self, data: bytes | bytearray | memoryview, offset: int) -> None:
        self._on_call("write", self.path)
        self._plain.write(data, offset)
        self._on_call("written", self.path)

    def sync(self) -> None:
        self._on_call("sync", self.path)
        self._plain.sync()
        self._on_call("synced", self.path)

    def truncate(self, size: int) -> None:
        self._on_call("write", self.path)
        self._plain.truncate(size)
        self._on_call("written", self.path)

    def size(self) -> int:
        return self._plain.size()

    def is_linked(self) -> bool:
        return self._plain.is_linked()

    def lock(self, *, exclusive: bool, wait: bool) -> bool:
        while not self._plain.lock(exclusive=exclusive, wait=False):
            if not wait:
                return False
            self._on_call(BLOCKED, self.path)
        return True

    def unlock(self) -> None:
        self._plain.unlock()

    def close(self) -> None:
        self._plain.close()


def disk_full(path: Path) -> Exception:
    return store_error(path, OSError(errno.ENOSPC, "the simulation's disk is full"))


def disk_error(path: Path) -> Exception:
    return store_error(path, OSError(errno.EIO, "the simulation's disk reports an error"))
