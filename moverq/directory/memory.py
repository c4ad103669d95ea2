"""The directory in dicts, for tests and simulation: it passes the same contract suite as the real ones.

Two things only a fake can do. `before` is called, and awaited, at both sides of every durable effect with the verb's
name (`"relocate:before"`, `"relocate:after"`): a test crashes, delays or lets somebody else run there. And
`lose_answer("relocate")` makes the next one take effect and raise `EndpointUnavailable`, as a network does.

What always holds: an effect is one synchronous step, so nothing runs in the middle of one.
"""

from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

import attrs
import trio

from moverq.directory.directory import (
    DatabaseEntry,
    MoveAttributes,
    Recipient,
    Register,
    Server,
    check_removable,
    checked_address,
    sought_address,
    still_used,
)
from moverq.endpoints.base import Home
from moverq.errors import EndpointUnavailable, NotFound, RegisterChanged, RequestRefused
from moverq.model.ids import MailboxId, RequestId

T = TypeVar("T")


class MemoryDirectory:
    """`Directory` over dicts. "Durable" is: in this object."""

    def __init__(
        self,
        *,
        organisation: str = "First Organization",
        before: Callable[[str], Awaitable[None]] | None = None,
    ) -> None:
        self.before = before
        self._organisation = organisation
        self._servers: dict[str, Server] = {}
        self._databases: dict[str, DatabaseEntry] = {}
        self._recipients: dict[MailboxId, Recipient] = {}
        self._addresses: dict[str, MailboxId] = {}
        self._lost: Counter[str] = Counter()

    def __repr__(self) -> str:
        return f"<MemoryDirectory {len(self._recipients)} recipients>"

    def lose_answer(self, verb: str, times: int = 1) -> None:
        """The next `times` calls of `verb` have their effect, and their callers never hear of it."""
        self._lost[verb] += times

    async def organisation(self) -> str:
        await trio.lowlevel.checkpoint()
        return self._organisation

    async def add_server(self, server: Server) -> None:
        def add() -> None:
            if server.name in self._servers:
                raise RequestRefused(why=f"there is a server {server.name} already")
            self._servers[server.name] = server

        await self._effect("add_server", add)

    async def add_database(self, database: DatabaseEntry) -> None:
        def add() -> None:
            if database.name in self._databases:
                raise RequestRefused(why=f"there is a database {database.name} already")
            self._server(database.server)
            self._databases[database.name] = database

        await self._effect("add_database", add)

    async def set_database_path(self, name: str, path: str) -> None:
        def change() -> None:
            self._databases[name] = attrs.evolve(self._database(name), path=path)

        await self._effect("set_database_path", change)

    async def remove_server(self, name: str) -> None:
        def remove() -> None:
            self._server(name)
            there = sorted(one.name for one in self._databases.values() if one.server == name)
            if there:
                raise still_used("server", name, f"the database {there[0]}", len(there))
            del self._servers[name]

        await self._effect("remove_server", remove)

    async def remove_database(self, name: str) -> None:
        def remove() -> None:
            self._database(name)
            there = sorted(one.address for one in self._recipients.values() if one.register.home.database == name)
            if there:
                raise still_used("database", name, f"the mailbox of {there[0]}", len(there))
            del self._databases[name]

        await self._effect("remove_database", remove)

    async def add_recipient(
        self, mailbox_id: MailboxId, address: str, home: Home, *, quota_bytes: int | None = None, token: int = 0
    ) -> Recipient:
        primary = checked_address(address)

        def add() -> Recipient:
            if mailbox_id in self._recipients:
                raise RequestRefused(why=f"mailbox {mailbox_id.hex()} has a recipient already")
            self._check_address_is_free(primary)
            self._database(home.database)
            self._addresses[primary] = mailbox_id
            self._recipients[mailbox_id] = recipient = Recipient(
                mailbox_id=mailbox_id,
                address=primary,
                aliases=(),
                register=Register(home, 1),
                token=token,
                active_move=None,
                quota_bytes=quota_bytes,
                move=MoveAttributes(),
            )
            return recipient

        return await self._effect("add_recipient", add)

    async def remove_recipient(self, mailbox_id: MailboxId, *, expected: Register) -> None:
        def remove() -> None:
            present = self._recipient(mailbox_id)
            check_removable(present, expected)
            for address in (present.address, *present.aliases):
                del self._addresses[address]
            del self._recipients[mailbox_id]

        await self._effect("remove_recipient", remove)

    async def add_alias(self, mailbox_id: MailboxId, alias: str) -> None:
        address = checked_address(alias)

        def add() -> None:
            present = self._recipient(mailbox_id)
            if address not in (present.address, *present.aliases):
                self._check_address_is_free(address)
                self._addresses[address] = mailbox_id
                self._set(attrs.evolve(present, aliases=tuple(sorted((*present.aliases, address)))))

        await self._effect("add_alias", add)

    async def server(self, name: str) -> Server:
        await trio.lowlevel.checkpoint()
        return self._server(name)

    async def database(self, name: str) -> DatabaseEntry:
        await trio.lowlevel.checkpoint()
        return self._database(name)

    async def servers(self) -> Sequence[Server]:
        await trio.lowlevel.checkpoint()
        return [self._servers[name] for name in sorted(self._servers)]

    async def databases(self) -> Sequence[DatabaseEntry]:
        await trio.lowlevel.checkpoint()
        return [self._databases[name] for name in sorted(self._databases)]

    async def recipients(self, *, after: str = "", limit: int = 1000) -> Sequence[Recipient]:
        await trio.lowlevel.checkpoint()
        beyond = [entry for entry in self._recipients.values() if entry.address > after.strip().lower()]
        return sorted(beyond, key=lambda entry: entry.address)[:limit]

    async def recipient(self, mailbox_id: MailboxId) -> Recipient:
        await trio.lowlevel.checkpoint()
        return self._recipient(mailbox_id)

    async def locate(self, address: str) -> Recipient:
        await trio.lowlevel.checkpoint()
        normal = sought_address(address)
        if normal not in self._addresses:
            raise NotFound(kind="recipient", name=normal)
        return self._recipients[self._addresses[normal]]

    async def relocate(self, mailbox_id: MailboxId, *, expected: Register, home: Home) -> Register:
        def compare_and_set() -> Register:
            self._database(home.database)
            present = self._recipient(mailbox_id)
            if present.register != expected:
                raise RegisterChanged(expected=str(expected), present=str(present.register))
            self._set(attrs.evolve(present, register=Register(home, expected.epoch + 1)))
            return Register(home, expected.epoch + 1)

        return await self._effect("relocate", compare_and_set)

    async def take_token(self, mailbox_id: MailboxId) -> int:
        def take() -> int:
            present = self._recipient(mailbox_id)
            self._set(attrs.evolve(present, token=present.token + 1))
            return present.token + 1

        return await self._effect("take_token", take)

    async def claim_move(self, mailbox_id: MailboxId, request_id: RequestId) -> None:
        def claim() -> None:
            present = self._recipient(mailbox_id)
            if present.active_move not in (None, request_id):
                raise RequestRefused(why=f"{present.address} is being moved by request {present.active_move}")
            self._set(attrs.evolve(present, active_move=request_id))

        await self._effect("claim_move", claim)

    async def release_move(self, mailbox_id: MailboxId, request_id: RequestId) -> None:
        def release() -> None:
            present = self._recipient(mailbox_id)
            if present.active_move == request_id:
                self._set(attrs.evolve(present, active_move=None))

        await self._effect("release_move", release)

    async def set_move(self, mailbox_id: MailboxId, move: MoveAttributes) -> None:
        await self._effect("set_move", lambda: self._set(attrs.evolve(self._recipient(mailbox_id), move=move)))

    async def aclose(self) -> None:
        """Nothing to close: the object is the disk, and may be used again."""
        await trio.lowlevel.checkpoint()

    async def _effect(self, verb: str, change: Callable[[], T]) -> T:
        await self._point(f"{verb}:before")
        result = change()
        await self._point(f"{verb}:after")
        if self._lost[verb]:
            self._lost[verb] -= 1
            raise EndpointUnavailable(endpoint="directory", why="the connection broke before the answer came")
        return result

    async def _point(self, name: str) -> None:
        if self.before is not None:
            await self.before(name)
        elif name.endswith(":before"):  # a verb yields once at least, and never can be cancelled after its effect
            await trio.lowlevel.checkpoint()

    def _set(self, recipient: Recipient) -> None:
        self._recipients[recipient.mailbox_id] = recipient

    def _server(self, name: str) -> Server:
        if name not in self._servers:
            raise NotFound(kind="server", name=name)
        return self._servers[name]

    def _database(self, name: str) -> DatabaseEntry:
        if name not in self._databases:
            raise NotFound(kind="database", name=name)
        return self._databases[name]

    def _recipient(self, mailbox_id: MailboxId) -> Recipient:
        if mailbox_id not in self._recipients:
            raise NotFound(kind="mailbox", name=mailbox_id.hex())
        return self._recipients[mailbox_id]

    def _check_address_is_free(self, address: str) -> None:
        if address in self._addresses:
            owner = self._recipients[self._addresses[address]].address
            raise RequestRefused(why=f"the address {address} belongs to {owner}")
