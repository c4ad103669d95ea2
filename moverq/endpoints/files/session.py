"""One mailbox whose mail is files, in this process, whatever their format: its mirror, and the blocking work on them.

Files are worked on in threads of their own, the mirror in another. A folder that was looked at is kept as long as it is
known to be what it was.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Final, Generic, Protocol, TypeVar

import trio

from moverq.endpoints.files.errors import as_move_error
from moverq.endpoints.mirrored.folder_names import Naming
from moverq.endpoints.mirrored.mirror import FolderPlace, Mirror
from moverq.endpoints.mirrored.session import MirrorFile
from moverq.flow.offload import Offload
from moverq.model.ids import InstanceId

L = TypeVar("L")
"""Where the folders of one user are."""
L_co = TypeVar("L_co", covariant=True)
K = TypeVar("K")
"""What is kept of a folder that was looked at."""
T = TypeVar("T")

UNSETTLED_S: Final = 1.0
"""Others change a folder all the time: so long it is left alone."""


class FileSettings(Protocol[L_co]):
    """What a location says."""

    @property
    def root(self) -> str: ...

    @property
    def lock_command(self) -> tuple[str, ...]: ...

    @property
    def release_command(self) -> tuple[str, ...]: ...

    @property
    def naming(self) -> Naming: ...

    @property
    def is_one_mailbox(self) -> bool: ...

    def user_of(self, address: str) -> str: ...

    def layout_of(self, user: str) -> L_co: ...


async def at_files(files: Offload, run: Callable[[], T], *, endpoint: str, doing: str) -> T:
    """Blocking work on them. Raises: what `as_move_error` makes of an `OSError`."""
    try:
        return await files(run)
    except OSError as error:
        raise as_move_error(error, endpoint, doing=doing) from error


class FileSession(Generic[L, K]):
    """What the session of a format begins with; the rest of `MailSession` is its own."""

    kind: str

    def __init__(
        self,
        *,
        name: str,
        settings: FileSettings[L],
        mirror: MirrorFile,
        files: Offload,
        bytes_max: int = 8 << 20,
    ) -> None:
        self.name = name
        self.instance: InstanceId = mirror.instance
        self.bytes_max = bytes_max
        self.refreshing = trio.Lock()
        self.mirror = mirror
        self.lock_command: Sequence[str] = settings.lock_command
        self.release_command: Sequence[str] = settings.release_command
        self.can_move = True
        self.item_bytes_max: int | None = None
        self.validity = 1 + int.from_bytes(mirror.instance[:4], "big") % 0x7FFF_FFFE
        """Of all folders: a message's number is of one base for ever. To clients it is the UIDVALIDITY of a folder
        whose server never gave it one."""
        self.known_naming = settings.naming
        self._settings = settings
        self._files = files
        self._layout: L | None = None
        self._kept: dict[bytes, K] = {}
        """By the folder's name there."""

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name}/{self.instance.hex()[:8]}>"

    def as_kept(self, content: bytes) -> bytes:
        """A file takes any bytes; what a format needs beside, whoever writes it sees to."""
        return content

    async def aclose(self) -> None:
        self.forget_files()
        await self.mirror.aclose()

    # ---- files

    async def layout(self) -> L:
        if self._layout is None:
            user = (await self.mirror.ask(partial(Mirror.standing, removed=True))).user
            self._layout = self._settings.layout_of(user)
        return self._layout

    async def work(self, run: Callable[[], T], *, doing: str) -> T:
        """Blocking work on the files. Raises: what `as_move_error` makes of an `OSError`."""
        return await at_files(self._files, run, endpoint=self.name, doing=doing)

    def forget_files(self, wire: bytes | None = None) -> None:
        """What a folder holds may be anything; None: what any does."""
        if wire is None:
            self._kept.clear()
        else:
            self._kept.pop(wire, None)

    # ---- what is there

    async def greet(self) -> None:
        pass

    async def arm(self) -> None:
        """Nothing tells."""

    async def wait_told(self, *, at_most_s: float) -> None:
        await trio.sleep(at_most_s)

    async def flags_not_kept(self, folder: FolderPlace) -> int:
        """Every format has a letter for each flag."""
        return 0


__all__ = ["UNSETTLED_S", "FileSession", "FileSettings", "at_files"]
