"""What the mover wants of a mailbox, put into the mirror before anything is done about it: durable intents.

    merge       items and changes, by `absent < live(modseq) < dead`
                 ├─ new bytes    a row without a server UID, under an intent's number      ─▶ APPEND ─▶ placed
                 ├─ other folder `to_move`, likewise without a UID                         ─▶ MOVE   ─▶ placed
                 ├─ other flags  `due`                                                     ─▶ STORE  ─▶ stored
                 └─ dead         the row is gone, `to_expunge`                             ─▶ EXPUNGE ─▶ expunged
    placed, stored, expunged     what was done, noted

No byte is added to a message, and an APPEND is not idempotent: an intent that nobody works on any more is *in doubt*,
and `settle` (in `writing`) looks at the server for what it would have brought, by content and date, counting equal
items. What is found is placed. What is not is forgotten here, so that it is written again, and remembered as
`doubtful`: should it come after all, it is known as our own second copy.

Blocking; each function is one transaction.
"""

import re
from array import array
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any, Final, NamedTuple

import apsw
import attrs

from moverq.endpoints.mirrored.learned import DAMAGED
from moverq.endpoints.mirrored.mirror import (
    LOCATED,
    STATE,
    FolderPlace,
    Located,
    Mirror,
    item_state,
    joined,
    located,
    split,
    state_columns,
)
from moverq.endpoints.mirrored.normal_form import as_sent, content_hash, normal_hash
from moverq.flow.sqlite import insert_rows
from moverq.model.change import BadItem, ChangeBatch, Gone, ItemContent, ItemState
from moverq.model.ids import FolderId, ItemId

TO_DO: Final = 0
"""The intent of work that nobody has begun."""
NOBODY: Final = -1
"""An intent that is none."""
NOTHING_LEFT_OUT: Final[Mapping[ItemId, tuple[int, tuple[str, ...]]]] = {}
_ATOM: Final = re.compile(r"[!#$&'+,\-./0-9:;<=>?@A-Z^_`a-z|}~]+")


class ToAppend(NamedTuple):
    """A message to write, with what it is for."""

    state: ItemState
    content: bytes
    """In the form in which it is taken there; for IMAP, with CRLF at the ends of its lines."""
    flags: int
    keywords: tuple[str, ...]
    """Those that IMAP can say."""


class Placed(NamedTuple):
    """An item that has a place at the server now."""

    item_id: ItemId
    server_uid: int


@attrs.frozen(kw_only=True)
class Merged:
    """What came of a batch: what must be appended, what was refused, what has no bytes here."""

    appends: tuple[ToAppend, ...] = ()
    bad: tuple[BadItem, ...] = ()
    missing: tuple[ItemId, ...] = ()
    places: Mapping[FolderId, FolderPlace] = attrs.Factory(dict)
    """Of the folders that the appends go to, or more."""


# ---- wanted


def merge_items(
    mirror: Mirror,
    items: Sequence[ItemContent],
    token: int,
    *,
    intent: int,
    item_bytes_max: int | None,
    can_move: bool,
    as_kept: Callable[[bytes], bytes] = as_sent,
    normal_hash: Callable[[bytes], bytes | None] = normal_hash,
) -> Merged:
    """Items with their bytes. Those that need an APPEND are rows under this intent. `as_kept`: the form in which the
    mail system takes what is not clean; `normal_hash`: of the form in which it may give it back."""
    appends: list[ToAppend] = []
    bad: list[BadItem] = []
    with mirror.changing():
        mirror.check_mover(token)
        folders = mirror.places()
        asked = [state.item_id for state, _ in items]
        present, dead = _present(mirror, asked), _dead(mirror, asked)
        uids: dict[FolderId, int] = {}
        taken = _uids_taken(mirror, [state for state, _ in items])
        fresh: list[tuple[Any, ...]] = []
        for state, content in items:
            found_hash = content_hash(content)
            if not state.content_hash:
                state = state._replace(content_hash=found_hash)
            item_id, folder_id, uid, modseq = state[:4]
            was = present.get(item_id)
            if item_id in dead or (was is not None and was.state.modseq >= modseq):
                continue
            folder = folders.get(folder_id)
            if folder is None or not folder.selectable:
                continue
            refusal = _refusal(mirror, taken, state, content, found_hash, item_bytes_max)
            if refusal is not None:
                bad.append(refusal)
                continue
            if uid >= uids.get(folder_id, 0):
                uids[folder_id] = uid + 1
            if was is not None:
                _give_round(taken, was.state, state)
                same = was.state.content_hash == state.content_hash and was.server_uid
                if same and (can_move or was.state.folder_id == folder_id):
                    _restate(mirror, was, state, folders)
                    continue
                _leave_place(mirror, was, folders)
                mirror.db.execute("DELETE FROM items WHERE seq = ?", (was.seq,))
            taken[folder_id, uid] = _Holder(item_id)
            keywords = sayable(state.keywords)
            if len(keywords) < len(state.keywords):
                mirror.remark("a keyword that IMAP cannot say was left out")
            other_form = normal_hash(content)
            said = _said(keywords)
            digest = mirror.digest_of(state)
            fresh.append((*state_columns(state), digest, None, state.flags, said, other_form, 0, 0, intent))
            kept = content if other_form is None else as_kept(content)
            appends.append(tuple.__new__(ToAppend, (state, kept, state.flags, keywords)))
        insert_rows(
            mirror.db,
            f"INSERT INTO items ({STATE}, digest, server_uid, server_flags, server_keywords, normal_hash, verified, "
            f"due, intent)",
            fresh,
        )
        mirror.raise_head(max((one.state.modseq for one in appends), default=0))
        _raise_uidnext(mirror, uids)
    return Merged(appends=tuple(appends), bad=tuple(bad), places=folders)


def merge_changes(mirror: Mirror, batch: ChangeBatch, token: int, *, can_move: bool) -> Merged:
    """States, tombstones, settings and delivery keys."""
    with mirror.changing():
        mirror.check_mover(token)
        folders = mirror.places()
        for gone in batch.items_gone:
            _bury(mirror, gone, folders)
        asked = [state.item_id for state in batch.items]
        present, dead = _present(mirror, asked), _dead(mirror, asked)
        missing: list[ItemId] = []
        taken = _uids_taken(mirror, batch.items)
        uids: dict[FolderId, int] = {}
        for state in batch.items:
            was = present.get(state.item_id)
            if state.item_id in dead or (was is not None and was.state.modseq >= state.modseq):
                continue
            folder = folders.get(state.folder_id)
            if (
                was is None
                or not was.server_uid
                or folder is None
                or not folder.selectable
                or state.content_hash not in (b"", was.state.content_hash)
                or (was.state.folder_id != state.folder_id and not can_move)
                or _is_taken(mirror, taken, state)
            ):
                missing.append(state.item_id)
                continue
            uids[state.folder_id] = max(uids.get(state.folder_id, 0), state.uid + 1)
            _give_round(taken, was.state, state)
            _restate(mirror, was, state._replace(content_hash=was.state.content_hash), folders)
        for setting in batch.settings:
            mirror.db.execute(
                "INSERT INTO settings VALUES (?, ?, ?) ON CONFLICT (name) DO UPDATE SET value = excluded.value, "
                "modseq = excluded.modseq WHERE excluded.modseq > modseq",
                (setting.name, setting.value, setting.modseq),
            )
            mirror.raise_head(setting.modseq)
        for key in batch.delivery_keys:
            mirror.db.execute(
                "INSERT OR IGNORE INTO delivery_keys VALUES (?, ?, ?, ?)",
                (key.key, key.content_digest, key.accepted_ms, key.modseq),
            )
            mirror.raise_head(key.modseq)
        _raise_uidnext(mirror, uids)
        mirror.raise_head(batch.through.modseq)
    return Merged(missing=tuple(missing))


def _refusal(
    mirror: Mirror,
    taken: "_Taken",
    state: ItemState,
    content: bytes,
    found_hash: bytes,
    item_bytes_max: int | None,
) -> BadItem | None:
    if item_bytes_max is not None and len(content) > item_bytes_max:
        return BadItem(state, "LargeItem", f"{len(content)} bytes, and the server takes {item_bytes_max}", raw=content)
    if (len(content), found_hash) != (state.size, state.content_hash):
        return BadItem(state, "CorruptItem", "the bytes are not those that the hash names", raw=content)
    if _is_taken(mirror, taken, state):
        return BadItem(state, "CorruptItem", f"UID {state.uid} is taken by another item", raw=content)
    return None


class _Holder(NamedTuple):
    """Who has a UID."""

    item_id: ItemId
    old_seq: int = 0
    """Of one from before the folder's last change, which may have been a new UIDVALIDITY; 0: it has it for good."""


_Taken = dict[tuple[FolderId, int], _Holder]


def _uids_taken(mirror: Mirror, states: Sequence[ItemState]) -> _Taken:
    """Who has the UIDs that these states are to have. Kept up to date by who gives some away."""
    by_folder: dict[FolderId, list[int]] = {}
    for state in states:
        by_folder.setdefault(state.folder_id, []).append(state.uid)
    return {
        (folder_id, uid): _Holder(item_id, seq if is_old else 0)
        for folder_id, uids in by_folder.items()
        for uid, item_id, seq, is_old in mirror.db.execute(
            "SELECT uid, item_id, seq, modseq < (SELECT modseq FROM folders WHERE folder_id = ?1) FROM items "
            "WHERE folder_id = ?1 AND uid IN carray(?2)",
            (folder_id, apsw.carray(array("q", uids))),
        )
    }


def _is_taken(mirror: Mirror, taken: _Taken, state: ItemState) -> bool:
    """By another item, for good. One that is told again with the UID that it has now is out of the way until then."""
    holder = taken.get((state.folder_id, state.uid))
    if holder is None or holder.item_id == state.item_id:
        return False
    if not holder.old_seq:
        return True
    mirror.db.execute("UPDATE items SET uid = -seq, modseq = ? WHERE seq = ?", (DAMAGED, holder.old_seq))
    del taken[state.folder_id, state.uid]
    return False


def _give_round(taken: _Taken, was: ItemState, state: ItemState) -> None:
    holder = taken.get((was.folder_id, was.uid))
    if holder is not None and holder.item_id == was.item_id:
        del taken[was.folder_id, was.uid]
    taken[state.folder_id, state.uid] = _Holder(state.item_id)


class _Present(NamedTuple):
    seq: int
    server_uid: int | None
    server_flags: int
    server_keywords: str
    digest: bytes
    state: ItemState


def _present(mirror: Mirror, item_ids: Sequence[ItemId]) -> dict[ItemId, _Present]:
    if not item_ids:
        return {}
    return {
        state[0]: _Present(seq, server_uid, flags, keywords, digest, item_state(state))
        for seq, server_uid, flags, keywords, digest, *state in mirror.db.execute(
            f"SELECT seq, server_uid, server_flags, server_keywords, digest, {STATE} FROM items "
            f"WHERE item_id IN carray(?)",
            (apsw.carray(tuple(item_ids)),),
        )
    }


def _dead(mirror: Mirror, item_ids: Sequence[ItemId]) -> set[ItemId]:
    if not item_ids:
        return set()
    sql = "SELECT item_id FROM items_gone WHERE item_id IN carray(?)"
    return {ItemId(item_id) for (item_id,) in mirror.db.execute(sql, (apsw.carray(tuple(item_ids)),))}


def _restate(mirror: Mirror, was: _Present, state: ItemState, folders: Mapping[FolderId, FolderPlace]) -> None:
    """The item's state is this; what the server lacks of it is due."""
    digest = mirror.digest_of(state)
    said = _said(sayable(state.keywords))
    differs = (state.flags, said.lower()) != (was.server_flags, was.server_keywords.lower())
    moves = state.folder_id != was.state.folder_id
    mirror.count(was.state.folder_id, -1, was.state.size, was.digest)
    if moves:
        mirror.db.execute(
            "INSERT OR REPLACE INTO to_move VALUES (?, ?, ?, ?)",
            (state.item_id, was.state.folder_id, folders[was.state.folder_id].server_validity, was.server_uid),
        )
    else:
        mirror.count(state.folder_id, 1, state.size, digest)
    mirror.db.execute(
        "UPDATE items SET folder_id = ?, uid = ?, modseq = ?, received_ms = ?, size = ?, flags = ?, keywords = ?, "
        "item_class = ?, properties = ?, digest = ?, due = max(due, ?), server_uid = ?, intent = ? WHERE seq = ?",
        (
            state.folder_id,
            state.uid,
            state.modseq,
            state.received_ms,
            state.size,
            state.flags,
            joined(state.keywords),
            state.item_class,
            state_columns(state)[10],
            digest,
            differs,
            None if moves else was.server_uid,
            TO_DO,
            was.seq,
        ),
    )
    mirror.raise_head(state.modseq)


def _bury(mirror: Mirror, gone: Gone, folders: Mapping[FolderId, FolderPlace]) -> None:
    was = _present(mirror, [ItemId(gone.id)]).get(ItemId(gone.id))
    if was is not None:
        _leave_place(mirror, was, folders)
        mirror.db.execute("DELETE FROM items WHERE seq = ?", (was.seq,))
    mirror.db.execute(
        "INSERT INTO items_gone VALUES (?, ?) "
        "ON CONFLICT (item_id) DO UPDATE SET modseq = max(modseq, excluded.modseq)",
        (gone.id, gone.modseq),
    )
    mirror.raise_head(gone.modseq)


def _leave_place(mirror: Mirror, was: _Present, folders: Mapping[FolderId, FolderPlace]) -> None:
    """What the item has at the server is to be expunged."""
    folder_id, uid = was.state.folder_id, was.server_uid
    if uid is not None:
        mirror.count(folder_id, -1, was.state.size, was.digest)
        validity = folders[folder_id].server_validity
    else:
        moving = _left(mirror, was.state.item_id)
        if moving is None:
            return
        folder_id, validity, uid = moving
    _expunge_later(mirror, was.state.item_id, (folder_id, validity, uid))


def _expunge_later(mirror: Mirror, item_id: ItemId, there: tuple[FolderId, int, int]) -> None:
    """What the item has there (folder, UIDVALIDITY, UID) is to go; inside a transaction, while it has a row."""
    sql = "SELECT received_ms, coalesce(normal_hash, content_hash) FROM items WHERE item_id = ?"
    received_ms, hash_ = next(mirror.db.execute(sql, (item_id,)))
    mirror.db.execute("INSERT OR IGNORE INTO to_expunge VALUES (?, ?, ?, ?, ?)", (*there, received_ms // 1000, hash_))


def _raise_uidnext(mirror: Mirror, uids: Mapping[FolderId, int]) -> None:
    mirror.db.executemany(
        "UPDATE folders SET uidnext = max(uidnext, ?) WHERE folder_id = ?",
        [(uidnext, folder_id) for folder_id, uidnext in uids.items()],
    )


@lru_cache(4096)
def sayable(keywords: tuple[str, ...]) -> tuple[str, ...]:
    """Those that are atoms."""
    return tuple(keyword for keyword in keywords if _ATOM.fullmatch(keyword))


@lru_cache(4096)
def _said(keywords: tuple[str, ...]) -> str:
    """As `server_keywords` has them."""
    return "\n".join(sorted(keywords))


# ---- done


def note_placed(
    mirror: Mirror,
    placed: Sequence[Placed],
    token: int,
    *,
    left_out: Mapping[ItemId, tuple[int, tuple[str, ...]]] = NOTHING_LEFT_OUT,
) -> None:
    """These items have a place at the server, where their bytes are durable. `left_out`: those that it has with these
    flags and keywords only."""
    with mirror.changing():
        mirror.check_mover(token)
        place(mirror, placed)
        for item_id, (flags, kept) in left_out.items():
            keywords = mirror.db.execute(
                "UPDATE items SET server_flags = ?, server_keywords = ? WHERE item_id = ? RETURNING keywords",
                (flags, _said(kept), item_id),
            ).get
            missing = len(sayable(split(keywords))) - len(kept) if keywords is not None else 0
            if missing:
                mirror.remark("the server does not keep a keyword", missing)


def place(mirror: Mirror, placed: Sequence[Placed]) -> set[ItemId]:
    """Inside a transaction: these items, which were on their way, are there. Returns those of them that are still
    wanted, and had no place already."""
    if not placed:
        return set()
    rows = insert_rows(
        mirror.db,
        "WITH given(item_id, uid) AS (",
        placed,
        after=") UPDATE items SET server_uid = given.uid, intent = 0 FROM given "
        "WHERE items.item_id = given.item_id AND items.server_uid IS NULL "
        "RETURNING item_id, folder_id, size, digest, server_uid",
    )
    mirror.count_rows(1, [row[1:4] for row in rows])
    if mirror.db.execute("SELECT 1 FROM strangers LIMIT 1").get is not None:
        taken = [(folder_id, uid) for _, folder_id, _, _, uid in rows]
        mirror.db.executemany("DELETE FROM strangers WHERE folder_id = ? AND server_uid = ?", taken)
    return {row[0] for row in rows}


def highest_uid(mirror: Mirror, folder_id: FolderId) -> int:
    """Of what is known to be in the folder at the server."""
    found = mirror.db.execute(
        "SELECT max(server_uid) FROM (SELECT max(server_uid) AS server_uid FROM items WHERE folder_id = ?1 "
        "UNION ALL SELECT max(server_uid) FROM strangers WHERE folder_id = ?1)",
        (folder_id,),
    ).get
    return int(found or 0)


def _left(mirror: Mirror, item_id: ItemId) -> tuple[FolderId, int, int] | None:
    """Where the item that is being moved was (folder, UIDVALIDITY, UID): nowhere, from now on."""
    found: tuple[FolderId, int, int] | None = mirror.db.execute(
        "DELETE FROM to_move WHERE item_id = ? RETURNING from_folder, server_validity, server_uid", (item_id,)
    ).get
    return found


def forget(mirror: Mirror, item_ids: Sequence[ItemId], token: int) -> None:
    """These items are not at the server, and nobody writes them: the server refused them."""
    with mirror.changing():
        mirror.check_mover(token)
        mirror.db.executemany(
            "DELETE FROM items WHERE item_id = ? AND server_uid IS NULL", [(item_id,) for item_id in item_ids]
        )


def in_doubt(mirror: Mirror, at_work: Iterable[int]) -> list[Located]:
    """Items on their way that nobody brings, but for those that are only waiting to be moved."""
    rows = mirror.db.execute(
        f"SELECT {LOCATED} FROM items WHERE server_uid IS NULL AND (intent <> 0 OR "
        f"item_id IN (SELECT item_id FROM to_move)) AND intent NOT IN carray(?)",
        (apsw.carray(array("q", (NOBODY, *at_work))),),
    )
    return [located(row) for row in rows]


def is_anything_left(mirror: Mirror, at_work: Iterable[int]) -> bool:
    """An intent is in doubt, or something is due."""
    (is_any,) = next(mirror.db.execute(_IS_ANY_DUE))
    return bool(is_any or in_doubt(mirror, at_work))


def moving(mirror: Mirror, item_ids: Sequence[ItemId]) -> list[tuple[ItemId, FolderId, int, int]]:
    """Of those that are being moved, what they were called before: folder, UIDVALIDITY, UID."""
    sql = "SELECT item_id, from_folder, server_validity, server_uid FROM to_move WHERE item_id IN carray(?)"
    return list(mirror.db.execute(sql, (apsw.carray(tuple(item_ids)),)))


def note_settled(
    mirror: Mirror, found: Sequence[Placed], absent: Sequence[Located], *, lost: Collection[ItemId] = ()
) -> None:
    """What intents in doubt came to: `found` at the server, or `absent`. Of the absent, one that was to be moved still
    is, unless it is `lost`: not at its old place either."""
    with mirror.changing():
        there = place(mirror, found)
        for item_id, _ in found:
            moving = _left(mirror, item_id) if item_id in there else None
            if moving is not None:
                _expunge_later(mirror, item_id, moving)
        for located in absent:
            state = located.state
            if state.item_id in lost:
                moving = _left(mirror, state.item_id)
                if moving is not None:  # by another UID it may still be there
                    _expunge_later(mirror, state.item_id, moving)
            elif mirror.db.execute("SELECT 1 FROM to_move WHERE item_id = ?", (state.item_id,)).get is not None:
                mirror.db.execute("UPDATE items SET intent = 0 WHERE item_id = ?", (state.item_id,))
                continue
            forgotten = mirror.db.execute(
                "DELETE FROM items WHERE seq = ? AND item_id = ? AND server_uid IS NULL RETURNING seq",
                (located.seq, state.item_id),
            ).get
            if forgotten is None:
                continue
            mirror.db.execute(
                "INSERT INTO doubtful (folder_id, received_s, hash) VALUES (?, ?, ?)",
                (state.folder_id, state.received_ms // 1000, located.normal_hash or state.content_hash),
            )


# ---- work that is due


@attrs.frozen(kw_only=True)
class Due:
    """What the server lacks of what the mirror wants, without bytes. By folder, as the server calls it."""

    moves: Mapping[tuple[FolderId, FolderId], Sequence[tuple[ItemId, int]]]
    flags: Mapping[FolderId, Sequence[tuple[int, int, tuple[str, ...]]]]
    """(server UID, flags, keywords)"""
    expunges: Mapping[FolderId, Sequence[int]]
    validity: Mapping[FolderId, int]
    wires: Mapping[FolderId, bytes]

    def __bool__(self) -> bool:
        return bool(self.moves or self.flags or self.expunges)


_IS_ANY_DUE: Final = """
    SELECT EXISTS (SELECT 1 FROM to_move) OR EXISTS (SELECT 1 FROM items WHERE due = 1)
        OR EXISTS (SELECT 1 FROM to_expunge)
"""


def due(mirror: Mirror) -> Due:
    (is_any,) = next(mirror.db.execute(_IS_ANY_DUE))
    if not is_any:
        return Due(moves={}, flags={}, expunges={}, validity={}, wires={})
    moves: dict[tuple[FolderId, FolderId], list[tuple[ItemId, int]]] = {}
    for item_id, folder_id, from_folder, uid in mirror.db.execute(
        "SELECT i.item_id, i.folder_id, m.from_folder, m.server_uid FROM to_move m JOIN items i USING (item_id) "
        "WHERE i.server_uid IS NULL AND i.intent = 0 ORDER BY m.server_uid"
    ):
        moves.setdefault((from_folder, folder_id), []).append((item_id, uid))
    flags: dict[FolderId, list[tuple[int, int, tuple[str, ...]]]] = {}
    for folder_id, uid, bits, keywords in mirror.db.execute(
        "SELECT folder_id, server_uid, flags, keywords FROM items WHERE due = 1 AND server_uid IS NOT NULL"
    ):
        flags.setdefault(folder_id, []).append((uid, bits, sayable(split(keywords))))
    expunges: dict[FolderId, list[int]] = {}
    folders = mirror.places()
    for folder_id, validity, uid in mirror.db.execute("SELECT folder_id, server_validity, server_uid FROM to_expunge"):
        if folder_id in folders and folders[folder_id].server_validity == validity:
            expunges.setdefault(folder_id, []).append(uid)
    return Due(
        moves=moves,
        flags=flags,
        expunges=expunges,
        validity={folder_id: row.server_validity for folder_id, row in folders.items()},
        wires={folder_id: row.wire for folder_id, row in folders.items()},
    )


def note_moved(
    mirror: Mirror, moved: Mapping[ItemId, int], asked: Sequence[tuple[ItemId, int]], *, copied: bool
) -> None:
    """After a MOVE, or a COPY: who is where. Who was not moved is no longer at its old place either: lost."""
    with mirror.changing():
        for item_id, _ in asked:
            moving = _left(mirror, item_id)
            if item_id not in moved:
                mirror.db.execute("DELETE FROM items WHERE item_id = ? AND server_uid IS NULL", (item_id,))
                continue
            place(mirror, [Placed(item_id, moved[item_id])])
            if copied and moving is not None:
                _expunge_later(mirror, item_id, moving)


def note_begun(mirror: Mirror, item_ids: Iterable[ItemId], *, intent: int) -> None:
    """These moves are being made, under this intent."""
    with mirror.changing():
        mirror.db.executemany("UPDATE items SET intent = ? WHERE item_id = ?", [(intent, i) for i in item_ids])


def note_stored(
    mirror: Mirror,
    folder_id: FolderId,
    stored: Sequence[tuple[int, int, tuple[str, ...]]],
    *,
    left_out: int,
    flags_kept: int = -1,
) -> None:
    """The server has these flags; of those that the folder says not to keep, the ones that it showed before. One that
    it keeps all the same it will show, and of one that it drops, where it counts changes, it says nothing any more.
    `left_out`: keywords that it does not take."""
    with mirror.changing():
        mirror.db.executemany(
            "UPDATE items SET due = 0, server_flags = ? & (? | server_flags), server_keywords = ? "
            "WHERE folder_id = ? AND server_uid = ?",
            [(bits, flags_kept, "\n".join(sorted(keywords)), folder_id, uid) for uid, bits, keywords in stored],
        )
        if left_out:
            mirror.remark("the server does not keep a keyword", left_out)


def note_expunged(mirror: Mirror, folder_id: FolderId, uids: Sequence[int]) -> None:
    """These are gone at the server."""
    with mirror.changing():
        mirror.db.executemany(
            "DELETE FROM to_expunge WHERE folder_id = ? AND server_uid = ?", [(folder_id, uid) for uid in uids]
        )
