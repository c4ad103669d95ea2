"""What the contract suite needs of a kind of mailbox: a `Kit` per kind, listed in `KITS`.

A new kind of endpoint joins the suite with one entry: a function that opens a kit for a database of the given name,
in a folder of its own, and closes it at the end. Everything a test does to the mailbox beside the contract goes
through the kit, so the tests know no implementation.
"""

from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Protocol

import attrs

from moverq.endpoints.base import Endpoint, Source
from moverq.endpoints.memory import MemoryEndpoint
from moverq.model.change import INBOX
from moverq.model.ids import FolderId, InstanceId, ItemId, MailboxId, new_id
from tests.support.files_kit import open_maildir_kit, open_mbox_kit
from tests.support.imap_kit import open_imap_kit
from tests.support.store_kit import open_store_kit


class Client(Protocol):
    """A mail client on one instance. While the guard is not open each verb raises and changes nothing."""

    async def deliver(self, content: bytes, delivery_key: bytes | None = None) -> ItemId | None:
        """Into INBOX; None where a delivery of this key and content had been accepted before."""
        ...

    async def append(
        self,
        folder_id: FolderId,
        content: bytes,
        *,
        flags: int = 0,
        keywords: Iterable[str] = (),
        received_ms: int | None = None,
    ) -> ItemId: ...

    async def set_flags(self, item_id: ItemId, flags: int, keywords: Iterable[str] = ()) -> None: ...

    async def move_item(self, item_id: ItemId, folder_id: FolderId) -> None:
        """The same item, by id, with a new UID in another folder."""
        ...

    async def copy_item(self, item_id: ItemId, folder_id: FolderId) -> ItemId: ...

    async def delete_item(self, item_id: ItemId, *, purge: bool = False) -> None:
        """Into the hidden folder of recoverable items; with `purge`, gone for good."""
        ...

    async def create_folder(self, name: str, parent_id: FolderId | None = None) -> FolderId: ...

    async def rename_folder(self, folder_id: FolderId, name: str) -> None: ...

    async def move_folder(self, folder_id: FolderId, parent_id: FolderId | None, name: str) -> None: ...

    async def delete_folder(self, folder_id: FolderId) -> None:
        """With its items, for good; one that has folders in it is refused by `RequestRefused`."""
        ...

    async def set_setting(self, name: str, value: str | None) -> None: ...


class Kit(Protocol):
    """One database of one kind, and what tests do to it. A kind that cannot do a thing calls `pytest.skip`."""

    @property
    def endpoint(self) -> Endpoint: ...

    async def open_mailbox(self) -> tuple[InstanceId, Client]:
        """An open mailbox with an INBOX and nothing else."""
        ...

    def client(self, instance: InstanceId) -> Client:
        """A client on any instance here, whatever its guard."""
        ...

    async def break_item(self, instance: InstanceId, item_id: ItemId) -> None:
        """From now on the item's bytes cannot be read."""
        ...

    async def refuse_item(self, instance: InstanceId, item_id: ItemId) -> None:
        """From now on `write_items` refuses this item."""
        ...

    async def trim_feed(self, instance: InstanceId) -> None:
        """The feed forgets its tombstones: the horizon is the head."""
        ...


@attrs.frozen
class MemoryKit:
    endpoint: MemoryEndpoint

    async def open_mailbox(self) -> tuple[InstanceId, Client]:
        mailbox = self.endpoint.add_mailbox(MailboxId(new_id()))
        return mailbox.instance, mailbox

    def client(self, instance: InstanceId) -> Client:
        return self.endpoint.mailbox(instance)

    async def break_item(self, instance: InstanceId, item_id: ItemId) -> None:
        self.endpoint.break_item(instance, item_id)

    async def refuse_item(self, instance: InstanceId, item_id: ItemId) -> None:
        self.endpoint.refuse_item(instance, item_id)

    async def trim_feed(self, instance: InstanceId) -> None:
        mailbox = self.endpoint.database.instance(instance)
        mailbox.trim(mailbox.head)


@asynccontextmanager
async def open_memory_kit(name: str, path: Path) -> AsyncIterator[Kit]:
    yield MemoryKit(MemoryEndpoint(name))


def message(text: bytes) -> bytes:
    """One of its own for each text. Some servers take no bytes that are no message."""
    return b"Subject: " + text + b"\r\n\r\n"


KITS: dict[str, Callable[[str, Path], AbstractAsyncContextManager[Kit]]] = {
    "memory": open_memory_kit,
    "store": open_store_kit,
    "maildir": open_maildir_kit,
    "mbox": open_mbox_kit,
    "imap-mdbox": partial(open_imap_kit, "mdbox"),
    "imap-maildir": partial(open_imap_kit, "maildir"),
    "imap-cyrus": partial(open_imap_kit, "cyrus"),
}


@attrs.frozen
class Mailbox:
    """An open mailbox, from its client's and from the mover's side."""

    kit: Kit
    instance: InstanceId
    client: Client
    source: Source
    inbox: FolderId


async def open_mailbox(kit: Kit) -> Mailbox:
    instance, client = await kit.open_mailbox()
    source = kit.endpoint.source(instance)
    (inbox,) = [folder.folder_id for folder in await source.read_hierarchy() if folder.name == INBOX]
    return Mailbox(kit, instance, client, source, inbox)
