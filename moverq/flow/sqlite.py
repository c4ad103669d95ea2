"""The one place where moverq opens SQLite: durable, with page checksums, and with errors in plain words.

SQLite alone does not notice a bit that fell over on the disk: it answers with a wrong number. So every file is made
with eight reserved bytes a page, in which the `cksumvfs` extension of SQLite keeps a checksum; a page that does not
fit its own is an error, never an answer. A file without them is refused, since a flip in the header (byte 20) would
switch the check off. apsw rather than the standard library's `sqlite3`: it brings its own SQLite, so the format of
what lies on the disk does not depend on the host, and it has the extension built in.

    open_sqlite ── bring_up (kind, schema steps) ── transaction (BEGIN IMMEDIATE … COMMIT) ── the resource's statements

What always holds: a failed transaction changed nothing as far as this process can see. After an error *of the disk*
at COMMIT the outcome is open until the file is read again, as it is after a lost answer of any server.

SQLite ends its recovery of the write-ahead log at the first frame that does not fit, taking damage in the middle for
a torn tail, and what was committed behind it is gone in silence. A durable file is looked at for that when it is
opened: with FULL each transaction is on the disk before the next begins, so a frame that does not fit with the ends
of two transactions behind it was not torn. What cannot be told from a torn tail is damage in the very last
transaction.

What it leaves to others: threads (`Offload`), schemas, and policy.
"""

import os
import struct
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, BinaryIO, Literal

import apsw
import apsw.sqlite_extra
import trio

from moverq.errors import EndpointBroken, EndpointBusy, MoveError
from moverq.flow.offload import Offload

CHECKSUM_VFS = "cksmvfs"
CHECKSUM_BYTES = 8
BUSY_MS = 10_000
"""How long one transaction waits for another process's: longer than any of ours lasts, disk stalls included."""
LOOKS_MS = 3
"""SQLite's first two looks at whether another process has done: after 1 ms, and 2 more."""
RETRY_S = 0.01
WAL_HEADER_BYTES = 32
WAL_FRAME_HEADER_BYTES = 24
WATCH_MS = 5
"""How often `Watcher` looks while somebody waits."""


def open_sqlite(path: Path | str, *, synchronous: Literal["FULL", "NORMAL"], create: bool = True) -> apsw.Connection:
    """A connection in WAL mode whose every page read is checked. Blocking: call it through `Offload`.

    With `synchronous="FULL"` a commit is durable when it returns; with NORMAL it may be lost (whole) with the power.

    Raises:
        EndpointBroken: no such file (with `create=False`), no permission, no database, damaged, without checksums.
        EndpointBusy: another process has been writing for longer than `BUSY_MS`.
    """
    where = str(path)
    _load_checksums()
    flags = apsw.SQLITE_OPEN_READWRITE | (apsw.SQLITE_OPEN_CREATE if create else 0)
    # Two things need another try. SQLite does not wait where WAL mode is being set or a log recovered by somebody
    # else. And the checksum extension decides by the header, when the file is opened, whether to check and write
    # checksums: who opens an empty file that another process is just making has missed that, once.
    deadline, unchecked = time.monotonic() + BUSY_MS / 1000, 0
    while unchecked < 2:
        try:
            connection = _open_once(where, flags, synchronous)
        except EndpointBusy:
            if time.monotonic() > deadline:
                raise
            time.sleep(RETRY_S)
            continue
        if connection is not None:
            return connection
        unchecked += 1
    raise EndpointBroken(
        endpoint=where,
        why="the file has no page checksums, so moverq did not make it, or its header is damaged; "
        "restore it from a backup",
    )


def _open_once(where: str, flags: int, synchronous: str) -> apsw.Connection | None:
    """A connection, set up and looked over; None where it does not check pages."""
    with sqlite_errors(where):
        connection = apsw.Connection(where, flags=flags, vfs=CHECKSUM_VFS)
        try:
            _set_up(connection, synchronous)
            if connection.pragma("checksum_verification") == "1":
                if synchronous == "FULL":
                    _check_log(connection)
                return connection
        except BaseException:
            connection.close()
            raise
        connection.close()
        return None


def _set_up(connection: apsw.Connection, synchronous: str) -> None:
    connection.set_busy_timeout(BUSY_MS)
    connection.reserve_bytes("main", CHECKSUM_BYTES)  # no effect once the first page is written
    # Left to itself WAL mode is set again by every opener: asking first spares the lock.
    if connection.pragma("journal_mode") != "wal" and connection.pragma("journal_mode", "wal") != "wal":
        raise EndpointBroken(
            endpoint=connection.filename,
            why="this file system cannot hold a shared SQLite file; put it on a local disk",
        )
    connection.pragma("synchronous", synchronous)
    connection.pragma("foreign_keys", True)
    # What a statement of many rows would undo is kept in memory. Left to itself SQLite writes more than 64 KiB of that
    # to a file in /var/tmp, which was half of all writes of a move between IMAP servers.
    connection.pragma("temp_store", "memory")


def _check_log(connection: apsw.Connection) -> None:
    """Raises `EndpointBroken` where SQLite's log holds committed transactions behind a damaged frame.

    Done before anything is written, which would bury them. Nobody writes meanwhile: the check holds the write lock.
    """
    with suppress(FileNotFoundError):
        if not os.stat(connection.filename_wal).st_size:
            return  # of a file that was just made, say
    frames, _ = connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_NOOP)
    connection.execute("BEGIN IMMEDIATE")
    try:
        # No lock of SQLite's is on this file, so opening it once more drops none (unlike the two others).
        with open(connection.filename_wal, "rb") as log:
            lost = wal_transactions_lost(log, frames)
    except FileNotFoundError:
        lost = 0
    finally:
        connection.execute("ROLLBACK")
    if lost:
        connection.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)  # closing would remove the log
        raise EndpointBroken(
            endpoint=connection.filename_wal,
            why=f"the log is damaged at its frame {frames + 1}, and {lost} or more transactions that were committed "
            f"stand behind it; copy all three files aside, then restore from a backup",
        )


def wal_transactions_lost(log: BinaryIO, frames: int) -> int:
    """How many transactions stand behind the damage, if the frame after the first `frames` is damaged; else 0.

    The format: https://www.sqlite.org/fileformat2.html#the_write_ahead_log
    """
    header = log.read(WAL_HEADER_BYTES)
    if len(header) < WAL_HEADER_BYTES:
        return 0
    magic, _, page_bytes, _, *salts_and_sums = struct.unpack(">8I", header)
    salts, sums = tuple(salts_and_sums[:2]), tuple(salts_and_sums[2:])
    if _wal_sums((0, 0), header[:8], header[8:24], magic) != sums:
        # SQLite takes the log for empty. But a header is synced before any frame, and lies within what a disk writes
        # whole: it was not torn.
        return 1 if log.read(WAL_FRAME_HEADER_BYTES).strip(b"\0") else 0
    frame_bytes = WAL_FRAME_HEADER_BYTES + page_bytes
    if frames:
        log.seek(WAL_HEADER_BYTES + (frames - 1) * frame_bytes)
        last = log.read(WAL_FRAME_HEADER_BYTES)
        if len(last) < WAL_FRAME_HEADER_BYTES:
            return 0  # emptied since `frames` was counted
        sums = struct.unpack(">6I", last)[4:]
    ends, position = 0, WAL_HEADER_BYTES + frames * frame_bytes
    log.seek(position)
    while len(frame := log.read(frame_bytes)) == frame_bytes:
        _, pages_after_commit, *found = struct.unpack(">6I", frame[:WAL_FRAME_HEADER_BYTES])
        if tuple(found[:2]) != salts:
            break  # left from before the log began again
        if position == WAL_HEADER_BYTES + frames * frame_bytes and tuple(found[2:]) == _frame_sums(sums, frame, magic):
            return 0  # not damaged: written since `frames` was counted
        position += frame_bytes
        ends += pages_after_commit != 0
    return ends - 1 if ends > 1 else 0


def _frame_sums(sums: tuple[int, ...], frame: bytes, magic: int) -> tuple[int, int]:
    return _wal_sums(sums, frame[:8], frame[WAL_FRAME_HEADER_BYTES:], magic)


def _wal_sums(sums: tuple[int, ...], head: bytes, rest: bytes, magic: int) -> tuple[int, int]:
    first, second = sums
    data = head + rest
    words = struct.unpack(f"{'>' if magic & 1 else '<'}{len(data) // 4}I", data)
    for even, odd in zip(words[::2], words[1::2], strict=True):
        first = (first + even + second) & 0xFFFFFFFF
        second = (second + odd + first) & 0xFFFFFFFF
    return first, second


def bring_up(connection: apsw.Connection, *, kind: str, application_id: bytes, steps: Sequence[str]) -> None:
    """The schema is `steps` long afterwards: each step is SQL, and `user_version` counts those already taken.

    A release only ever appends to `steps`, so today's code opens what any release wrote.

    Raises:
        EndpointBroken: a newer release wrote the file, or it is no `kind`.
    """
    where = connection.filename
    wanted = int.from_bytes(application_id, "big")
    if _kind_and_version(connection) == (wanted, len(steps)):
        return  # nearly always, and then nobody is kept waiting
    with transaction(connection):
        present, version = _kind_and_version(connection)
        if present != wanted and (present, version) != (0, 0):
            raise EndpointBroken(endpoint=where, why=f"this file is no {kind}; check the path")
        if version > len(steps):
            raise EndpointBroken(
                endpoint=where,
                why=f"this {kind} was written by a newer moverq (schema {version}, this one knows {len(steps)}); "
                f"upgrade moverq on this machine",
            )
        for step in steps[version:]:
            connection.execute(step)
        if version < len(steps):
            connection.pragma("application_id", wanted)
            connection.pragma("user_version", len(steps))


def _kind_and_version(connection: apsw.Connection) -> tuple[int, int]:
    ((kind, version),) = connection.execute("SELECT * FROM pragma_application_id, pragma_user_version")
    return kind, version


def blank_sqlite(folder: Path, *, kind: str, application_id: bytes, steps: Sequence[str]) -> bytes:
    """The bytes of an empty file of this kind, as `bring_up` makes it: what many of them begin as (`place_file`).

    It is made in a folder in `folder`, which is gone afterwards.

    Raises: EndpointBroken, OSError.
    """
    with TemporaryDirectory(prefix="blank-", dir=folder) as made:
        path = Path(made, "blank")
        connection = open_sqlite(path, synchronous="NORMAL")
        try:
            bring_up(connection, kind=kind, application_id=application_id, steps=steps)
        finally:
            connection.close()  # the last one: it folds the log in
        return path.read_bytes()


@contextmanager
def transaction(connection: apsw.Connection, *, busy_ms: int = BUSY_MS) -> Iterator[apsw.Connection]:
    """All or nothing, and alone: BEGIN IMMEDIATE, so that what is read inside cannot change before the COMMIT.

    Raises:
        EndpointBroken, EndpointBusy: see `sqlite_errors`.
    """
    with sqlite_errors(connection.filename):
        _begin(connection, busy_ms)
        try:
            yield connection
            connection.execute("COMMIT")
        except BaseException:
            if connection.in_transaction:  # some errors (disk full) have rolled back already
                connection.execute("ROLLBACK")
            raise


def _begin(connection: apsw.Connection, busy_ms: int) -> None:
    """The connection has the lock for writing, for which it waits up to `busy_ms`.

    Left to itself SQLite looks after 1 ms, 2, 5, 10 and up to 100 more whether another process has done. Where two
    write all the time, who has waited long sleeps through the other's pauses, and with him all that stand behind him
    in his own process. So it is asked anew after its first two looks. (A busy handler would take the interpreter's lock
    for each look: that cost what it gained.)
    """
    deadline = time.monotonic() + busy_ms / 1000
    connection.set_busy_timeout(min(LOOKS_MS, busy_ms))
    try:
        while True:
            try:
                connection.execute("BEGIN IMMEDIATE")
            except apsw.BusyError:
                if time.monotonic() >= deadline:
                    raise
            else:
                return
    finally:
        connection.set_busy_timeout(BUSY_MS)


def close_sqlite(connection: apsw.Connection) -> None:
    """The file is closed, and its log folded into it if nobody else is reading or writing: who is, folds it in later.

    Folded first, since closing does so with the interpreter's lock held, and with it every other task of the process:
    160 ms for a log of 60 MiB, while another mailbox may be locked.
    """
    connection.set_busy_timeout(0)
    with suppress(apsw.Error):  # what cannot be folded in (a full disk, say) stays in the log
        connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_TRUNCATE)
    connection.close()


INSERT_ROWS = 64


def insert_rows(
    connection: apsw.Connection, insert: str, rows: Sequence[Sequence[Any]], *, after: str = ""
) -> list[tuple[Any, ...]]:
    """Many rows a statement: SQLite takes the interpreter's lock up again after each statement, and beside a busy
    thread that costs more than the row. `insert` is what stands before VALUES, `after` what stands behind them; so
    `WITH given(seq, size) AS (` and `) UPDATE … FROM given WHERE …` change many rows. What RETURNING gives is returned,
    in no order."""
    at, size = 0, INSERT_ROWS
    returned: list[tuple[Any, ...]] = []
    while at < len(rows):
        while size > len(rows) - at:
            size //= 2  # a handful of statements, which SQLite keeps prepared, whatever the number of rows
        marks = f"({','.join('?' * len(rows[at]))})"
        values = [value for row in rows[at : at + size] for value in row]
        returned += connection.execute(f"{insert} VALUES {','.join([marks] * size)}{after}", values)
        at += size
    return returned


@contextmanager
def sqlite_errors(where: str) -> Iterator[None]:
    """apsw's errors of the world become ours, with what, where and what now. Bugs (SQL, constraints) pass through."""
    try:
        yield
    except apsw.Error as error:
        ours = _translated(where, error)
        if ours is None:
            raise
        raise ours from error


def _translated(where: str, error: apsw.Error) -> MoveError | None:
    code: int = getattr(error, "extendedresult", 0)
    match error:
        case apsw.BusyError() | apsw.LockedError() | apsw.ProtocolError():
            return EndpointBusy(endpoint=where, retry_after_s=1.0)
        case _ if isinstance(error, apsw.FullError) or code == apsw.SQLITE_IOERR_SHMSIZE:
            why = "the disk is full, nothing was changed; free some space there and try again"
        case apsw.CantOpenError():
            why = (
                "the file cannot be opened, or made; check the path, "
                "and that this user may write to the folder (SQLite keeps two more files beside it)"
            )
        case apsw.ReadOnlyError() | apsw.PermissionsError():
            why = "the file or its folder is read-only for this user, nothing was changed; correct the permissions"
        case apsw.NotADBError():
            why = "this is no SQLite file, or its first page is damaged; check the path, or restore it from a backup"
        case apsw.CorruptError():
            why = f"the file is damaged ({error}); stop what uses it and restore it from a backup"
        case apsw.IOError() if code in (apsw.SQLITE_IOERR_DATA, apsw.SQLITE_IOERR_CORRUPTFS):
            why = "a page does not fit its checksum: the disk returned damaged data; restore the file from a backup"
        case apsw.IOError():
            name = apsw.mapping_extended_result_codes.get(code, "SQLITE_IOERR")
            why = f"the disk reports an error ({name}); look at the kernel's log, then try again"
        case apsw.NoMemError():
            why = "there is not enough memory; free some and try again"
        case _:
            return None
    return EndpointBroken(endpoint=where, why=why)


def _load_checksums() -> None:
    """The extension registers its VFS with the process; loading it again changes nothing."""
    if CHECKSUM_VFS in apsw.vfs_names():
        return
    loader = apsw.Connection(":memory:")
    try:
        apsw.sqlite_extra.load(loader, "cksumvfs")
    finally:
        loader.close()


class Watcher:
    """Wakes tasks when another connection, of any process, has committed.

    SQLite tells nobody of a commit, but `PRAGMA data_version` answers in microseconds. So while anyone waits, one of
    those who wait asks it every few milliseconds for all; nobody waits, nobody asks. The connection is the watcher's
    own (a connection does not see its own commits there).

        seen = watcher.version      # before reading
        …read; not what was hoped for…
        await watcher.wait_changed(seen)

    What always holds: a commit after `version` was taken ends the wait. A wait may end for nothing.
    """

    def __init__(self, connection: apsw.Connection, offload: Offload, *, interval_ms: float = WATCH_MS) -> None:
        self._connection = connection
        self._offload = offload
        self._interval_s = interval_ms / 1000
        self._version = 0
        self._data_version: int | None = None
        self._asking = False
        self._turn = trio.Event()

    def __repr__(self) -> str:
        return f"<Watcher version {self._version}{', asking' if self._asking else ''}>"

    @property
    def version(self) -> int:
        """Rises with every change seen; take it before reading."""
        return self._version

    def notify(self) -> None:
        """This process has committed: wake everybody now, without waiting for the next look."""
        self._version += 1
        self._wake()

    async def wait_changed(self, seen: int) -> None:
        """Return when `version` is beyond `seen`.

        Cancelled: nothing has happened; another who waits goes on asking.

        Raises:
            EndpointBroken: the file cannot be read.
        """
        await trio.lowlevel.checkpoint()
        while self._version == seen:
            if self._asking:
                await self._turn.wait()
            else:
                await self._ask_until_beyond(seen)

    async def _ask_until_beyond(self, seen: int) -> None:
        self._asking = True
        try:
            while True:
                present = await self._offload(self._read)
                if present != self._data_version:
                    self._data_version = present
                    self.notify()
                if self._version != seen:
                    return
                await trio.sleep(self._interval_s)
        finally:
            self._asking = False
            self._wake()  # whoever still waits takes the turn

    def _read(self) -> int:
        with sqlite_errors(self._connection.filename):
            version = self._connection.pragma("data_version")
        assert isinstance(version, int)
        return version

    def _wake(self) -> None:
        self._turn.set()
        self._turn = trio.Event()


__all__ = ["Watcher", "blank_sqlite", "bring_up", "insert_rows", "open_sqlite", "sqlite_errors", "transaction"]
