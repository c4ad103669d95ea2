"""The catalogue's tables, and how its file is opened.

Opened only here and only through SQLite: closing another descriptor on the file would drop SQLite's locks. Page
checksums (`cksumvfs`) are on, so a damaged page is an error and never a wrong answer. `synchronous=NORMAL`: after
power loss the catalogue may be behind the log, never ahead of it.
"""

import ctypes
from itertools import islice
from pathlib import Path

import apsw
import apsw.sqlite_extra

from store.catalogue.keys import add_keys
from store.errors import Corruption, StoreBroken, StoreBusy, StoreError, StoreFull
from store.ids import LogHead, LogPosition, Signature
from store.limits import COMMIT_CACHE_BYTES, FOLD_PAGES, READ_CACHE_BYTES, RECENT_KEYS_MAX
from store.records import DeliveryKeyRow

SCHEMA_VERSION = 2
"""1 had the delivery keys in one table by mailbox, key and digest."""
_VFS = "cksmvfs"
_RESERVED_BYTES = 8
PAGE_BYTES = 4096

_DELIVERY_KEYS = """
CREATE TABLE delivery_key (
    no INTEGER PRIMARY KEY, hash INTEGER NOT NULL, recent INTEGER NOT NULL, mailbox INTEGER NOT NULL,
    key BLOB NOT NULL, content_digest BLOB NOT NULL, accepted_ms INTEGER NOT NULL, modseq INTEGER NOT NULL
);
CREATE INDEX delivery_key_hash ON delivery_key (hash) WHERE recent = 0;
CREATE INDEX delivery_key_modseq ON delivery_key (mailbox, modseq, accepted_ms);
"""
"""See `keys`."""

SCHEMA = f"""
CREATE TABLE meta (
    one INTEGER PRIMARY KEY CHECK (one = 1),
    signature BLOB NOT NULL, generation INTEGER NOT NULL, offset INTEGER NOT NULL, chain BLOB NOT NULL,
    keys_given INTEGER NOT NULL DEFAULT 0, keys_old INTEGER NOT NULL DEFAULT 0
);
CREATE TABLE mailbox (
    no INTEGER PRIMARY KEY, instance BLOB NOT NULL UNIQUE, mailbox_id BLOB NOT NULL,
    mode INTEGER NOT NULL, token INTEGER NOT NULL, home TEXT NOT NULL,
    head INTEGER NOT NULL, horizon INTEGER NOT NULL, created_ms INTEGER NOT NULL, keep_until_ms INTEGER
);
CREATE TABLE folder (
    no INTEGER PRIMARY KEY, mailbox INTEGER NOT NULL, folder_id BLOB NOT NULL, parent_id BLOB NOT NULL,
    name TEXT NOT NULL, modseq INTEGER NOT NULL, uidvalidity INTEGER NOT NULL, uidnext INTEGER NOT NULL,
    special_use TEXT NOT NULL, subscribed INTEGER NOT NULL, hidden INTEGER NOT NULL, attributes TEXT NOT NULL,
    items INTEGER NOT NULL, bytes INTEGER NOT NULL, equality BLOB NOT NULL, instance BLOB NOT NULL
);
CREATE UNIQUE INDEX folder_id ON folder (mailbox, folder_id);
CREATE UNIQUE INDEX folder_place ON folder (mailbox, parent_id, name);
CREATE TABLE item (
    no INTEGER PRIMARY KEY, mailbox INTEGER NOT NULL, item_id BLOB NOT NULL, folder INTEGER NOT NULL,
    uid INTEGER NOT NULL, modseq INTEGER NOT NULL, received_ms INTEGER NOT NULL, size INTEGER NOT NULL,
    content_hash BLOB NOT NULL, segment INTEGER NOT NULL, offset INTEGER NOT NULL,
    flags INTEGER NOT NULL, keywords TEXT NOT NULL, item_class TEXT NOT NULL, properties TEXT NOT NULL
);
CREATE UNIQUE INDEX item_id ON item (mailbox, item_id);
CREATE UNIQUE INDEX item_uid ON item (folder, uid);
CREATE INDEX item_modseq ON item (mailbox, modseq);
CREATE TABLE tombstone (
    mailbox INTEGER NOT NULL, id BLOB NOT NULL, kind INTEGER NOT NULL, modseq INTEGER NOT NULL,
    PRIMARY KEY (mailbox, id)
) WITHOUT ROWID;
CREATE INDEX tombstone_modseq ON tombstone (mailbox, modseq);
CREATE TABLE setting (
    mailbox INTEGER NOT NULL, name TEXT NOT NULL, value TEXT, modseq INTEGER NOT NULL,
    PRIMARY KEY (mailbox, name)
) WITHOUT ROWID;
{_DELIVERY_KEYS}"""

ITEM_TOMBSTONE = 0
FOLDER_TOMBSTONE = 1
MAILBOX_TOMBSTONE = 2
"""Of a purged instance, in no mailbox (number 0), with the last token in place of a modseq; kept for ever, 50 bytes."""


def make_catalogue(path: Path, *, signature: Signature, head: LogHead) -> None:
    """An empty catalogue at the beginning of a log. The caller syncs the folder."""
    connection = _connect(path, create=True)
    try:
        reserved = ctypes.c_int(_RESERVED_BYTES)
        connection.file_control("main", apsw.SQLITE_FCNTL_RESERVE_BYTES, ctypes.addressof(reserved))
        connection.execute(f"PRAGMA page_size={PAGE_BYTES}")
        connection.execute("VACUUM")
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=FULL")
        connection.execute("BEGIN IMMEDIATE")
        connection.execute(SCHEMA)
        connection.execute(
            "INSERT INTO meta (signature, generation, offset, chain) VALUES (?, ?, ?, ?)",
            (signature, head.position.generation, head.position.offset, head.chain),
        )
        connection.execute(f"PRAGMA user_version={SCHEMA_VERSION}")
        connection.execute("COMMIT")
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    finally:
        connection.close()


def copy_catalogue(db: apsw.Connection, path: Path) -> tuple[Signature, LogHead]:
    """A copy of what `db` sees now is at `path`, where nothing was: its own pages, each of them read again and found
    sound. Returns where it stands. The caller syncs it.

    Page by page into an empty catalogue, in the memory of two page caches. `VACUUM INTO` writes the first page last,
    which is where the checksums' VFS reads that pages have checksums: what does not fit into the cache gets none.

    Raises:
        Corruption: a page of the copy is not what was written.
        apsw.Error: a page of `db` is damaged, or the disk is full.
    """
    make_catalogue(path, signature=Signature(bytes(16)), head=LogHead(LogPosition(0, 0), bytes(16)))
    copy = open_catalogue(path)
    try:
        copy.execute("PRAGMA journal_mode=OFF")  # nobody reads it before it is whole
        copy.execute("PRAGMA synchronous=OFF")
        with copy.backup("main", db, "main") as backup:
            backup.step()
        copy.execute("PRAGMA journal_mode=DELETE")
    finally:
        copy.close()
    copy = open_catalogue(path)  # with nothing in its cache
    try:
        said = copy.execute("PRAGMA quick_check(1)").get
        if said != "ok":
            raise Corruption(path=str(path), offset=0, expected="a sound copy of the catalogue", found=str(said))
        return read_applied(copy)
    finally:
        copy.close()


def size_of(db: apsw.Connection) -> int:
    """How large the catalogue's file is, with all that `db` sees moved into it."""
    return int(db.execute("PRAGMA page_count").get) * PAGE_BYTES


def open_catalogue(path: Path, *, applies: bool = False) -> apsw.Connection:
    """A connection to an existing catalogue. One of an older version can be read; whoever applies records brings it up
    first (`bring_up`), and says so: more of it is kept in memory then, and what a statement of many rows would undo,
    which SQLite otherwise writes to /var/tmp.

    Raises:
        StoreBroken: there is none, or it is of a newer version, or it is damaged.
    """
    if not path.exists():
        raise StoreBroken(path=str(path), why="the catalogue is missing; `moverq store rebuild` makes it from the log")
    try:
        connection = _connect(path, create=False)
        version = connection.execute("PRAGMA user_version").get
        connection.execute("PRAGMA synchronous=NORMAL")
        cache_bytes = COMMIT_CACHE_BYTES if applies else READ_CACHE_BYTES
        connection.execute(f"PRAGMA cache_size={-cache_bytes // 1024}")
        connection.execute(f"PRAGMA wal_autocheckpoint={FOLD_PAGES}")
        if applies:
            connection.execute("PRAGMA temp_store=MEMORY")
    except apsw.Error as error:
        raise catalogue_error(path, error) from error
    if not 1 <= version <= SCHEMA_VERSION:
        connection.close()
        raise StoreBroken(
            path=str(path),
            why=f"the catalogue has schema version {version}, this moverq reads {SCHEMA_VERSION}; "
            "`moverq store rebuild` makes it anew from the log",
        )
    return connection


def bring_up(connection: apsw.Connection) -> None:
    """The catalogue is of this version. Inside the caller's transaction, which nobody else writes beside."""
    if connection.execute("PRAGMA user_version").get == 1:
        connection.execute("ALTER TABLE delivery_key RENAME TO delivery_key_1")
        connection.execute("DROP INDEX delivery_key_modseq")
        connection.execute(_DELIVERY_KEYS)
        connection.execute("ALTER TABLE meta ADD COLUMN keys_given INTEGER NOT NULL DEFAULT 0")
        connection.execute("ALTER TABLE meta ADD COLUMN keys_old INTEGER NOT NULL DEFAULT 0")
        rows = connection.execute(
            "SELECT mailbox, key, content_digest, accepted_ms, modseq FROM delivery_key_1 ORDER BY accepted_ms"
        )
        while some := list(islice(rows, RECENT_KEYS_MAX)):
            add_keys(connection, [(mailbox, DeliveryKeyRow._make(row)) for mailbox, *row in some])
        connection.execute("DROP TABLE delivery_key_1")
        connection.execute(f"PRAGMA user_version={SCHEMA_VERSION}")


def _connect(path: Path, *, create: bool) -> apsw.Connection:
    if _VFS not in apsw.vfs_names():
        loader = apsw.Connection(":memory:")
        apsw.sqlite_extra.load(loader, "cksumvfs")
        loader.close()
    flags = apsw.SQLITE_OPEN_READWRITE | (apsw.SQLITE_OPEN_CREATE if create else 0)
    connection = apsw.Connection(str(path), flags=flags, vfs=_VFS)
    connection.set_busy_timeout(10_000)
    return connection


def catalogue_error(path: Path, error: apsw.Error) -> StoreError:
    """Ours for what SQLite said."""
    # SHMSIZE: there is no block left for the file that its readers share.
    if isinstance(error, apsw.FullError) or getattr(error, "extendedresult", 0) == apsw.SQLITE_IOERR_SHMSIZE:
        return StoreFull(path=str(path), why="the disk is full")
    if isinstance(error, (apsw.ReadOnlyError, apsw.CantOpenError, apsw.PermissionsError)):
        return StoreFull(path=str(path), why=f"it cannot be opened for writing ({error})")
    if isinstance(error, (apsw.BusyError, apsw.LockedError)):
        return StoreBusy(path=str(path), why="another process holds the catalogue")
    if isinstance(error, (apsw.CorruptError, apsw.NotADBError, apsw.IOError)):
        return Corruption(
            path=str(path),
            offset=0,
            expected="a sound page (`moverq store rebuild` makes the catalogue anew from the log)",
            found=str(error),
        )
    return StoreBroken(path=str(path), why=f"SQLite says: {error}")


def is_durable(connection: apsw.Connection) -> bool:
    """All that was committed up to now has been moved from the write-ahead log into the file, and synced.

    False where a reader's snapshot is in the way, or another process is at it; another time, then.
    """
    try:
        frames, moved = connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_PASSIVE)
    except apsw.BusyError:
        return False
    return frames == moved


def read_applied(connection: apsw.Connection) -> tuple[Signature, LogHead]:
    """The timeline, and the place in the log that the catalogue stands at."""
    found = connection.execute("SELECT signature, generation, offset, chain FROM meta").fetchone()
    assert found is not None, "made with the catalogue"
    signature, generation, offset, chain = found
    return Signature(signature), LogHead(LogPosition(generation, offset), chain)


def write_applied(connection: apsw.Connection, head: LogHead) -> None:
    connection.execute(
        "UPDATE meta SET generation = ?, offset = ?, chain = ?",
        (head.position.generation, head.position.offset, head.chain),
    )
