"""The item map of one move: what of the source is at the target, one row an item, with the sums that verify it.

It is the third witness at Verify: the source's sums and the target's could agree by a common mistake, this one is
the mover's own account of what it carried. And it is what a trimmed feed is compared against. A file of its own,
`moves/<request_id>.sqlite`, so that a hundred moves do not queue for one writer, and so that the end of the soak is
one unlink.

    target durable  →  map (this file, synchronous=FULL)  →  cursor or watermark fact (the ledger)

Rows merge by the same rule as everywhere: `absent < live(modseq) < dead`, and at one modseq `bad < carried`. So a
batch that is recorded twice, or in another order, leaves the same rows; and a row that is ahead of the fact (a crash
between the two) is met again by the replay. What always holds: `sums` is the sum over `items`, kept in the same
transaction; a row that is bad is in the bad sums only. A lower token than the owner's changes nothing.

Bounded by: a row per item, about 90 bytes; a transaction per batch. Measured with batches of 512, everything durable:
7 µs an item where ids come in order, 14 where they are random (100,000 items).
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from operator import itemgetter
from pathlib import Path
from typing import NamedTuple, TypeVar

import apsw
import msgpack

from moverq.errors import StaleToken
from moverq.flow import folders
from moverq.flow.offload import Offload
from moverq.flow.sqlite import (
    blank_sqlite,
    bring_up,
    close_sqlite,
    insert_rows,
    open_sqlite,
    sqlite_errors,
    transaction,
)
from moverq.ledger.codec import Codec
from moverq.ledger.schema import MAP_APPLICATION_ID, MAP_STEPS
from moverq.model.change import BadItem, FolderState, Gone, ItemState, SettingState
from moverq.model.digest import MODULUS, FolderDigest, item_digest
from moverq.model.ids import FolderId, ItemId
from moverq.plan.verification import LedgerAccount

T = TypeVar("T")

CHECKPOINT_PAGES = 16_000
"""Ids are random, so a batch touches nearly as many pages as it has items. Folding the log in after 64 MiB instead of
SQLite's 4 writes each page to its place once for many batches, not once for two."""

LOG_PAGES_LEFT_MAX = 256
"""1 MiB: what is read again in no time. Folding it in cost a small move as much as all its rows, and two syncs."""

CACHE_KIB = 2 * 1024
"""Of pages, for one move: items come about in the order of their ids, so a batch needs the end of the tree."""

_COLUMNS = "item_id, folder_id, modseq, dead, digest, size, bad, seen"
_BY_ID = itemgetter(0)
_NO_FOLDER = b""
_NO_DIGEST = bytes(16)


class _Row(NamedTuple):
    """As it lies in the file, and a tuple, because one is made for every item that moves."""

    item_id: bytes
    folder_id: bytes
    modseq: int
    dead: bool
    digest: bytes
    size: int
    bad: str | None
    seen: int

    @property
    def rank(self) -> tuple[bool, int, bool]:
        """absent < live(modseq) < dead, and at one modseq what is carried beats what is bad."""
        return (bool(self.dead), 0 if self.dead else self.modseq, self.bad is None)


class _Sum:
    """What one folder gains: items, bytes and digests, of what was carried and of what is bad."""

    __slots__ = ("items", "size", "total")

    def __init__(self) -> None:
        self.items, self.size, self.total = [0, 0], [0, 0], [0, 0]

    def add(self, row: _Row, sign: int) -> None:
        side = row.bad is not None
        self.items[side] += sign
        self.size[side] += sign * row.size
        self.total[side] += sign * int.from_bytes(row.digest, "big")


class Blank:
    """An empty map's file, made once for all of a ledger's maps: SQLite takes eight syncs to make one and open it, most
    of them through the file system's journal; with a copy it takes four."""

    def __init__(self) -> None:
        self._content: bytes | None = None

    def place(self, path: Path) -> None:
        """An empty map is at `path`, if there was none. Where the file system does not let us, there is a folder for
        it, and who opens the map makes it."""
        if self._content is None:
            folders.make_folder(path.parent)
        with suppress(OSError):
            if self._content is None:
                self._content = blank_sqlite(
                    path.parent, kind="item map", application_id=MAP_APPLICATION_ID, steps=MAP_STEPS
                )
            folders.place_file(path, self._content)


class ItemMap:
    """One move's map. Blocking work goes through `offload`, one call a batch."""

    def __init__(self, path: Path, offload: Offload, codec: Codec, blank: Blank) -> None:
        self.path = path
        self._connection: apsw.Connection | None = None
        self._offload = offload
        self._codec = codec
        self._blank = blank
        self._pack = msgpack.Packer().pack

    def __repr__(self) -> str:
        return f"<ItemMap {self.path.name}>"

    async def aclose(self) -> None:
        """The file is closed; a short log stays beside it for whoever opens it next, and needs no sync now."""

        def close() -> None:
            if self._connection is not None:
                pages, _ = self._connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_NOOP)
                if pages <= LOG_PAGES_LEFT_MAX:
                    self._connection.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)
                    self._connection.close()
                else:
                    close_sqlite(self._connection)
                self._connection = None

        await self._offload(close)

    async def take_over(self, token: int) -> None:
        """From now on every lower token is stale here too. Raises `StaleToken`."""

        def raise_token() -> None:
            with transaction(self._db):
                seen = self._owner()
                if token < seen:
                    raise StaleToken(held=token, seen=seen)
                self._db.execute("UPDATE owner SET token = ?", (token,))

        await self._offload(raise_token)

    async def record(
        self,
        token: int,
        *,
        carried: Sequence[ItemState] = (),
        bad: Sequence[BadItem] = (),
        gone: Iterable[Gone] = (),
        settings: Sequence[SettingState] = (),
        hierarchy: Sequence[FolderState] | None = None,
        seen: int = 1,
    ) -> None:
        """The batch is in the map, merged.

        Durable: all of it or nothing.
        Raises: StaleToken.
        """

        def write() -> None:
            with self._turn(token):
                rows = [_Row(g.id, _NO_FOLDER, g.modseq, True, _NO_DIGEST, 0, None, seen) for g in gone]
                rows += [self._row(b.state, b.kind, seen) for b in bad]
                rows += [self._row(state, None, seen) for state in carried]
                self._merge({row.item_id: row for row in rows}, seen)
                self._db.executemany(
                    "INSERT INTO settings VALUES (?, ?, ?) ON CONFLICT (name) DO UPDATE "
                    "SET value = excluded.value, modseq = excluded.modseq WHERE excluded.modseq > modseq",
                    [(s.name, s.value, s.modseq) for s in settings],
                )
                if hierarchy is not None:
                    self._db.execute("UPDATE owner SET hierarchy = ?", (self._codec.pack(list(hierarchy)),))

        await self._offload(write)

    async def account(self) -> LedgerAccount:
        """What the ledger believes the target holds, in O(folders)."""
        return await self._read(self._account)

    async def hierarchy(self) -> tuple[FolderState, ...] | None:
        """The last folder tree carried."""
        return await self._read(self._hierarchy)

    async def bad_items(self) -> tuple[ItemId, ...]:
        """Items that are alive at the source and could not be carried."""
        return await self._read(
            lambda: tuple(
                ItemId(i) for (i,) in self._rows("SELECT item_id FROM items WHERE bad IS NOT NULL AND NOT dead")
            )
        )

    async def bad_count(self) -> int:
        return await self._read(lambda: sum(n for (n,) in self._rows("SELECT bad_items FROM sums")))

    async def unseen(self, generation: int, *, after: bytes, limit: int) -> tuple[ItemId, ...]:
        """Live items that the listing `generation` did not have, a page at a time."""
        return await self._read(
            lambda: tuple(
                ItemId(i)
                for (i,) in self._rows(
                    "SELECT item_id FROM items WHERE item_id > ? AND seen < ? AND NOT dead ORDER BY item_id LIMIT ?",
                    (after, generation, limit),
                )
            )
        )

    async def unknown(self, item_ids: Sequence[ItemId]) -> tuple[ItemId, ...]:
        """Those of `item_ids` that are not in the map as live, nor as kept by the target."""

        def ask() -> tuple[ItemId, ...]:
            known = self._present(item_ids)
            sql = "SELECT item_id FROM kept WHERE item_id IN carray(?)"
            kept = {i for (i,) in self._db.execute(sql, (apsw.carray(tuple(item_ids)),))} if item_ids else set()
            return tuple(i for i in item_ids if i not in kept and (i not in known or known[i].dead))

        return await self._read(ask)

    async def differing(self, states: Sequence[ItemState]) -> tuple[ItemState, ...]:
        """Those of `states` that the map does not have, or has otherwise."""

        def ask() -> tuple[ItemState, ...]:
            known = self._present([state.item_id for state in states])
            rows = [(state, self._row(state, None, 0)) for state in states]
            return tuple(
                state
                for state, row in rows
                if row.item_id not in known
                or (known[row.item_id].folder_id, known[row.item_id].digest) != (row.folder_id, row.digest)
            )

        return await self._read(ask)

    async def is_sound(self) -> bool:
        """Do the maintained sums equal the sums over the rows? O(items): for tests, never under a lock."""

        def recount() -> bool:
            sums: dict[bytes, _Sum] = {}
            for row in self._rows(f"SELECT {_COLUMNS} FROM items WHERE NOT dead"):
                _sum_of(sums, row[1]).add(_Row._make(row), 1)
            good, bad = (
                {
                    folder_id: FolderDigest(sum_.items[side], sum_.size[side], sum_.total[side] % MODULUS)
                    for folder_id, sum_ in sums.items()
                    if sum_.items[side]
                }
                for side in (False, True)
            )
            account = self._account()
            nothing = FolderDigest()
            return {k: v for k, v in account.digests.items() if v != nothing} == good and {
                k: v for k, v in account.bad.items() if v != nothing
            } == bad

        return await self._read(recount)

    async def adopt(self, token: int, other: "ItemMap", *, bad_only: bool = False) -> None:
        """The rows are those of `other`: a move that takes another back goes on with its map. Those of what `other`'s
        target kept are of bad items again. `bad_only`: rows of bad items alone, as of before any listing.

        Copied in one transaction of this file, by token. A file put in place of another would be shorter, but no
        token guards a rename: an orchestrator that wakes late would put the old map over the living one.

        Raises: StaleToken.
        """

        def copy() -> None:
            with self._turn(token):
                for table in ("items", "sums", "settings", "kept"):
                    self._db.execute(f"DELETE FROM {table}")
                found = list(other._rows("SELECT item_id, folder_id, modseq, 0, digest, size, bad, 0 FROM kept"))
                if bad_only:
                    found += other._rows(f"SELECT {_COLUMNS} FROM items WHERE bad IS NOT NULL AND NOT dead")
                else:
                    for table, columns in (("items", 9), ("sums", 7), ("settings", 3)):
                        insert = f"INSERT INTO {table} VALUES ({','.join('?' * columns)})"
                        self._db.executemany(insert, other._rows(f"SELECT * FROM {table}"))
                    self._db.executemany("UPDATE owner SET hierarchy = ?", other._rows("SELECT hierarchy FROM owner"))
                self._merge({row[0]: _Row._make(row)._replace(seen=0) for row in found}, 0)

        await self._offload(copy)

    async def keep(self, token: int, item_ids: Iterable[ItemId]) -> None:
        """These bad items are not the source's but the target's: it keeps them, and nothing of them is to be carried.

        Raises: StaleToken.
        """

        def write() -> None:
            with self._turn(token):
                rows = [row for row in self._present(item_ids).values() if row.bad is not None and not row.dead]
                sums: dict[bytes, _Sum] = {}
                for row in rows:
                    _sum_of(sums, row.folder_id).add(row, -1)
                self._db.executemany("DELETE FROM items WHERE item_id = ?", [(row.item_id,) for row in rows])
                self._add_sums(sums)
                insert_rows(
                    self._db,
                    "INSERT OR REPLACE INTO kept",
                    [(row.item_id, row.folder_id, row.modseq, row.digest, row.size, row.bad) for row in rows],
                )

        await self._offload(write)

    async def let_go(self, token: int, folders: Iterable[FolderId]) -> int:
        """What the target keeps outside these folders is not kept any more. Returns how many items that were.

        Raises: StaleToken.
        """

        def write() -> int:
            with self._turn(token):
                sql = "DELETE FROM kept WHERE folder_id NOT IN carray(?)"
                self._db.execute(sql, (apsw.carray((*folders, _NO_FOLDER)),))
                return self._db.changes()

        return await self._offload(write)

    # --- blocking, inside the offload -------------------------------------------------------------------------

    @property
    def _db(self) -> apsw.Connection:
        """Opened, and made, by the first who needs it: a request that is over has no map, and gets none."""
        if self._connection is None:
            if not self.path.exists():
                self._blank.place(self.path)
            connection = open_sqlite(self.path, synchronous="FULL")
            bring_up(connection, kind="item map", application_id=MAP_APPLICATION_ID, steps=MAP_STEPS)
            connection.wal_autocheckpoint(CHECKPOINT_PAGES)
            connection.pragma("cache_size", -CACHE_KIB)
            self._connection = connection
        return self._connection

    @contextmanager
    def _turn(self, token: int) -> Iterator[None]:
        with transaction(self._db):
            seen = self._owner()
            if token != seen:
                raise StaleToken(held=token, seen=seen)
            yield

    async def _read(self, question: Callable[[], T]) -> T:
        def ask() -> T:
            with sqlite_errors(str(self.path)):
                return question()

        return await self._offload(ask)

    def _rows(self, sql: str, bindings: tuple[object, ...] = ()) -> Iterator[tuple]:  # type: ignore[type-arg]
        return self._db.execute(sql, bindings)

    def _owner(self) -> int:
        (token,) = next(self._rows("SELECT token FROM owner"))
        assert isinstance(token, int)
        return token

    def _hierarchy(self) -> tuple[FolderState, ...] | None:
        (packed,) = next(self._rows("SELECT hierarchy FROM owner"))
        return None if packed is None else self._codec.unpack(packed, tuple[FolderState, ...])

    def _account(self) -> LedgerAccount:
        digests: dict[FolderId, FolderDigest] = {}
        bad: dict[FolderId, FolderDigest] = {}
        for folder_id, items, size, total, bad_items, bad_size, bad_total in self._rows("SELECT * FROM sums"):
            digests[folder_id] = FolderDigest(items, size, int.from_bytes(total, "big"))
            bad[folder_id] = FolderDigest(bad_items, bad_size, int.from_bytes(bad_total, "big"))
        return LedgerAccount(
            folders=self._hierarchy() or (),
            settings=tuple(self._rows("SELECT name, value FROM settings WHERE value IS NOT NULL ORDER BY name")),
            digests=digests,
            bad=bad,
            kept=self._kept(),
        )

    def _kept(self) -> dict[FolderId, FolderDigest]:
        """Few rows, and none but in a rollback, so no sums are maintained of them."""
        kept: dict[FolderId, FolderDigest] = {}
        for folder_id, digest, size in self._rows("SELECT folder_id, digest, size FROM kept"):
            sum_ = kept.get(folder_id, FolderDigest())
            total = (sum_.total + int.from_bytes(digest, "big")) % MODULUS
            kept[folder_id] = FolderDigest(sum_.items + 1, sum_.bytes + size, total)
        return kept

    def _present(self, item_ids: Iterable[bytes]) -> dict[bytes, _Row]:
        wanted = tuple(item_ids)
        if not wanted:
            return {}
        sql = f"SELECT {_COLUMNS} FROM items WHERE item_id IN carray(?)"
        found = [_Row._make(row) for row in self._db.execute(sql, (apsw.carray(wanted),)).fetchall()]
        return {row.item_id: row for row in found}

    def _row(self, state: ItemState, bad: str | None, seen: int) -> _Row:
        digest = item_digest(state, self._pack).to_bytes(16, "big")
        row = (state.item_id, state.folder_id, state.modseq, False, digest, state.size, bad, seen)
        return tuple.__new__(_Row, row)

    def _merge(self, rows: Mapping[bytes, _Row], seen: int) -> None:
        present = self._present(rows)
        write: list[_Row] = []
        touched: list[bytes] = []
        sums: dict[bytes, _Sum] = {}
        for item_id, row in rows.items():
            before = present.get(item_id)
            if before is not None:
                if before.rank >= row.rank:
                    if before.seen < row.seen:
                        touched.append(item_id)
                    continue
                if not before.dead:
                    _sum_of(sums, before.folder_id).add(before, -1)
            if not row.dead:
                _sum_of(sums, row.folder_id).add(row, 1)
            write.append(row)
        write.sort(key=_BY_ID)  # neighbours in the tree follow each other
        insert_rows(self._db, f"INSERT OR REPLACE INTO items ({_COLUMNS})", write)
        if touched:
            self._db.execute(
                "UPDATE items SET seen = ? WHERE item_id IN carray(?)", (seen, apsw.carray(tuple(touched)))
            )
        self._add_sums(sums)

    def _add_sums(self, gained: dict[bytes, _Sum]) -> None:
        for folder_id, sum_ in gained.items():
            found = list(self._rows("SELECT * FROM sums WHERE folder_id = ?", (folder_id,)))
            _, items, size, total, bad_items, bad_size, bad_total = found[0] if found else (0, 0, 0, b"", 0, 0, b"")
            row = (
                folder_id,
                items + sum_.items[False],
                size + sum_.size[False],
                ((int.from_bytes(total, "big") + sum_.total[False]) % MODULUS).to_bytes(16, "big"),
                bad_items + sum_.items[True],
                bad_size + sum_.size[True],
                ((int.from_bytes(bad_total, "big") + sum_.total[True]) % MODULUS).to_bytes(16, "big"),
            )
            assert row[1] >= 0, "more items left a folder of the map than were in it"
            assert row[4] >= 0, "more bad items left a folder of the map than were in it"
            self._db.execute("INSERT OR REPLACE INTO sums VALUES (?, ?, ?, ?, ?, ?, ?)", row)


def _sum_of(sums: dict[bytes, _Sum], folder_id: bytes) -> _Sum:
    sum_ = sums.get(folder_id)
    if sum_ is None:
        sum_ = sums[folder_id] = _Sum()
    return sum_
