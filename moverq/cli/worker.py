"""`moverq worker`: runs queued moves."""

import ctypes
from contextlib import suppress
from typing import Annotated

from cyclopts import Parameter

from moverq.cli.common import ROOT, RootOption

M_ARENA_MAX = -8
"""Of glibc's malloc.h."""


async def worker(
    *,
    drain: Annotated[bool, Parameter(help="End when no move is left that could go on by itself.")] = False,
    quiet: Annotated[bool, Parameter(help="Show no progress.")] = False,
    root: RootOption = ROOT,
) -> None:
    """Run queued moves, until it is stopped."""
    from moverq.cli.waiting import run_worker
    from moverq.root import open_root

    share_one_heap()
    async with open_root(root) as opened:
        await run_worker(opened, drain=drain, quiet=quiet)


def share_one_heap() -> None:
    """glibc gives each thread a heap of its own, and keeps there what another thread has freed: a batch is read in one
    thread and written in another, so a fifth of a worker's memory lay idle. Elsewhere this changes nothing."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).mallopt(M_ARENA_MAX, 1)
