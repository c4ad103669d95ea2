"""`moverq worker`: runs queued moves."""

from typing import Annotated

from cyclopts import Parameter

from moverq.cli.common import ROOT, RootOption


async def worker(
    *,
    drain: Annotated[bool, Parameter(help="End when no move is left that could go on by itself.")] = False,
    quiet: Annotated[bool, Parameter(help="Show no progress.")] = False,
    root: RootOption = ROOT,
) -> None:
    """Run queued moves, until it is stopped."""
    from moverq.cli.waiting import run_worker, share_one_heap
    from moverq.root import open_root

    share_one_heap()
    async with open_root(root) as opened:
        await run_worker(opened, drain=drain, quiet=quiet)
