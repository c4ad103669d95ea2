"""The server follows the mirror: moves, flags, expunges; and what came of appends and moves that nobody saw end.

The server's answer to an APPEND (APPENDUID) says where each message is; without UIDPLUS the messages are found by
content, as after a crash. So are messages that were moved, where COPYUID does not say what they are called now. The
appends themselves are in `appending`.

What always holds: an effect whose repetition would show (APPEND, MOVE) has a durable intent before it; the rest (STORE,
EXPUNGE of a UID) is done again without harm until it is noted as done.
"""

from array import array
from collections import defaultdict
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Final, NamedTuple

import apsw

from moverq.endpoints.imap.connection import (
    PASSING,
    Connection,
    MailboxName,
    Piece,
    Refused,
    Selection,
    Take,
    error_of,
    shown,
    words,
)
from moverq.endpoints.imap.listing import ALL_FLAGS, check_gone, flag_words, flags_in, is_fetch, look_into, status_of
from moverq.endpoints.imap.reading import read_bodies
from moverq.endpoints.imap.wire import Response, WireError, number, pairs, said, uid_sets, uids_in
from moverq.endpoints.mirrored import intents
from moverq.endpoints.mirrored.intents import Placed
from moverq.endpoints.mirrored.learned import Look, Seen
from moverq.endpoints.mirrored.listed import Wanted
from moverq.endpoints.mirrored.mirror import FolderRow, Located, Mirror
from moverq.endpoints.mirrored.normal_form import is_same
from moverq.errors import RequestRefused
from moverq.flow.batches import in_batches
from moverq.model.ids import FolderId, ItemId

if TYPE_CHECKING:
    from moverq.endpoints.imap.session import ImapSession

_Flags = tuple[int, tuple[str, ...]]
"""Of a message: flags, keywords."""
_FOR_NO_FLAG: Final = PASSING | {b"READ-ONLY"}
"""Why a STORE is refused that no flag or keyword less would help."""

# ---- in doubt


async def settle(session: "ImapSession") -> None:
    """No intent is in doubt: what it would have brought was looked for, by content and date, and found or not."""
    doubted = await session.mirror.ask(partial(intents.in_doubt, at_work=frozenset(session.mirror.intents)))
    if not doubted:
        return
    rows = {row.folder_id: row for row in await session.mirror.ask(Mirror.folders)}
    by_folder: dict[FolderId, list[Located]] = defaultdict(list)
    for located in doubted:
        by_folder[located.state.folder_id].append(located)
    for folder_id, some in by_folder.items():
        row = rows.get(folder_id)
        found = await _find_at_server(session, row, some) if row is not None else []
        there = {place.item_id for place in found}
        absent = [located for located in some if located.state.item_id not in there]
        lost = await _lost(session, rows, absent) if absent else frozenset()
        await session.mirror.ask(partial(intents.note_settled, found=found, absent=absent, lost=lost))


async def _find_at_server(session: "ImapSession", folder: FolderRow, sought: Sequence[Located]) -> list[Placed]:
    """Which of these are in the folder, among what the mirror has no row for. Of equal copies any may be any."""
    seconds = {located.state.received_ms // 1000 for located in sought}
    candidates: list[Seen] = []
    validity = 0

    async def on_look(look: Look) -> None:
        nonlocal validity
        if look.first == 1:  # or anew
            candidates.clear()
        validity = look.validity
        some = [seen for seen in look.seen if seen.received_ms // 1000 in seconds]
        asked = partial(_known_uids, folder_id=folder.folder_id, uids=[seen.uid for seen in some])
        known = await session.mirror.ask(asked)
        candidates.extend(seen for seen in some if seen.uid not in known)

    async with session.connection() as connection:
        in_parts = await status_of(connection, folder.wire)
        if in_parts is None:
            return []
        wanted = Wanted(folder_id=folder.folder_id, wire=folder.wire, modseq=0, in_parts=in_parts)
        await look_into(connection, [wanted], on_look=on_look)
        if validity != folder.server_validity:
            return []
        left = list(sought)
        found: list[Placed] = []
        for some in in_batches(candidates, lambda seen: seen.size, bytes_max=session.bytes_max):
            uids = [seen.uid for seen in some]
            read = await read_bodies(connection, folder.wire, uids, validity=folder.server_validity)
            for seen in some:
                match = next((one for one in left if _is(one, seen, read.get(seen.uid))), None)
                if match is not None:
                    left.remove(match)
                    found.append(Placed(match.state.item_id, seen.uid))
    if left and not session.can_move:
        taken = {place.server_uid for place in found}
        new = [seen for seen in candidates if seen.uid >= folder.server_uidnext and seen.uid not in taken]
        found += _told_by_date(session, folder, left, new)
    return found


def _told_by_date(
    session: "ImapSession", folder: FolderRow, sought: Sequence[Located], new: Sequence[Seen]
) -> list[Placed]:
    """Of a server that alters messages and names no UIDs: as many new ones of a second as were sent are these, in
    their order.

    Raises:
        RequestRefused: there are more or fewer, and who took none of them for ours would write them all once more.
    """
    sent: dict[int, list[Located]] = defaultdict(list)
    for one in sought:
        sent[one.state.received_ms // 1000].append(one)
    found: list[Placed] = []
    for second, some in sent.items():
        came = sorted(seen.uid for seen in new if seen.received_ms // 1000 == second)
        if came and len(came) != len(some):
            raise RequestRefused(
                why=f"{session.name} keeps messages in another form than they were sent, and does not say what it "
                f"calls them (UIDPLUS): those in folder {folder.state.name!r} cannot be told apart"
            )
        found += (Placed(one.state.item_id, uid) for one, uid in zip(sorted(some), came, strict=False))
    return found


def _is(located: Located, seen: Seen, content: bytes | None) -> bool:
    state = located.state
    same_second = state.received_ms // 1000 == seen.received_ms // 1000
    return same_second and content is not None and is_same(content, state.content_hash, located.normal_hash)


async def _lost(
    session: "ImapSession", rows: Mapping[FolderId, FolderRow], absent: Sequence[Located]
) -> frozenset[ItemId]:
    """Of these, which did not come to where they were to be moved, those that are not at their old place either."""
    moving = await session.mirror.ask(partial(intents.moving, item_ids=[one.state.item_id for one in absent]))
    if not moving:
        return frozenset()
    there: dict[FolderId, tuple[int, set[int]]] = {}
    async with session.connection() as connection:
        for folder_id in {folder_id for _, folder_id, _, _ in moving} & rows.keys():
            asked = [uid for _, from_folder, _, uid in moving if from_folder == folder_id]
            there[folder_id] = await _present(connection, rows[folder_id].wire, asked)
    return frozenset(
        item_id
        for item_id, folder_id, validity, uid in moving
        if (found := there.get(folder_id)) is None or found[0] != validity or uid not in found[1]
    )


async def _present(connection: Connection, wire: bytes, asked: Sequence[int]) -> tuple[int, set[int]]:
    """UIDVALIDITY, and those of the UIDs that are there; of a folder that went none."""
    present: set[int] = set()

    def take(response: Response) -> None:
        if is_fetch(response):
            present.add(number(pairs(words(response)[2]).get(b"UID")))

    validity = (await select(connection, wire)).validity
    if not validity:
        return 0, present
    try:
        await _run_all(connection, b"UID FETCH ", asked, b" (UID)", take=take)
    except Refused as refused:
        raise error_of(
            connection.endpoint, refused, doing=f"list the messages of the folder {shown(wire)}"
        ) from refused
    return validity, present


def _known_uids(mirror: Mirror, folder_id: FolderId, uids: Sequence[int]) -> set[int]:
    """Those of the UIDs that a row has."""
    sql = "SELECT server_uid FROM items WHERE folder_id = ? AND server_uid IN carray(?)"
    return {uid for (uid,) in mirror.db.execute(sql, (folder_id, apsw.carray(array("q", uids))))} if uids else set()


# ---- what needs no bytes


async def work_off(session: "ImapSession") -> None:
    """Nothing is due: places, flags and expunges at the server are what the mirror wants."""
    due = await session.mirror.ask(intents.due)
    if not due:
        return
    async with session.connection() as connection:
        in_doubt = False
        for (from_folder, to_folder), asked in due.moves.items():
            if from_folder in due.wires and to_folder in due.wires:
                in_doubt |= not await _move(session, connection, due, from_folder, to_folder, asked)
    if in_doubt:
        await session.settle()
    if due.moves:
        due = await session.mirror.ask(intents.due)
    async with session.connection() as connection:
        for folder_id in due.flags.keys() | due.expunges.keys():
            if folder_id in due.wires:
                await _store_and_expunge(session, connection, due, folder_id)


class Selected(NamedTuple):
    """What a folder says of itself."""

    validity: int = 0
    """UIDVALIDITY. 0: there is no such folder any more, as the next refresh will tell."""
    flags: int = ALL_FLAGS
    """The system flags that it keeps, by its word (PERMANENTFLAGS); one that does not say keeps all."""
    keywords: frozenset[str] | None = None
    """The keywords that it takes, in small letters. None: any."""


async def select(connection: Connection, wire: bytes) -> Selected:
    """The folder is selected for writing."""
    selected = Selected()

    def take(response: Response) -> None:
        nonlocal selected
        if not response.head.upper().startswith(b"* OK ["):
            return
        answer = said(response.head[2:])
        if answer.code == b"UIDVALIDITY":
            selected = selected._replace(validity=number(answer.arguments))
        elif answer.code == b"PERMANENTFLAGS":
            words = answer.arguments.strip(b"()").split()
            flags, keywords = flags_in(words)
            taken = None if b"\\*" in words else frozenset(word.lower() for word in keywords)
            selected = selected._replace(flags=flags, keywords=taken)

    connection.selected = Selection(wire, is_writable=True)
    connection.is_in_folder = True
    try:
        await connection.run(b"SELECT ", MailboxName(wire), take=take)
    except Refused as refused:
        connection.selected = None
        await check_gone(connection, wire, refused)
        return Selected()
    return selected


def plainer(flags: int, keywords: tuple[str, ...], *, named: int) -> list[_Flags]:
    """What a server may take of these, where it refuses them; the first that it takes costs the least. Without the
    flags that are not `named` as kept, without the keywords, without both."""
    tries = [(flags & named, keywords), (flags, ()), (flags & named, ())]
    return [one for at, one in enumerate(tries) if one not in ((flags, keywords), *tries[:at])]


async def _move(
    session: "ImapSession",
    connection: Connection,
    due: intents.Due,
    from_folder: FolderId,
    to_folder: FolderId,
    asked: Sequence[tuple[ItemId, int]],
) -> bool:
    """False: the server said yes and not where all of them are now, so those are in doubt."""
    if (await select(connection, due.wires[from_folder])).validity != due.validity[from_folder]:
        return True  # the next refresh tells what its messages are called now
    with session.mirror.intending() as intent:
        await session.mirror.ask(partial(intents.note_begun, item_ids=[item_id for item_id, _ in asked], intent=intent))
        copied: dict[int, int] = {}

        def take(response: Response) -> None:
            if b"[COPYUID " in response.head.upper():
                with suppress(WireError, ValueError):  # as good as none
                    there, sources, targets = said(response.head[2:]).arguments.split(b" ")
                    if number(there) == due.validity[to_folder]:
                        copied.update(zip(uids_in(sources), uids_in(targets), strict=True))

        verb = b"UID MOVE " if connection.has(b"MOVE") else b"UID COPY "
        try:
            uids = [uid for _, uid in asked]
            await _run_all(connection, verb, uids, b" ", MailboxName(due.wires[to_folder]), take=take)
        except Refused as refused:
            if refused.answer.code in (b"TRYCREATE", b"NONEXISTENT"):
                return False  # the folder to move to went, as the next refresh will tell
            doing = f"move messages to the folder {shown(due.wires[to_folder])}"
            raise error_of(connection.endpoint, refused, doing=doing) from refused
        moved = {item_id: copied[uid] for item_id, uid in asked if uid in copied}
        if moved:
            told = [one for one in asked if one[0] in moved]
            await session.mirror.ask(
                partial(intents.note_moved, moved=moved, asked=told, copied=not connection.has(b"MOVE"))
            )
    return len(moved) == len(asked)


async def _store_and_expunge(
    session: "ImapSession", connection: Connection, due: intents.Due, folder_id: FolderId
) -> None:
    selected = await select(connection, due.wires[folder_id])
    if selected.validity != due.validity[folder_id]:
        return
    groups: dict[_Flags, list[int]] = defaultdict(list)
    left_out = 0
    for uid, bits, keywords in due.flags.get(folder_id, ()):
        taken = selected.keywords
        kept = keywords if taken is None else tuple(word for word in keywords if word.lower() in taken)
        left_out += len(keywords) - len(kept)
        groups[bits, kept].append(uid)
    expunged = due.expunges.get(folder_id, ())
    try:
        stored = await _store(connection, groups, named=selected.flags)
        if expunged:
            await _expunge(connection, expunged)
    except Refused as refused:
        doing = f"change flags in the folder {shown(due.wires[folder_id])}"
        raise error_of(connection.endpoint, refused, doing=doing) from refused
    if stored:
        left_out += sum(len(keywords) for (_, keywords), uids in groups.items() for _ in uids)
        left_out -= sum(len(keywords) for _, _, keywords in stored)
        note = partial(intents.note_stored, folder_id=folder_id, stored=stored, left_out=left_out)
        await session.mirror.ask(partial(note, flags_kept=selected.flags))
    if expunged:
        await session.mirror.ask(partial(intents.note_expunged, folder_id=folder_id, uids=expunged))


async def _store(
    connection: Connection, groups: Mapping[_Flags, Sequence[int]], *, named: int
) -> list[tuple[int, int, tuple[str, ...]]]:
    """(UID, flags, keywords) as the messages have them now: without those flags that are not `named` as kept, and those
    keywords, that the server refuses, as it may where it says that it takes any (Cyrus has room for 128 in a folder).
    Raises `Refused`."""
    left = [
        ([(bits, keywords), *plainer(bits, keywords, named=named)], some)
        for (bits, keywords), uids in groups.items()
        for some in uid_sets(uids)
    ]
    stored: list[tuple[int, int, tuple[str, ...]]] = []
    while left:
        commands = [
            await connection.start(b"UID STORE " + some + b" FLAGS.SILENT (" + flag_words(bits, keywords) + b")")
            for ((bits, keywords), *_), some in left
        ]
        again: list[tuple[list[_Flags], bytes]] = []
        for (((bits, keywords), *rest), some), refused in zip(left, await connection.refusals(commands), strict=True):
            if refused is None:
                stored += ((uid, bits, keywords) for uid in uids_in(some))
            elif rest and refused.answer.code not in _FOR_NO_FLAG:
                again.append((rest, some))
            else:
                raise refused
        left = again
    return stored


async def _expunge(connection: Connection, uids: Sequence[int]) -> None:
    """These messages are gone, and no other that somebody marked as deleted."""

    async def mark(uids: Sequence[int], sign: bytes) -> None:
        await _run_all(connection, b"UID STORE ", uids, b" " + sign + b"FLAGS.SILENT (\\Deleted)")

    if connection.has(b"UIDPLUS"):
        await mark(uids, b"+")
        await _run_all(connection, b"UID EXPUNGE ", uids)
        return
    marked: list[int] = []

    def take(response: Response) -> None:
        if response.head.upper().startswith(b"* SEARCH"):
            marked.extend(number(word) for word in response.head.split()[2:])

    await connection.run(b"UID SEARCH DELETED", take=take)
    others = sorted(set(marked) - set(uids))
    await mark(others, b"-")
    await mark(uids, b"+")
    await connection.run(b"EXPUNGE")
    await mark(others, b"+")


async def _run_all(
    connection: Connection, before: bytes, uids: Sequence[int], *after: Piece, take: Take | None = None
) -> None:
    """One command after another, until all of these UIDs were in one. Raises `Refused`."""
    commands = [await connection.start(before + some, *after, take=take) for some in uid_sets(uids)]
    for command in commands:
        await connection.done(command)


__all__ = ["Selected", "plainer", "select", "settle", "work_off"]
