"""Carrying: bring batches from a reader to a writer, in the order of writes. Not a phase; four of them use it.

    target durable  →  item map  →  the fact (a cursor, a watermark), by whoever called

The same code carries forward (source to target) and, in the soak, back (target to the retired source): the item map
says what both sides hold, whichever way it came.

What always holds: the map never says that an item is at the writer which is not. The writer leaves out an item of a
folder it does not have, so before bytes are written the tree is looked at, and an item whose folder is gone again by
then is dropped: it has changed since, so the feed brings it.
"""

from collections.abc import Sequence

import attrs

from moverq.endpoints.base import Source, StepKind, Target
from moverq.errors import RequestRefused
from moverq.ledger.item_map import ItemMap
from moverq.limits import Limits
from moverq.model.change import BadItem, ChangeBatch, FolderState, Gone, ItemContent, ItemState, Watermark
from moverq.model.ids import FolderId, InstanceId, ItemId
from moverq.plan.hierarchy import plan_hierarchy


@attrs.frozen
class Carried:
    """What one batch came to. `read` counts bytes that were really carried."""

    items: int
    bytes: int
    changes: int
    bad: tuple[BadItem, ...]


@attrs.frozen
class Put:
    """What the writer holds of a batch, before the map says so."""

    written: tuple[ItemState, ...]
    there: tuple[ItemState, ...]
    """Cannot be read any more, but an earlier pass carried them."""
    bad: tuple[BadItem, ...]


@attrs.define(eq=False, kw_only=True)
class Carrier:
    """One direction of one move, with its token."""

    reader: Source
    writer: Target
    token: int
    item_map: ItemMap
    limits: Limits
    generation: int = 1
    """Of the listing at work: what it has seen is marked with it."""
    _folders: frozenset[FolderId] | None = None
    """Folders the writer has; None: not looked yet."""
    _unfinished: bool = True
    """The writer may have folders, parked or unwanted, that a plan had to leave because items were in them."""
    _tree: tuple[FolderState, ...] | None = None
    """The folders that the map was last told of; None: not by this carrier."""

    async def bring_tree(self, wanted: Sequence[FolderState]) -> None:
        """The writer's folders are as `wanted`, but for unwanted ones that still hold items; and the map says so."""
        await self.change_tree(wanted, present=await self.writer.read_hierarchy(), noted=self._tree)

    async def change_tree(
        self, wanted: Sequence[FolderState], *, present: Sequence[FolderState], noted: Sequence[FolderState] | None
    ) -> bool:
        """The same, from the writer's and the map's folders as they were just read. False: they were so already."""
        changed = await self._shape(present, wanted)
        self._tree = tuple(wanted)
        if noted is None or not _says_the_same(noted, wanted):
            await self.item_map.record(self.token, hierarchy=wanted)
            changed = True
        return changed

    async def finish_tree(self) -> None:
        """After the items of a batch: folders that had to wait for them go now."""
        if self._unfinished:
            wanted = self._tree if self._tree is not None else await self.item_map.hierarchy()
            if wanted is not None:
                await self._shape(await self.writer.read_hierarchy(), wanted)

    async def _shape(self, present: Sequence[FolderState], wanted: Sequence[FolderState]) -> bool:
        steps = plan_hierarchy(present, wanted, occupied=frozenset())
        if any(step.kind is StepKind.REMOVE for step in steps):  # only then it matters what holds items
            steps = plan_hierarchy(present, wanted, occupied=await self.writer.occupied_folders())
        if steps:
            try:
                await self.writer.apply_folders(steps, self.token)
            except RequestRefused:
                # A folder that was empty when we looked holds an item now: only the mover writes here, so it was
                # another tenure's last batch. Looking again finds it.
                self._unfinished = True
                raise
        removed = {step.folder.folder_id for step in steps if step.kind is StepKind.REMOVE}
        have = {folder.folder_id for folder in present} - removed | {folder.folder_id for folder in wanted}
        self._folders = frozenset(have)
        self._unfinished = have != {folder.folder_id for folder in wanted}
        return bool(steps)

    async def apply(self, batch: ChangeBatch) -> Carried:
        """The writer durably holds this batch, and the map says so. The watermark is the caller's to write."""
        if batch.hierarchy is not None:
            await self.bring_tree(batch.hierarchy)
        missing = frozenset(await self.writer.apply_changes(batch, self.token))
        fetched: list[ItemState] = []
        bad: list[BadItem] = []
        bytes_ = 0
        left: tuple[ItemId, ...] = tuple(state.item_id for state in batch.items if state.item_id in missing)
        while left:
            contents, unreadable, left = await self.reader.fetch(left, bytes_max=self.limits.batch_bytes_max)
            written, refused = await self._write(contents)
            fetched += written
            bad += [*unreadable, *refused]
            bytes_ += sum(state.size for state in written)
        if batch.items or batch.items_gone or batch.settings:
            await self.item_map.record(
                self.token,
                carried=[*(state for state in batch.items if state.item_id not in missing), *fetched],
                bad=bad,
                gone=batch.items_gone,
                settings=batch.settings,
                seen=self.generation,
            )
        if not batch.more:
            await self.finish_tree()
        return Carried(len(fetched), bytes_, batch.changes, tuple(bad))

    async def write(self, contents: Sequence[ItemContent], unreadable: Sequence[BadItem] = ()) -> Carried:
        """The writer durably holds these items, but for the bad ones, and the map says so."""
        return await self.note(await self.put(contents, unreadable))

    def has_folders_for(self, contents: Sequence[ItemContent]) -> bool:
        """Can these items be put without a look at the tree?"""
        folders = self._folders
        return folders is not None and folders.issuperset({state.folder_id for state, _ in contents})

    async def put(self, contents: Sequence[ItemContent], unreadable: Sequence[BadItem] = ()) -> Put:
        """The first half of `write`: the writer durably holds the items, the map does not say so yet.

        Two at a time are fine, if the later one `has_folders_for` its items.
        """
        written, refused = await self._write(contents)
        there = await self._already_there(unreadable)
        bad = (*(item for item in unreadable if item.state not in there), *refused)
        return Put(tuple(written), tuple(there), bad)

    async def note(self, put: Put) -> Carried:
        """The second half: the map says so."""
        await self.item_map.record(self.token, carried=[*put.written, *put.there], bad=put.bad, seen=self.generation)
        return Carried(len(put.written), sum(state.size for state in put.written), 0, put.bad)

    async def _already_there(self, unreadable: Sequence[BadItem]) -> list[ItemState]:
        """Of items that cannot be read now, those whose bytes an earlier pass carried: they are not lost."""
        if not unreadable:
            return []
        states = tuple(item.state for item in unreadable)
        batch = ChangeBatch(through=Watermark(b"", InstanceId(b""), 0), more=True, items=states)
        missing = frozenset(await self.writer.apply_changes(batch, self.token))
        return [state for state in states if state.item_id not in missing]

    async def bury(self, item_ids: Sequence[ItemId], at: Watermark) -> None:
        """These items, which the reader no longer has, are dead at the writer and in the map."""
        gone = tuple(Gone(item_id, at.modseq) for item_id in item_ids)
        await self.writer.apply_changes(ChangeBatch(through=at, more=True, items_gone=gone), self.token)
        await self.item_map.record(self.token, gone=gone)

    async def _write(self, contents: Sequence[ItemContent]) -> tuple[list[ItemState], tuple[BadItem, ...]]:
        if self._folders is None:
            self._folders = frozenset(folder.folder_id for folder in await self.writer.read_hierarchy())
        if not self.has_folders_for(contents):
            await self.bring_tree(await self.reader.read_hierarchy())
            contents = [item for item in contents if item.state.folder_id in self._folders]
        if not contents:
            return [], ()
        refused = await self.writer.write_items(contents, self.token)
        bad_ids = {bad.state.item_id for bad in refused}
        return [state for state, _ in contents if state.item_id not in bad_ids], refused


def _says_the_same(noted: Sequence[FolderState], wanted: Sequence[FolderState]) -> bool:
    """But for UIDNEXT, which rises with each delivery and which no digest has. Asked under the lock: only the folders
    that differ cost anything."""
    return len(noted) == len(wanted) and all(
        old == new or attrs.evolve(old, uidnext=new.uidnext) == new for old, new in zip(noted, wanted, strict=True)
    )
