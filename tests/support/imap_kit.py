"""A real IMAP server in the contract suite: every test has users of its own, and mail clients that are not ours."""

import imaplib
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import attrs
import pytest
import trio

from moverq.endpoints.base import GuardMode
from moverq.endpoints.imap.endpoint import open_endpoint
from moverq.endpoints.imap.listing import flag_words
from moverq.endpoints.mirrored.endpoint import MirroredEndpoint
from moverq.endpoints.mirrored.mirror import FolderRow, Located, Mirror
from moverq.errors import RequestRefused
from moverq.model.ids import FolderId, InstanceId, ItemId, MailboxId, new_id
from tests.support.files_kit import trim_feed
from tests.support.imap_servers import SERVERS, ImapServer

T = TypeVar("T")


@attrs.frozen
class ImapClient:
    """The contract's `Client`, by imaplib. Ids are the mirror's: it looks after every verb, as it would sooner or
    later by itself."""

    kit: "ImapKit"
    instance: InstanceId

    async def deliver(self, content: bytes, delivery_key: bytes | None = None) -> ItemId | None:
        if delivery_key is not None:
            pytest.skip("an IMAP server knows no delivery keys")
        inbox = next(row for row in await self._folders() if row.wire == b"INBOX")
        return await self.append(inbox.folder_id, content)

    async def append(
        self,
        folder_id: FolderId,
        content: bytes,
        *,
        flags: int = 0,
        keywords: Iterable[str] = (),
        received_ms: int | None = None,
    ) -> ItemId:
        if not content:
            pytest.skip("IMAP servers take no empty message")
        wire = (await self._folder(folder_id)).wire
        date = None if received_ms is None else imaplib.Time2Internaldate(received_ms / 1000)
        words = flag_words(flags, tuple(sorted(set(keywords)))).decode()
        uid = await self._do(lambda c: _uid_of(c.append(_name(wire), f"({words})", date, content), b"APPENDUID"))
        return await self._item_at(folder_id, uid)

    async def set_flags(self, item_id: ItemId, flags: int, keywords: Iterable[str] = ()) -> None:
        folder, uid = await self._place(item_id)
        words = flag_words(flags, tuple(sorted(set(keywords)))).decode()

        def store(client: imaplib.IMAP4) -> None:
            client.select(_name(folder.wire))
            _ok(client.uid("STORE", str(uid), "FLAGS.SILENT", f"({words})"))

        await self._do(store)

    async def move_item(self, item_id: ItemId, folder_id: FolderId) -> None:
        folder, uid = await self._place(item_id)
        target = await self._folder(folder_id)

        def move(client: imaplib.IMAP4) -> None:
            client.select(_name(folder.wire))
            _ok(client.uid("MOVE", str(uid), _name(target.wire)))

        await self._do(move)

    async def copy_item(self, item_id: ItemId, folder_id: FolderId) -> ItemId:
        folder, uid = await self._place(item_id)
        target = await self._folder(folder_id)

        def copy(client: imaplib.IMAP4) -> int:
            client.select(_name(folder.wire))
            _ok(client.uid("COPY", str(uid), _name(target.wire)))
            return int(client.response("COPYUID")[1][0].split()[-1])

        return await self._item_at(folder_id, await self._do(copy))

    async def delete_item(self, item_id: ItemId, *, purge: bool = False) -> None:
        if not purge:
            pytest.skip("an IMAP server has no recoverable items")
        folder, uid = await self._place(item_id)

        def expunge(client: imaplib.IMAP4) -> None:
            client.select(_name(folder.wire))
            _ok(client.uid("STORE", str(uid), "+FLAGS.SILENT", "(\\Deleted)"))
            _ok(client.uid("EXPUNGE", str(uid)))

        await self._do(expunge)

    async def create_folder(self, name: str, parent_id: FolderId | None = None) -> FolderId:
        wire = await self._wire(parent_id, name)
        await self._do(lambda c: (_ok(c.create(_name(wire))), _ok(c.subscribe(_name(wire)))))
        return next(row.folder_id for row in await self._folders() if row.wire == wire)

    async def rename_folder(self, folder_id: FolderId, name: str) -> None:
        await self.move_folder(folder_id, (await self._folder(folder_id)).state.parent_id, name)

    async def move_folder(self, folder_id: FolderId, parent_id: FolderId | None, name: str) -> None:
        old, new = (await self._folder(folder_id)).wire, await self._wire(parent_id, name)
        if old != new:
            await self._do(lambda c: _ok(c.rename(_name(old), _name(new))))

    async def delete_folder(self, folder_id: FolderId) -> None:
        if any(row.state.parent_id == folder_id for row in await self._folders()):
            raise RequestRefused(why="there are folders in it")
        wire = (await self._folder(folder_id)).wire
        await self._do(lambda c: (c.unsubscribe(_name(wire)), _ok(c.delete(_name(wire)))))

    async def set_setting(self, name: str, value: str | None) -> None:
        pytest.skip("an IMAP server keeps no settings of ours")

    # ---- which is which

    async def _do(self, act: Callable[[imaplib.IMAP4], T]) -> T:
        standing = await self._ask(Mirror.standing)
        if standing.guard.mode is not GuardMode.OPEN:
            pytest.skip("an IMAP server keeps no mail client out")

        def run() -> T:
            client = self.kit.clients.get(standing.user)
            if client is None:
                client = self.kit.clients[standing.user] = self.kit.server.login(standing.user)
            try:
                return act(client)
            finally:
                if client.state == "SELECTED":
                    client.unselect()

        done = await trio.to_thread.run_sync(run)
        await self.kit.endpoint.source(self.instance).head()
        return done

    async def _ask(self, question: Callable[[Mirror], T]) -> T:
        return await self.kit.endpoint.mailbox(self.instance).session.mirror.ask(question)

    async def _folders(self) -> list[FolderRow]:
        await self.kit.endpoint.source(self.instance).head()
        return await self._ask(Mirror.folders)

    async def _folder(self, folder_id: FolderId) -> FolderRow:
        return next(row for row in await self._folders() if row.folder_id == folder_id)

    async def _wire(self, parent_id: FolderId | None, name: str) -> bytes:
        parent = (await self._folder(parent_id)).wire if parent_id is not None else None
        await self._folders()
        return self.kit.endpoint.mailbox(self.instance).session.known_naming.wire(parent, name)

    async def _place(self, item_id: ItemId) -> tuple[FolderRow, int]:
        found: dict[ItemId, Located] = await self._ask(partial(Mirror.find, item_ids=[item_id]))
        return await self._folder(found[item_id].state.folder_id), found[item_id].server_uid

    async def _item_at(self, folder_id: FolderId, uid: int) -> ItemId:
        def find(mirror: Mirror) -> ItemId:
            (item_id,) = next(
                mirror.db.execute("SELECT item_id FROM items WHERE folder_id = ? AND server_uid = ?", (folder_id, uid))
            )
            return ItemId(item_id)

        return await self._ask(find)


@attrs.frozen
class ImapKit:
    endpoint: MirroredEndpoint
    server: ImapServer
    clients: dict[str, imaplib.IMAP4] = attrs.Factory(dict)

    async def open_mailbox(self) -> tuple[InstanceId, ImapClient]:
        mailbox_id, instance = MailboxId(new_id()), InstanceId(new_id())
        await self.endpoint.adopt(mailbox_id, instance, await self.endpoint.address_of(mailbox_id))
        return instance, self.client(instance)

    def client(self, instance: InstanceId) -> ImapClient:
        return ImapClient(self, instance)

    async def break_item(self, instance: InstanceId, item_id: ItemId) -> None:
        pytest.skip("how a server fails to read is shown with a scripted one")

    async def refuse_item(self, instance: InstanceId, item_id: ItemId) -> None:
        pytest.skip("how a server refuses is shown with a scripted one")

    async def trim_feed(self, instance: InstanceId) -> None:
        await trim_feed(self.endpoint, instance)


@asynccontextmanager
async def open_imap_kit(kind: str, name: str, path: Path) -> AsyncIterator[ImapKit]:
    async def address_of(mailbox_id: MailboxId) -> str:
        return f"{mailbox_id.hex()}@{name}.{kind}"

    server = SERVERS[kind]()
    async with open_endpoint(name, server.url(), mirrors=path, address_of=address_of, poll_s=0.02) as endpoint:
        kit = ImapKit(endpoint, server)
        try:
            yield kit
        finally:
            for client in kit.clients.values():
                client.shutdown()


def _name(wire: bytes) -> str:
    return '"' + wire.decode().replace("\\", "\\\\").replace('"', '\\"') + '"'


def _ok(answer: tuple[str, list[Any]]) -> None:
    if answer[0] != "OK":
        raise RequestRefused(why=repr(answer))


def _uid_of(answer: tuple[str, list[Any]], code: bytes) -> int:
    """The last UID that the answer's code names."""
    _ok(answer)
    text = b" ".join(part for part in answer[1] if isinstance(part, bytes))
    return int(text.partition(code)[2].partition(b"]")[0].split()[-1])
