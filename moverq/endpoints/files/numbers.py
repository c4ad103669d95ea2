"""The numbers that a mirror gives to the messages in files: what stands for a UID there. Blocking.

A number is of one *base* in one folder, which is what stays of a message there and tells it from every other: a part of
a file's name in a Maildir. A base that is gone, and that nothing in the mirror speaks of any more, loses its number
(`number_all`).
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from moverq.endpoints.mirrored.mirror import Mirror, batched
from moverq.flow.sqlite import transaction
from moverq.model.ids import FolderId, ItemId


def number_all(
    mirror: Mirror, *, folder_id: FolderId, bases: Iterable[bytes], is_whole: bool, order: Callable[[bytes], Any]
) -> dict[bytes, int]:
    """The number of each; `is_whole`: there are no others. New numbers rise as `order` does, and are durable."""
    wanted = set(bases)
    before = known(mirror, folder_id=folder_id)
    gone = [number for base, number in before.items() if base not in wanted] if is_whole else []
    new = sorted(wanted - before.keys(), key=order)
    if new or gone:
        with transaction(mirror.db):
            _insert(mirror, folder_id, new)
            mirror.db.execute(
                "DELETE FROM files WHERE folder_id NOT IN (SELECT folder_id FROM folders) AND folder_id NOT IN "
                "(SELECT folder_id FROM sums WHERE items > 0)"
            )
            for some in batched(gone):
                marks = ",".join("?" * len(some))
                mirror.db.execute(
                    f"DELETE FROM files WHERE number IN ({marks}) AND NOT EXISTS (SELECT 1 FROM items i "
                    f"WHERE i.folder_id = files.folder_id AND i.server_uid = number) AND NOT EXISTS (SELECT 1 FROM "
                    f"strangers s WHERE s.folder_id = files.folder_id AND s.server_uid = number) AND number NOT IN "
                    f"(SELECT server_uid FROM to_expunge UNION ALL SELECT server_uid FROM to_move)",
                    tuple(some),
                )
        before = known(mirror, folder_id=folder_id)
    return {base: before[base] for base in wanted}


def number_some(mirror: Mirror, folder_id: FolderId, bases: Sequence[bytes]) -> dict[bytes, int]:
    """Inside a transaction."""
    _insert(mirror, folder_id, bases)
    return {
        base: next(mirror.db.execute("SELECT number FROM files WHERE folder_id = ? AND base = ?", (folder_id, base)))[0]
        for base in bases
    }


def bases_of(mirror: Mirror, *, folder_id: FolderId, numbers: Sequence[int]) -> dict[int, tuple[bytes, bytes]]:
    """(base name, content hash if it is known) of each number that is known."""
    found: dict[int, tuple[bytes, bytes]] = {}
    for some in batched(numbers):
        marks = ",".join("?" * len(some))
        for number, base, hash_ in mirror.db.execute(
            f"SELECT f.number, f.base, i.content_hash FROM files f LEFT JOIN items i ON i.folder_id = f.folder_id AND "
            f"i.server_uid = f.number WHERE f.number IN ({marks}) AND f.folder_id = ?",
            (*some, folder_id),
        ):
            found[number] = (base, hash_ or b"")
    return found


def rename(mirror: Mirror, *, folder_id: FolderId, gone: Iterable[int], bases: Iterable[tuple[int, bytes]]) -> None:
    """Inside a transaction: those that are gone have no base any more, others have new ones."""
    given = list(bases)
    mirror.db.executemany("DELETE FROM files WHERE number = ?", [(number,) for number in gone])
    mirror.db.executemany("DELETE FROM files WHERE number = ?", [(number,) for number, _ in given])
    mirror.db.executemany(
        "INSERT OR REPLACE INTO files (number, folder_id, base) VALUES (?, ?, ?)",
        [(number, folder_id, base) for number, base in given],
    )


def seen_before(mirror: Mirror, *, folder_id: FolderId) -> dict[int, int | None]:
    """Numbers whose date and size nobody asks for again, as long as clients know them by this UID (None: by any)."""
    return dict(
        mirror.db.execute(
            "SELECT i.server_uid, CASE WHEN f.native THEN i.uid END FROM items i JOIN folders f USING (folder_id) "
            "WHERE i.folder_id = ? AND i.server_uid IS NOT NULL AND i.verified = 1 "
            "UNION ALL SELECT server_uid, NULL FROM strangers WHERE folder_id = ?",
            (folder_id, folder_id),
        )
    )


def intents_of(
    mirror: Mirror, *, item_ids: Sequence[ItemId]
) -> Mapping[ItemId, tuple[int, tuple[FolderId, int] | None]]:
    """Of items on their way: (the intent, where they are moved from)."""
    found = {}
    for item_id in item_ids:
        row = mirror.db.execute(
            "SELECT i.intent, m.from_folder, m.server_uid FROM items i LEFT JOIN to_move m USING (item_id) "
            "WHERE i.item_id = ?",
            (item_id,),
        ).get
        if row is not None:
            intent, from_folder, number = row
            found[item_id] = (intent, (from_folder, number) if from_folder is not None else None)
    return found


def known(mirror: Mirror, *, folder_id: FolderId) -> dict[bytes, int]:
    """Every number of the folder, by base."""
    return dict(mirror.db.execute("SELECT base, number FROM files WHERE folder_id = ?", (folder_id,)))


def _insert(mirror: Mirror, folder_id: FolderId, bases: Iterable[bytes]) -> None:
    mirror.db.executemany(
        "INSERT OR IGNORE INTO files (folder_id, base) VALUES (?, ?)", [(folder_id, base) for base in bases]
    )
