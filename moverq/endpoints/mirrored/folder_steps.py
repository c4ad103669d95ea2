"""Folder steps at the mail system, each noted in the mirror when it has been done.

A step that was done and not noted is met again after a crash: a folder to create that exists is taken as it is, one to
rename that is at its new place already is noted, one to delete that is gone is noted. A name that the server refuses is
tried in plainer forms; the mirror keeps the real one.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from itertools import groupby
from typing import TYPE_CHECKING

import attrs

from moverq.endpoints.base import FolderStep, StepKind
from moverq.endpoints.mirrored.listed import annotations_of
from moverq.endpoints.mirrored.mirror import FolderRow, Mirror
from moverq.endpoints.mirrored.tree import NOSELECT
from moverq.errors import MoveError, Remedy, RequestRefused
from moverq.model.change import INBOX, FolderState
from moverq.model.ids import FolderId

if TYPE_CHECKING:
    from moverq.endpoints.mirrored.session import MailSession, Places


async def take_steps(session: "MailSession", steps: Sequence[FolderStep], token: int) -> None:
    """Each step is at the server and in the mirror, in order. Steps before a refused one stand."""
    await session.mirror.ask(partial(_check, token=token))
    if not steps:
        return
    async with session.places() as places:
        rows = _by_id(await session.mirror.ask(Mirror.folders))
        for is_create, run in groupby(steps, key=lambda step: step.kind is StepKind.CREATE):
            if is_create:
                await _create(session, places, rows, [step.folder for step in run], token)
            else:
                for step in run:
                    await _step(session, places, rows, step, token)


async def _step(
    session: "MailSession", places: "Places", rows: dict[FolderId, FolderRow], step: FolderStep, token: int
) -> None:
    """Any step but CREATE; `rows` are the folders as they are then."""
    folder_id = step.folder.folder_id
    present = rows.get(folder_id)
    if present is None:
        return
    if step.kind is StepKind.REMOVE:
        await _remove(session, places, rows, present, token)
        del rows[folder_id]
    elif step.kind is StepKind.MOVE:
        _check_place(rows, _by_place(rows.values()), step.folder)
        present = await _rename(session, places, rows, present, step.folder, token)
        await _update(session, places, present, step.folder, token)
        # What is below it has other names there now.
        rows.update(_by_id(await session.mirror.ask(Mirror.folders)))
    else:
        wanted = attrs.evolve(step.folder, parent_id=present.state.parent_id, name=present.state.name)
        rows[folder_id] = await _update(session, places, present, wanted, token)


def _by_id(rows: Iterable[FolderRow]) -> dict[FolderId, FolderRow]:
    return {row.folder_id: row for row in rows}


def _check(mirror: Mirror, token: int) -> None:
    with mirror.changing():
        mirror.check_mover(token)


Place = tuple[FolderId | None, str]
"""Parent and name."""


def _by_place(rows: Iterable[FolderRow]) -> dict[Place, FolderId]:
    return {(row.state.parent_id, row.state.name): row.folder_id for row in rows}


def _check_place(rows: Mapping[FolderId, FolderRow], by_place: Mapping[Place, FolderId], folder: FolderState) -> None:
    at = folder.parent_id
    while at is not None:
        if at == folder.folder_id:
            raise RequestRefused(why=f"folder {folder.name!r} cannot be put inside itself")
        if at not in rows:
            raise RequestRefused(why=f"folder {folder.name!r} has a parent that is not there")
        at = rows[at].state.parent_id
    if by_place.get((folder.parent_id, folder.name), folder.folder_id) != folder.folder_id:
        raise RequestRefused(why=f"there is a folder {folder.name!r} already")


def _put(mirror: Mirror, rows: Sequence[FolderRow], token: int, remarks: Sequence[str]) -> None:
    with mirror.changing():
        mirror.check_mover(token)
        for row in rows:
            before = mirror.db.execute("SELECT uidnext FROM folders WHERE folder_id = ?", (row.folder_id,)).get
            uidnext = max(row.state.uidnext, before or 0)
            mirror.put_folder(attrs.evolve(row, state=attrs.evolve(row.state, uidnext=uidnext)))
            mirror.raise_head(row.state.modseq, hierarchy=True)
        for remark in remarks:
            mirror.remark(remark)


# ---- new folders


async def _create(
    session: "MailSession",
    places: "Places",
    rows: dict[FolderId, FolderRow],
    folders: Sequence[FolderState],
    token: int,
) -> None:
    """These folders are there, and in `rows`, a level of the tree at a time: a far server is waited for as often as the
    tree is deep."""
    left = [folder for folder in folders if folder.folder_id not in rows]
    while left:
        level = [folder for folder in left if folder.parent_id is None or folder.parent_id in rows] or left[:1]
        now = {folder.folder_id for folder in level}
        left = [folder for folder in left if folder.folder_id not in now]
        taken = {row.wire for row in rows.values()}
        planned, refused = _plan(session, rows, level, taken)
        made, failed = await _make(places, planned, taken, _meant(rows.values()))
        for row in made:
            if row.selectable:
                await places.annotate(row.wire, annotations_of(row.state.attributes), {})
        await session.mirror.ask(partial(_put, rows=made, token=token, remarks=_told(session, places, made)))
        why = failed or refused
        if why is not None:
            raise why
        rows.update(_by_id(made))


Names = Iterator[bytes]


def _plan(
    session: "MailSession", rows: dict[FolderId, FolderRow], level: Sequence[FolderState], taken: set[bytes]
) -> tuple[list[tuple[FolderRow, Names]], RequestRefused | None]:
    """Each folder with the name it is to have there, which is taken then, and those to try after it; up to one that can
    have no place, and why."""
    planned: list[tuple[FolderRow, Names]] = []
    there, by_place = dict(rows), _by_place(rows.values())
    for folder in level:
        try:
            _check_place(there, by_place, folder)
        except RequestRefused as refused:
            return planned, refused
        parent = rows[folder.parent_id].wire if folder.parent_id is not None else None
        known = session.known_naming.candidates(parent, folder.name, mark=folder.folder_id.hex()[:8])
        names = (wire for wire in known if wire not in taken)
        wire = next(names, None)
        if wire is None:
            return planned, RequestRefused(why=f"every name for folder {folder.name!r} is taken at the target")
        row = FolderRow(
            state=folder,
            wire=wire,
            native=False,
            selectable=not NOSELECT.items() <= dict(folder.attributes).items(),
            server_special=folder.special_use,
            server_subscribed=folder.subscribed,
        )
        taken.add(wire)
        there[row.folder_id] = row
        by_place[folder.parent_id, folder.name] = row.folder_id
        planned.append((row, names))
    return planned, None


def _meant(rows: Iterable[FolderRow]) -> set[tuple[bytes, int]]:
    """What makes two names one folder's: a server that has no small letters says the same UIDVALIDITY of both."""
    return {(row.wire.lower(), row.server_validity) for row in rows if row.selectable}


async def _make(
    places: "Places", planned: Sequence[tuple[FolderRow, Names]], taken: set[bytes], meant: set[tuple[bytes, int]]
) -> tuple[list[FolderRow], MoveError | None]:
    """Those that are there now, under a name that was taken; and why the first that is not is not. None of them is one
    that is `meant` by another row."""
    rows: list[FolderRow] = []
    failed: MoveError | None = None
    made = iter(await places.make([(row.wire, row.state) for row, _ in planned if row.selectable]))
    for row, names in planned:
        if row.selectable:
            told = _unless_meant(row, next(made), meant)
            while _is_the_name(told) and (wire := next(names, None)) is not None:
                taken.add(wire)  # by this one: two names may have the same plainer form
                row = attrs.evolve(row, wire=wire)
                (tried,) = await places.make([(wire, row.state)])
                told = _unless_meant(row, tried, meant)
            if isinstance(told, MoveError):
                failed = failed or told
                continue
            row = _begun(row, told)
            meant |= _meant([row])
        rows.append(row)
    return rows, failed


def _is_the_name(told: object) -> bool:
    """Is this what may be better under another name? What ends by waiting is not: the folder would keep that name."""
    return isinstance(told, MoveError) and told.remedy is not Remedy.WAIT


def _unless_meant(
    row: FolderRow, told: tuple[int, int] | MoveError, meant: set[tuple[bytes, int]]
) -> tuple[int, int] | MoveError:
    if isinstance(told, MoveError) or (row.wire.lower(), told[0]) not in meant:
        return told
    return RequestRefused(why=f"the server takes the name of folder {row.state.name!r} for another folder's")


def _begun(row: FolderRow, made: tuple[int, int]) -> FolderRow:
    """UIDVALIDITY and UIDNEXT before anything is written there: where what we write begins."""
    validity, uidnext = made
    return attrs.evolve(row, server_validity=validity, server_uidnext=uidnext)


def _told(session: "MailSession", places: "Places", made: Sequence[FolderRow]) -> list[str]:
    """What the report should tell of these."""
    told = list(places.remarks)
    places.remarks.clear()
    for row in made:
        name = row.state.name
        if name != INBOX and session.known_naming.levels(row.wire)[-1] != name:
            there = row.wire.decode("ascii", "replace")
            told.append(f"the server does not take the folder name {name!r}; there it is called {there}")
    return told


# ---- one step each


async def _rename(
    session: "MailSession",
    places: "Places",
    rows: dict[FolderId, FolderRow],
    present: FolderRow,
    wanted: FolderState,
    token: int,
) -> FolderRow:
    """The folder, with all below it, is where the step says."""
    parent = rows[wanted.parent_id].wire if wanted.parent_id is not None else None
    taken = {row.wire for row in rows.values()} - {present.wire}
    refused: MoveError | None = None
    for wire in session.known_naming.candidates(parent, wanted.name, mark=wanted.folder_id.hex()[:8]):
        if wire in taken:
            continue
        if wire == present.wire or not _has_body(session, rows, present):
            refused = None
        else:
            refused = await places.rename(present, wire)
        if refused is None:
            state = attrs.evolve(present.state, parent_id=wanted.parent_id, name=wanted.name)
            await session.mirror.ask(
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
        if not _is_the_name(refused):
            break
    assert refused is not None
    raise refused


def _has_body(session: "MailSession", rows: dict[FolderId, FolderRow], folder: FolderRow) -> bool:
    """Is there anything of the folder at the server? One that only holds folders exists by what it holds."""
    if folder.selectable or session.known_naming.separator is None:
        return True
    inside = folder.wire + session.known_naming.separator
    return any(row.selectable and row.wire.startswith(inside) for row in rows.values())


def _note_renamed(
    mirror: Mirror, row: FolderRow, state: FolderState, wire: bytes, token: int, separator: bytes | None
) -> None:
    with mirror.changing():
        mirror.check_mover(token)
        for other in mirror.folders():
            if separator is not None and other.wire.startswith(row.wire + separator):
                moved = wire + other.wire.removeprefix(row.wire)
                mirror.db.execute("UPDATE folders SET wire = ? WHERE folder_id = ?", (moved, other.folder_id))
        for there in mirror.were_there():
            if there == row.wire or (separator is not None and there.startswith(row.wire + separator)):
                moved = wire + there.removeprefix(row.wire)
                mirror.db.execute("UPDATE OR REPLACE were_there SET wire = ? WHERE wire = ?", (moved, there))
        mirror.put_folder(attrs.evolve(row, state=state, wire=wire))
        mirror.raise_head(state.modseq, hierarchy=True)


async def _update(
    session: "MailSession", places: "Places", present: FolderRow, wanted: FolderState, token: int
) -> FolderRow:
    selectable = not NOSELECT.items() <= dict(wanted.attributes).items()
    row = attrs.evolve(present, state=wanted, selectable=selectable)
    if selectable and not present.selectable:
        (made,) = await places.make([(row.wire, wanted)])
        if isinstance(made, MoveError):
            raise made
        row = _begun(row, made)
    elif selectable and wanted.subscribed != present.state.subscribed:
        await places.subscribe(present.wire, wanted.subscribed)
    if selectable:
        await places.annotate(present.wire, annotations_of(wanted.attributes), present.state.attributes)
    await session.mirror.ask(partial(_put, rows=[row], token=token, remarks=_told(session, places, ())))
    return row


async def _remove(
    session: "MailSession",
    places: "Places",
    rows: dict[FolderId, FolderRow],
    present: FolderRow,
    token: int,
) -> None:
    if any(row.state.parent_id == present.folder_id for row in rows.values()):
        raise RequestRefused(why=f"folder {present.state.name!r} has folders in it")
    occupied = await session.mirror.ask(Mirror.occupied_folders)
    if present.folder_id in occupied:
        raise RequestRefused(why=f"folder {present.state.name!r} holds items")
    # One that only held folders too: some systems make an ordinary one of it, or keep what is empty now.
    is_users = present.wire == b"INBOX" or present.wire in await session.mirror.ask(Mirror.were_there)
    remark = "" if is_users else await delete_if_empty(places, present)
    await session.mirror.ask(partial(_drop, row=present, token=token, remark=remark))


async def delete_if_empty(places: "Places", folder: FolderRow) -> str:
    """The folder is gone at the mail system; it stays, with a remark, if somebody else's messages are in it."""
    if await places.delete(folder):
        return ""
    return f"folder {folder.state.name!r} is left at the server, for messages in it that no move wrote"


def _drop(mirror: Mirror, row: FolderRow, token: int, remark: str) -> None:
    with mirror.changing():
        mirror.check_mover(token)
        mirror.db.execute("DELETE FROM folders WHERE folder_id = ?", (row.folder_id,))
        mirror.db.execute("DELETE FROM strangers WHERE folder_id = ?", (row.folder_id,))
        mirror.raise_head(mirror.next_modseq(), hierarchy=True)
        if remark:
            mirror.remark(remark)
