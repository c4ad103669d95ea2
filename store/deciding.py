"""What the verbs of a client come to, inside the commit: plain functions from a draft to its records.

They read the catalogue as it is, refuse by raising, and append records to the draft; nothing here waits or writes.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence

from store.catalogue import queries
from store.catalogue.queries import FolderInfo
from store.errors import NoSuchFolder, QuotaExceeded, Refused
from store.guard import require_client
from store.ids import ContentRef, FolderId, InstanceId, ItemId, new_id
from store.limits import (
    FOLDER_DEPTH_MAX,
    FOLDERS_MAX,
    ITEMS_PER_VERB_MAX,
)
from store.names import DELETED_FROM, DELETED_MS, INBOX, RECOVERABLE_ITEMS, NewItem, flat, uidvalidity
from store.proposal import Draft
from store.records import (
    FolderGone,
    FolderPut,
    GoneRow,
    ItemRow,
    ItemsChanged,
    ItemsGone,
    ItemStateRow,
)


def first_inbox(draft: Draft) -> FolderPut:
    """The INBOX of a mailbox that is being made."""
    folder_id = FolderId(new_id(draft.now_ms))
    return FolderPut(draft.instance, folder_id, b"", INBOX, 1, uidvalidity(draft.now_ms, 1), 1, "", True, False, ())


def folder_put(instance: InstanceId, folder: FolderInfo) -> FolderPut:
    """The record that makes a folder look like this."""
    return FolderPut(
        instance,
        folder.folder_id,
        folder.parent_id,
        folder.name,
        folder.modseq,
        folder.uidvalidity,
        folder.uidnext,
        folder.special_use,
        folder.subscribed,
        folder.hidden,
        folder.attributes,
    )


def check_number(number: int) -> None:
    if number > ITEMS_PER_VERB_MAX:
        raise Refused(why=f"{number:,} items are more than the {ITEMS_PER_VERB_MAX:,} that one call takes: split them")


def check_quota(draft: Draft, size: int) -> None:
    account = draft.view.account(draft.instance)
    if account.quota is not None:
        used = queries.used_bytes(draft.db, account.info.no)
        if used + size > account.quota:
            raise QuotaExceeded(quota_bytes=account.quota, used_bytes=used, size=size)


def new_row(
    draft: Draft,
    item_id: ItemId,
    folder_id: FolderId,
    uid: int,
    ref: ContentRef,
    item: NewItem,
    keywords: tuple[str, ...],
) -> ItemRow:
    """The row of an item whose bytes are at `ref`."""
    return ItemRow(
        item_id,
        folder_id,
        uid,
        draft.next_modseq(),
        item.received_ms,
        ref.size,
        ref.content_hash,
        ref.segment,
        ref.offset,
        item.flags,
        keywords,
        item.item_class,
        flat(item.properties) if item.properties else (),
    )


def with_flags(row: ItemRow, draft: Draft, *, flags: int, keywords: tuple[str, ...]) -> ItemStateRow:
    return ItemStateRow(row.item_id, row.folder_id, row.uid, draft.next_modseq(), flags, keywords, row.properties)


def moved_to(
    draft: Draft,
    rows: Sequence[ItemRow],
    to: FolderId,
    uidnext: int,
    properties: Callable[[ItemRow], tuple[tuple[str, str], ...]],
) -> list[ItemStateRow]:
    return [
        ItemStateRow(
            row.item_id,
            to,
            uidnext + number,
            draft.next_modseq(),
            row.flags,
            row.keywords,
            properties(row),
        )
        for number, row in enumerate(rows)
    ]


def alive(properties: tuple[tuple[str, str], ...]) -> tuple[tuple[str, str], ...]:
    return tuple((name, value) for name, value in properties if name not in (DELETED_MS, DELETED_FROM))


def record_changes(draft: Draft, changed: Sequence[ItemStateRow]) -> None:
    if changed:
        draft.records.append(ItemsChanged(draft.instance, changed))


def delete_items(draft: Draft, rows: Sequence[ItemRow]) -> None:
    """Into the folder of recoverable items, remembering when and from where."""
    if not rows:
        return
    tree = queries.folders(draft.db, draft.info.no)
    # By its being hidden, not by its name: a user may have a folder of that name, and it is not this one.
    found = next((folder for folder in tree if folder.hidden), None)
    if found is not None:
        folder_id, uidnext = found.folder_id, found.uidnext
    else:
        taken = {folder.name for folder in tree if not folder.parent_id}
        names = (RECOVERABLE_ITEMS, *(f"{RECOVERABLE_ITEMS} {number}" for number in range(2, len(tree) + 3)))
        name = next(name for name in names if name not in taken)
        made = new_folder(draft, b"", name, subscribed=False, hidden=True)
        folder_id, uidnext = made.folder_id, made.uidnext
    when = str(draft.now_ms)

    def remembered(row: ItemRow) -> tuple[tuple[str, str], ...]:
        return flat({**dict(row.properties), DELETED_MS: when, DELETED_FROM: row.folder_id.hex()})

    record_changes(draft, moved_to(draft, rows, folder_id, uidnext, remembered))


def bury(draft: Draft, item_ids: Sequence[ItemId]) -> None:
    if item_ids:
        draft.records.append(ItemsGone(draft.instance, [GoneRow(item_id, draft.next_modseq()) for item_id in item_ids]))


def new_folder(
    draft: Draft,
    parent_id: bytes,
    name: str,
    *,
    special_use: str = "",
    subscribed: bool = True,
    hidden: bool = False,
    attributes: Mapping[str, str] | None = None,
) -> FolderPut:
    check_place(draft, parent_id, name, moving=None)
    modseq = draft.next_modseq()
    put = FolderPut(
        draft.instance,
        FolderId(new_id(draft.now_ms)),
        parent_id,
        name,
        modseq,
        uidvalidity(draft.info.created_ms, modseq),
        1,
        special_use,
        subscribed,
        hidden,
        flat(attributes or {}),
    )
    draft.records.append(put)
    return put


def check_place(draft: Draft, parent_id: bytes, name: str, *, moving: FolderId | None) -> None:
    """The name is free in this parent, the parent is there and not inside the folder that moves; within bounds."""
    folders = {folder.folder_id: folder for folder in queries.folders(draft.db, draft.info.no)}
    if len(folders) >= FOLDERS_MAX and moving is None:
        raise Refused(why=f"a mailbox has at most {FOLDERS_MAX:,} folders")
    depth, at = 0, parent_id
    while at:
        if at == moving:
            raise Refused(why=f"folder {name!r} cannot be moved into itself")
        if at not in folders:
            raise NoSuchFolder(folder=at.hex())
        depth, at = depth + 1, folders[FolderId(at)].parent_id
    if depth + (_height(folders.values(), moving) if moving else 0) > FOLDER_DEPTH_MAX:
        raise Refused(why=f"folders are at most {FOLDER_DEPTH_MAX} deep")
    # INBOX is one name however it is written (RFC 9051 §5.1), and no other folder becomes it.
    is_inbox = name.upper() == INBOX and not parent_id
    if (is_inbox and (name != INBOX or moving is not None)) or any(
        (f.parent_id, f.name) == (parent_id, name) for f in folders.values() if f.folder_id != moving
    ):
        raise Refused(why=f"there is a folder {name!r} already")


def _height(folders: Iterable[FolderInfo], top: bytes) -> int:
    """How many levels there are below this folder."""
    children: dict[bytes, list[bytes]] = {}
    for folder in folders:
        children.setdefault(folder.parent_id, []).append(folder.folder_id)
    height, level = -1, [top]
    while level:
        height, level = height + 1, [child for parent in level for child in children.get(parent, ())]
    return height


def check_not_inbox(folder: FolderInfo) -> None:
    if folder.hidden or (not folder.parent_id and folder.name == INBOX):
        raise Refused(why=f"folder {folder.name} stays where it is")


def delete_folder(draft: Draft, folder_id: FolderId) -> bool:
    """True: more items had to go first, call again."""
    require_client(draft.info)
    folder = queries.folder(draft.db, draft.info.no, folder_id)
    check_not_inbox(folder)
    if any(other.parent_id == folder_id for other in queries.folders(draft.db, draft.info.no)):
        raise Refused(why=f"folder {folder.name!r} holds other folders: delete or move them first")
    delete_items(draft, queries.folder_items(draft.db, folder.no, after_uid=0, limit=ITEMS_PER_VERB_MAX))
    if folder.items > ITEMS_PER_VERB_MAX:
        return True
    draft.records.append(FolderGone(draft.instance, folder_id, draft.next_modseq()))
    return False
