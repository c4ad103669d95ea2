"""`moverq init`: the folder of a new organisation."""

from typing import Annotated

from cyclopts import Parameter

from moverq.cli.common import ROOT, RootOption, answer


async def init(
    *,
    organisation: Annotated[str, Parameter(help="The organisation's name.")] = "example",
    root: RootOption = ROOT,
) -> None:
    """Make the folder of a new organisation.

    It holds the directory, the ledger of all moves and, unless they are put elsewhere, the databases.
    """
    from moverq.root import init_root

    await init_root(root, organisation)
    answer(None, f"{root} is the folder of organisation {organisation}.", json=False)
