"""Folder steps at the server: CREATE, RENAME, DELETE and SUBSCRIBE, each noted in the mirror when it has been done.

A step that was done and not noted is met again after a crash: a folder to create that exists is taken as it is, one to
rename that is at its new place already is noted, one to delete that is gone is noted. A name that the server refuses is
tried in plainer forms; the mirror keeps the real one.
"""

from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING

import attrs

from moverq.endpoints.base import FolderStep, StepKind
from moverq.endpoints.imap.connection import Connection, Refused, error_of, mailbox_word, words
from moverq.endpoints.imap.mirror import FolderRow, Mirror
from moverq.endpoints.imap.tree import NOSELECT
from moverq.endpoints.imap.wire import Response, number, pairs, quoted
from moverq.errors import RequestRefused
from moverq.model.change import INBOX, FolderState
from moverq.model.ids import FolderId

if TYPE_CHECKING:
    from moverq.endpoints.imap.session import ImapSession


async def take_steps(session: "ImapSession", steps: Sequence[FolderStep], token: int) -> None:
    """Each step is at the server and in the mirror, in order. Steps before a refused one stand."""
    await session.ask(partial(_check, token=token))
    if not steps:
        return
    async with session.connection() as connection:
        await session.naming(connection)
        for step in steps:
            rows = {row.folder_id: row for row in await session.ask(Mirror.folders)}
            present = rows.get(step.folder.folder_id)
            if step.kind is StepKind.CREATE:
                if present is None:
                    _check_place(rows, step.folder)
                    await _create(session, connection, rows, step.folder, token)
            elif present is None:
                continue
            elif step.kind is StepKind.REMOVE:
                await _remove(session, connection, rows, present, token)
            else:
                if step.kind is StepKind.MOVE:
                    _check_place(rows, step.folder)
                    present = await _rename(session, connection, rows, present, step.folder, token)
                    wanted = step.folder
                else:
                    wanted = attrs.evolve(step.folder, parent_id=present.state.parent_id, name=present.state.name)
                await _update(session, connection, rows, present, wanted, token)


def _check(mirror: Mirror, token: int) -> None:
    with mirror.changing():
        mirror.check_mover(token)


def _check_place(rows: dict[FolderId, FolderRow], folder: FolderState) -> None:
    at = folder.parent_id
    while at is not None:
        if at == folder.folder_id:
            raise RequestRefused(why=f"folder {folder.name!r} cannot be put inside itself")
        if at not in rows:
            raise RequestRefused(why=f"folder {folder.name!r} has a parent that is not there")
        at = rows[at].state.parent_id
    for other in rows.values():
        same_place = (other.state.parent_id, other.state.name) == (folder.parent_id, folder.name)
        if same_place and other.folder_id != folder.folder_id:
            raise RequestRefused(why=f"there is a folder {folder.name!r} already")


def _put(mirror: Mirror, row: FolderRow, token: int, remark: str = "") -> None:
    with mirror.changing():
        mirror.check_mover(token)
        before = next((one for one in mirror.folders() if one.folder_id == row.folder_id), None)
        uidnext = row.state.uidnext if before is None else max(row.state.uidnext, before.state.uidnext)
        mirror.put_folder(attrs.evolve(row, state=attrs.evolve(row.state, uidnext=uidnext)))
        mirror.raise_head(row.state.modseq, hierarchy=True)
        if remark:
            mirror.remark(remark)


# ---- one step each


async def _create(
    session: "ImapSession",
    connection: Connection,
    rows: dict[FolderId, FolderRow],
    folder: FolderState,
    token: int,
) -> None:
    parent = rows[folder.parent_id].wire if folder.parent_id is not None else None
    taken = {row.wire for row in rows.values()}
    selectable = not NOSELECT.items() <= dict(folder.attributes).items()
    wire = refused = None
    for candidate in session.known_naming.candidates(parent, folder.name, mark=folder.folder_id.hex()[:8]):
        if candidate in taken:
            continue
        refused = None if not selectable else await _make(connection, candidate, folder)
        if refused is None:
            wire = candidate
            break
    if wire is None:
        assert refused is not None
        raise error_of(connection.endpoint, refused, doing=f"make folder {folder.name!r}") from refused
    row = FolderRow(
        state=folder,
        wire=wire,
        native=False,
        selectable=selectable,
        server_special=folder.special_use,
        server_subscribed=folder.subscribed,
    )
    if selectable:
        row = await _look_at_new(connection, row)
        await _subscribe(connection, wire, folder.subscribed)
    remark = ""
    if folder.name != INBOX and session.known_naming.levels(wire)[-1] != folder.name:
        there = wire.decode("ascii", "replace")
        remark = f"the server does not take the folder name {folder.name!r}; there it is called {there}"
    await session.ask(partial(_put, row=row, token=token, remark=remark))


async def _make(connection: Connection, wire: bytes, folder: FolderState) -> Refused | None:
    """None: the folder is there."""
    if wire == b"INBOX":
        return None
    use = b""
    if folder.special_use and connection.has(b"CREATE-SPECIAL-USE"):
        use = b" (USE (" + folder.special_use.encode() + b"))"
    for extra in (use, b"") if use else (b"",):
        try:
            await connection.run(b"CREATE ", mailbox_word(wire), extra)
            return None
        except Refused as refused:
            if refused.answer.code == b"ALREADYEXISTS" or await _exists(connection, wire):
                return None
            last = refused
    return last


async def _exists(connection: Connection, wire: bytes) -> bool:
    try:
        await _status(connection, wire, b"UIDNEXT")
    except Refused:
        return False
    return True


async def _status(connection: Connection, wire: bytes, asked: bytes) -> dict[bytes, object]:
    """Raises `Refused`."""
    found: dict[bytes, object] = {}

    def take(response: Response) -> None:
        said = words(response)
        if bytes(said[0]).upper() == b"STATUS":
            found.update(pairs(said[2]))

    await connection.run(b"STATUS ", mailbox_word(wire), b" (" + asked + b")", take=take)
    return found


async def _look_at_new(connection: Connection, row: FolderRow) -> FolderRow:
    """UIDVALIDITY and UIDNEXT before anything is written there: where what we write begins."""
    try:
        found = await _status(connection, row.wire, b"UIDVALIDITY UIDNEXT")
    except Refused as refused:
        raise error_of(connection.endpoint, refused, doing=f"look at folder {row.state.name!r}") from refused
    return attrs.evolve(
        row,
        server_validity=number(found.get(b"UIDVALIDITY", 0)),
        server_uidnext=number(found.get(b"UIDNEXT", 1)),
    )


async def _subscribe(connection: Connection, wire: bytes, wanted: bool) -> None:
    try:
        await connection.run(b"SUBSCRIBE " if wanted else b"UNSUBSCRIBE ", mailbox_word(wire))
    except Refused:
        return  # some servers refuse to unsubscribe what is not subscribed; nothing depends on it


async def _rename(
    session: "ImapSession",
    connection: Connection,
    rows: dict[FolderId, FolderRow],
    present: FolderRow,
    wanted: FolderState,
    token: int,
) -> FolderRow:
    """The folder, with all below it, is where the step says."""
    parent = rows[wanted.parent_id].wire if wanted.parent_id is not None else None
    taken = {row.wire for row in rows.values()} - {present.wire}
    refused: Refused | None = None
    for wire in session.known_naming.candidates(parent, wanted.name, mark=wanted.folder_id.hex()[:8]):
        if wire in taken:
            continue
        if wire == present.wire or not _has_body(session, rows, present):
            refused = None
        else:
            refused = await _rename_there(connection, present.wire, wire)
        if refused is None:
            state = attrs.evolve(present.state, parent_id=wanted.parent_id, name=wanted.name)
            await session.ask(
                partial(
                    _note_renamed,
                    row=present,
                    state=state,
                    wire=wire,
                    token=token,
                    separator=session.known_naming.separator,
                )
            )
            return attrs.evolve(present, state=state, wire=wire)
    assert refused is not None
    raise error_of(connection.endpoint, refused, doing=f"rename folder {present.state.name!r}") from refused


def _has_body(session: "ImapSession", rows: dict[FolderId, FolderRow], folder: FolderRow) -> bool:
    """Is there anything of the folder at the server? One that only holds folders exists by what it holds."""
    if folder.selectable or session.known_naming.separator is None:
        return True
    inside = folder.wire + session.known_naming.separator
    return any(row.selectable and row.wire.startswith(inside) for row in rows.values())


async def _rename_there(connection: Connection, old: bytes, new: bytes) -> Refused | None:
    try:
        await connection.run(b"RENAME ", mailbox_word(old), b" ", mailbox_word(new))
    except Refused as refused:
        # Done before a crash, and not noted?
        if not await _exists(connection, old) and await _exists(connection, new):
            return None
        return refused
    return None


def _note_renamed(
    mirror: Mirror, row: FolderRow, state: FolderState, wire: bytes, token: int, separator: bytes | None
) -> None:
    with mirror.changing():
        mirror.check_mover(token)
        for other in mirror.folders():
            if separator is not None and other.wire.startswith(row.wire + separator):
                moved = wire + other.wire.removeprefix(row.wire)
                mirror.db.execute("UPDATE folders SET wire = ? WHERE folder_id = ?", (moved, other.folder_id))
        mirror.put_folder(attrs.evolve(row, state=state, wire=wire))
        mirror.raise_head(state.modseq, hierarchy=True)


async def _update(
    session: "ImapSession",
    connection: Connection,
    rows: dict[FolderId, FolderRow],
    present: FolderRow,
    wanted: FolderState,
    token: int,
) -> None:
    selectable = not NOSELECT.items() <= dict(wanted.attributes).items()
    row = attrs.evolve(present, state=wanted, selectable=selectable)
    if selectable and not present.selectable:
        refused = await _make(connection, present.wire, wanted)
        if refused is not None:
            raise error_of(connection.endpoint, refused, doing=f"make folder {wanted.name!r}") from refused
        row = await _look_at_new(connection, row)
    if selectable and (wanted.subscribed != present.state.subscribed or not present.selectable):
        await _subscribe(connection, present.wire, wanted.subscribed)
    await session.ask(partial(_put, row=row, token=token))


async def _remove(
    session: "ImapSession",
    connection: Connection,
    rows: dict[FolderId, FolderRow],
    present: FolderRow,
    token: int,
) -> None:
    if any(row.state.parent_id == present.folder_id for row in rows.values()):
        raise RequestRefused(why=f"folder {present.state.name!r} has folders in it")
    occupied = await session.ask(Mirror.occupied_folders)
    if present.folder_id in occupied:
        raise RequestRefused(why=f"folder {present.state.name!r} holds items")
    remark = ""
    if present.selectable and present.wire != b"INBOX":
        remark = await delete_if_empty(connection, present)
    await session.ask(partial(_drop, row=present, token=token, remark=remark))


async def delete_if_empty(connection: Connection, folder: FolderRow) -> str:
    """The folder is gone at the server; it stays, with a remark, if somebody else's messages are in it."""
    try:
        found = await _status(connection, folder.wire, b"MESSAGES")
    except Refused:
        return ""
    if number(found.get(b"MESSAGES", 0)):
        return f"folder {folder.state.name!r} is left at the server, for messages in it that no move wrote"
    with suppress(Refused):
        await connection.run(b"UNSUBSCRIBE ", mailbox_word(folder.wire))
    try:
        await connection.run(b"DELETE ", mailbox_word(folder.wire))
    except Refused as refused:
        if await _exists(connection, folder.wire):
            raise error_of(
                connection.endpoint, refused, doing=f"delete folder {folder.state.name!r} ({quoted(folder.wire)!r})"
            ) from refused
    return ""


def _drop(mirror: Mirror, row: FolderRow, token: int, remark: str) -> None:
    with mirror.changing():
        mirror.check_mover(token)
        mirror.db.execute("DELETE FROM folders WHERE folder_id = ?", (row.folder_id,))
        mirror.db.execute("DELETE FROM strangers WHERE folder_id = ?", (row.folder_id,))
        mirror.raise_head(mirror.next_modseq(), hierarchy=True)
        if remark:
            mirror.remark(remark)
