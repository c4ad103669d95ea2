"""The store in the contract suite: a database in a folder of its own, and a client that speaks the suite's verbs."""

import json
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from pathlib import Path

import attrs
import pytest

import store
from moverq.endpoints.store import StoreEndpoint, translated
from moverq.model.ids import FolderId, InstanceId, ItemId, MailboxId, new_id
from store.content.segment import HEADER_BYTES


@attrs.frozen
class StoreClient:
    """The contract's `Client` over `store.Mailbox`."""

    endpoint: StoreEndpoint
    instance: InstanceId

    @property
    def _mailbox(self) -> store.Mailbox:
        return self.endpoint.database.mailbox(store.InstanceId(self.instance))

    async def deliver(self, content: bytes, delivery_key: bytes | None = None) -> ItemId | None:
        with translated("kit"):
            added = await self._mailbox.deliver(content, key=delivery_key or new_id())
        return None if added.item_id is None else ItemId(added.item_id)

    async def append(
        self,
        folder_id: FolderId,
        content: bytes,
        *,
        flags: int = 0,
        keywords: Iterable[str] = (),
        received_ms: int | None = None,
    ) -> ItemId:
        item = store.NewItem(
            content=content, received_ms=received_ms or 1_700_000_000_000, flags=flags, keywords=keywords
        )
        with translated("kit"):
            (added,) = await self._mailbox.append(store.FolderId(folder_id), [item])
        assert added.item_id is not None
        return ItemId(added.item_id)

    async def set_flags(self, item_id: ItemId, flags: int, keywords: Iterable[str] = ()) -> None:
        with translated("kit"):
            await self._mailbox.set_flags([store.ItemId(item_id)], flags, keywords)

    async def move_item(self, item_id: ItemId, folder_id: FolderId) -> None:
        with translated("kit"):
            await self._mailbox.move([store.ItemId(item_id)], store.FolderId(folder_id))

    async def copy_item(self, item_id: ItemId, folder_id: FolderId) -> ItemId:
        with translated("kit"):
            (added,) = await self._mailbox.copy([store.ItemId(item_id)], store.FolderId(folder_id))
        assert added.item_id is not None
        return ItemId(added.item_id)

    async def delete_item(self, item_id: ItemId, *, purge: bool = False) -> None:
        verb = self._mailbox.purge if purge else self._mailbox.delete
        with translated("kit"):
            await verb([store.ItemId(item_id)])

    async def create_folder(self, name: str, parent_id: FolderId | None = None) -> FolderId:
        parent = None if parent_id is None else store.FolderId(parent_id)
        with translated("kit"):
            return FolderId(await self._mailbox.create_folder(parent, name))

    async def rename_folder(self, folder_id: FolderId, name: str) -> None:
        with translated("kit"):
            _, folders, _ = await self.endpoint.database.account(store.InstanceId(self.instance))
        (folder,) = [folder for folder in folders if folder.folder_id == folder_id]
        await self.move_folder(folder_id, FolderId(folder.parent_id) if folder.parent_id else None, name)

    async def move_folder(self, folder_id: FolderId, parent_id: FolderId | None, name: str) -> None:
        parent = None if parent_id is None else store.FolderId(parent_id)
        with translated("kit"):
            await self._mailbox.move_folder(store.FolderId(folder_id), parent, name)

    async def delete_folder(self, folder_id: FolderId) -> None:
        with translated("kit"):
            _, folders, _ = await self.endpoint.database.account(store.InstanceId(self.instance))
            if any(folder.parent_id == folder_id for folder in folders):
                raise store.Refused(why="there are folders in it")
            rows = await self.endpoint.database.folder_items(
                store.InstanceId(self.instance), store.FolderId(folder_id), limit=10_000
            )
            await self._mailbox.purge([row.item_id for row in rows])
            await self._mailbox.delete_folder(store.FolderId(folder_id))

    async def set_setting(self, name: str, value: str | None) -> None:
        with translated("kit"):
            await self._mailbox.set_setting(name, None if value is None else json.loads(value))


@attrs.frozen
class StoreKit:
    endpoint: StoreEndpoint

    async def open_mailbox(self) -> tuple[InstanceId, StoreClient]:
        instance = InstanceId(new_id())
        await self.endpoint.database.create_mailbox(store.MailboxId(MailboxId(new_id())), store.InstanceId(instance))
        return instance, self.client(instance)

    def client(self, instance: InstanceId) -> StoreClient:
        return StoreClient(self.endpoint, instance)

    async def break_item(self, instance: InstanceId, item_id: ItemId) -> None:
        """Flip a bit of the item's bytes on the disk."""
        database = self.endpoint.database
        (row,) = await database.find(store.InstanceId(instance), [store.ItemId(item_id)])
        with (database.path / "content" / f"{row.segment:08d}.seg").open("r+b") as segment:
            segment.seek(row.offset + HEADER_BYTES)
            byte = segment.read(1)
            segment.seek(-1, 1)
            segment.write(bytes([byte[0] ^ 1]))

    async def refuse_item(self, instance: InstanceId, item_id: ItemId) -> None:
        pytest.skip("our store refuses only bytes that do not match their hash, and UIDs that are taken")

    async def trim_feed(self, instance: InstanceId) -> None:
        from store.proposal import Draft, Proposal
        from store.records import FeedCut

        def decide(draft: Draft) -> None:
            draft.records.append(FeedCut(draft.instance, draft.info.head, 0))

        await self.endpoint.database._committer.submit(Proposal(store.InstanceId(instance), decide))


@asynccontextmanager
async def open_store_kit(name: str, path: Path) -> AsyncIterator[StoreKit]:
    store.create_database(path)
    async with store.open_database(path) as database:
        yield StoreKit(StoreEndpoint(name, database))
