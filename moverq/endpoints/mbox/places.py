"""The folders of a mailbox in mbox files: made, renamed, deleted, subscribed."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING

import attrs

from moverq.endpoints.files.owner import Owner
from moverq.endpoints.files.subscriptions import subscribe
from moverq.endpoints.mbox.layout import SBD, SUBSCRIPTIONS, Layout
from moverq.endpoints.mirrored.mirror import FolderRow
from moverq.endpoints.mirrored.session import Places
from moverq.errors import MoveError, RequestRefused
from moverq.model.change import FolderState

if TYPE_CHECKING:
    from moverq.endpoints.mbox.session import MboxSession


@attrs.frozen
class MboxPlaces:
    """`Places`, by files."""

    session: "MboxSession"
    remarks: list[str] = attrs.field(factory=list)

    async def make(self, wanted: Sequence[tuple[bytes, FolderState]]) -> list[tuple[int, int] | MoveError]:
        return [await self._make(wire, folder) for wire, folder in wanted]

    async def _make(self, wire: bytes, folder: FolderState) -> tuple[int, int] | MoveError:
        layout = await self.session.layout()

        def run() -> bytes:
            check_sayable(layout, wire, folder.name)
            layout.make(wire)
            return layout.path(wire)

        try:
            path = await self.session.work(run, doing=f"make folder {folder.name!r}")
        except RequestRefused as refused:
            return refused
        if SBD in path and wire != b"INBOX":
            self.remarks.append("an mbox file holds no folders: those in one lie in a directory .sbd beside it")
        await self.subscribe(wire, folder.subscribed)
        return self.session.validity, 0

    async def annotate(self, wire: bytes, wanted: Mapping[str, str], present: Mapping[str, str]) -> None:
        missing = len(wanted.items() - present.items())
        self.remarks.extend(["an mbox has no place for an annotation of a folder"] * missing)

    async def rename(self, folder: FolderRow, wire: bytes) -> MoveError | None:
        layout = await self.session.layout()

        def run() -> None:
            check_sayable(layout, wire, folder.state.name)
            if folder.wire == b"INBOX":
                raise RequestRefused(why="INBOX keeps its name")
            layout.rename(folder.wire, wire)

        try:
            await self.session.work(run, doing=f"rename folder {folder.state.name!r}")
        except RequestRefused as refused:
            return refused
        self.session.forget_files()
        return None

    async def subscribe(self, wire: bytes, wanted: bool) -> None:
        layout = await self.session.layout()

        def run() -> None:
            if layout.is_file:
                return
            layout.make_directory(layout.root)
            owner = Owner.of(layout.root)
            subscribe(layout.root, wire, wanted, separator=b"/", owner=owner, name=SUBSCRIPTIONS)

        await self.session.work(run, doing="change subscriptions")

    async def delete(self, folder: FolderRow) -> bool:
        layout = await self.session.layout()
        gone = await self.session.work(
            partial(layout.delete, folder.wire), doing=f"delete folder {folder.state.name!r}"
        )
        if gone:
            await self.subscribe(folder.wire, False)
        return gone


def check_sayable(layout: Layout, wire: bytes, name: str) -> None:
    if not layout.is_sayable(wire):
        raise RequestRefused(why=f"mbox files have no place for a folder {name!r}")


if TYPE_CHECKING:
    _is_places: type[Places] = MboxPlaces
