"""A move between two databases of the real store, its engine killed at every durable effect while its user works.

The protocol itself is walked step by step on the memory endpoint (`test_move_every_step`), and the store disk call by
disk call (`test_store_every_call`); here the two meet: each kill closes both databases as they are and opens them anew.
`MOVERQ_CRASH_FULL=1` takes every step.
"""

import os
from collections.abc import Sequence
from pathlib import Path

import attrs
import pytest
import trio

import store
from moverq import moves
from moverq.endpoints.base import GuardMode
from moverq.endpoints.store import StoreEndpoint
from moverq.errors import leaves
from moverq.model.ids import RequestId
from moverq.model.request import Status
from tests.support.move_world import ADDRESS
from tests.support.store_move_world import Act, Process, StoreWorld

FULL = os.environ.get("MOVERQ_CRASH_FULL") == "1"


class Killed(BaseException):
    """The process is gone."""


async def folder(process: Process, name: str) -> store.FolderId:
    database, instance = await process.home()
    _, folders, _ = await database.account(instance)
    return next(f.folder_id for f in folders if f.name == name)


async def item(process: Process, number: int) -> list[store.ItemId]:
    database, instance = await process.home()
    rows = await database.items(instance)
    return [rows[number % len(rows)].item_id]


async def deliver(process: Process) -> None:
    mailbox = await process.mailbox()
    await mailbox.deliver(f"Subject: at {process.world.tick()}\r\n\r\n".encode(), key=os.urandom(8))


async def flag(process: Process) -> None:
    await (await process.mailbox()).change_flags(await item(process, 3), add=1, add_keywords=["$Work"])


async def move_item(process: Process) -> None:
    await (await process.mailbox()).move(await item(process, 5), await folder(process, "Archive"))


async def copy_item(process: Process) -> None:
    await (await process.mailbox()).copy(await item(process, 2), await folder(process, "Archive"))


async def delete(process: Process) -> None:
    await (await process.mailbox()).delete(await item(process, 1))


async def purge(process: Process) -> None:
    await (await process.mailbox()).purge(await item(process, 4))


async def swap(process: Process) -> None:
    mailbox, left, right = await process.mailbox(), await folder(process, "Archive"), await folder(process, "Sent")
    await mailbox.move_folder(left, None, "aside")
    await mailbox.move_folder(right, None, "Archive")
    await mailbox.move_folder(left, None, "Sent")


async def nest(process: Process) -> None:
    await (await process.mailbox()).move_folder(await folder(process, "Sent"), await folder(process, "Archive"), "Sent")


async def setting(process: Process) -> None:
    await (await process.mailbox()).set_setting("quota_bytes", 1 << 30)


async def new_folder(process: Process) -> None:
    made = await (await process.mailbox()).create_folder(None, f"New {process.world.tick()}")
    received = process.world.tick()
    await (await process.mailbox()).append(made, [store.NewItem(content=b"Subject: new\r\n\r\n", received_ms=received)])


SCRIPT: Sequence[Act] = (deliver, flag, swap, move_item, copy_item, new_folder, delete, purge, setting, deliver, nest)


@attrs.define(eq=False)
class Steps:
    """Counts effects; lets the user act at every third; kills at `kill_at`. A refused user's verb did not happen."""

    process: Process
    acts: list[Act]
    kill_at: int = 0
    count: int = 0

    async def __call__(self, name: str) -> None:
        self.count += 1
        if self.count % 3 == 0 and self.acts:
            await act(self.process, self.acts)
        if self.count == self.kill_at:
            raise Killed(name)


async def act(process: Process, acts: list[Act]) -> None:
    """The user's next verb, if the mailbox takes it now.

    The user is another process: what kills the engine does not come between a verb and its acknowledgement.
    """
    with trio.CancelScope(shield=True):
        async with process.world.users_turn:
            if not acts:
                return
            try:
                await acts[0](process)
            except (store.MailboxLocked, store.MailboxSealed, store.MailboxMoved):
                return
            acts.pop(0)
            await process.acknowledge()


async def begin(root: Path) -> tuple[StoreWorld, RequestId]:
    world = await StoreWorld.make(root)
    async with world.open() as process:
        mailbox = await process.mailbox()
        inbox = await folder(process, "INBOX")
        archive = await mailbox.create_folder(None, "Archive")
        await mailbox.create_folder(None, "Sent", special_use="\\Sent")
        for n in range(6):
            new = store.NewItem(content=f"Subject: {n}\r\n\r\n{'x' * 99 * n}".encode(), received_ms=n, flags=n % 4)
            await mailbox.append(archive if n % 2 else inbox, [new])
        await mailbox.deliver(b"Subject: by key\r\n\r\n", key=b"key")
        await process.acknowledge()
        standing = await moves.new_move(process.ledger, world.directory, ADDRESS, "DB2")
    return world, standing.request.request_id


async def run_until_killed(world: StoreWorld, request_id: RequestId, acts: list[Act], kill_at: int) -> bool:
    """One process works on the move and may be killed; its databases are abandoned as they are."""
    try:
        async with world.open() as process:
            steps = Steps(process, acts, kill_at)
            await (await process.job(request_id, steps)).run()
    except BaseException as error:
        if not any(isinstance(leaf, Killed) for leaf in leaves(error)):
            raise
        return True
    finally:
        world.directory.before = None
    return False


async def killed_at(root: Path, kill_at: int, *, back: bool) -> bool:
    """Kill at this effect; a fresh process ends the move; True if it came so far."""
    world, request_id = await begin(root)
    acts = list(SCRIPT)
    if back:
        await run_until_killed(world, request_id, acts[:3], 0)
        async with world.open() as process:
            await deliver(process)
            await process.acknowledge()
            parent, standing = request_id, await moves.rollback(process.ledger, world.directory, request_id)
            request_id = standing.request.request_id
            await (await process.job(parent)).run()
    died = await run_until_killed(world, request_id, acts, kill_at)
    async with world.open() as process:
        await process.check_safe()
        await (await process.job(request_id)).run()
        while acts:
            await act(process, acts)
        await (await process.job(request_id)).run()
        await process.check_safe(at_rest=True)
        stats = await moves.get(process.ledger, request_id)
        assert stats.status == Status.COMPLETED.value, stats.message
        assert stats.digest_source == stats.digest_target == stats.digest_ledger
        assert sorted(mode.value for mode in await process.modes()) == [GuardMode.OPEN.value, GuardMode.RETIRED.value]
        database, _ = await process.home()
        assert database is process.databases["DB1" if back else "DB2"]
        await check_way_back(process)
        assert (await (await process.mailbox()).deliver(b"Subject: by key\r\n\r\n", key=b"key")).duplicate
    return died


async def check_way_back(process: Process) -> None:
    """The retired side holds what the home holds."""
    sides = {
        summary.guard.mode: StoreEndpoint(name, database).source(summary.instance)
        for name, database in process.databases.items()
        for summary in await StoreEndpoint(name, database).instances()
    }
    home, old = await sides[GuardMode.OPEN].account(), await sides[GuardMode.RETIRED].account()
    assert dict(old.digests) == dict(home.digests)
    assert {f.folder_id: (f.parent_id, f.name) for f in old.folders} == {
        f.folder_id: (f.parent_id, f.name) for f in home.folders
    }


async def walk(root: Path, *, back: bool, first: int, stride: int) -> int:
    walked = 0
    while await killed_at(root / str(first + walked * stride), first + walked * stride, back=back):
        walked += 1
    return walked


@pytest.mark.parametrize("back", [False, True], ids=["there", "back"])
async def test_here_and_there_a_killed_move_between_databases_ends_well(
    tmp_path: Path, back: bool, autojump_clock: object
) -> None:
    assert await walk(tmp_path, back=back, first=13, stride=37) >= 1


@pytest.mark.slow
@pytest.mark.parametrize("back", [False, True], ids=["there", "back"])
async def test_a_killed_move_between_databases_ends_well(tmp_path: Path, back: bool, autojump_clock: object) -> None:
    assert await walk(tmp_path, back=back, first=1, stride=1 if FULL else 6) > 5
