"""Pages of a mailbox for a seed: which items, and their bytes, folder by folder.

A session whose mail system is far away reads ahead instead (`imap.seeding`); for files this is what there is to do.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import attrs

from moverq.endpoints.mirrored.mirror import FolderPlace, Located, Mirror
from moverq.model.ids import FolderId

if TYPE_CHECKING:
    from moverq.endpoints.mirrored.session import MailSession


@attrs.frozen(kw_only=True)
class PageRows:
    """The items of one page, in the mirror's order, and where their folders are."""

    rows: Sequence[Located]
    places: Mapping[FolderId, FolderPlace]
    is_movers: bool
    done: bool
    """There is nothing behind them."""


class PageRead(NamedTuple):
    """A page with its bytes."""

    page: PageRows
    contents: Mapping[int, bytes]
    """By `seq`. In neither: gone."""
    missing: Mapping[int, str]
    """By `seq`: what is wrong with those that are there and cannot be read."""


def page_rows(mirror: Mirror, *, after: int, bytes_max: int, items_max: int) -> PageRows:
    """The items behind `after` that fit."""
    rows, done = mirror.seed_rows(after, items_max=items_max, bytes_max=bytes_max)
    return PageRows(rows=rows, places=mirror.places(), is_movers=mirror.standing().is_movers, done=done)


async def read_page(session: "MailSession", after: int, *, bytes_max: int, items_max: int) -> PageRead:
    """The page behind `after`, for a session that does not read ahead."""
    page = await session.mirror.ask(partial(page_rows, after=after, bytes_max=bytes_max, items_max=items_max))
    return PageRead(page, *await read_rows(session, page.rows, page.places))


async def read_rows(
    session: "MailSession", rows: Sequence[Located], places: Mapping[FolderId, FolderPlace]
) -> tuple[dict[int, bytes], dict[int, str]]:
    """The bytes of these items, as in `PageRead`. The mirror said both at once: where their folders are, and what they
    are called there."""
    contents: dict[int, bytes] = {}
    missing: dict[int, str] = {}
    by_folder: dict[FolderId, list[Located]] = {}
    for row in rows:
        by_folder.setdefault(row.state.folder_id, []).append(row)
    for folder_id, some in by_folder.items():
        if folder_id not in places:
            continue
        found, unread = await session.read(places[folder_id], [row.server_uid for row in some])
        contents |= {row.seq: found[row.server_uid] for row in some if row.server_uid in found}
        missing |= {row.seq: unread[row.server_uid] for row in some if row.server_uid in unread}
    return contents, missing


__all__ = ["PageRead", "PageRows", "page_rows", "read_page", "read_rows"]
