"""The Maildir follows the mirror: deliveries, moves, flags, removals; and what came of those that nobody saw end.

A delivery's file name is chosen before it is made, from its intent, which is durable by then: a name no other file ever
has. So what is in doubt needs no reading: the name is there, or it is not. A move is one rename, so a file is at one of
its two places; flags and removals are done again without harm.

Every change of names is on the disk before it is noted: the folder is synced once for all that was done in it.
"""

import os
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import attrs

from moverq.endpoints.files import numbers
from moverq.endpoints.files.owner import Owner
from moverq.endpoints.maildir import folder, names, side_files
from moverq.endpoints.maildir.folder import Scan
from moverq.endpoints.maildir.layout import Layout
from moverq.endpoints.mirrored import intents
from moverq.endpoints.mirrored.intents import Due, Merged, Placed, ToAppend
from moverq.endpoints.mirrored.mirror import FolderRow, Located, Mirror
from moverq.flow.folders import sync_folder
from moverq.model.change import BadItem
from moverq.model.ids import FolderId, ItemId

if TYPE_CHECKING:
    from moverq.endpoints.maildir.session import MaildirSession


class Named(NamedTuple):
    """An item, and the file that it is there."""

    item_id: ItemId
    base: bytes


def base_for(item_id: ItemId, received_ms: int, intent: int) -> bytes:
    """The name of the delivery that an intent makes of an item: of both in full, for ids may be alike at any end."""
    return b"%d.Q%xI%s.moverq" % (max(0, received_ms // 1000), intent, item_id.hex().encode())


# ---- deliveries


async def append_all(session: "MaildirSession", merged: Merged, token: int) -> tuple[BadItem, ...]:
    """Every message of an intent that is at work is in its folder, and has its place in the mirror; none is refused.

    Cancelled, or an error: the intent is in doubt.
    """
    layout = await session.layout()
    rows = {row.folder_id: row for row in await session.mirror.ask(Mirror.folders)}
    intents_of = await session.mirror.ask(
        partial(numbers.intents_of, item_ids=[one.state.item_id for one in merged.appends])
    )
    by_folder: dict[FolderId, list[ToAppend]] = defaultdict(list)
    for one in merged.appends:
        if one.state.item_id in intents_of:
            by_folder[one.state.folder_id].append(one)
    for folder_id, some in by_folder.items():
        wire = rows[folder_id].wire
        named = [
            Named(
                one.state.item_id, base_for(one.state.item_id, one.state.received_ms, intents_of[one.state.item_id][0])
            )
            for one in some
        ]
        delivered = await session.work(partial(_deliver, layout, wire, some, named), doing="deliver messages")
        if delivered is not None:
            for (_, base), rel in zip(named, delivered.rels, strict=True):
                session.note_file(rows[folder_id].wire, base, rel)
            await session.mirror.ask(partial(_note_delivered, folder_id=folder_id, delivered=delivered, token=token))
    return ()


class _Delivered(NamedTuple):
    """Who is there, and the keywords of those that could not have all of theirs."""

    named: Sequence[Named]
    rels: Sequence[bytes]
    kept: Mapping[ItemId, tuple[int, tuple[str, ...]]]
    left_out: int


def _deliver(layout: Layout, wire: bytes, messages: Sequence[ToAppend], named: Sequence[Named]) -> _Delivered | None:
    """None: the folder is not there."""
    path = layout.path(wire)
    if not folder.is_folder(path):
        return None
    owner = Owner.of(path)
    words_there = {word for one in messages for word in one.keywords}
    letters = side_files.letters_for(layout.beside(wire), words_there, owner)
    kept: dict[ItemId, tuple[int, tuple[str, ...]]] = {}
    left_out = 0
    rels: list[bytes] = []
    for one, (item_id, base) in zip(messages, named, strict=True):
        words = tuple(word for word in one.keywords if word in letters)
        if len(words) < len(one.keywords):
            kept[item_id] = (one.state.flags, words)
            left_out += len(one.keywords) - len(words)
        info = names.letters_of(one.state.flags, "".join(letters[word] for word in words))
        rels.append(folder.deliver(path, base, one.content, received_ms=one.state.received_ms, info=info, owner=owner))
    sync_folder(os.path.join(path, b"cur"))
    return _Delivered(named, rels, kept, left_out)


def _note_delivered(mirror: Mirror, *, folder_id: FolderId, delivered: _Delivered, token: int) -> None:
    with mirror.changing():
        mirror.check_mover(token)
        number = numbers.number_some(mirror, folder_id, [base for _, base in delivered.named])
        intents.place(mirror, [Placed(item_id, number[base]) for item_id, base in delivered.named])
    if delivered.kept:
        bases = dict(delivered.named)
        stored = [(number[bases[item_id]], flags, words) for item_id, (flags, words) in delivered.kept.items()]
        intents.note_stored(mirror, folder_id, stored, left_out=delivered.left_out)


# ---- in doubt


async def settle(session: "MaildirSession") -> None:
    """No intent is in doubt: its file was looked for by its name, and is there or not."""
    doubted = await session.mirror.ask(partial(intents.in_doubt, at_work=frozenset(session.mirror.intents)))
    if not doubted:
        return
    layout = await session.layout()
    rows = {row.folder_id: row for row in await session.mirror.ask(Mirror.folders)}
    known = await session.mirror.ask(partial(numbers.intents_of, item_ids=[one.state.item_id for one in doubted]))
    by_folder: dict[FolderId, list[Located]] = defaultdict(list)
    for located in doubted:
        by_folder[located.state.folder_id].append(located)
    for folder_id, some in by_folder.items():
        found: list[Named] = []
        if folder_id in rows:
            scan = await session.whole_scan(rows[folder_id].wire)
            for located in some:
                intent, moving = known.get(located.state.item_id, (0, None))
                if moving is None:
                    base = base_for(located.state.item_id, located.state.received_ms, intent)
                    bases = [base] if base in scan.files else []
                    path = layout.path(rows[folder_id].wire)
                    await session.work(partial(folder.discard, path, base), doing="clear tmp")
                else:
                    bases = await _moved_to(session, rows, located, moving, scan)
                found += (Named(located.state.item_id, base) for base in bases)
        there = {item_id for item_id, _ in found}
        absent = [located for located in some if located.state.item_id not in there]
        await session.mirror.ask(partial(_note_settled, folder_id=folder_id, found=found, absent=absent))


async def _moved_to(
    session: "MaildirSession",
    rows: Mapping[FolderId, FolderRow],
    located: Located,
    moving: tuple[FolderId, int],
    scan: Scan,
) -> list[bytes]:
    """The name that the item has at its new place, if it is there: then it is not at its old one."""
    from_folder, number = moving
    bases = await session.mirror.ask(partial(numbers.bases_of, folder_id=from_folder, numbers=[number]))
    if number not in bases:
        return []
    base, _ = bases[number]
    if from_folder in rows and base in (await session.whole_scan(rows[from_folder].wire)).files:
        return []
    return [name for name in (_other_base(base, located.state.item_id), base) if name in scan.files][:1]


def _note_settled(mirror: Mirror, *, folder_id: FolderId, found: Sequence[Named], absent: Sequence[Located]) -> None:
    with mirror.changing():
        number = numbers.number_some(mirror, folder_id, [base for _, base in found])
        intents.place(mirror, [Placed(item_id, number[base]) for item_id, base in found])
        mirror.db.executemany("DELETE FROM to_move WHERE item_id = ?", [(item_id,) for item_id, _ in found])
    intents.note_settled(mirror, (), absent)


# ---- what needs no bytes


async def work_off(session: "MaildirSession") -> None:
    """Nothing is due: places, flags and removals are what the mirror wants."""
    due = await session.mirror.ask(intents.due)
    if not due:
        return
    for (from_folder, to_folder), asked in due.moves.items():
        if from_folder in due.wires and to_folder in due.wires:
            await _move(session, due, from_folder, to_folder, asked)
    due = await session.mirror.ask(intents.due)
    for folder_id in due.flags.keys() | due.expunges.keys():
        if folder_id in due.wires:
            await _store_and_expunge(session, due, folder_id)


async def _move(
    session: "MaildirSession",
    due: Due,
    from_folder: FolderId,
    to_folder: FolderId,
    asked: Sequence[tuple[ItemId, int]],
) -> None:
    layout = await session.layout()
    here, there = due.wires[from_folder], due.wires[to_folder]
    bases = await session.mirror.ask(
        partial(numbers.bases_of, folder_id=from_folder, numbers=[number for _, number in asked])
    )
    wanted = [(item_id, bases[number][0]) for item_id, number in asked if number in bases]
    taken = (await session.whole_scan(there)).files.keys() & {base for _, base in wanted}
    moved = _Moved()
    with session.mirror.intending() as intent:
        await session.mirror.ask(partial(intents.note_begun, item_ids=[item_id for item_id, _ in asked], intent=intent))
        for attempt in range(2):
            if attempt:
                session.forget_files(here)
            scan = await session.whole_scan(here, having=[base for _, base in wanted])
            rename = partial(_rename_over, layout, here, there, wanted, scan=scan, taken=taken)
            wanted = await session.work(partial(rename, moved=moved), doing="move messages")
            if not wanted:
                break
        # Who is in neither folder, somebody else changed or removed: lost to its place, as at any server.
        session.forget_files(here)
        session.forget_files(there)
        await session.mirror.ask(partial(_note_moved, folder_id=to_folder, moved=moved, asked=asked))


@attrs.define
class _Moved:
    """Who is at the new place, and what each says there."""

    named: list[Named] = attrs.Factory(list)
    said: list[tuple[int, tuple[str, ...]]] = attrs.Factory(list)
    left_out: int = 0


def _rename_over(
    layout: Layout,
    here: bytes,
    there: bytes,
    wanted: Sequence[tuple[ItemId, bytes]],
    *,
    scan: Scan,
    taken: Collection[bytes],
    moved: _Moved,
) -> list[tuple[ItemId, bytes]]:
    """Flags as they are; keywords by the letters of the new folder, which may be others. Returns those that are not
    where the scan met them."""
    source, target = layout.path(here), layout.path(there)
    if not folder.is_folder(target):
        return []
    old_letters = side_files.read_keywords(layout.beside(here))
    before = {
        base: names.said(names.parts(scan.files[base][4:]).letters, old_letters)
        for _, base in wanted
        if base in scan.files
    }
    words_there = {word for _, words in before.values() for word in words}
    letters = side_files.letters_for(layout.beside(there), words_there, Owner.of(target))
    missed: list[tuple[ItemId, bytes]] = []
    for item_id, base in wanted:
        if base not in before:
            missed.append((item_id, base))
            continue
        flags, words = before[base]
        kept = tuple(word for word in words if word in letters)
        name = names.with_letters(scan.files[base][4:], flags, "".join(letters[word] for word in kept))
        new_base = base
        if base in taken or b"/" in base:
            new_base = _other_base(base, item_id)
            name = names.with_base(name, new_base)
        try:
            os.rename(os.path.join(source, scan.files[base]), os.path.join(target, b"cur", name))
        except FileNotFoundError:
            missed.append((item_id, base))
            continue
        moved.named.append(Named(item_id, new_base))
        moved.said.append((flags, kept))
        moved.left_out += len(words) - len(kept)
    _sync(target)
    _sync(source)
    return missed


def _other_base(base: bytes, item_id: ItemId) -> bytes:
    """A name for a file that comes to a folder where another has its own, or had it where it comes from."""
    return b"%s.%s" % (base.replace(b"/", b"."), item_id.hex().encode())


def _note_moved(mirror: Mirror, *, folder_id: FolderId, moved: _Moved, asked: Sequence[tuple[ItemId, int]]) -> None:
    with mirror.changing():
        number = numbers.number_some(mirror, folder_id, [base for _, base in moved.named])
    intents.note_moved(mirror, {item_id: number[base] for item_id, base in moved.named}, asked, copied=False)
    if moved.left_out:
        stored = [
            (number[base], flags, words) for (_, base), (flags, words) in zip(moved.named, moved.said, strict=True)
        ]
        intents.note_stored(mirror, folder_id, stored, left_out=moved.left_out)


async def _store_and_expunge(session: "MaildirSession", due: Due, folder_id: FolderId) -> None:
    wire = due.wires[folder_id]
    layout = await session.layout()
    flags, expunges = list(due.flags.get(folder_id, ())), list(due.expunges.get(folder_id, ()))
    asked = [*(uid for uid, _, _ in flags), *expunges]
    bases = await session.mirror.ask(partial(numbers.bases_of, folder_id=folder_id, numbers=asked))
    done = _Done(expunged=[uid for uid in expunges if uid not in bases])
    for attempt in range(2):
        if attempt:
            session.forget_files(wire)
        scan = await session.whole_scan(wire, having=[base for base, _ in bases.values()])
        await session.work(
            partial(_apply, layout, wire, scan, bases=bases, flags=flags, expunges=expunges, done=done),
            doing="change messages",
        )
        if not done.missed:
            break
        flags = [one for one in flags if one[0] in done.missed]
        expunges = [uid for uid in expunges if uid in done.missed]
    # A file that was not met twice is gone: that is all that an expunge wants, and of flags the next look tells.
    await session.mirror.ask(
        partial(intents.note_stored, folder_id=folder_id, stored=done.stored, left_out=done.left_out)
    )
    gone = [*done.expunged, *(uid for uid in expunges if uid in done.missed)]
    if gone:
        await session.mirror.ask(partial(intents.note_expunged, folder_id=folder_id, uids=gone))


@attrs.define
class _Done:
    """What came of flags and expunges, by number."""

    stored: list[tuple[int, int, tuple[str, ...]]] = attrs.Factory(list)
    left_out: int = 0
    expunged: list[int] = attrs.Factory(list)
    missed: set[int] = attrs.Factory(set)


def _apply(
    layout: Layout,
    wire: bytes,
    scan: Scan,
    *,
    bases: Mapping[int, tuple[bytes, bytes]],
    flags: Sequence[tuple[int, int, tuple[str, ...]]],
    expunges: Sequence[int],
    done: _Done,
) -> None:
    """`done.missed`: those that are not where the scan met them. The scan follows what is done."""
    path = layout.path(wire)
    done.missed = set()
    letters: Mapping[str, str] = {}
    if folder.is_folder(path):
        words_there = {word for _, _, words in flags for word in words}
        letters = side_files.letters_for(layout.beside(wire), words_there, Owner.of(path))
    for uid, bits, words in flags:
        if uid not in bases:
            continue
        base = bases[uid][0]
        kept = tuple(word for word in words if word in letters)
        try:
            rel = scan.files[base]
            name = names.with_letters(rel[4:], bits, "".join(letters[word] for word in kept))
            os.rename(os.path.join(path, rel), os.path.join(path, b"cur", name))
        except (FileNotFoundError, KeyError):
            done.missed.add(uid)
        else:
            scan.files[base] = b"cur/" + name
            done.left_out += len(words) - len(kept)
            done.stored.append((uid, bits, kept))
    for uid in expunges:
        if uid not in bases:
            continue
        try:
            os.unlink(os.path.join(path, scan.files[bases[uid][0]]))
        except (FileNotFoundError, KeyError):
            done.missed.add(uid)
        else:
            del scan.files[bases[uid][0]]
            done.expunged.append(uid)
    _sync(path)


def _sync(path: bytes) -> None:
    for place in (b"cur", b"new"):
        with suppress(FileNotFoundError):
            sync_folder(os.path.join(path, place))


__all__ = ["append_all", "settle", "work_off"]
