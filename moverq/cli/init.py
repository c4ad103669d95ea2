"""`moverq init`: the folder of a new organisation."""

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from moverq.cli.common import ROOT, RootOption, answer


async def init(
    *,
    organisation: Annotated[str, Parameter(help="The organisation's name.")] = "example",
    directory: Annotated[
        Path | None, Parameter(help="Settings of the LDAP server that keeps the directory; else it is a file here.")
    ] = None,
    root: RootOption = ROOT,
) -> None:
    """Make the folder of a new organisation.

    It holds the directory (or, with `--directory`, where that is kept), the ledger of all moves and, unless they are
    put elsewhere, the databases.
    """
    from moverq.root import init_root

    await init_root(root, organisation, directory_settings=directory)
    answer(None, f"{root} is the folder of organisation {organisation}.", json=False)
