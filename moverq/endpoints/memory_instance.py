"""One mailbox instance as dicts: every rule of the contract (`base`), without a task, a file or a wait.

Each method is one synchronous step that checks the guard, decides and changes, or raises and changes nothing; so
it is one transaction, and what it changed counts as durable. `memory` puts the waiting faces of an endpoint before it.

    clients  ──▶ deliver, append, set_flags …   guard open            each change takes the next modseq
    the mover ─▶ write_items, apply_changes …   sealed or retired     the given modseq, `absent < live(m) < dead`

What always holds: `head` is at least every modseq in here. `digests` is the sum over `items`. No folder has two
children of one name, no folder two items of one UID. An id in `items_gone` is not in `items`, ever again.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Final

import attrs
import trio
import xxhash

from moverq.endpoints.base import (
    FolderStep,
    Guard,
    GuardMode,
    Home,
    MailboxAccount,
    MailboxSummary,
    SeedPage,
    StepKind,
)
from moverq.errors import FeedTrimmed, MailboxLocked, MailboxMoved, NotFound, RequestRefused, StaleToken
from moverq.model.change import (
    INBOX,
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

RECOVERABLE_ITEMS: Final = "Recoverable Items"
"""The hidden folder that deleted items go to until they are purged."""

MOVER_MODES: Final = (GuardMode.SEALED, GuardMode.RETIRED)


def content_hash(content: bytes) -> bytes:
    """The hash that `ItemState.content_hash` holds."""
    return xxhash.xxh3_128_digest(content)


@attrs.define(eq=False, kw_only=True)
class MemoryInstance:
    """A mailbox instance and all it knows. `unreadable` and `refused` make bad items on purpose."""

    mailbox_id: MailboxId
    instance: InstanceId
    timeline: bytes
    guard: Guard
    new_id: Callable[[], bytes]
    now_ms: Callable[[], int]
    item_bytes_max: int | None = None
    head: int = 0
    horizon: int = 0
    hierarchy_head: int = 0
    """The modseq of the latest change of any folder, removals included."""
    removed_until_ms: int | None = None
    """Soft-deleted, and kept until then."""
    folders: dict[FolderId, FolderState] = attrs.Factory(dict)
    items: dict[ItemId, ItemState] = attrs.Factory(dict)
    contents: dict[ItemId, bytes] = attrs.Factory(dict)
    items_gone: dict[ItemId, int] = attrs.Factory(dict)
    settings: dict[str, SettingState] = attrs.Factory(dict)
    delivery_keys: dict[tuple[bytes, bytes], DeliveryKeyState] = attrs.Factory(dict)
    digests: dict[FolderId, FolderDigest] = attrs.Factory(dict)
    unreadable: dict[ItemId, str] = attrs.Factory(dict)
    refused: dict[ItemId, str] = attrs.Factory(dict)
    changed: trio.Event = attrs.field(factory=trio.Event, repr=False)
    """Set, and replaced, when the head rises; here and not in an endpoint, so that two engines wake each other."""

    def __repr__(self) -> str:
        guard = f"{self.guard.mode.value} token {self.guard.token}"
        return f"<MemoryInstance {self.instance.hex()[:8]} {guard}, {len(self.items)} items, head {self.head}>"

    # --- reads ------------------------------------------------------------------------------------------------

    @property
    def watermark(self) -> Watermark:
        return Watermark(self.timeline, self.instance, self.head)

    def summary(self) -> MailboxSummary:
        return MailboxSummary(
            mailbox_id=self.mailbox_id,
            instance=self.instance,
            guard=self.guard,
            folders=len(self.folders),
            items=sum(digest.items for digest in self.digests.values()),
            bytes=sum(digest.bytes for digest in self.digests.values()),
            head=self.watermark,
        )

    def hierarchy(self) -> tuple[FolderState, ...]:
        return tuple(self.folders[folder_id] for folder_id in sorted(self.folders))

    def occupied_folders(self) -> frozenset[FolderId]:
        return frozenset(folder_id for folder_id, digest in self.digests.items() if digest.items)

    def account(self) -> MailboxAccount:
        return self._account(self.digests)

    def recount(self) -> MailboxAccount:
        """From the bytes themselves: an item whose content is not what its state says shows here."""
        digests = dict.fromkeys(self.folders, FolderDigest())
        for item in self.items.values():
            content = self.contents[item.item_id]
            found = item._replace(content_hash=content_hash(content), size=len(content))
            digests[item.folder_id] = digests[item.folder_id].plus(found)
        return self._account(digests)

    def _account(self, digests: dict[FolderId, FolderDigest]) -> MailboxAccount:
        return MailboxAccount(
            head=self.watermark,
            folders=self.hierarchy(),
            settings=tuple(sorted((s.name, s.value) for s in self.settings.values() if s.value is not None)),
            digests=tuple(sorted(digests.items())),
        )

    def read_seed(self, cursor: bytes | None, *, bytes_max: int, items_max: int) -> SeedPage:
        """In the order of ids: the one order that no change of an item can alter under the reader.

        The first page has all settings and delivery keys; what changes after it is in the feed.
        """
        first = cursor is None
        rest = sorted(item_id for item_id in self.items if cursor is None or item_id > cursor)
        items, bad, left = self.fetch(rest[:items_max], bytes_max=bytes_max)
        taken = len(rest[:items_max]) - len(left)
        at = rest[taken - 1] if taken else cursor or b""
        return SeedPage(
            items=items,
            bad=bad,
            cursor=at,
            done=taken == len(rest),
            settings=tuple(self.settings.values()) if first else (),
            delivery_keys=tuple(self.delivery_keys.values()) if first else (),
        )

    def fetch(
        self, item_ids: Sequence[ItemId], *, bytes_max: int
    ) -> tuple[tuple[ItemContent, ...], tuple[BadItem, ...], tuple[ItemId, ...]]:
        present = [item_id for item_id in item_ids if item_id in self.items]
        read: list[ItemContent] = []
        bad: list[BadItem] = []
        bytes_read = 0
        for at, item_id in enumerate(present):
            state = self.items[item_id]
            if item_id in self.unreadable:
                bad.append(BadItem(state, "CorruptItem", self.unreadable[item_id]))
                continue
            if read and bytes_read + state.size > bytes_max:
                return tuple(read), tuple(bad), tuple(present[at:])
            read.append(ItemContent(state, self.contents[item_id]))
            bytes_read += state.size
        return tuple(read), tuple(bad), ()

    def check_watermark(self, after: Watermark) -> None:
        """Raises `FeedTrimmed` unless `after` is a place this feed was or is at, and its tombstones are still here."""
        own = (after.timeline, after.instance) == (self.timeline, self.instance)
        if not own or not self.horizon <= after.modseq <= self.head:
            horizon = Watermark(self.timeline, self.instance, self.horizon)
            raise FeedTrimmed(watermark=str(after), horizon=str(horizon))

    def read_feed(self, after: Watermark, *, changes_max: int) -> ChangeBatch:
        self.check_watermark(after)
        changes = sorted(self._changes(after.modseq), key=lambda change: change.modseq)
        page = changes[:changes_max]
        # Changes that share a modseq travel together: a watermark cannot stand between them.
        page += [change for change in changes[changes_max:] if change.modseq == page[-1].modseq]
        more = len(page) < len(changes)
        through = page[-1].modseq if more else self.head
        return ChangeBatch(
            through=Watermark(self.timeline, self.instance, through),
            more=more,
            hierarchy=self.hierarchy() if self.hierarchy_head > after.modseq else None,
            items=tuple(change for change in page if isinstance(change, ItemState)),
            items_gone=tuple(change for change in page if isinstance(change, Gone)),
            settings=tuple(change for change in page if isinstance(change, SettingState)),
            delivery_keys=tuple(change for change in page if isinstance(change, DeliveryKeyState)),
        )

    def _changes(self, after: int) -> Iterator[ItemState | Gone | SettingState | DeliveryKeyState]:
        states: tuple[Iterable[ItemState | SettingState | DeliveryKeyState], ...] = (
            self.items.values(),
            self.settings.values(),
            self.delivery_keys.values(),
        )
        for kind in states:
            yield from (state for state in kind if state.modseq > after)
        yield from (Gone(item_id, modseq) for item_id, modseq in self.items_gone.items() if modseq > after)

    # --- the guard --------------------------------------------------------------------------------------------

    def claim(self, token: int) -> Guard:
        self._check_token(token)
        self.guard = attrs.evolve(self.guard, token=token)
        return self.guard

    def lock(self, token: int) -> Watermark:
        self._turn(token, GuardMode.LOCKED, {GuardMode.OPEN, GuardMode.LOCKED})
        return self.watermark

    def unlock(self, token: int) -> None:
        self._turn(token, GuardMode.OPEN, {GuardMode.OPEN, GuardMode.LOCKED})

    def retire(self, token: int, home: Home) -> None:
        self._turn(token, GuardMode.RETIRED, set(GuardMode), home)

    def seal(self, token: int) -> None:
        self._turn(token, GuardMode.SEALED, {GuardMode.RETIRED, GuardMode.SEALED})

    def open(self, token: int) -> None:
        self._turn(token, GuardMode.OPEN, {GuardMode.SEALED, GuardMode.OPEN})

    def remove(self, token: int, *, keep_until_ms: int) -> None:
        self._check_token(token)
        if self.guard.mode not in MOVER_MODES:
            raise RequestRefused(why=f"{self} is {self.guard.mode.value}; only a sealed or retired one can be removed")
        self.claim(token)
        self.removed_until_ms = keep_until_ms

    def check_purge(self, token: int) -> None:
        self._check_token(token)
        if self.removed_until_ms is None:
            raise RequestRefused(why=f"{self} is not soft-deleted, so it is not purged")
        if self.now_ms() < self.removed_until_ms:
            raise RequestRefused(why=f"{self} is kept for {self.removed_until_ms - self.now_ms()} ms more")

    def _turn(self, token: int, mode: GuardMode, allowed: set[GuardMode], home: Home | None = None) -> None:
        """The guard stands at `mode`; a turn is a change of its own, so a feed read through it saw all before it."""
        self._check_token(token)
        if self.guard.mode not in allowed:
            raise RequestRefused(why=f"{self} cannot become {mode.value}")
        turned = self.guard.mode is not mode
        self.guard = Guard(mode, token, home)
        if turned:
            self._next_modseq()

    def _check_token(self, token: int) -> None:
        if token < self.guard.token:
            raise StaleToken(held=token, seen=self.guard.token)

    def _check_mover(self, token: int) -> None:
        self._check_token(token)
        if self.guard.mode not in MOVER_MODES:
            raise RequestRefused(why=f"{self} is {self.guard.mode.value}: the mover does not write to it")
        self.claim(token)

    def _check_client(self) -> None:
        if self.guard.mode is GuardMode.RETIRED:
            raise MailboxMoved(mailbox=self.mailbox_id.hex(), home=str(self.guard.home))
        if self.guard.mode is not GuardMode.OPEN:
            raise MailboxLocked(mailbox=self.mailbox_id.hex())

    # --- the mover --------------------------------------------------------------------------------------------

    def apply_folder(self, step: FolderStep, token: int) -> None:
        """One step. A step on a folder that is not there changes nothing: the next plan sees what is missing."""
        self._check_mover(token)
        folder = step.folder
        present = self.folders.get(folder.folder_id)
        if step.kind is StepKind.CREATE:
            if present is None:
                self._put_folder(folder)
        elif present is None:
            return
        elif step.kind is StepKind.MOVE:
            self._put_folder(folder)
        elif step.kind is StepKind.UPDATE:
            self._put_folder(attrs.evolve(folder, parent_id=present.parent_id, name=present.name))
        else:
            self._drop_folder(folder.folder_id)
            self._raise_head(hierarchy=self.head)

    def write_items(self, items: Sequence[ItemContent], token: int) -> tuple[BadItem, ...]:
        self._check_mover(token)
        bad: list[BadItem] = []
        for written in items:
            state = written.state
            if not state.content_hash:
                state = state._replace(content_hash=content_hash(written.content))
            if not self._is_news(state) or state.folder_id not in self.folders:
                continue
            refusal = self._refusal(state, written.content)
            if refusal is not None:
                bad.append(refusal)
            else:
                self._put_item(state, written.content)
        return tuple(bad)

    def apply_changes(self, batch: ChangeBatch, token: int) -> tuple[ItemId, ...]:
        self._check_mover(token)
        for gone in batch.items_gone:
            self._bury(ItemId(gone.id), gone.modseq)
        missing = tuple(state.item_id for state in batch.items if not self._apply_item(state))
        for setting in batch.settings:
            known = self.settings.get(setting.name)
            if known is None or known.modseq < setting.modseq:
                self.settings[setting.name] = setting
                self._raise_head(setting.modseq)
        for key in batch.delivery_keys:
            if self.delivery_keys.setdefault((key.key, key.content_digest), key) is key:
                self._raise_head(key.modseq)
        self._raise_head(batch.through.modseq)
        return missing

    def _apply_item(self, state: ItemState) -> bool:
        """Merge one state; False where that takes bytes (or a folder, or a UID) which the instance does not have."""
        if not self._is_news(state):
            return True
        present = self.items.get(state.item_id)
        if present is None or state.folder_id not in self.folders or self._uid_taken(state):
            return False
        if state.content_hash not in (b"", present.content_hash):
            return False
        self._put_item(state._replace(content_hash=present.content_hash), self.contents[state.item_id])
        return True

    def _is_news(self, state: ItemState) -> bool:
        """The merge rule: absent < live(modseq) < dead."""
        present = self.items.get(state.item_id)
        return state.item_id not in self.items_gone and (present is None or present.modseq < state.modseq)

    def _refusal(self, state: ItemState, content: bytes) -> BadItem | None:
        if state.item_id in self.refused:
            return BadItem(state, "CorruptItem", self.refused[state.item_id], raw=content)
        if self.item_bytes_max is not None and len(content) > self.item_bytes_max:
            why = f"{len(content)} bytes, and at most {self.item_bytes_max} are taken"
            return BadItem(state, "LargeItem", why, raw=content)
        if (len(content), content_hash(content)) != (state.size, state.content_hash):
            return BadItem(state, "CorruptItem", "the bytes are not those that the hash names", raw=content)
        if self._uid_taken(state):
            return BadItem(state, "CorruptItem", f"UID {state.uid} is taken by another item", raw=content)
        return None

    def _uid_taken(self, state: ItemState) -> bool:
        """By an item that has it for good: one from before the folder's last change, which may have been a new
        UIDVALIDITY, is out of the way until it is told again. O(items): a real store has an index."""
        at = (state.folder_id, state.uid)
        for item in self.items.values():
            if item.item_id != state.item_id and (item.folder_id, item.uid) == at:
                if item.modseq >= self.folders[item.folder_id].modseq:
                    return True
                least = min(0, *(i.uid for i in self.items.values()))
                self.items[item.item_id] = item._replace(uid=least - item.uid, modseq=item.modseq - 1)
                break
        return False

    # --- clients ----------------------------------------------------------------------------------------------

    def deliver(self, content: bytes, *, delivery_key: bytes | None = None) -> ItemId | None:
        """The content is in INBOX, once: None says that this delivery had been accepted before."""
        self._check_client()
        if delivery_key is not None:
            digest = content_hash(content)
            if (delivery_key, digest) in self.delivery_keys:
                return None
            state = DeliveryKeyState(delivery_key, digest, self.now_ms(), self._next_modseq())
            self.delivery_keys[delivery_key, digest] = state
        return self.append(self.inbox, content)

    @property
    def inbox(self) -> FolderId:
        return next(f.folder_id for f in self.folders.values() if f.parent_id is None and f.name == INBOX)

    def append(
        self,
        folder_id: FolderId,
        content: bytes,
        *,
        flags: int = 0,
        keywords: Iterable[str] = (),
        received_ms: int | None = None,
    ) -> ItemId:
        self._check_client()
        state = ItemState(
            item_id=ItemId(self.new_id()),
            folder_id=folder_id,
            uid=self._folder(folder_id).uidnext,
            modseq=self._next_modseq(),
            received_ms=self.now_ms() if received_ms is None else received_ms,
            size=len(content),
            content_hash=content_hash(content),
            flags=flags,
            keywords=tuple(sorted(set(keywords))),
        )
        self._put_item(state, content)
        return state.item_id

    def set_flags(self, item_id: ItemId, flags: int, keywords: Iterable[str]) -> None:
        self._check_client()
        state = self._item(item_id)
        marks = tuple(sorted(set(keywords)))
        changed = state._replace(flags=flags, keywords=marks, modseq=self._next_modseq())
        self._put_item(changed, self.contents[item_id])

    def move_item(self, item_id: ItemId, folder_id: FolderId) -> None:
        """The item is in another folder, with a new UID and its old id."""
        self._check_client()
        state, folder = self._item(item_id), self._folder(folder_id)
        moved = state._replace(folder_id=folder_id, uid=folder.uidnext, modseq=self._next_modseq())
        self._put_item(moved, self.contents[item_id])

    def copy_item(self, item_id: ItemId, folder_id: FolderId) -> ItemId:
        self._check_client()
        state = self._item(item_id)
        return self.append(
            folder_id,
            self.contents[item_id],
            flags=state.flags,
            keywords=state.keywords,
            received_ms=state.received_ms,
        )

    def delete_item(self, item_id: ItemId, *, purge: bool) -> None:
        """The item can be recovered from the hidden folder; or, purged, is a tombstone."""
        self._check_client()
        self._item(item_id)
        if purge:
            self._bury(item_id, self._next_modseq())
        else:
            self.move_item(item_id, self._recoverable_items())

    def _recoverable_items(self) -> FolderId:
        for folder in self.folders.values():
            if folder.hidden and folder.parent_id is None and folder.name == RECOVERABLE_ITEMS:
                return folder.folder_id
        return self.create_folder(RECOVERABLE_ITEMS, None, hidden=True)

    def create_folder(
        self, name: str, parent_id: FolderId | None, *, hidden: bool = False, special_use: str = ""
    ) -> FolderId:
        self._check_client()
        modseq = self.head + 1
        folder = FolderState(
            folder_id=FolderId(self.new_id()),
            parent_id=parent_id,
            name=name,
            modseq=modseq,
            uidvalidity=modseq,  # RFC 9051 asks that a folder made anew under an old name gets a greater one.
            uidnext=1,
            special_use=special_use,
            hidden=hidden,
        )
        self._put_folder(folder)
        return folder.folder_id

    def move_folder(self, folder_id: FolderId, *, parent_id: FolderId | None, name: str) -> None:
        self._check_client()
        folder = self._own_folder(folder_id)
        self._put_folder(attrs.evolve(folder, parent_id=parent_id, name=name, modseq=self.head + 1))

    def delete_folder(self, folder_id: FolderId) -> None:
        """The folder is gone and the items in it are tombstones; one with folders in it is refused."""
        self._check_client()
        self._own_folder(folder_id)
        self._check_childless(folder_id)
        for item_id in [i.item_id for i in self.items.values() if i.folder_id == folder_id]:
            self._bury(item_id, self._next_modseq())
        self._drop_folder(folder_id)
        self._raise_head(hierarchy=self.head + 1)

    def set_setting(self, name: str, value: str | None) -> None:
        self._check_client()
        self.settings[name] = SettingState(name, value, self._next_modseq())

    def trim(self, horizon: int) -> None:
        """Tombstones up to `horizon` are forgotten; a reader that stands before it must compare anew."""
        assert horizon <= self.head
        self.horizon = max(self.horizon, horizon)
        self.items_gone = {item_id: m for item_id, m in self.items_gone.items() if m > self.horizon}

    def _item(self, item_id: ItemId) -> ItemState:
        if item_id not in self.items:
            raise NotFound(kind="item", name=item_id.hex())
        return self.items[item_id]

    def _folder(self, folder_id: FolderId) -> FolderState:
        if folder_id not in self.folders:
            raise NotFound(kind="folder", name=folder_id.hex())
        return self.folders[folder_id]

    def _own_folder(self, folder_id: FolderId) -> FolderState:
        """A folder that its owner may move or delete."""
        folder = self._folder(folder_id)
        if folder_id == self.inbox or folder.hidden:
            raise RequestRefused(why=f"{folder.name} stays where it is")
        return folder

    # --- what every change goes through -----------------------------------------------------------------------

    def _next_modseq(self) -> int:
        self._raise_head(self.head + 1)
        return self.head

    def _raise_head(self, modseq: int = 0, *, hierarchy: int = 0) -> None:
        self.hierarchy_head = max(self.hierarchy_head, hierarchy)
        if max(modseq, hierarchy) > self.head:
            self.head = max(modseq, hierarchy)
            self.wake()

    def wake(self) -> None:
        """Whoever waits for the feed looks again."""
        self.changed.set()
        self.changed = trio.Event()

    def _put_item(self, state: ItemState, content: bytes) -> None:
        before = self.items.get(state.item_id)
        if before is not None:
            self.digests[before.folder_id] = self.digests[before.folder_id].minus(before)
        self.items[state.item_id] = state
        self.contents[state.item_id] = content
        self.digests[state.folder_id] = self.digests[state.folder_id].plus(state)
        folder = self.folders[state.folder_id]
        self.folders[state.folder_id] = attrs.evolve(folder, uidnext=max(folder.uidnext, state.uid + 1))
        self._raise_head(state.modseq)

    def _bury(self, item_id: ItemId, modseq: int) -> None:
        """The item is dead, also where it was never seen: a live state that comes later finds the tombstone."""
        before = self.items.pop(item_id, None)
        if before is not None:
            del self.contents[item_id]
            self.digests[before.folder_id] = self.digests[before.folder_id].minus(before)
        self.items_gone[item_id] = max(self.items_gone.get(item_id, 0), modseq)
        self._raise_head(modseq)

    def _put_folder(self, folder: FolderState) -> None:
        """The folder is as given, but that UIDNEXT never falls."""
        self._check_place(folder)
        before = self.folders.get(folder.folder_id)
        uidnext = folder.uidnext if before is None else max(folder.uidnext, before.uidnext)
        self.folders[folder.folder_id] = attrs.evolve(folder, uidnext=uidnext)
        self.digests.setdefault(folder.folder_id, FolderDigest())
        self._raise_head(hierarchy=folder.modseq)

    def _check_place(self, folder: FolderState) -> None:
        at = folder.parent_id
        while at is not None:
            if at == folder.folder_id:
                raise RequestRefused(why=f"folder {folder.name!r} cannot be put inside itself")
            at = self._folder(at).parent_id
        for other in self.folders.values():
            same_place = (other.parent_id, other.name) == (folder.parent_id, folder.name)
            if same_place and other.folder_id != folder.folder_id:
                raise RequestRefused(why=f"there is a folder {folder.name!r} already")

    def _check_childless(self, folder_id: FolderId) -> None:
        if any(child.parent_id == folder_id for child in self.folders.values()):
            raise RequestRefused(why=f"folder {self.folders[folder_id].name!r} has folders in it")

    def _drop_folder(self, folder_id: FolderId) -> None:
        self._check_childless(folder_id)
        if self.digests[folder_id].items:
            raise RequestRefused(why=f"folder {self.folders[folder_id].name!r} holds items")
        del self.folders[folder_id], self.digests[folder_id]
