"""The mbox files follow the mirror: appends, moves, flags and removals; and what came of those that nobody saw end.

    appending    at the end; found again by the name on the separator
    rewriting    in the middle; done again from its journal

An append that was cut short leaves at the most a message that is not whole: it is told by its bytes, and removed. A
move is an append in one folder, and then a removal in the other.

Nothing waits while a file is locked: the mirror is asked before and after.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import msgpack

from moverq.endpoints.files import numbers
from moverq.endpoints.mbox import appending, rewriting
from moverq.endpoints.mbox.appending import Announced, Message, token_for
from moverq.endpoints.mbox.index import Entry, Index, read_message, read_raw
from moverq.endpoints.mbox.message import SEPARATOR, taken_apart
from moverq.endpoints.mbox.rewriting import Changes
from moverq.endpoints.mirrored import intents
from moverq.endpoints.mirrored.intents import Due, Merged, Placed, ToAppend
from moverq.endpoints.mirrored.mirror import Located, Mirror
from moverq.endpoints.mirrored.normal_form import is_same
from moverq.flow.batches import in_batches
from moverq.model.change import BadItem
from moverq.model.ids import FolderId, ItemId

if TYPE_CHECKING:
    from moverq.endpoints.mbox.session import MboxSession


# ---- appends


async def append_all(session: "MboxSession", merged: Merged, token: int) -> tuple[BadItem, ...]:
    """Every message of an intent that is at work is in its file, and has its place in the mirror; none is refused.

    Cancelled, or an error: the intent is in doubt.
    """
    wires = await _wires(session)
    given = await session.mirror.ask(
        partial(numbers.intents_of, item_ids=[one.state.item_id for one in merged.appends])
    )
    by_folder: dict[FolderId, list[ToAppend]] = defaultdict(list)
    for one in merged.appends:
        if one.state.item_id in given and one.state.folder_id in wires:
            by_folder[one.state.folder_id].append(one)
    for folder_id, some in by_folder.items():
        messages = [
            appending.stored(
                one.state.item_id,
                given[one.state.item_id][0],
                one.content,
                received_ms=one.state.received_ms,
                flags=one.state.flags,
                words=one.keywords,
            )
            for one in some
        ]
        placed = await _append_to(session, folder_id, wires[folder_id], messages)
        await session.mirror.ask(partial(_note_placed, folder_id=folder_id, placed=placed, token=token))
    return ()


async def _append_to(
    session: "MboxSession", folder_id: FolderId, wire: bytes, messages: Sequence[Message]
) -> dict[ItemId, bytes]:
    """The base of each, in the folder's file now; none where there is no file."""
    path = await session.path(wire)
    async with session.writing:
        await _recover_folder(session, folder_id, wire)
        index = await session.whole_index(wire)
        if index.stamp.size:
            known = {word.lower() for word in index.base.keywords}
            new = frozenset(word for one in messages for word in one.keywords if word.lower() not in known)
            if new:
                await _rewrite(session, folder_id, wire, Changes(keywords=new, validity=session.validity))
                index = await session.whole_index(wire)

        def run() -> tuple[Index, list[bytes]] | None:
            try:
                return appending.append(
                    path,
                    messages,
                    announcement=session.announcement(folder_id),
                    validity=session.validity,
                    known=index,
                )
            except FileNotFoundError:
                return None  # somebody removed the folder: what was to go there is lost to it

        done = await session.work(run, doing="append messages")
        if done is None:
            return {}
        await session.work(partial(appending.withdraw, session.announcement(folder_id)), doing="append messages")
        session.note_index(wire, done[0])
        return {one.item_id: base for one, base in zip(messages, done[1], strict=True)}


def _note_placed(mirror: Mirror, *, folder_id: FolderId, placed: Mapping[ItemId, bytes], token: int) -> None:
    with mirror.changing():
        mirror.check_mover(token)
        number = numbers.number_some(mirror, folder_id, list(placed.values()))
        intents.place(mirror, [Placed(item_id, number[base]) for item_id, base in placed.items()])


async def _wires(session: "MboxSession") -> dict[FolderId, bytes]:
    return {row.folder_id: row.wire for row in await session.mirror.ask(Mirror.folders) if row.selectable}


# ---- in doubt


async def settle(session: "MboxSession") -> None:
    """No intent is in doubt: its message was looked for by its name, and is there or not. No rewrite is either."""
    wires = await _wires(session)
    await _recover(session, wires)
    doubted = await session.mirror.ask(partial(intents.in_doubt, at_work=frozenset(session.mirror.intents)))
    if not doubted:
        return
    given = await session.mirror.ask(partial(numbers.intents_of, item_ids=[one.state.item_id for one in doubted]))
    by_folder: dict[FolderId, list[Located]] = defaultdict(list)
    for located in doubted:
        by_folder[located.state.folder_id].append(located)
    for folder_id, some in by_folder.items():
        found: dict[ItemId, bytes] = {}
        if folder_id in wires:
            wire = wires[folder_id]
            tokens = {
                located.state.item_id: token_for(located.state.item_id, given[located.state.item_id][0])
                for located in some
                if located.state.item_id in given
            }
            found, torn = await _came_of(session, wire, some, tokens)
            if torn:
                async with session.writing:
                    await _rewrite(session, folder_id, wire, Changes(gone=frozenset(torn)))
                found, _ = await _came_of(session, wire, some, tokens)
        absent = [located for located in some if located.state.item_id not in found]
        await session.mirror.ask(partial(_note_settled, folder_id=folder_id, found=found, absent=absent))


async def _came_of(
    session: "MboxSession", wire: bytes, some: Sequence[Located], tokens: Mapping[ItemId, bytes]
) -> tuple[dict[ItemId, bytes], set[bytes]]:
    """The bases of those that are there, and of those that are there in part."""
    index = await session.whole_index(wire)
    path = await session.path(wire)
    named = {entry.token: (base, entry) for base, entry in index.entries.items() if entry.token}

    def run() -> tuple[dict[ItemId, bytes], set[bytes]]:
        found: dict[ItemId, bytes] = {}
        torn: set[bytes] = set()
        for located in some:
            base, entry = named.get(tokens.get(located.state.item_id, b""), (b"", None))
            if entry is None:
                continue
            if _is_whole(session, path, entry, base, located):
                found[located.state.item_id] = base
            elif not _holds_more(path, entry):
                torn.add(base)
        return found, torn

    return await session.work(run, doing="look what came of an append")


def _is_whole(session: "MboxSession", path: bytes, entry: Entry, base: bytes, located: Located) -> bool:
    content = read_message(path, entry, base)
    if content is None:
        return False
    if not located.state.content_hash:
        return len(content) == located.state.size
    return is_same(content, located.state.content_hash, located.normal_hash, session.normal)


def _holds_more(path: bytes, entry: Entry) -> bool:
    """Did somebody else write behind a message that was cut short, in the middle of a line, so that theirs is in it?"""
    return SEPARATOR.search(read_raw(path, entry)[1]) is not None


def _note_settled(
    mirror: Mirror, *, folder_id: FolderId, found: Mapping[ItemId, bytes], absent: Sequence[Located]
) -> None:
    with mirror.changing():
        number = numbers.number_some(mirror, folder_id, list(found.values()))
    intents.note_settled(mirror, [Placed(item_id, number[base]) for item_id, base in found.items()], absent)


# ---- what needs no bytes


async def work_off(session: "MboxSession") -> None:
    """Nothing is due: places, flags and removals are what the mirror wants."""
    due = await session.mirror.ask(intents.due)
    if not due:
        return
    await _recover(session, await _wires(session))
    due = await session.mirror.ask(intents.due)
    for (from_folder, to_folder), asked in due.moves.items():
        if from_folder in due.wires and to_folder in due.wires:
            await _move(session, due, from_folder, to_folder, asked)
    due = await session.mirror.ask(intents.due)
    for folder_id in due.flags.keys() | due.expunges.keys():
        if folder_id in due.wires:
            await _store_and_expunge(session, due, folder_id)


async def _move(
    session: "MboxSession",
    due: Due,
    from_folder: FolderId,
    to_folder: FolderId,
    asked: Sequence[tuple[ItemId, int]],
) -> None:
    """Appended there as they stand here, a bounded batch at a time, and to be removed here from then on."""
    here, there = due.wires[from_folder], due.wires[to_folder]
    path = await session.path(here)
    index = await session.whole_index(here)
    bases = await session.mirror.ask(
        partial(numbers.bases_of, folder_id=from_folder, numbers=[number for _, number in asked])
    )
    wanted = []
    for item_id, number in asked:
        base = bases[number][0] if number in bases else b""
        wanted.append(_ToMove(item_id, number, base, index.entries.get(base)))
    for some in in_batches(wanted, lambda one: one.bytes, bytes_max=session.bytes_max):
        with session.mirror.intending() as intent:
            begin = partial(intents.note_begun, item_ids=[one.item_id for one in some], intent=intent)
            await session.mirror.ask(begin)
            messages = await session.work(partial(_read_as_they_are, path, some, intent), doing="read messages")
            placed = await _append_to(session, to_folder, there, messages)
            moving = [(one.item_id, one.number) for one in some]
            await session.mirror.ask(partial(_note_moved, folder_id=to_folder, placed=placed, asked=moving))


class _ToMove(NamedTuple):
    item_id: ItemId
    number: int
    base: bytes
    entry: Entry | None
    """None: it is not there."""

    @property
    def bytes(self) -> int:
        return self.entry.end - self.entry.begin if self.entry is not None else 0


def _read_as_they_are(path: bytes, some: Sequence[_ToMove], intent: int) -> list[Message]:
    """The messages for another folder, where their UIDs are others."""
    found = []
    for one in some:
        if one.entry is None or read_message(path, one.entry, one.base) is None:
            continue
        said, bare = taken_apart(read_raw(path, one.entry)[1])
        token = token_for(one.item_id, intent)
        found.append(Message(one.item_id, token, one.entry.received_ms, bare, said.flags, one.entry.keywords))
    return found


def _note_moved(
    mirror: Mirror, *, folder_id: FolderId, placed: Mapping[ItemId, bytes], asked: Sequence[tuple[ItemId, int]]
) -> None:
    with mirror.changing():
        number = numbers.number_some(mirror, folder_id, list(placed.values()))
    intents.note_moved(mirror, {item_id: number[base] for item_id, base in placed.items()}, asked, copied=True)


async def _store_and_expunge(session: "MboxSession", due: Due, folder_id: FolderId) -> None:
    flags, expunges = due.flags.get(folder_id, ()), due.expunges.get(folder_id, ())
    asked = [*(uid for uid, _, _ in flags), *expunges]
    bases = await session.mirror.ask(partial(numbers.bases_of, folder_id=folder_id, numbers=asked))
    gone = frozenset(bases[uid][0] for uid in expunges if uid in bases)
    changes = Changes(
        flags={bases[uid][0]: (bits, words) for uid, bits, words in flags if uid in bases},
        gone=gone,
        keywords=frozenset(word for _, _, words in flags for word in words),
        validity=session.validity,
    )
    async with session.writing:
        await _rewrite(session, folder_id, due.wires[folder_id], changes, flags=flags, expunges=expunges)


# ---- rewrites


async def _rewrite(
    session: "MboxSession",
    folder_id: FolderId,
    wire: bytes,
    changes: Changes,
    *,
    flags: Sequence[tuple[int, int, tuple[str, ...]]] = (),
    expunges: Sequence[int] = (),
) -> None:
    """The changes are made, and the mirror knows: `flags` and `expunges` by their numbers."""
    path, journal = await session.path(wire), session.journal(folder_id)
    numbered = await session.mirror.ask(partial(numbers.known, folder_id=folder_id))

    def note(there: set[bytes], renamed: dict[bytes, bytes]) -> bytes:
        bases = {number: base for base, number in numbered.items()}
        stored = [one for one in flags if bases.get(one[0]) in there]
        again = [(numbered[old], new) for old, new in renamed.items() if old in numbered]
        return bytes(msgpack.packb((stored, list(expunges), again)))

    def run() -> bytes | None:
        return rewriting.rewrite(path, changes, journal, note)

    said = await session.work(run, doing="change messages")
    session.forget_files(wire)
    if said is None:
        said = note(set(), {})  # there is no such file, and so nothing in it
    await _note_rewritten(session, folder_id, said)


async def _recover(session: "MboxSession", wires: Mapping[FolderId, bytes]) -> None:
    """No rewrite is cut short, they are done; and no separator, they are gone."""
    async with session.writing:
        for folder_id, wire in wires.items():
            await _recover_folder(session, folder_id, wire)


async def _recover_folder(session: "MboxSession", folder_id: FolderId, wire: bytes) -> None:
    """The same for one folder, for who holds `writing`."""
    journal, announcement = session.journal(folder_id), session.announcement(folder_id)

    def cut_short() -> tuple[bool, Announced | None]:
        return rewriting.is_announced(journal), appending.announced(announcement)

    is_rewrite, append = await session.work(cut_short, doing="look for what was cut short")
    if is_rewrite:
        path = await session.path(wire)
        said = await session.work(partial(rewriting.recover, path, journal), doing="change messages")
        session.forget_files(wire)
        await _note_rewritten(session, folder_id, said)
    if append is not None:
        await _rewrite(session, folder_id, wire, Changes(torn=append))
        await session.work(partial(appending.withdraw, announcement), doing="end an append")


async def _note_rewritten(session: "MboxSession", folder_id: FolderId, said: bytes | None) -> None:
    if said is not None:
        await session.mirror.ask(partial(_note_changes, folder_id=folder_id, note=said))
    await session.work(partial(rewriting.forget, session.journal(folder_id)), doing="remove a journal")


def _note_changes(mirror: Mirror, *, folder_id: FolderId, note: bytes) -> None:
    stored, expunged, renamed = msgpack.unpackb(note)
    with mirror.changing():
        numbers.rename(mirror, folder_id=folder_id, gone=expunged, bases=renamed)
    if stored:
        flags = [(uid, bits, tuple(words)) for uid, bits, words in stored]
        intents.note_stored(mirror, folder_id, flags, left_out=0)
    if expunged:
        intents.note_expunged(mirror, folder_id, expunged)


__all__ = ["append_all", "settle", "work_off"]
