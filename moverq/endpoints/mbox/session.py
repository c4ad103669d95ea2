"""One mailbox in mbox files, in this process: its mirror, and the blocking work on the files.

A folder's index is kept as long as the file is what it was. A look at a file that changed reads all of it: an mbox
tells in no other way what changed. Reads take no lock, for they see whether somebody holds one, and notice when a
message is not where it was; writes do.
"""

import errno
import os
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Final

import trio

from moverq.endpoints.files import numbers
from moverq.endpoints.files.session import UNSETTLED_S, FileSession, FileSettings
from moverq.endpoints.mbox import message, writing
from moverq.endpoints.mbox.index import EMPTY, Index, read_index, read_message, stamp_of
from moverq.endpoints.mbox.layout import NO_FILE, Layout
from moverq.endpoints.mbox.places import MboxPlaces
from moverq.endpoints.mirrored.intents import Merged
from moverq.endpoints.mirrored.learned import Look, OnLook, Seen
from moverq.endpoints.mirrored.listed import Known, Listed, Wanted
from moverq.endpoints.mirrored.mirror import FolderPlace, Mirror
from moverq.endpoints.mirrored.paging import PageRead, read_page
from moverq.endpoints.mirrored.session import MailSession, MirrorFile
from moverq.errors import EndpointBusy
from moverq.flow.offload import Offload
from moverq.model.change import BadItem
from moverq.model.ids import FolderId

ENTRIES_MAX: Final = 200_000
"""Messages of one mailbox whose places are kept in memory, about 400 bytes each; beyond that a file is read again."""
READ_TRIES: Final = 3


class MboxSession(FileSession[Layout, Index]):
    """See the module."""

    kind = "mbox"
    normal = staticmethod(message.normal)
    normal_hash = staticmethod(message.normal_hash)

    def __init__(self, *, name: str, settings: FileSettings[Layout], mirror: MirrorFile, files: Offload) -> None:
        super().__init__(name=name, settings=settings, mirror=mirror, files=files)
        self.writing = trio.Lock()
        """One append or rewrite at a time, and no look while bases change."""

    # ---- files

    async def path(self, wire: bytes) -> bytes:
        """The folder's file: which one it is depends on what is there."""
        layout = await self.layout()
        return await self.work(partial(layout.path, wire), doing="look for a folder")

    def journal(self, folder_id: FolderId) -> bytes:
        """Where a rewrite of the folder is announced: beside the mirror."""
        return os.fsencode(self.mirror.path.with_name(f"{self.instance.hex()}-{folder_id.hex()}.rewrite"))

    def announcement(self, folder_id: FolderId) -> bytes:
        """Where an append to the folder is announced."""
        return os.fsencode(self.mirror.path.with_name(f"{self.instance.hex()}-{folder_id.hex()}.append"))

    async def index(self, wire: bytes, *, settled: bool = False) -> Index:
        """What the folder's file holds; nothing where there is none. `settled`: also the flags are those of now."""
        path = await self.path(wire)
        known = self._kept.get(wire)

        def run() -> Index:
            try:
                is_as_it_was = known is not None and known.is_whole and stamp_of(path) == known.stamp
                if known is not None and is_as_it_was and (known.is_settled or not settled):
                    return known
                return read_index(path, known=known)
            except FileNotFoundError:
                return EMPTY

        found = await self.work(run, doing="read a folder")
        self.note_index(wire, found)
        return found

    async def whole_index(self, wire: bytes, *, settled: bool = False) -> Index:
        """The same; who is not in it is not there.

        Raises:
            EndpointBusy: others write all the time, or hold a lock.
        """
        found = await self.index(wire, settled=settled)
        if not found.is_whole:
            raise EndpointBusy(endpoint=self.name, retry_after_s=UNSETTLED_S)
        return found

    def note_index(self, wire: bytes, index: Index) -> None:
        """What the file holds is this."""
        others = sum(len(one.entries) for name, one in self._kept.items() if name != wire)
        if others + len(index.entries) > ENTRIES_MAX:
            self._kept.clear()
        self._kept[wire] = index

    # ---- what is there

    async def list_folders(self, *, known: Known | None, afresh: bool) -> Sequence[Listed]:
        layout = await self.layout()
        rows = await self.mirror.ask(Mirror.folders)
        occupied = await self.mirror.ask(Mirror.occupied_folders)

        def run() -> list[Listed]:
            # Not mounted, perhaps. That everything in it was deleted must not be made of this.
            if any(row.selectable and row.wire != b"INBOX" for row in rows) and not os.path.isdir(layout.root):
                raise FileNotFoundError(errno.ENOENT, "the mail is not there", os.fsdecode(layout.root))
            if any(row.wire == b"INBOX" and row.folder_id in occupied for row in rows):
                os.stat(layout.inbox_path())
            return layout.listed(self.validity)

        return await self.work(run, doing="list its folders")

    async def look_into(self, wanted: Sequence[Wanted], *, on_look: OnLook) -> None:
        """Of half a file nothing can be said, for what is half a message there looks like another one.

        Raises:
            EndpointBusy: others write all the time, or hold a lock.
        """
        for one in wanted:
            await on_look(await self._look(one))

    async def _look(self, wanted: Wanted) -> Look:
        async with self.writing:
            index = await self.whole_index(wanted.wire, settled=True)
            order = {base: at for at, base in enumerate(index.entries)}
            number = await self.mirror.ask(
                partial(
                    numbers.number_all,
                    folder_id=wanted.folder_id,
                    bases=order.keys(),
                    is_whole=True,
                    order=order.__getitem__,
                )
            )
        has_uids = bool(index.base.validity)
        seen = [
            Seen(
                number[base],
                entry.flags,
                entry.keywords,
                entry.received_ms,
                entry.size,
                entry.uid if has_uids else 0,
            )
            for base, entry in index.entries.items()
        ]
        last_uid = max(index.base.last_uid, max((one.client_uid for one in seen), default=0))
        return Look(
            folder_id=wanted.folder_id,
            validity=self.validity,
            uidnext=last_uid + 1 if has_uids else 0,
            modseq=_signature(index),
            items=0,
            seen=seen,
            whole=True,
            uids_are_ours=True,
            client_validity=index.base.validity if has_uids else 0,
        )

    async def read(self, row: FolderPlace, uids: Sequence[int]) -> tuple[dict[int, bytes], dict[int, str]]:
        path = await self.path(row.wire)
        read: dict[int, bytes] = {}
        missing: dict[int, str] = {}

        def run(index: Index, bases: dict[int, tuple[bytes, bytes]]) -> list[int]:
            """Those that are not where the index has them."""
            missed = []
            for uid, (base, _) in bases.items():
                if uid in read or uid in missing:
                    continue
                if base in index.bad:
                    missing[uid] = index.bad[base]
                    continue
                try:
                    found = read_message(path, index.entries[base], base) if base in index.entries else None
                except FileNotFoundError:
                    found = None
                if found is None:
                    missed.append(uid)
                else:
                    read[uid] = found
            return missed

        for attempt in range(READ_TRIES):
            if attempt:
                self.forget_files(row.wire)
            async with self.writing:
                bases = await self.mirror.ask(partial(numbers.bases_of, folder_id=row.folder_id, numbers=uids))
                index = await self.index(row.wire)
                missed = await self.work(partial(run, index, bases), doing="read messages")
            if missed and index is EMPTY:
                break  # there is no such file now: renamed or deleted, as the next look will say
            if not missed or (index.is_whole and all(bases[uid][0] not in index.entries for uid in missed)):
                return read, missing
        # Others write all the time: whether it is gone cannot be said now.
        raise EndpointBusy(endpoint=self.name, retry_after_s=UNSETTLED_S)

    async def read_page(self, after: int, *, bytes_max: int, items_max: int) -> PageRead:
        return await read_page(self, after, bytes_max=bytes_max, items_max=items_max)

    # ---- what is wanted there

    @asynccontextmanager
    async def places(self) -> AsyncIterator[MboxPlaces]:
        yield MboxPlaces(self)

    async def append_all(self, merged: Merged, token: int) -> tuple[BadItem, ...]:
        return await writing.append_all(self, merged, token)

    async def settle(self) -> None:
        async with self.mirror.settling:
            await writing.settle(self)

    async def work_off(self) -> None:
        await writing.work_off(self)


def _signature(index: Index) -> int:
    return NO_FILE if index is EMPTY else index.signature


if TYPE_CHECKING:
    _is_a_session: type[MailSession] = MboxSession
