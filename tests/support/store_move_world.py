"""The same small organisation as `move_world`, on databases of the real store: an engine that can die at every effect.

A `StoreWorld` lasts; `open` is one process with its databases open, and leaving it is that process's death: nothing is
flushed or finished on the way out that a kill would not have finished.
"""

import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import attrs
import trio

import store
from moverq.directory.directory import DatabaseEntry, Server
from moverq.directory.memory import MemoryDirectory
from moverq.endpoints.base import Endpoint, GuardMode, Home
from moverq.endpoints.store import StoreEndpoint
from moverq.flow.byte_budget import ByteBudget
from moverq.job import Job
from moverq.model.ids import InstanceId, MailboxId, RequestId
from moverq.phases.tenure import Tools
from tests.support.move_world import ADA, ADDRESS, SMALL, Inline, Step, SteppedLedger

EFFECTS = frozenset(
    {
        "create",
        "claim",
        "lock",
        "unlock",
        "retire",
        "seal",
        "open",
        "apply_folders",
        "write_items",
        "apply_changes",
        "remove",
        "purge",
    }
)


class SteppedSide:
    """A source or target that awaits `step` at both sides of each durable effect."""

    def __init__(self, side: Any, name: str, step: Step) -> None:
        self._side, self._name, self._step = side, name, step

    def __getattr__(self, verb: str) -> Any:
        found = getattr(self._side, verb)
        if verb not in EFFECTS:
            return found

        async def stepped(*args: Any, **kwargs: Any) -> Any:
            await self._step(f"{self._name}.{verb}:before")
            answer = await found(*args, **kwargs)
            await self._step(f"{self._name}.{verb}:after")
            return answer

        return stepped


@attrs.frozen(eq=False)
class SteppedEndpoint:
    """An endpoint whose sides are stepped."""

    inner: StoreEndpoint
    step: Step

    @property
    def name(self) -> str:
        return self.inner.name

    def source(self, instance: InstanceId) -> Any:
        return SteppedSide(self.inner.source(instance), self.name, self.step)

    def target(self, instance: InstanceId) -> Any:
        return SteppedSide(self.inner.target(instance), self.name, self.step)

    async def instances(self) -> Any:
        return await self.inner.instances()


View = dict[bytes, tuple[object, ...]]


@attrs.define(eq=False)
class StoreWorld:
    """What lasts: the databases' folders, the directory, the ledger file, and what clients were told."""

    root: Path
    directory: MemoryDirectory = attrs.field(factory=MemoryDirectory)
    mailbox_id: MailboxId = ADA
    now: int = 1_700_000_000_000
    acked: tuple[View, View] | None = None
    users_turn: trio.Lock = attrs.field(factory=trio.Lock)

    @classmethod
    async def make(cls, root: Path) -> "StoreWorld":
        world = cls(root)
        instance = InstanceId(b"source-instance.")
        for name in ("DB1", "DB2"):
            store.create_database(root / name, created_ms=world.now)
            await world.directory.add_server(Server(name=f"MBX{name[-1]}", version="2010"))
            await world.directory.add_database(DatabaseEntry(name=name, server=f"MBX{name[-1]}", path=str(root / name)))
        async with world.open() as process:
            await process.databases["DB1"].create_mailbox(store.MailboxId(world.mailbox_id), store.InstanceId(instance))
        await world.directory.add_recipient(world.mailbox_id, ADDRESS, Home("DB1", instance))
        return world

    def tick(self) -> int:
        self.now += 1
        return self.now

    @asynccontextmanager
    async def open(self) -> AsyncIterator["Process"]:
        """One process: both databases and the ledger, open; blocking work runs inline."""
        async with AsyncExitStack() as stack:
            databases = {
                name: await stack.enter_async_context(
                    store.open_database(self.root / name, offload=Inline, clock=self.tick)
                )
                for name in ("DB1", "DB2")
            }
            ledger = await SteppedLedger.open(self.root, make_offload=Inline, now_ms=self.tick, watch=False)
            assert isinstance(ledger, SteppedLedger)
            stack.push_async_callback(ledger.close)
            yield Process(self, databases, ledger)


@attrs.define(eq=False)
class Process:
    """One process of moverq, and of a client beside it."""

    world: StoreWorld
    databases: dict[str, store.Database]
    ledger: SteppedLedger

    async def job(self, request_id: RequestId, step: Step | None = None) -> Job:
        directory = self.world.directory
        if step is not None:
            named = step

            async def before(verb: str) -> None:
                await named(f"directory.{verb}")

            directory = attrs.evolve(directory) if attrs.has(type(directory)) else directory
            directory.before = before
        self.ledger.step = step

        async def endpoint(name: str) -> Endpoint:
            plain = StoreEndpoint(name, self.databases[name])
            return plain if step is None else SteppedEndpoint(plain, step)

        tools = Tools(
            ledger=self.ledger,
            directory=directory,
            limits=SMALL,
            budget=ByteBudget(SMALL.process_bytes_max),
            on_progress=None,
            drain=True,
        )
        return Job(request_id=request_id, tools=tools, endpoints=endpoint, rng=random.Random(1))

    async def home(self) -> tuple[store.Database, store.InstanceId]:
        register = (await self.world.directory.recipient(self.world.mailbox_id)).register
        return self.databases[register.home.database], store.InstanceId(register.home.instance)

    async def mailbox(self) -> store.Mailbox:
        database, instance = await self.home()
        return database.mailbox(instance)

    async def view(self) -> tuple[View, View]:
        """All that the mailbox's user can see, at its home: items with bytes, and folders."""
        database, instance = await self.home()
        rows = await database.items(instance, limit=10_000)
        fetched = await database.fetch(instance, rows, bytes_max=1 << 30)
        _, folders, _ = await database.account(instance)
        items: View = {
            f.row.item_id: (f.row.folder_id, f.row.uid, f.row.modseq, f.row.flags, f.row.keywords, f.content)
            for f in fetched
        }
        return items, {f.folder_id: (f.parent_id, f.name, f.uidvalidity, f.special_use) for f in folders}

    async def acknowledge(self) -> None:
        self.world.acked = await self.view()

    async def check_safe(self, *, at_rest: bool = False) -> None:
        """What must hold after every step."""
        register = (await self.world.directory.recipient(self.world.mailbox_id)).register
        opened = [
            Home(name, InstanceId(info.instance))
            for name, database in self.databases.items()
            for info in await database.mailboxes()
            if info.mode is store.Mode.OPEN
        ]
        assert opened in ([], [register.home]), f"open: {opened}; the register says {register}"
        assert self.world.acked in (None, await self.view()), "what a client was told is not so at the home"
        if at_rest:
            assert opened == [register.home]
        for name, database in self.databases.items():
            side = StoreEndpoint(name, database)
            for summary in await side.instances():
                found = side.source(summary.instance)
                assert await found.account() == await found.recount()

    async def modes(self) -> list[GuardMode]:
        return [
            summary.guard.mode
            for name, database in self.databases.items()
            for summary in await StoreEndpoint(name, database).instances()
        ]


Act = Callable[[Process], Awaitable[object]]
