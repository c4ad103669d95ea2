"""The folders of a Maildir: made, renamed, deleted, subscribed."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING

import attrs

from moverq.endpoints.files.owner import Owner
from moverq.endpoints.files.subscriptions import subscribe
from moverq.endpoints.mirrored.mirror import FolderRow
from moverq.endpoints.mirrored.session import Places
from moverq.errors import MoveError, RequestRefused
from moverq.model.change import FolderState

if TYPE_CHECKING:
    from moverq.endpoints.maildir.session import MaildirSession


@attrs.frozen
class MaildirPlaces:
    """`Places`, by files."""

    session: "MaildirSession"
    remarks: list[str] = attrs.field(factory=list)

    async def make(self, wanted: Sequence[tuple[bytes, FolderState]]) -> list[tuple[int, int] | MoveError]:
        await self.session.make_places()
        return [await self._make(wire, folder) for wire, folder in wanted]

    async def _make(self, wire: bytes, folder: FolderState) -> tuple[int, int] | MoveError:
        layout = await self.session.layout()
        if not layout.is_sayable(wire):
            return RequestRefused(why=f"a Maildir has no place for a folder {folder.name!r}")
        try:
            await self.session.work(partial(layout.make, wire), doing=f"make folder {folder.name!r}")
        except RequestRefused as refused:
            return refused
        await self.subscribe(wire, folder.subscribed)
        return self.session.validity, 0

    async def rename(self, folder: FolderRow, wire: bytes) -> MoveError | None:
        layout = await self.session.layout()
        name = folder.state.name
        if not layout.is_sayable(wire) or folder.wire == b"INBOX":
            return RequestRefused(why=f"a Maildir has no place for a folder {name!r}")
        try:
            await self.session.work(partial(layout.rename, folder.wire, wire), doing=f"rename folder {name!r}")
        except RequestRefused as refused:
            return refused
        self.session.forget_files()
        return None

    async def annotate(self, wire: bytes, wanted: Mapping[str, str], present: Mapping[str, str]) -> None:
        missing = len(wanted.items() - present.items())
        self.remarks.extend(["a Maildir has no place for an annotation of a folder"] * missing)

    async def subscribe(self, wire: bytes, wanted: bool) -> None:
        layout = await self.session.layout()

        def run() -> None:
            separator = layout.naming.separator
            assert separator is not None
            owner = Owner.of(layout.root)
            owner.make_folders(layout.control)
            subscribe(layout.control, wire, wanted, separator=separator, owner=owner)

        await self.session.work(run, doing="change subscriptions")

    async def delete(self, folder: FolderRow) -> bool:
        layout = await self.session.layout()
        mark = folder.folder_id.hex().encode()
        gone = await self.session.work(
            partial(layout.delete, folder.wire, mark), doing=f"delete folder {folder.state.name!r}"
        )
        if gone:
            await self.subscribe(folder.wire, False)
        return gone


if TYPE_CHECKING:
    _is_places: type[Places] = MaildirPlaces
