"""Upkeep: what time brings to the databases that a worker has open, without anybody asking.

Deleted items past their retention are purged, feeds cut, dead segments dropped, checkpoints made when they are due.
Each round is a few short transactions like any other's; a round that is cut short, or fails, is simply due again. What
was done, and what could not be, is a log line each; nothing is decided here (`store.retention` does that).
"""

from collections.abc import Callable, Iterable

import structlog
import trio

from moverq.endpoints.store import StoreEndpoint, translated
from moverq.errors import MoveError

UPKEEP_INTERVAL_S = 900.0


async def keep_in_order(
    opened: Callable[[], Iterable[StoreEndpoint]], *, interval_s: float = UPKEEP_INTERVAL_S
) -> None:
    """Look after what is open, every so often, until cancelled. The first round comes after one interval."""
    log = structlog.get_logger("moverq.upkeep")
    while True:
        await trio.sleep(interval_s)
        for endpoint in list(opened()):
            try:
                with translated(endpoint.name):
                    done = await endpoint.database.maintain()
            except MoveError as error:
                log.warning("upkeep failed", database=endpoint.name, why=str(error))
            else:
                if done.purged or done.cut or done.dropped or done.checkpointed:
                    log.info(
                        "upkeep done",
                        database=endpoint.name,
                        items_purged=done.purged,
                        feed_entries_cut=done.cut,
                        segments_dropped=done.dropped,
                        checkpointed=done.checkpointed,
                    )
