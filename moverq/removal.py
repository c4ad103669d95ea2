"""Taking a database or a mailbox out of the directory again, only where nothing needs it.

What needs a database: a mailbox at home there, a move request that names it (as Remove-MailboxDatabase has it, also one
that is over: its old mailbox may still be there), a process that has it open, and so would go on with the files of this
one should another get its name. Mailboxes that were moved away or soft-deleted keep it too, unless the operator says
that nobody wants them. No file of it is ever deleted: what lies there may be added again, under any name.

A mailbox is told first whose it was, goes from the directory, and is then soft-deleted: a crash between the last two
leaves one that nobody has, which is harmless (`mailbox list --disconnected` shows it, and `mailbox connect` brings it
back); the other way round it would leave an address without a mailbox. What needs it is a move request that names it,
also one that is over: its job begins with the directory.
"""

from collections.abc import Awaitable, Callable, Sequence
from contextlib import aclosing, suppress
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING

import attrs

from moverq.directory.directory import DatabaseEntry, Directory, Recipient, still_used
from moverq.endpoints.base import Endpoint
from moverq.endpoints.kinds import is_mail_system
from moverq.errors import EndpointBroken, NotFound, RequestRefused
from moverq.flow.clock import now_ms
from moverq.ledger.ledger import Ledger
from moverq.model.ids import InstanceId, MailboxId
from moverq.model.label import Label
from moverq.model.request import SyncStage
from moverq.words import counted

if TYPE_CHECKING:
    from moverq.endpoints.store import StoreEndpoint


async def remove_database(
    directory: Directory, ledger: Ledger, name: str, *, root: Path, force: bool = False
) -> DatabaseEntry:
    """The directory does not have it any more; the entry it had. `force`: also with old mailboxes in it.

    Raises:
        NotFound: there is no such database.
        RequestRefused: something needs it.
        EndpointUnavailable: a process has it open.
    """
    entry = await directory.database(name)
    await _check_nobody_is_at_home(directory, name)
    await _check_no_request_names(ledger, name)
    if is_mail_system(entry.path):
        await directory.remove_database(name)
        return entry
    from moverq.endpoints.store import database_alone

    path = root / entry.path
    try:
        left = await _old_mailboxes(name, path)
    except EndpointBroken:  # gone, or damaged: what was in it cannot be known, and need not be
        await directory.remove_database(name)
        return entry
    if left and not force:
        raise RequestRefused(
            why=f"{name} holds {counted(left, 'old mailbox', 'old mailboxes')}, moved away or soft-deleted "
            f"(`moverq mailbox list --disconnected`, `moverq store header`); "
            f"--force removes it all the same, and leaves its files where they are"
        )
    async with database_alone(name, path):
        await directory.remove_database(name)
    return entry


@attrs.frozen(kw_only=True)
class MailboxRemoved:
    """A mailbox that was taken out of the directory."""

    address: str
    database: str
    instance: str
    items: int
    bytes: int
    keep_until_ms: int | None
    """When it may be purged. None: it is a mail system's, which keeps it."""


async def remove_mailbox(
    directory: Directory,
    ledger: Ledger,
    address: str,
    *,
    endpoints: Callable[[str], Awaitable[Endpoint]],
    stores: "Callable[[str], Awaitable[StoreEndpoint]]",
    retention_s: float,
    force: bool,
) -> MailboxRemoved:
    """Nobody has the address any more, nor its aliases; the mailbox is soft-deleted, and purged by upkeep after its
    retention. In a mail system it stays as it is, and is only forgotten. `force`: also one that holds items.

    Raises:
        NotFound: there is no such mailbox.
        RequestRefused: a move request names it, or it holds items.
        RegisterChanged: it was moved in this moment; nothing changed.
    """
    recipient = await directory.locate(address)
    await _check_no_request_moves(ledger, recipient)
    home = recipient.register.home
    is_kept_there = is_mail_system((await directory.database(home.database)).path)
    items = size = 0
    async with aclosing((await endpoints(home.database)).source(home.instance)) as source:
        if not is_kept_there:
            with suppress(NotFound):  # of a database that was made anew
                summary = await source.summary()
                items, size = summary.items, summary.bytes
        if items and not force:
            raise RequestRefused(
                why=f"the mailbox of {recipient.address} holds {counted(items, 'item')}; `moverq mailbox export` takes "
                f"out what is in it, and --force removes it all the same"
            )
        token = await directory.take_token(recipient.mailbox_id)
        if not is_kept_there:
            label = Label(
                mailbox_id=recipient.mailbox_id,
                address=recipient.address,
                aliases=recipient.aliases,
                removed_ms=now_ms(),
            )
            with suppress(NotFound):
                await (await stores(home.database)).label(home.instance, token, label.to_text())
        await directory.remove_recipient(recipient.mailbox_id, expected=recipient.register)
        keep_until_ms = 0 if is_kept_there else now_ms() + round(retention_s * 1000)
        with suppress(NotFound):
            await source.retire(token, home)
            await source.remove(token, keep_until_ms=keep_until_ms)
            if is_kept_there:
                await source.purge(token)
    return MailboxRemoved(
        address=recipient.address,
        database=home.database,
        instance=home.instance.hex(),
        items=items,
        bytes=size,
        keep_until_ms=None if is_kept_there else keep_until_ms,
    )


async def remove_old_mailboxes(
    directory: Directory, ledger: Ledger, address: str, *, stores: "Sequence[StoreEndpoint]", retention_s: float
) -> list[MailboxRemoved]:
    """The old mailboxes that removed requests have left of this one are soft-deleted, and purged by upkeep after their
    retention. They are told by being retired, with the mailbox's home elsewhere and no move that has a claim to it.

    Raises:
        NotFound: there is no such mailbox, or no old one that is not soft-deleted already.
        RequestRefused: a move of it is not over.
    """
    from moverq.endpoints.store import moved_to, translated

    recipient = await directory.locate(address)
    open_ = [
        one for one in await ledger.find(mailbox_id=recipient.mailbox_id) if one.stage is not SyncStage.SYNC_FINISHED
    ]
    if recipient.active_move is not None or open_:
        request = recipient.active_move or open_[0].request.request_id
        raise RequestRefused(
            why=f"the move of {recipient.address} by request {request} is not over, and looks after its old mailbox: "
            f"see `moverq move explain {request}`"
        )
    token = await directory.take_token(recipient.mailbox_id)
    keep_until_ms = now_ms() + round(retention_s * 1000)
    gone = []
    for endpoint in stores:
        with translated(endpoint.name):
            found = await endpoint.database.mailboxes()
        for info in found:
            instance = InstanceId(info.instance)
            if (
                MailboxId(info.mailbox_id) != recipient.mailbox_id
                or instance == recipient.register.home.instance
                or info.keep_until_ms is not None
                or moved_to(info) is None
            ):
                continue
            source = endpoint.source(instance)
            summary = await source.summary()
            await source.remove(token, keep_until_ms=keep_until_ms)
            gone.append(
                MailboxRemoved(
                    address=recipient.address,
                    database=endpoint.name,
                    instance=instance.hex(),
                    items=summary.items,
                    bytes=summary.bytes,
                    keep_until_ms=keep_until_ms,
                )
            )
    if not gone:
        raise NotFound(kind="old mailbox of", name=recipient.address)
    return gone


async def _check_no_request_moves(ledger: Ledger, recipient: Recipient) -> None:
    found = await ledger.find(mailbox_id=recipient.mailbox_id)
    if found:
        last = found[-1]
        raise RequestRefused(
            why=f"a move request names the mailbox of {recipient.address} ({last.request.request_id[:8]}, "
            f"{last.status.value}): clear it away with `moverq move remove`"
        )


async def _check_nobody_is_at_home(directory: Directory, name: str) -> None:
    """The directory checks it again, when it removes the entry."""
    there, after = list[str](), ""
    while page := await directory.recipients(after=after):
        there += [one.address for one in page if one.register.home.database == name]
        after = page[-1].address
    if there:
        raise still_used("database", name, f"the mailbox of {there[0]}", len(there))


async def _check_no_request_names(ledger: Ledger, name: str) -> None:
    for option, found in (
        ("--from", await ledger.find(source_database=name, limit=1)),
        ("--to", await ledger.find(target_database=name, limit=1)),
    ):
        if found:
            raise RequestRefused(
                why=f"move requests name the database {name}: see `moverq move list {option} {quote(name)}`, and clear "
                f"them away with `moverq move remove`"
            )


async def _old_mailboxes(name: str, path: Path) -> int:
    """How many instances somebody may still want back. One that is at home there the directory knows."""
    from moverq.endpoints.store import open_endpoint, translated

    old = 0
    async with open_endpoint(name, path) as endpoint:
        with translated(name):
            for info in await endpoint.database.mailboxes():
                if info.keep_until_ms is not None and info.keep_until_ms <= now_ms():
                    continue
                _, folders, _ = await endpoint.database.account(info.instance)
                old += any(folder.items for folder in folders)
    return old


__all__ = ["MailboxRemoved", "remove_database", "remove_mailbox", "remove_old_mailboxes"]
