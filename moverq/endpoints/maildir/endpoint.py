"""Maildirs of one location as a database of the directory."""

import stat
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final

import attrs

from moverq.endpoints.base import Room
from moverq.endpoints.files.links import leads_to
from moverq.endpoints.files.session import at_files
from moverq.endpoints.files.system import FileSystem
from moverq.endpoints.maildir import folder
from moverq.endpoints.maildir.layout import Layout
from moverq.endpoints.maildir.session import MaildirSession
from moverq.endpoints.maildir.settings import parse
from moverq.endpoints.mirrored.endpoint import AddressOf, MailSystem, MirroredEndpoint, open_mirrored
from moverq.endpoints.mirrored.listed import Listed
from moverq.endpoints.mirrored.session import MirrorFile
from moverq.flow.offload import InThread, Offload
from moverq.model.ids import InstanceId

POLL_S: Final = 1.0
"""Between two looks at a Maildir: a few calls of `stat` for each folder."""


class Maildirs(FileSystem[Layout]):
    """`MailSystem`, by files."""

    async def room(self, user: str) -> Room:
        """Whose a new one would be, if nobody's."""
        layout = self.settings.layout_of(user)
        costs = await at_files(self.make_offload(), layout.costs, endpoint=self.name, doing="look for the Maildir")
        return Room(costs=costs)

    def listed(self, layout: Layout) -> list[Listed]:
        return layout.as_user(partial(self._listed, layout))

    def _listed(self, layout: Layout) -> list[Listed]:
        if not stat.S_ISDIR(leads_to(layout.root)):
            return []
        return [attrs.evolve(one, items=folder.count(layout.path(one.wire))) for one in layout.listed(1)]

    def session(self, path: Path, instance: InstanceId) -> MaildirSession:
        return MaildirSession(
            name=self.name,
            settings=self.settings,
            mirror=MirrorFile(path, instance, self.make_offload()),
            files=self.make_offload(),
        )


def open_endpoint(
    name: str,
    location: str,
    *,
    mirrors: Path,
    address_of: AddressOf,
    make_offload: Callable[[], Offload] = InThread,
    poll_s: float = POLL_S,
) -> AbstractAsyncContextManager[MirroredEndpoint]:
    """The Maildirs at `location`, as database `name` of the directory. Nothing is looked at yet.

    Raises:
        RequestRefused: the location does not say where Maildirs are.
    """
    maildirs = Maildirs(name=name, settings=parse(location), make_offload=make_offload, poll_s=poll_s)
    return open_mirrored(name, maildirs, mirrors=mirrors, address_of=address_of)


if TYPE_CHECKING:
    _is_a_system: type[MailSystem] = Maildirs
