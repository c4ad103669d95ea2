"""Do two catalogues say the same? What a rebuild, a check and the crash tests ask.

Row by row in the order of names that both sides share (instances, folder ids, item ids, keys), so it needs no memory
however large they are. A catalogue's own row numbers are left out: they follow from the order of inserts, and a
catalogue made from a checkpoint may count differently.
"""

from collections.abc import Iterator
from typing import Any

import apsw
import attrs

Row = tuple[Any, ...]


@attrs.frozen
class _Table:
    """What is compared of one table: the first `keys` columns name a row, the others are what it says."""

    what: str
    keys: int
    columns: tuple[str, ...]
    tables: str

    @property
    def query(self) -> str:
        order = ", ".join(str(number) for number in range(1, self.keys + 1))
        return f"SELECT {', '.join(self.columns)} FROM {self.tables} ORDER BY {order}"


_MAILBOX = "m.instance"
_TABLES = (
    _Table("the catalogue", 1, ("one", "signature", "generation", "offset", "chain"), "meta"),
    _Table(
        "mailbox",
        1,
        (_MAILBOX, "mailbox_id", "mode", "token", "home", "head", "horizon", "created_ms", "keep_until_ms"),
        "mailbox m",
    ),
    _Table(
        "folder",
        2,
        (
            _MAILBOX,
            "f.folder_id",
            "parent_id",
            "name",
            "modseq",
            "uidvalidity",
            "uidnext",
            "special_use",
            "subscribed",
            "hidden",
            "attributes",
            "items",
            "bytes",
            "equality",
            "f.instance",
        ),
        "folder f LEFT JOIN mailbox m ON m.no = f.mailbox",
    ),
    _Table(
        "item",
        2,
        (
            _MAILBOX,
            "i.item_id",
            "f.folder_id",
            "i.uid",
            "i.modseq",
            "received_ms",
            "size",
            "content_hash",
            "segment",
            "offset",
            "flags",
            "keywords",
            "item_class",
            "properties",
        ),
        "item i LEFT JOIN mailbox m ON m.no = i.mailbox LEFT JOIN folder f ON f.no = i.folder",
    ),
    _Table(
        "tombstone",
        2,
        (_MAILBOX, "t.id", "kind", "modseq"),
        "tombstone t LEFT JOIN mailbox m ON m.no = t.mailbox",
    ),
    _Table(
        "setting",
        2,
        (_MAILBOX, "s.name", "value", "modseq"),
        "setting s LEFT JOIN mailbox m ON m.no = s.mailbox",
    ),
    _Table(
        "delivery key",
        3,
        (_MAILBOX, "k.key", "k.content_digest", "accepted_ms", "modseq"),
        "delivery_key k LEFT JOIN mailbox m ON m.no = k.mailbox",
    ),
)


def differences(live: apsw.Connection, replayed: apsw.Connection, *, most: int = 10) -> list[str]:
    """Up to `most` differences, in words; none where both say the same. Each side is read at one moment."""
    found: list[str] = []
    with live, replayed:  # a read transaction on each
        for table in _TABLES:
            for difference in _table_differences(table, live, replayed):
                if len(found) == most:
                    return found
                found.append(difference)
    return found


def _table_differences(table: _Table, live: apsw.Connection, replayed: apsw.Connection) -> Iterator[str]:
    """Both sides come in the order of their keys, so one walk finds what only one of them has."""
    left, right = iter(live.execute(table.query)), iter(replayed.execute(table.query))
    ours, theirs = next(left, None), next(right, None)
    while ours is not None or theirs is not None:
        if theirs is None or (ours is not None and _key(table, ours) < _key(table, theirs)):
            assert ours is not None
            yield f"{_name(table, ours)} is in the live catalogue only"
            ours = next(left, None)
        elif ours is None or _key(table, theirs) < _key(table, ours):
            yield f"{_name(table, theirs)} is in the replayed catalogue only"
            theirs = next(right, None)
        else:
            if ours != theirs:
                yield _in_words(table, ours, theirs)
            ours, theirs = next(left, None), next(right, None)


def _key(table: _Table, row: Row) -> tuple[tuple[bool, Any], ...]:
    """SQLite's own order: NULL (a row whose mailbox is gone) before everything."""
    return tuple((part is not None, part.encode() if isinstance(part, str) else part) for part in row[: table.keys])


def _name(table: _Table, row: Row) -> str:
    if table.tables == "meta":
        return table.what
    instance, *names = (_shown(part) for part in row[: table.keys])
    return " ".join([table.what, *names, *(["of mailbox"] if names else []), instance])


def _in_words(table: _Table, ours: Row, theirs: Row) -> str:
    said = [
        f"{column.rpartition('.')[2]} {_shown(one)} live, {_shown(other)} replayed"
        for column, one, other in zip(table.columns, ours, theirs, strict=True)
        if one != other
    ]
    return f"{_name(table, ours)}: {'; '.join(said)}"


def _shown(value: object) -> str:
    if isinstance(value, bytes):
        try:
            text = value.decode("ascii")
        except UnicodeDecodeError:
            return value.hex()
        return text if text.isprintable() and text else value.hex() or "nothing"
    return repr(value)
