"""Read the catalogue: typed answers to the questions that the rest of the store asks.

Plain functions over a connection; the caller decides which transaction they run in, and none outlives a batch.
"""

from array import array
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import apsw
import attrs

from store.catalogue.apply import ITEM_COLUMNS, item_row, pairs
from store.catalogue.schema import FOLDER_TOMBSTONE, ITEM_TOMBSTONE, MAILBOX_TOMBSTONE, read_applied
from store.errors import FeedTrimmed, NoSuchFolder, NoSuchMailbox
from store.ids import FolderId, InstanceId, ItemId, MailboxId, Signature
from store.names import INBOX, QUOTA_BYTES
from store.records import DeliveryKeyRow, GoneRow, ItemRow, Mode

_ITEMS = f"SELECT {ITEM_COLUMNS} FROM item i JOIN folder f ON f.no = i.folder"


class MailboxInfo(NamedTuple):
    """A mailbox instance as the catalogue has it."""

    no: int
    instance: InstanceId
    mailbox_id: MailboxId
    mode: Mode
    token: int
    home: str
    head: int
    horizon: int
    created_ms: int
    keep_until_ms: int | None


class Account(NamedTuple):
    """What whoever adds items must know of a mailbox instance."""

    info: MailboxInfo
    inbox: FolderId | None
    """INBOX, if there is one, and its UIDNEXT."""
    uidnext: int
    quota: int | None
    """In bytes, if it has one."""


@attrs.frozen(kw_only=True)
class FolderInfo:
    """A folder with its account. `equality` and `instance`: the two digest sums."""

    no: int
    folder_id: FolderId
    parent_id: bytes
    name: str
    modseq: int
    uidvalidity: int
    uidnext: int
    special_use: str
    subscribed: bool
    hidden: bool
    attributes: tuple[tuple[str, str], ...]
    items: int
    bytes: int
    equality: int
    instance: int


@attrs.frozen(kw_only=True)
class FeedPage:
    """What differs in a mailbox since a modseq, up to `through`; see `store.feed`."""

    signature: Signature
    through: int
    more: bool
    folders: tuple[FolderInfo, ...] | None
    items: tuple[ItemRow, ...]
    items_gone: tuple[GoneRow, ...]
    settings: tuple[tuple[str, str | None, int], ...]
    delivery_keys: tuple[DeliveryKeyRow, ...]


_MAILBOX = "SELECT no, instance, mailbox_id, mode, token, home, head, horizon, created_ms, keep_until_ms FROM mailbox"


def _mailbox(values: tuple[Any, ...]) -> MailboxInfo:
    return MailboxInfo._make((*values[:3], Mode(values[3]), *values[4:]))


def mailbox(db: apsw.Connection, instance: InstanceId) -> MailboxInfo:
    """Raises `NoSuchMailbox`."""
    found = find_mailbox(db, instance)
    if found is None:
        raise NoSuchMailbox(instance=instance)
    return found


def find_mailbox(db: apsw.Connection, instance: InstanceId) -> MailboxInfo | None:
    found = db.execute(f"{_MAILBOX} WHERE instance = ?", (instance,)).fetchone()
    return None if found is None else _mailbox(found)


_ACCOUNTS = (
    "SELECT m.no, m.instance, m.mailbox_id, m.mode, m.token, m.home, m.head, m.horizon, m.created_ms, m.keep_until_ms, "
    "f.folder_id, f.uidnext, s.value FROM mailbox m "
    f"LEFT JOIN folder f ON f.mailbox = m.no AND f.parent_id = x'' AND f.name = '{INBOX}' "
    f"LEFT JOIN setting s ON s.mailbox = m.no AND s.name = '{QUOTA_BYTES}' WHERE m.instance IN carray(?)"
)


def accounts(db: apsw.Connection, instances: Iterable[InstanceId]) -> dict[InstanceId, Account]:
    """Those of these mailbox instances that there are."""
    accounts = {}
    found: list[tuple[Any, ...]] = db.execute(_ACCOUNTS, (apsw.carray(tuple(instances)),)).fetchall()
    for values in found:
        info, (inbox, uidnext, quota) = _mailbox(values[:10]), values[10:]
        accounts[info.instance] = Account(info, inbox, uidnext or 1, None if quota is None else int(quota))
    return accounts


def mailboxes(db: apsw.Connection) -> list[MailboxInfo]:
    """Every instance, whatever its guard, oldest first."""
    return [_mailbox(values) for values in db.execute(f"{_MAILBOX} ORDER BY no")]


_FOLDER = (
    "SELECT no, folder_id, parent_id, name, modseq, uidvalidity, uidnext, special_use, subscribed, hidden, "
    "attributes, items, bytes, equality, instance FROM folder"
)


def _folder(values: tuple[Any, ...]) -> FolderInfo:
    (no, fid, parent, name, modseq, validity, uidnext, use, subscribed, hidden, attributes, items, size, eq, inst) = (
        values
    )
    return FolderInfo(
        no=no,
        folder_id=fid,
        parent_id=parent,
        name=name,
        modseq=modseq,
        uidvalidity=validity,
        uidnext=uidnext,
        special_use=use,
        subscribed=bool(subscribed),
        hidden=bool(hidden),
        attributes=pairs(str(attributes)),
        items=items,
        bytes=size,
        equality=int.from_bytes(eq, "big"),
        instance=int.from_bytes(inst, "big"),
    )


def folders(db: apsw.Connection, mailbox_no: int) -> list[FolderInfo]:
    """All folders of a mailbox, oldest first."""
    return [_folder(values) for values in db.execute(f"{_FOLDER} WHERE mailbox = ? ORDER BY no", (mailbox_no,))]


def folder(db: apsw.Connection, mailbox_no: int, folder_id: FolderId) -> FolderInfo:
    """Raises `NoSuchFolder`."""
    found = find_folder(db, mailbox_no, folder_id)
    if found is None:
        raise NoSuchFolder(folder=folder_id.hex())
    return found


def find_folder(db: apsw.Connection, mailbox_no: int, folder_id: FolderId) -> FolderInfo | None:
    found = db.execute(f"{_FOLDER} WHERE mailbox = ? AND folder_id = ?", (mailbox_no, folder_id)).fetchone()
    return None if found is None else _folder(found)


def child(db: apsw.Connection, mailbox_no: int, parent_id: bytes, name: str) -> FolderInfo | None:
    """The folder of this name in this parent."""
    found = db.execute(
        f"{_FOLDER} WHERE mailbox = ? AND parent_id = ? AND name = ?", (mailbox_no, parent_id, name)
    ).fetchone()
    return None if found is None else _folder(found)


def used_bytes(db: apsw.Connection, mailbox_no: int) -> int:
    return int(db.execute("SELECT coalesce(sum(bytes), 0) FROM folder WHERE mailbox = ?", (mailbox_no,)).get)


def find_items(db: apsw.Connection, mailbox_no: int, item_ids: Sequence[ItemId]) -> list[ItemRow]:
    """Those of these items that are there, each once, in the order asked for."""
    rows = []
    for item_id in dict.fromkeys(item_ids):
        found = db.execute(f"{_ITEMS} WHERE i.mailbox = ? AND i.item_id = ?", (mailbox_no, item_id)).fetchone()
        if found is not None:
            rows.append(item_row(found))
    return rows


def item_versions(db: apsw.Connection, mailbox_no: int, item_ids: Sequence[ItemId]) -> dict[ItemId, tuple[int, bytes]]:
    """Modseq and content hash of those of these items that are live here."""
    found = _among(
        db,
        "SELECT item_id, modseq, content_hash FROM item WHERE mailbox = ? AND item_id IN carray(?)",
        mailbox_no,
        tuple(item_ids),
    )
    return {item_id: (modseq, content_hash) for item_id, modseq, content_hash in found}


def purged_token(db: apsw.Connection, instance: InstanceId) -> int | None:
    """The last token of an instance that was purged; None: it was not."""
    found = db.execute(
        "SELECT modseq FROM tombstone WHERE mailbox = 0 AND id = ? AND kind = ?", (instance, MAILBOX_TOMBSTONE)
    ).fetchone()
    return None if found is None else int(found[0])


def dead(db: apsw.Connection, mailbox_no: int, ids: Sequence[bytes]) -> set[bytes]:
    """Those of these that have a tombstone."""
    found = _among(db, "SELECT id FROM tombstone WHERE mailbox = ? AND id IN carray(?)", mailbox_no, tuple(ids))
    return {dead for (dead,) in found}


def _among(
    db: apsw.Connection, sql: str, of: int, wanted: "tuple[bytes, ...] | array[int]"
) -> Sequence[tuple[Any, ...]]:
    """One question about many things: SQLite takes the interpreter's lock up again after each statement, and beside a
    busy thread that costs more than the answer."""
    return db.execute(sql, (of, apsw.carray(wanted))).fetchall() if wanted else ()


def folder_items(db: apsw.Connection, folder_no: int, *, after_uid: int, limit: int) -> list[ItemRow]:
    """A folder's items by UID."""
    found = db.execute(
        f"{_ITEMS} WHERE i.folder = ? AND i.uid > ? ORDER BY i.uid LIMIT ?", (folder_no, after_uid, limit)
    )
    return [item_row(values) for values in found]


def items_by_id(db: apsw.Connection, mailbox_no: int, *, after: bytes, limit: int) -> list[ItemRow]:
    """A mailbox's items by id, which is about the order in which they were made."""
    found = db.execute(
        f"{_ITEMS} WHERE i.mailbox = ? AND i.item_id > ? ORDER BY i.item_id LIMIT ?", (mailbox_no, after, limit)
    )
    return [item_row(values) for values in found.fetchall()]


def every_item(db: apsw.Connection) -> Iterator[tuple[int, ItemRow]]:
    """All items of all mailboxes, by where their bytes are: (mailbox number, item)."""
    for values in db.execute(
        f"SELECT i.mailbox, {ITEM_COLUMNS} FROM item i JOIN folder f ON f.no = i.folder ORDER BY i.segment, i.offset"
    ):
        yield values[0], item_row(values[1:])


def settings(db: apsw.Connection, mailbox_no: int) -> dict[str, str]:
    """The settings that are set: JSON text by name."""
    return dict(
        db.execute(
            "SELECT name, value FROM setting WHERE mailbox = ? AND value IS NOT NULL ORDER BY name", (mailbox_no,)
        )
    )


def setting(db: apsw.Connection, mailbox_no: int, name: str) -> str | None:
    """A setting's JSON text, if it is set."""
    found = db.execute("SELECT value FROM setting WHERE mailbox = ? AND name = ?", (mailbox_no, name)).fetchone()
    return None if found is None else found[0]


def setting_states(db: apsw.Connection, mailbox_no: int) -> list[tuple[str, str | None, int]]:
    """All settings with their modseqs, removed ones (None) too."""
    found = db.execute("SELECT name, value, modseq FROM setting WHERE mailbox = ? ORDER BY name", (mailbox_no,))
    return [(name, value, modseq) for name, value, modseq in found]


def setting_modseq(db: apsw.Connection, mailbox_no: int, name: str) -> int:
    found = db.execute("SELECT modseq FROM setting WHERE mailbox = ? AND name = ?", (mailbox_no, name)).fetchone()
    return int(found[0]) if found else 0


def delivery_keys(db: apsw.Connection, mailbox_no: int, *, after_modseq: int, limit: int) -> list[DeliveryKeyRow]:
    """The deliveries that were accepted, in that order."""
    found = db.execute(
        "SELECT key, content_digest, accepted_ms, modseq FROM delivery_key WHERE mailbox = ? AND modseq > ? "
        "ORDER BY modseq LIMIT ?",
        (mailbox_no, after_modseq, limit),
    )
    return [DeliveryKeyRow._make(values) for values in found]


def uid_holders(db: apsw.Connection, folder_no: int, uids: Sequence[int]) -> dict[int, ItemId]:
    """The items that have these UIDs in this folder."""
    found = _among(
        db, "SELECT uid, item_id FROM item WHERE folder = ? AND uid IN carray(?)", folder_no, array("q", uids)
    )
    return {uid: item_id for uid, item_id in found}


def uid_min(db: apsw.Connection, folder_no: int) -> int:
    """The lowest UID in a folder that holds something."""
    return int(db.execute("SELECT min(uid) FROM item WHERE folder = ?", (folder_no,)).get)


def feed_page(db: apsw.Connection, instance: InstanceId, *, after: int, limit: int) -> FeedPage:
    """What differs since `after`, oldest change first, at most `limit` changes; of one moment.

    Raises:
        FeedTrimmed: tombstones above `after` have been dropped.
    """
    with db:  # one read transaction: a savepoint
        signature, _ = read_applied(db)
        info = mailbox(db, instance)
        if not info.horizon <= after <= info.head:
            raise FeedTrimmed(after=str(after), horizon=f"{info.horizon} and ends at {info.head}")
        if after == info.head:  # most who ask hear that there is nothing: that takes no question more
            return FeedPage(
                signature=signature,
                through=after,
                more=False,
                folders=None,
                items=(),
                items_gone=(),
                settings=(),
                delivery_keys=(),
            )
        bound = _bound(db, info.no, after=after, limit=limit)
        through = info.head if bound is None else bound
        rows = db.execute(
            f"{_ITEMS} WHERE i.mailbox = ? AND i.modseq > ? AND i.modseq <= ? ORDER BY i.modseq",
            (info.no, after, through),
        ).fetchall()
        gone = db.execute(
            "SELECT id, modseq FROM tombstone WHERE mailbox = ? AND modseq > ? AND modseq <= ? AND kind = ? "
            "ORDER BY modseq",
            (info.no, after, through, ITEM_TOMBSTONE),
        ).fetchall()
        changed_settings: list[tuple[Any, ...]] = db.execute(
            "SELECT name, value, modseq FROM setting WHERE mailbox = ? AND modseq > ? AND modseq <= ? ORDER BY modseq",
            (info.no, after, through),
        ).fetchall()
        keys = db.execute(
            "SELECT key, content_digest, accepted_ms, modseq FROM delivery_key "
            "WHERE mailbox = ? AND modseq > ? AND modseq <= ? ORDER BY modseq",
            (info.no, after, through),
        ).fetchall()
        tree = tuple(folders(db, info.no)) if _folders_changed(db, info.no, after) else None
    return FeedPage(
        signature=signature,
        through=through,
        more=through < info.head,
        folders=tree,
        items=tuple(item_row(values) for values in rows),
        items_gone=tuple(GoneRow._make(values) for values in gone),
        settings=tuple((name, value, modseq) for name, value, modseq in changed_settings),
        delivery_keys=tuple(DeliveryKeyRow._make(values) for values in keys),
    )


def _folders_changed(db: apsw.Connection, mailbox_no: int, after: int) -> bool:
    return bool(
        db.execute(
            "SELECT EXISTS (SELECT 1 FROM folder WHERE mailbox = ?1 AND modseq > ?2) OR EXISTS "
            "(SELECT 1 FROM tombstone WHERE mailbox = ?1 AND modseq > ?2 AND kind = ?3)",
            (mailbox_no, after, FOLDER_TOMBSTONE),
        ).get
    )


def _bound(db: apsw.Connection, mailbox_no: int, *, after: int, limit: int) -> int | None:
    """The modseq of the `limit`-th change after `after`, or None where there are no more than that."""
    found = db.execute(
        "SELECT modseq FROM ("
        "SELECT * FROM (SELECT modseq FROM item WHERE mailbox = ?1 AND modseq > ?2 ORDER BY modseq LIMIT ?3 + 1) "
        "UNION ALL SELECT * FROM "
        "(SELECT modseq FROM tombstone WHERE mailbox = ?1 AND modseq > ?2 ORDER BY modseq LIMIT ?3 + 1) "
        "UNION ALL SELECT * FROM "
        "(SELECT modseq FROM delivery_key WHERE mailbox = ?1 AND modseq > ?2 ORDER BY modseq LIMIT ?3 + 1) "
        "UNION ALL SELECT modseq FROM setting WHERE mailbox = ?1 AND modseq > ?2"
        ") ORDER BY modseq LIMIT 2 OFFSET ?3 - 1",
        (mailbox_no, after, limit),
    ).fetchall()
    return int(str(found[0][0])) if len(found) == 2 else None


def segments_in_use(db: apsw.Connection) -> set[int]:
    return {values[0] for values in db.execute("SELECT DISTINCT segment FROM item")}
