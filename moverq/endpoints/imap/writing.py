"""The server follows the mirror: appends, moves, flags, expunges; and what came of those that nobody saw end.

Appends go in MULTIAPPENDs of `APPEND_ITEMS`, several on their way at once, one folder after the other but different
folders on different connections. The server's answer (APPENDUID) says where each message is; without UIDPLUS the
messages are found by content, as after a crash.

What always holds: an effect whose repetition would show (APPEND, MOVE) has a durable intent before it; the rest (STORE,
EXPUNGE of a UID) is done again without harm until it is noted as done.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Final

import attrs
import trio

from moverq.endpoints.imap.connection import Command, Connection, Piece, Refused, error_of, mailbox_word
from moverq.endpoints.imap.listing import flag_words, look_into
from moverq.endpoints.imap.reading import read_bodies
from moverq.endpoints.imap.wire import Literal, Response, date_words, number, said, uid_set, uids_in
from moverq.endpoints.mirrored import intents
from moverq.endpoints.mirrored.intents import Merged, Placed, ToAppend
from moverq.endpoints.mirrored.learned import Look, Seen
from moverq.endpoints.mirrored.listed import Wanted
from moverq.endpoints.mirrored.mirror import FolderRow, Located, Mirror
from moverq.endpoints.mirrored.normal_form import is_same
from moverq.model.change import BadItem
from moverq.model.ids import FolderId, ItemId

if TYPE_CHECKING:
    from moverq.endpoints.imap.session import ImapSession

APPEND_ITEMS: Final = 50
"""Messages in one MULTIAPPEND: more gain nothing (`peers`), and a refused one is written again one by one."""
APPEND_BYTES: Final = 4 << 20
APPENDS_AHEAD: Final = 4
"""MULTIAPPENDs sent before the first is answered."""


# ---- appends


async def append_all(session: "ImapSession", merged: Merged, token: int) -> tuple[BadItem, ...]:
    """Every message of an intent that is at work is at the server and has its place in the mirror, but for those that
    the server refused, and those of which it did not say where they are: `settle` finds these.

    Cancelled, or an error: the intent is in doubt.
    """
    by_folder: dict[FolderId, list[ToAppend]] = defaultdict(list)
    for one in merged.appends:
        by_folder[one.state.folder_id].append(one)
    rows = {row.folder_id: row for row in await session.ask(Mirror.folders)}
    appending = [_Appending(session, rows[folder_id], some) for folder_id, some in by_folder.items()]
    # In the nursery: one task a folder, each until its messages are there.
    async with trio.open_nursery() as nursery:
        for one_folder in appending:
            nursery.start_soon(one_folder.run)
    placed = [place for one_folder in appending for place in one_folder.placed]
    bad = [item for one_folder in appending for item in one_folder.bad]
    if placed:
        await session.ask(partial(intents.note_placed, placed=placed, token=token))
    if bad:
        await session.ask(partial(intents.forget, item_ids=[item.state.item_id for item in bad], token=token))
    return tuple(bad)


@attrs.define(eq=False)
class _Appending:
    """One folder's part of an intent."""

    session: "ImapSession"
    folder: FolderRow
    items: Sequence[ToAppend]
    placed: list[Placed] = attrs.Factory(list)
    bad: list[BadItem] = attrs.Factory(list)

    async def run(self) -> None:
        async with self.session.turn(self.folder.folder_id), self.session.connection() as connection:
            alone: list[ToAppend] = []
            sent: list[tuple[Command, Sequence[ToAppend]]] = []
            for batch in _batches(self.items, many=connection.has(b"MULTIAPPEND")):
                sent.append((await connection.start(*self._pieces(batch)), batch))
                if len(sent) == APPENDS_AHEAD:
                    alone += await self._answer(connection, *sent.pop(0))
            while sent:
                alone += await self._answer(connection, *sent.pop(0))
            for one in alone:
                refused = await self._answer(connection, await connection.start(*self._pieces([one])), [one], last=True)
                assert not refused

    def _pieces(self, batch: Sequence[ToAppend]) -> Iterator[Piece]:
        yield b"APPEND "
        yield mailbox_word(self.folder.wire)
        for one in batch:
            yield b" (" + flag_words(one.state.flags, one.keywords) + b") " + date_words(one.state.received_ms) + b" "
            yield Literal(one.content)

    async def _answer(
        self, connection: Connection, command: Command, batch: Sequence[ToAppend], *, last: bool = False
    ) -> Sequence[ToAppend]:
        """Those of the batch to try alone: a refused batch is all or nothing (RFC 3502), and one item may be why."""
        try:
            answer = await connection.done(command)
        except Refused as refused:
            code = refused.answer.code
            if code in (b"TRYCREATE", b"NONEXISTENT"):
                return ()  # the folder went: what was to go there is not there, as the next look will show
            if code in (b"OVERQUOTA", b"UNAVAILABLE", b"INUSE", b"NOPERM"):
                raise error_of(connection.endpoint, refused, doing="take a message") from refused
            if not last and len(batch) > 1:
                return batch
            kind = "LargeItem" if code in (b"TOOBIG", b"LIMIT") else "CorruptItem"
            why = f"the server refuses it: {refused.answer.text or refused.answer.status.decode()}"
            self.bad += (BadItem(one.state, kind, why, raw=one.content) for one in batch)
            return ()
        if answer.code == b"APPENDUID":
            validity, _, uids = answer.arguments.partition(b" ")
            found = uids_in(uids)
            if number(validity) == self.folder.server_validity and len(found) == len(batch):
                self.placed += (Placed(one.state.item_id, uid) for one, uid in zip(batch, found, strict=True))
        return ()


def _batches(items: Sequence[ToAppend], *, many: bool) -> Iterator[Sequence[ToAppend]]:
    batch: list[ToAppend] = []
    size = 0
    for one in items:
        if batch and (not many or len(batch) == APPEND_ITEMS or size + one.state.size > APPEND_BYTES):
            yield batch
            batch, size = [], 0
        batch.append(one)
        size += one.state.size
    if batch:
        yield batch


# ---- in doubt


async def settle(session: "ImapSession") -> None:
    """No intent is in doubt: what it would have brought was looked for, by content and date, and found or not."""
    doubted = await session.ask(partial(intents.in_doubt, at_work=frozenset(session.intents)))
    if not doubted:
        return
    rows = {row.folder_id: row for row in await session.ask(Mirror.folders)}
    by_folder: dict[FolderId, list[Located]] = defaultdict(list)
    for located in doubted:
        by_folder[located.state.folder_id].append(located)
    for folder_id, some in by_folder.items():
        row = rows.get(folder_id)
        found = await _find_at_server(session, row, some) if row is not None else []
        there = {place.item_id for place in found}
        absent = [located for located in some if located.state.item_id not in there]
        await session.ask(partial(intents.note_settled, found=found, absent=absent))


async def _find_at_server(session: "ImapSession", folder: FolderRow, sought: Sequence[Located]) -> list[Placed]:
    """Which of these are in the folder, among what the mirror has no row for. Of equal copies any may be any."""
    held: list[Look] = []
    async with session.connection() as connection:
        wanted = Wanted(folder_id=folder.folder_id, wire=folder.wire, modseq=0)
        await look_into(connection, [wanted], on_look=held.append)
        if not held or held[0].validity != folder.server_validity:
            return []
        known = await session.ask(partial(_known_uids, folder_id=folder.folder_id))
        seconds = {located.state.received_ms // 1000 for located in sought}
        candidates = [seen for seen in held[0].seen if seen.uid not in known and seen.received_ms // 1000 in seconds]
        left = list(sought)
        found: list[Placed] = []
        for some in _by_size(candidates, session.bytes_max):
            read = await read_bodies(connection, folder.wire, [seen.uid for seen in some])
            for seen in some:
                match = next((one for one in left if _is(one, seen, read.get(seen.uid))), None)
                if match is not None:
                    left.remove(match)
                    found.append(Placed(match.state.item_id, seen.uid))
    return found


def _is(located: Located, seen: Seen, content: bytes | None) -> bool:
    state = located.state
    same_second = state.received_ms // 1000 == seen.received_ms // 1000
    return same_second and content is not None and is_same(content, state.content_hash, located.normal_hash)


def _known_uids(mirror: Mirror, folder_id: FolderId) -> set[int]:
    return {
        uid
        for (uid,) in mirror.db.execute(
            "SELECT server_uid FROM items WHERE folder_id = ? AND server_uid IS NOT NULL", (folder_id,)
        )
    }


def _by_size(seen: Sequence[Seen], bytes_max: int) -> Iterator[Sequence[Seen]]:
    some: list[Seen] = []
    size = 0
    for one in seen:
        if some and size + one.size > bytes_max:
            yield some
            some, size = [], 0
        some.append(one)
        size += one.size
    if some:
        yield some


# ---- what needs no bytes


async def work_off(session: "ImapSession") -> None:
    """Nothing is due: places, flags and expunges at the server are what the mirror wants."""
    due = await session.ask(intents.due)
    if due is None:
        return
    async with session.connection() as connection:
        for (from_folder, to_folder), asked in due.moves.items():
            if from_folder in due.wires and to_folder in due.wires:
                await _move(session, connection, due, from_folder, to_folder, asked)
        if due.moves:
            due = await session.ask(intents.due)
            if due is None:
                return
        for folder_id in due.flags.keys() | due.expunges.keys():
            if folder_id in due.wires:
                await _store_and_expunge(session, connection, due, folder_id)


async def _select(connection: Connection, wire: bytes) -> tuple[int, frozenset[str] | None]:
    """The folder is selected for writing: its UIDVALIDITY, and the keywords it takes (None: any)."""
    validity = 0
    permanent: frozenset[str] | None = None

    def take(response: Response) -> None:
        nonlocal validity, permanent
        if not response.head.upper().startswith(b"* OK ["):
            return
        answer = said(response.head[2:])
        if answer.code == b"UIDVALIDITY":
            validity = number(answer.arguments)
        elif answer.code == b"PERMANENTFLAGS":
            words = answer.arguments.strip(b"()").split()
            permanent = None if b"\\*" in words else frozenset(word.decode().lower() for word in words)

    connection.selected = (wire, True)
    connection.is_in_folder = True
    try:
        await connection.run(b"SELECT ", mailbox_word(wire), take=take)
    except Refused as refused:
        raise error_of(connection.endpoint, refused, doing=f"open folder {wire!r}") from refused
    return validity, permanent


async def _move(
    session: "ImapSession",
    connection: Connection,
    due: intents.Due,
    from_folder: FolderId,
    to_folder: FolderId,
    asked: Sequence[tuple[ItemId, int]],
) -> None:
    validity, _ = await _select(connection, due.wires[from_folder])
    if validity != due.validity[from_folder]:
        return  # the next refresh tells what its messages are called now
    with session.intending() as intent:
        await session.ask(partial(intents.note_begun, item_ids=[item_id for item_id, _ in asked], intent=intent))
        copied: dict[int, int] = {}

        def take(response: Response) -> None:
            if b"[COPYUID " in response.head.upper():
                _, sources, targets = said(response.head[2:]).arguments.split(b" ")
                copied.update(zip(uids_in(sources), uids_in(targets), strict=True))

        verb = b"UID MOVE " if connection.has(b"MOVE") else b"UID COPY "
        try:
            await connection.run(
                verb + uid_set(uid for _, uid in asked) + b" ", mailbox_word(due.wires[to_folder]), take=take
            )
        except Refused as refused:
            raise error_of(connection.endpoint, refused, doing="move messages") from refused
        moved = {item_id: copied[uid] for item_id, uid in asked if uid in copied}
        if moved or not copied:
            await session.ask(partial(intents.note_moved, moved=moved, asked=asked, copied=not connection.has(b"MOVE")))


async def _store_and_expunge(
    session: "ImapSession", connection: Connection, due: intents.Due, folder_id: FolderId
) -> None:
    validity, permanent = await _select(connection, due.wires[folder_id])
    if validity != due.validity[folder_id]:
        return
    groups: dict[tuple[int, tuple[str, ...]], list[int]] = defaultdict(list)
    left_out = 0
    for uid, bits, keywords in due.flags.get(folder_id, ()):
        kept = keywords if permanent is None else tuple(word for word in keywords if word.lower() in permanent)
        left_out += len(keywords) - len(kept)
        groups[bits, kept].append(uid)
    commands = [
        await connection.start(b"UID STORE " + uid_set(uids) + b" FLAGS.SILENT (" + flag_words(bits, keywords) + b")")
        for (bits, keywords), uids in groups.items()
    ]
    try:
        for command in commands:
            await connection.done(command)
        expunged = due.expunges.get(folder_id, ())
        if expunged:
            await _expunge(connection, expunged)
    except Refused as refused:
        raise error_of(connection.endpoint, refused, doing="change flags") from refused
    if groups:
        stored = [(uid, bits, keywords) for (bits, keywords), uids in groups.items() for uid in uids]
        await session.ask(partial(intents.note_stored, folder_id=folder_id, stored=stored, left_out=left_out))
    if expunged:
        await session.ask(partial(intents.note_expunged, folder_id=folder_id, uids=expunged))


async def _expunge(connection: Connection, uids: Sequence[int]) -> None:
    """These messages are gone, and no other that somebody marked as deleted."""
    which = uid_set(uids)
    if connection.has(b"UIDPLUS"):
        await connection.run(b"UID STORE " + which + b" +FLAGS.SILENT (\\Deleted)")
        await connection.run(b"UID EXPUNGE " + which)
        return
    marked: list[int] = []

    def take(response: Response) -> None:
        if response.head.upper().startswith(b"* SEARCH"):
            marked.extend(number(word) for word in response.head.split()[2:])

    await connection.run(b"UID SEARCH DELETED", take=take)
    others = sorted(set(marked) - set(uids))
    if others:
        await connection.run(b"UID STORE " + uid_set(others) + b" -FLAGS.SILENT (\\Deleted)")
    await connection.run(b"UID STORE " + which + b" +FLAGS.SILENT (\\Deleted)")
    await connection.run(b"EXPUNGE")
    if others:
        await connection.run(b"UID STORE " + uid_set(others) + b" +FLAGS.SILENT (\\Deleted)")


__all__ = ["append_all", "settle", "work_off"]
