"""mbox files of one location as a database of the directory."""

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Final

import attrs

from moverq.endpoints.files.system import FileSystem
from moverq.endpoints.mbox.index import count
from moverq.endpoints.mbox.layout import Layout
from moverq.endpoints.mbox.session import MboxSession
from moverq.endpoints.mbox.settings import parse
from moverq.endpoints.mirrored.endpoint import AddressOf, MailSystem, MirroredEndpoint, open_mirrored
from moverq.endpoints.mirrored.listed import Listed
from moverq.endpoints.mirrored.session import MirrorFile
from moverq.flow.offload import InThread, Offload
from moverq.model.ids import InstanceId

POLL_S: Final = 5.0
"""Between two looks; a file that changed is read whole."""
COUNTED_MAX: Final = 1000
"""Messages of a folder that are counted before there is a mirror: only whether there are any matters."""


class MboxFiles(FileSystem[Layout]):
    """`MailSystem`, by mbox files."""

    def listed(self, layout: Layout) -> list[Listed]:
        if not layout.exists():
            return []
        return [attrs.evolve(one, items=_held(layout.path(one.wire))) for one in layout.listed(1)]

    def session(self, path: Path, instance: InstanceId) -> MboxSession:
        return MboxSession(
            name=self.name,
            settings=self.settings,
            mirror=MirrorFile(path, instance, self.make_offload()),
            files=self.make_offload(),
        )


def _held(path: bytes) -> int:
    try:
        return count(path, most=COUNTED_MAX)
    except FileNotFoundError:
        return 0


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
