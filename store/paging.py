"""A mailbox, page by page: which items a page has, and their bytes.

Items go by id, which is about the order in which they were made, and stays; in a page, by their places. A page is
bounded in items and bytes; one item that is larger comes alone.
"""

from collections.abc import Sequence
from itertools import accumulate, takewhile
from operator import attrgetter
from typing import NamedTuple

import apsw
import attrs

from store.catalogue import queries
from store.content.pool import SegmentReader
from store.errors import Corruption, StoreBroken
from store.ids import InstanceId
from store.records import DeliveryKeyRow, ItemRow

PAGE_ROWS_MIN = 32
_PLACE = attrgetter("segment", "offset")


@attrs.frozen(eq=False)
class Reading:
    """What a read has in hand, inside `Offload`: a connection, and the segments."""

    db: apsw.Connection
    content: SegmentReader


class Fetched(NamedTuple):
    """An item with its bytes, or with why they cannot be had (`damage`, `raw`: whatever is there instead)."""

    row: ItemRow
    content: bytes | None
    damage: Corruption | None = None
    raw: bytes | None = None


@attrs.frozen(kw_only=True)
class Page:
    """Items in the order of their places. `following`: what to go on after, None where this was the last page."""

    items: Sequence[Fetched]
    following: bytes | None
    settings: Sequence[tuple[str, str | None, int]] = ()
    """All of them with their modseqs, removed ones (None) too: with the first page, if asked for."""
    delivery_keys: Sequence[DeliveryKeyRow] = ()
    """The first of them, in the order of acceptance: with the last page, if asked for."""


def read_page(
    reading: Reading, instance: InstanceId, *, after: bytes, limit: int, bytes_max: int, keys_max: int
) -> Page:
    """The page after this id. `keys_max`: so many delivery keys; 0: neither keys nor settings.

    Raises `NoSuchMailbox`.
    """
    db = reading.db
    no = queries.mailbox(db, instance).no
    rows: list[ItemRow] = []
    asked = size = 0
    # A page of large items is a few rows, one of small ones a thousand: the first few tell about how many.
    while len(rows) == asked < limit and size <= bytes_max:
        more = (bytes_max - size) * asked // max(size, 1) + 1 if asked else PAGE_ROWS_MIN
        more = min(max(more, PAGE_ROWS_MIN), limit - asked)
        found = queries.items_by_id(db, no, after=rows[-1].item_id if rows else after, limit=more)
        rows += found
        asked += more
        size += sum(row.size for row in found)
    some = fitting(rows, bytes_max)
    following = None if len(some) == len(rows) < asked else some[-1].item_id
    return Page(
        items=fetch(reading, instance, sorted(some, key=_PLACE)),
        following=following,
        settings=queries.setting_states(db, no) if keys_max and not after else (),
        delivery_keys=queries.delivery_keys(db, no, after_modseq=0, limit=keys_max)
        if keys_max and following is None
        else (),
    )


def fitting(rows: Sequence[ItemRow], bytes_max: int) -> Sequence[ItemRow]:
    """The first of these, as many as fit; one at least, if there is one."""
    sizes = accumulate(row.size for row in rows)
    return rows[: max(1, sum(1 for _ in takewhile(lambda size: size <= bytes_max, sizes)))]


def fetch(reading: Reading, instance: InstanceId, rows: Sequence[ItemRow]) -> list[Fetched]:
    """These items with their bytes, checked. A damaged one comes with its damage; one that was purged or written anew
    since it was listed with neither content nor damage."""
    return [
        _damaged(reading, instance, row, content) if isinstance(content, Corruption) else Fetched(row, content)
        for row, content in zip(rows, reading.content.read_each(rows), strict=True)
    ]


def _damaged(reading: Reading, instance: InstanceId, row: ItemRow, damage: Corruption) -> Fetched:
    info = queries.mailbox(reading.db, instance)
    now = queries.find_items(reading.db, info.no, [row.item_id])
    if not now or now[0].ref != row.ref:
        return Fetched(row, None)  # purged meanwhile, and its segment dropped
    try:
        raw = reading.content.read_raw(row.ref)
    except (Corruption, StoreBroken):
        raw = None
    return Fetched(row, None, damage, raw)
