"""The contract over our own store: the only file of moverq that imports `store`.

Thin on purpose: the store's guard, feed, digests and merge rule are the contract's, so this translates values and
errors and decides nothing. What of the store other parts need (sessions, import, the CLI) goes by the names that this
file passes on.

The listing goes by item id, which is about the order in which items were made, and so that of their bytes; its cursor
is the last id, and after the items come the delivery keys by modseq.
"""

from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from types import MappingProxyType
from typing import Any

import attrs
import msgpack
import trio
import xxhash

import store
import store.check
import store.rebuild
from moverq.endpoints.base import (
    Capabilities,
    FenceClass,
    FolderStep,
    Guard,
    GuardMode,
    Home,
    MailboxAccount,
    MailboxSummary,
    SeedPage,
    Source,
    StepKind,
    Target,
)
from moverq.errors import (
    EndpointBroken,
    EndpointUnavailable,
    FeedTrimmed,
    MailboxLocked,
    MailboxMoved,
    MoveError,
    NotFound,
    RequestRefused,
    SourceChanged,
    StaleToken,
)
from moverq.model.change import (
    NO_PROPERTIES,
    BadItem,
    ChangeBatch,
    DeliveryKeyState,
    FolderState,
    Gone,
    ItemContent,
    ItemState,
    SettingState,
    Watermark,
)
from moverq.model.digest import FolderDigest
from moverq.model.ids import FolderId, InstanceId, ItemId, MailboxId

Database = store.Database
Mailbox = store.Mailbox
StoreError = store.StoreError
CheckReport = store.check.CheckReport
RebuildReport = store.rebuild.RebuildReport

CAPABILITIES = Capabilities(
    kind="store", keeps_identity=True, has_feed=True, has_digests=True, fence=FenceClass.A, has_one_writer=True
)
KEYS_PER_PAGE = 4096
RECOUNT_ITEMS = 1024
_AT_THE_START: tuple[str, Any] = ("items", b"")

_MODES = {
    store.Mode.OPEN: GuardMode.OPEN,
    store.Mode.LOCKED: GuardMode.LOCKED,
    store.Mode.SEALED: GuardMode.SEALED,
    store.Mode.RETIRED: GuardMode.RETIRED,
}
_STEPS = {
    StepKind.CREATE: store.FolderStepKind.CREATE,
    StepKind.MOVE: store.FolderStepKind.MOVE,
    StepKind.UPDATE: store.FolderStepKind.UPDATE,
    StepKind.REMOVE: store.FolderStepKind.REMOVE,
}


def move_error(name: str, error: store.StoreError) -> MoveError:
    """Ours for what the store of database `name` said."""
    match error:
        case store.MailboxLocked() | store.MailboxSealed():
            return MailboxLocked(mailbox=error.instance.hex())
        case store.MailboxMoved():
            return MailboxMoved(mailbox=error.instance.hex(), home=str(home_of(error.home)))
        case store.StaleToken():
            return StaleToken(held=error.held, seen=error.seen)
        case store.FeedTrimmed():
            return FeedTrimmed(watermark=error.after, horizon=error.horizon)
        case store.NoSuchMailbox():
            return NotFound(kind="mailbox instance", name=f"{error.instance.hex()} in database {name}")
        case store.NoSuchFolder():
            return NotFound(kind="folder", name=error.folder)
        case store.NoSuchItem():
            return NotFound(kind="item", name=error.item)
        case store.Refused() | store.QuotaExceeded():
            return RequestRefused(why=str(error))
        case store.StoreBusy() | store.StoreClosed():
            return EndpointUnavailable(endpoint=f"database {name}", why=str(error))
        case _:
            return EndpointBroken(endpoint=f"database {name}", why=str(error))


@contextmanager
def translated(name: str) -> Iterator[None]:
    """Turn a `StoreError` into a `MoveError`, once, here."""
    try:
        yield
    except store.StoreError as error:
        raise move_error(name, error) from error


def home_text(home: Home) -> str:
    """A home as the store keeps it."""
    return f"{home.database}/{home.instance.hex()}"


def home_of(text: str) -> Home:
    """A home from `home_text`."""
    database, _, instance = text.rpartition("/")
    return Home(database, InstanceId(bytes.fromhex(instance)))


def store_instance(instance: InstanceId) -> store.InstanceId:
    """The same id, for the store."""
    return store.InstanceId(instance)


def is_closed(info: store.MailboxInfo) -> bool:
    """Are clients refused for now, without being sent elsewhere?"""
    return info.keep_until_ms is None and info.mode in (store.Mode.LOCKED, store.Mode.SEALED)


def is_for_movers(info: store.MailboxInfo) -> bool:
    """Is it the target of a move that was not committed?"""
    return info.mode is store.Mode.SEALED


def moved_to(info: store.MailboxInfo) -> Home | None:
    """Where a retired instance sends its clients; None: to itself, so it was removed."""
    home = home_of(info.home) if info.home else None
    return None if home is None or home.instance == InstanceId(info.instance) else home


def label_of(settings: Mapping[str, str]) -> str:
    return settings.get(store.LABEL, "")


def guard_of(info: store.MailboxInfo) -> Guard:
    return Guard(_MODES[info.mode], info.token, home_of(info.home) if info.home else None)


def folder_state(folder: store.FolderInfo) -> FolderState:
    return FolderState(
        FolderId(folder.folder_id),
        FolderId(folder.parent_id) if folder.parent_id else None,
        folder.name,
        folder.modseq,
        folder.uidvalidity,
        folder.uidnext,
        folder.special_use,
        folder.subscribed,
        folder.hidden,
        MappingProxyType(dict(folder.attributes)) if folder.attributes else NO_PROPERTIES,
    )


def item_state(row: store.ItemRow) -> ItemState:
    """All but its place; the fields of both stand in one order."""
    properties = MappingProxyType(dict(row.properties)) if row.properties else NO_PROPERTIES
    return ItemState._make((*row[:7], *row[9:12], properties))


def item_row(state: ItemState) -> store.ItemRow:
    """`item_state`, the other way round; the place is the target's to give."""
    properties = tuple(sorted(state.properties.items())) if state.properties else ()
    return store.ItemRow._make((*state[:7], 0, 0, *state[7:10], properties))


def place_of(cursor: bytes) -> tuple[str, Any]:
    """Where a seed goes on: among the items, after an id, or among the delivery keys, after a change number.

    Raises:
        SourceChanged: this is no cursor of ours; the listing has to begin anew.
    """
    stage: Any = None
    after: Any = None
    with suppress(ValueError, TypeError, msgpack.UnpackException):
        stage, after = msgpack.unpackb(cursor)
    if (stage == "items" and type(after) is bytes) or (stage == "keys" and type(after) is int and 0 <= after < 1 << 63):
        return stage, after
    raise SourceChanged(why=f"the copy's cursor {cursor[:20].hex()} is none of this kind of mailbox")


def folder_digest(folder: store.FolderInfo) -> FolderDigest:
    return FolderDigest(folder.items, folder.bytes, folder.equality)


@attrs.frozen(eq=False)
class StoreMailbox:
    """One mailbox instance in one database, from the mover's side: source and target in one."""

    database_name: str
    database: store.Database
    instance: InstanceId

    @property
    def capabilities(self) -> Capabilities:
        return CAPABILITIES

    async def aclose(self) -> None:
        """Nothing is held for one mailbox."""

    @property
    def _id(self) -> store.InstanceId:
        return store.InstanceId(self.instance)

    @property
    def _mover(self) -> store.Mover:
        return self.database.mover(self._id)

    def _watermark(self, modseq: int) -> Watermark:
        return Watermark(self.database.signature, self.instance, modseq)

    async def _info(self) -> store.MailboxInfo:
        """The store's own row of the instance, if it is not soft-deleted."""
        info = await self.database.info(self._id)
        if info.keep_until_ms is not None:
            raise store.NoSuchMailbox(instance=self._id)
        return info

    async def _account(self) -> tuple[store.MailboxInfo, list[store.FolderInfo], dict[str, str]]:
        """The store's account, if the instance is not soft-deleted."""
        info, folders, settings = await self.database.account(self._id)
        if info.keep_until_ms is not None:
            raise store.NoSuchMailbox(instance=self._id)
        return info, folders, settings

    # ---- reading

    async def exists(self) -> bool:
        try:
            with translated(self.database_name):
                await self._info()
        except NotFound:
            return False
        return True

    async def summary(self) -> MailboxSummary:
        with translated(self.database_name):
            info, folders, _ = await self._account()
        return summary_of(self.database, info, folders)

    async def head(self) -> Watermark:
        with translated(self.database_name):
            return self._watermark((await self._info()).head)

    async def read_hierarchy(self) -> tuple[FolderState, ...]:
        with translated(self.database_name):
            _, folders, _ = await self._account()
        return tuple(folder_state(folder) for folder in folders)

    async def occupied_folders(self) -> frozenset[FolderId]:
        with translated(self.database_name):
            _, folders, _ = await self._account()
        return frozenset(FolderId(folder.folder_id) for folder in folders if folder.items)

    async def read_seed(self, cursor: bytes | None, *, bytes_max: int, items_max: int) -> SeedPage:
        """Items as long as there are any; with the last of them the first delivery keys, and then the other keys."""
        stage, after = _AT_THE_START if cursor is None else place_of(cursor)
        with translated(self.database_name):
            if stage == "items":
                last_key = 0
                page = await self.database.page(
                    self._id, after=after, limit=items_max, bytes_max=bytes_max, keys_max=KEYS_PER_PAGE
                )
            else:
                last_key = after
                keys = await self.database.delivery_keys(self._id, after_modseq=after, limit=KEYS_PER_PAGE)
                page = store.Page(items=(), following=None, delivery_keys=keys)
        if page.delivery_keys:
            last_key = page.delivery_keys[-1].modseq
        following = ("items", page.following) if page.following else ("keys", last_key)
        read, bad = _sorted_out(page.items)
        return SeedPage(
            items=read,
            bad=bad,
            cursor=msgpack.packb(following),
            done=page.following is None and len(page.delivery_keys) < KEYS_PER_PAGE,
            settings=tuple(SettingState(*setting) for setting in page.settings),
            delivery_keys=tuple(DeliveryKeyState(*key) for key in page.delivery_keys),
        )

    async def read_feed(self, after: Watermark, *, changes_max: int) -> ChangeBatch:
        head = self._watermark(0)
        if (after.timeline, after.instance) != (head.timeline, head.instance):
            raise FeedTrimmed(watermark=str(after), horizon=str(head))
        with translated(self.database_name):
            page = await self.database.feed(self._id, after=after.modseq, limit=changes_max)
        return ChangeBatch(
            through=self._watermark(page.through),
            more=page.more,
            hierarchy=None if page.folders is None else tuple(folder_state(folder) for folder in page.folders),
            items=tuple(item_state(row) for row in page.items),
            items_gone=tuple(Gone(row.id, row.modseq) for row in page.items_gone),
            settings=tuple(SettingState(*setting) for setting in page.settings),
            delivery_keys=tuple(DeliveryKeyState(*key) for key in page.delivery_keys),
        )

    async def wait_feed(self, after: Watermark) -> None:
        with translated(self.database_name):
            await self.database.wait_change(self._id, after=after.modseq)

    async def fetch(
        self, item_ids: Sequence[ItemId], *, bytes_max: int
    ) -> tuple[tuple[ItemContent, ...], tuple[BadItem, ...], tuple[ItemId, ...]]:
        with translated(self.database_name):
            asked = [store.ItemId(item_id) for item_id in item_ids]
            fetched, left = await self.database.fetch_by_id(self._id, asked, bytes_max=bytes_max)
        read, bad = _sorted_out(fetched)
        return read, bad, tuple(ItemId(item_id) for item_id in left)

    async def account(self) -> MailboxAccount:
        with translated(self.database_name):
            info, folders, settings = await self._account()
        digests = ((FolderId(folder.folder_id), folder_digest(folder)) for folder in folders)
        return self._mailbox_account(info, folders, settings, dict(digests))

    async def recount(self) -> MailboxAccount:
        digests: dict[FolderId, FolderDigest] = {}
        after: bytes | None = b""
        with translated(self.database_name):
            info, folders, settings = await self._account()
            while after is not None:
                page = await self.database.page(self._id, after=after, limit=RECOUNT_ITEMS)
                after = page.following
                for item in page.items:
                    content = item.content if item.content is not None else item.raw or b""
                    found = item_state(item.row)._replace(
                        content_hash=xxhash.xxh3_128_digest(content), size=len(content)
                    )
                    folder = found.folder_id
                    digests[folder] = digests.get(folder, FolderDigest()).plus(found)
        present = {FolderId(folder.folder_id): FolderDigest() for folder in folders}
        return self._mailbox_account(info, folders, settings, present | digests)

    def _mailbox_account(
        self,
        info: store.MailboxInfo,
        folders: Sequence[store.FolderInfo],
        settings: dict[str, str],
        digests: dict[FolderId, FolderDigest],
    ) -> MailboxAccount:
        return MailboxAccount(
            head=self._watermark(info.head),
            folders=tuple(folder_state(folder) for folder in folders),
            settings=tuple(sorted(settings.items())),
            digests=tuple(sorted(digests.items())),
        )

    # ---- the guard

    async def guard(self) -> Guard:
        with translated(self.database_name):
            return guard_of(await self.database.info(self._id))

    async def claim(self, token: int) -> Guard:
        with translated(self.database_name):
            return guard_of(await self._mover.claim(token))

    async def lock(self, token: int) -> Watermark:
        with translated(self.database_name):
            return self._watermark(await self._mover.lock(token))

    async def unlock(self, token: int) -> None:
        with translated(self.database_name):
            await self._mover.unlock(token)

    async def retire(self, token: int, home: Home) -> None:
        with translated(self.database_name):
            await self._mover.retire(token, home_text(home))

    async def seal(self, token: int) -> None:
        with translated(self.database_name):
            await self._mover.seal(token)

    async def open(self, token: int) -> None:
        with translated(self.database_name):
            await self._mover.open(token)

    async def create(self, mailbox_id: MailboxId, token: int) -> None:
        with translated(self.database_name):
            await self._mover.create(store.MailboxId(mailbox_id), token)

    async def remove(self, token: int, *, keep_until_ms: int) -> None:
        with translated(self.database_name):
            await self._mover.remove(token, keep_until_ms=keep_until_ms)

    async def purge(self, token: int) -> None:
        with translated(self.database_name):
            await self._mover.purge(token)

    # ---- writing

    async def apply_folders(self, steps: Sequence[FolderStep], token: int) -> None:
        moved = [store.MovedFolder(_STEPS[step.kind], self._folder_put(step.folder)) for step in steps]
        with translated(self.database_name):
            await self._mover.put_folders(moved, token)

    def _folder_put(self, folder: FolderState) -> store.FolderPut:
        return store.FolderPut(
            self._id,
            store.FolderId(folder.folder_id),
            folder.parent_id or b"",
            folder.name,
            folder.modseq,
            folder.uidvalidity,
            folder.uidnext,
            folder.special_use,
            folder.subscribed,
            folder.hidden,
            tuple(sorted(folder.attributes.items())),
        )

    async def write_items(self, items: Sequence[ItemContent], token: int) -> tuple[BadItem, ...]:
        with translated(self.database_name):
            refused = await self._mover.put_items(
                [item_row(state) for state, _ in items], [content for _, content in items], token
            )
        if not refused:
            return ()
        by_id = {item.state.item_id: item for item in items}
        return tuple(
            BadItem(by_id[ItemId(bad.item_id)].state, "CorruptItem", bad.why, by_id[ItemId(bad.item_id)].content)
            for bad in refused
        )

    async def apply_changes(self, batch: ChangeBatch, token: int) -> tuple[ItemId, ...]:
        changes = store.MovedChanges(
            through=batch.through.modseq,
            items=[item_row(state) for state in batch.items],
            items_gone=[store.GoneRow(gone.id, gone.modseq) for gone in batch.items_gone],
            settings=[(setting.name, setting.value, setting.modseq) for setting in batch.settings],
            delivery_keys=[
                store.DeliveryKeyRow(key.key, key.content_digest, key.accepted_ms, key.modseq)
                for key in batch.delivery_keys
            ],
        )
        with translated(self.database_name):
            missing = await self._mover.apply(changes, token)
        return tuple(ItemId(item_id) for item_id in missing)


def _sorted_out(fetched: Sequence[store.Fetched]) -> tuple[tuple[ItemContent, ...], tuple[BadItem, ...]]:
    """What was read, and what cannot be; an item purged meanwhile is neither."""
    read: list[ItemContent] = []
    bad: list[BadItem] = []
    for item in fetched:
        if item.content is not None:
            read.append(ItemContent(item_state(item.row), item.content))
        elif item.damage is not None:
            bad.append(BadItem(item_state(item.row), "CorruptItem", str(item.damage), item.raw))
    return tuple(read), tuple(bad)


def summary_of(
    database: store.Database, info: store.MailboxInfo, folders: Sequence[store.FolderInfo]
) -> MailboxSummary:
    instance = InstanceId(info.instance)
    return MailboxSummary(
        mailbox_id=MailboxId(info.mailbox_id),
        instance=instance,
        guard=guard_of(info),
        folders=len(folders),
        items=sum(folder.items for folder in folders),
        bytes=sum(folder.bytes for folder in folders),
        head=Watermark(database.signature, instance, info.head),
    )


NewItem = store.NewItem
"""An item to be added by a client, whole."""


@attrs.frozen(eq=False)
class StoreEndpoint:
    """An open database of our store, by the name the directory has for it."""

    name: str
    database: store.Database

    def mailbox(self, instance: InstanceId) -> store.Mailbox:
        """The verbs of clients and deliveries. They raise the store's errors: use them in `translated(name)`."""
        return self.database.mailbox(store.InstanceId(instance))

    async def add_mailbox(self, mailbox_id: MailboxId, instance: InstanceId) -> None:
        """An open, empty mailbox with an INBOX. Durable. Raises `RequestRefused` where the instance exists."""
        with translated(self.name):
            await self.database.create_mailbox(store.MailboxId(mailbox_id), store.InstanceId(instance))

    def source(self, instance: InstanceId) -> Source:
        return StoreMailbox(self.name, self.database, instance)

    def target(self, instance: InstanceId) -> Target:
        return StoreMailbox(self.name, self.database, instance)

    async def label(self, instance: InstanceId, token: int, text: str) -> None:
        """Whoever looks for the mailbox once it is soft-deleted finds this JSON text. Raises `NotFound`."""
        with translated(self.name):
            await self.database.mover(store.InstanceId(instance)).label(token, text)

    async def keep(self, instance: InstanceId, token: int, *, until_ms: int) -> None:
        """A soft-deleted mailbox is kept until then at least. Raises `NotFound`: it has been purged."""
        with translated(self.name):
            await self.database.mover(store.InstanceId(instance)).keep(token, until_ms=until_ms)

    async def connect(self, instance: InstanceId, token: int) -> None:
        """The mailbox is open, and no longer soft-deleted. Raises `NotFound`, `StaleToken`."""
        with translated(self.name):
            await self.database.mover(store.InstanceId(instance)).connect(token)

    async def instances(self) -> Sequence[MailboxSummary]:
        with translated(self.name):
            found = [info for info in await self.database.mailboxes() if info.keep_until_ms is None]
            accounts = [await self.database.account(info.instance) for info in found]
        return [summary_of(self.database, info, folders) for info, folders, _ in accounts]


@asynccontextmanager
async def open_endpoint(name: str, path: Path) -> AsyncIterator[StoreEndpoint]:
    """The database at `path`, recovered and ready, as database `name` of the directory.

    Raises:
        EndpointUnavailable: somebody needs the database alone.
        EndpointBroken: there is no database at `path`, or it is damaged.
    """
    with translated(name):
        async with store.open_database(path) as database:
            yield StoreEndpoint(name, database)


def make_database(name: str, path: Path) -> None:
    """A database is at `path`: one that is there is taken, else an empty one is made. Durable. Blocking.

    Raises:
        RequestRefused: there are other files in that folder.
        EndpointBroken: it cannot be written.
    """
    with translated(name):
        if not store.holds_database(path):
            store.create_database(path)


@asynccontextmanager
async def database_alone(name: str, path: Path) -> AsyncIterator[None]:
    """Nobody has the database at `path` open, or opens it, meanwhile.

    Raises:
        EndpointUnavailable: somebody has.
        EndpointBroken: there is no database at `path`.
    """
    with translated(name):
        lock = await trio.to_thread.run_sync(store.lock_alone, path)
    try:
        yield
    finally:
        lock.close()


def check_database(name: str, path: Path, *, progress: Callable[[str, int, int], None] | None = None) -> CheckReport:
    """The whole database at `path`, verified, beside whoever uses it. Blocking; O(everything).

    Raises:
        EndpointBroken, EndpointUnavailable: it cannot even be opened.
    """
    with translated(name):
        return store.check.check_database(path, progress=progress)


def rebuild_database(
    name: str,
    path: Path,
    *,
    from_content: bool = False,
    progress: Callable[[str, int, int], None] | None = None,
) -> RebuildReport:
    """The catalogue of the database at `path` is what its log (or, asked for, its content) says. Blocking.

    Raises:
        EndpointUnavailable: somebody has it open.
        EndpointBroken: the log is damaged; nothing was changed.
    """
    with translated(name):
        return store.rebuild.rebuild_database(path, from_content=from_content, progress=progress)
