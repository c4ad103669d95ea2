"""The contract over dicts: for tests, simulations and examples, and the shortest answer to "what must an endpoint do".

A real implementation rather than mocks, so that what passes on it means something: it runs the same contract suite
as the store. The rules are in `memory_instance`, one synchronous step each; here they get their waiting faces.

    engine ──▶ MemoryEndpoint ──▶ source(i), target(i) ─┐
    tests  ──▶ MemoryEndpoint ──▶ mailbox(i): a client ─┴─▶ MemoryDatabase ──▶ MemoryInstance …

What always holds: all that lasts is in the `MemoryDatabase`. An endpoint thrown away in mid-flight is a process that
died; a new one around the same database is the next process. Two endpoints around one are two processes at work.

Each mover's verb waits once, before its effect, so a cancelled verb did not happen. `before` is a place to stop the
world: it is awaited with "lock:before" and "lock:after" (the verb's name) round every durable effect, and what it
raises is what a crash there would be.
"""

from collections.abc import Awaitable, Callable, Iterable, Sequence
from functools import partial
from typing import TYPE_CHECKING, TypeVar

import attrs
import trio

from moverq.endpoints.base import (
    Capabilities,
    Endpoint,
    FenceClass,
    FolderStep,
    Guard,
    GuardMode,
    Home,
    MailboxAccount,
    MailboxSummary,
    SeedPage,
    Source,
    Target,
    never_again,
)
from moverq.endpoints.memory_instance import MemoryInstance
from moverq.errors import NotFound, RequestRefused
from moverq.flow import clock
from moverq.model.change import INBOX, BadItem, ChangeBatch, FolderState, ItemContent, Watermark
from moverq.model.ids import FolderId, InstanceId, ItemId, MailboxId, new_id

T = TypeVar("T")

Before = Callable[[str], Awaitable[None]]


@attrs.define(eq=False)
class MemoryDatabase:
    """What survives the process: the instances, by id, all of one timeline."""

    new_id: Callable[[], bytes] = new_id
    now_ms: Callable[[], int] = clock.now_ms
    item_bytes_max: int | None = None
    fence: FenceClass = FenceClass.A
    """What it is said to be. Whoever gets past the guard is the test's to play."""
    timeline: bytes = attrs.field(default=attrs.Factory(lambda self: self.new_id(), takes_self=True))
    instances: dict[InstanceId, MemoryInstance] = attrs.Factory(dict)
    purged: dict[InstanceId, int] = attrs.Factory(dict)
    """Their last tokens."""

    def __repr__(self) -> str:
        return f"<MemoryDatabase {self.timeline.hex()[:8]}, {len(self.instances)} instances>"

    def create(self, mailbox_id: MailboxId, instance: InstanceId, token: int) -> None:
        """An empty, sealed instance; one that is there is claimed, one that was purged is not made again."""
        found = self.instances.get(instance)
        if instance in self.purged:
            raise never_again(instance, token, last=self.purged[instance])
        if found is None:
            self.instances[instance] = MemoryInstance(
                mailbox_id=mailbox_id,
                instance=instance,
                timeline=self.timeline,
                guard=Guard(GuardMode.SEALED, token),
                new_id=self.new_id,
                now_ms=self.now_ms,
                item_bytes_max=self.item_bytes_max,
            )
        elif found.mailbox_id != mailbox_id or found.removed_until_ms is not None:
            raise RequestRefused(why=f"instance {instance.hex()} is another mailbox's, or soft-deleted")
        else:
            found.claim(token)

    def instance(self, instance: InstanceId, *, removed: bool = False) -> MemoryInstance:
        """Raises `NotFound`; a soft-deleted one is found only by who asks for it."""
        found = self.instances.get(instance)
        if found is None or (found.removed_until_ms is not None and not removed):
            raise NotFound(kind="mailbox instance", name=instance.hex())
        return found

    def purge(self, instance: InstanceId, token: int) -> None:
        found = self.instances.get(instance)
        if found is None:
            self.check_gone(instance, token)
            return
        found.check_purge(token)
        self.purged[instance] = token
        del self.instances[instance]
        found.wake()

    def check_gone(self, instance: InstanceId, token: int) -> None:
        """Raises `StaleToken` where a higher one purged it."""
        if token < self.purged.get(instance, token):
            raise never_again(instance, token, last=self.purged[instance])


@attrs.define(eq=False)
class MemoryEndpoint:
    """A database of dicts under a name; `MemoryEndpoint(name, database)` takes up one that another process left."""

    name: str
    database: MemoryDatabase = attrs.Factory(MemoryDatabase)
    before: Before | None = attrs.field(default=None, kw_only=True, repr=False)

    @property
    def capabilities(self) -> Capabilities:
        return Capabilities(
            kind="memory",
            keeps_identity=True,
            has_feed=True,
            has_digests=True,
            has_one_writer=True,
            fence=self.database.fence,
            item_bytes_max=self.database.item_bytes_max,
        )

    def source(self, instance: InstanceId) -> Source:
        return _Side(self, instance)

    def target(self, instance: InstanceId) -> Target:
        return _Side(self, instance)

    async def instances(self) -> Sequence[MailboxSummary]:
        await trio.lowlevel.checkpoint()
        return [found.summary() for found in self.database.instances.values() if found.removed_until_ms is None]

    def add_mailbox(self, mailbox_id: MailboxId, instance: InstanceId | None = None) -> "MemoryMailbox":
        """An open mailbox with an INBOX, as an administrator would make it."""
        made = InstanceId(self.database.new_id()) if instance is None else instance
        self.database.create(mailbox_id, made, token=0)
        opened = self.database.instance(made)
        opened.open(token=0)
        opened.create_folder(INBOX, None)
        return self.mailbox(made)

    def mailbox(self, instance: InstanceId) -> "MemoryMailbox":
        """The instance as a mail client uses it."""
        return MemoryMailbox(self.database, instance)

    def break_item(self, instance: InstanceId, item_id: ItemId, why: str = "the bytes cannot be read") -> None:
        """From now on the item cannot be read: it comes as a `BadItem`."""
        self.database.instance(instance).unreadable[item_id] = why

    def mend_item(self, instance: InstanceId, item_id: ItemId) -> None:
        self.database.instance(instance).unreadable.pop(item_id, None)

    def refuse_item(self, instance: InstanceId, item_id: ItemId, why: str = "refused") -> None:
        """From now on this target does not take the item: `write_items` returns it as a `BadItem`."""
        self.database.instance(instance).refused[item_id] = why


@attrs.define(eq=False)
class MemoryMailbox:
    """A mail client's verbs on one instance, each checked against the guard.

    While the guard is not open they raise `MailboxLocked` or `MailboxMoved` and change nothing.
    """

    _database: MemoryDatabase
    instance: InstanceId

    async def deliver(self, content: bytes, delivery_key: bytes | None = None) -> ItemId | None:
        """The content is in INBOX; None where a delivery of this key and content had been accepted before."""
        return (await self._open()).deliver(content, delivery_key=delivery_key)

    async def append(
        self,
        folder_id: FolderId,
        content: bytes,
        *,
        flags: int = 0,
        keywords: Iterable[str] = (),
        received_ms: int | None = None,
    ) -> ItemId:
        mailbox = await self._open()
        return mailbox.append(folder_id, content, flags=flags, keywords=keywords, received_ms=received_ms)

    async def set_flags(self, item_id: ItemId, flags: int, keywords: Iterable[str] = ()) -> None:
        """Flags and keywords are these, and no others."""
        (await self._open()).set_flags(item_id, flags, keywords)

    async def move_item(self, item_id: ItemId, folder_id: FolderId) -> None:
        (await self._open()).move_item(item_id, folder_id)

    async def copy_item(self, item_id: ItemId, folder_id: FolderId) -> ItemId:
        return (await self._open()).copy_item(item_id, folder_id)

    async def delete_item(self, item_id: ItemId, *, purge: bool = False) -> None:
        """The item is among the recoverable ones; with `purge` it is gone for good."""
        (await self._open()).delete_item(item_id, purge=purge)

    async def create_folder(
        self, name: str, parent_id: FolderId | None = None, *, hidden: bool = False, special_use: str = ""
    ) -> FolderId:
        return (await self._open()).create_folder(name, parent_id, hidden=hidden, special_use=special_use)

    async def rename_folder(self, folder_id: FolderId, name: str) -> None:
        mailbox = await self._open()
        parent_id = mailbox.folders[folder_id].parent_id if folder_id in mailbox.folders else None
        mailbox.move_folder(folder_id, parent_id=parent_id, name=name)

    async def move_folder(self, folder_id: FolderId, parent_id: FolderId | None, name: str) -> None:
        """The folder, with all below it, is at a new place under a new (or its old) name."""
        (await self._open()).move_folder(folder_id, parent_id=parent_id, name=name)

    async def delete_folder(self, folder_id: FolderId) -> None:
        """The folder and its items are gone for good; one with folders in it is refused."""
        (await self._open()).delete_folder(folder_id)

    async def set_setting(self, name: str, value: str | None) -> None:
        (await self._open()).set_setting(name, value)

    @property
    def inbox(self) -> FolderId:
        return self._database.instance(self.instance).inbox

    async def _open(self) -> MemoryInstance:
        await trio.lowlevel.checkpoint()
        return self._database.instance(self.instance)


@attrs.define(eq=False)
class _Side:
    """One instance as the mover sees it, source and target in one: a rollback swaps the roles."""

    _endpoint: MemoryEndpoint
    _instance_id: InstanceId

    @property
    def capabilities(self) -> Capabilities:
        return self._endpoint.capabilities

    async def aclose(self) -> None:
        """Nothing is held for one mailbox."""

    # --- reads ------------------------------------------------------------------------------------------------

    async def exists(self) -> bool:
        await trio.lowlevel.checkpoint()
        found = self._endpoint.database.instances.get(self._instance_id)
        return found is not None and found.removed_until_ms is None

    async def summary(self) -> MailboxSummary:
        return (await self._read()).summary()

    async def head(self) -> Watermark:
        return (await self._read()).watermark

    async def read_hierarchy(self) -> tuple[FolderState, ...]:
        return (await self._read()).hierarchy()

    async def occupied_folders(self) -> frozenset[FolderId]:
        return (await self._read()).occupied_folders()

    async def read_seed(self, cursor: bytes | None, *, bytes_max: int, items_max: int) -> SeedPage:
        return (await self._read()).read_seed(cursor, bytes_max=bytes_max, items_max=items_max)

    async def read_feed(self, after: Watermark, *, changes_max: int) -> ChangeBatch:
        return (await self._read()).read_feed(after, changes_max=changes_max)

    async def wait_feed(self, after: Watermark) -> None:
        instance = await self._read()
        instance.check_watermark(after)
        while instance.head <= after.modseq:
            # No one runs between this look at the head and the wait, so no change slips through.
            await instance.changed.wait()
            instance = self._endpoint.database.instance(self._instance_id)

    async def fetch(
        self, item_ids: Sequence[ItemId], *, bytes_max: int
    ) -> tuple[tuple[ItemContent, ...], tuple[BadItem, ...], tuple[ItemId, ...]]:
        return (await self._read()).fetch(item_ids, bytes_max=bytes_max)

    async def account(self) -> MailboxAccount:
        return (await self._read()).account()

    async def recount(self) -> MailboxAccount:
        return (await self._read()).recount()

    async def guard(self) -> Guard:
        await trio.lowlevel.checkpoint()
        return self._endpoint.database.instance(self._instance_id, removed=True).guard

    # --- effects ----------------------------------------------------------------------------------------------

    async def create(self, mailbox_id: MailboxId, token: int) -> None:
        database = self._endpoint.database
        await self._effect("create", lambda: database.create(mailbox_id, self._instance_id, token))

    async def claim(self, token: int) -> Guard:
        instance = self._endpoint.database.instance
        return await self._effect("claim", lambda: instance(self._instance_id, removed=True).claim(token))

    async def lock(self, token: int) -> Watermark:
        return await self._effect("lock", lambda: self._instance().lock(token))

    async def unlock(self, token: int) -> None:
        await self._effect("unlock", lambda: self._instance().unlock(token))

    async def retire(self, token: int, home: Home) -> None:
        await self._effect("retire", lambda: self._instance().retire(token, home))

    async def seal(self, token: int) -> None:
        await self._effect("seal", lambda: self._instance().seal(token))

    async def open(self, token: int) -> None:
        await self._effect("open", lambda: self._instance().open(token))

    async def apply_folders(self, steps: Sequence[FolderStep], token: int) -> None:
        """Each step is an effect of its own: a crash may come between two."""
        for step in steps:
            await self._effect("apply_folders", partial(self._apply_folder, step, token))

    async def write_items(self, items: Sequence[ItemContent], token: int) -> tuple[BadItem, ...]:
        return await self._effect("write_items", lambda: self._instance().write_items(items, token))

    async def apply_changes(self, batch: ChangeBatch, token: int) -> tuple[ItemId, ...]:
        return await self._effect("apply_changes", lambda: self._instance().apply_changes(batch, token))

    async def remove(self, token: int, *, keep_until_ms: int) -> None:
        def effect() -> None:
            if self._instance_id in self._endpoint.database.instances:
                found = self._endpoint.database.instance(self._instance_id, removed=True)
                found.remove(token, keep_until_ms=keep_until_ms)
            else:
                self._endpoint.database.check_gone(self._instance_id, token)

        await self._effect("remove", effect)

    async def purge(self, token: int) -> None:
        await self._effect("purge", lambda: self._endpoint.database.purge(self._instance_id, token))

    def _apply_folder(self, step: FolderStep, token: int) -> None:
        self._instance().apply_folder(step, token)

    def _instance(self) -> MemoryInstance:
        return self._endpoint.database.instance(self._instance_id)

    async def _read(self) -> MemoryInstance:
        await trio.lowlevel.checkpoint()
        return self._instance()

    async def _effect(self, verb: str, effect: Callable[[], T]) -> T:
        before = self._endpoint.before
        if before is not None:
            await before(f"{verb}:before")
        await trio.lowlevel.checkpoint()
        result = effect()
        if before is not None:
            await before(f"{verb}:after")
        return result


if TYPE_CHECKING:
    _is_an_endpoint: type[Endpoint] = MemoryEndpoint
