"""Pages of a mailbox for a seed, each asked for while the one before it is taken and carried.

    mirror: rows of page k+1 ─▶ EXAMINE, UID FETCH sent ─▶ bodies of page k taken ─▶ page k handed out
                                       the server works on k+1 meanwhile, as far as the sockets hold

So the source is never waited for where it is the faster side, and a far one costs a round trip for the first page
only. A page that was asked for ahead keeps its connection; it is dropped, and the connection with it, when another one
is asked for, or nobody came for `AHEAD_S`.
"""

from contextlib import AsyncExitStack
from functools import partial
from typing import TYPE_CHECKING, Final

import attrs
import trio

from moverq.endpoints.imap.connection import Connection
from moverq.endpoints.imap.reading import PageReading
from moverq.endpoints.mirrored.paging import PageRead, PageRows, page_rows

if TYPE_CHECKING:
    from moverq.endpoints.imap.session import ImapSession

PAGE_BYTES: Final = 6 << 20
"""Two small pages under way keep a server busier than a large one, and the move holds less: of 8 MiB each it would hold
12 MiB more than of 4, of 6 it is 4 MiB for half of what that saves."""
AHEAD_S: Final = 60.0


@attrs.frozen(eq=False, kw_only=True)
class PageAhead:
    """A page that nobody asked us for yet, asked of the server."""

    key: tuple[int, int, int]
    page: PageRows
    reading: PageReading
    connection: Connection
    holding: AsyncExitStack
    since: float


async def read_page(session: "ImapSession", after: int, *, bytes_max: int, items_max: int) -> PageRead:
    """The page behind `after`.

    Raises: EndpointUnavailable, EndpointBusy, EndpointBroken.
    """
    ahead, session.ahead = session.ahead, None
    if ahead is not None and (
        ahead.key != (after, bytes_max, items_max) or trio.current_time() - ahead.since > AHEAD_S
    ):
        await ahead.holding.aclose()
        ahead = None
    async with ahead.holding if ahead is not None else AsyncExitStack() as holding:
        if ahead is not None:
            page, connection, reading = ahead.page, ahead.connection, ahead.reading
        else:
            rows = partial(page_rows, after=after, bytes_max=bytes_max, items_max=items_max)
            page = await session.mirror.ask(rows)
            if not page.rows:
                return PageRead(page, {}, {})
            connection = await holding.enter_async_context(session.connection())
            reading = await PageReading.begin(connection, page.rows, page.places)
        following: tuple[PageRows, PageReading] | None = None
        last = page.rows[-1].seq
        if not page.done and session.connections.at_most > 1:  # the only one would be missed elsewhere
            rows = partial(page_rows, after=last, bytes_max=bytes_max, items_max=items_max)
            behind = await session.mirror.ask(rows)
            if behind.rows:
                following = behind, await PageReading.begin(connection, behind.rows, behind.places)
        contents, missing = await reading.end()
        if following is not None:
            session.ahead = PageAhead(
                key=(last, bytes_max, items_max),
                page=following[0],
                reading=following[1],
                connection=connection,
                holding=holding.pop_all(),
                since=trio.current_time(),
            )
    return PageRead(page, contents, missing)


__all__ = ["PAGE_BYTES", "PageAhead", "read_page"]
