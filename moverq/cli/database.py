"""`moverq database`: the databases of the organisation."""

from typing import Annotated

import attrs
from cyclopts import App, Parameter

from moverq.cli.common import ROOT, JsonOption, RootOption, answer, table

app = App(name="database", help="Databases: what mailboxes live in.")


@app.command
async def add(
    name: str,
    /,
    *,
    server: Annotated[str, Parameter(help="The server that hosts it.")],
    path: Annotated[
        str | None,
        Parameter(help="Where it lies, if not in the root: a local folder, or where a mail system is."),
    ] = None,
    root: RootOption = ROOT,
) -> None:
    """Make a database and add it to the directory. A mail system is a database that is there already."""
    from moverq.root import open_root

    async with open_root(root) as opened:
        entry = await opened.database_add(name, server=server, path=path)
    answer(None, f"database {entry.name} on {entry.server}, in {entry.path}", json=False)


@app.command(name="set")
async def set_(
    name: str,
    /,
    *,
    path: Annotated[str, Parameter(help="The folder that its files were moved to.")],
    root: RootOption = ROOT,
) -> None:
    """Say where a database lies whose files were moved. Workers and LMTP listeners are stopped before that.

    Refused where a database is still at the old path, or where the one at the new path has not its mailboxes.
    """
    from moverq.root import open_root

    async with open_root(root) as opened:
        entry = await opened.database_set(name, path=path)
    answer(None, f"database {entry.name} on {entry.server}, in {entry.path}", json=False)


@app.command
async def remove(
    name: str,
    /,
    *,
    force: Annotated[
        bool, Parameter(help="Also with mailboxes in it that were moved away or soft-deleted and nobody wants back.")
    ] = False,
    root: RootOption = ROOT,
) -> None:
    """Take a database out of the directory that no mailbox lives in and no move request names. No file is deleted.

    As long as a worker or an LMTP listener has it open it is not removed.
    """
    from moverq.endpoints.kinds import is_mail_system
    from moverq.root import open_root

    async with open_root(root) as opened:
        entry = await opened.database_remove(name, force=force)
        where = entry.path if is_mail_system(entry.path) else str(opened.path / entry.path)
    answer(None, f"database {name} is removed; what is in {where} stays as it is", json=False)


@app.command(name="list")
async def list_(*, root: RootOption = ROOT, json: JsonOption = False) -> None:
    """List the databases."""
    from moverq.root import open_root

    async with open_root(root) as opened:
        entries = await opened.database_list()
    answer(
        [attrs.asdict(entry) for entry in entries],
        table([[e.name, e.server, e.path] for e in entries], head=["DATABASE", "SERVER", "PATH"]),
        json=json,
    )
