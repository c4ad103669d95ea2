"""A small organisation to move mailboxes in: memory databases and directory, a real ledger file, inline offload.

What survives a killed engine is in the `World`: databases, directory, ledger file. An `Engine` is one process; throw
it away at any moment and make another.
"""

import copy
import random
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, TypeVar

import attrs
import trio

from moverq.directory.directory import DatabaseEntry, Recipient, Server
from moverq.directory.memory import MemoryDirectory
from moverq.endpoints.base import Endpoint, GuardMode, Home
from moverq.endpoints.memory import MemoryDatabase, MemoryEndpoint, MemoryMailbox
from moverq.endpoints.memory_instance import MemoryInstance
from moverq.errors import NotFound
from moverq.flow.byte_budget import ByteBudget
from moverq.job import Job
from moverq.ledger.codec import Codec
from moverq.ledger.item_map import ItemMap
from moverq.ledger.ledger import Ledger
from moverq.limits import Limits
from moverq.model.change import Flag
from moverq.model.ids import FolderId, ItemId, MailboxId, RequestId
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
ADA = MailboxId(b"mailbox-of-ada..")


class Inline:
    """Blocking work on the loop: deterministic, and no thread for an autojump clock to jump over."""

    async def __call__(self, fn: Callable[[], T]) -> T:
        await trio.lowlevel.checkpoint()
        return fn()


class SteppedLedger(Ledger):
    """A ledger that awaits `step` at both sides of each durable effect."""

    step: Step | None = None

    def item_map(self, request_id: RequestId) -> ItemMap:
        opened = SteppedMap(self.map_path(request_id), Inline(), Codec(), self._blank)
        opened.step = self.step
        return opened

    async def _effect(self, verb: str, effect: Callable[[], Awaitable[T]]) -> T:
        if self.step is not None:
            await self.step(f"ledger.{verb}:before")
        answer = await effect()
        if self.step is not None:
            await self.step(f"ledger.{verb}:after")
        return answer


class SteppedMap(ItemMap):
    """An item map with the same stops."""

    step: Step | None = None

    async def record(self, *args: Any, **kwargs: Any) -> None:
        await self._stepped("record", lambda: super(SteppedMap, self).record(*args, **kwargs))

    async def take_over(self, token: int) -> None:
        await self._stepped("take_over", lambda: super(SteppedMap, self).take_over(token))

    async def adopt(self, *args: Any, **kwargs: Any) -> None:
        await self._stepped("adopt", lambda: super(SteppedMap, self).adopt(*args, **kwargs))

    async def keep(self, *args: Any, **kwargs: Any) -> None:
        await self._stepped("keep", lambda: super(SteppedMap, self).keep(*args, **kwargs))

    async def _stepped(self, verb: str, effect: Callable[[], Awaitable[None]]) -> None:
        if self.step is not None:
            await self.step(f"map.{verb}:before")
        await effect()
        if self.step is not None:
            await self.step(f"map.{verb}:after")


@attrs.define(eq=False)
class World:
    """What lasts."""

    root: Path
    version: str = "2010"
    directory: MemoryDirectory = attrs.field(factory=MemoryDirectory)
    databases: dict[str, MemoryDatabase] = attrs.field(factory=dict)
    mailbox_id: MailboxId = ADA
    now: int = 1_700_000_000_000
    users_turn: trio.Lock = attrs.field(factory=trio.Lock)
    """Held from a client's verb to its acknowledgement: in between, what is acknowledged cannot be asked for."""
    acked: "Snapshot | None" = None
    """What clients have been told: the mailbox at its home after the last acknowledged change."""

    @classmethod
    async def make(cls, root: Path, *, version: str = "2010") -> "World":
        world = cls(root, version)
        for name, server in (("DB1", "MBX1"), ("DB2", "MBX2"), ("DB3", "MBX2")):
            world.databases[name] = MemoryDatabase(now_ms=world.tick)
            if server not in [s.name for s in await world.directory.servers()]:
                await world.directory.add_server(Server(name=server, version=version if server == "MBX1" else "2010"))
            await world.directory.add_database(DatabaseEntry(name=name, server=server, path=f"/{name}"))
        mailbox = MemoryEndpoint("DB1", world.databases["DB1"]).add_mailbox(world.mailbox_id)
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
        directory = copy.copy(self.directory)  # the same entries, with this engine's own stops
        if step is not None:
            named = step

            async def before(verb: str) -> None:
                await named(f"directory.{verb}")

            directory.before = before
        return Engine(self, step, limits, random.Random(seed), directory)

    async def acknowledge(self) -> None:
        """A client has just been answered: from now on the home has to look like this."""
        self.acked = Snapshot.of(await self.at_home())

    async def check_safe(self, *, at_rest: bool = False) -> None:
        """The invariants that hold after every step; `at_rest` also those of a settled move."""
        async with self.users_turn:
            await self._check_safe(at_rest=at_rest)

    async def _check_safe(self, *, at_rest: bool) -> None:
        register = (await self.recipient()).register
        mine = [(name, i) for name, d in self.databases.items() for i in d.instances.values()]
        opened = [(name, i) for name, i in mine if i.guard.mode is GuardMode.OPEN]
        assert len(opened) <= 1, f"two open mailboxes: {opened}"
        for name, instance in opened:
            assert (name, instance.instance) == (register.home.database, register.home.instance), (
                f"{name} is open and the register says {register}"
            )
        home = self.databases[register.home.database].instance(register.home.instance)
        if self.acked is not None:
            found = self.acked.differences(Snapshot.of(home))
            assert not found, f"acknowledged, and not so at {register}: {found[:3]}"
        assert home.recount() == home.account(), "the maintained digests are not those of the items"
        if at_rest:
            assert home.guard.mode is GuardMode.OPEN, f"nobody can use the mailbox: {home}"


@attrs.frozen
class Snapshot:
    """All of a mailbox that its user can see, by id."""

    items: dict[ItemId, tuple[object, ...]]
    folders: dict[FolderId, tuple[object, ...]]
    settings: dict[str, str | None]
    delivery_keys: frozenset[tuple[bytes, bytes]]

    @classmethod
    def of(cls, mailbox: MemoryInstance) -> "Snapshot":
        return cls(
            items={
                i.item_id: (
                    i.folder_id,
                    i.uid,
                    i.modseq,
                    i.received_ms,
                    i.flags,
                    i.keywords,
                    mailbox.contents[i.item_id],
                )
                for i in mailbox.items.values()
            },
            folders={
                f.folder_id: (f.parent_id, f.name, f.uidvalidity, f.special_use, f.hidden)
                for f in mailbox.folders.values()
            },
            settings={s.name: s.value for s in mailbox.settings.values() if s.value is not None},
            delivery_keys=frozenset(mailbox.delivery_keys),
        )

    def differences(self, other: "Snapshot") -> list[str]:
        found: list[str] = []
        for kind in ("items", "folders", "settings"):
            mine, theirs = getattr(self, kind), getattr(other, kind)
            found += [
                f"{kind}: {k!r} is {mine.get(k)!r} / {theirs.get(k)!r}"
                for k in sorted({*mine, *theirs})
                if mine.get(k) != theirs.get(k)
            ]
        if self.delivery_keys - other.delivery_keys:
            found.append(f"delivery keys lost: {self.delivery_keys - other.delivery_keys}")
        return found


@attrs.define(eq=False)
class Engine:
    """One process of moverq."""

    world: World
    step: Step | None
    limits: Limits
    rng: random.Random
    directory: MemoryDirectory
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
            opened = await SteppedLedger.open(self.world.root, make_offload=Inline, now_ms=self.world.tick, watch=False)
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
            directory=self.directory,
            limits=self.limits,
            budget=ByteBudget(self.limits.process_bytes_max),
            on_progress=self.progress.append,
            drain=drain,
        )
        return Job(request_id=request_id, tools=tools, endpoints=self.endpoint, rng=self.rng)

    async def service(self) -> Service:
        return Service(
            ledger=await self.ledger(),
            directory=self.directory,
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
        keywords = ("$Work",) if n % 3 else ()
        made.append(await mailbox.append(names[n % len(names)], content, flags=flags, keywords=keywords))
    await mailbox.set_setting("rules", '["keep"]')
    await mailbox.deliver(b"Subject: with key\r\n\r\n", b"key-1")
    await world.acknowledge()
    return Filled(folders, made)


__all__ = ["ADDRESS", "SMALL", "Engine", "Filled", "Inline", "Snapshot", "SteppedLedger", "World", "fill"]
