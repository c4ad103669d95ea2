"""What a mover may do with a mailbox instance: write states that come from elsewhere, and turn the guard.

Every write is a *state* with a modseq, merged by `absent < live(modseq) < dead`: take the greater. So applying twice
equals applying once, order does not matter, and a tombstone absorbs, also before the live state came. UIDs,
UIDVALIDITY, ids and modseqs are the other side's, kept as they are: for a client the mailbox is the same one in
another place.

Every verb names the token; see `guard`. Durable on return; Cancelled: it may or may not have happened.
"""

from collections.abc import Callable, Iterable, Sequence
from enum import Enum

import attrs
import trio

from store import guard
from store.catalogue import queries
from store.catalogue.queries import FolderInfo, MailboxInfo
from store.commit import Committer
from store.errors import NoSuchFolder, Refused, StoreError
from store.guard import require_mover
from store.ids import ContentRef, FolderId, InstanceId, ItemId, MailboxId
from store.limits import COPIED_ITEMS_MAX, FOLDER_DEPTH_MAX
from store.names import check_name
from store.proposal import Draft, Proposal
from store.records import (
    DeliveryKeyRow,
    DeliveryKeysPut,
    FolderGone,
    FolderPut,
    FolderRoomRaised,
    GoneRow,
    ItemRow,
    ItemsChanged,
    ItemsGone,
    ItemsPut,
    ItemsReplaced,
    ItemStateRow,
    Mode,
    SettingPut,
)


@attrs.frozen
class RefusedItem:
    """An item that this database does not take, and why."""

    item_id: ItemId
    why: str


@attrs.frozen(kw_only=True)
class MovedChanges:
    """States from elsewhere, without bytes. `through`: the modseq up to which the other side is covered by this."""

    through: int
    items: Sequence[ItemRow] = ()
    items_gone: Sequence[GoneRow] = ()
    settings: Sequence[tuple[str, str | None, int]] = ()
    delivery_keys: Sequence[DeliveryKeyRow] = ()


class FolderStepKind(Enum):
    """What happens to a folder."""

    CREATE = "create"
    """One that is there already stays as it is."""
    MOVE = "move"
    """Place, name and all else; nothing where the folder is not there."""
    UPDATE = "update"
    """All but place and name; nothing where the folder is not there."""
    REMOVE = "remove"


@attrs.frozen
class MovedFolder:
    """One step of bringing the folder tree to another's: after each one it is a tree with names once a parent."""

    kind: FolderStepKind
    folder: FolderPut


@attrs.define(eq=False)
class Mover:
    """One mailbox instance, for a mover. Cheap to make; holds nothing but its stream of content."""

    instance: InstanceId
    _committer: Committer

    def __repr__(self) -> str:
        return f"<Mover {self.instance.hex()}>"

    async def _do(self, decide: Callable[[Draft], object]) -> None:
        await self._committer.submit(Proposal(self.instance, decide))

    # ---- guard

    async def create(self, mailbox_id: MailboxId, token: int) -> None:
        """An empty sealed instance is there; one that was made before is claimed."""
        await self._do(lambda draft: guard.make(draft, mailbox_id, mode=Mode.SEALED, token=token))

    async def claim(self, token: int) -> MailboxInfo:
        """Every lower token is stale from now on; returns the mailbox as it is with that."""
        return await self._committer.submit(Proposal(self.instance, lambda draft: guard.claim(draft, token)))

    async def lock(self, token: int) -> int:
        """No client write is accepted from now on; returns the lock's own modseq."""
        return await self._committer.submit(Proposal(self.instance, lambda draft: guard.lock(draft, token)))

    async def unlock(self, token: int) -> None:
        await self._do(lambda draft: guard.unlock(draft, token))

    async def retire(self, token: int, home: str) -> None:
        await self._do(lambda draft: guard.retire(draft, token, home))

    async def seal(self, token: int) -> None:
        await self._do(lambda draft: guard.seal(draft, token))

    async def open(self, token: int) -> None:
        await self._do(lambda draft: guard.open_(draft, token))

    async def remove(self, token: int, *, keep_until_ms: int) -> None:
        await self._do(lambda draft: guard.remove(draft, token, keep_until_ms=keep_until_ms))

    async def label(self, token: int, text: str) -> None:
        """Whoever looks for the mailbox once it is soft-deleted finds this JSON text as its setting `LABEL`."""
        await self._do(lambda draft: guard.label(draft, token, text))

    async def keep(self, token: int, *, until_ms: int) -> None:
        """A soft-deleted mailbox is kept until then at least. Raises `NoSuchMailbox`: it has been purged."""
        await self._do(lambda draft: guard.keep(draft, token, until_ms=until_ms))

    async def connect(self, token: int) -> None:
        """Clients may write; it is not soft-deleted, and has no label any more. Raises `NoSuchMailbox`, `Refused`."""
        await self._do(lambda draft: guard.connect(draft, token))

    async def purge(self, token: int) -> None:
        await self._do(lambda draft: guard.purge(draft, token))

    # ---- content

    async def put_folders(self, steps: Sequence[MovedFolder], token: int) -> None:
        """These steps are taken, in order, in one transaction; UIDNEXT never falls.

        Raises `Refused` where a name is taken, a folder would be inside itself, or one to be removed holds
        something; the steps before that one stand.
        """

        def decide(draft: Draft) -> StoreError | None:
            require_mover(draft, token)
            tree = {folder.folder_id: folder for folder in queries.folders(draft.db, draft.info.no)}
            for step in steps:
                try:
                    _take_step(draft, tree, step)
                except (Refused, NoSuchFolder) as refusal:
                    return refusal
            return None

        refusal = await self._committer.submit(Proposal(self.instance, decide, items=max(len(steps), 1)))
        if refusal is not None:
            raise refusal

    async def put_items(self, rows: Sequence[ItemRow], contents: Sequence[bytes], token: int) -> list[RefusedItem]:
        """These items are merged, bytes included; one whose folder is not here is left out.

        The rows' places are not looked at; their `content_hash`, where known, is checked against the bytes. Returns
        those that are refused: bytes that do not have the promised hash or size, a UID that another item has.

        Many are several transactions, so that no delivery waits long for the mutex; after an error, or cancelled,
        some may be there.
        """
        if len(rows) <= COPIED_ITEMS_MAX:
            return await self._put_items(rows, contents, token)
        refused: dict[int, list[RefusedItem]] = {}
        errors: list[StoreError] = []

        async def put(at: int) -> None:
            end = at + COPIED_ITEMS_MAX
            try:
                refused[at] = await self._put_items(rows[at:end], contents[at:end], token)
            except StoreError as error:
                errors.append(error)

        # The parts, all at once: one is staged while the one before it is committed.
        async with trio.open_nursery() as nursery:
            for at in range(0, len(rows), COPIED_ITEMS_MAX):
                nursery.start_soon(put, at)
        if errors:
            raise errors[0]
        return [item for at in sorted(refused) for item in refused[at]]

    async def _put_items(self, rows: Sequence[ItemRow], contents: Sequence[bytes], token: int) -> list[RefusedItem]:
        def decide(draft: Draft) -> list[RefusedItem]:
            require_mover(draft, token)
            merge = _Merge(draft, rows)
            new: list[ItemRow] = []
            replaced: list[ItemRow] = []
            changed: list[ItemStateRow] = []
            refused: list[RefusedItem] = []
            for row, ref in _newest(rows, draft.content):
                known = merge.known(row)
                if row.folder_id not in merge.folders or not merge.is_news(row, known):
                    continue
                if row.size != ref.size or row.content_hash not in (b"", ref.content_hash):
                    refused.append(RefusedItem(row.item_id, "the bytes are not those that its hash names"))
                elif merge.is_uid_taken(row):
                    refused.append(RefusedItem(row.item_id, f"UID {row.uid} is another item's"))
                elif known is None:
                    new.append(merge.take(row.at(ref)))
                elif known[1] != ref.content_hash:
                    replaced.append(merge.take(row.at(ref)))
                else:
                    changed.append(state_row(merge.take(row)))
            if new:
                draft.records.append(ItemsPut(self.instance, new))
            if replaced:
                draft.records.append(ItemsReplaced(self.instance, replaced))
            if changed:
                draft.records.append(ItemsChanged(self.instance, changed))
            return refused

        return await self._committer.submit(
            Proposal(self.instance, decide, rows, contents, stream=self.instance, items=max(len(rows), 1))
        )

    async def apply(self, changes: MovedChanges, token: int) -> list[ItemId]:
        """These states are merged; returns the live items whose bytes, folder or free UID are not here."""

        def decide(draft: Draft) -> list[ItemId]:
            require_mover(draft, token)
            if changes.items_gone:
                draft.records.append(ItemsGone(self.instance, list(changes.items_gone)))
            missing = _merge_items(draft, changes.items, {row.id for row in changes.items_gone})
            no = draft.info.no
            for name, value, modseq in changes.settings:
                if modseq > queries.setting_modseq(draft.db, no, name):
                    draft.records.append(SettingPut(self.instance, name, value, modseq))
            brought = {(no, row.key, row.content_digest): row for row in changes.delivery_keys}
            accepted = draft.view.accepted(brought)
            new_keys = [row for key, row in brought.items() if key not in accepted]
            if new_keys:
                draft.records.append(DeliveryKeysPut(self.instance, new_keys))
            guard.raise_head(draft, changes.through)
            return missing

        number = len(changes.items) + len(changes.items_gone) + len(changes.delivery_keys) + 1
        return await self._committer.submit(Proposal(self.instance, decide, items=number))


def _newest(rows: Sequence[ItemRow], refs: Sequence[ContentRef]) -> Iterable[tuple[ItemRow, ContentRef]]:
    """Each item once, in its newest state: the kinds of records are written in an order of their own."""
    if len({row.item_id for row in rows}) == len(rows):
        return zip(rows, refs, strict=True)
    newest: dict[ItemId, tuple[ItemRow, ContentRef]] = {}
    for row, ref in zip(rows, refs, strict=True):
        known = newest.get(row.item_id)
        if known is None or row.modseq > known[0].modseq:
            newest[row.item_id] = row, ref
    return newest.values()


_Known = tuple[int, bytes]
"""Modseq and content hash of a live item."""


class _Merge:
    """What the merge rule asks of the catalogue about these rows, asked at once; and what this transaction has taken
    already."""

    def __init__(self, draft: Draft, rows: Sequence[ItemRow]) -> None:
        db, no = draft.db, draft.info.no
        self._draft = draft
        ids = [row.item_id for row in rows]
        folders = queries.folders(db, no)
        self.folders = {folder.folder_id: folder.no for folder in folders}
        self._changed_at = {folder.folder_id: folder.modseq for folder in folders}
        self._versions: dict[ItemId, _Known] = queries.item_versions(db, no, ids)
        self._dead = queries.dead(db, no, ids)
        uids: dict[FolderId, list[int]] = {}
        for row in rows:
            uids.setdefault(row.folder_id, []).append(row.uid)
        self._uids = {
            (folder_id, uid): item_id
            for folder_id, some in uids.items()
            if folder_id in self.folders
            for uid, item_id in queries.uid_holders(db, self.folders[folder_id], some).items()
        }

    def known(self, row: ItemRow) -> _Known | None:
        """The item as it is here, if it is live."""
        return self._versions.get(row.item_id)

    def is_news(self, row: ItemRow, known: _Known | None) -> bool:
        """absent < live(modseq) < dead: does this state go beyond what is here?"""
        return row.modseq > known[0] if known is not None else row.item_id not in self._dead

    def is_uid_taken(self, row: ItemRow) -> bool:
        """By an item that has it for good. One from before the folder's last change, which may have been a new
        UIDVALIDITY, is told again with the UID that it has now; until then it has one below zero."""
        at = row.folder_id, row.uid
        holder = self._uids.get(at, row.item_id)
        if holder == row.item_id:
            return False
        db, no = self._draft.db, self._draft.info.no
        (held,) = queries.find_items(db, no, [holder]) or (None,)
        modseq = self._versions[holder][0] if holder in self._versions else held.modseq if held is not None else 0
        if held is None or modseq >= self._changed_at[row.folder_id]:
            return True
        least = min(0, queries.uid_min(db, self.folders[row.folder_id]))
        parked = held._replace(uid=least - held.uid, modseq=modseq - 1)
        self._draft.records.insert(0, ItemsChanged(self._draft.instance, [state_row(parked)]))
        self._versions[holder] = parked.modseq, held.content_hash
        del self._uids[at]
        return False

    def take(self, row: ItemRow) -> ItemRow:
        """This state is in the transaction."""
        self._versions[row.item_id] = row.modseq, row.content_hash
        self._uids[row.folder_id, row.uid] = row.item_id
        return row


def _merge_items(draft: Draft, rows: Sequence[ItemRow], dying: set[bytes]) -> list[ItemId]:
    """Record what is news and can be taken; returns what cannot."""
    if not rows:
        return []
    merge = _Merge(draft, rows)
    changed: list[ItemStateRow] = []
    missing: list[ItemId] = []
    for row in rows:
        known = merge.known(row)
        if row.item_id in dying or not merge.is_news(row, known):
            continue
        fits = row.folder_id in merge.folders and not merge.is_uid_taken(row)
        if fits and known is not None and row.content_hash in (b"", known[1]):
            changed.append(state_row(merge.take(row)))
        else:
            missing.append(row.item_id)
    if changed:
        draft.records.append(ItemsChanged(draft.instance, changed))
    return missing


def state_row(row: ItemRow) -> ItemStateRow:
    """What may change about an item, of all that it is."""
    return ItemStateRow(row.item_id, row.folder_id, row.uid, row.modseq, row.flags, row.keywords, row.properties)


def _take_step(draft: Draft, tree: dict[FolderId, FolderInfo], step: MovedFolder) -> None:
    present = tree.get(step.folder.folder_id)
    if step.kind is FolderStepKind.CREATE:
        if present is None:
            _put_folder(draft, tree, step.folder)
    elif present is None:
        return
    elif step.kind is FolderStepKind.MOVE:
        _put_folder(draft, tree, step.folder)
    elif step.kind is FolderStepKind.UPDATE:
        _put_folder(draft, tree, attrs.evolve(step.folder, parent_id=present.parent_id, name=present.name))
    else:
        _remove_folder(draft, tree, step.folder)


def _put_folder(draft: Draft, tree: dict[FolderId, FolderInfo], put: FolderPut) -> None:
    check_name(put.name)
    at, depth = put.parent_id, 0
    while at:
        if at == put.folder_id or depth > FOLDER_DEPTH_MAX:
            raise Refused(why=f"folder {put.name!r} would be inside itself")
        if at not in tree:
            raise NoSuchFolder(folder=at.hex())
        at, depth = tree[FolderId(at)].parent_id, depth + 1
    for other in tree.values():
        if (other.parent_id, other.name) == (put.parent_id, put.name) and other.folder_id != put.folder_id:
            raise Refused(why=f"there is a folder {put.name!r} already")
    old = tree.get(put.folder_id)
    new = FolderInfo(
        no=old.no if old else 0,
        folder_id=put.folder_id,
        parent_id=put.parent_id,
        name=put.name,
        modseq=put.modseq,
        uidvalidity=put.uidvalidity,
        uidnext=max(put.uidnext, old.uidnext if old else 1),
        special_use=put.special_use,
        subscribed=put.subscribed,
        hidden=put.hidden,
        attributes=put.attributes,
        items=old.items if old else 0,
        bytes=old.bytes if old else 0,
        equality=old.equality if old else 0,
        instance=old.instance if old else 0,
    )
    if new == old:
        return
    tree[put.folder_id] = new
    if old is not None and attrs.evolve(new, uidnext=old.uidnext) == old:
        draft.records.append(FolderRoomRaised(draft.instance, put.folder_id, put.uidnext))
    else:
        draft.records.append(attrs.evolve(put, instance=draft.instance))


def _remove_folder(draft: Draft, tree: dict[FolderId, FolderInfo], put: FolderPut) -> None:
    old = tree.get(put.folder_id)
    if old is None:
        return
    if old.items or any(other.parent_id == put.folder_id for other in tree.values()):
        raise Refused(why=f"folder {old.name!r} still holds something")
    del tree[put.folder_id]
    draft.records.append(FolderGone(draft.instance, put.folder_id, max(draft.head, put.modseq)))
