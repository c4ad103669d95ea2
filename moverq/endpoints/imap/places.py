"""The folders of a mailbox on an IMAP server: CREATE, RENAME, DELETE, SUBSCRIBE; repeated, each does no harm."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

import attrs

from moverq.endpoints.imap.connection import PASSING, Command, Connection, MailboxName, Refused, error_of, shown, words
from moverq.endpoints.imap.listing import check_gone
from moverq.endpoints.imap.metadata import write_annotations
from moverq.endpoints.imap.wire import Response, number, pairs, quoted
from moverq.endpoints.mirrored.mirror import FolderRow
from moverq.endpoints.mirrored.session import Places
from moverq.errors import MoveError, RequestRefused
from moverq.model.change import FolderState


@attrs.frozen
class ImapPlaces:
    """`Places`, by one connection."""

    connection: Connection
    remarks: list[str] = attrs.field(factory=list)

    async def make(self, wanted: Sequence[tuple[bytes, FolderState]]) -> list[tuple[int, int] | MoveError]:
        """Three times out and back, however many folders: what one command says of a folder the next must not meet on
        its way (RFC 3501, section 5.5). Is each there under its name, or is another folder meant by it, as by `work`
        where there is a `Work` and the server has no small letters? Or did the server make it and call it otherwise?
        The next look would not find it, so it is made once more under a name that stays."""
        uses = [self._use(folder) for _, folder in wanted]
        refusals = await self.connection.refusals(
            [
                await self.connection.start(b"CREATE ", MailboxName(wire), use) if wire != b"INBOX" else None
                for (wire, _), use in zip(wanted, uses, strict=True)
            ]
        )
        for at, ((wire, _), use) in enumerate(zip(wanted, uses, strict=True)):
            refused = refusals[at]
            # Then an ordinary one, unless it is not for the special use that it was refused.
            if use and refused is not None and refused.answer.code not in PASSING:
                refusals[at : at + 1] = await self.connection.refusals(
                    [await self.connection.start(b"CREATE ", MailboxName(wire))]
                )
        listed = [await self._ask_list(wire) for wire, _ in wanted]
        asked = [await self._ask_status(wire, b"UIDVALIDITY UIDNEXT") for wire, _ in wanted]
        await self.connection.refusals([command for command, _ in listed])
        unknown = await self.connection.refusals([command for command, _ in asked])
        unlisted = await self._unlisted({wire: names for (wire, _), (_, names) in zip(wanted, listed, strict=True)})
        made: list[tuple[int, int] | MoveError] = []
        for (wire, folder), refused, lacks, (_, found) in zip(wanted, refusals, unknown, asked, strict=True):
            if lacks is None and wire in unlisted:
                made.append(RequestRefused(why=f"{shown(wire)} has another name at {self.connection.endpoint}"))
            elif lacks is None:  # one that was refused was there already
                made.append((found.get(b"UIDVALIDITY", 0), found.get(b"UIDNEXT", 1)))
            else:
                made.append(self._error(refused or lacks, doing=f"make folder {folder.name!r}"))
        # Some servers refuse to unsubscribe what is not subscribed; nothing depends on it.
        await self.connection.refusals(
            [
                await self.connection.start(_subscribe(folder.subscribed), MailboxName(wire))
                for (wire, folder), one in zip(wanted, made, strict=True)
                if not isinstance(one, MoveError)
            ]
        )
        return made

    async def _ask_list(self, pattern: bytes) -> tuple[Command, set[bytes]]:
        """The names that are listed are there when the command is done."""
        names: set[bytes] = set()

        def take(response: Response) -> None:
            said = words(response)
            if bytes(said[0]).upper() == b"LIST":
                names.add(self.connection.mailbox_named(said[3]))

        return await self.connection.start(b'LIST "" ', MailboxName(pattern), take=take), names

    async def _unlisted(self, listed: Mapping[bytes, set[bytes]]) -> set[bytes]:
        """Those of the names that are not listed: not to a question for just this name, nor among all there are."""
        unlisted = {wire for wire, names in listed.items() if wire not in names and wire != b"INBOX"}
        if unlisted:
            command, everything = await self._ask_list(b"*")
            await self.connection.refusals([command])
            unlisted -= everything
        return unlisted

    def _use(self, folder: FolderState) -> bytes:
        if not folder.special_use or not self.connection.has(b"CREATE-SPECIAL-USE"):
            return b""
        return b" (USE (" + folder.special_use.encode() + b"))"

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
        command, names = await self._ask_list(wire)
        await self.connection.refusals([command])
        if await self._unlisted({wire: names}):  # called otherwise, as in `make`: back, and once more with another one
            back = (b"RENAME ", MailboxName(wire), b" ", MailboxName(folder.wire))
            await self.connection.refusals([await self.connection.start(*back)])
            return RequestRefused(why=f"{shown(wire)} has another name at {self.connection.endpoint}")
        return None

    async def subscribe(self, wire: bytes, wanted: bool) -> None:
        await self.connection.refusals([await self.connection.start(_subscribe(wanted), MailboxName(wire))])

    async def annotate(self, wire: bytes, wanted: Mapping[str, str], present: Mapping[str, str]) -> None:
        refused = await write_annotations(self.connection, wire, wanted, present)
        self.remarks.extend(["the server does not keep an annotation of a folder"] * refused)

    async def delete(self, folder: FolderRow) -> bool:
        try:
            found = await self._status(folder.wire, b"MESSAGES")
        except Refused as refused:
            await check_gone(self.connection, folder.wire, refused)
            return True
        if found.get(b"MESSAGES", 1):  # or it does not say
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
        except Refused as refused:
            await check_gone(self.connection, wire, refused)
            return False
        return True

    async def _status(self, wire: bytes, asked: bytes) -> dict[bytes, int]:
        """Raises `Refused`."""
        command, found = await self._ask_status(wire, asked)
        await self.connection.done(command)
        return found

    async def _ask_status(self, wire: bytes, asked: bytes) -> tuple[Command, dict[bytes, int]]:
        """What was asked is there when the command is done."""
        found: dict[bytes, int] = {}

        def take(response: Response) -> None:
            said = words(response)
            if bytes(said[0]).upper() == b"STATUS":
                found.update((name, number(value)) for name, value in pairs(said[2]).items())

        status = (b"STATUS ", MailboxName(wire), b" (" + asked + b")")
        return await self.connection.start(*status, take=take), found

    def _error(self, refused: Refused, *, doing: str) -> MoveError:
        error = error_of(self.connection.endpoint, refused, doing=doing)
        error.__cause__ = refused
        return error


def _subscribe(wanted: bool) -> bytes:
    return b"SUBSCRIBE " if wanted else b"UNSUBSCRIBE "


if TYPE_CHECKING:
    _is_places: type[Places] = ImapPlaces
