"""What a kind of mail system does for its mirrored mailboxes: `MailSession`, and the mirror's file that each has."""

import os
import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, contextmanager
from pathlib import Path
from typing import Protocol, TypeVar

import trio

from moverq.endpoints.base import never_again
from moverq.endpoints.mirrored.folder_names import Naming
from moverq.endpoints.mirrored.intents import Merged
from moverq.endpoints.mirrored.learned import OnLook
from moverq.endpoints.mirrored.listed import Known, Listed, Wanted
from moverq.endpoints.mirrored.mirror import FolderPlace, FolderRow, Mirror
from moverq.endpoints.mirrored.paging import PageRead
from moverq.errors import MoveError
from moverq.flow.folders import sync_folder
from moverq.flow.offload import Offload
from moverq.model.change import BadItem, FolderState
from moverq.model.ids import InstanceId

T = TypeVar("T")


class Places(Protocol):
    """The folders of a mailbox, where they are: what `folder_steps` asks for. Each is repeated without harm."""

    @property
    def remarks(self) -> list[str]:
        """What the report should tell of what is otherwise there than it was wanted; who has read it empties it."""
        ...

    async def make(self, wanted: Sequence[tuple[bytes, FolderState]]) -> list[tuple[int, int] | MoveError]:
        """Each folder is there under its name, subscribed or not as it is wanted: its (UIDVALIDITY, UIDNEXT) now. Or
        why it cannot be, to raise if no other name will do. None of them is inside another."""
        ...

    async def rename(self, folder: FolderRow, wire: bytes) -> MoveError | None:
        """The folder, with all below it, has this name; or why it cannot have it."""
        ...

    async def subscribe(self, wire: bytes, wanted: bool) -> None: ...

    async def annotate(self, wire: bytes, wanted: Mapping[str, str], present: Mapping[str, str]) -> None:
        """The folder has the annotations that are wanted and not `present`; those that cannot be kept are remarked."""
        ...

    async def delete(self, folder: FolderRow) -> bool:
        """The folder is gone. False: it holds messages, so it stays."""
        ...


class MailSession(Protocol):
    """One mailbox in its mail system, in this process. Whatever it raises is a `MoveError`."""

    name: str
    """The database's."""
    instance: InstanceId
    kind: str
    """For preflight and report."""
    lock_command: Sequence[str]
    release_command: Sequence[str]
    """The fence, where there is one: see `hooks`."""
    mirror: "MirrorFile"
    refreshing: trio.Lock
    bytes_max: int
    """Of bodies held at a time."""
    can_move: bool
    """Messages can be moved between folders there, and it is told what they are called then."""
    item_bytes_max: int | None
    known_naming: Naming

    async def aclose(self) -> None: ...

    # ---- what is there

    def as_kept(self, content: bytes) -> bytes:
        """The form in which a message that is not clean (`normal_form`) is taken there."""
        ...

    def normal(self, content: bytes) -> bytes:
        """One form for all that this mail system may give back of a message: `normal_form.normal`, or its own."""
        ...

    def normal_hash(self, content: bytes) -> bytes | None:
        """The hash of the normal form; None for content that comes back byte by byte."""
        ...

    async def greet(self) -> None:
        """What the mail system can do is known."""
        ...

    async def list_folders(self, *, known: Known | None, afresh: bool) -> Sequence[Listed]:
        """Every folder with its status, and, where `known` is given and the mail system has such, its `mailbox_object`
        and annotations: those of new folders, of all when first asked, and `afresh`, for nothing tells of a change."""
        ...

    async def arm(self) -> None:
        """What happens from now on is heard by the next `wait_told`, where the mail system tells of it."""
        ...

    async def wait_told(self, *, at_most_s: float) -> None:
        """Something may have happened there, or this time is over."""
        ...

    async def look_into(self, wanted: Sequence[Wanted], *, on_look: OnLook) -> None:
        """A look each, as it comes, or its parts; a folder that went meanwhile is left out, one whose parts did not
        add up is told anew. `on_look` may wait, but not for another connection: this one is held meanwhile."""
        ...

    async def flags_not_kept(self, folder: FolderPlace) -> int:
        """The system flags that the folder says not to keep."""
        ...

    async def read(self, folder: FolderPlace, uids: Sequence[int]) -> tuple[dict[int, bytes], dict[int, str]]:
        """The bytes by UID, and of those that are there and cannot be read why. In neither: gone, or told again by
        the feed. Raises `EndpointBusy` where the folder is not what it was when it was looked into: look again."""
        ...

    async def read_page(self, after: int, *, bytes_max: int, items_max: int) -> PageRead:
        """The items behind `after`, in the mirror's order, with their bytes: `paging.read_page`, or better."""
        ...

    # ---- what is wanted there

    def places(self) -> AbstractAsyncContextManager[Places]: ...

    async def append_all(self, merged: Merged, token: int) -> tuple[BadItem, ...]:
        """Every message of an intent that is at work is there and has its place in the mirror, but for those that were
        refused. Cancelled, or an error: the intent is in doubt."""
        ...

    async def settle(self) -> None:
        """No intent is in doubt: what it would have brought was looked for, and found or not."""
        ...

    async def work_off(self) -> None:
        """Nothing is due: places, flags and expunges are there what the mirror wants."""
        ...


class MirrorFile:
    """A mailbox's mirror, opened when it is first asked, and the intents that are at work on it in this process."""

    def __init__(self, path: Path, instance: InstanceId, offload: Offload) -> None:
        self.path = path
        self.instance = instance
        self.intents: set[int] = set()
        """Of writes that are at work in this process now; any other intent is in doubt."""
        self.settling = trio.Lock()
        """Held while intents in doubt are looked for: who finds the same ones waits, and finds none. A second answer
        would come when others have been written in their place."""
        self._offload = offload
        self._mirror: Mirror | None = None

    def __repr__(self) -> str:
        return f"<MirrorFile {self.path.name} {'open' if self._mirror is not None else 'closed'}>"

    @contextmanager
    def intending(self) -> Iterator[int]:
        """The number of an intent that is at work here as long as the body runs. Chosen, and known as ours, before the
        mirror has anything of it: whoever looks for what is in doubt meanwhile leaves it alone."""
        intent = 1 + secrets.randbits(62)
        self.intents.add(intent)
        try:
            yield intent
        finally:
            self.intents.discard(intent)

    async def ask(self, question: Callable[[Mirror], T]) -> T:
        """What the mirror answers; the one way to it. Raises `NotFound` where there is none."""

        def run() -> T:
            if self._mirror is None:
                self._mirror = Mirror.open(self.path, self.instance)
            return question(self._mirror)

        return await self._offload(run)

    async def make(self, make: Callable[[Path], Mirror]) -> None:
        """The mirror is there, as `make` makes it.

        Raises:
            StaleToken, RequestRefused: it was destroyed, and is not made again.
        """

        def run() -> None:
            if self._mirror is None:
                self._mirror = make(self.path)
                if self._purged.exists():  # looked for after the file is there, and written before it goes
                    token = self._mirror.standing(removed=True).guard.token
                    self._unlink()
                    raise never_again(self.instance, token, last=int(self._purged.read_text()))

        await self._offload(run)

    async def destroy(self, token: int) -> None:
        """The mirror is gone for good, and which token saw to it is known. Durable."""

        def run() -> None:
            draft = self._purged.with_suffix(".draft")
            with draft.open("w") as file:
                file.write(str(token))
                file.flush()
                os.fsync(file.fileno())
            draft.replace(self._purged)
            sync_folder(self.path.parent)
            self._unlink()

        await self._offload(run)

    async def check_gone(self, token: int) -> None:
        """Of a mailbox that has no mirror. Raises `StaleToken` where one with a higher token purged it."""

        def run() -> None:
            if self._purged.exists() and token < (last := int(self._purged.read_text())):
                raise never_again(self.instance, token, last=last)

        await self._offload(run)

    @property
    def _purged(self) -> Path:
        """Says the last token of a mailbox that was purged, so that a mover who slept through it makes no other one."""
        return self.path.with_suffix(".purged")

    def _unlink(self) -> None:
        self._close()
        for suffix in ("", "-wal", "-shm"):
            self.path.with_name(self.path.name + suffix).unlink(missing_ok=True)

    async def aclose(self) -> None:
        await self._offload(self._close)

    def _close(self) -> None:
        if self._mirror is not None:
            self._mirror.close()
            self._mirror = None
