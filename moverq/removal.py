"""Taking a database out of the directory again: only its entry goes, and only where nothing needs it.

What needs it: a mailbox at home there, a move request that names it (as Remove-MailboxDatabase has it, also one that is
over: its old mailbox may still be there), a process that has it open, and so would go on with the files of this one
should another get its name. Mailboxes that were moved away or soft-deleted keep it too, unless the operator says that
nobody wants them.

No file is ever deleted: what lies there may be added again, under any name.
"""

from pathlib import Path
from shlex import quote

from moverq.directory.directory import DatabaseEntry, Directory, still_used
from moverq.endpoints.kinds import is_mail_system
from moverq.errors import EndpointBroken, RequestRefused
from moverq.flow.clock import now_ms
from moverq.ledger.ledger import Ledger


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
            why=f"there are {left} mailboxes in {name} that were moved away or soft-deleted (`moverq store header`); "
            f"--force removes it all the same, and leaves its files where they are"
        )
    async with database_alone(name, path):
        await directory.remove_database(name)
    return entry


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


__all__ = ["remove_database"]
