"""`moverq store`: databases on the disk. A database is named as in the directory, or by the path of its folder."""

from typing import Annotated

import attrs
from cyclopts import App, Parameter

from moverq.cli.common import ROOT, JsonOption, RootOption, answer, pairs

app = App(name="store", help="Databases on the disk: check, rebuild, look into, keep in order.")

Name = Annotated[str, Parameter(name="DB", help="A database's name, or the path of its folder.")]


@app.command
async def header(name: Name, /, *, root: RootOption = ROOT, json: JsonOption = False) -> None:
    """Show where a database stands: its timeline, its log, what is in it."""
    from moverq.endpoints.store import open_endpoint
    from moverq.root import open_root

    async with open_root(root) as opened:
        path = await opened.database_path(name)
        async with open_endpoint(name, path) as endpoint:
            found = attrs.asdict(await endpoint.database.statistics())
    found = {"database": name, "path": str(path), **found}
    del found["commits"], found["transactions"]  # of this process: none
    answer(found, pairs(found), json=json)


@app.command
async def checkpoint(name: Name, /, *, root: RootOption = ROOT) -> None:
    """Seal a copy of the catalogue, and trim the log that nothing needs any more."""
    from moverq.endpoints.store import open_endpoint
    from moverq.root import open_root

    async with open_root(root) as opened:
        path = await opened.database_path(name)
        async with open_endpoint(name, path) as endpoint:
            made = await endpoint.database.checkpoint()
    answer(None, f"checkpoint of {name} at {made.head.position}", json=False)


@app.command
async def maintain(name: Name, /, *, root: RootOption = ROOT, json: JsonOption = False) -> None:
    """What time brings: purge deleted items past their retention, cut feeds, drop dead segments, checkpoint if due."""
    from moverq.endpoints.store import open_endpoint
    from moverq.root import open_root

    async with open_root(root) as opened:
        path = await opened.database_path(name)
        async with open_endpoint(name, path) as endpoint:
            done = attrs.asdict(await endpoint.database.maintain())
    answer(done, pairs(done), json=json)
