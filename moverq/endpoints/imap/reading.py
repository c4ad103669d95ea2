"""Bytes of messages, many a command. They pass through: nothing of a message is parsed.

A page is asked for before the one before it is taken, on the same connection: the server works ahead by as much as the
sockets hold, and nothing of it is in this process before somebody reads.
"""

import re
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Final

import attrs

from moverq.endpoints.imap.connection import (
    Command,
    Connection,
    MailboxName,
    Refused,
    Selection,
    error_of,
    shown,
    words,
)
from moverq.endpoints.imap.listing import check_gone, is_fetch
from moverq.endpoints.imap.wire import Literal, Response, number, pairs, said, uid_sets
from moverq.endpoints.mirrored.mirror import FolderPlace, Located
from moverq.errors import EndpointBusy, MoveError
from moverq.model.ids import FolderId

_HEAD: Final = rb"\* \d+ FETCH \(UID (\d{1,10}) BODY\[\] "
_AS_ASKED: Final = re.compile(_HEAD + rb"\{(\d{1,9})\}\r\n")
_AS_ASKED_IN_PARTS: Final = re.compile(_HEAD)
_END: Final = b")\r\n"
CHANGED_S: Final = 1.0
"""A folder is not what it was when it was looked into: so long it is left alone before the next look."""


class Reading:
    """A FETCH of bodies on its way: begun when it is known what will be wanted, ended when it is.

    The UIDs are those of `validity`. A name alone says nothing: the user may have renamed the folder since it was
    looked into, and made another one of its name, with the same UIDs in it. 0: whichever has the name.
    """

    def __init__(self, connection: Connection, uids: Sequence[int], *, validity: int) -> None:
        self.connection = connection
        self.uids = tuple(uids)
        self.validity = validity
        self.found: dict[int, bytes] = {}
        self.missing: dict[int, str] = {}
        """UIDs that the server lists and gives no bytes for, and what it says of them."""
        self._wire = b""
        self._selection = Selection(b"", is_writable=False)
        self._status: Command | None = None
        self._fetches: Sequence[Command] = ()

    async def begin(self, wire: bytes) -> None:
        """The commands are sent."""
        self._wire = wire
        before = self.connection.selected
        self._selection = await self._open()
        self._fetches = [
            await self.connection.start(
                b"UID FETCH " + uids + b" (UID BODY.PEEK[])", take=self._take, usual=self._usual
            )
            for uids in uid_sets(self.uids)
        ]
        if self._selection is before and self.validity:
            name = MailboxName(wire)
            self._status = await self.connection.start(b"STATUS ", name, b" (UIDVALIDITY)", take=self._take)

    async def _open(self) -> Selection:
        """The folder is selected, once that is answered. One that is selected already stays so: to open a large one
        again for each page takes a server longer than to read the page. Afterwards it is asked whether it still is what
        it was (`_check_unchanged`)."""
        connection = self.connection
        selected = connection.selected
        if selected is None or selected.wire != self._wire or selected.is_writable:
            selected = Selection(self._wire, is_writable=False)
            take = partial(_take_examine, selected)
            selected.command = await connection.start(b"EXAMINE ", MailboxName(self._wire), take=take)
            connection.selected = selected
            connection.is_in_folder = True
        return selected

    async def end(self) -> dict[int, bytes]:
        """The bytes by UID. A UID that is not among them is gone, or `missing`.

        Raises: EndpointUnavailable, EndpointBusy (also where the folder is not what it was), EndpointBroken.
        """
        connection = self.connection
        try:
            await self._opened()
        except Refused as refused:
            connection.selected = None
            await connection.refusals(self._fetches)
            raise await self._lost(refused) from refused
        for unread in await connection.refusals(self._fetches):
            if unread is not None and unread.answer.status == b"BAD":
                raise self._error(unread) from unread
        self._collect()
        await self._check_unchanged()
        if len(self.found) < len(self.uids):
            await self._one_by_one()
        return self.found

    def _collect(self) -> None:
        """What came of these messages is ours."""
        bodies = self._selection.bodies
        self.found |= {uid: bodies.pop(uid) for uid in self.uids if uid in bodies}

    async def _opened(self) -> None:
        """The folder is selected, and is the one that was meant. Raises `Refused`."""
        selection = self._selection
        assert selection.command is not None
        await self.connection.done(selection.command)
        if selection.validity != self.validity:
            raise self._changed("a folder was made anew while it was read")

    async def _check_unchanged(self) -> None:
        """Of a folder that had been selected for the page before: the name is still that of the folder that was read.
        Most servers would end the connection; from one that does not, others' bytes may have come."""
        if self._status is None:
            return
        try:
            await self.connection.done(self._status)
        except Refused:  # it went; or the server does not like to say so of the folder that is selected
            await self._open_anew()
            return
        if self._selection.validity_now != self.validity:
            raise self._changed("a folder was renamed while it was read")

    async def _open_anew(self) -> None:
        self.connection.selected = None
        self._selection = await self._open()
        try:
            await self._opened()
        except Refused as refused:
            self.connection.selected = None
            raise await self._lost(refused) from refused

    async def _lost(self, refused: Refused) -> EndpointBusy:
        """What to raise where the folder is not there: its messages may be elsewhere, as the next look will say."""
        await check_gone(self.connection, self._wire, refused)
        return self._changed("a folder was renamed or deleted while it was read")

    def _changed(self, why: str) -> EndpointBusy:
        return EndpointBusy(endpoint=self.connection.endpoint, retry_after_s=CHANGED_S, why=why)

    def _usual(self, buffer: bytearray, at: int, to: int) -> int:
        """Bodies that came whole and in the order asked for."""
        found, match = self._selection.bodies, _AS_ASKED.match
        with memoryview(buffer) as view:
            while (head := match(buffer, at, to)) is not None:
                begin = head.end()
                end = begin + int(head[2])
                if end + len(_END) > to or bytes(view[end : end + len(_END)]) != _END:
                    break
                found[int(head[1])] = bytes(view[begin:end])
                at = end + len(_END)
        return at

    def _take(self, response: Response) -> None:
        """Of this page's commands, or of others' to the same folder."""
        if response.head[:9].upper() == b"* STATUS ":
            *_, inner = words(response)
            self._selection.validity_now = number(pairs(inner).get(b"UIDVALIDITY", b"0"))
            return
        head = _AS_ASKED_IN_PARTS.fullmatch(response.head) if response.parts[2:] == (b")",) else None
        if head is not None:
            # One that came in pieces, so mostly a large one: its bytes are not copied once more.
            self._selection.bodies[int(head[1])] = response.parts[1]
            return
        if not is_fetch(response) or (len(response.parts) == 1 and b"BODY[]" not in response.head.upper()):
            return
        values = pairs(words(response)[2])
        body = values.get(b"BODY[]")
        if isinstance(body, Literal) and b"UID" in values:
            self._selection.bodies[number(values[b"UID"])] = bytes(body)

    async def _one_by_one(self) -> None:
        """Which of those that did not come are gone, and which are there and cannot be read?"""
        await self._open_anew()  # another folder may be selected; and of this one all that came is to be seen
        for uid in self.uids:
            if uid in self.found:
                continue
            listed: list[int] = []

            def take(response: Response, uid: int = uid, listed: list[int] = listed) -> None:
                if is_fetch(response):
                    values = pairs(words(response)[2])
                    if b"RFC822.SIZE" in values and number(values.get(b"UID", b"0")) == uid:
                        listed.append(uid)

            try:
                await self.connection.run(b"UID FETCH %d (UID RFC822.SIZE)" % uid, take=take)
            except Refused as refused:
                self.missing[uid] = self._why(refused)
                continue
            if not listed:
                continue
            why = "the server lists it and gives no bytes"
            try:
                await self.connection.run(b"UID FETCH %d (UID BODY.PEEK[])" % uid, take=self._take)
            except Refused as refused:
                why = self._why(refused)
            self._collect()
            if uid not in self.found:
                self.missing[uid] = why

    def _why(self, refused: Refused) -> str:
        """What is wrong with a message. Raises `EndpointBusy` where that is not what was said. SERVERBUG is: it is what
        Dovecot says of one that is damaged."""
        error = self._error(refused)
        if isinstance(error, EndpointBusy) and refused.answer.code != b"SERVERBUG":
            raise error from refused
        return f"the server says: {refused.answer.text}"

    def _error(self, refused: Refused) -> MoveError:
        doing = f"read messages of the folder {shown(self._wire)}"
        return error_of(self.connection.endpoint, refused, doing=doing)


def _take_examine(selection: Selection, response: Response) -> None:
    if response.head[:6].upper() == b"* OK [":
        answer = said(response.head[2:])
        if answer.code == b"UIDVALIDITY":
            selection.validity = number(answer.arguments)


async def read_bodies(connection: Connection, wire: bytes, uids: Sequence[int], *, validity: int) -> dict[int, bytes]:
    """The bytes of these messages, of those that are there."""
    reading = Reading(connection, uids, validity=validity)
    await reading.begin(wire)
    return await reading.end()


@attrs.frozen(eq=False)
class PageReading:
    """The bytes of items of several folders, on their way."""

    rows: Sequence[Located]
    _readings: Sequence[tuple[Reading, Sequence[Located]]]

    @classmethod
    async def begin(
        cls, connection: Connection, rows: Sequence[Located], places: Mapping[FolderId, FolderPlace]
    ) -> "PageReading":
        """All commands are sent. Items of folders that are not among `places` are gone."""
        by_folder: dict[FolderId, list[Located]] = {}
        for row in rows:
            by_folder.setdefault(row.state.folder_id, []).append(row)
        readings: list[tuple[Reading, Sequence[Located]]] = []
        for folder_id, some in by_folder.items():
            if folder_id in places:
                place = places[folder_id]
                reading = Reading(connection, [row.server_uid for row in some], validity=place.server_validity)
                await reading.begin(place.wire)
                readings.append((reading, some))
        return cls(rows, readings)

    async def end(self) -> tuple[dict[int, bytes], dict[int, str]]:
        """By `seq`: the bytes, and what is wrong with those that the server lists and does not give."""
        contents: dict[int, bytes] = {}
        missing: dict[int, str] = {}
        for reading, some in self._readings:
            found = await reading.end()
            for row in some:
                if row.server_uid in found:
                    contents[row.seq] = found[row.server_uid]
                elif row.server_uid in reading.missing:
                    missing[row.seq] = reading.missing[row.server_uid]
        return contents, missing
