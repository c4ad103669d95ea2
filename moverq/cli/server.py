"""`moverq server`: the servers of the organisation."""

from typing import Annotated

import attrs
from cyclopts import App, Parameter

from moverq.cli.common import ROOT, JsonOption, RootOption, answer, table

app = App(name="server", help="Servers: what databases live on. Their versions decide which moves are online.")


@app.command
async def add(
    name: str,
    /,
    *,
    version: Annotated[
        str, Parameter(help="Product version: 2003, 2007, 2007 SP2, 2010, …; IMAP, MAILDIR or MBOX of a mail system.")
    ] = "2010",
    site: Annotated[str, Parameter(help="The site it stands in.")] = "Default-First-Site-Name",
    root: RootOption = ROOT,
) -> None:
    """Add a server to the directory."""
    from moverq.root import open_root

    async with open_root(root) as opened:
        server = await opened.server_add(name, version=version, site=site)
    answer(None, f"server {server.name}, version {server.version}", json=False)


@app.command
async def remove(name: str, /, *, root: RootOption = ROOT) -> None:
    """Take a server that no database is on out of the directory."""
    from moverq.root import open_root

    async with open_root(root) as opened:
        await opened.server_remove(name)
    answer(None, f"server {name} is removed", json=False)


@app.command(name="list")
async def list_(*, root: RootOption = ROOT, json: JsonOption = False) -> None:
    """List the servers."""
    from moverq.root import open_root

    async with open_root(root) as opened:
        servers = await opened.server_list()
    answer(
        [attrs.asdict(server) for server in servers],
        table([[s.name, s.version, s.site] for s in servers], head=["SERVER", "VERSION", "SITE"]),
        json=json,
    )
