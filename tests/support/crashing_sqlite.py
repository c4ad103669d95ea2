"""SQLite's files on the crashing disk: a VFS between SQLite and the operating system's.

    SQLite ── cksmvfs (page checksums, as in production) ── this seam ── unix
                                                             └── CrashingDisk: counts, stops, loses, tears

Every write, truncation, sync and deletion of a database, a write-ahead log or a rollback journal is a call of the disk
that the seam is plugged into; where none is, it lets all through, without syncs, which nobody waits for then. The
shared-memory index is memory and dies with the machine. As SQLite's own VFS does, the first sync of a journal or log
also syncs the name it has in its folder, and a deletion syncs the folder where SQLite asks for it.

`cksmvfs` stands on whatever VFS is the default when it is loaded, and a process loads it once. So plugging in means to
load it again, with the seam as the default; no connection may be open meanwhile.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import apsw
import apsw.sqlite_extra

from tests.support.crashing_disk import CrashingDisk

SEAM = "crashing"
CHECKSUMS = "cksmvfs"
WITH_NAME = apsw.SQLITE_OPEN_MAIN_DB | apsw.SQLITE_OPEN_MAIN_JOURNAL | apsw.SQLITE_OPEN_WAL
SYNCS_ITS_NAME = apsw.SQLITE_OPEN_MAIN_JOURNAL | apsw.SQLITE_OPEN_WAL


class Seam(apsw.VFS):
    """`disk`: which one SQLite's files stand on now."""

    def __init__(self) -> None:
        self.disk: CrashingDisk | None = None
        super().__init__(SEAM, "unix", makedefault=True)

    def xOpen(self, name: str | apsw.URIFilename | None, flags: list[int]) -> apsw.VFSFile:
        if name is None or not flags[0] & WITH_NAME:
            return apsw.VFSFile("unix", name, flags)  # a temporary file
        path = Path(name.filename() if isinstance(name, apsw.URIFilename) else name)
        disk, makes = self.disk, not path.exists()
        if disk is not None and makes:
            disk.step()
        return _SeamFile(self, name, flags, path, makes=makes)

    def xDelete(self, filename: str, syncdir: bool) -> None:
        disk, path = self.disk, Path(filename)
        if disk is not None:
            disk.step()
        super().xDelete(filename, False)
        if disk is not None and syncdir:
            disk.step()
            disk.folder_is_durable(path.parent)


class _SeamFile(apsw.VFSFile):
    def __init__(self, seam: Seam, name: str | apsw.URIFilename, flags: list[int], path: Path, *, makes: bool) -> None:
        super().__init__("unix", name, flags)
        self._seam = seam
        self._path = path
        self._syncs_name = bool(flags[0] & SYNCS_ITS_NAME)
        # A database that is opened for the first time is looked at in its folder before anything is written.
        self._node = seam.disk.node_of(path, is_new=makes) if seam.disk is not None else None

    def xWrite(self, data: bytes, offset: int) -> None:
        if (disk := self._disk()) is not None:
            disk.before_write(self._node, data, offset)
        super().xWrite(data, offset)

    def xTruncate(self, newsize: int) -> None:
        if (disk := self._disk()) is not None:
            disk.before_truncate(self._node, newsize)
        super().xTruncate(newsize)

    def xSync(self, flags: int) -> None:
        if (disk := self._disk()) is not None:
            disk.step()
            self._node.unsynced.clear()
            if self._syncs_name:
                disk.folder_is_durable(self._path.parent)
                self._syncs_name = False
            disk.step()

    def _disk(self) -> CrashingDisk | None:
        return self._seam.disk if self._node is not None else None


@contextmanager
def seam() -> Iterator[Seam]:
    """The seam, plugged in under the checksums; on leaving all is as before."""
    if CHECKSUMS in apsw.vfs_names():
        apsw.unregister_vfs(CHECKSUMS)
    made = Seam()
    _load_checksums()
    try:
        yield made
    finally:
        apsw.unregister_vfs(CHECKSUMS)
        made.unregister()
        _load_checksums()


def _load_checksums() -> None:
    loader = apsw.Connection(":memory:")
    apsw.sqlite_extra.load(loader, CHECKSUMS.replace("cksm", "cksum"))
    loader.close()
