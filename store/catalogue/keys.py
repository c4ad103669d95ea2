"""Delivery keys: in the order in which they came, and found again by a small index that is behind.

Each key of an index lands on a page of its own, which is then read, checked, logged and folded: for a delivery in a
group that was dearer than its item with three indexes. So a row goes to the table's end, where its neighbours of this
commit go too, and the index gets the rows of some thousand deliveries at once, when most of its pages get several. It
is of 4 bytes of a hash, since the row itself says whether it is the one.

    delivery_key, by number   old: in the index …  | recent: remembered by each process that commits, `RecentKeys`
                                                   ^ meta.keys_old                                   meta.keys_given ^

What always holds: a key is in the index or among the recent ones, and a number is given out once. Where keys are taken
away all others become old first, so that nobody remembers one of those.
"""

from array import array
from collections.abc import Collection, Iterable, Sequence
from typing import Any

import apsw
import attrs
import xxhash

from store.catalogue.rows import values_clauses
from store.limits import RECENT_KEYS_MAX
from store.records import DeliveryKeyRow

Key = tuple[int, bytes, bytes]
"""Mailbox number, delivery key, xxh3_128 of the content."""


def add_keys(db: apsw.Connection, rows: Sequence[tuple[int, DeliveryKeyRow]]) -> None:
    """These rows, each with its mailbox's number, are there."""
    given, old = db.execute(
        "UPDATE meta SET keys_given = keys_given + ? RETURNING keys_given, keys_old", (len(rows),)
    ).get
    values = [
        (no, _hash(mailbox, row.key, row.content_digest), 1, mailbox, *row)
        for no, (mailbox, row) in enumerate(rows, given - len(rows) + 1)
    ]
    for clause, bound in values_clauses(values):
        db.execute(f"INSERT INTO delivery_key {clause}", bound)
    if given - old > RECENT_KEYS_MAX:
        make_old(db)


def make_old(db: apsw.Connection) -> None:
    """All keys are in the index."""
    db.execute("UPDATE delivery_key SET recent = 0 WHERE no > (SELECT keys_old FROM meta)")
    db.execute("UPDATE meta SET keys_old = keys_given")


def old_keys(db: apsw.Connection, keys: Collection[Key]) -> set[Key]:
    """Those of these that the index has."""
    hashes = array("q", [_hash(*key) for key in keys])
    if not hashes:
        return set()
    found: Iterable[Any] = db.execute(
        "SELECT mailbox, key, content_digest FROM delivery_key INDEXED BY delivery_key_hash "
        "WHERE recent = 0 AND hash IN carray(?)",
        (apsw.carray(hashes),),
    )
    return set(found).intersection(keys)


_LOOK = (
    "SELECT m.keys_given, m.keys_old, d.mailbox, d.key, d.content_digest "
    "FROM meta m LEFT JOIN delivery_key d ON d.no > max(?, m.keys_old)"
)


@attrs.define(eq=False)
class RecentKeys:
    """The keys that the index does not have, as one process remembers them from commit to commit."""

    _keys: set[Key] = attrs.Factory(set)
    _old: int = -1
    _seen: int = -1

    def known(self, keys: Collection[Key]) -> set[Key]:
        """Those of these that are among them."""
        return self._keys.intersection(keys)

    def look(self, db: apsw.Connection) -> None:
        """They are those of this moment. Before the transaction adds or takes away any: it may yet be rolled back."""
        rows: list[Any] = db.execute(_LOOK, (self._seen,)).fetchall()
        given, old = rows[0][:2]
        if old != self._old:
            self._keys.clear()
            self._old = old
        if given != max(self._seen, old):
            self._keys.update([row[2:] for row in rows])
        self._seen = given

    def later(self, db: apsw.Connection) -> set[Key]:
        """What has come since."""
        rows: Iterable[Any] = db.execute(
            "SELECT mailbox, key, content_digest FROM delivery_key WHERE no > ?", (self._seen,)
        )
        return set(rows)


def _hash(mailbox: int, key: bytes, content_digest: bytes) -> int:
    """32 bits with a sign: SQLite has 4 bytes for those."""
    return (xxhash.xxh3_64_intdigest(key + content_digest, mailbox) & 0xFFFFFFFF) - 0x80000000
