"""A small organisation to move mailboxes in: memory databases and directory, a real ledger file, inline offload.

What survives a killed engine is in the `World`: databases, directory, ledger file. An `Engine` is one process; throw
it away at any moment and make another.
"""

import random
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeVar

import attrs
import trio

from moverq.directory.directory import DatabaseEntry, Recipient, Server
from moverq.directory.memory import MemoryDirectory
from moverq.endpoints.base import Endpoint, GuardMode
from moverq.endpoints.memory import MemoryDatabase, MemoryEndpoint, MemoryMailbox
from moverq.endpoints.memory_instance import MemoryInstance
from moverq.errors import NotFound
from moverq.flow.byte_budget import ByteBudget
from moverq.job import Job
from moverq.ledger.ledger import Ledger
from moverq.limits import Limits
from moverq.model.change import Flag
from moverq.model.ids import FolderId, InstanceId, ItemId, MailboxId, RequestId
from moverq.model.progress import Progress
from moverq.phases.tenure import Tools
from moverq.service import Service

T = TypeVar("T")
Step = Callable[[str], Awaitable[None]]

SMALL = Limits(
    batch_bytes_max=4096,
    batch_items_max=4,
    seed_ahead_bytes_max=8192,
    feed_changes_max=5,
    retry_delay_s=1.0,
    retry_delay_max_s=4.0,
    max_retries=8,
)
"""Small batches, so that a handful of items makes many steps."""

ADDRESS = "ada@example.org"


class Inline:
    """Blocking work on the loop: deterministic, and no thread for an autojump clock to jump over."""

    async def __call__(self, fn: Callable[[], T]) -> T:
        await trio.lowlevel.checkpoint()
        return fn()


class SteppedLedger(Ledger):
    """A ledger that awaits `step` at both sides of each durable effect."""

    step: Step | None = None

    async def _effect(self, verb: str, effect: Callable[[], Awaitable[T]]) -> T:
        if self.step is not None:
            await self.step(f"ledger.{verb}:before")
        answer = await effect()
        if self.step is not None:
            await self.step(f"ledger.{verb}:after")
        return answer


@attrs.define(eq=False)
class World:
    """What lasts."""

    root: Path
    version: str = "2010"
    directory: MemoryDirectory = attrs.field(factory=MemoryDirectory)
    databases: dict[str, MemoryDatabase] = attrs.field(factory=dict)
    mailbox_id: MailboxId = MailboxId(b"mailbox-of-ada..")
    now: int = 1_700_000_000_000
    acked: dict[bytes, str] = attrs.field(factory=dict)
    """Contents that a client was told OK for, and that nobody has purged: where they came from."""

    @classmethod
    async def make(cls, root: Path, *, version: str = "2010") -> "World":
        world = cls(root, version)
        for name, server in (("DB1", "MBX1"), ("DB2", "MBX2"), ("DB3", "MBX2")):
            world.databases[name] = MemoryDatabase(now_ms=world.tick)
            if server not in [s.name for s in await world.directory.servers()]:
                await world.directory.add_server(Server(name=server, version=version if server == "MBX1" else "2010"))
            await world.directory.add_database(DatabaseEntry(name=name, server=server, path=f"/{name}"))
        mailbox = MemoryEndpoint("DB1", world.databases["DB1"]).add_mailbox(world.mailbox_id)
        from moverq.endpoints.base import Home

        await world.directory.add_recipient(world.mailbox_id, ADDRESS, Home("DB1", mailbox.instance))
        return world

    def tick(self) -> int:
        """The wall clock: a millisecond on, each time somebody asks."""
        self.now += 1
        return self.now

    async def recipient(self) -> Recipient:
        return await self.directory.recipient(self.mailbox_id)

    async def mailbox(self) -> MemoryMailbox:
        """The mailbox at its home, as a client finds it by the directory."""
        home = (await self.recipient()).register.home
        return MemoryEndpoint(home.database, self.databases[home.database]).mailbox(home.instance)

    async def at_home(self) -> MemoryInstance:
        home = (await self.recipient()).register.home
        return self.databases[home.database].instance(home.instance)

    def instances(self) -> list[MemoryInstance]:
        return [i for database in self.databases.values() for i in database.instances.values()]

    def engine(self, *, step: Step | None = None, limits: Limits = SMALL, seed: int = 1) -> "Engine":
        return Engine(self, step, limits, random.Random(seed))

    async def deliver(self, content: bytes, key: bytes | None = None) -> None:
        """Acknowledged, or an error and not."""
        await (await self.mailbox()).deliver(content, key)
        self.acked[content] = "delivered"

    async def check_safe(self, *, at_rest: bool = False) -> None:
        """The invariants that hold after every step; `at_rest` also those of a settled move."""
        register = (await self.recipient()).register
        mine = [(name, i) for name, d in self.databases.items() for i in d.instances.values()]
        opened = [(name, i) for name, i in mine if i.guard.mode is GuardMode.OPEN]
        assert len(opened) <= 1, f"two open mailboxes: {opened}"
        for name, instance in opened:
            assert (name, instance.instance) == (register.home.database, register.home.instance), (
                f"{name} is open and the register says {register}"
            )
        home = self.databases[register.home.database].instance(register.home.instance)
        present = sorted(home.contents.values())
        missing = [content for content in self.acked if content not in present]
        assert not missing, f"acknowledged and not at home: {missing}"
        twice = [content for content in self.acked if present.count(content) > 1]
        assert not twice, f"twice at home: {twice}"
        assert home.recount() == home.account(), "the maintained digests are not those of the items"
        if at_rest:
            assert home.guard.mode is GuardMode.OPEN, f"nobody can use the mailbox: {home}"


@attrs.define(eq=False)
class Engine:
    """One process of moverq."""

    world: World
    step: Step | None
    limits: Limits
    rng: random.Random
    progress: list[Progress] = attrs.field(factory=list)
    _ledger: SteppedLedger | None = None

    async def endpoint(self, name: str) -> Endpoint:
        if name not in self.world.databases:
            raise NotFound(kind="database", name=name)
        return MemoryEndpoint(name, self.world.databases[name], before=self._named(name))

    def _named(self, name: str) -> Step | None:
        step = self.step
        if step is None:
            return None

        async def before(verb: str) -> None:
            await step(f"{name}.{verb}")

        return before

    async def ledger(self) -> SteppedLedger:
        if self._ledger is None:
            opened = await SteppedLedger.open(
                self.world.root, make_offload=Inline, now_ms=self.world.tick, watch=False
            )
            assert isinstance(opened, SteppedLedger)
            opened.step = self.step
            self._ledger = opened
        return self._ledger

    async def close(self) -> None:
        if self._ledger is not None:
            await self._ledger.close()

    async def job(self, request_id: RequestId, *, drain: bool = True) -> Job:
        ledger = await self.ledger()
        tools = Tools(
            ledger=ledger,
            directory=self.world.directory,
            limits=self.limits,
            budget=ByteBudget(self.limits.process_bytes_max),
            on_progress=self.progress.append,
            drain=drain,
        )
        return Job(request_id=request_id, tools=tools, endpoints=self.endpoint, rng=self.rng)

    async def service(self) -> Service:
        return Service(
            ledger=await self.ledger(),
            directory=self.world.directory,
            endpoints=self.endpoint,
            make_offload=Inline,
            rng=self.rng,
            limits=self.limits,
            on_progress=self.progress.append,
        )


@attrs.define(eq=False)
class Filled:
    """Names of what `fill` made."""

    folders: dict[str, FolderId]
    items: list[ItemId]


async def fill(world: World, *, items: int = 9) -> Filled:
    """Folders, items with flags, a setting and a delivery key: a small mailbox with one of everything."""
    mailbox = await world.mailbox()
    folders = {"INBOX": mailbox.inbox}
    for name in ("A", "B", "C", "Sent"):
        folders[name] = await mailbox.create_folder(name, special_use="\\Sent" if name == "Sent" else "")
    folders["A/sub"] = await mailbox.create_folder("sub", folders["A"])
    made: list[ItemId] = []
    names = list(folders.values())
    for n in range(items):
        content = f"Subject: item {n}\r\n\r\n{'x' * (n * 37 % 400)}".encode()
        flags = int(Flag.SEEN) if n % 2 else 0
        made.append(await mailbox.append(names[n % len(names)], content, flags=flags, keywords=("$Work",) if n % 3 else ()))
        world.acked[content] = "fill"
    await mailbox.set_setting("rules", '["keep"]')
    await mailbox.deliver(b"Subject: with key\r\n\r\n", b"key-1")
    world.acked[b"Subject: with key\r\n\r\n"] = "fill"
    return Filled(folders, made)


__all__ = ["ADDRESS", "SMALL", "Engine", "Filled", "Inline", "InstanceId", "SteppedLedger", "World", "fill"]
