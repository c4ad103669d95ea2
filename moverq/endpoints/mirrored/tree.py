"""The folders that a server lists, held against those the mirror knows: which is which, and what changed.

Names are no identity: folders are renamed, swapped, deleted and made anew. In this order a listed folder is a known
one: by OBJECTID; by name and UIDVALIDITY; by UIDVALIDITY alone, where its name is gone (renamed); by name alone
(UIDVALIDITY changed: the folder was rebuilt, and its messages are told by content). What is left is new, or gone.

By UIDVALIDITY alone is a guess: two folders may have the same one, and a new one that of a deleted one. So it is where
UIDNEXT is lower than it was: a server was restored, or made a new folder of the old name and UIDVALIDITY, and gives its
UIDs once more. All of it is looked at then, and where one message is another one all are told by content.
"""

from collections.abc import Collection, Sequence

import attrs

from moverq.endpoints.mirrored.folder_names import Naming
from moverq.endpoints.mirrored.listed import Listed
from moverq.endpoints.mirrored.mirror import A_GUESS, FolderRow, Mirror
from moverq.model.change import INBOX, NO_PROPERTIES, FolderState
from moverq.model.ids import FolderId, new_id

NOSELECT = {"\\Noselect": "1"}
"""The attribute of a folder that only holds folders."""


@attrs.frozen(kw_only=True)
class TreePlan:
    """What the mirror's folders are to be. `changed` of them differ for clients, so they take a change number."""

    rows: tuple[FolderRow, ...]
    changed: frozenset[FolderId]
    dropped: tuple[FolderId, ...]


def match(known: Sequence[FolderRow], listed: Sequence[Listed]) -> dict[bytes, FolderRow]:
    """By the name at the server, which known folder a listed one is."""
    found: dict[bytes, FolderRow] = {}
    rows = {row.folder_id: row for row in known}
    left = {one.wire: one for one in listed}

    def take(one: Listed, row: FolderRow, *, is_a_guess: bool = False) -> None:
        del left[one.wire], rows[row.folder_id]
        went_back = one.validity == row.server_validity and 0 < one.uidnext < row.server_uidnext
        is_a_guess = is_a_guess or (one.selectable and went_back)
        found[one.wire] = attrs.evolve(row, server_modseq=0, server_items=A_GUESS) if is_a_guess else row

    by_object = {row.mailbox_object: row for row in known if row.mailbox_object}
    for one in list(left.values()):
        row = by_object.get(one.mailbox_object)
        if row is not None and row.folder_id in rows:
            take(one, row)
    by_wire = {row.wire: row for row in rows.values()}
    for one in list(left.values()):
        row = by_wire.get(one.wire)
        if row is not None and row.server_validity in (0, one.validity):
            take(one, row)
    for one in list(left.values()):
        renamed = [
            row
            for row in rows.values()
            if one.selectable
            and row.server_validity
            and row.server_validity == one.validity
            and not (row.mailbox_object and one.mailbox_object)
            and one.uidnext >= row.server_uidnext
            and row.wire != b"INBOX"
            and one.wire != b"INBOX"
        ]
        if len(renamed) == 1:
            take(one, renamed[0], is_a_guess=True)
    for one in list(left.values()):
        row = by_wire.get(one.wire)
        if row is not None and row.folder_id in rows:
            take(one, row)
    return found


def plan_tree(known: Sequence[FolderRow], listed: Sequence[Listed], naming: Naming) -> TreePlan:
    """Where the server is right: the tree as it lists it, under ids that stay."""
    everything = _with_parents(listed, naming)
    matched = match(known, everything)
    ids = {one.wire: matched[one.wire].folder_id if one.wire in matched else FolderId(new_id()) for one in everything}
    kept = set(ids.values())
    rows: list[FolderRow] = []
    for one in everything:
        parent = naming.parent_of(one.wire)
        parent_id = ids[parent] if parent is not None else None
        before = matched.get(one.wire)
        if before is None:
            row = _made(one, ids[one.wire], parent_id, naming)
        else:
            row = _moved(before, one, parent_id, naming, kept)
        rows.append(row)
    rows = _told_apart(rows, naming)
    known_states = {row.folder_id: row.state for row in known}
    changed = {row.folder_id for row in rows if row.state != known_states.get(row.folder_id)}
    dropped = tuple(row.folder_id for row in known if row.folder_id not in kept)
    return TreePlan(rows=tuple(rows), changed=frozenset(changed), dropped=dropped)


def _with_parents(listed: Sequence[Listed], naming: Naming) -> list[Listed]:
    """Parents before children; what no LIST names, but a child's name does, is a folder that only holds folders."""
    by_wire = {one.wire: one for one in listed}
    for one in listed:
        parent = naming.parent_of(one.wire)
        while parent is not None and parent not in by_wire:
            by_wire[parent] = Listed(wire=parent, selectable=False)
            parent = naming.parent_of(parent)
    return [by_wire[wire] for wire in sorted(by_wire, key=lambda wire: (len(naming.levels(wire)), wire))]


def _told_apart(rows: list[FolderRow], naming: Naming) -> list[FolderRow]:
    """Two names there may say the same word: `R&D` and `R&-D`, or two namespaces have it. The folder that says it as we
    would keeps it, the others are marked by their ids, which stay."""
    namesakes: dict[tuple[FolderId | None, str], list[FolderRow]] = {}
    for row in rows:
        namesakes.setdefault((row.state.parent_id, row.state.name), []).append(row)
    if len(namesakes) == len(rows):
        return rows
    wires = {row.folder_id: row.wire for row in rows}
    marked: dict[FolderId, FolderRow] = {}
    for (parent_id, name), some in namesakes.items():
        as_we_would = naming.wire(wires[parent_id] if parent_id is not None else None, name)
        some.sort(key=lambda row: (row.wire != as_we_would, row.wire))
        for row in some[1:]:
            state = attrs.evolve(row.state, name=f"{name}_{row.folder_id.hex()[:8]}")
            marked[row.folder_id] = attrs.evolve(row, state=state)
    return [marked.get(row.folder_id, row) for row in rows]


def _name(one: Listed, naming: Naming) -> str:
    name = naming.levels(one.wire)[-1]
    is_second_inbox = name == INBOX and one.wire != b"INBOX" and naming.parent_of(one.wire) is None
    return f"{name}_" if is_second_inbox else name


def _made(one: Listed, folder_id: FolderId, parent_id: FolderId | None, naming: Naming) -> FolderRow:
    return FolderRow(
        state=FolderState(
            folder_id,
            parent_id,
            _name(one, naming),
            modseq=0,
            uidvalidity=one.validity or 0,
            uidnext=max(1, one.uidnext),
            special_use=one.special_use,
            subscribed=one.subscribed,
            attributes={**one.annotations, **({} if one.selectable else NOSELECT)} or NO_PROPERTIES,
        ),
        wire=one.wire,
        selectable=one.selectable,
        server_special=one.special_use,
        server_subscribed=one.subscribed,
        mailbox_object=one.mailbox_object,
    )


def _moved(
    before: FolderRow, one: Listed, parent_id: FolderId | None, naming: Naming, kept: Collection[FolderId | None]
) -> FolderRow:
    """What differs of the server's word is a change; what the server could never say stays as the mover knows it."""
    state = before.state
    renamed = one.wire != before.wire
    if parent_id is None and not renamed and state.parent_id in kept:
        parent_id = state.parent_id  # below INBOX, or where there are no levels, the name does not say it
    name = (
        _name(one, naming)
        if renamed and naming.levels(one.wire)[-1:] != naming.levels(before.wire)[-1:]
        else state.name
    )
    attributes = dict(state.attributes)
    if one.selectable != before.selectable:
        attributes = {k: v for k, v in attributes.items() if k not in NOSELECT} | ({} if one.selectable else NOSELECT)
    attributes |= one.annotations  # one that is gone may never have been taken there: it stays
    state = attrs.evolve(
        state,
        parent_id=parent_id,
        name=name,
        special_use=one.special_use if one.special_use != before.server_special else state.special_use,
        subscribed=one.subscribed if one.subscribed != before.server_subscribed else state.subscribed,
        attributes=attributes or NO_PROPERTIES,
    )
    return attrs.evolve(
        before,
        state=state,
        wire=one.wire,
        selectable=one.selectable,
        server_modseq=before.server_modseq if one.selectable == before.selectable else 0,
        server_special=one.special_use,
        server_subscribed=one.subscribed,
        mailbox_object=one.mailbox_object,
    )


def apply_tree(mirror: Mirror, plan: TreePlan) -> None:
    """The mirror's folders are the plan's. Items of dropped ones are lost to their places, and `refresh` looks where
    they went. Does nothing where nothing differs."""
    before = {row.folder_id: row for row in mirror.folders()}
    differing = [row for row in plan.rows if before.get(row.folder_id) != row]
    if not differing and not plan.dropped:
        return
    with mirror.changing():
        for folder_id in plan.dropped:
            mirror.db.execute("DELETE FROM folders WHERE folder_id = ?", (folder_id,))
            mirror.db.execute("DELETE FROM strangers WHERE folder_id = ?", (folder_id,))
            mirror.db.execute("DELETE FROM to_expunge WHERE folder_id = ?", (folder_id,))
        for row in differing:
            # Names may be given round: out of the way of the unique index first.
            mirror.db.execute(
                "UPDATE folders SET wire = CAST(x'00' || folder_id AS BLOB) WHERE folder_id = ?", (row.folder_id,)
            )
        if plan.changed or plan.dropped:
            mirror.raise_head(mirror.next_modseq(), hierarchy=True)
        for row in differing:
            if row.folder_id in plan.changed:
                row = attrs.evolve(row, state=attrs.evolve(row.state, modseq=mirror.standing().head))
            mirror.put_folder(row)
