"""One Maildir, in this process: its mirror, and the blocking work on its files.

A folder's listing is kept until it turns out to be old: a file that is not where it was has another name by now, and is
looked for by what stays of it.
"""

import errno
import os
import stat
from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Final, TypeVar

from moverq.endpoints.base import GuardMode
from moverq.endpoints.files import numbers
from moverq.endpoints.files.links import leads_to
from moverq.endpoints.files.session import UNSETTLED_S, FileSession
from moverq.endpoints.maildir import folder, names, side_files, writing
from moverq.endpoints.maildir.folder import Scan, Unreadable
from moverq.endpoints.maildir.layout import Layout
from moverq.endpoints.maildir.places import MaildirPlaces
from moverq.endpoints.mirrored import normal_form
from moverq.endpoints.mirrored.intents import Merged
from moverq.endpoints.mirrored.learned import Look, OnLook, Seen
from moverq.endpoints.mirrored.listed import PART_ITEMS, Known, Listed, Wanted
from moverq.endpoints.mirrored.mirror import FolderPlace, Mirror
from moverq.endpoints.mirrored.paging import PageRead, read_page
from moverq.endpoints.mirrored.session import MailSession
from moverq.errors import EndpointBusy
from moverq.model.change import BadItem

T = TypeVar("T")
NAMES_MAX: Final = 200_000
"""File names kept in memory for one mailbox, about 250 bytes each; beyond that a folder is listed again."""
READ_TRIES: Final = 2
"""Scans after which a message that is still not met is gone, or not to be had for now."""


class MaildirSession(FileSession[Layout, Scan]):
    """See the module."""

    kind = "maildir"
    normal = staticmethod(normal_form.normal)
    normal_hash = staticmethod(normal_form.normal_hash)

    # ---- files

    async def work(self, run: Callable[[], T], *, doing: str) -> T:
        """With the rights of whose the Maildir is."""
        layout = await self.layout()
        return await super().work(partial(layout.as_user, run), doing=doing)

    async def make_places(self) -> None:
        """There is a Maildir to make folders in. Raises: what `as_move_error` makes of an `OSError`."""
        layout = await self.layout()
        await super().work(layout.make_places, doing="make the Maildir")

    async def scan(self, wire: bytes, *, known: bool = False) -> Scan:
        """The folder's messages; `known`: as they were when they were last looked at will do. A folder that is not
        there has none, and no signature."""
        layout = await self.layout()
        if known and wire in self._kept:
            return self._kept[wire]

        def run() -> Scan:
            try:
                return folder.scan(layout.path(wire), layout.beside(wire))
            except FileNotFoundError:
                return Scan({}, is_whole=True, signature=0)

        found = await self.work(run, doing="list a folder's messages")
        if sum(len(scan.files) for scan in self._kept.values()) + len(found.files) > NAMES_MAX:
            self._kept.clear()
        self._kept[wire] = found
        return found

    async def whole_scan(self, wire: bytes, *, having: Collection[bytes] = ()) -> Scan:
        """The same; of `having`, who is not in it is not there. One that was made before will do where all are in it.

        Raises:
            EndpointBusy: the folder changes all the time.
        """
        before = self._kept.get(wire)
        if before is not None and having and all(base in before.files for base in having):
            return before
        found = await self.scan(wire)
        if not found.is_whole and not (having and all(base in found.files for base in having)):
            raise EndpointBusy(endpoint=self.name, retry_after_s=UNSETTLED_S)
        return found

    def note_file(self, wire: bytes, base: bytes, rel: bytes | None) -> None:
        """We have put a file there ourselves; None: taken it away."""
        scan = self._kept.get(wire)
        if scan is not None and rel is not None:
            scan.files[base] = rel
        elif scan is not None:
            scan.files.pop(base, None)

    # ---- what is there

    async def list_folders(self, *, known: Known | None, afresh: bool) -> Sequence[Listed]:
        layout = await self.layout()
        present = await self.mirror.ask(Mirror.folders)

        def run() -> list[Listed]:
            if not folder.is_folder(layout.inbox):
                if any(row.wire == b"INBOX" for row in present):
                    # Not mounted, perhaps. That everything in it was deleted must not be made of this.
                    raise FileNotFoundError(errno.ENOENT, "the Maildir is not there", os.fsdecode(layout.inbox))
                if not stat.S_ISDIR(leads_to(layout.root)):
                    return []
            return layout.listed(self.validity)

        return await self.work(run, doing="list its folders")

    async def look_into(self, wanted: Sequence[Wanted], *, on_look: OnLook) -> None:
        for one in wanted:
            await self._look(one, on_look)

    async def _look(self, wanted: Wanted, on_look: OnLook) -> None:
        layout = await self.layout()
        path, beside = layout.path(wanted.wire), layout.beside(wanted.wire)
        found = await self.scan(wanted.wire)
        number = await self.mirror.ask(
            partial(
                numbers.number_all,
                folder_id=wanted.folder_id,
                bases=found.files.keys(),
                is_whole=found.is_whole,
                order=names.order,
            )
        )
        known = await self.mirror.ask(partial(numbers.seen_before, folder_id=wanted.folder_id))
        if found.is_whole and not found.signature:
            return  # it went meanwhile: the next listing tells

        def beside_it() -> tuple[side_files.UidList, Mapping[str, str]]:
            uids = side_files.read_uid_list(beside) if found.is_whole else side_files.UidList()
            return uids, side_files.read_keywords(beside)

        uids, keywords = await self.work(beside_it, doing="look into a folder")

        def run(bases: Sequence[bytes], first: int, last: int | None) -> Look:
            seen: list[Seen] = []
            is_whole, said = found.is_whole, uids
            for base in bases:
                rel = found.files[base]
                flags, words = names.said(names.parts(rel[4:]).letters, keywords)
                received_ms = size = 0
                client_uid = uids.uids.get(base, 0)
                if number[base] not in known or known[number[base]] not in (None, client_uid):
                    try:
                        received_ms, size = folder.received_and_size(path, rel)
                    except FileNotFoundError:
                        is_whole = False  # it has another name by now, or is gone: the next look says which
                        continue
                seen.append(Seen(number[base], flags, words, received_ms, size, client_uid))
            if not is_whole:
                seen = [one._replace(client_uid=0) for one in seen]
                said = side_files.UidList()
            return Look(
                folder_id=wanted.folder_id,
                validity=self.validity,
                uidnext=said.uidnext,
                modseq=found.signature if is_whole else 0,
                items=0 if is_whole else -1,
                seen=seen,
                whole=is_whole,
                first=first,
                last=last if is_whole else None,
                uids_are_ours=True,
                client_validity=said.validity,
            )

        ordered = sorted(found.files, key=number.__getitem__)
        step = PART_ITEMS if found.is_whole and wanted.in_parts is not None else len(ordered)
        first = 1
        while True:
            part, ordered = ordered[:step], ordered[step:]
            last = number[part[-1]] if ordered else None
            look = await self.work(partial(run, part, first, last), doing="look into a folder")
            await on_look(look)
            if look.last is None:
                return
            first = look.last + 1

    async def read(self, row: FolderPlace, uids: Sequence[int]) -> tuple[dict[int, bytes], dict[int, str]]:
        path = (await self.layout()).path(row.wire)
        bases = await self.mirror.ask(partial(numbers.bases_of, folder_id=row.folder_id, numbers=uids))
        read: dict[int, bytes] = {}
        missing: dict[int, str] = {}

        def run(scan: Scan) -> list[int]:
            """Those that are not where the scan met them."""
            moved = []
            for uid, (base, known_hash) in bases.items():
                if uid in read or uid in missing:
                    continue
                try:
                    if base not in scan.files:
                        raise FileNotFoundError
                    read[uid] = folder.read(path, scan.files[base], known_hash)
                except FileNotFoundError:
                    moved.append(uid)
                except Unreadable as error:
                    missing[uid] = str(error)
            return moved

        scan = await self.scan(row.wire, known=True)
        for _ in range(READ_TRIES):
            missed = await self.work(partial(run, scan), doing="read messages")
            if not missed:
                return read, missing
            scan = await self.scan(row.wire)
        missed = await self.work(partial(run, scan), doing="read messages")
        if missed and scan.is_whole and not scan.signature:
            # There is no such folder now: renamed or deleted, as the next look will say.
            raise EndpointBusy(endpoint=self.name, retry_after_s=UNSETTLED_S)
        if missed and not scan.is_whole:
            await self._tell_again(row, missed)
        return read, missing

    async def _tell_again(self, row: FolderPlace, uids: Sequence[int]) -> None:
        """Nobody can say whether they are gone while the folder changes all the time: the feed has them once more, so
        that a reader who goes on without them meets them again.

        Raises:
            EndpointBusy: it is locked, and this feed is the last.
        """
        standing = await self.mirror.ask(Mirror.standing)
        if standing.guard.mode is GuardMode.LOCKED:
            raise EndpointBusy(endpoint=self.name, retry_after_s=UNSETTLED_S)
        await self.mirror.ask(partial(Mirror.tell_again, folder_id=row.folder_id, server_uids=uids))

    # ---- what is wanted there

    async def read_page(self, after: int, *, bytes_max: int, items_max: int) -> PageRead:
        return await read_page(self, after, bytes_max=bytes_max, items_max=items_max)

    @asynccontextmanager
    async def places(self) -> AsyncIterator[MaildirPlaces]:
        yield MaildirPlaces(self)

    async def append_all(self, merged: Merged, token: int) -> tuple[BadItem, ...]:
        return await writing.append_all(self, merged, token)

    async def settle(self) -> None:
        async with self.mirror.settling:
            await writing.settle(self)

    async def work_off(self) -> None:
        await writing.work_off(self)


if TYPE_CHECKING:
    _is_a_session: type[MailSession] = MaildirSession
