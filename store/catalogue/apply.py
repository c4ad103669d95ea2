"""Apply records to the catalogue: the one way it ever changes, live and in replay.

Deterministic and without decisions: a record that cannot be applied is a bug or damage, never a refusal (those
happened before it was made). Derived columns (a folder's counts, digests and UIDNEXT, a mailbox's head) are kept
here, so a record need not carry them. New rows, and sums over many rows, are gathered and written together.
"""

import json
from array import array
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from typing import Any

import apsw
import attrs
import msgpack

from store import records as r
from store.catalogue.keys import add_keys, make_old
from store.catalogue.rows import values_clauses
from store.catalogue.schema import FOLDER_TOMBSTONE, ITEM_TOMBSTONE, MAILBOX_TOMBSTONE
from store.digest import MODULUS, Pack, equality_digest, instance_digest
from store.errors import NoSuchMailbox
from store.ids import FolderId, InstanceId, ItemId
from store.records import ItemRow, ItemStateRow

ITEM_COLUMNS = (
    "i.item_id, f.folder_id, i.uid, i.modseq, i.received_ms, i.size, i.content_hash, i.segment, i.offset, "
    "i.flags, i.keywords, i.item_class, i.properties"
)
"""What `item_row` reads, from `item i JOIN folder f ON f.no = i.folder`."""
KEYWORDS_KEPT = 256
"""Sets of keywords that need not be parsed again: people use few."""
_encode = json.JSONEncoder(ensure_ascii=True, separators=(",", ":")).encode


def item_row(values: tuple[Any, ...]) -> ItemRow:
    """An `ItemRow` from `ITEM_COLUMNS`."""
    keywords, item_class, properties = values[10:]
    words = _words(keywords) if keywords != "[]" else ()
    return ItemRow._make((*values[:10], words, item_class, pairs(properties) if properties != "[]" else ()))


@lru_cache(KEYWORDS_KEPT)
def _words(text: str) -> tuple[str, ...]:
    return tuple(json.loads(text))


def pairs(text: str) -> tuple[tuple[str, str], ...]:
    """Name-value pairs from their JSON form."""
    return tuple((name, value) for name, value in json.loads(text))


def to_json(value: Sequence[object]) -> str:
    return _encode(value) if value else "[]"


@attrs.define
class _Sums:
    """What one folder gained and lost."""

    items: int = 0
    bytes: int = 0
    equality: int = 0
    instance: int = 0
    uid_max: int = 0

    def add(self, row: ItemRow, sign: int, pack: Pack) -> None:
        equality = equality_digest(row, pack)
        self.items += sign
        self.bytes += sign * row.size
        self.equality += sign * equality
        self.instance += sign * instance_digest(row, equality, pack)
        if row.uid > self.uid_max:
            self.uid_max = row.uid


@attrs.define
class Applier:
    """Applies records through one connection, inside the caller's SQLite transaction, which it does not outlive: what
    it has looked up once it remembers, and nothing else may change the tables meanwhile."""

    _db: apsw.Connection
    _mailboxes: dict[InstanceId, int] = attrs.Factory(dict)
    _folders_of: dict[int, dict[bytes, int]] = attrs.Factory(dict)
    _sums: dict[int, _Sums] = attrs.Factory(dict)
    _heads: dict[int, int] = attrs.Factory(dict)
    _new_items: list[tuple[Any, ...]] = attrs.Factory(list)
    _new_keys: list[tuple[int, r.DeliveryKeyRow]] = attrs.Factory(list)
    _pack: Pack = attrs.Factory(lambda: msgpack.Packer().pack)

    def apply(self, records: Iterable[r.Record]) -> None:
        """All of these records, in order; the tables are true when this returns."""
        self.gather(records)
        self.flush()

    def gather(self, records: Iterable[r.Record]) -> None:
        """The same, but the tables are true only after `flush`."""
        for record in records:
            if type(record) not in _GATHERED:
                self.flush()  # before: what was gathered may be of a folder that this record removes
            _APPLY[type(record)](self, record)

    def mailbox_no(self, instance: InstanceId) -> int:
        number = self._mailboxes.get(instance)
        if number is None:
            found = self._db.execute("SELECT no FROM mailbox WHERE instance = ?", (instance,)).fetchone()
            if found is None:
                raise NoSuchMailbox(instance=instance)
            number = self._mailboxes[instance] = int(found[0])
        return number

    def _folders(self, mailbox: int) -> dict[bytes, int]:
        folders = self._folders_of.get(mailbox)
        if folders is None:
            rows = self._db.execute("SELECT folder_id, no FROM folder WHERE mailbox = ?", (mailbox,))
            folders = self._folders_of[mailbox] = dict(rows)
        return folders

    @property
    def has_gathered(self) -> bool:
        return bool(self._new_items or self._new_keys or self._sums or self._heads)

    def flush(self) -> None:
        """What was gathered is in the tables."""
        self._insert_gathered()
        if self._sums:
            self._write_sums()
            self._sums.clear()
        if self._heads:
            heads = [(head, mailbox) for mailbox, head in self._heads.items()]
            self._db.executemany("UPDATE mailbox SET head = max(head, ?) WHERE no = ?", heads)
            self._heads.clear()

    def _write_sums(self) -> None:
        folders = apsw.carray(array("q", self._sums))
        old: list[tuple[Any, ...]] = self._db.execute(
            "SELECT no, equality, instance FROM folder WHERE no IN carray(?)", (folders,)
        ).fetchall()
        assert len(old) == len(self._sums), "a folder stays while its items come and go"
        values = []
        for folder, equality, instance in old:
            sums = self._sums[folder]
            values.append(
                (
                    sums.items,
                    sums.bytes,
                    ((int.from_bytes(equality, "big") + sums.equality) % MODULUS).to_bytes(16, "big"),
                    ((int.from_bytes(instance, "big") + sums.instance) % MODULUS).to_bytes(16, "big"),
                    sums.uid_max + 1,
                    folder,
                )
            )
        self._db.executemany(
            "UPDATE folder SET items = items + ?, bytes = bytes + ?, equality = ?, instance = ?, "
            "uidnext = max(uidnext, ?) WHERE no = ?",
            values,
        )

    def _insert_gathered(self) -> None:
        if self._new_items:
            for values, bound in values_clauses(self._new_items):
                self._db.execute(f"INSERT INTO item {values}", bound)
            self._new_items.clear()
        if self._new_keys:
            add_keys(self._db, self._new_keys)
            self._new_keys.clear()

    def _raise_head(self, mailbox: int, modseq: int) -> None:
        self._heads[mailbox] = max(self._heads.get(mailbox, 0), modseq)

    def _sum(self, folder: int) -> _Sums:
        sums = self._sums.get(folder)
        if sums is None:
            sums = self._sums[folder] = _Sums()
        return sums

    # ---- one method a kind of record

    def _mailbox_made(self, record: r.MailboxMade) -> None:
        self._db.execute(
            "INSERT INTO mailbox VALUES (NULL, ?, ?, ?, ?, '', 0, 0, ?, NULL)",
            (record.instance, record.mailbox_id, record.mode, record.token, record.created_ms),
        )

    def _guard_set(self, record: r.GuardSet) -> None:
        self._db.execute(
            "UPDATE mailbox SET mode = ?, token = ?, home = ?, head = max(head, ?) WHERE instance = ?",
            (record.mode, record.token, record.home, record.modseq, record.instance),
        )

    def _mailbox_removed(self, record: r.MailboxRemoved) -> None:
        self._db.execute(
            "UPDATE mailbox SET keep_until_ms = ? WHERE instance = ?", (record.keep_until_ms, record.instance)
        )

    def _mailbox_connected(self, record: r.MailboxConnected) -> None:
        self._db.execute("UPDATE mailbox SET keep_until_ms = NULL WHERE instance = ?", (record.instance,))

    def _mailbox_purged(self, record: r.MailboxPurged) -> None:
        mailbox = self.mailbox_no(record.instance)
        del self._mailboxes[record.instance]
        self._folders_of.pop(mailbox, None)
        make_old(self._db)
        for table in ("item", "folder", "tombstone", "setting", "delivery_key"):
            self._db.execute(f"DELETE FROM {table} WHERE mailbox = ?", (mailbox,))
        deleted = self._db.execute("DELETE FROM mailbox WHERE no = ? RETURNING token", (mailbox,))
        self._bury(0, record.instance, MAILBOX_TOMBSTONE, int(deleted.get))

    def _folder_put(self, record: r.FolderPut) -> None:
        mailbox = self.mailbox_no(record.instance)
        self._folders_of.pop(mailbox, None)
        self._db.execute(
            "INSERT INTO folder VALUES (NULL, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, 0, 0, zeroblob(16), zeroblob(16)) "
            "ON CONFLICT (mailbox, folder_id) DO UPDATE SET parent_id = excluded.parent_id, name = excluded.name, "
            "modseq = excluded.modseq, uidvalidity = excluded.uidvalidity, "
            "uidnext = max(uidnext, excluded.uidnext), special_use = excluded.special_use, "
            "subscribed = excluded.subscribed, hidden = excluded.hidden, attributes = excluded.attributes",
            (
                mailbox,
                record.folder_id,
                record.parent_id,
                record.name,
                record.modseq,
                record.uidvalidity,
                record.uidnext,
                record.special_use,
                record.subscribed,
                record.hidden,
                to_json(record.attributes),
            ),
        )
        self._raise_head(mailbox, record.modseq)

    def _folder_gone(self, record: r.FolderGone) -> None:
        mailbox = self.mailbox_no(record.instance)
        self._folders_of.pop(mailbox, None)
        self._db.execute("DELETE FROM folder WHERE mailbox = ? AND folder_id = ?", (mailbox, record.folder_id))
        self._bury(mailbox, record.folder_id, FOLDER_TOMBSTONE, record.modseq)

    def _folder_room_raised(self, record: r.FolderRoomRaised) -> None:
        self._db.execute(
            "UPDATE folder SET uidnext = max(uidnext, ?) WHERE mailbox = ? AND folder_id = ?",
            (record.uidnext, self.mailbox_no(record.instance), record.folder_id),
        )

    def _items_replaced(self, record: r.ItemsReplaced) -> None:
        mailbox = self.mailbox_no(record.instance)
        folders = self._folders(mailbox)
        self._insert_gathered()  # for they may be among them
        for row in record.rows:
            old = self._item(mailbox, row.item_id)
            self._sum(folders[old.folder_id]).add(old, -1, self._pack)
            self._db.execute("DELETE FROM item WHERE mailbox = ? AND item_id = ?", (mailbox, row.item_id))
        self._insert(mailbox, folders, record.rows)

    def _items_put(self, record: r.ItemsPut) -> None:
        mailbox = self.mailbox_no(record.instance)
        self._insert(mailbox, self._folders(mailbox), record.rows)

    def _insert(self, mailbox: int, folders: dict[bytes, int], rows: Sequence[ItemRow]) -> None:
        pack, gathered = self._pack, self._new_items
        for row in rows:
            folder = folders[row[1]]
            self._sum(folder).add(row, 1, pack)
            words, item_class, properties = row[10:]
            gathered.append(
                (
                    None,
                    mailbox,
                    row[0],
                    folder,
                    *row[2:10],
                    to_json(words) if words else "[]",
                    item_class,
                    to_json(properties) if properties else "[]",
                )
            )
        if rows:
            self._raise_head(mailbox, max([row.modseq for row in rows]))

    def _items_changed(self, record: r.ItemsChanged) -> None:
        mailbox = self.mailbox_no(record.instance)
        folders = self._folders(mailbox)
        self._insert_gathered()
        values = []
        latest: dict[ItemId, ItemRow] = {}  # an item may change twice in one record; the rows are written at its end
        for row in record.rows:
            old = latest.get(row.item_id) or self._item(mailbox, row.item_id)
            new = latest[row.item_id] = changed(old, row)
            self._sum(folders[old.folder_id]).add(old, -1, self._pack)
            self._sum(folders[new.folder_id]).add(new, 1, self._pack)
            values.append(
                (
                    folders[new.folder_id],
                    row.uid,
                    row.modseq,
                    row.flags,
                    to_json(row.keywords),
                    to_json(row.properties),
                    mailbox,
                    row.item_id,
                )
            )
        self._db.executemany(
            "UPDATE item SET folder = ?, uid = ?, modseq = ?, flags = ?, keywords = ?, properties = ? "
            "WHERE mailbox = ? AND item_id = ?",
            values,
        )
        if record.rows:
            self._raise_head(mailbox, max(row.modseq for row in record.rows))

    def _items_gone(self, record: r.ItemsGone) -> None:
        mailbox = self.mailbox_no(record.instance)
        folders = self._folders(mailbox)
        self._insert_gathered()
        for row in record.rows:
            old = self._find(mailbox, ItemId(row.id))
            if old is not None:
                self._sum(folders[old.folder_id]).add(old, -1, self._pack)
                self._db.execute("DELETE FROM item WHERE mailbox = ? AND item_id = ?", (mailbox, row.id))
            self._bury(mailbox, row.id, ITEM_TOMBSTONE, row.modseq)

    def _bury(self, mailbox: int, dead: bytes, kind: int, modseq: int) -> None:
        self._db.execute(
            "INSERT INTO tombstone VALUES (?, ?, ?, ?) "
            "ON CONFLICT (mailbox, id) DO UPDATE SET modseq = max(modseq, excluded.modseq)",
            (mailbox, dead, kind, modseq),
        )
        self._raise_head(mailbox, modseq)

    def _setting_put(self, record: r.SettingPut) -> None:
        mailbox = self.mailbox_no(record.instance)
        self._db.execute(
            "INSERT INTO setting VALUES (?, ?, ?, ?) ON CONFLICT (mailbox, name) DO UPDATE SET "
            "value = excluded.value, modseq = excluded.modseq",
            (mailbox, record.name, record.value, record.modseq),
        )
        self._raise_head(mailbox, record.modseq)

    def _delivery_keys_put(self, record: r.DeliveryKeysPut) -> None:
        mailbox = self.mailbox_no(record.instance)
        self._new_keys += [(mailbox, row) for row in record.rows]
        if record.rows:
            self._raise_head(mailbox, max([row.modseq for row in record.rows]))

    def _head_raised(self, record: r.HeadRaised) -> None:
        self._raise_head(self.mailbox_no(record.instance), record.modseq)

    def _feed_cut(self, record: r.FeedCut) -> None:
        mailbox = self.mailbox_no(record.instance)
        self._db.execute("DELETE FROM tombstone WHERE mailbox = ? AND modseq <= ?", (mailbox, record.horizon))
        make_old(self._db)
        self._db.execute(
            "DELETE FROM delivery_key WHERE mailbox = ? AND accepted_ms < ?", (mailbox, record.keys_before_ms)
        )
        self._db.execute("UPDATE mailbox SET horizon = max(horizon, ?) WHERE no = ?", (record.horizon, mailbox))

    def _segments_dropped(self, record: r.SegmentsDropped) -> None:
        """Nothing here: no item refers to them, and the files go after the commit."""

    def _find(self, mailbox: int, item_id: ItemId) -> ItemRow | None:
        found = self._db.execute(
            f"SELECT {ITEM_COLUMNS} FROM item i JOIN folder f ON f.no = i.folder WHERE i.mailbox = ? AND i.item_id = ?",
            (mailbox, item_id),
        ).fetchone()
        return None if found is None else item_row(found)

    def _item(self, mailbox: int, item_id: ItemId) -> ItemRow:
        found = self._find(mailbox, item_id)
        assert found is not None, f"a record changes item {item_id.hex()}, which is not there"
        return found


def changed(old: ItemRow, state: ItemStateRow) -> ItemRow:
    """The item after a change of state."""
    return old._replace(
        folder_id=FolderId(state.folder_id),
        uid=state.uid,
        modseq=state.modseq,
        flags=state.flags,
        keywords=state.keywords,
        properties=state.properties,
    )


_APPLY: dict[type[r.Record], Callable[[Applier, r.Record], None]] = {
    r.MailboxMade: Applier._mailbox_made,  # type: ignore[dict-item]  # each takes its own kind, looked up by it
    r.GuardSet: Applier._guard_set,  # type: ignore[dict-item]
    r.MailboxRemoved: Applier._mailbox_removed,  # type: ignore[dict-item]
    r.MailboxConnected: Applier._mailbox_connected,  # type: ignore[dict-item]
    r.MailboxPurged: Applier._mailbox_purged,  # type: ignore[dict-item]
    r.FolderPut: Applier._folder_put,  # type: ignore[dict-item]
    r.FolderGone: Applier._folder_gone,  # type: ignore[dict-item]
    r.FolderRoomRaised: Applier._folder_room_raised,  # type: ignore[dict-item]
    r.ItemsPut: Applier._items_put,  # type: ignore[dict-item]
    r.ItemsReplaced: Applier._items_replaced,  # type: ignore[dict-item]
    r.ItemsChanged: Applier._items_changed,  # type: ignore[dict-item]
    r.ItemsGone: Applier._items_gone,  # type: ignore[dict-item]
    r.SettingPut: Applier._setting_put,  # type: ignore[dict-item]
    r.DeliveryKeysPut: Applier._delivery_keys_put,  # type: ignore[dict-item]
    r.HeadRaised: Applier._head_raised,  # type: ignore[dict-item]
    r.FeedCut: Applier._feed_cut,  # type: ignore[dict-item]
    r.SegmentsDropped: Applier._segments_dropped,  # type: ignore[dict-item]
}
_GATHERED = {r.ItemsPut, r.ItemsReplaced, r.ItemsChanged, r.ItemsGone, r.DeliveryKeysPut}
