"""One mailbox of one server, in this process: its mirror, its connections, and who may do what at a time.

Connections are lent: `async with session.connection()`. One in which anything went wrong, or that was cancelled half
way, is closed and not lent again; one that lay idle for long is closed before the server does it at the wrong moment.
"""

import secrets
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from pathlib import Path
from typing import Final, TypeVar

import trio

from moverq.endpoints.imap.connection import Connection
from moverq.endpoints.imap.folder_names import Naming
from moverq.endpoints.imap.listing import naming_of
from moverq.endpoints.imap.login import connect
from moverq.endpoints.imap.mirror import Mirror
from moverq.endpoints.imap.settings import Settings
from moverq.flow.offload import Offload
from moverq.model.ids import InstanceId

T = TypeVar("T")

IDLE_S: Final = 60.0
"""A connection that nobody used for so long is closed: servers drop silent ones, from five minutes on."""
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
        self.path = path
        self.instance = instance
        self.bytes_max = bytes_max
        self.refreshing = trio.Lock()
        self.known_naming = Naming()
        self.others: tuple[bytes, ...] = ()
        self.intents: set[int] = set()
        """Of writes that are at work in this process now; any other intent is in doubt."""
        self.folder_turns: dict[bytes, trio.Lock] = {}
        """Appends to one folder go one after the other, so that its messages keep their order."""
        self.can_move = False
        """Messages can be moved between folders there, and it is told what they are called then."""
        self.item_bytes_max: int | None = None
        self._greeted = False
        self._offload = offload
        self._answer_s = answer_s
        self._mirror: Mirror | None = None
        self._naming_known = False
        self._free: list[tuple[Connection, float]] = []
        self._slots = trio.Semaphore(settings.connections)

    def __repr__(self) -> str:
        return f"<ImapSession {self.name}/{self.instance.hex()[:8]} {len(self._free)} connections free>"

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

    # ---- the mirror

    async def ask(self, question: Callable[[Mirror], T]) -> T:
        """What the mirror answers; the one way to it. Raises `NotFound` where there is none."""

        def run() -> T:
            if self._mirror is None:
                self._mirror = Mirror.open(self.path, self.instance)
            return question(self._mirror)

        return await self._offload(run)

    async def make(self, make: Callable[[Path], Mirror]) -> None:
        """The mirror is there, as `make` makes it."""

        def run() -> None:
            if self._mirror is None:
                self._mirror = make(self.path)

        await self._offload(run)

    async def destroy(self) -> None:
        """The mirror is gone."""

        def run() -> None:
            if self._mirror is not None:
                self._mirror.close()
                self._mirror = None
            for suffix in ("", "-wal", "-shm"):
                self.path.with_name(self.path.name + suffix).unlink(missing_ok=True)

        await self._offload(run)

    # ---- connections

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[Connection]:
        """A connection, logged in for this mailbox's user, for one task.

        Raises: what `login.connect` raises.
        """
        async with self._slots:
            connection = await self._take()
            try:
                yield connection
            except BaseException:
                await connection.aclose()
                raise
            await self._give_back(connection)

    async def _give_back(self, connection: Connection) -> None:
        if not connection.is_idle:
            await connection.aclose()
            return
        try:
            await connection.leave()
        except BaseException:
            await connection.aclose()
            raise
        self._free.append((connection, trio.current_time()))

    async def _take(self) -> Connection:
        now = trio.current_time()
        while self._free:
            connection, since = self._free.pop()
            if now - since < IDLE_S:
                return connection
            await connection.aclose()
        user = (await self.ask(partial(Mirror.standing, removed=True))).user
        connection = await connect(self.settings, user, answer_s=self._answer_s)
        self.can_move = connection.has(b"UIDPLUS")
        for word in connection.capabilities:
            name, _, most = word.partition(b"=")
            if name == b"APPENDLIMIT" and most.isdigit():
                self.item_bytes_max = int(most)
        self._greeted = True
        return connection

    async def greet(self) -> None:
        """What the server can do is known."""
        if not self._greeted:
            async with self.connection():
                pass

    async def naming(self, connection: Connection) -> Naming:
        """How this server makes names; asked once."""
        if not self._naming_known:
            self.known_naming, self.others = await naming_of(connection)
            self._naming_known = True
        return self.known_naming

    def turn(self, folder_id: bytes) -> trio.Lock:
        return self.folder_turns.setdefault(folder_id, trio.Lock())

    async def aclose(self) -> None:
        free, self._free = self._free, []
        for connection, _ in free:
            await connection.aclose()

        def close() -> None:
            if self._mirror is not None:
                self._mirror.close()
                self._mirror = None

        await self._offload(close)
