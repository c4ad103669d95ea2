"""Upkeep: what time brings to the databases that a worker has open, without anybody asking.

Deleted items past their retention are purged, feeds cut, dead segments dropped, checkpoints made when they are due.
Each round is a few short transactions like any other's; a round that is cut short, or fails, is simply due again. What
was done, and what could not be, is a log line each; nothing is decided here (`store.retention` does that).
"""

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

import trio

from moverq.errors import MoveError
from moverq.flow.log import log

if TYPE_CHECKING:
    from moverq.endpoints.store import StoreEndpoint

UPKEEP_INTERVAL_S = 900.0


async def keep_in_order(
    opened: "Callable[[], Iterable[StoreEndpoint]]",
    *,
    first_s: float = UPKEEP_INTERVAL_S,
    interval_s: float = UPKEEP_INTERVAL_S,
) -> None:
    """Look after what is open, every so often, until cancelled. The first round comes after `first_s`."""
    await trio.sleep(first_s)
    while True:
        for endpoint in list(opened()):
            await _maintain(endpoint)
        await trio.sleep(interval_s)


async def _maintain(endpoint: "StoreEndpoint") -> None:
    # Imported here, where a store is open already: a worker that only moves between mail systems has none.
    from moverq.endpoints.store import translated

    try:
        with translated(endpoint.name):
            done = await endpoint.database.maintain()
    except MoveError as error:
        log("moverq.upkeep").warning("upkeep failed", database=endpoint.name, why=str(error))
    else:
        if done.purged or done.cut or done.dropped or done.checkpointed:
            log("moverq.upkeep").info(
                "upkeep done",
                database=endpoint.name,
                items_purged=done.purged,
                feed_entries_cut=done.cut,
                segments_dropped=done.dropped,
                checkpointed=done.checkpointed,
            )
