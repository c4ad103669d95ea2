"""`moverq worker`: runs queued moves, with as many processes as the machine has processors."""

import gc
import os
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from moverq.cli.common import OK, ROOT, Exit, RootOption
from moverq.plan.sharing import WHOLE, Share

if TYPE_CHECKING:
    from moverq.limits import Limits


def worker(
    *,
    drain: Annotated[bool, Parameter(help="End when no move is left that could go on by itself.")] = False,
    processes: Annotated[
        int | None,
        Parameter(
            help="How many processes share the work, 1 to 4; as many as there are processors if not given. Each takes "
            "about 85 MiB. Together they keep to the limits of one worker. One that dies is started again, and said.",
        ),
    ] = None,
    per_database: Annotated[
        int | None,
        Parameter(
            help="How many moves are at work from one database, and into one, at a time; 5 and 2 if not given. A mail "
            "server is one database: one that is large, or far away, takes more.",
        ),
    ] = None,
    quiet: Annotated[bool, Parameter(help="Show no progress.")] = False,
    root: RootOption = ROOT,
) -> None:
    """Run queued moves, until it is stopped.

    Several workers may run on one root. One that is stopped, or killed, loses nothing: the next goes on.
    """
    from moverq.cli.waiting import share_one_heap

    count, limits = checked_processes(processes), checked_limits(per_database)
    share_one_heap()
    if count == 1:
        run_one(root, limits, drain=drain, quiet=quiet)
        return
    import moverq.service  # noqa: F401  (shared by the processes, as all that is imported before they are made)
    from moverq.cli.processes import run_processes, try_in_child

    gc.freeze()

    def as_exit_code(work: "partial[None]") -> int:
        try:
            work()
        except Exit as done:
            return done.code
        except (Exception, BaseExceptionGroup) as error:
            from moverq.cli.failing import failed

            return failed(error, ["worker"])
        return OK

    def one_of_them(share: Share, line: int) -> int:
        return as_exit_code(partial(run_one, root, limits, drain=drain, quiet=quiet, share=share, line=line))

    # A root that cannot be opened is said once, and at once.
    code = try_in_child(lambda: as_exit_code(partial(look_at, root)))
    if code == OK:
        code = run_processes(one_of_them, of=count, drain=drain)
    if code != OK:
        raise Exit(code)


def checked_processes(asked: int | None) -> int:
    """How many processes. Raises `RequestRefused`."""
    from moverq.limits import Limits

    most = Limits().worker_processes_max
    if asked is None:
        return min(len(os.sched_getaffinity(0)), most)
    _check_number("--processes", asked, most)
    return asked


def checked_limits(per_database: int | None) -> "Limits":
    """The limits of a worker that has so many moves at work from a database, and into one. Raises `RequestRefused`."""
    import attrs

    from moverq.limits import Limits

    limits = Limits()
    if per_database is None:
        return limits
    _check_number("--per-database", per_database, limits.max_total_moves_per_mrs)
    return attrs.evolve(
        limits,
        max_active_moves_per_source_mdb=per_database,
        max_active_moves_per_target_mdb=per_database,
        max_active_moves_per_source_server=max(per_database, limits.max_active_moves_per_source_server),
        max_active_moves_per_target_server=max(per_database, limits.max_active_moves_per_target_server),
    )


def _check_number(option: str, number: int, most: int) -> None:
    from moverq.errors import RequestRefused

    if not 1 <= number <= most:
        raise RequestRefused(why=f"{option} {number}: say 1 to {most}; beyond that, start another worker")


def run_one(
    root: Path, limits: "Limits", *, drain: bool, quiet: bool, share: Share = WHOLE, line: int | None = None
) -> None:
    """In this process. `line`: to the parent that says when to stop; see `processes`."""
    import trio

    from moverq.cli.stderr import unwaited_stderr
    from moverq.cli.waiting import run_worker
    from moverq.root import open_root

    async def run() -> None:
        async with open_root(root, limits=limits) as opened:
            await run_worker(opened, drain=drain, quiet=quiet, share=share, line=line)

    with unwaited_stderr():
        trio.run(run)


def look_at(root: Path) -> None:
    """The root can be opened."""
    import trio

    from moverq.root import open_root

    async def look() -> None:
        async with open_root(root):
            pass

    trio.run(look)
