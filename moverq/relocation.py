"""A database whose files an administrator moved: the directory says where they lie now, if it is that database.

The directory has no signature of it. That it is the same one its mailboxes tell: those at home in it, and those that
moves from it soon need. And nobody may be able to go on with the old one.
"""

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from moverq.directory.directory import Directory
from moverq.errors import EndpointBroken, RequestRefused
from moverq.ledger.ledger import Ledger
from moverq.model.ids import InstanceId
from moverq.model.request import SyncStage


async def relocate_database(
    directory: Directory, ledger: Ledger, name: str, *, at_home: Mapping[InstanceId, str], before: Path, now: Path
) -> None:
    """The directory has `now` for it, in the place of `before`. `at_home`: addresses of those at home in it.

    Raises:
        RequestRefused: its files are where they were, or what lies at the new place is another database.
        EndpointBroken: there is no database at the new place.
        EndpointUnavailable: somebody has it open.
    """
    from moverq.endpoints.store import database_alone, open_endpoint

    with suppress(EndpointBroken):  # gone from there, as it should be
        async with database_alone(name, before):
            raise RequestRefused(
                why=f"there is a database at {before} still: move its folder, and leave no copy that somebody could go "
                f"on with"
            )
    wanted = dict(at_home)
    for standing in await ledger.find(source_database=name, limit=1_000_000):
        if standing.stage is not SyncStage.SYNC_FINISHED:
            wanted.setdefault(standing.request.source.instance, standing.request.address)
    if not wanted:
        raise RequestRefused(
            why=f"nobody is at home in {name}, so nothing tells whether that is it; `moverq database remove` and "
            f"`database add` do it"
        )
    async with open_endpoint(name, now) as endpoint:
        found = {one.instance for one in await endpoint.instances()}
    missing = [address for instance, address in wanted.items() if instance not in found]
    if missing:
        more = f" and {len(missing) - 1:,} more" if len(missing) > 1 else ""
        raise RequestRefused(why=f"the database at {now} is not {name}: the mailbox of {missing[0]}{more} is not in it")
    async with database_alone(name, now):
        await directory.set_database_path(name, str(now))


__all__ = ["relocate_database"]
