"""mbox files in the contract suite: every mailbox a folder of its own, and a client that writes under the locks."""

import os
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import TypeVar

import attrs
import pytest

from moverq.endpoints.base import GuardMode
from moverq.endpoints.mbox.endpoint import open_endpoint
from moverq.endpoints.mirrored.endpoint import MirroredEndpoint
from moverq.endpoints.mirrored.mirror import FolderRow, Located, Mirror
from moverq.errors import RequestRefused
from moverq.model.ids import FolderId, InstanceId, ItemId, MailboxId, new_id
from tests.support.mbox_client import MboxClient

T = TypeVar("T")


@attrs.frozen
class KitClient:
    """The contract's `Client`, by files. Ids are the mirror's: it looks after every verb, as it would by itself."""

    kit: "MboxKit"
    instance: InstanceId

    async def deliver(self, content: bytes, delivery_key: bytes | None = None) -> ItemId | None:
        if delivery_key is not None:
            pytest.skip("an mbox knows no delivery keys")
        inbox = next(row for row in await self._folders() if row.wire == b"INBOX")
        client = await self._client()
        return await self._item_at(inbox.folder_id, client.deliver(content))

    async def append(
        self,
        folder_id: FolderId,
        content: bytes,
        *,
        flags: int = 0,
        keywords: Iterable[str] = (),
        received_ms: int | None = None,
    ) -> ItemId:
        client = await self._client()
        base = client.append(
            await self._wire(folder_id), content, flags=flags, keywords=keywords, received_ms=received_ms
        )
        return await self._item_at(folder_id, base)

    async def set_flags(self, item_id: ItemId, flags: int, keywords: Iterable[str] = ()) -> None:
        client = await self._client()
        client.set_flags(*await self._place(item_id), flags, keywords)
        await self._look()

    async def move_item(self, item_id: ItemId, folder_id: FolderId) -> None:
        client = await self._client()
        client.move(*await self._place(item_id), await self._wire(folder_id))
        await self._look()

    async def copy_item(self, item_id: ItemId, folder_id: FolderId) -> ItemId:
        client = await self._client()
        base = client.copy(*await self._place(item_id), await self._wire(folder_id))
        return await self._item_at(folder_id, base)

    async def delete_item(self, item_id: ItemId, *, purge: bool = False) -> None:
        if not purge:
            pytest.skip("an mbox has no recoverable items")
        client = await self._client()
        client.delete(*await self._place(item_id))
        await self._look()

    async def create_folder(self, name: str, parent_id: FolderId | None = None) -> FolderId:
        client = await self._client()
        wire = await self._new_wire(parent_id, name)
        if client.path(wire).exists():
            raise RequestRefused(why="there is one")
        client.make(wire)
        client.subscribe(wire)
        return next(row.folder_id for row in await self._folders() if row.wire == wire.encode())

    async def rename_folder(self, folder_id: FolderId, name: str) -> None:
        await self.move_folder(folder_id, (await self._folder(folder_id)).state.parent_id, name)

    async def move_folder(self, folder_id: FolderId, parent_id: FolderId | None, name: str) -> None:
        client = await self._client()
        old, new = await self._wire(folder_id), await self._new_wire(parent_id, name)
        if old != new:
            if client.path(new).exists() or new.startswith(f"{old}/"):
                raise RequestRefused(why="there is one, or it is inside itself")
            client.rename_folder(old, new)
            await self._look()

    async def delete_folder(self, folder_id: FolderId) -> None:
        client = await self._client()
        if any(row.state.parent_id == folder_id for row in await self._folders()):
            raise RequestRefused(why="there are folders in it")
        client.delete_folder(await self._wire(folder_id))
        await self._look()

    async def set_setting(self, name: str, value: str | None) -> None:
        pytest.skip("an mbox keeps no settings of ours")

    # ---- which is which

    async def _client(self) -> MboxClient:
        standing = await self._ask(Mirror.standing)
        if standing.guard.mode is not GuardMode.OPEN:
            pytest.skip("an mbox keeps no mail client out")
        return MboxClient(self.kit.path / standing.user)

    async def _look(self) -> None:
        await self.kit.endpoint.source(self.instance).head()

    async def _ask(self, question: Callable[[Mirror], T]) -> T:
        return await self.kit.endpoint.mailbox(self.instance).session.mirror.ask(question)

    async def _folders(self) -> list[FolderRow]:
        await self._look()
        return await self._ask(Mirror.folders)

    async def _folder(self, folder_id: FolderId) -> FolderRow:
        return next(row for row in await self._folders() if row.folder_id == folder_id)

    async def _wire(self, folder_id: FolderId) -> str:
        return (await self._folder(folder_id)).wire.decode()

    async def _new_wire(self, parent_id: FolderId | None, name: str) -> str:
        parent = (await self._folder(parent_id)).wire if parent_id is not None else None
        return self.kit.endpoint.mailbox(self.instance).session.known_naming.wire(parent, name).decode()

    async def _place(self, item_id: ItemId) -> tuple[str, str]:
        """(folder, base name)."""
        found: dict[ItemId, Located] = await self._ask(partial(Mirror.find, item_ids=[item_id]))
        number = found[item_id].server_uid

        def base(mirror: Mirror) -> str:
            return os.fsdecode(next(mirror.db.execute("SELECT base FROM files WHERE number = ?", (number,)))[0])

        return await self._wire(found[item_id].state.folder_id), await self._ask(base)

    async def _item_at(self, folder_id: FolderId, base: str) -> ItemId:
        await self._look()

        def find(mirror: Mirror) -> ItemId:
            (item_id,) = next(
                mirror.db.execute(
                    "SELECT i.item_id FROM items i JOIN files f ON f.number = i.server_uid WHERE f.folder_id = ? "
                    "AND f.base = ?",
                    (folder_id, base.encode()),
                )
            )
            return ItemId(item_id)

        return await self._ask(find)


@attrs.frozen
class MboxKit:
    endpoint: MirroredEndpoint
    path: Path

    async def open_mailbox(self) -> tuple[InstanceId, KitClient]:
        mailbox_id, instance = MailboxId(new_id()), InstanceId(new_id())
        address = await self.endpoint.address_of(mailbox_id)
        MboxClient(self.path / address).make("INBOX")
        await self.endpoint.adopt(mailbox_id, instance, address)
        return instance, self.client(instance)

    def client(self, instance: InstanceId) -> KitClient:
        return KitClient(self, instance)

    async def break_item(self, instance: InstanceId, item_id: ItemId) -> None:
        pytest.skip("an mbox has no message that is there and cannot be read")

    async def refuse_item(self, instance: InstanceId, item_id: ItemId) -> None:
        pytest.skip("an mbox takes any bytes")

    async def trim_feed(self, instance: InstanceId) -> None:
        def trim(mirror: Mirror) -> None:
            mirror.db.execute("UPDATE mailbox SET horizon = head")
            mirror.db.execute("DELETE FROM items_gone")

        await self.endpoint.mailbox(instance).session.mirror.ask(trim)


@asynccontextmanager
async def open_mbox_kit(name: str, path: Path) -> AsyncIterator[MboxKit]:
    async def address_of(mailbox_id: MailboxId) -> str:
        return f"{mailbox_id.hex()}@{name}"

    mail = path / "mail"
    mail.mkdir(parents=True)
    async with open_endpoint(
        name, f"mbox:{mail}/%u", mirrors=path / "mirrors", address_of=address_of, poll_s=0.02
    ) as endpoint:
        yield MboxKit(endpoint, mail)
