"""mbox files of one location as a database of the directory."""

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Final

import attrs

from moverq.endpoints.base import Room
from moverq.endpoints.files.errors import as_move_error
from moverq.endpoints.mbox.index import count
from moverq.endpoints.mbox.session import MboxSession
from moverq.endpoints.mbox.settings import Settings, parse
from moverq.endpoints.mirrored.endpoint import AddressOf, MailSystem, MirroredEndpoint, open_mirrored
from moverq.endpoints.mirrored.listed import Listed
from moverq.flow.offload import InThread, Offload
from moverq.model.ids import InstanceId

POLL_S: Final = 5.0
"""Between two looks; a file that changed is read whole."""
COUNTED_MAX: Final = 1000
"""Messages of a folder that are counted before there is a mirror: only whether there are any matters."""


@attrs.define(eq=False, kw_only=True)
class MboxFiles:
    """`MailSystem`, by mbox files."""

    name: str
    settings: Settings
    make_offload: Callable[[], Offload]
    poll_s: float

    def __repr__(self) -> str:
        return f"<MboxFiles {self.settings.root}>"

    @property
    def is_one_mailbox(self) -> bool:
        return self.settings.is_one_mailbox

    def user_of(self, address: str) -> str:
        return self.settings.user_of(address)

    async def list_folders(self, user: str) -> list[Listed]:
        layout = self.settings.layout_of(user)

        def held(path: bytes) -> int:
            try:
                return count(path, most=COUNTED_MAX)
            except FileNotFoundError:
                return 0

        def run() -> list[Listed]:
            if not layout.exists():
                return []
            return [attrs.evolve(one, items=held(layout.path(one.wire))) for one in layout.listed(1)]

        try:
            return await self.make_offload()(run)
        except OSError as error:
            raise as_move_error(error, self.name, doing="list the folders") from error

    async def room(self, user: str) -> Room:
        """Its quota, if there is one, is the delivery agent's affair."""
        return Room()

    def session(self, path: Path, instance: InstanceId) -> MboxSession:
        return MboxSession(
            name=self.name,
            settings=self.settings,
            path=path,
            instance=instance,
            offload=self.make_offload(),
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
    """The mbox files at `location`, as database `name` of the directory. Nothing is looked at yet.

    Raises:
        RequestRefused: the location does not say where mbox files are.
    """
    files = MboxFiles(name=name, settings=parse(location), make_offload=make_offload, poll_s=poll_s)
    return open_mirrored(name, files, mirrors=mirrors, address_of=address_of)


if TYPE_CHECKING:
    _is_a_system: type[MailSystem] = MboxFiles
