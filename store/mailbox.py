"""What a client may do with a mailbox: each verb is one transaction, decided inside the commit.

Folders have an identity apart from their path; an item keeps its id wherever it is moved. Deleting is a move to a
hidden folder, where items stay recoverable; deleting there is purging, and leaves a tombstone. Bytes are kept as they
came, never re-serialised.

Every verb: durable on return; Cancelled: it may or may not have happened; raises `MailboxLocked`, `MailboxMoved` or
`MailboxSealed` where the guard says so, `NoSuchMailbox`, `NoSuchFolder`, and `Refused` for what makes no sense.
"""

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence

import attrs

from store.catalogue import queries
from store.catalogue.queries import FolderInfo
from store.commit import Committer, Draft, Proposal
from store.content.segment import NewContent
from store.errors import NoSuchFolder, QuotaExceeded, Refused
from store.guard import require_client
from store.ids import FolderId, InstanceId, ItemId, new_id
from store.limits import (
    CONTENT_BYTES_MAX,
    FOLDER_DEPTH_MAX,
    FOLDER_NAME_BYTES_MAX,
    FOLDERS_MAX,
    ITEMS_PER_VERB_MAX,
    KEYWORD_BYTES_MAX,
    KEYWORDS_MAX,
    SETTING_BYTES_MAX,
)
from store.records import (
    DeliveryKeyRow,
    DeliveryKeysPut,
    FolderGone,
    FolderPut,
    GoneRow,
    ItemRow,
    ItemsChanged,
    ItemsGone,
    ItemsPut,
    ItemStateRow,
    SettingPut,
)

INBOX = "INBOX"
RECOVERABLE_ITEMS = "Recoverable Items"
DELETED_MS = "moverq.deleted_ms"
"""The property that says when a recoverable item was deleted."""
DELETED_FROM = "moverq.deleted_from"
"""The property that says which folder it was in."""
QUOTA_BYTES = "quota_bytes"
SETTINGS: Mapping[str, Callable[[object], bool]] = {
    QUOTA_BYTES: lambda value: isinstance(value, int) and not isinstance(value, bool) and value >= 0,
    "rules": lambda value: isinstance(value, list) and all(isinstance(rule, dict) for rule in value),
    "acl": lambda value: isinstance(value, dict) and all(isinstance(rights, str) for rights in value.values()),
    "out_of_office": lambda value: isinstance(value, dict),
    "retention_days": lambda value: isinstance(value, int) and not isinstance(value, bool) and value >= 0,
}
"""The typed settings. A name that starts with "x-" may hold any JSON."""


@attrs.frozen(kw_only=True)
class NewItem:
    """An item to be added, whole."""

    content: bytes
    received_ms: int
    flags: int = 0
    keywords: Iterable[str] = ()
    item_class: str = "IPM.Note"
    properties: Mapping[str, str] = attrs.Factory(dict)


@attrs.frozen
class Added:
    """Where an item went. `duplicate`: the delivery key was accepted before, and nothing was added."""

    item_id: ItemId | None
    uid: int
    modseq: int
    duplicate: bool = False


def flat(properties: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    """Properties in the one order that digests see."""
    return tuple(sorted(properties.items()))


def clean_keywords(keywords: Iterable[str]) -> tuple[str, ...]:
    """Sorted, each once. Raises `Refused` for what is no keyword."""
    clean = tuple(sorted(set(keywords)))
    if len(clean) > KEYWORDS_MAX or any(not word or len(_utf8(word)) > KEYWORD_BYTES_MAX for word in clean):
        raise Refused(why=f"keywords are at most {KEYWORDS_MAX}, each of 1 to {KEYWORD_BYTES_MAX} bytes")
    return clean


def check_name(name: str) -> None:
    """A folder's name is one level: any Unicode but NUL, and not empty."""
    if not name or "\0" in name or len(_utf8(name)) > FOLDER_NAME_BYTES_MAX:
        raise Refused(why=f"a folder name has 1 to {FOLDER_NAME_BYTES_MAX} bytes and no NUL: {name[:60]!r}")


def _utf8(text: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError:
        raise Refused(why=f"{text[:60]!r} is not valid Unicode") from None


def _check_texts(*texts: str) -> None:
    for text in texts:
        _utf8(text)


def check_flags(flags: int) -> int:
    """Flags are 32 bits. Raises `Refused`."""
    if not 0 <= flags < 1 << 32:
        raise Refused(why=f"flags are a number from 0 to 2^32 - 1, not {flags}")
    return flags


def _check_item(item: NewItem) -> None:
    """All that the records and the content's frame have room for."""
    check_flags(item.flags)
    if not -(1 << 63) <= item.received_ms < 1 << 63:
        raise Refused(why=f"{item.received_ms} is not a date")
    if len(item.content) > CONTENT_BYTES_MAX:
        raise Refused(why=f"an item of {len(item.content):,} bytes is larger than {CONTENT_BYTES_MAX:,}")
    _check_texts(item.item_class, *item.properties.keys(), *item.properties.values())


@attrs.define(eq=False)
class Mailbox:
    """One mailbox instance, for clients and deliveries. Cheap to make; holds nothing."""

    instance: InstanceId
    _committer: Committer
    _now_ms: Callable[[], int]

    def __repr__(self) -> str:
        return f"<Mailbox {self.instance.hex()}>"

    # ---- items

    async def append(self, folder_id: FolderId, items: Sequence[NewItem]) -> list[Added]:
        """These items are in the folder, in this order. Raises `QuotaExceeded`."""
        _check_number(len(items))
        now = self._now_ms()
        for item in items:
            _check_item(item)
        keywords = [clean_keywords(item.keywords) for item in items]
        content = [
            NewContent(ItemId(new_id(now)), folder_id, item.received_ms, item.flags, item.content) for item in items
        ]

        def decide(draft: Draft) -> list[Added]:
            require_client(draft.info)
            folder = queries.folder(draft.db, draft.info.no, folder_id)
            _check_quota(draft, sum(len(item.content) for item in items))
            rows = [
                _new_row(draft, place, folder, number, item, words)
                for number, (place, item, words) in enumerate(zip(content, items, keywords, strict=True))
            ]
            draft.records.append(ItemsPut(self.instance, rows))
            return [Added(row.item_id, row.uid, row.modseq) for row in rows]

        return await self._committer.submit(Proposal(self.instance, decide, content, items=len(items)))

    async def deliver(self, content: bytes, *, key: bytes, received_ms: int | None = None) -> Added:
        """The message is in INBOX exactly once for this delivery key, however often this is called.

        The same key with other content is delivered: only what is proved the same is suppressed. Raises
        `QuotaExceeded`.
        """
        now = self._now_ms()
        item = NewItem(content=content, received_ms=now if received_ms is None else received_ms)
        _check_item(item)
        digest = hashlib.sha256(content).digest()
        new = NewContent(ItemId(new_id(now)), FolderId(b"\0" * 16), item.received_ms, 0, content)

        def decide(draft: Draft) -> Added:
            require_client(draft.info)
            if queries.has_delivery(draft.db, draft.info.no, key, digest):
                return Added(None, 0, 0, duplicate=True)
            inbox = queries.child(draft.db, draft.info.no, b"", INBOX)
            if inbox is None:
                raise NoSuchFolder(folder=INBOX)
            _check_quota(draft, len(content))
            row = _new_row(draft, new, inbox, 0, item, ())
            draft.records.append(ItemsPut(self.instance, [row]))
            accepted = DeliveryKeyRow(key, digest, draft.now_ms, draft.next_modseq())
            draft.records.append(DeliveryKeysPut(self.instance, [accepted]))
            return Added(row.item_id, row.uid, row.modseq)

        return await self._committer.submit(Proposal(self.instance, decide, [new]))

    async def change_flags(
        self,
        item_ids: Sequence[ItemId],
        *,
        add: int = 0,
        remove: int = 0,
        add_keywords: Iterable[str] = (),
        remove_keywords: Iterable[str] = (),
    ) -> int:
        """Flags and keywords added and removed; returns how many items differ now. Items that are gone are left out."""
        _check_number(len(item_ids))
        check_flags(add)
        plus, minus = clean_keywords(add_keywords), set(remove_keywords)

        def decide(draft: Draft) -> int:
            require_client(draft.info)
            changed = []
            for row in queries.find_items(draft.db, draft.info.no, item_ids):
                flags = (row.flags | add) & ~remove
                keywords = clean_keywords((set(row.keywords) | set(plus)) - minus)
                if (flags, keywords) != (row.flags, row.keywords):
                    changed.append(_state(row, draft, flags=flags, keywords=keywords))
            _record_changes(draft, changed)
            return len(changed)

        return await self._committer.submit(Proposal(self.instance, decide, items=len(item_ids)))

    async def set_flags(self, item_ids: Sequence[ItemId], flags: int, keywords: Iterable[str] = ()) -> int:
        """Exactly these flags and keywords; returns how many items differ now."""
        _check_number(len(item_ids))
        check_flags(flags)
        words = clean_keywords(keywords)

        def decide(draft: Draft) -> int:
            require_client(draft.info)
            changed = [
                _state(row, draft, flags=flags, keywords=words)
                for row in queries.find_items(draft.db, draft.info.no, item_ids)
                if (row.flags, row.keywords) != (flags, words)
            ]
            _record_changes(draft, changed)
            return len(changed)

        return await self._committer.submit(Proposal(self.instance, decide, items=len(item_ids)))

    async def move(self, item_ids: Sequence[ItemId], to: FolderId) -> list[Added]:
        """These items are in folder `to`, with new UIDs and their old ids. Items gone by now are left out."""
        _check_number(len(item_ids))

        def decide(draft: Draft) -> list[Added]:
            require_client(draft.info)
            folder = queries.folder(draft.db, draft.info.no, to)
            rows = [row for row in queries.find_items(draft.db, draft.info.no, item_ids) if row.folder_id != to]
            changed = _moved(draft, rows, to, folder.uidnext, lambda row: _alive(row.properties))
            _record_changes(draft, changed)
            return [Added(row.item_id, row.uid, row.modseq) for row in changed]

        return await self._committer.submit(Proposal(self.instance, decide, items=len(item_ids)))

    async def copy(self, item_ids: Sequence[ItemId], to: FolderId) -> list[Added]:
        """Copies of these items, with ids of their own, are in folder `to`; the bytes are shared."""
        _check_number(len(item_ids))

        def decide(draft: Draft) -> list[Added]:
            require_client(draft.info)
            folder = queries.folder(draft.db, draft.info.no, to)
            rows = queries.find_items(draft.db, draft.info.no, item_ids)
            _check_quota(draft, sum(row.size for row in rows))
            copies = [
                row._replace(
                    item_id=ItemId(new_id(draft.now_ms)),
                    folder_id=to,
                    uid=folder.uidnext + number,
                    modseq=draft.next_modseq(),
                    properties=_alive(row.properties),
                )
                for number, row in enumerate(rows)
            ]
            if copies:
                draft.records.append(ItemsPut(self.instance, copies))
            return [Added(row.item_id, row.uid, row.modseq) for row in copies]

        return await self._committer.submit(Proposal(self.instance, decide, items=len(item_ids)))

    async def delete(self, item_ids: Sequence[ItemId]) -> int:
        """These items are recoverable; those that were so already are purged. Returns how many."""
        _check_number(len(item_ids))

        def decide(draft: Draft) -> int:
            require_client(draft.info)
            rows = queries.find_items(draft.db, draft.info.no, item_ids)
            hidden = {f.folder_id for f in queries.folders(draft.db, draft.info.no) if f.hidden}
            _delete(draft, [row for row in rows if row.folder_id not in hidden])
            _bury(draft, [row.item_id for row in rows if row.folder_id in hidden])
            return len(rows)

        return await self._committer.submit(Proposal(self.instance, decide, items=len(item_ids)))

    async def purge(self, item_ids: Sequence[ItemId]) -> int:
        """These items are gone for good; returns how many were there."""
        _check_number(len(item_ids))

        def decide(draft: Draft) -> int:
            require_client(draft.info)
            rows = queries.find_items(draft.db, draft.info.no, item_ids)
            _bury(draft, [row.item_id for row in rows])
            return len(rows)

        return await self._committer.submit(Proposal(self.instance, decide, items=len(item_ids)))

    # ---- folders

    async def create_folder(
        self,
        parent_id: FolderId | None,
        name: str,
        *,
        special_use: str = "",
        subscribed: bool = True,
        attributes: Mapping[str, str] | None = None,
    ) -> FolderId:
        """The folder exists. Raises `Refused` where the name is taken."""
        check_name(name)
        _check_texts(special_use, *(attributes or {}).keys(), *(attributes or {}).values())

        def decide(draft: Draft) -> FolderId:
            require_client(draft.info)
            put = _new_folder(
                draft, parent_id or b"", name, special_use=special_use, subscribed=subscribed, attributes=attributes
            )
            return put.folder_id

        return await self._committer.submit(Proposal(self.instance, decide))

    async def move_folder(self, folder_id: FolderId, parent_id: FolderId | None, name: str) -> None:
        """The folder, with all below it, is in this place under this name; items keep their UIDs."""
        check_name(name)

        def decide(draft: Draft) -> None:
            require_client(draft.info)
            folder = queries.folder(draft.db, draft.info.no, folder_id)
            _check_not_inbox(folder)
            place = parent_id or b""
            if (folder.parent_id, folder.name) == (place, name):
                return
            _check_place(draft, place, name, moving=folder_id)
            draft.records.append(
                folder_put(draft.instance, attrs.evolve(folder, parent_id=place, name=name, modseq=draft.next_modseq()))
            )

        await self._committer.submit(Proposal(self.instance, decide))

    async def update_folder(
        self,
        folder_id: FolderId,
        *,
        special_use: str | None = None,
        subscribed: bool | None = None,
        attributes: Mapping[str, str] | None = None,
    ) -> None:
        """The folder has these properties; what is None stays."""
        _check_texts(special_use or "", *(attributes or {}).keys(), *(attributes or {}).values())

        def decide(draft: Draft) -> None:
            require_client(draft.info)
            folder = queries.folder(draft.db, draft.info.no, folder_id)
            new = attrs.evolve(
                folder,
                special_use=folder.special_use if special_use is None else special_use,
                subscribed=folder.subscribed if subscribed is None else subscribed,
                attributes=folder.attributes if attributes is None else flat(attributes),
            )
            if new != folder:
                draft.records.append(folder_put(draft.instance, attrs.evolve(new, modseq=draft.next_modseq())))

        await self._committer.submit(Proposal(self.instance, decide))

    async def delete_folder(self, folder_id: FolderId) -> None:
        """The folder is gone; what was in it is recoverable. Raises `Refused` where folders are inside it.

        At most `ITEMS_PER_VERB_MAX` items are deleted in the same transaction as the folder; more go before it, in
        transactions of their own.
        """
        proposal = Proposal(self.instance, lambda draft: _delete_folder(draft, folder_id), items=ITEMS_PER_VERB_MAX)
        while await self._committer.submit(proposal):
            pass

    # ---- settings

    async def set_setting(self, name: str, value: object | None) -> None:
        """The setting has this value (JSON); None: it is not set. Raises `Refused` where name or type is wrong."""
        text = None if value is None else check_setting(name, value)

        def decide(draft: Draft) -> None:
            require_client(draft.info)
            if queries.settings(draft.db, draft.info.no).get(name) != text:
                draft.records.append(SettingPut(self.instance, name, text, draft.next_modseq()))

        await self._committer.submit(Proposal(self.instance, decide))


def check_setting(name: str, value: object) -> str:
    """The setting's JSON text. Raises `Refused`."""
    _check_texts(name)
    check = SETTINGS.get(name, (lambda _: True) if name.startswith("x-") else None)
    if check is None:
        known = ", ".join(SETTINGS)
        raise Refused(why=f"there is no setting {name!r}: there are {known}, and your own starting with x-")
    if not check(value):
        raise Refused(why=f"{value!r} is not a value for setting {name}")
    text = json.dumps(value, ensure_ascii=False, sort_keys=True)
    if len(_utf8(text)) > SETTING_BYTES_MAX:
        raise Refused(why=f"setting {name} is larger than {SETTING_BYTES_MAX:,} bytes")
    return text


def first_inbox(draft: Draft) -> FolderPut:
    """The INBOX of a mailbox that is being made."""
    folder_id = FolderId(new_id(draft.now_ms))
    return FolderPut(draft.instance, folder_id, b"", INBOX, 1, uidvalidity(draft.now_ms, 1), 1, "", True, False, ())


def uidvalidity(created_ms: int, modseq: int) -> int:
    """Of a folder made at `modseq` in a mailbox made at `created_ms`.

    Rising, and unique among all folders the mailbox ever had: a name used again gets a new one (RFC 9051 §2.3.1).
    """
    return (created_ms // 1000 + modseq) % (1 << 32) or 1


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


# ---- deciding: plain functions over a draft


def _check_number(number: int) -> None:
    if number > ITEMS_PER_VERB_MAX:
        raise Refused(why=f"{number:,} items are more than the {ITEMS_PER_VERB_MAX:,} that one call takes: split them")


def _check_quota(draft: Draft, size: int) -> None:
    text = queries.setting(draft.db, draft.info.no, QUOTA_BYTES)
    if text is not None:
        quota, used = int(text), queries.used_bytes(draft.db, draft.info.no)
        if used + size > quota:
            raise QuotaExceeded(quota_bytes=quota, used_bytes=used, size=size)


def _new_row(
    draft: Draft, new: NewContent, folder: FolderInfo, number: int, item: NewItem, keywords: tuple[str, ...]
) -> ItemRow:
    """The row of the draft's `number`-th content, next in `folder`."""
    ref = draft.content[number]
    return ItemRow(
        new.item_id,
        folder.folder_id,
        folder.uidnext + number,
        draft.next_modseq(),
        item.received_ms,
        ref.size,
        ref.content_hash,
        ref.segment,
        ref.offset,
        item.flags,
        keywords,
        item.item_class,
        flat(item.properties),
    )


def _state(row: ItemRow, draft: Draft, *, flags: int, keywords: tuple[str, ...]) -> ItemStateRow:
    return ItemStateRow(row.item_id, row.folder_id, row.uid, draft.next_modseq(), flags, keywords, row.properties)


def _moved(
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


def _alive(properties: tuple[tuple[str, str], ...]) -> tuple[tuple[str, str], ...]:
    return tuple((name, value) for name, value in properties if name not in (DELETED_MS, DELETED_FROM))


def _record_changes(draft: Draft, changed: Sequence[ItemStateRow]) -> None:
    if changed:
        draft.records.append(ItemsChanged(draft.instance, changed))


def _delete(draft: Draft, rows: Sequence[ItemRow]) -> None:
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
        made = _new_folder(draft, b"", name, subscribed=False, hidden=True)
        folder_id, uidnext = made.folder_id, made.uidnext
    when = str(draft.now_ms)

    def remembered(row: ItemRow) -> tuple[tuple[str, str], ...]:
        return flat({**dict(row.properties), DELETED_MS: when, DELETED_FROM: row.folder_id.hex()})

    _record_changes(draft, _moved(draft, rows, folder_id, uidnext, remembered))


def _bury(draft: Draft, item_ids: Sequence[ItemId]) -> None:
    if item_ids:
        draft.records.append(ItemsGone(draft.instance, [GoneRow(item_id, draft.next_modseq()) for item_id in item_ids]))


def _new_folder(
    draft: Draft,
    parent_id: bytes,
    name: str,
    *,
    special_use: str = "",
    subscribed: bool = True,
    hidden: bool = False,
    attributes: Mapping[str, str] | None = None,
) -> FolderPut:
    _check_place(draft, parent_id, name, moving=None)
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


def _check_place(draft: Draft, parent_id: bytes, name: str, *, moving: FolderId | None) -> None:
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


def _check_not_inbox(folder: FolderInfo) -> None:
    if folder.hidden or (not folder.parent_id and folder.name == INBOX):
        raise Refused(why=f"folder {folder.name} stays where it is")


def _delete_folder(draft: Draft, folder_id: FolderId) -> bool:
    """True: more items had to go first, call again."""
    require_client(draft.info)
    folder = queries.folder(draft.db, draft.info.no, folder_id)
    _check_not_inbox(folder)
    if any(other.parent_id == folder_id for other in queries.folders(draft.db, draft.info.no)):
        raise Refused(why=f"folder {folder.name!r} holds other folders: delete or move them first")
    _delete(draft, queries.folder_items(draft.db, folder.no, after_uid=0, limit=ITEMS_PER_VERB_MAX))
    if folder.items > ITEMS_PER_VERB_MAX:
        return True
    draft.records.append(FolderGone(draft.instance, folder_id, draft.next_modseq()))
    return False
