"""What a look at the server told, held against the mirror, and put into it.

`compare` says what is new, lost and changed in one folder. What was lost in one place and came in another may be the
same message, moved; so may everything in a folder whose UIDVALIDITY changed. Both are told by content, which takes
reading: the caller does it (`refresh`), and hands the pairs to `apply`.

Where the server is right (open, locked) a difference is a change with the next number. Where the mirror is right
(sealed, retired) it is damage: the sums lose it, so verification sees it, and a row's modseq falls to -1, so that the
next state from the source, any state, mends it. No damage is what the server does not keep: a keyword that it drops; a
system flag that it drops where the folder says, too, that it does not keep it.
"""

from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Any, Final, NamedTuple

import apsw
import attrs

from moverq.endpoints.mirrored.mirror import (
    A_GUESS,
    STATE,
    FolderRow,
    Located,
    Mirror,
    item_state,
    joined,
    split,
    state_columns,
)
from moverq.errors import SourceChanged
from moverq.flow.sqlite import insert_rows
from moverq.model.change import ItemState
from moverq.model.ids import FolderId, ItemId, new_id, new_ids

DAMAGED: Final = -1
"""The modseq of an item that is not what the mover made it: any state is newer."""
UID_END: Final = 2**63 - 1
ASKED_MAX: Final = 500
"""Rows that are looked up one by one; beyond that a folder's are read through."""


class Seen(NamedTuple):
    """A message as the server lists it."""

    uid: int
    flags: int
    keywords: tuple[str, ...]
    received_ms: int
    size: int
    client_uid: int = 0
    """The UID that its clients see, where `uid` is a name of our own (`Look.uids_are_ours`); 0: none yet."""


@attrs.frozen(kw_only=True)
class Look:
    """What a look into one folder told, or a part of it: of a large folder it is told by UID, part after part."""

    folder_id: FolderId
    validity: int
    uidnext: int
    modseq: int
    items: int
    """EXISTS."""
    seen: Sequence[Seen]
    gone: Sequence[tuple[int, int]] = ()
    """The first and last UID of runs that are not there, whether they ever were or not."""
    whole: bool = False
    """`seen` is everything there is, from `first` to `last`."""
    first: int = 1
    last: int | None = None
    """The UIDs it tells of. None: to the end, so the folder has been looked into."""
    uids_are_ours: bool = False
    """`Seen.uid` names a message for us alone, and no client ever sees it."""
    client_validity: int = 0
    """With `uids_are_ours`: the UIDVALIDITY that clients see; 0: none. `uidnext` is then theirs too."""


OnLook = Callable[[Look], Awaitable[None]]
Late = Mapping[tuple[FolderId, int], tuple[int, bytes]]
"""Messages at a target that are to go, by folder and UID: their second and hash."""
NONE_LATE: Final[Late] = {}


class Looks(list[Look]):
    """Looks, kept as they come."""

    async def keep(self, look: Look) -> None:
        """An `OnLook`."""
        self.append(look)


@attrs.frozen(kw_only=True)
class Difference:
    """A look, held against the mirror."""

    look: Look
    new: Sequence[Seen]
    lost: Sequence[Located]
    changed: Sequence[tuple[int, Seen]]
    """(seq, as it is now)."""
    doubted: Sequence[tuple[Located, Seen]]
    """At the target, and not of the size or date that was sent."""
    verified: Sequence[int]
    strangers_gone: Sequence[int]
    reset: bool
    """UIDVALIDITY changed, or is another folder's: no UID means what it meant."""
    renumbered: Sequence[Located] = ()
    """Items that clients know by another UID now, so to them they are others. They are among `new` too."""
    incomplete: bool
    """What is known and what was told do not add up to EXISTS: look at everything."""
    flags_missing: int = 0
    """Those that some of the changed were to have, and have not."""
    flags_not_kept: int = 0
    """Of these at a target, those that the folder says not to keep. Not all that it says so of: some do not know."""

    @property
    def size(self) -> int:
        """How many rows it is about."""
        return len(self.new) + len(self.changed) + len(self.lost) + len(self.verified)

    @property
    def needs_reading(self) -> bool:
        """Some of its messages must be read, or all of them listed again, before it can be put into the mirror."""
        return bool(self.lost or self.renumbered or self.doubted or self.reset or self.incomplete)


def compare(mirror: Mirror, look: Look) -> Difference:
    """Reads only. Of the look only what is found different is held on to."""
    folder = mirror.folder(look.folder_id)
    reset = folder.server_validity not in (0, look.validity)
    known = _known(mirror, look, everything=look.whole or reset)
    if folder.server_items == A_GUESS and not mirror.standing().is_movers:
        reset = reset or any(seen.uid in known and not _is_alike(known[seen.uid], seen) for seen in look.seen)
    strangers = {
        uid
        for (uid,) in mirror.db.execute(
            "SELECT server_uid FROM strangers WHERE folder_id = ? AND server_uid BETWEEN ? AND ?", _range(look)
        )
    }
    if reset:
        new: list[Seen] = list(look.seen)
        lost = [_located(row) for row in known.values()]
        return Difference(
            look=attrs.evolve(look, seen=(), gone=()),
            new=new,
            lost=lost,
            changed=(),
            doubted=(),
            verified=(),
            strangers_gone=tuple(strangers),
            reset=True,
            incomplete=not look.whole,
        )
    new, changed, doubted, verified = [], [], [], []
    renumbered: list[Located] = []
    flags_missing = 0
    follows_uids = look.uids_are_ours and folder.native and not mirror.standing().is_movers
    for seen in look.seen:
        row = known.get(seen.uid)
        if row is None:
            if seen.uid not in strangers:
                new.append(seen)
            continue
        if follows_uids and not _keeps_uid(row, seen, look):
            renumbered.append(_located(row))
            new.append(seen)
            continue
        if row.server_flags != seen.flags or (
            row.server_keywords != joined(seen.keywords) and _are_others(row.server_keywords, seen.keywords)
        ):
            changed.append((row.seq, seen))
            flags_missing |= row.server_flags & ~seen.flags
        if not row.verified:
            if _fits(row, seen):
                verified.append(row.seq)
            else:
                doubted.append((_located(row), seen))
    present = {seen.uid for seen in look.seen}
    gone = known.keys() - present if look.whole else _within(known, look.gone)
    strangers_gone = strangers - present if look.whole else _within(strangers, look.gone)
    incomplete = False
    if not look.whole:
        had = mirror.db.execute(
            "SELECT count(*) FROM items WHERE folder_id = ? AND server_uid IS NOT NULL", (look.folder_id,)
        ).get
        incomplete = had + len(strangers) - len(strangers_gone) + len(new) - len(gone) != look.items
    return Difference(
        look=attrs.evolve(look, seen=(), gone=()),
        new=new,
        lost=[_located(known[uid]) for uid in sorted(gone)],
        changed=changed,
        doubted=doubted,
        verified=verified,
        strangers_gone=tuple(strangers_gone),
        reset=False,
        incomplete=incomplete,
        renumbered=renumbered,
        flags_missing=flags_missing,
    )


def _are_others(known: str, keywords: Sequence[str]) -> bool:
    """Keywords are the same in any case, and so in any order."""
    return sorted(known.lower().split("\n")) != sorted("\n".join(keywords).lower().split("\n"))


def _keeps_uid(row: "_Known", seen: Seen, look: Look) -> bool:
    """Is the UID that the mirror gave the item still the one that clients see, or one that nobody else will get?"""
    uid = row.state[2]
    return bool(uid == seen.client_uid if seen.client_uid else uid >= look.uidnext)


class _Known(NamedTuple):
    seq: int
    server_uid: int
    server_flags: int
    server_keywords: str
    verified: int
    normal_hash: bytes | None
    state: tuple[Any, ...]


def _known(mirror: Mirror, look: Look, *, everything: bool) -> dict[int, _Known]:
    sql = (
        f"SELECT seq, server_uid, server_flags, server_keywords, verified, normal_hash, {STATE} FROM items "
        f"WHERE folder_id = ? AND server_uid "
    )
    if everything or len(look.seen) + sum(last - first + 1 for first, last in look.gone) > ASKED_MAX:
        rows = mirror.db.execute(sql + "BETWEEN ? AND ?", _range(look))
    else:
        asked = {seen.uid for seen in look.seen}.union(*(range(first, last + 1) for first, last in look.gone))
        if not asked:
            return {}
        rows = mirror.db.execute(sql + "IN carray(?)", (look.folder_id, apsw.carray(array("q", sorted(asked)))))
    return {row[1]: tuple.__new__(_Known, (*row[:6], row[6:])) for row in rows}


def _range(look: Look) -> tuple[FolderId, int, int]:
    return look.folder_id, look.first, UID_END if look.last is None else look.last


def _within(uids: Iterable[int], runs: Sequence[tuple[int, int]]) -> set[int]:
    """Those of the UIDs that a run has."""
    found: set[int] = set()
    at, left = 0, sorted(uids)
    for first, last in sorted(runs):
        at = bisect_left(left, first, lo=at)
        end = bisect_right(left, last, lo=at)
        found.update(left[at:end])
        at = end
    return found


def _located(row: _Known) -> Located:
    return Located(row.seq, row.server_uid, row.normal_hash, item_state(row.state))


def _fits(row: _Known, seen: Seen) -> bool:
    """Is what the server lists of the size and the date that were sent? With a normal form the size says nothing."""
    return _is_alike(row, seen) and row.normal_hash is None


def _is_alike(row: _Known, seen: Seen) -> bool:
    received_ms, size = row.state[4], row.state[5]
    return bool(received_ms // 1000 == seen.received_ms // 1000 and size == seen.size)


# ---- into the mirror


def apply(
    mirror: Mirror,
    differences: Sequence[Difference],
    pairs: Mapping[tuple[FolderId, int], ItemId],
    *,
    orphans: Sequence[Located] = (),
    late: Late = NONE_LATE,
    is_movers: bool,
) -> None:
    """The mirror says what the looks told, in one transaction.

    `pairs`: which new message, by folder and UID, is which lost item. `late`: new messages that are to go.

    Raises:
        SourceChanged: the guard turned meanwhile, so it is open who is right; look again.
    """
    with mirror.changing():
        if mirror.standing().is_movers != is_movers:
            raise SourceChanged(why="the mailbox's guard turned while it was looked at")
        rows = {row.folder_id: row for row in mirror.folders()}
        lost = {found.state.item_id: found for difference in differences for found in difference.lost}
        lost |= {found.state.item_id: found for difference in differences for found in difference.renumbered}
        lost |= {found.state.item_id: found for found in orphans}
        for found in lost.values():
            # Out of the way of the unique indexes: UIDs may be given round.
            mirror.db.execute("UPDATE items SET server_uid = NULL, uid = ? WHERE seq = ?", (-found.seq, found.seq))
            _uncount(mirror, found.seq)
        for difference in differences:
            folder = _position(rows[difference.look.folder_id], difference)
            if is_movers:
                _mend(mirror, folder, difference, pairs, lost, late)
            else:
                folder = _follow(mirror, folder, difference, pairs, lost)
            if difference.look.last is None:
                sql = "DELETE FROM to_expunge WHERE folder_id = ? AND server_validity <> ?"
                mirror.db.execute(sql, (folder.folder_id, folder.server_validity))
            mirror.put_folder(folder)
            rows[folder.folder_id] = folder
        paired = set(pairs.values())
        for item_id, found in lost.items():
            if item_id not in paired:
                mirror.db.execute("DELETE FROM items WHERE seq = ?", (found.seq,))
                if not is_movers:
                    mirror.db.execute(
                        "INSERT OR REPLACE INTO items_gone VALUES (?, ?)", (item_id, mirror.next_modseq())
                    )


def _position(folder: FolderRow, difference: Difference) -> FolderRow:
    look = difference.look
    if look.last is not None:  # until it has been looked into it is as if it never was, but for what its UIDs mean
        return attrs.evolve(folder, server_validity=look.validity, server_modseq=0, server_items=-1)
    is_anew = difference.reset or folder.server_items == A_GUESS
    return attrs.evolve(
        folder,
        server_validity=look.validity,
        server_uidnext=0 if look.uids_are_ours else max(look.uidnext, 0 if is_anew else folder.server_uidnext),
        server_modseq=0 if difference.incomplete else look.modseq,
        server_items=-1 if difference.incomplete else look.items,
    )


def _follow(
    mirror: Mirror,
    folder: FolderRow,
    difference: Difference,
    pairs: Mapping[tuple[FolderId, int], ItemId],
    lost: Mapping[ItemId, Located],
) -> FolderRow:
    """The server is right: each difference is a change."""
    state = folder.state
    look = difference.look
    validity = look.client_validity or look.validity
    if folder.native and (difference.reset or look.client_validity not in (0, state.uidvalidity)):
        modseq = mirror.next_modseq()
        state = attrs.evolve(state, uidvalidity=validity, modseq=modseq)
        mirror.raise_head(modseq, hierarchy=True)
    elif folder.native and state.uidvalidity == 0:
        state = attrs.evolve(state, uidvalidity=validity)
    uidnext = state.uidnext
    if folder.native and look.uids_are_ours:
        uidnext = max(uidnext, look.uidnext)
    modseq = mirror.take_modseqs(len(difference.new)) if difference.new else 0
    fresh: list[tuple[Any, ...]] = []
    ids = new_ids(len(difference.new))
    for seen in sorted(difference.new):
        uid = (seen.client_uid if look.uids_are_ours else seen.uid) if folder.native else 0
        uid = uid or uidnext
        uidnext = max(uidnext, uid + 1)
        was = lost.get(pairs.get((folder.folder_id, seen.uid), ItemId(b""))) if pairs else None
        if was is None:
            item = ItemState(
                ItemId(next(ids)),
                folder.folder_id,
                uid,
                modseq,
                seen.received_ms,
                seen.size,
                b"",
                seen.flags,
                seen.keywords,
            )
            modseq += 1
            columns = state_columns(item)
            fresh.append((*columns, mirror.digest_of(item), seen.uid, seen.flags, columns[8], 1, 0, 0))
            continue
        item = was.state._replace(
            folder_id=folder.folder_id, uid=uid, modseq=modseq, flags=seen.flags, keywords=seen.keywords
        )
        modseq += 1
        digest = mirror.digest_of(item)
        mirror.db.execute(
            "UPDATE items SET folder_id = ?, uid = ?, modseq = ?, flags = ?, keywords = ?, digest = ?, server_uid = ?, "
            "server_flags = ?, server_keywords = ? WHERE seq = ?",
            (
                item.folder_id,
                item.uid,
                item.modseq,
                item.flags,
                "\n".join(item.keywords),
                digest,
                seen.uid,
                seen.flags,
                "\n".join(seen.keywords),
                was.seq,
            ),
        )
        mirror.count(folder.folder_id, 1, item.size, digest)
    insert_rows(
        mirror.db,
        f"INSERT INTO items ({STATE}, digest, server_uid, server_flags, server_keywords, verified, due, intent)",
        fresh,
    )
    mirror.count_rows(1, [(row[1], row[5], row[11]) for row in fresh])
    for seq, seen in difference.changed:
        _set_flags(mirror, seq, seen, modseq=mirror.next_modseq())
    if difference.verified:
        _note_verified(mirror, difference.verified)
    if folder.native:
        uidnext = max(uidnext, difference.look.uidnext)
    return attrs.evolve(folder, state=attrs.evolve(state, uidnext=uidnext))


def _mend(
    mirror: Mirror,
    folder: FolderRow,
    difference: Difference,
    pairs: Mapping[tuple[FolderId, int], ItemId],
    lost: Mapping[ItemId, Located],
    late: Late,
) -> None:
    """The mirror is right: what differs is damage, and what is there beside it a stranger."""
    for seen in difference.new:
        at = (folder.folder_id, seen.uid)
        was = lost.get(pairs.get(at, ItemId(b"")))
        if was is not None:
            mirror.db.execute(
                "UPDATE items SET uid = ?, server_uid = ?, server_flags = ?, server_keywords = ? WHERE seq = ?",
                (was.state.uid, seen.uid, seen.flags, "\n".join(seen.keywords), was.seq),
            )
            _recount(mirror, was.seq)
        elif at in late:
            validity = folder.server_validity
            mirror.db.execute(
                "DELETE FROM to_expunge WHERE (folder_id, server_validity, server_uid) IN ("
                "SELECT folder_id, server_validity, server_uid FROM to_expunge "
                "WHERE folder_id = ? AND server_validity <> ? AND received_s = ? AND hash = ? LIMIT 1)",
                (folder.folder_id, validity, *late[at]),
            )
            mirror.db.execute(
                "INSERT OR IGNORE INTO to_expunge VALUES (?, ?, ?, ?, ?)", (*at[:1], validity, seen.uid, *late[at])
            )
        else:
            mirror.db.execute(
                "INSERT OR REPLACE INTO strangers VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    folder.folder_id,
                    seen.uid,
                    new_id(),
                    mirror.next_modseq(),
                    seen.received_ms,
                    seen.size,
                    seen.flags,
                    "\n".join(seen.keywords),
                ),
            )
    mirror.db.executemany(
        "DELETE FROM strangers WHERE folder_id = ? AND server_uid = ?",
        [(folder.folder_id, uid) for uid in difference.strangers_gone],
    )
    if difference.verified:
        _note_verified(mirror, difference.verified)
    for seq, seen in difference.changed:
        (due, wanted, flags, keywords) = next(
            mirror.db.execute("SELECT due, flags, server_flags, server_keywords FROM items WHERE seq = ?", (seq,)),
            (1, 0, 0, ""),
        )
        if due:
            continue
        missing = {word.lower() for word in split(keywords)} - {word.lower() for word in seen.keywords}
        not_kept = wanted & (difference.flags_not_kept | ~flags)
        has_the_rest = not (wanted ^ seen.flags) & ~not_kept
        if has_the_rest and len(seen.keywords) + len(missing) == len(split(keywords)):
            # Some say that they take any keyword, and drop it. To write it again would go on without end. And a flag
            # that was not believed to be kept (`note_stored`) may be there all the same.
            mirror.db.execute(
                "UPDATE items SET server_flags = ?, server_keywords = ? WHERE seq = ?",
                (seen.flags, joined(seen.keywords), seq),
            )
            if missing:
                mirror.remark("the server does not keep a keyword", len(missing))
        else:
            _set_flags(mirror, seq, seen, modseq=DAMAGED)


def _note_verified(mirror: Mirror, seqs: Sequence[int]) -> None:
    mirror.db.execute("UPDATE items SET verified = 1 WHERE seq IN carray(?)", (apsw.carray(array("q", seqs)),))


def _set_flags(mirror: Mirror, seq: int, seen: Seen, *, modseq: int) -> None:
    row = mirror.db.execute(f"SELECT digest, {STATE} FROM items WHERE seq = ?", (seq,)).get
    if row is None:
        return
    old = item_state(row[1:])
    state = old._replace(flags=seen.flags, keywords=seen.keywords, modseq=modseq)
    digest = mirror.digest_of(state)
    keywords = "\n".join(seen.keywords)
    mirror.db.execute(
        "UPDATE items SET flags = ?, keywords = ?, server_flags = ?, server_keywords = ?, modseq = ?, digest = ? "
        "WHERE seq = ?",
        (seen.flags, keywords, seen.flags, keywords, modseq, digest, seq),
    )
    mirror.count(old.folder_id, -1, old.size, row[0])
    mirror.count(old.folder_id, 1, old.size, digest)


def _uncount(mirror: Mirror, seq: int) -> None:
    folder_id, size, digest = next(mirror.db.execute("SELECT folder_id, size, digest FROM items WHERE seq = ?", (seq,)))
    mirror.count(folder_id, -1, size, digest)


def _recount(mirror: Mirror, seq: int) -> None:
    folder_id, size, digest = next(mirror.db.execute("SELECT folder_id, size, digest FROM items WHERE seq = ?", (seq,)))
    mirror.count(folder_id, 1, size, digest)


# ---- what else a refresh asks and tells


def located_in(mirror: Mirror, folder_id: FolderId) -> list[Located]:
    """Every item of a folder that has a place at the server."""
    return [
        Located(seq, uid, normal, item_state(state))
        for seq, uid, normal, *state in mirror.db.execute(
            f"SELECT seq, server_uid, normal_hash, {STATE} FROM items WHERE folder_id = ? AND server_uid IS NOT NULL",
            (folder_id,),
        )
    ]


def unwanted(mirror: Mirror, validity: Mapping[FolderId, int]) -> dict[tuple[FolderId, int], list[bytes]]:
    """What is to go where it is met, by folder and second: what intents that were found not to be there would bring;
    and what is to be expunged by a UID of another UIDVALIDITY than the folder has now."""
    found: dict[tuple[FolderId, int], list[bytes]] = {}
    for folder_id, received_s, hash_ in mirror.db.execute("SELECT folder_id, received_s, hash FROM doubtful"):
        found.setdefault((folder_id, received_s), []).append(hash_)
    for folder_id, then, received_s, hash_ in mirror.db.execute(
        "SELECT folder_id, server_validity, received_s, hash FROM to_expunge WHERE hash <> x''"
    ):
        if validity.get(folder_id, then) != then:
            found.setdefault((folder_id, received_s), []).append(hash_)
    return found


def note_verdicts(mirror: Mirror, verdicts: Sequence[tuple[int, str]]) -> None:
    """These items have been looked at closely; what is to be told of them is remarked."""
    with mirror.changing():
        for seq, remark in verdicts:
            mirror.db.execute("UPDATE items SET verified = 1 WHERE seq = ?", (seq,))
            if remark:
                mirror.remark(remark)
