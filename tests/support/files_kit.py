"""Mail in files in the contract suite, whatever its format: every mailbox a folder of its own, and a client that is not
ours."""

import os
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any, Protocol, TypeVar

import attrs
import pytest

from moverq.endpoints.base import GuardMode
from moverq.endpoints.maildir import endpoint as maildir
from moverq.endpoints.mbox import endpoint as mbox
from moverq.endpoints.mirrored.endpoint import MirroredEndpoint
from moverq.endpoints.mirrored.mirror import FolderRow, Located, Mirror
from moverq.errors import RequestRefused
from moverq.model.ids import FolderId, InstanceId, ItemId, MailboxId, new_id
from tests.support.maildir_client import MaildirClient
from tests.support.mbox_client import MboxClient

T = TypeVar("T")
OpenEndpoint = Callable[..., AbstractAsyncContextManager[MirroredEndpoint]]


class MailClient(Protocol):
    """A mail program that works on the files."""

    def path(self, folder: str) -> Path: ...

    def make(self, folder: str) -> Path: ...

    def subscribe(self, folder: str) -> None: ...

    def deliver(self, content: bytes) -> str: ...

    def append(
        self, folder: str, content: bytes, *, flags: int, keywords: Iterable[str], received_ms: int | None
    ) -> str: ...

    def set_flags(self, folder: str, base: str, flags: int, keywords: Iterable[str]) -> None: ...

    def move(self, folder: str, base: str, target: str) -> object: ...

    def copy(self, folder: str, base: str, target: str) -> str: ...

    def delete(self, folder: str, base: str) -> None: ...

    def rename_folder(self, old: str, new: str) -> None: ...

    def delete_folder(self, folder: str) -> None: ...

    def break_item(self, folder: str, base: str) -> None:
        """The message is there, and cannot be read. Skips the test where that cannot be."""
        ...


@attrs.frozen
class KitClient:
    """The contract's `Client`, by files. Ids are the mirror's: it looks after every verb, as it would by itself."""

    kit: "FilesKit"
    instance: InstanceId

    async def deliver(self, content: bytes, delivery_key: bytes | None = None) -> ItemId | None:
        if delivery_key is not None:
            pytest.skip(f"{self.kit.what} knows no delivery keys")
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
            pytest.skip(f"{self.kit.what} has no recoverable items")
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
            inside = f"{old}{self.kit.separator}"
            if client.path(new).exists() or new.startswith(inside):
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
        pytest.skip(f"{self.kit.what} keeps no settings of ours")

    # ---- which is which

    async def _client(self) -> MailClient:
        standing = await self._ask(Mirror.standing)
        if standing.guard.mode is not GuardMode.OPEN:
            pytest.skip(f"{self.kit.what} keeps no mail client out")
        return self.kit.client_at(self.kit.path / standing.user)

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
class FilesKit:
    endpoint: MirroredEndpoint
    path: Path
    what: str
    """As a sentence begins with it."""
    separator: str
    client_at: Callable[[Path], MailClient]

    async def open_mailbox(self) -> tuple[InstanceId, KitClient]:
        mailbox_id, instance = MailboxId(new_id()), InstanceId(new_id())
        address = await self.endpoint.address_of(mailbox_id)
        self.client_at(self.path / address).make("INBOX")
        await self.endpoint.adopt(mailbox_id, instance, address)
        return instance, self.client(instance)

    def client(self, instance: InstanceId) -> KitClient:
        return KitClient(self, instance)

    async def break_item(self, instance: InstanceId, item_id: ItemId) -> None:
        client = self.client(instance)
        folder, base = await client._place(item_id)
        user = (await client._ask(Mirror.standing)).user
        self.client_at(self.path / user).break_item(folder, base)

    async def refuse_item(self, instance: InstanceId, item_id: ItemId) -> None:
        pytest.skip(f"{self.what} takes any bytes")

    async def trim_feed(self, instance: InstanceId) -> None:
        await trim_feed(self.endpoint, instance)


async def trim_feed(endpoint: MirroredEndpoint, instance: InstanceId) -> None:
    """The mirror has forgotten what was deleted."""

    def trim(mirror: Mirror) -> None:
        mirror.db.execute("UPDATE mailbox SET horizon = head")
        mirror.db.execute("DELETE FROM items_gone")

    await endpoint.mailbox(instance).session.mirror.ask(trim)


@asynccontextmanager
async def _open(name: str, path: Path, open_endpoint: OpenEndpoint, scheme: str, **kit: Any) -> AsyncIterator[FilesKit]:
    async def address_of(mailbox_id: MailboxId) -> str:
        return f"{mailbox_id.hex()}@{name}"

    mail = path / "mail"
    mail.mkdir(parents=True)
    async with open_endpoint(
        name, f"{scheme}:{mail}/%u", mirrors=path / "mirrors", address_of=address_of, poll_s=0.02
    ) as endpoint:
        yield FilesKit(endpoint, mail, **kit)


open_maildir_kit = partial(
    _open,
    open_endpoint=maildir.open_endpoint,
    scheme="maildir",
    what="a Maildir",
    separator=".",
    client_at=MaildirClient,
)
open_mbox_kit = partial(
    _open, open_endpoint=mbox.open_endpoint, scheme="mbox", what="an mbox", separator="/", client_at=MboxClient
)
