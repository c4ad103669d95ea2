"""The folders of a mailbox on an IMAP server: CREATE, RENAME, DELETE, SUBSCRIBE; repeated, each does no harm."""

from collections.abc import Mapping
from contextlib import suppress
from typing import TYPE_CHECKING

import attrs

from moverq.endpoints.imap.connection import Connection, MailboxName, Refused, error_of, words
from moverq.endpoints.imap.metadata import write_annotations
from moverq.endpoints.imap.wire import Response, number, pairs, quoted
from moverq.endpoints.mirrored.mirror import FolderRow
from moverq.endpoints.mirrored.session import Places
from moverq.errors import MoveError
from moverq.model.change import FolderState


@attrs.frozen
class ImapPlaces:
    """`Places`, by one connection."""

    connection: Connection
    remarks: list[str] = attrs.field(factory=list)

    async def make(self, wire: bytes, folder: FolderState) -> MoveError | None:
        if wire == b"INBOX":
            return None
        use = b""
        if folder.special_use and self.connection.has(b"CREATE-SPECIAL-USE"):
            use = b" (USE (" + folder.special_use.encode() + b"))"
        for extra in (use, b"") if use else (b"",):
            try:
                await self.connection.run(b"CREATE ", MailboxName(wire), extra)
                return None
            except Refused as refused:
                if refused.answer.code == b"ALREADYEXISTS" or await self._exists(wire):
                    return None
                last = refused
        return self._error(last, doing=f"make folder {folder.name!r}")

    async def rename(self, folder: FolderRow, wire: bytes) -> MoveError | None:
        rename = (b"RENAME ", MailboxName(folder.wire), b" ", MailboxName(wire))
        try:
            try:
                await self.connection.run(*rename)
            except Refused:
                if not await self._drop_special_use(folder):
                    raise
                await self.connection.run(*rename)
        except Refused as refused:
            # Done before a crash, and not noted?
            if not await self._exists(folder.wire) and await self._exists(wire):
                return None
            return self._error(refused, doing=f"rename folder {folder.state.name!r}")
        return None

    async def look(self, folder: FolderRow) -> tuple[int, int]:
        try:
            found = await self._status(folder.wire, b"UIDVALIDITY UIDNEXT")
        except Refused as refused:
            raise self._error(refused, doing=f"look at folder {folder.state.name!r}") from refused
        return found.get(b"UIDVALIDITY", 0), found.get(b"UIDNEXT", 1)

    async def subscribe(self, wire: bytes, wanted: bool) -> None:
        try:
            await self.connection.run(b"SUBSCRIBE " if wanted else b"UNSUBSCRIBE ", MailboxName(wire))
        except Refused:
            return  # some servers refuse to unsubscribe what is not subscribed; nothing depends on it

    async def annotate(self, wire: bytes, wanted: Mapping[str, str], present: Mapping[str, str]) -> None:
        refused = await write_annotations(self.connection, wire, wanted, present)
        self.remarks.extend(["the server does not keep an annotation of a folder"] * refused)

    async def delete(self, folder: FolderRow) -> bool:
        try:
            found = await self._status(folder.wire, b"MESSAGES")
        except Refused:
            return True
        if found.get(b"MESSAGES"):
            return False
        with suppress(Refused):
            await self.connection.run(b"UNSUBSCRIBE ", MailboxName(folder.wire))
        try:
            await self.connection.run(b"DELETE ", MailboxName(folder.wire))
        except Refused as refused:
            if await self._exists(folder.wire):
                doing = f"delete folder {folder.state.name!r} ({quoted(folder.wire)!r})"
                raise self._error(refused, doing=doing) from refused
        return True

    async def _drop_special_use(self, folder: FolderRow) -> bool:
        """The folder has none any more. Cyrus lets one that has some only stand at the top."""
        if not folder.server_special or not self.connection.has(b"METADATA"):
            return False
        try:
            await self.connection.run(b"SETMETADATA ", MailboxName(folder.wire), b" (/private/specialuse NIL)")
        except Refused:
            return False
        self.remarks.append("the server keeps no special use of a folder at its place")
        return True

    async def _exists(self, wire: bytes) -> bool:
        try:
            await self._status(wire, b"UIDNEXT")
        except Refused:
            return False
        return True

    async def _status(self, wire: bytes, asked: bytes) -> dict[bytes, int]:
        """Raises `Refused`."""
        found: dict[bytes, int] = {}

        def take(response: Response) -> None:
            said = words(response)
            if bytes(said[0]).upper() == b"STATUS":
                found.update((name, number(value)) for name, value in pairs(said[2]).items())

        await self.connection.run(b"STATUS ", MailboxName(wire), b" (" + asked + b")", take=take)
        return found

    def _error(self, refused: Refused, *, doing: str) -> MoveError:
        error = error_of(self.connection.endpoint, refused, doing=doing)
        error.__cause__ = refused
        return error


if TYPE_CHECKING:
    _is_places: type[Places] = ImapPlaces
