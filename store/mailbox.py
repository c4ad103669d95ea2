"""What a client may do with a mailbox: each verb is one transaction, decided inside the commit.

Folders have an identity apart from their path; an item keeps its id wherever it is moved. Deleting is a move to a
hidden folder, where items stay recoverable; deleting there is purging, and leaves a tombstone. Bytes are kept as they
came, never re-serialised.

Every verb: durable on return; Cancelled: it may or may not have happened; raises `MailboxLocked`, `MailboxMoved` or
`MailboxSealed` where the guard says so, `NoSuchMailbox`, `NoSuchFolder`, and `Refused` for what makes no sense.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence

import attrs

from store.catalogue import queries
from store.commit import Committer
from store.content.segment import NewContent
from store.deciding import (
    alive,
    bury,
    check_not_inbox,
    check_number,
    check_place,
    check_quota,
    delete_folder,
    delete_items,
    folder_put,
    moved_to,
    new_folder,
    new_row,
    record_changes,
    with_flags,
)
from store.guard import require_client
from store.ids import FolderId, InstanceId, ItemId, new_ids
from store.limits import (
    ITEMS_PER_VERB_MAX,
)
from store.names import (
    Added,
    NewItem,
    check_flags,
    check_item,
    check_message,
    check_name,
    check_setting,
    check_texts,
    clean_keywords,
    flat,
)
from store.proposal import Delivery, Draft, Proposal
from store.records import (
    ItemsPut,
    SettingPut,
)


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
        check_number(len(items))
        now = self._now_ms()
        for item in items:
            check_item(item)
        keywords = [clean_keywords(item.keywords) for item in items]
        headers = [
            NewContent(ItemId(item_id), folder_id, item.received_ms, item.flags)
            for item_id, item in zip(new_ids(now, len(items)), items, strict=True)
        ]
        contents = [item.content for item in items]

        def decide(draft: Draft) -> list[Added]:
            require_client(draft.info)
            folder = queries.folder(draft.db, draft.info.no, folder_id)
            check_quota(draft, sum(map(len, contents)))
            rows = [
                new_row(draft, new.item_id, folder_id, uid, ref, item, words)
                for uid, (new, ref, item, words) in enumerate(
                    zip(headers, draft.content, items, keywords, strict=True), folder.uidnext
                )
            ]
            draft.records.append(ItemsPut(self.instance, rows))
            return [Added(row.item_id, row.uid, row.modseq) for row in rows]

        return await self._committer.submit(Proposal(self.instance, decide, headers, contents, items=len(items)))

    async def deliver(self, content: bytes, *, key: bytes, received_ms: int | None = None) -> Added:
        """The message is in INBOX exactly once for this delivery key, however often this is called.

        The same key with other content (xxh3_128) is delivered: a key that was given twice by accident loses nothing.
        A stranger must not be able to choose the key: one over all the bytes by SHA-256 is safe, a Message-ID is not.
        Raises `QuotaExceeded`.
        """
        if received_ms is None:
            received_ms = self._now_ms()
        check_message(content, received_ms)
        return await self._committer.deliver(Delivery(self.instance, content, key, received_ms))

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
        check_number(len(item_ids))
        check_flags(add)
        plus, minus = clean_keywords(add_keywords), set(remove_keywords)

        def decide(draft: Draft) -> int:
            require_client(draft.info)
            changed = []
            for row in queries.find_items(draft.db, draft.info.no, item_ids):
                flags = (row.flags | add) & ~remove
                keywords = clean_keywords((set(row.keywords) | set(plus)) - minus)
                if (flags, keywords) != (row.flags, row.keywords):
                    changed.append(with_flags(row, draft, flags=flags, keywords=keywords))
            record_changes(draft, changed)
            return len(changed)

        return await self._committer.submit(Proposal(self.instance, decide, items=len(item_ids)))

    async def set_flags(self, item_ids: Sequence[ItemId], flags: int, keywords: Iterable[str] = ()) -> int:
        """Exactly these flags and keywords; returns how many items differ now."""
        check_number(len(item_ids))
        check_flags(flags)
        words = clean_keywords(keywords)

        def decide(draft: Draft) -> int:
            require_client(draft.info)
            changed = [
                with_flags(row, draft, flags=flags, keywords=words)
                for row in queries.find_items(draft.db, draft.info.no, item_ids)
                if (row.flags, row.keywords) != (flags, words)
            ]
            record_changes(draft, changed)
            return len(changed)

        return await self._committer.submit(Proposal(self.instance, decide, items=len(item_ids)))

    async def move(self, item_ids: Sequence[ItemId], to: FolderId) -> list[Added]:
        """These items are in folder `to`, with new UIDs and their old ids. Items gone by now are left out."""
        check_number(len(item_ids))

        def decide(draft: Draft) -> list[Added]:
            require_client(draft.info)
            folder = queries.folder(draft.db, draft.info.no, to)
            rows = [row for row in queries.find_items(draft.db, draft.info.no, item_ids) if row.folder_id != to]
            changed = moved_to(draft, rows, to, folder.uidnext, lambda row: alive(row.properties))
            record_changes(draft, changed)
            return [Added(row.item_id, row.uid, row.modseq) for row in changed]

        return await self._committer.submit(Proposal(self.instance, decide, items=len(item_ids)))

    async def copy(self, item_ids: Sequence[ItemId], to: FolderId) -> list[Added]:
        """Copies of these items, with ids of their own, are in folder `to`; the bytes are shared."""
        check_number(len(item_ids))

        def decide(draft: Draft) -> list[Added]:
            require_client(draft.info)
            folder = queries.folder(draft.db, draft.info.no, to)
            rows = queries.find_items(draft.db, draft.info.no, item_ids)
            check_quota(draft, sum(row.size for row in rows))
            copies = [
                row._replace(
                    item_id=ItemId(item_id),
                    folder_id=to,
                    uid=folder.uidnext + number,
                    modseq=draft.next_modseq(),
                    properties=alive(row.properties),
                )
                for number, (item_id, row) in enumerate(zip(new_ids(draft.now_ms, len(rows)), rows, strict=True))
            ]
            if copies:
                draft.records.append(ItemsPut(self.instance, copies))
            return [Added(row.item_id, row.uid, row.modseq) for row in copies]

        return await self._committer.submit(Proposal(self.instance, decide, items=len(item_ids)))

    async def delete(self, item_ids: Sequence[ItemId]) -> int:
        """These items are recoverable; those that were so already are purged. Returns how many."""
        check_number(len(item_ids))

        def decide(draft: Draft) -> int:
            require_client(draft.info)
            rows = queries.find_items(draft.db, draft.info.no, item_ids)
            hidden = {f.folder_id for f in queries.folders(draft.db, draft.info.no) if f.hidden}
            delete_items(draft, [row for row in rows if row.folder_id not in hidden])
            bury(draft, [row.item_id for row in rows if row.folder_id in hidden])
            return len(rows)

        return await self._committer.submit(Proposal(self.instance, decide, items=len(item_ids)))

    async def purge(self, item_ids: Sequence[ItemId]) -> int:
        """These items are gone for good; returns how many were there."""
        check_number(len(item_ids))

        def decide(draft: Draft) -> int:
            require_client(draft.info)
            rows = queries.find_items(draft.db, draft.info.no, item_ids)
            bury(draft, [row.item_id for row in rows])
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
        check_texts(special_use, *(attributes or {}).keys(), *(attributes or {}).values())

        def decide(draft: Draft) -> FolderId:
            require_client(draft.info)
            put = new_folder(
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
            check_not_inbox(folder)
            place = parent_id or b""
            if (folder.parent_id, folder.name) == (place, name):
                return
            check_place(draft, place, name, moving=folder_id)
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
        check_texts(special_use or "", *(attributes or {}).keys(), *(attributes or {}).values())

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
        proposal = Proposal(self.instance, lambda draft: delete_folder(draft, folder_id), items=ITEMS_PER_VERB_MAX)
        while await self._committer.submit(proposal):
            pass

    # ---- settings

    async def set_setting(self, name: str, value: object | None) -> None:
        """The setting has this value (JSON); None: it is not set. Raises `Refused` where name or type is wrong."""
        text = None if value is None else check_setting(name, value)

        def decide(draft: Draft) -> None:
            require_client(draft.info)
            if queries.setting(draft.db, draft.info.no, name) != text:
                draft.records.append(SettingPut(self.instance, name, text, draft.next_modseq()))

        await self._committer.submit(Proposal(self.instance, decide))
