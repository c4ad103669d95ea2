"""One mailbox of one server, in this process: its mirror, its connections, and who may do what at a time."""

from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final

import trio

from moverq.endpoints.imap import listing, writing
from moverq.endpoints.imap.appending import AppendOrder, append_all
from moverq.endpoints.imap.connection import Connection
from moverq.endpoints.imap.lending import Connections
from moverq.endpoints.imap.listing import ALL_FLAGS
from moverq.endpoints.imap.login import connect
from moverq.endpoints.imap.metadata import read_annotations
from moverq.endpoints.imap.namespaces import Namespaces, namespaces_of
from moverq.endpoints.imap.places import ImapPlaces
from moverq.endpoints.imap.reading import Reading
from moverq.endpoints.imap.seeding import PAGE_BYTES, PageAhead, read_page
from moverq.endpoints.imap.settings import Settings
from moverq.endpoints.imap.watching import Watch
from moverq.endpoints.mirrored import normal_form
from moverq.endpoints.mirrored.folder_names import Naming
from moverq.endpoints.mirrored.intents import Merged
from moverq.endpoints.mirrored.learned import OnLook
from moverq.endpoints.mirrored.listed import Known, Listed, Wanted
from moverq.endpoints.mirrored.mirror import FolderPlace, Mirror
from moverq.endpoints.mirrored.paging import PageRead
from moverq.endpoints.mirrored.session import MailSession, MirrorFile
from moverq.flow.offload import Offload
from moverq.model.change import BadItem
from moverq.model.ids import FolderId, InstanceId

ANSWER_S: Final = 120.0


class ImapSession:
    """See the module."""

    def __init__(
        self,
        *,
        name: str,
        settings: Settings,
        path: Path,
        instance: InstanceId,
        offload: Offload,
        answer_s: float = ANSWER_S,
        bytes_max: int = 8 << 20,
    ) -> None:
        self.name = name
        self.settings = settings
        self.instance = instance
        self.bytes_max = bytes_max
        self.refreshing = trio.Lock()
        self.known_naming = Naming()
        self._namespaces: Namespaces | None = None
        self.mirror = MirrorFile(path, instance, offload)
        self.kind = "imap"
        self.lock_command: Sequence[str] = settings.lock_command
        self.release_command: Sequence[str] = settings.release_command
        self.append_order = AppendOrder()
        self.taken: dict[FolderId, writing.Selected] = {}
        """Of the folders that were asked: what flags and keywords they take."""
        self.flags_refused: dict[FolderId, int] = {}
        """Of the folders that refused a message for its flags: which, and took it without."""
        self.ahead: PageAhead | None = None
        self.can_move = False
        """Messages can be moved between folders there, and it is told what they are called then."""
        self.item_bytes_max: int | None = None
        self._are_annotations_known = False
        self._watch = Watch(self)
        self._greeted = False
        self._answer_s = answer_s
        self.connections = Connections(self._greet, self._drop_ahead, at_most=settings.connections)

    def __repr__(self) -> str:
        return f"<ImapSession {self.name}/{self.instance.hex()[:8]} {self.connections!r}>"

    # ---- what is there, and what is wanted there

    normal = staticmethod(normal_form.normal)
    normal_hash = staticmethod(normal_form.normal_hash)

    def as_kept(self, content: bytes) -> bytes:
        return normal_form.as_sent(content)

    async def list_folders(self, *, known: Known | None, afresh: bool) -> list[Listed]:
        async with self.connection() as connection:
            listed = await listing.list_folders(connection, await self.namespaces(connection), known=known)
            if known is not None:
                due = afresh or not self._are_annotations_known
                asked = [one for one in listed if one.selectable and (due or one.wire not in known)]
                found = await read_annotations(connection, [one.wire for one in asked])
                for one in asked:
                    one.annotations = found.get(one.wire, {})
                self._are_annotations_known = True
            return listed

    async def arm(self) -> None:
        await self._watch.arm()

    async def wait_told(self, *, at_most_s: float) -> None:
        await self._watch.wait(at_most_s=at_most_s)

    async def look_into(self, wanted: Sequence[Wanted], *, on_look: OnLook) -> None:
        if wanted:
            async with self.connection() as connection:
                await listing.look_into(connection, wanted, on_look=on_look)

    async def flags_not_kept(self, folder: FolderPlace) -> int:
        async with self.connection() as connection:
            selected = await writing.select(connection, folder.wire)
        return ALL_FLAGS & ~selected.flags if selected.validity == folder.server_validity else 0

    async def read(self, folder: FolderPlace, uids: Sequence[int]) -> tuple[dict[int, bytes], dict[int, str]]:
        async with self.connection() as connection:
            reading = Reading(connection, uids, validity=folder.server_validity)
            await reading.begin(folder.wire)
            return await reading.end(), reading.missing

    async def read_page(self, after: int, *, bytes_max: int, items_max: int) -> PageRead:
        return await read_page(self, after, bytes_max=min(bytes_max, PAGE_BYTES), items_max=items_max)

    @asynccontextmanager
    async def places(self) -> AsyncIterator[ImapPlaces]:
        async with self.connection() as connection:
            await self.namespaces(connection)
            yield ImapPlaces(connection)

    async def append_all(self, merged: Merged, token: int) -> tuple[BadItem, ...]:
        return await append_all(self, merged, token)

    async def settle(self) -> None:
        async with self.mirror.settling:
            await writing.settle(self)

    async def work_off(self) -> None:
        await writing.work_off(self)

    # ---- connections

    def connection(self) -> AbstractAsyncContextManager[Connection]:
        """A connection, logged in for this mailbox's user, for one task.

        Raises: what `login.connect` raises.
        """
        return self.connections.lend()

    async def _greet(self) -> Connection:
        connection = await self.connect()
        self.can_move = connection.has(b"UIDPLUS")
        for word in connection.capabilities:
            name, _, most = word.partition(b"=")
            if name == b"APPENDLIMIT" and most.isdigit():
                self.item_bytes_max = int(most)
        self._greeted = True
        return connection

    async def _drop_ahead(self) -> None:
        ahead, self.ahead = self.ahead, None
        if ahead is not None:
            await ahead.holding.aclose()

    async def connect(self) -> Connection:
        """One beside those that are lent, the caller's to close. Raises: what `login.connect` raises."""
        user = (await self.mirror.ask(partial(Mirror.standing, removed=True))).user
        return await connect(self.settings, user, answer_s=self._answer_s)

    async def greet(self) -> None:
        """What the server can do is known."""
        if not self._greeted:
            async with self.connection():
                pass

    async def namespaces(self, connection: Connection) -> Namespaces:
        """How this server makes names, and whose they are; asked once."""
        if self._namespaces is None:
            self._namespaces = await namespaces_of(connection)
            self.known_naming = self._namespaces.naming
        return self._namespaces

    async def aclose(self) -> None:
        await self._watch.aclose()
        await self._drop_ahead()
        await self.connections.aclose()
        await self.mirror.aclose()


if TYPE_CHECKING:
    _is_a_session: type[MailSession] = ImapSession
