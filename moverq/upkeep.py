"""Upkeep: what time brings to the databases that a worker has open, without anybody asking.

Deleted items past their retention are purged, and so are soft-deleted mailboxes; feeds are cut, dead segments dropped,
checkpoints made when they are due. Each round is a few short transactions like any other's; a round that is cut short,
or fails, is simply due again. What was done, and what could not be, is a log line each. What of a mailbox may go
`store.retention` decides.
"""

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

import trio

from moverq.directory.directory import Directory
from moverq.errors import MoveError, NotFound
from moverq.flow.clock import now_ms
from moverq.flow.log import log
from moverq.model.ids import InstanceId, MailboxId

if TYPE_CHECKING:
    from moverq.endpoints.store import StoreEndpoint

UPKEEP_INTERVAL_S = 900.0


async def keep_in_order(
    opened: "Callable[[], Iterable[StoreEndpoint]]",
    directory: Directory,
    *,
    first_s: float = UPKEEP_INTERVAL_S,
    interval_s: float = UPKEEP_INTERVAL_S,
) -> None:
    """Look after what is open, every so often, until cancelled. The first round comes after `first_s`."""
    await trio.sleep(first_s)
    while True:
        for endpoint in list(opened()):
            await _maintain(endpoint, directory)
        await trio.sleep(interval_s)


async def purge_removed(endpoint: "StoreEndpoint", directory: Directory) -> int:
    """Soft-deleted mailboxes whose retention is over are purged; returns how many.

    The request that moved one away does so too, but may have been removed before. One that the directory has for
    somebody's home stays: its register has fallen back, and an operator has to look.

    Raises: what directory and endpoint do; those before it are purged.
    """
    from moverq.endpoints.store import translated

    purged = 0
    with translated(endpoint.name):
        found = await endpoint.database.mailboxes()
    for info in found:
        if info.keep_until_ms is None or info.keep_until_ms > now_ms():
            continue
        instance = InstanceId(info.instance)
        if await _is_home(directory, MailboxId(info.mailbox_id), instance):
            log("moverq.upkeep").warning(
                "a soft-deleted mailbox is somebody's home in the directory, and is not purged",
                database=endpoint.name,
                instance=instance.hex(),
            )
            continue
        await endpoint.target(instance).purge(info.token)
        purged += 1
    return purged


async def _is_home(directory: Directory, mailbox_id: MailboxId, instance: InstanceId) -> bool:
    try:
        return (await directory.recipient(mailbox_id)).register.home.instance == instance
    except NotFound:
        return False


async def _maintain(endpoint: "StoreEndpoint", directory: Directory) -> None:
    # Imported here, where a store is open already: a worker that only moves between mail systems has none.
    from moverq.endpoints.store import translated

    try:
        mailboxes = await purge_removed(endpoint, directory)
        with translated(endpoint.name):
            done = await endpoint.database.maintain()
    except MoveError as error:
        log("moverq.upkeep").warning("upkeep failed", database=endpoint.name, why=str(error))
    else:
        if mailboxes or done.purged or done.cut or done.dropped or done.checkpointed:
            log("moverq.upkeep").info(
                "upkeep done",
                database=endpoint.name,
                mailboxes_purged=mailboxes,
                items_purged=done.purged,
                feed_entries_cut=done.cut,
                segments_dropped=done.dropped,
                checkpointed=done.checkpointed,
            )
