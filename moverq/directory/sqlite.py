"""The embedded directory: one SQLite file that any number of processes share.

Every verb that writes is one BEGIN IMMEDIATE transaction, so a compare-and-set compares what it then sets, also
against other processes. `synchronous=FULL`: a register that falls back after a power cut is two open mailboxes.
Primary addresses and aliases stand in one table, so that an address means one mailbox by its primary key and not by
a check; the register's home is two columns, database and instance, and no other table says where a mailbox is.

    open_directory(path) ── SqliteDirectory ── Offload (limiter 1) ── one connection ── <path>, -wal, -shm

What it leaves to others: deciding. It stores claims, tokens and registers, and says no in words.
"""

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar

import apsw
import trio

from moverq.directory.directory import (
    DatabaseEntry,
    MoveAttributes,
    Recipient,
    Register,
    Server,
    check_removable,
    checked_address,
    sought_address,
    still_used,
)
from moverq.endpoints.base import Home
from moverq.errors import NotFound, RegisterChanged, RequestRefused
from moverq.flow.group_commit import GroupCommit
from moverq.flow.offload import InThread, Offload
from moverq.flow.sqlite import bring_up, open_sqlite, sqlite_errors, transaction
from moverq.model.ids import InstanceId, MailboxId, RequestId

T = TypeVar("T")

APPLICATION_ID = b"mqDI"
CLOSE_S = 10.0
"""How long closing may hold up a cancelled caller."""

SCHEMA = (
    """
    CREATE TABLE organisation (one INTEGER PRIMARY KEY CHECK (one = 1), name TEXT NOT NULL) STRICT;
    CREATE TABLE server (name TEXT PRIMARY KEY, version TEXT NOT NULL, site TEXT NOT NULL) STRICT, WITHOUT ROWID;
    CREATE TABLE database (
        name TEXT PRIMARY KEY, server TEXT NOT NULL REFERENCES server, path TEXT NOT NULL
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE recipient (
        mailbox_id BLOB PRIMARY KEY,
        address TEXT NOT NULL UNIQUE,
        home_database TEXT NOT NULL REFERENCES database,
        home_instance BLOB NOT NULL,
        epoch INTEGER NOT NULL,
        token INTEGER NOT NULL DEFAULT 0,
        active_move TEXT,
        quota_bytes INTEGER,
        move_status TEXT NOT NULL DEFAULT 'None',
        move_batch_name TEXT,
        move_source_database TEXT,
        move_target_database TEXT
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE address (
        address TEXT PRIMARY KEY, mailbox_id BLOB NOT NULL REFERENCES recipient DEFERRABLE INITIALLY DEFERRED
    ) STRICT, WITHOUT ROWID;
    CREATE INDEX address_of ON address (mailbox_id);
    """,
)

RECIPIENT = """
    SELECT mailbox_id, address, home_database, home_instance, epoch, token, active_move, quota_bytes,
           move_status, move_batch_name, move_source_database, move_target_database,
           (SELECT group_concat(a.address, ' ' ORDER BY a.address) FROM address a
            WHERE a.mailbox_id = recipient.mailbox_id AND a.address <> recipient.address)
    FROM recipient
"""


async def init_directory(path: Path | str, *, organisation: str, offload: Offload | None = None) -> None:
    """There is an empty directory of this organisation at `path`. Cut short, it may simply be asked for again.

    Durable: on return.

    Raises:
        RequestRefused: there is one already.
        EndpointBroken: the file cannot be made, or is something else.
    """

    def init() -> None:
        connection = open_sqlite(path, synchronous="FULL")
        try:
            bring_up(connection, kind="directory", application_id=APPLICATION_ID, steps=SCHEMA)
            with transaction(connection):
                present = connection.execute("SELECT name FROM organisation").get
                if present is not None:
                    raise RequestRefused(why=f"{path} is already the directory of {present}; nothing was changed")
                connection.execute("INSERT INTO organisation VALUES (1, ?)", (organisation,))
        finally:
            connection.close()

    await (offload or InThread())(init)


@asynccontextmanager
async def open_directory(path: Path | str, *, offload: Offload | None = None) -> AsyncIterator["SqliteDirectory"]:
    """The directory at `path`, closed on leaving. `offload`: how blocking work runs; by default one thread.

    Raises:
        RequestRefused: there is none; `init_directory` makes one.
        EndpointBroken: it cannot be opened, is damaged, or of a newer release.
    """
    run = offload or InThread()

    def connect() -> apsw.Connection:
        if not Path(path).exists():
            raise RequestRefused(why=f"there is no directory at {path}; make one with `moverq init`")
        connection = open_sqlite(path, synchronous="FULL", create=False)
        try:
            bring_up(connection, kind="directory", application_id=APPLICATION_ID, steps=SCHEMA)
            if connection.execute("SELECT name FROM organisation").get is None:
                raise RequestRefused(why=f"the directory at {path} was never finished; run `moverq init` again")
        except BaseException:
            connection.close()
            raise
        return connection

    directory = SqliteDirectory(await run(connect), run)
    try:
        yield directory
    finally:
        await directory.aclose()


class SqliteDirectory:
    """`Directory` over one SQLite file.

    Cancelled: a verb that waited for its turn did nothing; one that had begun has its whole effect.
    """

    def __init__(self, connection: apsw.Connection, offload: Offload) -> None:
        self._connection = connection
        self._offload = offload
        self._commit = GroupCommit(connection, offload)
        self._closed = False

    def __repr__(self) -> str:
        return f"<SqliteDirectory {'closed' if self._closed else self._connection.filename}>"

    async def organisation(self) -> str:
        """The organisation's name."""
        return await self._read(lambda db: str(db.execute("SELECT name FROM organisation").get))

    async def add_server(self, server: Server) -> None:
        def add(db: apsw.Connection) -> None:
            if db.execute("SELECT 1 FROM server WHERE name = ?", (server.name,)).get:
                raise RequestRefused(why=f"there is a server {server.name} already")
            db.execute("INSERT INTO server VALUES (?, ?, ?)", (server.name, server.version, server.site))

        await self._write(add)

    async def add_database(self, database: DatabaseEntry) -> None:
        def add(db: apsw.Connection) -> None:
            if db.execute("SELECT 1 FROM database WHERE name = ?", (database.name,)).get:
                raise RequestRefused(why=f"there is a database {database.name} already")
            _server(db, database.server)
            db.execute("INSERT INTO database VALUES (?, ?, ?)", (database.name, database.server, database.path))

        await self._write(add)

    async def set_database_path(self, name: str, path: str) -> None:
        def change(db: apsw.Connection) -> None:
            _database(db, name)
            db.execute("UPDATE database SET path = ? WHERE name = ?", (path, name))

        await self._write(change)

    async def remove_server(self, name: str) -> None:
        def remove(db: apsw.Connection) -> None:
            _server(db, name)
            _check_unused(
                db, "server", name, "the database", "SELECT count(*), min(name) FROM database WHERE server = ?"
            )
            db.execute("DELETE FROM server WHERE name = ?", (name,))

        await self._write(remove)

    async def remove_database(self, name: str) -> None:
        def remove(db: apsw.Connection) -> None:
            _database(db, name)
            homes = "SELECT count(*), min(address) FROM recipient WHERE home_database = ?"
            _check_unused(db, "database", name, "the mailbox of", homes)
            db.execute("DELETE FROM database WHERE name = ?", (name,))

        await self._write(remove)

    async def add_recipient(
        self, mailbox_id: MailboxId, address: str, home: Home, *, quota_bytes: int | None = None, token: int = 0
    ) -> Recipient:
        primary = checked_address(address)

        def add(db: apsw.Connection) -> Recipient:
            if db.execute("SELECT 1 FROM recipient WHERE mailbox_id = ?", (mailbox_id,)).get:
                raise RequestRefused(why=f"mailbox {mailbox_id.hex()} has a recipient already")
            _check_address_is_free(db, primary)
            _database(db, home.database)
            db.execute("INSERT INTO address VALUES (?, ?)", (primary, mailbox_id))
            db.execute(
                "INSERT INTO recipient (mailbox_id, address, home_database, home_instance, epoch, quota_bytes, token) "
                "VALUES (?, ?, ?, ?, 1, ?, ?)",
                (mailbox_id, primary, home.database, home.instance, quota_bytes, token),
            )
            return _recipient(db, mailbox_id)

        return await self._write(add)

    async def remove_recipient(self, mailbox_id: MailboxId, *, expected: Register) -> None:
        def remove(db: apsw.Connection) -> None:
            check_removable(_recipient(db, mailbox_id), expected)
            db.execute("DELETE FROM address WHERE mailbox_id = ?", (mailbox_id,))
            db.execute("DELETE FROM recipient WHERE mailbox_id = ?", (mailbox_id,))

        await self._write(remove)

    async def add_alias(self, mailbox_id: MailboxId, alias: str) -> None:
        address = checked_address(alias)

        def add(db: apsw.Connection) -> None:
            present = _recipient(db, mailbox_id)
            if address not in (present.address, *present.aliases):
                _check_address_is_free(db, address)
                db.execute("INSERT INTO address VALUES (?, ?)", (address, mailbox_id))

        await self._write(add)

    async def server(self, name: str) -> Server:
        return await self._read(lambda db: _server(db, name))

    async def database(self, name: str) -> DatabaseEntry:
        return await self._read(lambda db: _database(db, name))

    async def servers(self) -> Sequence[Server]:
        return await self._read(
            lambda db: [
                Server(name=name, version=version, site=site)
                for name, version, site in db.execute("SELECT name, version, site FROM server ORDER BY name")
            ]
        )

    async def databases(self) -> Sequence[DatabaseEntry]:
        return await self._read(
            lambda db: [
                DatabaseEntry(name=name, server=server, path=path)
                for name, server, path in db.execute("SELECT name, server, path FROM database ORDER BY name")
            ]
        )

    async def recipients(self, *, after: str = "", limit: int = 1000) -> Sequence[Recipient]:
        query = RECIPIENT + " WHERE address > ? ORDER BY address LIMIT ?"
        return await self._read(
            lambda db: [_recipient_of(row) for row in db.execute(query, (after.strip().lower(), limit))]
        )

    async def recipient(self, mailbox_id: MailboxId) -> Recipient:
        return await self._read(lambda db: _recipient(db, mailbox_id))

    async def locate(self, address: str) -> Recipient:
        normal = sought_address(address)

        def find(db: apsw.Connection) -> Recipient:
            query = RECIPIENT + " WHERE mailbox_id = (SELECT mailbox_id FROM address WHERE address = ?)"
            for row in db.execute(query, (normal,)).fetchall():
                return _recipient_of(row)
            raise NotFound(kind="recipient", name=normal)

        return await self._read(find)

    async def relocate(self, mailbox_id: MailboxId, *, expected: Register, home: Home) -> Register:
        def compare_and_set(db: apsw.Connection) -> Register:
            _database(db, home.database)
            db.execute(
                "UPDATE recipient SET home_database = ?, home_instance = ?, epoch = epoch + 1 "
                "WHERE mailbox_id = ? AND home_database = ? AND home_instance = ? AND epoch = ?",
                (home.database, home.instance, mailbox_id, *_register_row(expected)),
            )
            if db.changes() != 1:
                present = _recipient(db, mailbox_id).register
                raise RegisterChanged(expected=str(expected), present=str(present))
            return Register(home, expected.epoch + 1)

        return await self._write(compare_and_set)

    async def take_token(self, mailbox_id: MailboxId) -> int:
        def take(db: apsw.Connection) -> int:
            query = "UPDATE recipient SET token = token + 1 WHERE mailbox_id = ? RETURNING token"
            for (token,) in db.execute(query, (mailbox_id,)).fetchall():
                assert isinstance(token, int)
                return token
            raise NotFound(kind="mailbox", name=mailbox_id.hex())

        return await self._write(take)

    async def claim_move(self, mailbox_id: MailboxId, request_id: RequestId) -> None:
        def claim(db: apsw.Connection) -> None:
            present = _recipient(db, mailbox_id)
            if present.active_move not in (None, request_id):
                raise RequestRefused(why=f"{present.address} is being moved by request {present.active_move}")
            db.execute("UPDATE recipient SET active_move = ? WHERE mailbox_id = ?", (request_id, mailbox_id))

        await self._write(claim)

    async def release_move(self, mailbox_id: MailboxId, request_id: RequestId) -> None:
        def release(db: apsw.Connection) -> None:
            db.execute(
                "UPDATE recipient SET active_move = nullif(active_move, ?) WHERE mailbox_id = ?",
                (request_id, mailbox_id),
            )
            _check_found(db, mailbox_id)

        await self._write(release)

    async def set_move(self, mailbox_id: MailboxId, move: MoveAttributes) -> None:
        def set_attributes(db: apsw.Connection) -> None:
            db.execute(
                "UPDATE recipient SET move_status = ?, move_batch_name = ?, move_source_database = ?, "
                "move_target_database = ? WHERE mailbox_id = ?",
                (move.status, move.batch_name, move.source_database, move.target_database, mailbox_id),
            )
            _check_found(db, mailbox_id)

        await self._write(set_attributes)

    async def aclose(self) -> None:
        """Closed; again does nothing. A shield with a deadline, for promptness alone: an open file loses nothing."""
        if not self._closed:
            self._closed = True
            with trio.move_on_after(CLOSE_S, shield=True):
                await self._offload(self._connection.close)

    async def _read(self, question: Callable[[apsw.Connection], T]) -> T:
        """Each question is one statement, so its answer is of one moment."""

        def ask() -> T:
            with sqlite_errors(self._connection.filename):
                return question(self._connection)

        return await self._offload(ask)

    async def _write(self, change: Callable[[apsw.Connection], T]) -> T:
        return await self._commit(lambda: change(self._connection))


def _check_found(db: apsw.Connection, mailbox_id: MailboxId) -> None:
    """Of a change by this id: was there such a row?"""
    if db.changes() != 1:
        raise NotFound(kind="mailbox", name=mailbox_id.hex())


def _check_address_is_free(db: apsw.Connection, address: str) -> None:
    owner = db.execute(
        "SELECT r.address FROM address a JOIN recipient r USING (mailbox_id) WHERE a.address = ?", (address,)
    ).get
    if owner is not None:
        raise RequestRefused(why=f"the address {address} belongs to {owner}")


def _check_unused(db: apsw.Connection, kind: str, name: str, users: str, query: str) -> None:
    """`query`: how many use it, and the first of them. Raises `RequestRefused` where somebody does."""
    ((many, first),) = db.execute(query, (name,)).fetchall()
    assert isinstance(many, int)
    if many:
        raise still_used(kind, name, f"{users} {first}", many)


def _server(db: apsw.Connection, name: str) -> Server:
    for version, site in db.execute("SELECT version, site FROM server WHERE name = ?", (name,)).fetchall():
        return Server(name=name, version=str(version), site=str(site))
    raise NotFound(kind="server", name=name)


def _database(db: apsw.Connection, name: str) -> DatabaseEntry:
    for server, path in db.execute("SELECT server, path FROM database WHERE name = ?", (name,)).fetchall():
        return DatabaseEntry(name=name, server=str(server), path=str(path))
    raise NotFound(kind="database", name=name)


def _recipient(db: apsw.Connection, mailbox_id: MailboxId) -> Recipient:
    for row in db.execute(RECIPIENT + " WHERE mailbox_id = ?", (mailbox_id,)).fetchall():
        return _recipient_of(row)
    raise NotFound(kind="mailbox", name=mailbox_id.hex())


def _recipient_of(row: tuple[Any, ...]) -> Recipient:
    mailbox_id, address, database, instance, epoch, token, active, quota, status, batch, source, target, aliases = row
    return Recipient(
        mailbox_id=MailboxId(mailbox_id),
        address=address,
        aliases=tuple(aliases.split(" ")) if aliases else (),
        register=Register(Home(database, InstanceId(instance)), epoch),
        token=token,
        active_move=RequestId(active) if active is not None else None,
        quota_bytes=quota,
        move=MoveAttributes(status=status, batch_name=batch, source_database=source, target_database=target),
    )


def _register_row(register: Register) -> tuple[str, bytes, int]:
    return register.home.database, register.home.instance, register.epoch
