"""An organisation whose every file stands on the crashing disk: databases, ledger, item maps and directory.

A user goes through a list of acts while a mailbox is moved there and back. Each act may be done again, as a user or an
MTA does who has heard no answer, and then changes nothing more. So what the user sees after each act (by names and
bytes, not by ids) is the same in every run, wherever the mailbox lives by then: it is taken from a run that nothing
disturbs, and after a power loss it must be that of the last acknowledged act, or of the one that was cut short.
"""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import attrs
import trio

import store
from moverq import moves
from moverq.directory.directory import DatabaseEntry, Server
from moverq.directory.sqlite import init_directory, open_directory
from moverq.endpoints.base import GuardMode, Home
from moverq.flow import folders
from moverq.ledger import ledger as ledger_file
from moverq.ledger.ledger import Ledger
from moverq.mailbox_files import folder_paths
from moverq.model.facts import SeedWatermark
from moverq.model.ids import InstanceId, RequestId
from moverq.model.request import Status
from store.check import check_database
from store.disk import Disk
from tests.support.crashing_disk import CrashingDisk, QuickDisk
from tests.support.crashing_sqlite import Seam
from tests.support.move_world import ADDRESS, Inline, SteppedLedger
from tests.support.store_move_world import Process, StoreWorld

DATABASES = ("DB1", "DB2")
Seen = Any
"""What a user sees: items by folder and bytes, folders, settings."""


@attrs.define(eq=False)
class PoweredWorld(StoreWorld):
    """What lasts, and how far the user is."""

    seam: Seam | None = None
    done: int = 0
    """Acts that were acknowledged."""
    seen: list[Seen] = attrs.field(factory=list)

    @classmethod
    async def made(cls, root: Path) -> "PoweredWorld":
        """A directory, two databases, and a mailbox with a few items."""
        world = cls(root)
        instance = InstanceId(b"source-instance.")
        await trio.Path(root).mkdir()
        await init_directory(root / "directory.sqlite", organisation="example", offload=Inline())
        ledger = await Ledger.open(root, make_offload=Inline, now_ms=world.tick, watch=False)
        await ledger.close()
        for name in DATABASES:
            store.create_database(root / name, created_ms=world.now, disk=QuickDisk())
        async with open_directory(root / "directory.sqlite", offload=Inline()) as directory:
            for name in DATABASES:
                await directory.add_server(Server(name=f"MBX{name[-1]}", version="2010"))
                await directory.add_database(DatabaseEntry(name=name, server=f"MBX{name[-1]}", path=name))
            await directory.add_recipient(world.mailbox_id, ADDRESS, Home("DB1", instance))
        async with world.on(QuickDisk()) as process:
            await process.databases["DB1"].create_mailbox(store.MailboxId(world.mailbox_id), store.InstanceId(instance))
            mailbox = await process.mailbox()
            archive = await mailbox.create_folder(None, "Archive")
            inbox = await folder(process, "INBOX")
            for number in range(5):
                new = store.NewItem(content=text(number), received_ms=number, flags=number % 4)
                await mailbox.append(archive if number % 2 else inbox, [new])
        return world

    @asynccontextmanager
    async def on(self, disk: Disk) -> AsyncIterator[Process]:
        """One process, all of whose files stand on this disk."""
        if self.seam is not None:
            self.seam.disk = disk if isinstance(disk, CrashingDisk) else None
        async with AsyncExitStack() as stack:
            stack.enter_context(patch.object(folders, "sync_folder", disk.sync_folder))
            stack.enter_context(patch.object(ledger_file, "sync_folder", disk.sync_folder))
            if isinstance(disk, CrashingDisk):
                placed = partial(disk.place, place_file=folders.place_file)
                stack.enter_context(
                    patch.object(folders, "place_file", lambda path, content: placed(path, content=content))
                )
            directory = open_directory(self.root / "directory.sqlite", offload=Inline())
            self.directory = await stack.enter_async_context(directory)  # type: ignore[assignment]
            databases = {
                name: await stack.enter_async_context(
                    store.open_database(self.root / name, offload=Inline, clock=self.tick, disk=disk)
                )
                for name in DATABASES
            }
            ledger = await SteppedLedger.open(self.root, make_offload=Inline, now_ms=self.tick, watch=False)
            stack.push_async_callback(ledger.close)
            assert isinstance(ledger, SteppedLedger)
            yield Process(self, databases, ledger)


# ---- the user


def text(number: int) -> bytes:
    return b"Subject: %d\r\n\r\n" % number + b"x" * (150 * number)


async def folder(process: Process, name: str) -> store.FolderId:
    database, instance = await process.home()
    _, folders, _ = await database.account(instance)
    return next(found.folder_id for found in folders if found.name == name)


async def has_folder(process: Process, name: str) -> bool:
    database, instance = await process.home()
    return name in [found.name for found in (await database.account(instance))[1]]


async def item(process: Process, number: int) -> tuple[store.ItemId, store.FolderId] | None:
    """The item with these bytes, by now, and where it is."""
    database, instance = await process.home()
    rows = await database.items(instance)
    for found in await database.fetch(instance, rows):
        if found.content == text(number):
            return found.row.item_id, found.row.folder_id
    return None


def deliver(number: int) -> "Act":
    async def act(process: Process) -> None:
        await (await process.mailbox()).deliver(text(number), key=b"key %d" % number)

    return act


def flag(number: int) -> "Act":
    async def act(process: Process) -> None:
        found = await item(process, number)
        assert found is not None
        await (await process.mailbox()).set_flags([found[0]], 5, ["$Work"])

    return act


def move(number: int, name: str) -> "Act":
    async def act(process: Process) -> None:
        found, into = await item(process, number), await folder(process, name)
        assert found is not None
        if found[1] != into:
            await (await process.mailbox()).move([found[0]], into)

    return act


def purge(number: int) -> "Act":
    async def act(process: Process) -> None:
        found = await item(process, number)
        if found is not None:
            await (await process.mailbox()).purge([found[0]])

    return act


def make_folder(name: str) -> "Act":
    async def act(process: Process) -> None:
        if not await has_folder(process, name):
            await (await process.mailbox()).create_folder(None, name)

    return act


def rename_folder(old: str, new: str) -> "Act":
    async def act(process: Process) -> None:
        if await has_folder(process, old):
            await (await process.mailbox()).move_folder(await folder(process, old), None, new)

    return act


async def set_setting(process: Process) -> None:
    await (await process.mailbox()).set_setting("retention_days", 30)


Act = Callable[[Process], Awaitable[None]]
ACTS: tuple[Act, ...] = (
    deliver(10), flag(1), make_folder("New"), move(2, "New"), rename_folder("Archive", "Old"), deliver(11), purge(3),
    set_setting, move(10, "Old"), deliver(12), flag(12),
)  # fmt: skip


async def sight(process: Process) -> Seen:
    """What the user sees now."""
    database, instance = await process.home()
    rows = await database.items(instance, limit=10_000)
    _, folders, settings = await database.account(instance)
    paths = folder_paths(folders)
    fetched = await database.fetch(instance, rows) if rows else []
    items = [(paths[one.row.folder_id], one.row.uid, one.content, one.row.flags, one.row.keywords) for one in fetched]
    keys = sorted(row.key for row in await database.delivery_keys(instance))
    return sorted(items, key=repr), sorted(paths.values()), settings, keys


async def act(process: Process) -> None:
    """The user's next act, if the mailbox takes it now; it is acknowledged when this returns."""
    world = process.world
    assert isinstance(world, PoweredWorld)
    if world.done == len(ACTS):
        return
    try:
        await ACTS[world.done](process)
    except (store.MailboxLocked, store.MailboxSealed, store.MailboxMoved):
        return
    world.done += 1


# ---- the whole of it


@attrs.define(eq=False)
class Steps:
    """The user acts at every twelfth effect of the engine."""

    process: Process
    every: int = 12
    count: int = 0

    async def __call__(self, name: str) -> None:
        self.count += 1
        if self.count % self.every == 0:
            await act(self.process)


async def there_and_back(process: Process) -> None:
    """The mailbox is moved, and taken back, and the user has done all acts. Asked for again, it goes on where it
    stands."""
    world, ledger = process.world, process.ledger
    assert isinstance(world, PoweredWorld)
    steps = Steps(process)

    async def work(request_id: RequestId) -> None:
        await (await process.job(request_id, steps)).run()

    there = (await moves.new_move(ledger, world.directory, ADDRESS, "DB2", idempotency_key="there")).request
    await work(there.request_id)
    back = (await moves.rollback(ledger, world.directory, there.request_id)).request
    await work(there.request_id)
    await work(back.request_id)
    while world.done < len(ACTS):
        await act(process)
    await work(back.request_id)
    for request in (there, back):
        stats = await moves.get(ledger, request.request_id)
        assert stats.status == Status.COMPLETED.value, stats.message
        assert stats.digest_source == stats.digest_target == stats.digest_ledger
    # The order of writes alone holds this: verification had nothing to find, and nothing was compared anew.
    assert (await ledger.facts(there.request_id)).need(SeedWatermark).generation == 1


async def check_safe(process: Process) -> int:
    """Nothing acknowledged is missing, nothing is there twice, nothing is half there; and no two mailboxes are open.
    Returns how many acts have happened."""
    world = process.world
    assert isinstance(world, PoweredWorld)
    world.acked = None
    await process.check_safe()
    found = await sight(process)
    allowed = world.seen[world.done : world.done + 2]
    assert found in allowed, f"after {world.done} acts, neither so nor one act on: {found}"
    return world.done + allowed.index(found)


async def check_end(process: Process) -> None:
    """The mailbox is open at its old home with all that its user did, and nowhere else."""
    world = process.world
    assert isinstance(world, PoweredWorld)
    await process.check_safe(at_rest=True)
    assert await sight(process) == world.seen[-1]
    database, _ = await process.home()
    assert database is process.databases["DB1"]
    assert sorted(mode.value for mode in await process.modes()) == [GuardMode.OPEN.value, GuardMode.RETIRED.value]
    for name in DATABASES:
        report = check_database(world.root / name)
        assert report.ok, report.problems
