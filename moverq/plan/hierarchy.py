"""Brings the target's folder tree to the source's, by identity, in single steps.

Planned from what is there and what is wanted, never by replaying the renames that happened: a feed tells present
states, a rename may have been undone or repeated meanwhile, and a crash may have left the tree in the middle of an
earlier plan. From (present, wanted) none of this matters.

    swap        A, B → B, A           A parked, B moved, A moved
    inversion   A/B → B/A             B moved to the top, A moved under it
    taken       a name held by a folder that goes: that one is removed first, if empty, else parked

What always holds: after every single step the folders are a forest and siblings have different names. A step moves a
folder with all below it, to a free name, never under itself. Only when every folder that is not in its place waits
for another is one parked: exactly one for each ring of waits, and no folder twice. Nothing is destroyed to free a
name but an empty folder that goes anyway. `present` that equals `wanted` needs no step.

What it leaves to others: an unwanted folder that still holds items stays ("removal pending"); whoever applies a batch
plans again after its items. Parked unwanted folders keep their parked name until then.
"""

from collections.abc import Iterable, Sequence
from typing import Final

import attrs

from moverq.endpoints.base import FolderStep, StepKind
from moverq.model.change import FolderState
from moverq.model.digest import folder_paths
from moverq.model.ids import FolderId

PARKED_PREFIX: Final = ".moverq-parked-"
"""Reserved: the folder's id follows, so that two parked folders never meet."""

Slot = tuple[FolderId | None, str]
"""A place for a folder: a parent, and a name below it."""


def is_parked(name: str) -> bool:
    """Is this the name of a folder on its way, which no user gave it?"""
    return name.startswith(PARKED_PREFIX)


def plan_hierarchy(
    present: Sequence[FolderState], wanted: Sequence[FolderState], *, occupied: frozenset[FolderId]
) -> tuple[FolderStep, ...]:
    """The steps from `present` to `wanted`; folders in `occupied` hold items and are never removed.

    Raises:
        ValueError: one of the two is no forest, or has two folders of one name side by side.
    """
    paths = folder_paths(wanted)
    plan = _Plan(_Tree.of(present), _Tree.of(wanted))
    pinned = _pinned(plan, occupied)
    for folder_id in sorted(pinned):
        if plan.tree.slot(folder_id) in plan.goal.at:
            plan.park(folder_id)

    # Parents before children, so that the usual plan, a tree made anew, takes one pass.
    to_place = [f for f in sorted(paths, key=lambda f: (len(paths[f]), f)) if not plan.is_placed(f)]
    to_remove = sorted(plan.tree.folders.keys() - plan.goal.folders.keys() - pinned)
    while to_place or to_remove:
        placed = {folder_id for folder_id in to_place if plan.place(folder_id)}
        removed = {folder_id for folder_id in to_remove if plan.remove(folder_id)}
        to_place = [folder_id for folder_id in to_place if folder_id not in placed]
        to_remove = [folder_id for folder_id in to_remove if folder_id not in removed]
        if not placed and not removed:
            plan.park(_one_of_a_ring(plan, to_place[0]))

    for folder_id in paths:
        plan.update(folder_id)
    return tuple(plan.steps)


@attrs.define
class _Tree:
    """Folders by id and by place."""

    folders: dict[FolderId, FolderState] = attrs.Factory(dict)
    at: dict[Slot, FolderId] = attrs.Factory(dict)
    children: dict[FolderId | None, set[FolderId]] = attrs.Factory(dict)

    @classmethod
    def of(cls, folders: Iterable[FolderState]) -> "_Tree":
        tree = cls()
        for folder in folders:
            if (folder.parent_id, folder.name) in tree.at:
                raise ValueError(f"two folders {folder.name!r} side by side")
            tree.put(folder)
        folder_paths(tree.folders.values())
        return tree

    def slot(self, folder_id: FolderId) -> Slot:
        folder = self.folders[folder_id]
        return (folder.parent_id, folder.name)

    def put(self, folder: FolderState) -> None:
        if folder.folder_id in self.folders:
            self.drop(folder.folder_id)
        self.folders[folder.folder_id] = folder
        self.at[folder.parent_id, folder.name] = folder.folder_id
        self.children.setdefault(folder.parent_id, set()).add(folder.folder_id)

    def drop(self, folder_id: FolderId) -> None:
        slot = self.slot(folder_id)
        del self.at[slot], self.folders[folder_id]
        self.children[slot[0]].remove(folder_id)

    def chain(self, folder_id: FolderId | None) -> list[FolderId]:
        """The folder and those it lies in, innermost first."""
        chain: list[FolderId] = []
        while folder_id is not None:
            chain.append(folder_id)
            folder_id = self.folders[folder_id].parent_id
        return chain


@attrs.define
class _Plan:
    """The tree as it stands after `steps`, and the one it shall be. Each verb says whether it took its step."""

    tree: _Tree
    goal: _Tree
    steps: list[FolderStep] = attrs.Factory(list)

    def is_placed(self, folder_id: FolderId) -> bool:
        return folder_id in self.tree.folders and self.tree.slot(folder_id) == self.goal.slot(folder_id)

    def place(self, folder_id: FolderId) -> bool:
        if self.waits_for(folder_id) is not None:
            return False
        folder = self.goal.folders[folder_id]
        if folder_id not in self.tree.folders:
            self._take(StepKind.CREATE, folder)
        else:
            self._move(folder_id, self.goal.slot(folder_id))
        return True

    def remove(self, folder_id: FolderId) -> bool:
        if self.tree.children.get(folder_id):
            return False
        self.steps.append(FolderStep(StepKind.REMOVE, self.tree.folders[folder_id]))
        self.tree.drop(folder_id)
        return True

    def park(self, folder_id: FolderId) -> None:
        name = PARKED_PREFIX + folder_id.hex()
        while (None, name) in self.tree.at or (None, name) in self.goal.at:
            name += "+"  # Somebody named a folder so on purpose; let them.
        self._move(folder_id, (None, name))

    def update(self, folder_id: FolderId) -> None:
        """Everything but the place. A target's UIDNEXT is never taken back."""
        present, wanted = self.tree.folders[folder_id], self.goal.folders[folder_id]
        wanted = attrs.evolve(wanted, uidnext=max(present.uidnext, wanted.uidnext))
        if present != wanted:
            self._take(StepKind.UPDATE, wanted)

    def waits_for(self, folder_id: FolderId) -> FolderId | None:
        """Which folder has to be made, moved or removed before this one can take its place; None: go."""
        if folder_id not in self.goal.folders:
            return min(self.tree.children[folder_id])
        parent_id, name = self.goal.slot(folder_id)
        if parent_id is not None and parent_id not in self.tree.folders:
            return parent_id
        if (parent_id, name) in self.tree.at:
            return self.tree.at[parent_id, name]
        chain = self.tree.chain(parent_id)
        if folder_id not in chain:
            return None
        # Its new parent lies below it. As `wanted` is a forest, something between the two is not where it
        # should be; the outermost such folder takes the rest along.
        between = reversed(chain[: chain.index(folder_id)])
        return next(other for other in between if other in self.goal.folders and not self.is_placed(other))

    def _move(self, folder_id: FolderId, slot: Slot) -> None:
        self._take(StepKind.MOVE, attrs.evolve(self.tree.folders[folder_id], parent_id=slot[0], name=slot[1]))

    def _take(self, kind: StepKind, folder: FolderState) -> None:
        assert self.tree.at.get((folder.parent_id, folder.name), folder.folder_id) == folder.folder_id
        self.steps.append(FolderStep(kind, folder))
        self.tree.put(folder)


def _pinned(plan: _Plan, occupied: frozenset[FolderId]) -> set[FolderId]:
    """Unwanted folders that cannot go yet: they hold items, or an unwanted folder that does."""
    pinned: set[FolderId] = set()
    for folder_id in occupied & plan.tree.folders.keys():
        for outer in plan.tree.chain(folder_id):
            if outer in plan.goal.folders:
                break  # It moves out, or keeps, with all below it.
            pinned.add(outer)
    return pinned


def _one_of_a_ring(plan: _Plan, folder_id: FolderId) -> FolderId:
    """Everybody waits: follow the waits into their ring, and take one folder of it that is there.

    Rather one that goes anyway, which need not be moved back.
    """
    seen: list[FolderId] = []
    at = folder_id
    while at not in seen:
        seen.append(at)
        following = plan.waits_for(at)
        assert following is not None
        at = following
    ring = [other for other in seen[seen.index(at) :] if other in plan.tree.folders]
    return min(ring, key=lambda other: (other in plan.goal.folders, other))
